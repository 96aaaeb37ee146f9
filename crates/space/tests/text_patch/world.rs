//! CPUs that run an instruction while one of them changes it. What each has fetched of it is any mixture, byte by byte, of all that was there
//! since it last serialized; and each has a TLB that keeps whatever it may.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use kspace::platform::{
    Complaint, Cpu, CpuId, CpuMask, Interrupts, LocalFlush, TextAccess, Tlb, TlbFeatures,
};
use kspace::shootdown::{Rule, Shootdown};
use kspace::text_patch::{Edit, NOP_5, Patcher, Resume, call, jump};
use kspace_layout::{PageSize, PagingMode, Pfn, PhysAddr, PhysRange, VirtAddr, VirtRange};
use kspace_paging::{
    Controls, Editor, FrameSource, Intent, Limits, LongMode, Operation, Protection,
};
use kspace_sim::explore::Decide;
use kspace_sim::{
    Outcome, Program, Schedule, SimFrames, SimInterruptsOff, SimMachine, SimMemory, SimPlatform,
};

pub const MODE: PagingMode = PagingMode::FourLevel;
pub const RAM: PhysRange = PhysRange::new(PhysAddr::new(16 << 20), 1 << 20);
/// Two pages of code in frames that are not neighbours.
pub const CODE: VirtRange = VirtRange::new(VirtAddr::new(0xffff_ffff_8100_0000), 2 << 12);
/// Three bytes before the second page.
pub const SITE: VirtAddr = VirtAddr::new(0xffff_ffff_8100_0ffd);
pub const WINDOW: VirtAddr = VirtAddr::new(0x6000_0000_0000);
pub const KERNEL: VirtRange = VirtRange::new(VirtAddr::new(0xffff_8000_0000_0000), 1 << 47);
const BREAKPOINT: u8 = 0xcc;

/// What is left out, to see that it is missed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Broken {
    /// The CPUs do not serialize in this step of the three.
    pub step: Option<u32>,
    /// The translations of the alias are not forgotten.
    pub alias_stays: bool,
    pub rule: Option<Rule>,
    /// Nothing is left out here, but the last CPU wants to change the instruction, too.
    pub two_patchers: bool,
}

/// The simulated CPUs with what they have fetched.
#[derive(Clone, Copy)]
pub struct Text<'r> {
    sim: SimPlatform<'r>,
    schedule: &'r Schedule,
    machine: &'r SimMachine<'r>,
    memory: &'r SimMemory,
    root: PhysAddr,
    broken: Broken,
    fetched: &'r Fetched,
}

/// For each CPU, and each byte of the instruction, what the CPU may believe that it is.
pub struct Fetched {
    /// Where the instruction is; `None`: there is none now.
    site: Cell<Option<VirtAddr>>,
    cpus: RefCell<Vec<[BTreeSet<u8>; 5]>>,
    serialized: Vec<Cell<u32>>,
}

impl Fetched {
    pub fn new(cpus: usize, now: [u8; 5]) -> Self {
        Self {
            site: Cell::new(Some(SITE)),
            cpus: RefCell::new(vec![now.map(|byte| BTreeSet::from([byte])); cpus]),
            serialized: vec![Cell::new(0); cpus],
        }
    }

    /// From here on the instruction is at `site`, and every CPU has fetched `now`; or there is none.
    pub fn move_to(&self, site: Option<VirtAddr>, now: [u8; 5]) {
        self.site.set(site);
        for cpu in self.cpus.borrow_mut().iter_mut() {
            *cpu = now.map(|byte| BTreeSet::from([byte]));
        }
    }
}

impl<'r> Text<'r> {
    pub fn new(
        schedule: &'r Schedule,
        machine: &'r SimMachine<'r>,
        memory: &'r SimMemory,
        fetched: &'r Fetched,
        broken: Broken,
    ) -> Self {
        Self {
            sim: SimPlatform::new(schedule, machine).omitting(broken.rule),
            schedule,
            machine,
            memory,
            root: machine.walker().root(),
            broken,
            fetched,
        }
    }

    pub fn phys(&self, at: VirtAddr) -> PhysAddr {
        self.machine.walker().translate(at).expect("it is mapped")
    }

    fn site(&self) -> VirtAddr {
        self.fetched.site.get().expect("there is an instruction")
    }

    /// The CPU that runs has only what is in memory now.
    fn fetch_anew(&self) {
        let Some(site) = self.fetched.site.get() else {
            return;
        };
        let now = [0, 1, 2, 3, 4].map(|offset| {
            let at = site.checked_add(offset).expect("in it");
            BTreeSet::from([self.byte(self.phys(at))])
        });
        self.fetched.cpus.borrow_mut()[self.schedule.running()] = now;
    }

