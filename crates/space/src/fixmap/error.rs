//! Why a slot was not set, or not cleared. Nothing is changed then.

use core::fmt;

use kspace_layout::{FixmapSlot, PhysAddr};
use kspace_paging::CacheType;

/// Why a slot was not set, or not cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// There is no slot with this index.
    NoSuchSlot(FixmapSlot),
    /// The vsyscall page is an area of its own.
    Vsyscall,
    /// A slot for temporary mappings was to be set for good.
    Temporary(FixmapSlot),
    /// The slot shows something already.
    Taken {
        /// Which.
        slot: FixmapSlot,
        /// What; `None` while another CPU sets or clears it.
        phys: Option<PhysAddr>,
    },
    /// There is nothing to clear.
    Empty(FixmapSlot),
    /// The physical address is not that of a page.
    Unaligned {
        /// Which slot.
        slot: FixmapSlot,
        /// The address.
        phys: PhysAddr,
    },
    /// The machine has no such physical address.
    TooWide {
        /// The address.
        phys: PhysAddr,
        /// How many bits its addresses have.
        bits: u32,
    },
    /// Code was to be shown: the fixmap's pages cannot be executed.
    Executable(PhysAddr),
    /// The kernel's code or constants were to be writable.
    ReadOnly(PhysAddr),
    /// RAM was to be cached in another way than everywhere else, which makes two views of it differ (Intel SDM vol. 3, section 13.12.4).
    Ram {
        /// Where the RAM is.
        phys: PhysAddr,
        /// How it was to be cached.
        cache: CacheType,
    },
    /// A temporary mapping has fewer pages.
    TooLong {
        /// How many were asked for.
        pages: u64,
        /// How many there are.
        most: u64,
    },
    /// All temporary mappings are in use.
    NoneFree,
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fixmap: ")?;
        match *self {
            Self::NoSuchSlot(slot) => write!(f, "there is no slot {slot}"),
            Self::Vsyscall => {
                f.write_str("the vsyscall page is not set here; it is an area of its own")
            }
            Self::Temporary(slot) => write!(
                f,
                "slot {slot} is for temporary mappings; ask for one, or take a permanent slot"
            ),
            Self::Taken {
                slot,
                phys: Some(phys),
            } => write!(
                f,
                "slot {slot} shows physical {phys} already; clear it first"
            ),
            Self::Taken { slot, phys: None } => {
                write!(f, "slot {slot} is being set or cleared by another CPU")
            }
            Self::Empty(slot) => write!(f, "slot {slot} is empty; there is nothing to clear"),
            Self::Unaligned { slot, phys } => write!(
                f,
                "slot {slot} cannot show physical {phys}; give the start of a page"
            ),
            Self::TooWide { phys, bits } => write!(
                f,
                "physical {phys} does not exist on this machine, whose addresses have {bits} bits"
            ),
            Self::Executable(phys) => write!(
                f,
                "physical {phys} was to be executable; code belongs in area modules"
            ),
            Self::ReadOnly(phys) => write!(
                f,
                "physical {phys} is the kernel's code or constants, which are writable nowhere; ask for reading, or patch the code"
            ),
            Self::Ram { phys, cache } => write!(
                f,
                "physical {phys} is RAM and cannot be {cache}; RAM is write-back everywhere"
            ),
            Self::TooLong { pages, most } => write!(
                f,
                "a temporary mapping has {most} pages, {pages} were asked for; map them in pieces, or as an area"
            ),
            Self::NoneFree => f.write_str("all temporary mappings are in use; drop one first"),
        }
    }
}

impl core::error::Error for SlotError {}
