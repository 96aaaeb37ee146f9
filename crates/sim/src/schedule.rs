//! Who runs next: simulated CPUs whose programs stop at every step, so that any order of steps can be had, and had again.
//!
//! Each CPU's program has a stack of its own, and all run on one thread of the host. Where a program *pauses*, a [`Decide`] says
//! which CPU goes on, and whether it first takes an interrupt that is pending:
//!
//! ```text
//!   program --pause--> .-----------------.  go on, if it is ready, or waits and something has happened
//!                      | decide: CPU 0, 1 |------> CPU n
//!   program --relax--> '-----------------'  interrupt, if one is pending and it takes them
//! ```
//!
//! A program that has ended leaves its CPU idle, still taking interrupts. The run ends when all have; when none can go on before that,
//! it is a deadlock, and said to be one.
//!
//! The promise: same programs, same decisions, same run.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use crate::explore::Decide;

/// What a CPU does in a run.
pub type Program<'r> = Box<dyn FnOnce() + 'r>;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All programs ended.
    Done,
    /// One of them panicked, or none can go on: what is wrong, in words.
    Failed(String),
    /// The decisions were not worth going on with.
    Cut,
}

/// The CPUs of one run.
pub struct Schedule {
    cpus: Box<[SimCpu]>,
    /// Which of them runs.
    running: Cell<usize>,
    /// Counts what one CPU may notice of another.
    progress: Cell<u64>,
    /// What an interrupt does; set during a run.
    handler: Cell<Option<*const dyn Fn()>>,
    complaints: RefCell<Vec<String>>,
}

struct SimCpu {
    /// Where its program pauses; set while it exists.
    yielder: Cell<Option<*const Yielder<Resume, ()>>>,
    standing: Cell<Standing>,
    takes_interrupts: Cell<bool>,
    interrupt_pending: Cell<bool>,
    locks: Cell<u32>,
    /// All that the program has learnt from others, and how often it went on: its state, as far as a deterministic program has one.
    history: Cell<u64>,
    last_note: Cell<u64>,
    /// How much had happened when it last looked.
    looked: Cell<u64>,
}

/// What a CPU is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Ready,
    /// Waits for others; has looked when this much had happened.
    Relaxing(u64),
    /// Its program has ended.
    Idle,
    /// Stopped for good.
    Stopped,
}

/// How a CPU goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resume {
    Go,
    Interrupt,
    End,
}

impl Schedule {
    /// `cpus` CPUs that take interrupts.
    #[must_use]
    pub fn new(cpus: usize) -> Self {
        let cpu = |_| SimCpu {
            yielder: Cell::new(None),
            standing: Cell::new(Standing::Ready),
            takes_interrupts: Cell::new(true),
            interrupt_pending: Cell::new(false),
            locks: Cell::new(0),
            history: Cell::new(0),
            last_note: Cell::new(0),
            looked: Cell::new(0),
        };
        Self {
            cpus: (0..cpus).map(cpu).collect(),
            running: Cell::new(0),
            progress: Cell::new(0),
            handler: Cell::new(None),
            complaints: RefCell::default(),
        }
    }

    /// How many CPUs there are.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// How many CPUs' programs have ended.
    #[must_use]
    pub fn idle(&self) -> usize {
        let cpus = self.cpus.iter();
        cpus.filter(|cpu| cpu.standing.get() == Standing::Idle)
            .count()
    }