    pub fn byte(&self, at: PhysAddr) -> u8 {
        let word = &self.memory.words(at.pfn())[at.as_u64() as usize % 4096 / 8];
        (word.load(std::sync::atomic::Ordering::Relaxed) >> (8 * (at.as_u64() % 8))) as u8
    }

    pub fn store(&self, at: PhysAddr, value: u8) {
        let word = &self.memory.words(at.pfn())[at.as_u64() as usize % 4096 / 8];
        let shift = 8 * (at.as_u64() % 8);
        let before = word.load(std::sync::atomic::Ordering::Relaxed);
        let after = before & !(0xff << shift) | u64::from(value) << shift;
        word.store(after, std::sync::atomic::Ordering::Relaxed);
        let Some(site) = self.fetched.site.get() else {
            return;
        };
        for (index, offset) in (0..5_u64).enumerate() {
            if self.phys(site.checked_add(offset).expect("in it")) == at {
                for cpu in self.fetched.cpus.borrow_mut().iter_mut() {
                    cpu[index].insert(value);
                }
            }
        }
    }

    /// Lets the CPU that runs come by the instruction: whatever it may have fetched must be one of `right`, or a breakpoint that leads
    /// where one of them does.
    pub fn execute<const N: usize>(&self, patcher: &TextPatcher<'r, N>, right: &[[u8; 5]]) {
        let (cpu, site) = (self.schedule.running(), self.site());
        let bytes = self.fetched.cpus.borrow()[cpu].clone();
        let mut mixtures = vec![[0; 5]];
        for (index, choice) in bytes.iter().enumerate() {
            let with = |mixture: &[u8; 5]| {
                let mut mixture = *mixture;
                let choices: Vec<_> = choice
                    .iter()
                    .map(|byte| {
                        mixture[index] = *byte;
                        mixture
                    })
                    .collect();
                choices
            };
            mixtures = mixtures.iter().flat_map(with).collect();
        }
        for mixture in mixtures {
            if mixture[0] == BREAKPOINT {
                let resume = patcher.breakpoint(site);
                let resume =
                    resume.unwrap_or_else(|| panic!("a breakpoint that nobody knows of at {site}"));
                assert!(
                    right.iter().any(|bytes| resume == meaning(site, *bytes)),
                    "{resume:?} is not what {right:02x?} do"
                );
            } else {
                assert!(
                    right.contains(&mixture),
                    "it may execute {mixture:02x?}, which is none of {right:02x?}"
                );
            }
        }
    }
}

/// What the instructions of these tests do, worked out by hand.
fn meaning(site: VirtAddr, bytes: [u8; 5]) -> Resume {
    let behind = VirtAddr::new(site.as_u64() + 5);
    let distance = i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    let target = VirtAddr::new(behind.as_u64().wrapping_add_signed(distance.into()));
    match bytes[0] {
        0xe8 => Resume::Call {
            target,
            back: behind,
        },
        0xe9 => Resume::At(target),
        _ => Resume::At(behind),
    }
}

// SAFETY: as the simulated platform.
unsafe impl Cpu for Text<'_> {
    type Pin = ();
    fn id(&self) -> CpuId {
        self.sim.id()
    }
    fn pin(&self) {}
    fn is_atomic(&self) -> bool {
        self.sim.is_atomic()
    }
    fn relax(&self) {
        self.sim.relax();
    }
    fn report(&self, complaint: &Complaint) {
        self.sim.report(complaint);
    }
}

// SAFETY: as the simulated platform.
unsafe impl<'r> Interrupts for Text<'r> {
    type Off = SimInterruptsOff<'r>;
    fn interrupts_off(&self) -> SimInterruptsOff<'r> {
        self.sim.interrupts_off()
    }
}

// SAFETY: as the simulated platform; what a test leaves out concerns only simulated memory.
unsafe impl Tlb for Text<'_> {
    fn features(&self) -> TlbFeatures {
        self.sim.features()
    }
    fn perform(&self, flush: LocalFlush) {
        let alias = matches!(flush, LocalFlush::Page(page) if page.as_u64() >> 47 == 0);
        if !(alias && self.broken.alias_stays) {
            self.sim.perform(flush);
        }
        // Writes to control registers serialize.
        if matches!(flush, LocalFlush::LoadRoot | LocalFlush::ToggleGlobal) {
            self.fetch_anew();
        }
    }
    fn interrupt(&self, targets: &CpuMask) {
        self.sim.interrupt(targets);
    }
    fn serialize(&self) {
        let cpu = self.schedule.running();
        let count = self.fetched.serialized[cpu].get();
        self.fetched.serialized[cpu].set(count + 1);
        if self.broken.step != Some(count % 3) {
            self.fetch_anew();
        }
    }
    fn serve_others(&self) {
        self.sim.serve_others();
    }
}

