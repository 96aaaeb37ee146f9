//! Areas: the named parts that a kernel's address space is divided into.
//!
//! An [`Area`] is plain numbers: its kind, its range, whether anything is mapped there. Names and purposes are looked up from the
//! [`AreaKind`] when asked for and are not stored, because a kernel that relocates itself while it boots must be able to
//! keep a [`Layout`](crate::Layout) across the move, and a stored `&str` would still point at the old place.

use core::fmt;

use crate::{PagingMode, VirtRange};

/// What an area is for. The kinds are those of Linux's x86 layouts; [`Custom`](Self::Custom) is for other kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AreaKind {
    /// User space: differs from process to process.
    User,
    /// Left to a hypervisor below the direct map of x86-64.
    GuardHole,
    /// The LDT of a process, visible in both halves of a split page table.
    LdtRemap,
    /// All physical memory, in order, at one offset. On i386 only its low part: lowmem.
    DirectMap,
    /// Memory that is contiguous only virtually, and device memory.
    Vmalloc,
    /// One record for each physical frame.
    Vmemmap,
    /// One byte for every eight bytes of kernel memory, for the address sanitizer.
    KasanShadow,
    /// What a CPU needs in the first moment of an interrupt: IDT, GDT, TSS, stacks.
    CpuEntry,
    /// Tiny stacks for returning to 16-bit user code.
    EspFix,
    /// The firmware's run-time services.
    EfiRuntime,
    /// The kernel's own text and data.
    KernelImage,
    /// Loadable modules.
    Modules,
    /// Fixmap slots that are used only while the kernel boots.
    EarlyFixmap,
    /// Addresses known at compile time, pointed at something at run time.
    Fixmap,
    /// The page at which old programs call the kernel for the time.
    Vsyscall,
    /// Where i386 maps high memory for a while.
    Pkmap,
    /// An area that Linux does not have.
    Custom(&'static CustomArea),
}

/// An area that Linux does not have: what [`AreaKind::Custom`] refers to, usually a `static`.
///
/// Unlike the other kinds it is a reference, which a kernel that relocates itself must make after the move.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct CustomArea {
    name: &'static str,
    purpose: &'static str,
}

impl CustomArea {
    /// An area with the name that messages will print, and what it is for in a few plain sentences.
    #[must_use]
    pub const fn new(name: &'static str, purpose: &'static str) -> Self {
        Self { name, purpose }
    }
}

