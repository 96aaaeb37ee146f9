//! Making pages what they were, in all their places, and forgetting who changed them.

use kspace_layout::VirtRange;
use kspace_paging::{Access, Adjustment, CacheType};

use super::books::{Record, Segment};
use super::place::{Ground, Role, Target};
use super::{Permissions, Problem};
use crate::cache_types::is_cached;
use crate::held_frames::HeldFrames;
use crate::platform::CacheLines;
use crate::vmalloc::{Kernel, Kind};

/// The steps back, each with a flush behind it: first every right goes that was not there, and what gets another memory type; what was
/// there comes last.
const STEPS: [fn(&Record) -> Option<Adjustment>; 6] = [
    |record| {
        (record.now == Access::ReadWrite && record.was != Access::ReadWrite)
            .then_some(Adjustment::ReadOnly)
    },
    |record| {
        (record.now == Access::ReadExecute && record.was != Access::ReadExecute)
            .then_some(Adjustment::NotExecutable)
    },
    |record| (record.cache != record.cache_was && !record.hidden).then_some(Adjustment::Hidden),
    |record| (record.cache != record.cache_was).then_some(Adjustment::Cache(record.cache_was)),
    |record| match record.was {
        Access::ReadWrite if record.now != Access::ReadWrite => Some(Adjustment::Writable),
        Access::ReadExecute if record.now != Access::ReadExecute => Some(Adjustment::Executable),
        _ => None,
    },
    |record| (record.hidden || record.cache != record.cache_was).then_some(Adjustment::Shown),
];

impl<K: Kernel, const CPUS: usize> Permissions<'_, '_, K, CPUS>
where
    K::Platform: CacheLines,
{
    /// Restores all places of `range`, or nothing. The caller has the turn.
    pub(super) fn put_back(&self, range: VirtRange) -> Result<(), Problem> {
        let target = self.target(range)?;
        self.holding(&target, || self.put_back_held(target))
    }

    /// The same for a target that nobody frees.
    fn put_back_held(&self, target: Target) -> Result<(), Problem> {
        let is_area = matches!(target.ground, Ground::Area(_));
        let (mut tables, mut segments, mut empties_caches) = (0, 0, false);
        self.each_spot(&target, &mut |spot| {
            self.each_segment(spot.range, &mut |segment| {
                segments += 1;
                if segment.record.by_area && !is_area {
                    return Err(Problem::ByArea(segment.range.start()));
                }
                let counted = matches!(
                    spot.role,
                    Role::Other {
                        executable: true,
                        ..
                    }
                );
                let Some(record) = goal(spot.role, &segment, u8::from(counted)) else {
                    return Ok(());
                };
                if is_area && spot.role == Role::Own && is_given_write(&record) {
                    self.refuse_beside_code(&target, segment.range)?;
                }
                empties_caches |= is_cached(record.cache) && !is_cached(record.cache_was);
                // Whatever is done first splits.
                let first = STEPS.iter().find_map(|step| step(&record));
                if let Some(first) = first {
                    tables += self.tables.tables_to_adjust(segment.range, first)? as u64;
                }
                Ok(())
            })
        })?;
        let held = HeldFrames::take(self.tables.memory(), self.tables.frames(), tables).map_err(
            |had| Problem::NoFrames {
                needed: tables,
                had,
            },
        )?;
        let reserved = self.with_books(|books| books.reserve(segments, 2 * segments));
        if let Err(problem) = reserved.and_then(|()| self.untype(&target)) {
            self.with_books(|books| books.trim());
            return Err(problem);
        }
        self.uncount_code(&target)?;
        for step in STEPS {
            self.adjust_all(&held, &mut |adjust| {
                self.each_spot(&target, &mut |spot| {
                    self.each_segment(spot.range, &mut |segment| {
                        let adjustment =
                            goal(spot.role, &segment, 0).and_then(|record| step(&record));
                        match adjustment {
                            Some(adjustment) => adjust(segment.range, adjustment),
                            None => Ok(()),
                        }
                    })
                })
            });
        }
        if empties_caches {
            self.empty_caches(&target)?;
        }
        drop(held);
        self.forget(&target)
    }

    /// Refuses to give a part of an area the right to write back whose frames are code in another one.
    fn refuse_beside_code(&self, target: &Target, range: VirtRange) -> Result<(), Problem> {
        let part = Target { range, ..*target };
        self.each_spot(&part, &mut |spot| {
            let Role::Other { executable, .. } = spot.role else {
                return Ok(());
            };
            self.each_segment(spot.range, &mut |segment| {
                let page = segment.range.start();
                if segment.record.code > u8::from(executable) {
                    Err(Problem::WriteExecute { page })
                } else {
                    Ok(())
                }
            })
        })
    }

    /// The target's frames are no code of its any more, in the books on their other places.
    fn uncount_code(&self, target: &Target) -> Result<(), Problem> {
        self.each_spot(target, &mut |spot| {
            if !matches!(
                spot.role,
                Role::Other {
                    executable: true,
                    ..
                }
            ) {
                return Ok(());
            }
            self.each_segment(spot.range, &mut |segment| {
                let mut record = segment.record;
                record.uncount_code();
                self.with_books(|books| books.write(segment.range, &record));
                Ok(())
            })
        })
    }

    /// Writes down that the target's frames have their usual memory type again.
    fn untype(&self, target: &Target) -> Result<(), Problem> {
        let (mut ranges, mut first) = (0, None);
        self.each_run(target.range, &mut |run| {
            ranges += 1;
            first = first.or(Some(run.phys));
            Ok(())
        })?;
        let Some(first) = first else { return Ok(()) };
        let typed =
            self.types.at(first.start()).is_some() || self.types.next(first.start()).is_some();
        if !typed || target.ground == Ground::Area(Kind::Device) {
            return Ok(());
        }
        self.types.promise(first, ranges)?;
        let written = self.each_run(target.range, &mut |run| {
            self.types.set_ram(run.phys, CacheType::WriteBack);
            Ok(())
        });
        self.types.release(ranges);
        written
    }

    /// Strikes out what is as it was, and merges large pages.
    fn forget(&self, target: &Target) -> Result<(), Problem> {
        self.each_spot(target, &mut |spot| {
            self.each_segment(spot.range, &mut |segment| {
                if let Some(goal) = goal(spot.role, &segment, 0) {
                    let record = Record {
                        now: goal.was,
                        cache: goal.cache_was,
                        hidden: false,
                        by_area: false,
                        ..segment.record
                    };
                    self.with_books(|books| books.write(segment.range, &record));
                }
                Ok(())
            })?;
            self.merge(spot.range);
            Ok(())
        })?;
        self.with_books(|books| {
            // Of an area that will be gone.
            while let Some((whole, _)) = books.next_split(target.range)
                && matches!(target.ground, Ground::Area(_))
            {
                books.forget_split(whole);
            }
            books.trim();
        });
        Ok(())
    }
}

/// Whether a page gets the right to write that it does not have.
fn is_given_write(record: &Record) -> bool {
    record.was == Access::ReadWrite && record.now != Access::ReadWrite
}

/// What pages are, and are to become; `None` when nobody changed them. `uncounted`: of how many areas' code they will not be any more.
/// What is code in another place still does not become writable; and code is made data only where it was made code.
fn goal(role: Role, segment: &Segment, uncounted: u8) -> Option<Record> {
    let mut record = segment.record;
    let other_code = role != Role::Own && record.now == Access::ReadExecute;
    if record.code > uncounted || other_code {
        record.was = record.now;
    }
    segment.known.then_some(record)
}
