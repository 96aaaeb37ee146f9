//! The CPU entry areas of x86-64: what each CPU needs before any kernel code has run.
//!
//! ```text
//!   area +---------------------+
//!        | IDT, read-only      |  one page, shared by all CPUs
//!        +---------------------+
//!        | CPU 0               |  22 pages
//!        | CPU 1               |
//!        :                     :
//!
//!   inside one CPU's part, lowest address first      pages
//!        GDT, read-only                                1
//!        guard                                         1
//!        entry stack                                   1
//!        TSS, read-only                                1
//!        guard, #DF stack                              1 + 2
//!        guard, NMI stack                              1 + 2
//!        guard, #DB stack                              1 + 2
//!        guard, #MC stack                              1 + 2
//!        guard, boot stack (CPU 0 only)                1 + 4
//!        guard                                         1
//! ```
//!
//! The order is Linux's (`struct cpu_entry_area`, `arch/x86/include/asm/cpu_entry_area.h`), which has guards only between the
//! exception stacks and lets the read-only GDT serve as the guard of the entry stack; here every stack has an unmapped page below it,
//! and the boot stack is one more. A guard is never mapped, so a stack that overflows faults, and [`CpuEntryArea::locate`]
//! says whose guard it was. The last guard catches what runs off the top of the boot stack.

use core::fmt;

use crate::{FRAME_SIZE, VirtAddr, VirtRange};

/// One of the stacks in a CPU's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryStack {
    /// For #DF, which is raised when another exception could not be delivered: its stack must work when others do not.
    DoubleFault,
    /// For the non-maskable interrupt, which can arrive in the first instruction of any other entry.
    Nmi,
    /// For #DB, which debug registers can raise anywhere.
    Debug,
    /// For #MC: broken hardware can report at any time.
    MachineCheck,
    /// The stack on which the first CPU starts up: the others start when there are areas to have stacks in.
    Boot,
}

impl EntryStack {
    /// All stacks, lowest address first.
    pub const ALL: [Self; 5] = [
        Self::DoubleFault,
        Self::Nmi,
        Self::Debug,
        Self::MachineCheck,
        Self::Boot,
    ];

    /// The name that messages print.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DoubleFault => "#DF stack",
            Self::Nmi => "NMI stack",
            Self::Debug => "#DB stack",
            Self::MachineCheck => "#MC stack",
            Self::Boot => "boot stack",
        }
    }
}

impl fmt::Display for EntryStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One part of what a CPU has in its entry area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryPart {
    /// The global descriptor table.
    Gdt,
    /// The stack that the CPU switches to when it leaves user mode, before the kernel picks the task's own.
    EntryStack,
    /// The task state segment, which tells the CPU where its stacks are.
    Tss,
    /// A stack for one kind of exception, or the boot stack.
    Stack(EntryStack),
}

impl EntryPart {
    /// All parts, lowest address first.
    pub const ALL: [Self; 8] = [
        Self::Gdt,
        Self::EntryStack,
        Self::Tss,
        Self::Stack(EntryStack::DoubleFault),
        Self::Stack(EntryStack::Nmi),
        Self::Stack(EntryStack::Debug),
        Self::Stack(EntryStack::MachineCheck),
        Self::Stack(EntryStack::Boot),
    ];

    /// The parts that a CPU has, lowest address first: all, but only CPU 0 has a boot stack. The others' place for one stays unmapped.
    pub fn of(cpu: u32) -> impl Iterator<Item = Self> {
        let is_of = move |part: &Self| cpu == 0 || *part != Self::Stack(EntryStack::Boot);
        Self::ALL.into_iter().filter(is_of)
    }

    /// The name that messages print.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gdt => "GDT",
            Self::EntryStack => "entry stack",
            Self::Tss => "TSS",
            Self::Stack(stack) => stack.name(),
        }
    }

    /// The size in pages: #DF, NMI, #DB and #MC have 8 KiB as in Linux (`EXCEPTION_STACK_ORDER` 1), the boot stack the 16 KiB of
    /// a kernel stack (`THREAD_SIZE_ORDER` 2).
    #[must_use]
    pub const fn pages(self) -> u64 {
        match self {
            Self::Gdt | Self::EntryStack | Self::Tss => 1,
            Self::Stack(EntryStack::Boot) => 4,
            Self::Stack(_) => 2,
        }
    }

    /// Whether the kernel writes here through these addresses. The GDT and the TSS are read-only: they are filled in through the
    /// direct map, so that a stray write cannot redirect an interrupt.
    #[must_use]
    pub const fn writable(self) -> bool {
        matches!(self, Self::EntryStack | Self::Stack(_))
    }

    /// Whether an unmapped page lies right below: below every stack.
    #[must_use]
    pub const fn has_guard(self) -> bool {
        matches!(self, Self::EntryStack | Self::Stack(_))
    }

    /// Pages from the start of the CPU's part to this one; its guard lies just before.
    const fn first_page(self) -> u64 {
        match self {
            Self::Gdt => 0,
            Self::EntryStack => 2,
            Self::Tss => 3,
            Self::Stack(stack) => 5 + stack as u64 * 3,
        }
    }
}

