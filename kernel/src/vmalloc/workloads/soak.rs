//! `soak-vmalloc=N`: all CPUs make, fill, check, hand on and free areas, N operations together; then all must be as before.
//!
//! ```text
//!   each page of an area holds, in its first and its last word, a number that follows from who made it and when
//!   freed by its CPU, by the next one (mailbox), or by an interrupt handler in the middle of something else (slot)
//!   zeroed ones are looked at first; short mappings are read through the direct map; purges come in between
//! ```
//!
//! A frame that two areas have, one that was freed before every CPU forgot it, or a stale translation shows as a wrong number.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kspace::vmalloc::{AreaRequest, Kind, State};
use kspace_frames::zone::Request;
use kspace_layout::{FRAME_SIZE, Pfn, VirtAddr, VirtRange};

use super::Dice;
use super::account::Account;
use crate::acpi::MAX_CPUS;
use crate::arch::{self, CpuData, Lock};
use crate::info;
use crate::log::counted::Counted;
use crate::memory::{self, Memory};
use crate::vmalloc::{self, Areas};

/// Areas that a CPU holds at most.
const HOLDS: usize = 48;
/// Areas that wait for a CPU at most.
const MAILBOX: usize = 16;
/// Pages of a CPU's own that it maps for a short time.
const OWN_PAGES: u64 = 4;

/// Areas that another CPU is to free.
static MAILBOXES: [Lock<Vec<Held>>; MAX_CPUS] = [const { Lock::new(Vec::new()) }; MAX_CPUS];
/// The area that each CPU's next timer interrupt is to free: its first address, which it also holds.
static SLOTS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

static OPERATIONS: AtomicU64 = AtomicU64::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);
static MADE: AtomicU64 = AtomicU64::new(0);
static PAGES: AtomicU64 = AtomicU64::new(0);
static LARGE: AtomicU64 = AtomicU64::new(0);
static SHORT_LIVED: AtomicU64 = AtomicU64::new(0);
static HANDED: AtomicU64 = AtomicU64::new(0);
static IN_HANDLERS: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Runs so many operations, shared between the CPUs, decided at random from `seed`. True when nothing was wrong.
pub fn run(operations: u64, seed: u64) -> bool {
    let (Some(areas), Some(memory)) = (vmalloc::get(), memory::get()) else {
        return false;
    };
    MAILBOXES
        .iter()
        .for_each(|mailbox| mailbox.lock().reserve(MAILBOX));
    Account::begin(areas);
    // The heap takes what it needs once, and the allocator's stacks are filled.
    prepare(operations.min(1000), seed);
    arch::on_all(operations_on);
    arch::on_all(clean_up);
    let (before, purges) = (Account::take(areas, memory), areas.totals().purges);
    prepare(operations, seed);
    arch::on_all(operations_on);
    arch::on_all(clean_up);
    let (after, purges) = (Account::take(areas, memory), areas.totals().purges - purges);
    let load = |count: &AtomicU64| count.load(Relaxed);
    info!(
        "soak-vmalloc: {operations} operations on {}, seed={seed}: {} areas of {} pages, {} of them large, {} short mappings; {} freed by \
         another CPU, {} in interrupt handlers; {purges} purges",
        Counted(arch::cpus_online(), "CPU"),
        load(&MADE),
        load(&PAGES),
        load(&LARGE),
        load(&SHORT_LIVED),
        load(&HANDED),
        load(&IN_HANDLERS),
    );
    let same = before.is_same_as(&after);
    info!(
        "soak-vmalloc: {} wrong numbers, {} refused; frames, tables and addresses are {} before",
        load(&WRONG),
        load(&REFUSED),
        if same { "as" } else { "NOT as" },
    );
    let handlers = load(&IN_HANDLERS) > 0;
    same && load(&WRONG) == 0 && load(&REFUSED) == 0 && handlers
}

fn prepare(operations: u64, seed: u64) {
    OPERATIONS.store(operations / arch::cpus_online(), Relaxed);
    SEED.store(seed, Relaxed);
    let counts = [
        &MADE,
        &PAGES,
        &LARGE,
        &SHORT_LIVED,
        &HANDED,
        &IN_HANDLERS,
        &WRONG,
        &REFUSED,
    ];
    counts.iter().for_each(|count| count.store(0, Relaxed));
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Relaxed);
}

