//! The quarantine: what is in it is out of reach until it is flushed, and it never holds more than it has room for.

use kspace::platform::TlbFeatures;
use kspace::shootdown::{Due, Quarantine, Shootdown, quarantine_bound};
use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{
    Controls, Editor, Flush, FrameSource, Intent, Limits, LongMode, Operation, Protection,
};
use kspace_sim::{Schedule, SimFrames, SimMachine, SimMemory, SimPlatform};

use crate::suite::random_runs;
use crate::world::{K4, Op, RAM, Setup, memory};

/// One CPU that unmaps pages into a quarantine.
struct Bench<'r> {
    memory: &'r SimMemory,
    frames: &'r SimFrames<'r>,
    machine: &'r SimMachine<'r>,
    editor: Editor<'r, LongMode, SimMemory, SimFrames<'r>>,
    shootdown: Shootdown<SimPlatform<'r>, 1>,
}

fn with_bench(test: impl FnOnce(&Bench<'_>)) {
    let memory = memory();
    let frames = SimFrames::new(&memory, RAM);
    let root = frames.allocate().expect("there is room");
    let mode = PagingMode::FourLevel;
    let machine = SimMachine::new(&memory, &frames, mode, Limits::WIDEST, root, 1)
        .with_features(TlbFeatures::plain(mode).with_global_pages());
    let schedule = Schedule::new(1);
    // SAFETY: the memory is simulated, and only the test edits these tables.
    let editor = unsafe { Editor::new(mode, root, Limits::WIDEST, &memory, &frames) };
    let shootdown = Shootdown::new(SimPlatform::new(&schedule, &machine));
    shootdown.join();
    test(&Bench {
        memory: &memory,
        frames: &frames,
        machine: &machine,
        editor: editor.expect("a root"),
        shootdown,
    });
}

impl Bench<'_> {
    /// Maps a page, uses it, and unmaps it: the token, with the frame in it.
    fn unmapped(&self, index: u64) -> Flush<PhysAddr> {
        let start = VirtAddr::new(0xffff_c900_0000_0000 + index * K4);
        let page = VirtRange::new(start, K4);
        let frame = self.frames.allocate().expect("there is room");
        let protection = Protection::KERNEL_DATA;
        let mapped = self.editor.map(page, frame, protection, PageSize::Size4K);
        mapped.expect("the page is free");
        let intent = Intent::kernel(Operation::Write);
        let seen = self.machine.access(0, start, intent, Controls::KERNEL);
        assert_eq!(seen.expect("nothing is stale").pages.len(), 1);
        self.editor.unmap(page).expect("it is mapped").with(frame)
    }

    fn purge<const BAYS: usize>(&self, quarantine: &Quarantine<PhysAddr, BAYS>) -> usize {
        quarantine.purge(&self.shootdown, self.memory, self.frames, |frame| {
            self.frames.release(frame);
            self.machine.check().expect("it has just been flushed");
        })
    }
}

#[test]
fn one_flush_does_for_all_that_is_in() {
    with_bench(|bench| {
        let quarantine = Quarantine::<_, 8>::new(100);
        let before = bench.frames.in_use();
        for index in 0..8 {
            let put = quarantine.put(bench.unmapped(index), 1);
            assert_eq!(put.expect("there is a bay"), Due::Later);
        }
        assert_eq!(quarantine.frames(), 8);
        let in_use = bench.frames.in_use();
        assert_eq!(bench.shootdown.activity().flushes, 0);
        assert_eq!(bench.purge(&quarantine), 8);
        assert_eq!(bench.shootdown.activity().flushes, 1);
        assert_eq!(bench.shootdown.activity().pages, 8);
        assert_eq!(bench.frames.in_use(), in_use - 8);
        assert_eq!(quarantine.frames(), 0);
        // Only the tables are left.
        assert_eq!(bench.frames.in_use(), before + 3);
        assert_eq!(bench.purge(&quarantine), 0);
        assert_eq!(bench.shootdown.activity().flushes, 1, "nothing to flush");
    });
}

#[test]
fn a_purge_is_due_at_the_bound_and_a_full_quarantine_refuses() {
    with_bench(|bench| {
        let quarantine = Quarantine::<_, 2>::new(10);
        let put = |index, frames| quarantine.put(bench.unmapped(index), frames);
        assert_eq!(put(0, 9).expect("there is a bay"), Due::Later);
        assert_eq!(put(1, 1).expect("there is a bay"), Due::Now);
        let refused = put(2, 1).expect_err("both bays are taken");
        assert_eq!(
            refused.to_string(),
            "quarantine: every bay is taken; purge it"
        );
        assert_eq!(quarantine.frames(), 10, "what is refused is not counted");
        assert_eq!(bench.purge(&quarantine), 2);
        let again = quarantine.put(refused.0, 1).expect("there are bays");
        assert_eq!(again, Due::Later);
        assert_eq!(bench.purge(&quarantine), 1);
    });
}

#[test]
fn what_is_dropped_inside_is_reported_and_never_reused() {
    with_bench(|bench| {
        let reported = kspace_paging::leaked_tokens();
        let in_use = {
            let quarantine = Quarantine::<_, 2>::new(10);
            let put = quarantine.put(bench.unmapped(0), 1);
            assert_eq!(put.expect("there is a bay"), Due::Later);
            bench.frames.in_use()
        };
        assert!(kspace_paging::leaked_tokens() > reported);
        assert_eq!(bench.frames.in_use(), in_use);
    });
}

#[test]
fn the_bound_grows_with_the_cpus_and_never_past_its_share_of_memory() {
    let gib = |gib: u64| (gib << 30) / K4;
    let mib = |mib: u64| (mib << 20) / K4;
    // The numbers of Linux's lazy_max_pages, 32 MiB times fls(cpus):
    for (cpus, expected) in [(1, 32), (2, 64), (3, 64), (4, 96), (16, 160), (255, 256)] {
        assert_eq!(
            quarantine_bound(cpus, gib(1024)),
            mib(expected),
            "{cpus} CPUs"
        );
    }
    assert_eq!(quarantine_bound(16, mib(512)), mib(16));
    assert_eq!(quarantine_bound(16, 0), 0);
}

#[test]
fn many_cpus_defer_and_purge_at_random() {
    let choice = [Op::Defer, Op::Defer, Op::Unmap, Op::Idle, Op::Purge];
    random_runs::<64>(Setup::new(4), &choice, 5, 0..300)
        .unwrap_or_else(|failure| panic!("{failure}"));
}
