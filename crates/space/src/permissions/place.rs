//! Where a change takes effect: what may be changed, and the other places of the same frames.

use kspace_layout::{AreaKind, FRAME_SIZE, PhysAddr, PhysRange, SectionKind, VirtAddr, VirtRange};
use kspace_paging::Page;

use super::{Change, Permissions, Problem};
use crate::vmalloc::{Kernel, Kind, State};

/// What was asked for is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// The direct map.
    Direct,
    /// The kernel image's own addresses.
    Image,
    /// An area of this kind.
    Area(Kind),
}

/// Pages that may be changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) range: VirtRange,
    pub(super) ground: Ground,
}

/// One place of some frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) range: VirtRange,
    pub(super) role: Role,
}

/// Which of the places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The one that was asked for.
    Own,
    /// Another one, of frames that are executable in the first, or not.
    Other {
        /// They are.
        executable: bool,
        /// The first place is in an area.
        area: bool,
    },
}

/// Consecutive pages of consecutive frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    virt: VirtRange,
    pub(super) phys: PhysRange,
    executable: bool,
}

/// A page that is mapped, present or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) page: Page,
    pub(super) hidden: bool,
}

/// Takes one after the other; the first problem ends it.
pub(super) type Visit<'f, T> = &'f mut dyn FnMut(T) -> Result<(), Problem>;

impl<K: Kernel, const CPUS: usize> Permissions<'_, '_, K, CPUS> {
    /// What the range is in, if that may be changed.
    pub(super) fn target(&self, range: VirtRange) -> Result<Target, Problem> {
        let place = self.layout.find(range.start());
        let kind = match place {
            kspace_layout::Place::Area { area, .. } => Some(area.kind()),
            _ => None,
        };
        let within = |whole: VirtRange, ground| {
            if whole.contains_range(range) {
                Ok(Target { range, ground })
            } else {
                Err(Problem::Beyond(whole))
            }
        };
        if let Some(areas) = self
            .areas
            .iter()
            .find(|areas| areas.area().contains(range.start()))
        {
            let page = range.start();
            let area = areas.find(page);
            let live = area.filter(|area| area.state == State::Live && area.range.contains(page));
            let area = live.ok_or(Problem::NotInUse { page, area })?;
            if area.kind == Kind::Executable {
                return Err(Problem::Code(area.range));
            }
            return within(area.range, Ground::Area(area.kind));
        }
        match (kind, self.layout.image()) {
            (Some(AreaKind::DirectMap), _) => match self.layout.area(AreaKind::DirectMap) {
                Some(area) => within(area.range(), Ground::Direct),
                None => Err(Problem::Elsewhere(place)),
            },
            (Some(AreaKind::KernelImage), Some(image)) if image.virt().contains(range.start()) => {
                // The last section may end inside a page.
                let last = VirtAddr::new(image.virt().last().as_u64() | (FRAME_SIZE - 1));
                let whole = VirtRange::try_from_bounds(image.virt().start(), last);
                within(whole.unwrap_or(image.virt()), Ground::Image)
            }
            _ => Err(Problem::Elsewhere(place)),
        }
    }

    /// Refuses what a change may not do to these very pages, whatever the tables say.
    pub(super) fn refuse(&self, target: &Target, change: Change) -> Result<(), Problem> {
        if change == Change::Executable && target.ground == Ground::Direct {
            return Err(Problem::DirectMap);
        }
        if change.cache().is_some() {
            self.refuse_devices(target)?;
        }
        let spares_image = matches!(
            change,
            Change::ReadOnly | Change::Executable | Change::NotExecutable | Change::Present
        );
        if spares_image || target.ground == Ground::Area(Kind::Device) {
            return Ok(());
        }
        self.each_run(target.range, &mut |run| {
            for kind in [SectionKind::Text, SectionKind::Rodata] {
                let pages = self.section_pages(kind);
                if let Some(common) = pages.and_then(|pages| pages.intersection(run.phys)) {
                    let offset = common.start().as_u64() - run.phys.start().as_u64();
                    let page = run.virt.start().checked_add(offset);
                    return Err(Problem::Image {
                        section: kind,
                        page: page.unwrap_or(run.virt.start()),
                    });
                }
            }
            Ok(())
        })
    }

    /// Refuses frames that are not in the direct map: they are no RAM.
    fn refuse_devices(&self, target: &Target) -> Result<(), Problem> {
        if target.ground == Ground::Area(Kind::Device) {
            return Err(Problem::Device(target.range));
        }
        self.each_run(target.range, &mut |run| {
            let places = [run.phys.start(), run.phys.last()].map(|phys| {
                let page = PhysRange::try_new(phys, 1).ok();
                let place = page.and_then(|page| self.direct_of(page));
                place.and_then(|place| self.found(place.start()))
            });
            match places {
                [Some(_), Some(_)] => Ok(()),
                _ => Err(Problem::Device(run.virt)),
            }
        })
    }

    /// The frames of a section of the image.
    fn section_pages(&self, kind: SectionKind) -> Option<PhysRange> {
        let image = self.layout.image()?;
        let range = image.section(kind)?;
        let start = image.virt_to_phys(range.start())?;
        cut_pages(PhysRange::try_new(start, range.size()).ok()?)
    }

    /// The direct map's addresses of frames, whether they are mapped there or not.
    fn direct_of(&self, phys: PhysRange) -> Option<VirtRange> {
        let area = self.layout.area(AreaKind::DirectMap)?.range();
        let start = area.start().checked_add(phys.start().as_u64()).ok()?;
        let range = VirtRange::try_new(start, phys.size()).ok()?;
        area.contains_range(range).then_some(range)
    }

