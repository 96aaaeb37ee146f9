//! `test-text-patch=N`: three instructions are changed N times, together, while every other CPU runs through them.
//!
//! ```text
//!   state   0                1                   2                3                 and over again
//!           nop              call (answer 1)     nop              jump (answer 2)
//!   answer  0                1                   0                2
//! ```
//!
//! Who runs them reads how many changes were complete before, and how many had begun afterwards: the answer must be that of one of the
//! states in between, and nothing else. One of the instructions crosses a cache line, one a page; the third does, too, and is in a sealed area
//! for code, which is freed in the end.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kspace::areas::{Code, CodeError};
use kspace::text_patch::{Edit, NOP_5, TooFar, call, jump};
use kspace_layout::{FRAME_SIZE, VirtAddr};
use kspace_paging::Walker;
use x86_64::instructions::interrupts;

use super::boot::Handoff;
use super::per_cpu::{self, CpuData};
use super::text_patch::{self, TextPatcher};
use super::{clock, work};
use crate::acpi::MAX_CPUS;
use crate::vmalloc::ThisKernel;
use crate::{info, memory, permissions, vmalloc};

global_asm!(
    r#"
    .pushsection .text, "ax", @progbits
    // The site is 2 bytes behind the start: its 5 bytes lie in two lines, or two pages.
    .balign 64
    .skip 60
crosses_line:
    xor eax, eax
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
    ret
    .balign 4096
    .skip 4092
crosses_page:
    xor eax, eax
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
    ret
answer_one:
    mov eax, 1
    ret
answer_two:
    mov eax, 2
    ret
    .popsection

    // The same in one piece, to be copied: an area is too far away to call the answers above.
    .pushsection .rodata, "a", @progbits
movable:
    xor eax, eax
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
    ret
movable_one:
    mov eax, 1
    ret
movable_two:
    mov eax, 2
    ret
movable_end:
    .popsection
    "#
);

unsafe extern "C" {
    fn crosses_line() -> u32;
    fn crosses_page() -> u32;
    fn answer_one();
    fn answer_two();
    static movable: u8;
    static movable_one: u8;
    static movable_two: u8;
    static movable_end: u8;
}

/// Bytes of `xor eax, eax`.
const SITE: u64 = 2;

/// Where in its two pages the copy is: the site lies in both.
const COPY: u64 = FRAME_SIZE - 4;

type Sealed = Code<'static, 'static, ThisKernel, MAX_CPUS>;

/// What each state answers.
const ANSWERS: [u32; 4] = [0, 1, 0, 2];

static EDITS: AtomicU64 = AtomicU64::new(0);
/// Changes that have begun, and that are complete.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static COMPLETE: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
/// Where the copy is.
static COPIED: AtomicU64 = AtomicU64::new(0);

/// Makes `edits` changes. True when every answer was right, and no table that a CPU could load has a page that is writable and
/// executable.
// The boot stack is small: what comes after needs this frame gone.
#[inline(never)]
pub fn run(handoff: &'static Handoff, edits: u64) -> bool {
    let Some(memory) = memory::get() else {
        return false;
    };
    let patcher = match text_patch::bring_up(handoff, memory) {
        Ok(patcher) => patcher,
        Err(error) => {
            info!("test-text-patch: {error}");
            return false;
        }
    };
    let code = match copy_into_area() {
        Ok(Some(code)) => code,
        Ok(None) => {
            info!("test-text-patch: there are no areas");
            return false;
        }
        Err(error) => {
            info!("test-text-patch: {error}");
            return false;
        }
    };
    EDITS.store(edits, Ordering::Relaxed);
    let began = clock::ticks();
    work::on_all(|cpu| match text_patch::get() {
        Some(patcher) if cpu.index() == 0 => change(patcher),
        _ => run_through(cpu),
    });
    let took = clock::microseconds_in(clock::ticks() - began);
    let (calls, wrong) = (CALLS.load(Ordering::Relaxed), WRONG.load(Ordering::Relaxed));
    let refused = REFUSED.load(Ordering::Relaxed);
    info!(
        "test-text-patch: {edits} changes of 3 instructions in {took} microseconds; {} CPUs ran them {calls} times: {wrong} wrong answers, {refused} \
         changes refused",
        per_cpu::online().count()
    );
    info!(
        "test-text-patch: {} breakpoints were stepped over",
        patcher.hits()
    );
    let sound = alias_tables_are_sound(handoff, memory.window(), patcher);
    info!("test-text-patch: the alias is gone, and nothing is writable and executable: {sound}");
    let freed = free(handoff, memory.window(), code);
    info!(
        "test-text-patch: the area of the third instruction is freed, and nothing is mapped there: {freed}"
    );
    sound && freed && wrong == 0 && refused == 0
}

/// Makes the third instruction: copies the function into an area, and seals that; `None` when there are no areas.
#[inline(never)]
fn copy_into_area() -> Result<Option<[Sealed; 1]>, CodeError> {
    let (Some(areas), Some(rights)) = (vmalloc::get(), permissions::get()) else {
        return Ok(None);
    };
    let code = Code::new(areas, areas, Some(rights), 2 * FRAME_SIZE)?;
    let Some(written) = code.writable() else {
        return Ok(None);
    };
    let (from, bytes) = (&raw const movable, behind_start(&raw const movable_end));
    let to = (written.start().as_u64() + COPY) as *mut u8;
    // SAFETY: the copy is much shorter than the second page, and nobody else knows of the area.
    unsafe { to.copy_from_nonoverlapping(from, bytes as usize) };
    COPIED.store(code.range().start().as_u64() + COPY, Ordering::Relaxed);
    let mut batch = [code];
    Code::seal(&mut batch)?;
    Ok(Some(batch))
}