// SAFETY: the simulated machine loads the roots, and its memory is written where all translations lead that the CPU may use.
unsafe impl TextAccess for Text<'_> {
    unsafe fn with_root(&self, root: PhysAddr, body: impl FnOnce()) {
        let cpu = self.schedule.running();
        assert!(!self.schedule.takes_interrupts(), "interrupts are on");
        // With PCIDs what is kept of either root stays.
        let keep = self.machine.features().contexts;
        self.machine.load_root(cpu, root, u16::from(keep), keep);
        body();
        self.machine.load_root(cpu, self.root, 0, keep);
    }

    unsafe fn read_text(&self, from: VirtAddr, into: &mut [u8]) {
        for (offset, byte) in (0..).zip(into) {
            *byte = self.byte(self.phys(from.checked_add(offset).expect("canonical")));
        }
    }

    unsafe fn write_text(&self, to: VirtAddr, bytes: &[u8]) {
        let me = self.schedule.running();
        for (offset, byte) in (0..).zip(bytes) {
            let at = to.checked_add(offset).expect("canonical");
            let intent = Intent::kernel(Operation::Write);
            let seen = self.machine.access(me, at, intent, Controls::KERNEL);
            let seen = seen.expect("nothing was released");
            assert!(!seen.may_fault, "{at} may fault");
            let page = |index: usize| seen.pages[index].translate(at);
            assert!(
                (0..seen.pages.len()).all(|index| page(index) == page(0)),
                "the alias may still lead to another frame"
            );
            for page in &seen.pages {
                assert!(page.attributes.write && !page.attributes.execute);
            }
            self.store(page(0), *byte);
            self.machine.speculate_at(at);
            for other in (0..self.schedule.cpus()).filter(|cpu| *cpu != me) {
                assert!(
                    !self.machine.may_write(other, at),
                    "CPU {other} has the alias"
                );
            }
            self.schedule.pause();
        }
    }
}

pub type Protocol<'r, const N: usize> = Shootdown<Text<'r>, N, 64, SimPlatform<'r>>;
pub type TextPatcher<'r, const N: usize> =
    Patcher<'r, LongMode, SimMemory, Text<'r>, N, SimPlatform<'r>>;
pub type Kernel<'r> = Editor<'r, LongMode, SimMemory, SimFrames<'r>>;

/// Maps the code, a no-operation at the site.
pub fn kernel<'r>(memory: &'r SimMemory, frames: &'r SimFrames<'r>) -> Kernel<'r> {
    let root = frames.allocate().expect("there is room");
    // SAFETY: simulated memory, edited only here.
    let editor = unsafe { Kernel::new(MODE, root, Limits::WIDEST, memory, frames) };
    let editor = editor.expect("the root suits the mode");
    let taken = [0, 1, 2].map(|_| frames.allocate().expect("there is room"));
    for (page, frame) in [taken[2], taken[0]].into_iter().enumerate() {
        let page = CODE.start().checked_add(page as u64 * 4096).expect("in it");
        editor
            .map(
                VirtRange::new(page, 4096),
                frame,
                Protection::KERNEL_TEXT,
                PageSize::Size4K,
            )
            .expect("there is room");
        let _: Pfn = frame.pfn();
    }
    editor
}

/// The instructions that the site has, one after the other.
pub fn states() -> [[u8; 5]; 3] {
    states_at(SITE, CODE.start())
}

/// The same for a site in the two pages of code at `code`.
pub fn states_at(site: VirtAddr, code: VirtAddr) -> [[u8; 5]; 3] {
    let one = call(site, code).expect("near");
    let two = jump(site, VirtAddr::new(code.as_u64() + 0x1800)).expect("near");
    [NOP_5, one, two]
}

