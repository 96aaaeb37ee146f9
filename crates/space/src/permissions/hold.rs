//! Areas with changed pages: they cannot be freed, resized or moved, so that no frame goes to somebody else who would find it read-only or
//! gone in the direct map.

use super::place::{Ground, Target};
use super::{Change, Permissions, Problem};
use crate::vmalloc::{AreaInfo, Kernel, Vmalloc};

impl<'v, 'a, K: Kernel, const CPUS: usize> Permissions<'v, 'a, K, CPUS> {
    /// Does `body` with the target's area, if it is in one, which nobody can free meanwhile, nor afterwards as long as anything of it is
    /// changed, in whichever place.
    pub(super) fn holding<R>(
        &self,
        target: &Target,
        body: impl FnOnce() -> Result<R, Problem>,
    ) -> Result<R, Problem> {
        let Some((areas, area)) = self.area_of(target) else {
            return body();
        };
        let start = area.range.start();
        if !areas.mark_changed(start, true) {
            let page = target.range.start();
            let area = areas.find(page);
            return Err(Problem::NotInUse { page, area });
        }
        let done = body();
        if !self.is_changed(&area) {
            areas.mark_changed(start, false);
        }
        done
    }

    /// Refuses what user mode would not know of: it may have the frames of such an area writable, and with the area's memory type.
    pub(super) fn refuse_for_users(&self, target: &Target, change: Change) -> Result<(), Problem> {
        match self.area_of(target) {
            Some((_, area))
                if area.user && (change == Change::Executable || change.cache().is_some()) =>
            {
                Err(Problem::ForUsers(area.range))
            }
            _ => Ok(()),
        }
    }

    fn area_of(&self, target: &Target) -> Option<(&'v Vmalloc<'a, K, CPUS>, AreaInfo)> {
        let Ground::Area(_) = target.ground else {
            return None;
        };
        let page = target.range.start();
        let mut areas = self.areas.iter();
        let areas = *areas.find(|areas| areas.area().contains(page))?;
        Some((areas, areas.find(page)?))
    }

    /// Whether anything is known of the pages of an area, or of the other places of their frames.
    fn is_changed(&self, area: &AreaInfo) -> bool {
        let own = self.next_changed(area.range.start());
        if own.is_some_and(|changed| changed.range.start() <= area.range.last()) {
            return true;
        }
        let whole = Target {
            range: area.range,
            ground: Ground::Area(area.kind),
        };
        let mut known = false;
        let looked = self.each_spot(&whole, &mut |spot| {
            self.each_segment(spot.range, &mut |segment| {
                known |= segment.known;
                Ok(())
            })
        });
        known || looked.is_err()
    }
}
