//! What is remembered of each frame: four bytes, changed in one step.
//!
//! ```text
//!   31                    14 13   11 10     6 5    2 1     0
//!   |  references or CPU    | flags | owner  | order | state |
//! ```
//!
//! Promise: a block's first frame has the one record that counts, and only the compare-and-exchange from exactly *handed
//! out, this order, one reference, not mapped* to *free* lets anybody give the block back. So of two who free one block
//! at the same time, one gets an error; and a frame whose record is all zero was never handed out, which is what memory
//! nobody has written says by itself.
//!
//! Other frames of a block keep the record they had, never *handed out*. A free record keeps order and owner, and has the
//! CPU that freed it in place of the references: that is the history that error messages tell.

use core::fmt;

use super::index::Order;
use super::sync::{AcqRel, AtomicU32, Relaxed};

const STATE: u32 = 0b11;
const ORDER_SHIFT: u32 = 2;
const OWNER_SHIFT: u32 = 6;
const FLAGS_SHIFT: u32 = 11;
const COUNT_SHIFT: u32 = 14;

/// References that one block can have; the next one is refused.
pub const MAX_REFERENCES: u32 = (1 << (32 - COUNT_SHIFT)) - 1;

/// What a block is used for. A kernel names its own kinds; these are only numbers here, but for printing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(u8);

impl Owner {
    /// Nothing in particular.
    pub const KERNEL: Self = Self(0);
    /// Page tables.
    pub const PAGE_TABLE: Self = Self(1);
    /// Memory of processes.
    pub const USER: Self = Self(2);
    /// Stacks of the kernel.
    pub const STACK: Self = Self(3);
    /// The kernel's heap.
    pub const HEAP: Self = Self(4);
    /// Memory behind the vmalloc area.
    pub const VMALLOC: Self = Self(5);
    /// Memory that a device reads or writes.
    pub const DMA: Self = Self(6);
    /// Contents of files.
    pub const CACHE: Self = Self(7);

    /// How many kinds there can be.
    pub const COUNT: u8 = 32;

    /// A kernel's own kind, 8 to 31 (the lower ones are named here).
    ///
    /// # Panics
    ///
    /// When `kind` is 32 or more; in a `const` that is a compile error.
    #[must_use]
    pub const fn new(kind: u8) -> Self {
        assert!(kind < Self::COUNT, "there are 32 kinds of owner");
        Self(kind)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "kernel memory",
            1 => "a page table",
            2 => "user memory",
            3 => "a stack",
            4 => "heap",
            5 => "vmalloc memory",
            6 => "DMA memory",
            7 => "file cache",
            kind => return write!(f, "memory of kind {kind}"),
        };
        f.write_str(name)
    }
}

