//! How a change is made: what in which place, in which order, with which flushes; and the way back to large pages.

use kspace_layout::{FRAME_SIZE, PhysRange, VirtAddr, VirtRange};
use kspace_paging::{Adjustment, CacheType, Flush};

use super::place::{Ground, Role, Spot, Target};
use super::{Change, Permissions, Problem};
use crate::cache_types::is_cached;
use crate::held_frames::HeldFrames;
use crate::platform::{CacheLines, Interrupts};
use crate::vmalloc::caller::Caller;
use crate::vmalloc::{AreaInfo, Kernel, Kind, State, Tables};

/// What happens between two flushes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    /// To the place that was asked for.
    pub(super) own: Option<Adjustment>,
    /// To the other places of its frames.
    pub(super) other: Option<Adjustment>,
}

impl Phase {
    const fn everywhere(adjustment: Adjustment) -> Self {
        Self {
            own: Some(adjustment),
            other: Some(adjustment),
        }
    }

    const fn own(adjustment: Adjustment) -> Self {
        Self {
            own: Some(adjustment),
            other: None,
        }
    }

    const fn other(adjustment: Adjustment) -> Self {
        Self {
            own: None,
            other: Some(adjustment),
        }
    }

    /// What happens to a place.
    pub(super) const fn of(&self, role: Role) -> Option<Adjustment> {
        match role {
            Role::Own => self.own,
            Role::Other { .. } => self.other,
        }
    }
}

/// The manual's order for a memory type: gone, flushed, there again with the new one.
const fn retyped(cache: CacheType) -> [Phase; 3] {
    [
        Phase::everywhere(Adjustment::Hidden),
        Phase::everywhere(Adjustment::Cache(cache)),
        Phase::everywhere(Adjustment::Shown),
    ]
}

static READ_ONLY: [Phase; 1] = [Phase::everywhere(Adjustment::ReadOnly)];
static WRITABLE: [Phase; 1] = [Phase::everywhere(Adjustment::Writable)];
pub(super) static EXECUTABLE: [Phase; 2] = [
    Phase::other(Adjustment::ReadOnly),
    Phase::own(Adjustment::Executable),
];
static NOT_EXECUTABLE: [Phase; 1] = [Phase::own(Adjustment::NotExecutable)];
static UNCACHED: [Phase; 3] = retyped(CacheType::UncachedMinus);
static WRITE_COMBINING: [Phase; 3] = retyped(CacheType::WriteCombining);
static WRITE_BACK: [Phase; 3] = retyped(CacheType::WriteBack);
static NON_PRESENT: [Phase; 1] = [Phase::everywhere(Adjustment::Hidden)];
static PRESENT: [Phase; 1] = [Phase::everywhere(Adjustment::Shown)];

const fn phases(change: Change) -> &'static [Phase] {
    match change {
        Change::ReadOnly => &READ_ONLY,
        Change::Writable => &WRITABLE,
        Change::Executable => &EXECUTABLE,
        Change::NotExecutable => &NOT_EXECUTABLE,
        Change::Uncached => &UNCACHED,
        Change::WriteCombining => &WRITE_COMBINING,
        Change::WriteBack => &WRITE_BACK,
        Change::NonPresent => &NON_PRESENT,
        Change::Present => &PRESENT,
    }
}

/// What a change takes.
#[derive(Clone, Copy, Debug, Default)]
struct Needs {
    tables: u64,
    segments: u64,
    splits: u64,
    /// Ranges of frames whose type is written down.
    typed: u64,
    /// Some pages have another memory type.
    retypes: bool,
    /// Some of these were cached, and will not be.
    empties_caches: bool,
}

/// Makes one adjustment.
pub(super) type Adjust<'f> = dyn FnMut(VirtRange, Adjustment) -> Result<(), Problem> + 'f;

/// Tokens that are kept apart until a flush; it stands on a kernel's stack.
const TOKENS: usize = 4;

/// What all CPUs must forget before the next phase: some tokens one by one, so that what is flushed is what was changed.
struct Owed {
    tokens: [Option<Flush>; TOKENS],
    count: usize,
}

impl Owed {
    const fn nothing() -> Self {
        Self {
            tokens: [const { None }; TOKENS],
            count: 0,
        }
    }

    fn add<K: Kernel>(&mut self, token: Flush, tables: &Tables<'_, K>) {
        if token.invalidation().is_none() {
            return;
        }
        let last = self.tokens.len() - 1;
        match self.tokens.get_mut(self.count) {
            Some(free) => {
                *free = Some(token);
                self.count += 1;
            }
            None => {
                if let Some(one) = &mut self.tokens[last] {
                    one.absorb(token, tables.memory());
                }
            }
        }
    }
}