impl fmt::Display for EntryPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What lies at an address of the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryPlace {
    /// The read-only page of the IDT.
    Idt,
    /// A part of a CPU.
    Part {
        /// The CPU.
        cpu: u32,
        /// The part.
        part: EntryPart,
        /// How many bytes into it.
        offset: u64,
    },
    /// The unmapped page below a stack.
    Guard {
        /// The CPU.
        cpu: u32,
        /// The stack that the page guards.
        of: EntryPart,
    },
    /// The unmapped page above the last stack of a CPU.
    TopGuard {
        /// The CPU.
        cpu: u32,
    },
    /// Behind the last CPU that fits.
    Unused,
}

impl fmt::Display for EntryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Idt => f.write_str("the IDT"),
            Self::Part { cpu, part, .. } => write!(f, "CPU {cpu}'s {part}"),
            Self::Guard { cpu, of } => write!(f, "guard page of CPU {cpu}'s {of}"),
            Self::TopGuard { cpu } => {
                write!(f, "guard page above CPU {cpu}'s {}", EntryStack::Boot)
            }
            Self::Unused => f.write_str("behind the last CPU's entry area"),
        }
    }
}

/// The geometry of the CPU entry areas.
///
/// # Invariants
///
/// The range starts on a page and has room for the IDT and one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuEntryArea {
    range: VirtRange,
}

impl CpuEntryArea {
    /// Pages of one CPU's part.
    pub const PAGES_PER_CPU: u64 = 22;
    /// Bytes of one CPU's part: 88 KiB.
    pub const BYTES_PER_CPU: u64 = Self::PAGES_PER_CPU * FRAME_SIZE;

    /// The entry areas in `range`; `None` when it does not start on a page or is too small for one CPU.
    #[must_use]
    pub const fn new(range: VirtRange) -> Option<Self> {
        if range.start().is_aligned(FRAME_SIZE) && range.size() >= FRAME_SIZE + Self::BYTES_PER_CPU
        {
            Some(Self { range })
        } else {
            None
        }
    }

    /// How many CPUs fit: more than six million in Linux's 0.5 TiB.
    #[must_use]
    pub const fn capacity(self) -> u32 {
        let cpus = (self.range.size() - FRAME_SIZE) / Self::BYTES_PER_CPU;
        if cpus > u32::MAX as u64 {
            u32::MAX
        } else {
            cpus as u32
        }
    }

    /// The page of the IDT.
    #[must_use]
    pub const fn idt(self) -> VirtRange {
        self.pages(0, 1)
    }

    /// All of one CPU's part, guards included; `None` for a CPU that does not fit.
    #[must_use]
    pub const fn cpu(self, cpu: u32) -> Option<VirtRange> {
        if cpu < self.capacity() {
            Some(self.pages(first_page(cpu), Self::PAGES_PER_CPU))
        } else {
            None
        }
    }

    /// Where `part` of `cpu` lies; `None` for a CPU that does not fit.
    #[must_use]
    pub const fn part(self, cpu: u32, part: EntryPart) -> Option<VirtRange> {
        if cpu < self.capacity() {
            Some(self.pages(first_page(cpu) + part.first_page(), part.pages()))
        } else {
            None
        }
    }

    /// The unmapped page below `part` of `cpu`; `None` for a part without one, or a CPU that does not fit.
    #[must_use]
    pub const fn guard(self, cpu: u32, part: EntryPart) -> Option<VirtRange> {
        if cpu < self.capacity() && part.has_guard() {
            Some(self.pages(first_page(cpu) + part.first_page() - 1, 1))
        } else {
            None
        }
    }

    /// The unmapped page above the last stack of `cpu`; `None` for a CPU that does not fit.
    #[must_use]
    pub const fn top_guard(self, cpu: u32) -> Option<VirtRange> {
        if cpu < self.capacity() {
            Some(self.pages(first_page(cpu) + Self::PAGES_PER_CPU - 1, 1))
        } else {
            None
        }
    }

    /// What lies at `address`; `None` outside the area.
    #[must_use]
    pub fn locate(self, address: VirtAddr) -> Option<EntryPlace> {
        if !self.range.contains(address) {
            return None;
        }
        if self.idt().contains(address) {
            return Some(EntryPlace::Idt);
        }
        let offset = address.offset_from(self.range.start())? - FRAME_SIZE;
        let cpu = match u32::try_from(offset / Self::BYTES_PER_CPU) {
            Ok(cpu) if cpu < self.capacity() => cpu,
            _ => return Some(EntryPlace::Unused),
        };
        let inside = offset % Self::BYTES_PER_CPU;
        let page = inside / FRAME_SIZE;
        for part in EntryPart::ALL {
            if part.has_guard() && page + 1 == part.first_page() {
                return Some(EntryPlace::Guard { cpu, of: part });
            }
            if (part.first_page()..part.first_page() + part.pages()).contains(&page) {
                let offset = inside - part.first_page() * FRAME_SIZE;
                return Some(EntryPlace::Part { cpu, part, offset });
            }
        }
        Some(EntryPlace::TopGuard { cpu })
    }