/// One of the flags that a block in use carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// Page tables point to it: it cannot be freed.
    pub const MAPPED: Self = Self(1);

    /// Whether all flags of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// It was never handed out as the first frame of a block.
    Untouched,
    /// The first frame of a block in use.
    InUse {
        /// The block's order.
        order: Order,
        /// What it is used for.
        owner: Owner,
        /// Its flags.
        flags: Flags,
        /// How many hold it.
        references: u32,
    },
    /// It was the first frame of a block, which is free again.
    Freed {
        /// The block's order.
        order: Order,
        /// What it was used for.
        owner: Owner,
        /// The CPU that freed it; `None` when that was not on any CPU's account.
        cpu: Option<u16>,
    },
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Untouched => f.write_str("never handed out"),
            Self::InUse {
                order,
                owner,
                references,
                ..
            } => {
                write!(f, "in use as {owner}, {order}")?;
                if references != 1 {
                    write!(f, ", held {references} times")?;
                }
                Ok(())
            }
            Self::Freed { order, owner, cpu } => {
                write!(f, "was {owner}, {order}, freed")?;
                match cpu {
                    Some(cpu) => write!(f, " by CPU {cpu}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// The record of one frame. All zero: never handed out.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Record(AtomicU32);

const FREED: u32 = 1;
const IN_USE: u32 = 2;

/// No CPU, in the place of a CPU's number.
const NO_CPU: u32 = MAX_REFERENCES;

/// The record of a block just handed out.
const fn in_use(order: Order, owner: Owner) -> u32 {
    (1 << COUNT_SHIFT)
        | ((owner.0 as u32) << OWNER_SHIFT)
        | ((order.get() as u32) << ORDER_SHIFT)
        | IN_USE
}

/// Who frees, as what has to be added to the record of a block that is in use and held once.
#[derive(Clone, Copy, Debug)]
pub(super) struct FreedBy(u32);

impl FreedBy {
    /// On no CPU's account.
    pub(super) const NOBODY: Self = Self::number(NO_CPU);

    /// On this CPU's account.
    pub(super) const fn cpu(cpu: u16) -> Self {
        Self::number(cpu as u32)
    }

    /// From *in use* and one reference to *free* and the number; order and owner stay.
    const fn number(by: u32) -> Self {
        let freed = FREED | (by << COUNT_SHIFT);
        Self(freed.wrapping_sub(IN_USE | (1 << COUNT_SHIFT)))
    }
}

/// The bits of the order.
const ORDERS: u32 = 0b1111 << ORDER_SHIFT;

/// The flag of mapped blocks.
const MAPPED: u32 = (Flags::MAPPED.0 as u32) << FLAGS_SHIFT;

/// All but the owner: what must be as expected when a block is given back.
const CHECKED: u32 = !(((Owner::COUNT as u32) - 1) << OWNER_SHIFT);

impl Record {
    /// Writes that a block begins here. Only for who has just taken it from the free ones.
    #[inline]
    pub(super) fn hand_out(&self, order: Order, owner: Owner) {
        self.0.store(in_use(order, owner), Relaxed);
    }

    /// As [`hand_out`](Self::hand_out), with the block marked as mapped.
    #[inline(always)]
    pub(super) fn hand_out_mapped(&self, order: Order, owner: Owner) {
        self.0.store(in_use(order, owner) | MAPPED, Relaxed);
    }

    /// Writes that the block is free, if it is in use with this order, one reference, and not mapped. Whether it was.
    #[inline(always)]
    pub(super) fn take_back(&self, order: Order, by: FreedBy) -> bool {
        let old = self.0.load(Relaxed);
        if old & CHECKED != in_use(order, Owner(0)) {
            return false;
        }
        let new = old.wrapping_add(by.0);
        // Acquire: what others did with the content before they gave up their references happened before.
        self.0.compare_exchange(old, new, AcqRel, Relaxed).is_ok()
    }

    /// Marks a block that was handed out just now as mapped: nobody else knows it yet, so no locked instruction is needed.
    #[inline]
    pub(super) fn map_new(&self) {
        self.0.store(self.0.load(Relaxed) | MAPPED, Relaxed);
    }

    /// As [`take_back`](Self::take_back), for a block that is mapped and of any order, which is returned.
    #[inline(always)]
    pub(super) fn take_back_mapped(&self, by: FreedBy) -> Option<Order> {
        let old = self.0.load(Relaxed);
        let order = if old & CHECKED == in_use(Order::FRAME, Owner(0)) | MAPPED {
            Order::FRAME
        } else if old & CHECKED & !ORDERS == in_use(Order::FRAME, Owner(0)) | MAPPED {
            Order::try_new((old & ORDERS) >> ORDER_SHIFT).ok()?
        } else {
            return None;
        };
        let new = (old - MAPPED).wrapping_add(by.0);
        let taken = self.0.compare_exchange(old, new, AcqRel, Relaxed);
        taken.is_ok().then_some(order)
    }

    /// As [`take_back_mapped`](Self::take_back_mapped), for a single frame only. Whether it was one.
    #[inline(always)]
    pub(super) fn take_back_mapped_single(&self, by: FreedBy) -> bool {
        let old = self.0.load(Relaxed);
        if old & CHECKED != in_use(Order::FRAME, Owner(0)) | MAPPED {
            return false;
        }
        let new = old.wrapping_add(by.0.wrapping_sub(MAPPED));
        self.0.compare_exchange(old, new, AcqRel, Relaxed).is_ok()
    }

    /// What it says.
    #[must_use]
    pub fn history(&self) -> History {
        decode(self.0.load(Relaxed))
    }

    /// Adds one reference, if the block is in use.
    pub(super) fn share(&self) -> Result<(), History> {
        self.update(|old| match decode(old) {
            History::InUse { references, .. } if references < MAX_REFERENCES => {
                Some(old + (1 << COUNT_SHIFT))
            }
            _ => None,
        })
        .map(|_| ())
    }

    /// Takes one reference away, unless it is the last. `Ok(false)`: it is the last.
    pub(super) fn unshare(&self) -> Result<bool, History> {
        match self.update(|old| match decode(old) {
            History::InUse { references, .. } if references > 1 => Some(old - (1 << COUNT_SHIFT)),
            _ => None,
        }) {
            Ok(_) => Ok(true),
            Err(History::InUse { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Sets and clears flags of a block in use.
    pub(super) fn set_flags(&self, set: Flags, clear: Flags) -> Result<(), History> {
        self.update(|old| match decode(old) {
            History::InUse { .. } => Some(
                (old | (u32::from(set.0) << FLAGS_SHIFT)) & !(u32::from(clear.0) << FLAGS_SHIFT),
            ),
            _ => None,
        })
        .map(|_| ())
    }

    /// Changes the record in one step; `Err` with what it says when `change` refuses. Acquire and release: who gives up
    /// the last reference must see what the others did with the content.
    fn update(&self, change: impl Fn(u32) -> Option<u32>) -> Result<u32, History> {
        self.0.fetch_update(AcqRel, Relaxed, change).map_err(decode)
    }
}

/// The meaning of a record's bits.
fn decode(bits: u32) -> History {
    let order = Order::try_new((bits >> ORDER_SHIFT) & 0xf).unwrap_or(Order::MAX);
    let owner = Owner(((bits >> OWNER_SHIFT) & u32::from(Owner::COUNT - 1)) as u8);
    let count = bits >> COUNT_SHIFT;
    match bits & STATE {
        IN_USE => History::InUse {
            order,
            owner,
            flags: Flags(((bits >> FLAGS_SHIFT) & 0b111) as u8),
            references: count,
        },
        FREED => History::Freed {
            order,
            owner,
            cpu: u16::try_from(count).ok(),
        },
        _ => History::Untouched,
    }
}
