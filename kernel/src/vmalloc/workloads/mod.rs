//! What is done with areas to try and to measure them.
//!
//! ```text
//!   linux.rs        the workloads of Linux's lib/test_vmalloc.c, at its sizes              test-vmalloc=NAME,NAME:LOOPS
//!   books.rs        what page tables and books cost per area                               test-vmalloc=bookkeeping
//!   remap.rs        an area in a user space: its pages are the same ones there             test-vmalloc=remap
//!   bad_input.rs    all that is to be refused                                              test-vmalloc=bad_input
//!   scaling.rs      two CPUs beside one, and beside work that shares nothing               test-vmalloc=scaling:LOOPS
//!   sizes.rs        large pages, nodes, and an area that gets other sizes                  test-vmalloc=large_pages,reallocate:LOOPS
//!   soak.rs         all CPUs make, fill, check, hand on and free areas of all kinds        soak-vmalloc=N
//!   fragmented.rs   memory in crumbs: an area of 256 MiB succeeds, 64 KiB in a row do not   fragment-vmalloc
//!   account.rs      what must be the same before and after                                 in all of them
//! ```

mod account;
mod bad_input;
mod books;
mod fragmented;
mod linux;
mod remap;
mod scaling;
mod sizes;
mod soak;

use kspace_frames::zone::Request;

use crate::address_space::Plan;
use crate::arch;
use crate::command_line::{AreaTest, AreaTests};
use crate::info;
use account::Account;

pub use fragmented::run as fragmented;
pub use remap::{in_space, user_page};
pub use soak::{in_handler, run as soak};

/// How often each workload is done: the first time it also makes what later ones find. Linux's peer does the same, and takes the mean.
const RUNS: u32 = 2;

/// Runs the workloads; true when each did what it should, and left nothing behind.
pub fn run(tests: AreaTests, plan: &Plan) -> bool {
    let loops = tests.loops();
    super::get().into_iter().for_each(Account::begin);
    tests.tests().all(|test| match test {
        AreaTest::Bookkeeping => books::run(),
        AreaTest::Scaling => scaling::run(loops),
        AreaTest::Remap => remap::run(),
        AreaTest::BadInput => bad_input::run(plan),
        AreaTest::LargePages => sizes::large_pages(),
        AreaTest::Reallocate => sizes::reallocate(loops),
        _ => (1..=RUNS).all(|_| one(test, loops)),
    })
}

fn one(test: AreaTest, loops: u64) -> bool {
    let (Some(areas), Some(memory)) = (super::get(), crate::memory::get()) else {
        return false;
    };
    // In use until after the second count, whose purge makes every CPU forget it.
    let Ok(own) = memory.allocate(&Request::order(0)) else {
        return false;
    };
    let before = Account::take(areas, memory);
    let (began, purges) = (arch::ticks(), areas.totals().purges);
    let done = linux::run(test, areas, loops, own.pfn());
    let (took, purges) = (arch::ticks() - began, areas.totals().purges - purges);
    let after = Account::take(areas, memory);
    memory.free(own);
    match &done {
        Ok(done) => info!(
            "test-vmalloc: {test}: {done} loops in {took} ticks, {purges} purges: {} ticks each",
            took / (*done).max(1)
        ),
        Err(trouble) => info!("test-vmalloc: {test}: failed: {trouble}"),
    }
    if test == AreaTest::FixAlign {
        linux::measure_zeroing();
    }
    if test == AreaTest::AlignShift {
        info!(
            "test-vmalloc: {test}: must be refused, and was: {}",
            done.is_err()
        );
    }
    before.is_same_as(&after) && done.is_err() == (test == AreaTest::AlignShift)
}

/// Numbers without a pattern, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        arch::mix(self.0)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