    /// `count` pages from page `first` of the area. The callers stay within the area, so this cannot fail.
    const fn pages(self, first: u64, count: u64) -> VirtRange {
        match self.range.start().checked_add(first * FRAME_SIZE) {
            Ok(start) => VirtRange::new(start, count * FRAME_SIZE),
            Err(_) => panic!("page lies behind the CPU entry areas"),
        }
    }
}

/// The first page of a CPU's part, counted from the area's start; page 0 is the IDT.
const fn first_page(cpu: u32) -> u64 {
    1 + cpu as u64 * CpuEntryArea::PAGES_PER_CPU
}

// Each part begins where the one before it ended, after a guard if it has one.
const _: () = {
    let mut page = 0;
    let mut index = 0;
    while index < EntryPart::ALL.len() {
        let part = EntryPart::ALL[index];
        page += part.has_guard() as u64;
        assert!(part.first_page() == page);
        page += part.pages();
        index += 1;
    }
    assert!(CpuEntryArea::PAGES_PER_CPU == page + 1);
};

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{string::ToString, vec::Vec};

    use super::*;

    fn linux() -> CpuEntryArea {
        CpuEntryArea::new(VirtRange::new(
            VirtAddr::new(0xffff_fe00_0000_0000),
            1 << 39,
        ))
        .unwrap()
    }

    #[test]
    fn parts_and_guards_tile_a_cpu_exactly() {
        let area = linux();
        for cpu in [0, 1, 4095, area.capacity() - 1] {
            let mut pieces: Vec<VirtRange> = EntryPart::ALL
                .into_iter()
                .filter_map(|part| area.part(cpu, part))
                .collect();
            pieces.extend(
                EntryPart::ALL
                    .into_iter()
                    .filter_map(|part| area.guard(cpu, part)),
            );
            pieces.extend(area.top_guard(cpu));
            pieces.sort();
            assert_eq!(pieces.len(), 8 + 6 + 1);
            assert!(
                pieces
                    .windows(2)
                    .all(|pair| pair[0].end_u64() == pair[1].start().as_u64())
            );
            let whole = area.cpu(cpu).unwrap();
            assert_eq!(pieces[0].start(), whole.start());
            assert_eq!(pieces[14].last(), whole.last());
        }
    }

    #[test]
    fn only_the_first_cpu_has_a_boot_stack() {
        let boot = EntryPart::Stack(EntryStack::Boot);
        assert_eq!(EntryPart::of(0).collect::<Vec<_>>(), EntryPart::ALL);
        for cpu in [1, 2, u32::MAX] {
            let parts: Vec<EntryPart> = EntryPart::of(cpu).collect();
            assert_eq!(parts.len(), EntryPart::ALL.len() - 1);
            assert!(!parts.contains(&boot));
        }
    }

    #[test]
    fn the_area_is_full_after_the_last_cpu() {
        let area = linux();
        // 2^39 bytes less the IDT's page, in pieces of 88 KiB.
        assert_eq!(area.capacity(), 6_100_805);
        assert_eq!(area.cpu(area.capacity()), None);
        assert_eq!(area.part(u32::MAX, EntryPart::Gdt), None);
        assert_eq!(area.guard(u32::MAX, EntryPart::EntryStack), None);
        assert_eq!(area.locate(area.range.last()), Some(EntryPlace::Unused));
    }

    #[test]
    fn every_page_is_named() {
        let at = |address: u64| linux().locate(VirtAddr::new(address)).unwrap().to_string();
        let base = 0xffff_fe00_0000_0000;
        assert_eq!(at(base), "the IDT");
        assert_eq!(at(base + 0x1000), "CPU 0's GDT");
        assert_eq!(at(base + 0x2fff), "guard page of CPU 0's entry stack");
        assert_eq!(at(base + 0x3fff), "CPU 0's entry stack");
        assert_eq!(at(base + 0x4000), "CPU 0's TSS");
        assert_eq!(at(base + 0x5800), "guard page of CPU 0's #DF stack");
        assert_eq!(at(base + 0x6000), "CPU 0's #DF stack");
        assert_eq!(at(base + 0x7fff), "CPU 0's #DF stack");
        assert_eq!(at(base + 0x8000), "guard page of CPU 0's NMI stack");
        assert_eq!(at(base + 0x16000), "guard page above CPU 0's boot stack");
        assert_eq!(at(base + 0x17000), "CPU 1's GDT");
        assert_eq!(linux().locate(VirtAddr::LAST), None);
    }

    #[test]
    fn a_range_without_room_for_one_cpu_is_refused() {
        let base = VirtAddr::new(0xffff_fe00_0000_0000);
        assert_eq!(CpuEntryArea::new(VirtRange::new(base, 22 * 4096)), None);
        let one = CpuEntryArea::new(VirtRange::new(base, 23 * 4096)).unwrap();
        assert_eq!(one.capacity(), 1);
        let odd = VirtAddr::new(0xffff_fe00_0000_0001);
        assert_eq!(CpuEntryArea::new(VirtRange::new(odd, 1 << 30)), None);
    }
}