fn operations_on(cpu: &'static CpuData) {
    let (Some(areas), Some(memory)) = (vmalloc::get(), memory::get()) else {
        return;
    };
    let mut dice = Dice(arch::mix(
        SEED.load(Relaxed) ^ (u64::from(cpu.index()) << 48),
    ));
    let Ok(own) = memory.allocate(&Request::order(2)) else {
        return add(&REFUSED, 1);
    };
    let mut held: Vec<Held> = Vec::with_capacity(HOLDS + 1);
    for _ in 0..OPERATIONS.load(Relaxed) {
        match dice.below(64) {
            0..=31 => held.extend(make(areas, &mut dice)),
            32..=55 => free_one(areas, &mut dice, &mut held),
            56..=58 => hand_on(cpu, &mut dice, &mut held),
            59 => leave_to_handler(cpu, areas, &mut dice),
            60 => look_up(areas, &held),
            _ => short_lived(areas, memory, own.pfn(), &mut dice),
        }
        if held.len() > HOLDS {
            free_one(areas, &mut dice, &mut held);
        }
        empty_mailbox(cpu, areas);
        if dice.below(4096) == 0 {
            areas.purge();
        }
    }
    held.into_iter().for_each(|held| held.free(areas));
    // The short mappings of it are gone from every TLB after this.
    areas.purge();
    memory.free(own);
}

/// What others have left to this CPU, and to its handler.
fn clean_up(cpu: &'static CpuData) {
    if let Some(areas) = vmalloc::get() {
        empty_mailbox(cpu, areas);
        free_from_slot(cpu, areas);
    }
}

/// An area that holds its numbers.
struct Held {
    range: VirtRange,
    number: u64,
}

impl Held {
    fn words(&self) -> impl Iterator<Item = (*mut u64, u64)> + use<> {
        let (start, number) = (self.range.start().as_u64(), self.number);
        (0..self.range.size() / FRAME_SIZE).flat_map(move |page| {
            let first = start + page * FRAME_SIZE;
            let expected = number.wrapping_add(page);
            [first, first + FRAME_SIZE - 8].map(|at| (at as *mut u64, expected))
        })
    }

    fn fill(&self) {
        for (place, number) in self.words() {
            // SAFETY: the area is mapped, and this value's alone.
            unsafe { place.write_volatile(number) };
        }
    }

    fn count_wrong(&self, expected: impl Fn(u64) -> u64) -> u64 {
        // SAFETY: as in `fill`.
        let wrong = |&(place, number): &(*mut u64, u64)| unsafe { place.read_volatile() } != expected(number);
        self.words().filter(wrong).count() as u64
    }

    fn free(self, areas: &Areas) {
        add(&WRONG, self.count_wrong(|number| number));
        free(areas, self.range.start());
    }
}

fn free(areas: &Areas, start: VirtAddr) {
    // SAFETY: whoever calls this has the area, and uses it no more.
    if let Err(error) = unsafe { areas.free(start) } {
        add(&WRONG, 1);
        info!("soak-vmalloc: {error}");
    }
}

/// Short ones more often than long ones, as real loads have it.
fn any_request(dice: &mut Dice) -> AreaRequest {
    let pages = match dice.below(256) {
        0 => 256 + dice.below(1024),
        1..=15 => 1 + dice.below(255),
        16..=63 => 1 + dice.below(32),
        _ => 1 + dice.below(4),
    };
    let request = AreaRequest::new(pages * FRAME_SIZE - dice.below(FRAME_SIZE));
    let request = match dice.below(16) {
        0 => request.aligned(FRAME_SIZE << dice.below(10)),
        1 => request.kind(Kind::Stack),
        _ => request,
    };
    if dice.below(8) == 0 {
        request.zeroed()
    } else {
        request
    }
}

fn make(areas: &Areas, dice: &mut Dice) -> Option<Held> {
    let request = any_request(dice);
    let range = match areas.allocate(&request) {
        Ok(range) => range,
        Err(error) => {
            add(&REFUSED, 1);
            info!("soak-vmalloc: {error}");
            return None;
        }
    };
    let held = Held {
        range,
        number: dice.next(),
    };
    if request == request.zeroed() {
        add(&WRONG, held.count_wrong(|_| 0));
    }
    held.fill();
    let pages = range.size() / FRAME_SIZE;
    add(&MADE, 1);
    add(&PAGES, pages);
    add(&LARGE, u64::from(pages > 255));
    Some(held)
}