impl<'a, K: Kernel, const CPUS: usize> Permissions<'_, 'a, K, CPUS> {
    fn flush(&self, owed: &mut Owed) {
        let asked = owed.tokens.iter().flatten();
        let asked = asked.filter_map(|token| token.invalidation().copied());
        self.shootdown.invalidate_all(asked);
        for token in owed.tokens.iter_mut().filter_map(Option::take) {
            // SAFETY: all that any of them names was flushed just now.
            unsafe { token.discharged(self.tables.memory(), self.tables.frames()) };
        }
    }

    /// Makes the adjustments of one phase, with tables that were set aside, and flushes.
    pub(super) fn adjust_all(
        &self,
        held: &HeldFrames<'a, K::Memory, K::Frames>,
        each: &mut dyn FnMut(&mut Adjust<'_>) -> Result<(), Problem>,
    ) {
        let editor = held.editor(&self.tables);
        let mut owed = Owed::nothing();
        let done = each(&mut |range, adjustment| {
            owed.add::<K>(editor.adjust(range, adjustment)?, &self.tables);
            Ok(())
        });
        if let Err(problem) = done {
            panic!("tables were changed by somebody else while their turn was held: {problem:?}");
        }
        self.flush(&mut owed);
    }

    /// Large pages that are uniform again become large again, where they have addresses of `range`.
    pub(super) fn merge(&self, range: VirtRange) {
        let mut rest = Some(range);
        while let Some(now) = rest {
            let Some((whole, size)) = self.with_books(|books| books.next_split(now)) else {
                return;
            };
            if let Ok(token) = self.tables.merge(whole, size)
                && token.invalidation().is_some()
            {
                token.flush(self.shootdown, self.tables.memory(), self.tables.frames());
            }
            let found = self.found(whole.start());
            if found.is_some_and(|found| found.page.size >= size) {
                self.with_books(|books| books.forget_split(whole));
            }
            let next = whole.last().checked_add(1).ok();
            rest = next
                .filter(|next| *next <= now.last())
                .and_then(|next| VirtRange::try_from_bounds(next, now.last()).ok());
        }
    }

    /// Refuses to make frames writable that are executable in some area.
    fn refuse_code(&self, spot: Spot) -> Result<(), Problem> {
        self.each_segment(spot.range, &mut |segment| {
            let page = segment.range.start();
            if segment.record.code > 0 {
                Err(Problem::WriteExecute { page })
            } else {
                Ok(())
            }
        })
    }

    /// Refuses to make frames executable that another page of an area can write to, and to give frames another memory type that another page
    /// maps. Areas have frames that somebody else has only when they were given; the target's may be another area's, unless they are its
    /// own.
    fn refuse_other_areas(&self, target: &Target, change: Change) -> Result<(), Problem> {
        let own = matches!(target.ground, Ground::Area(kind) if kind.owns_frames());
        for area in self.areas.iter().flat_map(|areas| areas.areas()) {
            let may_share = matches!(area.kind, Kind::Frames | Kind::ShortLived) || !own;
            if area.state == State::Live && may_share {
                for part in outside(area.range, target.range).into_iter().flatten() {
                    self.refuse_area(target, change, &area, part)?;
                }
            }
        }
        Ok(())
    }

    /// The same for a part of one area.
    fn refuse_area(
        &self,
        target: &Target,
        change: Change,
        area: &AreaInfo,
        part: VirtRange,
    ) -> Result<(), Problem> {
        // With interrupts off no table is taken from under the walk: this CPU answers no flush.
        let _off = self.shootdown.platform().interrupts_off();
        let needs_all = change != Change::Executable || area.user;
        let runs = self.walker().runs(part).flatten();
        for run in runs.filter(|run| needs_all || run.attributes.write) {
            let Ok(phys) = PhysRange::try_new(run.phys, run.virt.size()) else {
                continue;
            };
            let page = run.virt.start();
            self.each_run(
                target.range,
                &mut |own| match (own.phys.overlaps(phys), change) {
                    (false, _) => Ok(()),
                    (true, Change::Executable) => Err(Problem::WriteExecute { page }),
                    (true, _) => Err(Problem::ByArea(page)),
                },
            )?;
        }
        Ok(())
    }
}

/// The parts of `whole` before and behind `range`.
fn outside(whole: VirtRange, range: VirtRange) -> [Option<VirtRange>; 2] {
    if !whole.overlaps(range) {
        return [Some(whole), None];
    }
    let before = range.start().as_u64().checked_sub(1).map(VirtAddr::try_new);
    let before = before.and_then(Result::ok);
    let before = before.and_then(|last| VirtRange::try_from_bounds(whole.start(), last).ok());
    let behind = range.last().checked_add(1).ok();
    let behind = behind.and_then(|start| VirtRange::try_from_bounds(start, whole.last()).ok());
    [before, behind]
}