    /// Calls `visit` for every place of the target's frames: first the target itself, then the others.
    pub(super) fn each_spot(&self, target: &Target, visit: Visit<'_, Spot>) -> Result<(), Problem> {
        visit(Spot {
            range: target.range,
            role: Role::Own,
        })?;
        if target.ground == Ground::Area(Kind::Device) {
            return Ok(());
        }
        self.each_run(target.range, &mut |run| {
            let role = Role::Other {
                executable: run.executable,
                area: matches!(target.ground, Ground::Area(_)),
            };
            if target.ground != Ground::Direct
                && let Some(range) = self.direct_of(run.phys)
            {
                self.each_mapped(range, &mut |range| visit(Spot { range, role }))?;
            }
            if target.ground != Ground::Image
                && let Some(range) = self.image_of(run.phys)
            {
                self.each_mapped(range, &mut |range| visit(Spot { range, role }))?;
            }
            Ok(())
        })
    }

    /// The image's own addresses of frames that it has, when these are not in the direct map.
    fn image_of(&self, phys: PhysRange) -> Option<VirtRange> {
        let image = self.layout.image()?;
        let area = self.layout.area(AreaKind::KernelImage)?;
        let common = cut_pages(image.phys())?.intersection(phys)?;
        let start = image.phys_to_virt(common.start())?;
        let range = VirtRange::try_new(start, common.size()).ok()?;
        area.range().contains_range(range).then_some(range)
    }

    /// Calls `visit` for the frames of `range`, in order.
    pub(super) fn each_run(&self, range: VirtRange, visit: Visit<'_, Run>) -> Result<(), Problem> {
        let mut run: Option<Run> = None;
        self.each_leaf(range, &mut |(virt, found)| {
            let found = found.ok_or(Problem::NotMapped(virt.start()))?;
            let Ok(phys) = PhysRange::try_new(found.page.phys, virt.size()) else {
                return Err(Problem::NotMapped(virt.start()));
            };
            let executable = self.access_of(&found).1;
            if let Some(run) = &mut run
                && run.executable == executable
                && run.phys.end_u64() == phys.start().as_u64()
                && let Ok(longer) = VirtRange::try_from_bounds(run.virt.start(), virt.last())
                && let Ok(more) = PhysRange::try_from_bounds(run.phys.start(), phys.last())
            {
                (run.virt, run.phys) = (longer, more);
                return Ok(());
            }
            let next = Run {
                virt,
                phys,
                executable,
            };
            run.replace(next).map_or(Ok(()), &mut *visit)
        })?;
        run.map_or(Ok(()), visit)
    }

    /// Calls `visit` for the parts of `range` that are mapped, present or not.
    fn each_mapped(&self, range: VirtRange, visit: Visit<'_, VirtRange>) -> Result<(), Problem> {
        let mut part: Option<VirtRange> = None;
        self.each_leaf(range, &mut |(virt, found)| {
            if found.is_none() {
                return part.take().map_or(Ok(()), &mut *visit);
            }
            let start = part.map_or(virt.start(), VirtRange::start);
            part = VirtRange::try_from_bounds(start, virt.last()).ok();
            Ok(())
        })?;
        part.map_or(Ok(()), visit)
    }

    /// Calls `visit` for the parts of `range` that single entries map, or 4 KiB at a time where nothing does.
    pub(super) fn each_leaf(
        &self,
        range: VirtRange,
        visit: Visit<'_, (VirtRange, Option<Found>)>,
    ) -> Result<(), Problem> {
        let mut rest = Some(range);
        while let Some(now) = rest {
            let found = self.found(now.start());
            let size = found.map_or(FRAME_SIZE, |found| found.page.size.bytes());
            // The last byte of a page is an address of the same half.
            let last = VirtAddr::new(now.start().as_u64() | (size - 1)).min(now.last());
            let Ok(part) = VirtRange::try_from_bounds(now.start(), last) else {
                return Err(Problem::Wraps);
            };
            visit((part, found))?;
            let next = last.checked_add(1).ok().filter(|next| *next <= now.last());
            rest = next.and_then(|next| VirtRange::try_from_bounds(next, now.last()).ok());
        }
        Ok(())
    }

    /// The page at an address.
    pub(super) fn found(&self, address: VirtAddr) -> Option<Found> {
        let walk = self.walker().walk(address);
        let shown = walk.page().map(|page| (page, false));
        let (page, hidden) = shown.or_else(|| walk.hidden().map(|page| (page, true)))?;
        Some(Found { page, hidden })
    }

    /// Whether a page allows writes, and execution; where that cannot be forbidden, it does not count.
    pub(super) fn access_of(&self, found: &Found) -> (bool, bool) {
        let decides = self.tables.limits().no_execute()
            && self.tables.mode() != kspace_layout::PagingMode::TwoLevel;
        let attributes = found.page.attributes;
        (attributes.write, attributes.execute && decides)
    }
}

/// All pages that a range has a part of.
fn cut_pages(range: PhysRange) -> Option<PhysRange> {
    let start = range.start().align_down(FRAME_SIZE);
    // The last byte of a page that has a physical address is one, too.
    let last = PhysAddr::new(range.last().as_u64() | (FRAME_SIZE - 1));
    PhysRange::try_from_bounds(start, last).ok()
}