fn free_one(areas: &Areas, dice: &mut Dice, held: &mut Vec<Held>) {
    if !held.is_empty() {
        let which = dice.below(held.len() as u64) as usize;
        held.swap_remove(which).free(areas);
    }
}

/// Gives one to the next CPU.
fn hand_on(cpu: &CpuData, dice: &mut Dice, held: &mut Vec<Held>) {
    let next = (u64::from(cpu.index()) + 1) % arch::cpus_online();
    let mut mailbox = MAILBOXES[next as usize].lock();
    // It must not grow while the lock is held.
    if !held.is_empty() && mailbox.len() < mailbox.capacity() {
        let which = dice.below(held.len() as u64) as usize;
        mailbox.push(held.swap_remove(which));
        add(&HANDED, 1);
    }
}

fn empty_mailbox(cpu: &CpuData, areas: &Areas) {
    loop {
        let one = MAILBOXES[cpu.index() as usize].lock().pop();
        match one {
            Some(held) => held.free(areas),
            None => return,
        }
    }
}

/// Leaves an area to the next timer interrupt.
fn leave_to_handler(cpu: &CpuData, areas: &Areas, dice: &mut Dice) {
    let slot = &SLOTS[cpu.index() as usize];
    if slot.load(Relaxed) != 0 {
        return;
    }
    let Some(held) = make(areas, dice) else {
        return;
    };
    let start = held.range.start().as_u64();
    // SAFETY: the area is mapped, and this function's alone.
    unsafe { (start as *mut u64).write_volatile(start) };
    slot.store(start, Relaxed);
    arch::interrupt_in(1 + dice.below(50));
}

/// The timer's handler: frees the area that its CPU has left to it.
pub fn in_handler(cpu: &CpuData) {
    if let Some(areas) = vmalloc::get() {
        add(&IN_HANDLERS, u64::from(free_from_slot(cpu, areas)));
    }
}

fn free_from_slot(cpu: &CpuData, areas: &Areas) -> bool {
    let start = SLOTS[cpu.index() as usize].swap(0, Relaxed);
    if start == 0 {
        return false;
    }
    // SAFETY: who put it there left the area to this function.
    let found = unsafe { (start as *const u64).read_volatile() };
    add(&WRONG, u64::from(found != start));
    free(areas, VirtAddr::new(start));
    true
}

/// What the areas say of one that lives, and of its guard.
fn look_up(areas: &Areas, held: &[Held]) {
    let Some(Held { range, .. }) = held.last() else {
        return;
    };
    let places = [
        range.start().as_u64(),
        range.last().as_u64(),
        range.end_u64(),
    ];
    let wrong = places.iter().filter(|place| {
        let found = areas.find(VirtAddr::new(**place));
        found.is_none_or(|found| found.range != *range || found.state != State::Live)
    });
    add(&WRONG, wrong.count() as u64);
}

/// Maps pages of this CPU's own, writes through the mapping, and reads through the direct map.
fn short_lived(areas: &Areas, memory: &Memory, own: Pfn, dice: &mut Dice) {
    let pages = 1 + dice.below(OWN_PAGES);
    // SAFETY: the frames are this CPU's until a purge after the last of these.
    let range = match unsafe { areas.map_ram(pages, |page| Pfn::new(own.as_u64() + page)) } {
        Ok(range) => range,
        Err(_) => return add(&REFUSED, 1),
    };
    let held = Held {
        range,
        number: dice.next(),
    };
    held.fill();
    for page in 0..pages {
        let frame = Pfn::new(own.as_u64() + page);
        let Some(alias) = memory.window().pointer(frame.start(), 8) else {
            return add(&REFUSED, 1);
        };
        // SAFETY: RAM in the direct map, this CPU's alone.
        let found = unsafe { alias.cast::<u64>().read_volatile() };
        add(&WRONG, u64::from(found != held.number.wrapping_add(page)));
    }
    add(&SHORT_LIVED, 1);
    add(&WRONG, held.count_wrong(|number| number));
    // SAFETY: mapped above, and not used any more.
    let unmapped = unsafe { areas.unmap_ram(range.start(), pages) };
    // SAFETY: as above: it must be refused.
    let again = unsafe { areas.unmap_ram(range.start(), pages) };
    add(&WRONG, u64::from(unmapped.is_err() || again.is_ok()));
}