impl<K: Kernel, const CPUS: usize> Permissions<'_, '_, K, CPUS>
where
    K::Platform: CacheLines,
{
    /// Changes all places of `range`, or nothing. The caller has the turn.
    pub(super) fn change(
        &self,
        range: VirtRange,
        change: Change,
        by: Caller,
    ) -> Result<(), Problem> {
        let target = self.target(range)?;
        self.holding(&target, || self.change_held(target, change, by))
    }

    /// The same for a target that nobody frees.
    fn change_held(&self, target: Target, change: Change, by: Caller) -> Result<(), Problem> {
        self.refuse(&target, change)?;
        self.refuse_for_users(&target, change)?;
        let phases = phases(change);
        let needs = self.survey(&target, change, phases)?;
        if change.cache().is_some() && !needs.retypes {
            return Ok(());
        }
        if change == Change::Executable || change.cache().is_some() {
            self.refuse_other_areas(&target, change)?;
            // One that was freed lately may still be known to a CPU.
            for areas in self.areas {
                areas.purge();
            }
        }
        let held = HeldFrames::take(self.tables.memory(), self.tables.frames(), needs.tables)
            .map_err(|had| Problem::NoFrames {
                needed: needs.tables,
                had,
            })?;
        let reserved = self.with_books(|books| books.reserve(needs.segments, needs.splits));
        let reserved = reserved.and_then(|()| self.retype(&target, change, needs.typed));
        if let Err(problem) = reserved {
            self.with_books(|books| books.trim());
            return Err(problem);
        }
        // From here on nothing fails.
        self.each_spot(&target, &mut |spot| self.write_down(spot, phases, by))?;
        for phase in phases {
            self.adjust_all(&held, &mut |adjust| {
                self.each_spot(&target, &mut |spot| match phase.of(spot.role) {
                    Some(adjustment) => adjust(spot.range, adjustment),
                    None => Ok(()),
                })
            });
        }
        if needs.empties_caches {
            self.empty_caches(&target)?;
        }
        drop(held);
        self.each_spot(&target, &mut |spot| {
            self.merge(spot.range);
            Ok(())
        })?;
        self.with_books(|books| books.trim());
        Ok(())
    }

    /// What a change takes; refuses what cannot be done.
    fn survey(&self, target: &Target, change: Change, phases: &[Phase]) -> Result<Needs, Problem> {
        let mut needs = Needs::default();
        self.each_spot(target, &mut |spot| {
            if change == Change::Writable {
                self.refuse_code(spot)?;
            }
            // The first adjustment of a place splits; the ones after it find it so.
            if let Some(first) = phases.iter().find_map(|phase| phase.of(spot.role)) {
                needs.tables += self.tables.tables_to_adjust(spot.range, first)? as u64;
            }
            needs.splits += 2;
            needs.typed += 1;
            self.each_segment(spot.range, &mut |segment| {
                needs.segments += 1;
                let Some(cache) = change.cache() else {
                    return Ok(());
                };
                if segment.record.hidden {
                    return Err(Problem::NotPresent(segment.range.start()));
                }
                let before = segment.record.cache;
                if segment.record.by_area && !matches!(target.ground, Ground::Area(_)) {
                    return Err(Problem::ByArea(segment.range.start()));
                }
                needs.retypes |= before != cache;
                needs.empties_caches |= is_cached(before) && !is_cached(cache);
                Ok(())
            })
        })?;
        if let Some(cache) = change.cache()
            && self.tables.limits().pat().index(cache).is_none()
        {
            // The survey of the first phase does not ask for the type.
            self.tables
                .tables_to_adjust(target.range, Adjustment::Cache(cache))?;
        }
        Ok(needs)
    }

    /// Writes the new memory type of the target's frames down, if that changes; all of it, or nothing.
    fn retype(&self, target: &Target, change: Change, ranges: u64) -> Result<(), Problem> {
        let Some(cache) = change.cache() else {
            return Ok(());
        };
        let mut first = None;
        self.each_run(target.range, &mut |run| {
            first = first.or(Some(run.phys));
            Ok(self.types.check_ram(run.phys, cache)?)
        })?;
        let Some(first) = first else { return Ok(()) };
        self.types.promise(first, ranges)?;
        let written = self.each_run(target.range, &mut |run| {
            self.types.set_ram(run.phys, cache);
            Ok(())
        });
        self.types.release(ranges);
        written
    }

    /// Empties the caches of the target's frames.
    pub(super) fn empty_caches(&self, target: &Target) -> Result<(), Problem> {
        self.each_run(target.range, &mut |run| {
            debug_assert!(run.phys.is_aligned(FRAME_SIZE));
            let platform = self.shootdown.platform();
            platform.write_back_and_invalidate(run.phys);
            Ok(())
        })
    }
}
