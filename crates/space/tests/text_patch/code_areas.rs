//! Code that was made at run time: changed while other CPUs run it, and then freed.

use std::cell::Cell;

use kspace::areas::Code;
use kspace::platform::CpuId;
use kspace::shootdown::Shootdown;
use kspace::text_patch::{Edit, PatchError};
use kspace_layout::{FRAME_SIZE, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Controls, Editor, Intent, LongMode, Operation, Walker};
use kspace_sim::explore::{Decide, random};
use kspace_sim::{Outcome, Program, SimPlatform};

use crate::kernel::{Machine, with_kernel};
use crate::simulated::{CPUS, Setup, SimKernel};
use crate::world::{
    Broken, Fetched, KERNEL, MODE, Protocol, Text, TextPatcher, WINDOW, fetched_only, states_at,
};

/// CPUs that run.
const RUNNING: usize = 3;

type Module<'v, 'r> = Code<'v, 'r, SimKernel<'r, LongMode>, CPUS>;

/// What the programs use.
struct Scene<'s, 'v, 'a, 'r, 't> {
    machine: &'s Machine<'v, 'a, 'r>,
    patcher: &'s TextPatcher<'t, CPUS>,
    text: &'s Text<'t>,
    fetched: &'s Fetched,
    /// The instructions that are right now, while there is code.
    right: &'s Cell<Option<[[u8; 5]; 3]>>,
}

/// Two pages for code.
fn module<'v, 'r>(machine: &Machine<'v, '_, 'r>) -> Module<'v, 'r> {
    let areas = machine.rig.areas;
    Code::new(areas, areas, Some(machine.permissions), 2 * FRAME_SIZE).expect("room")
}

/// Three bytes before the second page.
fn site(code: VirtRange) -> VirtAddr {
    code.start().checked_add(0xffd).expect("in it")
}

impl Scene<'_, '_, '_, '_, '_> {
    fn patch(&self, at: VirtAddr, old: [u8; 5], new: [u8; 5]) -> Result<(), PatchError> {
        let edit = Edit {
            at,
            old: &old,
            new: &new,
        };
        // SAFETY: simulated code.
        unsafe { self.patcher.patch(&[edit]) }
    }

    /// The bytes in memory.
    fn bytes(&self, at: VirtAddr) -> [u8; 5] {
        [0, 1, 2, 3, 4].map(|offset| {
            let at = at.checked_add(offset).expect("in it");
            self.text.byte(self.text.phys(at))
        })
    }

    /// All places of the code's frames: one to execute, one in the direct map, and nowhere may be written.
    fn is_guarded(&self, code: VirtRange) {
        let root = self.machine.rig.areas.tables().root();
        self.is_guarded_under(root, code);
        for cpu in 0..RUNNING {
            for start in [code.start(), WINDOW] {
                for page in [0, FRAME_SIZE] {
                    let at = start.checked_add(page).expect("canonical");
                    assert!(!self.machine.rig.machine.may_write(cpu, at), "CPU {cpu}");
                }
            }
        }
    }

    fn is_guarded_under(&self, root: PhysAddr, code: VirtRange) {
        let frames = [0, 1].map(|page| {
            let page = code.start().checked_add(page * FRAME_SIZE).expect("in it");
            self.text.phys(page)
        });
        let walker = Walker::new(MODE, root, self.machine.rig.memory);
        let lower = VirtRange::new(VirtAddr::ZERO, 1 << 47);
        assert_eq!(walker.runs(lower).count(), 0, "the alias is gone");
        let mut places = [0; 2];
        for run in walker.runs(KERNEL) {
            let run = run.expect("sound tables");
            assert!(!run.attributes.is_write_execute(), "{run}");
            let first = run.phys.as_u64();
            for (frame, places) in frames.iter().zip(&mut places) {
                if (first..first + run.virt.size()).contains(&frame.as_u64()) {
                    *places += 1;
                    assert!(!run.attributes.write, "{run}");
                    let own = code.contains(run.virt.start());
                    assert_eq!(run.attributes.execute, own, "{run}");
                }
            }
        }
        assert_eq!(places, [2, 2], "its own place, and the direct map");
    }

    /// Code that cannot run yet is refused, at all places where it can be seen.
    fn refuses_a_draft(&self, draft: &Module<'_, '_>) {
        let (range, written) = (draft.range(), draft.writable().expect("not sealed"));
        let [nop, call, _] = states_at(site(range), range.start());
        let frame = self.text.phys(range.start());
        let direct = self.machine.direct(frame.as_u64(), 1).start();
        for (start, write) in [
            (range.start(), false),
            (written.start(), true),
            (direct, true),
        ] {
            let error = self.patch(start, nop, call).expect_err("it cannot run");
            let PatchError::NotCode { at, found } = error else {
                panic!("{error}");
            };
            assert_eq!(
                (at, found.write, found.execute),
                (start, write, false),
                "{found}"
            );
        }
        assert_eq!(self.bytes(site(range)), nop);
        assert_eq!(self.bytes(range.start()), [0; 5]);
    }

    /// Makes code, changes it twice if it is to, frees it, and purges.
    fn one_life(&self, patched: bool) {
        let draft = module(self.machine);
        let (range, written) = (draft.range(), draft.writable().expect("not sealed"));
        let at = site(range);
        let states = states_at(at, range.start());
        for (offset, byte) in (0..).zip(states[0]) {
            let to = site(written).checked_add(offset).expect("in it");
            self.text.store(self.text.phys(to), byte);
        }
        if patched {
            self.refuses_a_draft(&draft);
        }
        let mut batch = [draft];
        Code::seal(&mut batch).expect("there are frames");
        if patched {
            self.fetched.move_to(Some(at), states[0]);
            self.right.set(Some(states));
            self.change(range, states);
            self.right.set(None);
            self.fetched.move_to(None, states[0]);
        }
        drop(batch);
        let error = self.patch(at, states[2], states[0]);
        assert_eq!(error, Err(PatchError::NotMapped(at)));
        self.machine.rig.areas.purge();
        self.is_gone(range);
    }

    /// Changes the instruction from each state to the next.
    fn change(&self, range: VirtRange, states: [[u8; 5]; 3]) {
        let at = site(range);
        self.is_guarded(range);
        for pair in states.windows(2) {
            assert_eq!(self.bytes(at), pair[0]);
            self.patch(at, pair[0], pair[1])
                .expect("it is as expected, and sealed");
            assert_eq!(self.bytes(at), pair[1]);
            let cpus = fetched_only(self.text);
            let all = cpus.iter().all(|bytes| *bytes == Some(pair[1]));
            assert!(all, "when it is done, they have {cpus:02x?}");
            self.is_guarded(range);
            // That root, too, has the kernel's half now, and nothing else.
            self.is_guarded_under(self.patcher.alias_root(), range);
        }
        let again = self.patch(at, states[0], states[1]);
        assert!(
            matches!(again, Err(PatchError::Unexpected { .. })),
            "{again:?}"
        );
    }

    /// No CPU reaches what was code.
    fn is_gone(&self, range: VirtRange) {
        let intent = Intent::kernel(Operation::Fetch);
        for cpu in 0..RUNNING {
            for page in [0, FRAME_SIZE] {
                let at = range.start().checked_add(page).expect("in it");
                let seen = self
                    .machine
                    .rig
                    .machine
                    .access(cpu, at, intent, Controls::KERNEL);
                let seen = seen.unwrap_or_else(|violation| panic!("{violation}"));
                assert!(seen.pages.is_empty(), "CPU {cpu}: {seen:?}");
            }
        }
    }
}

