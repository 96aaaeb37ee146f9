//! Code that is made in areas of its own ([`Code`](crate::areas::Code)): the other places of its frames become read-only before it is
//! executable, for a whole batch with one flush, and writable again only after it is code no more.

use kspace_layout::VirtRange;
use kspace_paging::{Access, Adjustment, Flush};

use super::books::Record;
use super::carry_out::EXECUTABLE;
use super::place::{Ground, Role, Spot, Target};
use super::{Permissions, Problem};
use crate::held_frames::HeldFrames;
use crate::vmalloc::caller::Caller;
use crate::vmalloc::{Kernel, Kind};

impl<'a, K: Kernel, const CPUS: usize> Permissions<'_, 'a, K, CPUS> {
    /// Makes all places read-only but `range`, an area that is not executable yet, or none. Who calls has the turn, and flushes `token`.
    pub(crate) fn guard_code(
        &self,
        range: VirtRange,
        by: Caller,
        token: &mut Flush,
    ) -> Result<(), Problem> {
        let target = code(range);
        let read_only = |_: &Record| Some(Adjustment::ReadOnly);
        let held = self.set_aside(&target, &read_only)?;
        let editor = held.editor(&self.tables);
        self.each_other(&target, &mut |spot| {
            self.write_down(spot, &EXECUTABLE, by)?;
            let one = editor.adjust(spot.range, Adjustment::ReadOnly)?;
            token.absorb(one, self.tables.memory());
            Ok(())
        })
    }

    /// Gives the other places of `range`, which is not executable any more on any CPU, the right to write back, where no other area has
    /// their frames as code. Who calls has the turn.
    pub(crate) fn release_code(&self, range: VirtRange) -> Result<(), Problem> {
        let target = code(range);
        let writable = |record: &Record| {
            let was_taken = record.was == Access::ReadWrite && record.now == Access::ReadOnly;
            (record.code == 1 && was_taken).then_some(Adjustment::Writable)
        };
        let held = self.set_aside(&target, &writable)?;
        self.adjust_all(&held, &mut |adjust| {
            self.each_other(&target, &mut |spot| {
                self.each_segment(spot.range, &mut |segment| match writable(&segment.record) {
                    Some(adjustment) => adjust(segment.range, adjustment),
                    None => Ok(()),
                })
            })
        });
        drop(held);
        self.each_other(&target, &mut |spot| {
            self.each_segment(spot.range, &mut |segment| {
                let mut record = segment.record;
                if writable(&record).is_some() {
                    record.now = Access::ReadWrite;
                }
                record.uncount_code();
                self.with_books(|books| books.write(segment.range, &record));
                Ok(())
            })?;
            self.merge(spot.range);
            Ok(())
        })?;
        self.with_books(|books| books.trim());
        Ok(())
    }

    /// What it takes to adjust the other places so: tables, and room in the books.
    fn set_aside(
        &self,
        target: &Target,
        adjustment: &dyn Fn(&Record) -> Option<Adjustment>,
    ) -> Result<HeldFrames<'a, K::Memory, K::Frames>, Problem> {
        let (mut needed, mut segments, mut spots) = (0, 0, 0);
        self.each_other(target, &mut |spot| {
            spots += 1;
            self.each_segment(spot.range, &mut |segment| {
                segments += 1;
                if let Some(adjustment) = adjustment(&segment.record) {
                    needed += self.tables.tables_to_adjust(segment.range, adjustment)? as u64;
                }
                Ok(())
            })
        })?;
        let held = HeldFrames::take(self.tables.memory(), self.tables.frames(), needed)
            .map_err(|had| Problem::NoFrames { needed, had })?;
        self.with_books(|books| books.reserve(segments, 2 * spots))?;
        Ok(held)
    }

    fn each_other(
        &self,
        target: &Target,
        visit: &mut dyn FnMut(Spot) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.each_spot(target, &mut |spot| match spot.role {
            Role::Own => Ok(()),
            Role::Other { .. } => visit(spot),
        })
    }
}

const fn code(range: VirtRange) -> Target {
    Target {
        range,
        ground: Ground::Area(Kind::Executable),
    }
}