    /// The CPU that runs the caller.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.get()
    }

    /// Lets others run, if so decided. Outside a run it does nothing.
    pub fn pause(&self) {
        self.suspend(Standing::Ready);
    }

    /// This CPU has just looked whether it can go on, and cannot: the beginning of a turn of waiting.
    pub fn look(&self) {
        self.this().looked.set(self.progress.get());
    }

    /// As [`pause`](Self::pause), and this CPU has nothing to do before something happens that its last [`look`](Self::look) has missed.
    pub fn relax(&self) {
        self.suspend(Standing::Relaxing(self.this().looked.get()));
    }

    /// The program has learnt something that its further way depends on.
    pub fn note(&self, what: &impl Hash) {
        let cpu = self.this();
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        let note = hasher.finish();
        // A loop that finds the same again is where it was.
        if cpu.last_note.replace(note) != note {
            cpu.add_to_history(note);
            self.progress.set(self.progress.get() + 1);
        }
    }

    /// Does what an interrupt does, without one.
    pub fn serve(&self) {
        if let Some(handler) = self.handler.get() {
            // SAFETY: `run` sets the pointer to what it has borrowed, and takes it back before it returns.
            unsafe { (*handler)() };
        }
    }

    /// Makes this CPU take interrupts, or not.
    pub fn set_interrupts(&self, taken: bool) {
        self.this().takes_interrupts.set(taken);
    }

    /// Whether this CPU takes interrupts.
    #[must_use]
    pub fn takes_interrupts(&self) -> bool {
        self.this().takes_interrupts.get()
    }

    /// Interrupts another CPU, as soon as it takes interrupts.
    pub fn interrupt(&self, cpu: usize) {
        self.cpus[cpu].interrupt_pending.set(true);
    }

    /// This CPU has acquired a spin lock; for what may be done with one held, not for excluding anybody.
    pub fn acquire_lock(&self) {
        self.this().locks.set(self.this().locks.get() + 1);
    }

    /// This CPU has released a spin lock.
    pub fn release_lock(&self) {
        self.this().locks.set(self.this().locks.get() - 1);
    }

    /// Whether this CPU holds a spin lock.
    #[must_use]
    pub fn holds_lock(&self) -> bool {
        self.this().locks.get() > 0
    }

    /// This CPU stops for good, as in a panic.
    pub fn stop(&self) {
        self.suspend(Standing::Stopped);
    }

    /// Takes down what a program complains of.
    pub fn complain(&self, complaint: impl fmt::Display) {
        self.complaints.borrow_mut().push(complaint.to_string());
    }

    /// What programs complained of.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.borrow().clone()
    }

    /// Runs a program on each CPU, as `decide` decides, until all have ended. `handler` is what an interrupt does. `fingerprint` is a
    /// number for all that the CPUs share.
    ///
    /// # Panics
    ///
    /// When there is not one program for each CPU.
    pub fn run(
        &self,
        programs: Vec<Program<'_>>,
        handler: &dyn Fn(),
        decide: &mut dyn Decide,
        fingerprint: &dyn Fn() -> u64,
    ) -> Outcome {
        assert_eq!(programs.len(), self.cpus.len(), "one program for each CPU");
        // SAFETY: only the lifetime changes, and the pointer is taken back below, before the borrow ends.
        let handler = unsafe {
            std::mem::transmute::<*const (dyn Fn() + '_), *const (dyn Fn() + 'static)>(handler)
        };
        self.handler.set(Some(handler));
        let mut stacks: Vec<_> = programs
            .into_iter()
            .zip(&self.cpus)
            .map(|(program, cpu)| self.start(cpu, program))
            .collect();
        let outcome = self.steps(&mut stacks, decide, fingerprint);
        for (stack, cpu) in stacks.iter_mut().zip(&self.cpus) {
            if outcome == Outcome::Done && cpu.standing.get() == Standing::Idle {
                let _ = stack.resume(Resume::End);
            } else {
                stack.force_unwind();
            }
            cpu.yielder.set(None);
        }
        keep_stacks(stacks);
        self.handler.set(None);
        outcome
    }

    /// Gives a program a stack. It runs no further than to its first decision.
    fn start<'r>(&'r self, cpu: &'r SimCpu, program: Program<'r>) -> Stack {
        cpu.standing.set(Standing::Ready);
        let body = move |yielder: &Yielder<Resume, ()>, _: Resume| {
            cpu.yielder.set(Some(yielder));
            program();
            self.suspend(Standing::Idle);
        };
        // SAFETY: `run` unwinds or ends every stack before it returns, so nothing that is borrowed is used afterwards.
        unsafe { Coroutine::with_stack_unchecked(take_stack(), body) }
    }

    /// One decision after the other.
    fn steps(
        &self,
        stacks: &mut [Stack],
        decide: &mut dyn Decide,
        fingerprint: &dyn Fn() -> u64,
    ) -> Outcome {
        loop {
            let options = self.options();
            if options.is_empty() {
                return self.ending();
            }
            let whole = || self.fingerprint(fingerprint());
            let Some(decision) = decide.decide(options.len(), &whole) else {
                return Outcome::Cut;
            };
            let (cpu, resume) = options[decision];
            if let Err(message) = self.resume(&mut stacks[cpu], cpu, resume) {
                return Outcome::Failed(message);
            }
        }
    }

    fn resume(&self, stack: &mut Stack, cpu: usize, resume: Resume) -> Result<(), String> {
        self.running.set(cpu);
        let this = &self.cpus[cpu];
        if resume == Resume::Interrupt || this.standing.get() == Standing::Ready {
            // Whatever it does now, others may notice.
            self.progress.set(self.progress.get() + 1);
            this.add_to_history(resume as u64);
        }
        match catch_unwind(AssertUnwindSafe(|| stack.resume(resume))) {
            Ok(CoroutineResult::Yield(()) | CoroutineResult::Return(())) => {
                if !matches!(this.standing.get(), Standing::Relaxing(_)) {
                    self.progress.set(self.progress.get() + 1);
                }
                Ok(())
            }
            Err(payload) => {
                let text = payload.downcast_ref::<String>().cloned();
                let text = text.or_else(|| payload.downcast_ref::<&str>().map(|&text| text.into()));
                Err(format!("CPU {cpu}: {}", text.unwrap_or_default()))
            }
        }
    }

    /// All that can happen next.
    fn options(&self) -> Vec<(usize, Resume)> {
        let mut options = Vec::with_capacity(2 * self.cpus.len());
        for (index, cpu) in self.cpus.iter().enumerate() {
            if self.may_go(cpu) {
                options.push((index, Resume::Go));
            }
            let stopped = cpu.standing.get() == Standing::Stopped;
            if cpu.interrupt_pending.get() && cpu.takes_interrupts.get() && !stopped {
                options.push((index, Resume::Interrupt));
            }
        }
        options
    }

    fn may_go(&self, cpu: &SimCpu) -> bool {
        match cpu.standing.get() {
            Standing::Ready => true,
            Standing::Relaxing(since) => self.progress.get() > since,
            Standing::Idle | Standing::Stopped => false,
        }
    }

    /// What it means that nothing can happen any more.
    fn ending(&self) -> Outcome {
        let waiting: Vec<String> = self
            .cpus
            .iter()
            .enumerate()
            .filter(|(_, cpu)| matches!(cpu.standing.get(), Standing::Relaxing(_)))
            .map(|(index, cpu)| {
                let interrupts = if cpu.takes_interrupts.get() {
                    "on"
                } else {
                    "off"
                };
                format!("CPU {index} waits with interrupts {interrupts}")
            })
            .collect();
        if waiting.is_empty() {
            Outcome::Done
        } else {
            Outcome::Failed(format!("deadlock: {}", waiting.join(", ")))
        }
    }

    /// The same number for the same state.
    fn fingerprint(&self, shared: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        shared.hash(&mut hasher);
        for cpu in &self.cpus {
            let standing = match cpu.standing.get() {
                Standing::Ready => 0,
                Standing::Relaxing(_) => 1,
                Standing::Idle => 2,
                Standing::Stopped => 3,
            };
            (standing, self.may_go(cpu), cpu.history.get()).hash(&mut hasher);
            (cpu.takes_interrupts.get(), cpu.interrupt_pending.get()).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn this(&self) -> &SimCpu {
        &self.cpus[self.running.get()]
    }

    /// Stops this CPU's program until it is to go on, and takes the interrupts that come meanwhile.
    fn suspend(&self, standing: Standing) {
        let cpu = self.this();
        let Some(yielder) = cpu.yielder.get() else {
            return;
        };
        loop {
            cpu.standing.set(standing);
            // SAFETY: the pointer is to the stack that this very program runs on, and is taken back when that ends.
            match unsafe { &*yielder }.suspend(()) {
                Resume::Go | Resume::End => return,
                Resume::Interrupt => {
                    self.handle_interrupt(cpu);
                    if matches!(standing, Standing::Relaxing(_)) {
                        // The loop looks again: the handler may be what it waited for.
                        return;
                    }
                }
            }
        }
    }

    /// With interrupts off, as behind an interrupt gate.
    fn handle_interrupt(&self, cpu: &SimCpu) {
        cpu.interrupt_pending.set(false);
        cpu.takes_interrupts.set(false);
        self.serve();
        cpu.takes_interrupts.set(true);
    }
}

impl SimCpu {
    fn add_to_history(&self, what: u64) {
        let mut hasher = DefaultHasher::new();
        (self.history.get(), what).hash(&mut hasher);
        self.history.set(hasher.finish());
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("cpus", &self.cpus.len())
            .field("running", &self.running.get())
            .finish_non_exhaustive()
    }
}

type Stack = Coroutine<Resume, (), (), DefaultStack>;

thread_local! {
    /// Stacks to be used again: making one costs more than a run.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of a simulated CPU's stack: room for a debug build's frames and a panic's message.
const STACK_BYTES: usize = 256 << 10;

fn take_stack() -> DefaultStack {
    STACKS
        .with(|stacks| stacks.borrow_mut().pop())
        .unwrap_or_else(|| DefaultStack::new(STACK_BYTES).expect("the host has no memory left"))
}

fn keep_stacks(ended: Vec<Stack>) {
    let ended = ended.into_iter().filter(Coroutine::done);
    STACKS.with(|stacks| stacks.borrow_mut().extend(ended.map(Coroutine::into_stack)));
}
