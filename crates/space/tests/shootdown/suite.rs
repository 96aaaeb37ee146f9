//! Everything that is tried, with all rules kept or one of them broken.

use std::ops::Range;

use kspace::platform::TlbFeatures;
use kspace::shootdown::Rule;
use kspace_layout::PagingMode;
use kspace_sim::explore::{Explored, Failure, random};

use crate::world::{Op, Setup, any_operations, memory, run};
use crate::{root_entries, stopped, user_spaces};

/// All that a machine without PCIDs can do.
pub const EVERY_OPERATION: [Op; 9] = [
    Op::Unmap,
    Op::UnmapQuietly,
    Op::UnmapTwo,
    Op::Protect,
    Op::Purge,
    Op::Touch,
    Op::Idle,
    Op::Absent,
    Op::Quiet,
];

/// And with PCIDs.
pub const WITH_SWITCHES: [Op; 6] = [
    Op::Unmap,
    Op::UnmapTwo,
    Op::Purge,
    Op::Idle,
    Op::Switch,
    Op::Switch,
];

const PLAIN: TlbFeatures = TlbFeatures::plain(PagingMode::FourLevel);

/// Every way that the kernel's half can be cached: with global pages or without, with one PCID or many, with `INVPCID` or without.
pub const FEATURES: [TlbFeatures; 7] = [
    PLAIN,
    PLAIN.with_global_pages(),
    PLAIN.with_global_pages().with_invpcid(),
    PLAIN.with_contexts(),
    PLAIN.with_contexts().with_invpcid(),
    PLAIN.with_global_pages().with_contexts(),
    PLAIN.with_global_pages().with_contexts().with_invpcid(),
];

/// Random programs of `length` operations out of `choice`, one schedule for each seed.
pub fn random_runs<const SLOTS: usize>(
    setup: Setup,
    choice: &[Op],
    length: usize,
    seeds: Range<u64>,
) -> Result<Explored, Failure> {
    let memory = memory();
    random(seeds, |mut numbers, decide| {
        let programs = any_operations(&mut numbers, setup.cpus, length, choice);
        run::<SLOTS>(setup, &memory, &programs, decide)
    })
}

/// The suite: everything that must go well, and must not when `omitted` is broken. `seeds` is how many schedules each part gets.
pub fn suite(omitted: Option<Rule>, seeds: u64) -> Result<(), Failure> {
    let three = Setup {
        omitted,
        ..Setup::new(3)
    };
    random_runs::<64>(three, &EVERY_OPERATION, 4, 0..seeds)?;
    // So few slots that CPUs fall behind, and write to the same ones.
    random_runs::<2>(three, &EVERY_OPERATION, 4, 0..seeds)?;
    // So few pages that all is flushed at once.
    let whole = Setup {
        page_limit: 0,
        ..three
    };
    random_runs::<64>(whole, &EVERY_OPERATION, 4, 0..seeds)?;
    for features in FEATURES {
        let setup = Setup {
            features,
            global: features.global_pages,
            ..three
        };
        let choice: &[Op] = if features.contexts {
            &WITH_SWITCHES
        } else {
            &EVERY_OPERATION
        };
        random_runs::<64>(setup, choice, 4, 0..seeds)?;
    }
    user_spaces::random_runs(omitted, 0..seeds)?;
    root_entries::random_runs(omitted, 0..seeds)?;
    stopped::random_runs(omitted, 0..seeds)?;
    Ok(())
}

#[test]
fn all_goes_well_with_every_rule() {
    suite(None, 40).unwrap_or_else(|failure| panic!("{failure}"));
}
