//! Areas that are mapped on demand: what those who made them say, held against the tables.
//!
//! ```text
//!   |--- area ---|G|        nothing        |-- area --|G|   nothing
//!    every page mapped, for the kernel only, executable only where it holds code; its own frames are RAM
//! ```

use core::fmt;

use kspace_layout::{PhysRange, VirtAddr, VirtRange};
use kspace_paging::{Access, EntryRead, Protection, Run, Walker};

use super::compare::{Tally, can_forbid_execution, next_run};
use super::{Aspect, Check, Claims, Difference, Expected, Whereabouts};
use crate::vmalloc::{AreaInfo, Kernel, Kind, State, Vmalloc};

/// Whoever knows which areas there are.
pub trait OnDemand: fmt::Debug {
    /// The first live area that begins at or after `from`.
    fn next_live(&self, from: VirtAddr) -> Option<AreaInfo>;
}

impl<K: Kernel, const CPUS: usize> OnDemand for Vmalloc<'_, K, CPUS> {
    fn next_live(&self, from: VirtAddr) -> Option<AreaInfo> {
        let mut next = self.next(from)?;
        // A freed one has no page any more.
        while next.state != State::Live {
            next = self.next(next.range.last().checked_add(1).ok()?)?;
        }
        Some(next)
    }
}

impl<M: EntryRead + ?Sized> Check<'_, '_, M> {
    /// Holds all of `range` against the areas.
    pub(super) fn on_demand(
        &mut self,
        range: VirtRange,
        areas: &dyn OnDemand,
    ) -> Result<(), Difference> {
        let mut from = Some(range.start());
        while let Some(start) = from.filter(|from| *from <= range.last()) {
            let area = areas
                .next_live(start)
                .filter(|area| range.contains_range(area.range));
            let end = area.map_or(range.end_u64(), |area| area.range.start().as_u64());
            // The addresses before it, or all that are left.
            if let Ok(gap) = VirtRange::try_new(start, end.wrapping_sub(start.as_u64())) {
                self.nothing(gap)?;
            }
            let Some(area) = area else { break };
            let tally = live_area(&self.walker, &self.claims, &area)?;
            self.count(tally);
            from = area.range.last().checked_add(1).ok();
        }
        Ok(())
    }
}

/// Checks that every page of a live area is mapped as its kind says.
fn live_area<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    claims: &Claims<'_>,
    area: &AreaInfo,
) -> Result<Tally, Difference> {
    let mut runs = walker.runs(area.range);
    let mut tally = Tally::default();
    let mut next = area.range.start().as_u64();
    while let Some(run) = next_run(&mut runs, claims, &mut tally)? {
        next = after_hidden(claims, next);
        if run.virt.start().as_u64() != next {
            break;
        }
        if let Some(aspect) = differing(&run, area, claims) {
            return Err(Difference::Wrong {
                place: Whereabouts::of(claims.layout, run.virt.start()),
                aspect,
                expected: expected(run.virt),
                found: run,
            });
        }
        next = run.virt.end_u64();
    }
    let missing = VirtAddr::try_new(after_hidden(claims, next))
        .ok()
        .filter(|next| area.range.contains(*next));
    match missing.and_then(|next| VirtRange::try_from_bounds(next, area.range.last()).ok()) {
        Some(rest) => Err(Difference::Missing {
            place: Whereabouts::of(claims.layout, rest.start()),
            expected: expected(rest),
        }),
        None => Ok(tally),
    }
}

/// The first address from `next` on whose page was not made non-present on purpose.
fn after_hidden(claims: &Claims<'_>, next: u64) -> u64 {
    let mut next = next;
    while let Ok(address) = VirtAddr::try_new(next)
        && let Some(changed) = claims
            .changes
            .and_then(|changes| changes.next_changed(address))
        && changed.range.contains(address)
        && !changed.present
    {
        next = changed.range.end_u64();
    }
    next
}

/// In what pages are not as pages of such an area must be.
fn differing(run: &Run, area: &AreaInfo, claims: &Claims<'_>) -> Option<Aspect> {
    let changed = claims
        .changes
        .and_then(|changes| changes.next_changed(run.virt.start()))
        .is_some_and(|changed| {
            changed.access == Access::ReadExecute && changed.range.contains_range(run.virt)
        });
    let code = area.kind == Kind::Executable || changed || !can_forbid_execution(claims);
    if run.attributes.user || (run.attributes.execute && !code) {
        return Some(Aspect::Rights);
    }
    let frames = PhysRange::try_new(run.phys, run.virt.size());
    let on_ram = frames.is_ok_and(|frames| claims.map.is_ram(frames));
    (area.kind.owns_frames() && !on_ram).then_some(Aspect::NotRam)
}

/// What most areas have, to be shown beside what there is.
fn expected(virt: VirtRange) -> Expected {
    Expected {
        virt,
        phys: None,
        page: None,
        protection: Protection::KERNEL_DATA,
    }
}