/// How far behind the start of the copy a part of it is, in bytes.
fn behind_start(part: *const u8) -> u64 {
    part as u64 - (&raw const movable) as u64
}

/// Frees the area, which no CPU runs any more. Whether nothing is mapped there then.
#[inline(never)]
fn free(handoff: &Handoff, window: &super::memory::Window, code: [Sealed; 1]) -> bool {
    let range = code[0].range();
    drop(code);
    let mode = handoff.plan.layout.mode();
    let walker = Walker::new(mode, handoff.root, window).with_limits(handoff.plan.limits);
    walker.runs(range).count() == 0
}

/// Changes all instructions from state to state.
fn change(patcher: &TextPatcher) {
    for number in 0..EDITS.load(Ordering::Relaxed) {
        BEGUN.store(number + 1, Ordering::SeqCst);
        if let Err(error) = change_once(patcher, number) {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            info!("test-text-patch: {error}");
            break;
        }
        COMPLETE.store(number + 1, Ordering::SeqCst);
        // The CPU that changed it sees it, too.
        run_once(0);
    }
    DONE.store(true, Ordering::Release);
}

/// Why a change was not made.
enum Refused {
    TooFar(TooFar),
    Patch(kspace::text_patch::PatchError),
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooFar(error) => error.fmt(f),
            Self::Patch(error) => error.fmt(f),
        }
    }
}

fn change_once(patcher: &TextPatcher, number: u64) -> Result<(), Refused> {
    let mut functions = functions();
    functions.sort_unstable_by_key(|function| function.start);
    let sites = functions.map(|function| VirtAddr::new(function.start + SITE));
    let (mut old, mut new) = ([NOP_5; 3], [NOP_5; 3]);
    for (index, function) in functions.iter().enumerate() {
        old[index] = function.instruction(number).map_err(Refused::TooFar)?;
        new[index] = function.instruction(number + 1).map_err(Refused::TooFar)?;
    }
    let edits = [0, 1, 2].map(|index| Edit {
        at: sites[index],
        old: &old[index],
        new: &new[index],
    });
    // SAFETY: each site is one instruction of five bytes that nothing jumps into; what it becomes leads to code that returns as the
    // function does, and changes no register but the answer.
    unsafe { patcher.patch(&edits) }.map_err(Refused::Patch)
}

/// A function with a site, and where it may lead.
#[derive(Clone, Copy)]
struct Function {
    start: u64,
    one: u64,
    two: u64,
}

impl Function {
    /// What stands at the site in this state.
    fn instruction(self, state: u64) -> Result<[u8; 5], TooFar> {
        let at = VirtAddr::new(self.start + SITE);
        match ANSWERS[state as usize % ANSWERS.len()] {
            1 => call(at, VirtAddr::new(self.one)),
            2 => jump(at, VirtAddr::new(self.two)),
            _ => Ok(NOP_5),
        }
    }
}

/// All of them.
fn functions() -> [Function; 3] {
    let copied = COPIED.load(Ordering::Relaxed);
    let in_image = |start| Function {
        start,
        one: answer_one as *const () as u64,
        two: answer_two as *const () as u64,
    };
    [
        in_image(crosses_line as *const () as u64),
        in_image(crosses_page as *const () as u64),
        Function {
            start: copied,
            one: copied + behind_start(&raw const movable_one),
            two: copied + behind_start(&raw const movable_two),
        },
    ]
}

fn run_through(cpu: &'static CpuData) {
    let mut round = u64::from(cpu.index());
    while !DONE.load(Ordering::Acquire) {
        run_once(round);
        round += 1;
    }
}

/// Runs all; now and then with interrupts off, where nobody could wait for the change.
fn run_once(round: u64) {
    for function in functions() {
        // SAFETY: a function of this type begins there; the area's is sealed, and freed only when all CPUs are through.
        let function = unsafe {
            core::mem::transmute::<*const (), unsafe extern "C" fn() -> u32>(
                function.start as *const (),
            )
        };
        let complete = COMPLETE.load(Ordering::SeqCst);
        // SAFETY: in every state a function that takes nothing, returns a number, and changes only the register that it is in.
        let call = || unsafe { function() };
        let answer = if round % 8 == 7 {
            interrupts::without_interrupts(call)
        } else {
            call()
        };
        let begun = BEGUN.load(Ordering::SeqCst);
        let right =
            (complete..=begun).any(|state| ANSWERS[state as usize % ANSWERS.len()] == answer);
        CALLS.fetch_add(1, Ordering::Relaxed);
        if !right {
            WRONG.fetch_add(1, Ordering::Relaxed);
            info!("test-text-patch: answer {answer} between changes {complete} and {begun}");
        }
    }
}

/// Whether the root that has the alias maps nothing in its own half, and nothing writable and executable in the kernel's.
fn alias_tables_are_sound(
    handoff: &Handoff,
    memory: &super::memory::Window,
    patcher: &TextPatcher,
) -> bool {
    let mode = handoff.plan.layout.mode();
    let walker = Walker::new(mode, patcher.alias_root(), memory).with_limits(handoff.plan.limits);
    handoff.plan.layout.places().all(|place| {
        let Some(range) = place.range() else {
            return true;
        };
        let lower = range.start() <= mode.lower_half_last();
        walker
            .runs(range)
            .all(|run| run.is_ok_and(|run| !lower && !run.attributes.is_write_execute()))
    })
}