/// Adds the breakpoints that CPUs have run into to `hits`.
fn run(hits: &Cell<u64>, decide: &mut dyn Decide) -> Outcome {
    let setup = Setup {
        cpus: RUNNING,
        ..Setup::new()
    };
    let mut outcome = Outcome::Done;
    with_kernel(setup, |machine| outcome = run_on(machine, hits, decide));
    outcome
}

/// CPU 0 makes code, changes and frees it; the others run it while they may.
fn run_on(machine: &Machine<'_, '_, '_>, hits: &Cell<u64>, decide: &mut dyn Decide) -> Outcome {
    let rig = machine.rig;
    let (memory, frames, tables) = (rig.memory, rig.frames.frames, rig.areas.tables());
    let fetched = Fetched::new(RUNNING, [0; 5]);
    fetched.move_to(None, [0; 5]);
    let text = Text::new(
        rig.schedule,
        rig.machine,
        memory,
        &fetched,
        Broken::default(),
    );
    let probe = SimPlatform::new(rig.schedule, rig.machine);
    let shootdown: Protocol<'_, CPUS> = Shootdown::probed(text, probe);
    // SAFETY: simulated; the patcher only reads the kernel's tables.
    let editor = unsafe { Editor::new(MODE, tables.root(), tables.limits(), memory, frames) };
    let editor = editor.expect("the root suits the mode");
    // SAFETY: all CPUs join, and take their breakpoints to the patcher.
    let patcher = unsafe { TextPatcher::new(&editor, KERNEL, WINDOW, &shootdown) };
    let patcher = patcher.expect("there is room");
    let right = Cell::new(None);
    let scene = Scene {
        machine,
        patcher: &patcher,
        text: &text,
        fetched: &fetched,
        right: &right,
    };
    let (scene, shootdown) = (&scene, &shootdown);
    let join = || {
        rig.areas.shootdown().join();
        shootdown.join();
    };
    for cpu in 0..RUNNING {
        rig.areas.shootdown().expect(CpuId::new(cpu));
        shootdown.expect(CpuId::new(cpu));
    }
    let runs = || -> Program<'_> {
        Box::new(|| {
            join();
            for _ in 0..40 {
                if let Some(right) = scene.right.get() {
                    scene.text.execute(scene.patcher, &right);
                }
                rig.schedule.pause();
            }
        })
    };
    let lives: Program<'_> = Box::new(|| {
        join();
        // What stays after the first code ever: tables and books that are kept.
        scene.one_life(false);
        let before = frames.in_use();
        scene.one_life(true);
        assert_eq!(frames.in_use(), before, "all frames are back");
        assert_eq!(scene.machine.permissions.in_books(), (0, 0));
    });
    let handler = || {
        rig.areas.shootdown().serve();
        shootdown.serve();
    };
    let programs = vec![lives, runs(), runs()];
    let outcome = rig.schedule.run(programs, &handler, decide, &|| 0);
    hits.set(hits.get() + scene.patcher.hits());
    outcome
}

#[test]
fn sealed_code_is_changed_while_it_runs_and_then_freed() {
    let hits = Cell::new(0);
    random(0..20, |_, decide| run(&hits, decide)).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(hits.get() > 0, "others ran it while it was changed");
}