impl AreaKind {
    /// The name that messages print.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::GuardHole => "guard hole",
            Self::LdtRemap => "LDT remap",
            Self::DirectMap => "direct map",
            Self::Vmalloc => "vmalloc",
            Self::Vmemmap => "vmemmap",
            Self::KasanShadow => "KASAN shadow",
            Self::CpuEntry => "cpu_entry_area",
            Self::EspFix => "ESPFIX stacks",
            Self::EfiRuntime => "EFI runtime",
            Self::KernelImage => "kernel image",
            Self::Modules => "modules",
            Self::EarlyFixmap => "early fixmap",
            Self::Fixmap => "fixmap",
            Self::Vsyscall => "vsyscall",
            Self::Pkmap => "pkmap",
            Self::Custom(area) => area.name,
        }
    }

    /// What the area is for, in two or three plain sentences.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::User => {
                "The running process lives here: its code, heap, stacks and files. Each process has tables of its own for this \
                 part, so the same address means different memory in each. The kernel must not trust anything it reads here."
            }
            Self::GuardHole => {
                "The kernel maps nothing here. A hypervisor that shares the address space with its guest may keep its own \
                 mappings in it, and an access that runs off the bottom of the kernel's half faults instead of reaching data."
            }
            Self::LdtRemap => {
                "A process may ask for segment descriptors of its own, kept in a local descriptor table. When user mode runs on \
                 page tables that hide the kernel, the CPU must still be able to read that table, so it is mapped here in both."
            }
            Self::DirectMap => {
                "Physical memory, mapped in order from address zero: a frame's virtual address is the base plus its physical \
                 address. The kernel reaches any frame this way without changing a page table. Nothing in it is executable but, on 32 bits, the kernel's own code."
            }
            Self::Vmalloc => {
                "Large buffers whose frames lie scattered in physical memory are given neighbouring addresses here, and so are \
                 the registers of devices. Each piece ends at an unmapped page, so that running past it faults."
            }
            Self::Vmemmap => {
                "An array with one small record for each physical frame: who uses it, how often, for what. The frame's number is \
                 the index, so going from a frame to its record and back is arithmetic. Parts for absent memory are not mapped."
            }
            Self::KasanShadow => {
                "The kernel address sanitizer, a debugging aid, keeps one byte here for every eight bytes of kernel memory and \
                 records which of them may be touched. Kernels built without it leave the area empty."
            }
            Self::CpuEntry => {
                "When an interrupt arrives, the CPU needs its descriptor tables and a stack before any kernel code has run. They \
                 are collected here, apart from everything else, so that little else must be visible while user code runs. \
                 An unmapped page below each stack turns an overflow into a fault."
            }
            Self::EspFix => {
                "Returning to 16-bit code restores only half of the stack pointer, and the other half would show a kernel address. \
                 The last step of such a return therefore runs on a tiny read-only stack here, whose address gives nothing away."
            }
            Self::EfiRuntime => {
                "The firmware's own code and data, for setting boot variables and the clock after boot. They are mapped only in \
                 a page table of their own, which the kernel loads for the length of one call."
            }
            Self::KernelImage => {
                "The kernel itself, as the linker laid it out: code, constants, variables. It sits in the last 2 GiB so that one \
                 instruction can name any of it with 32 bits. Code is not writable and data is not executable."
            }
            Self::Modules => {
                "Code that is loaded while the kernel runs. It lies right behind the kernel image, because a direct call reaches no \
                 further than 2 GiB."
            }
            Self::EarlyFixmap => {
                "Before the vmalloc area works, the kernel must already read firmware tables. It maps them for a moment through \
                 these slots, eight of them with 64 pages each, and gives each back after use."
            }
            Self::Fixmap => {
                "Slots of one page whose virtual address is fixed when the kernel is compiled. What each one points to is set at \
                 run time: the interrupt controllers, an early console. Code can name a slot before any allocator works."
            }
            Self::Vsyscall => {
                "Old programs ask for the time by jumping to three fixed addresses in this page. It is the one kernel page that user \
                 code may know, and it never moves, so a modern kernel emulates the calls instead of keeping code here."
            }
            Self::Pkmap => {
                "A 32-bit kernel cannot keep all of a large memory mapped. A frame of high memory is mapped here while the kernel \
                 needs it for longer than an instant, and its slot is reused afterwards."
            }
            Self::Custom(area) => area.purpose,
        }
    }

    /// What start and size must be multiples of in `mode`, in bytes; size only to 4 KiB.
    ///
    /// The direct map starts on the largest page, so that it can be built of largest pages. The frame records and the image on
    /// 64 bits start on 2 MiB, because Linux maps both with pages of that size.
    #[must_use]
    pub const fn alignment(self, mode: PagingMode) -> u64 {
        match (self, mode) {
            (Self::DirectMap, PagingMode::TwoLevel) => 4 << 20,
            (Self::DirectMap, PagingMode::Pae) => 2 << 20,
            (Self::DirectMap, PagingMode::FourLevel | PagingMode::FiveLevel) => 1 << 30,
            (Self::Vmemmap | Self::KernelImage, PagingMode::FourLevel | PagingMode::FiveLevel) => {
                2 << 20
            }
            _ => crate::FRAME_SIZE,
        }
    }
}

impl fmt::Display for AreaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whether a kernel maps anything in an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AreaState {
    /// The kernel builds page tables for it.
    Built,
    /// Kept free, as Linux keeps it, and not (or not yet) mapped by this kernel.
    Reserved,
}

impl fmt::Display for AreaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Built => "built",
            Self::Reserved => "reserved",
        })
    }
}

/// One area of a layout.
///
/// Holding one proves nothing beyond its range being a range: [`Layout`](crate::Layout) is what has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Area {
    kind: AreaKind,
    range: VirtRange,
    state: AreaState,
}

impl Area {
    /// An area of this kind at this range.
    #[must_use]
    pub const fn new(kind: AreaKind, range: VirtRange, state: AreaState) -> Self {
        Self { kind, range, state }
    }

    /// What the area is.
    #[must_use]
    pub const fn kind(self) -> AreaKind {
        self.kind
    }

    /// Where it lies.
    #[must_use]
    pub const fn range(self) -> VirtRange {
        self.range
    }

    /// Whether the kernel maps it.
    #[must_use]
    pub const fn state(self) -> AreaState {
        self.state
    }

    /// The name of its kind.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.kind.name()
    }

    /// The purpose of its kind, in two or three plain sentences.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        self.kind.purpose()
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.range)
    }
}