/// CPU 0 changes the instruction twice; the others run it, one of them lazily, one with interrupts off, and the last one wants to change it
/// too.
pub fn run(
    memory: &SimMemory,
    features: TlbFeatures,
    broken: Broken,
    decide: &mut dyn Decide,
) -> Outcome {
    const CPUS: usize = 3;
    let frames = SimFrames::new(memory, RAM);
    let editor = kernel(memory, &frames);
    let machine = SimMachine::new(memory, &frames, MODE, Limits::WIDEST, editor.root(), CPUS)
        .with_features(features);
    let schedule = Schedule::new(CPUS);
    let fetched = Fetched::new(CPUS, NOP_5);
    let text = Text::new(&schedule, &machine, memory, &fetched, broken);
    for (offset, byte) in (0..).zip(NOP_5) {
        text.store(text.phys(SITE.checked_add(offset).expect("in it")), byte);
    }
    *fetched.cpus.borrow_mut() = Fetched::new(CPUS, NOP_5).cpus.into_inner();
    let probe = SimPlatform::new(&schedule, &machine).omitting(broken.rule);
    let shootdown: Protocol<'_, CPUS> = Shootdown::probed(text, probe);
    // SAFETY: all CPUs join, and take their breakpoints to the patcher.
    let patcher = unsafe { TextPatcher::new(&editor, KERNEL, WINDOW, &shootdown) };
    let patcher = patcher.expect("there is room");
    let (patcher, shootdown, schedule, text) = (&patcher, &shootdown, &schedule, &text);
    let [nop, call, jump] = states();
    let change = |old: [u8; 5], new: [u8; 5]| {
        let edit = Edit {
            at: SITE,
            old: &old,
            new: &new,
        };
        // SAFETY: simulated code.
        unsafe { patcher.patch(&[edit]) }
    };
    let any = [nop, call, jump];
    let programs: Vec<Program<'_>> = vec![
        Box::new(move || {
            shootdown.join();
            let mut old = nop;
            for new in [call, jump] {
                change(old, new).expect("it is as expected");
                if !broken.two_patchers {
                    // Every CPU has only the new one, however the schedule goes on.
                    let cpus = fetched_only(text);
                    let all = cpus.iter().all(|bytes| *bytes == Some(new));
                    assert!(all, "when it is done, they have {cpus:02x?}");
                }
                old = new;
            }
        }),
        Box::new(move || {
            for _ in 0..3 {
                text.execute(patcher, &any);
                schedule.pause();
            }
            shootdown.join();
            for _ in 0..4 {
                text.execute(patcher, &any);
                schedule.pause();
            }
            shootdown.enter_lazy();
            for _ in 0..3 {
                text.execute(patcher, &any);
                schedule.pause();
            }
            shootdown.leave_lazy();
            text.execute(patcher, &any);
        }),
        Box::new(move || {
            text.execute(patcher, &any);
            shootdown.join();
            schedule.set_interrupts(false);
            for _ in 0..3 {
                text.execute(patcher, &any);
                schedule.pause();
            }
            schedule.set_interrupts(true);
            for old in [nop, call, jump] {
                if broken.two_patchers {
                    // To what it is: one of the three is found there, unless it changes in between.
                    let _ = change(old, old);
                }
                text.execute(patcher, &any);
            }
        }),
    ];
    // Both run the instruction before they join.
    shootdown.expect(CpuId::new(1));
    shootdown.expect(CpuId::new(2));
    let outcome = schedule.run(programs, &|| shootdown.serve(), decide, &|| 0);
    let left = (0..CPUS).find(|cpu| {
        // What is kept under the root's own PCID, too.
        let keep = features.contexts;
        machine.load_root(*cpu, patcher.alias_root(), u16::from(keep), keep);
        let pages = [WINDOW, VirtAddr::new(WINDOW.as_u64() + 4096)];
        pages.iter().any(|page| machine.may_write(*cpu, *page))
    });
    match left {
        Some(cpu) if outcome == Outcome::Done => {
            Outcome::Failed(format!("CPU {cpu} has kept the alias"))
        }
        _ => outcome,
    }
}

/// What each CPU has of the instruction, if there is no doubt.
pub fn fetched_only(text: &Text<'_>) -> Vec<Option<[u8; 5]>> {
    let cpus = text.fetched.cpus.borrow();
    let only = |bytes: &[BTreeSet<u8>; 5]| {
        let sure = bytes.iter().all(|choice| choice.len() == 1);
        let first = |choice: &BTreeSet<u8>| choice.first().copied().unwrap_or(0);
        sure.then(|| {
            [
                first(&bytes[0]),
                first(&bytes[1]),
                first(&bytes[2]),
                first(&bytes[3]),
                first(&bytes[4]),
            ]
        })
    };
    cpus.iter().map(only).collect()
}
