//! Walking page tables for one address, as the CPU does: every level's entry, then the page, or why there is none.
//!
//! ```text
//!   root ──▶ level 4 ──▶ level 3 ──▶ level 2 ──▶ level 1 ──▶ page
//!             Step        Step        Step        Step        Walk::end
//! ```
//!
//! The walker only reads, and believes nothing: a walk takes at most one step per level whatever the tables say, and memory that
//! lacks a table is an answer ([`End::Unreadable`]), not an error of the walker. For ranges see [`Runs`].

use core::fmt;

use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange};

use crate::access::{Controls, Fault, FaultCause, Intent};
use crate::entry::{PRESENT, Rights};
use crate::hidden::is_hidden;
use crate::{Attributes, EntryRead, Format, Limits, Merge, Runs};

/// Levels of the deepest mode.
pub(crate) const MAX_LEVELS: usize = 5;

/// Reads the tables of any mode, chosen at run time, out of any memory that has entries.
pub struct Walker<'m, M: ?Sized> {
    pub(crate) mode: PagingMode,
    pub(crate) format: Format,
    pub(crate) root: PhysAddr,
    pub(crate) limits: Limits,
    pub(crate) memory: &'m M,
}

impl<M: ?Sized> fmt::Debug for Walker<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walker")
            .field("mode", &self.mode)
            .field("root", &self.root)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<M: ?Sized> Clone for Walker<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: ?Sized> Copy for Walker<'_, M> {}

impl<'m, M: EntryRead + ?Sized> Walker<'m, M> {
    /// A walker from the root that `root` names, on a machine without limits.
    ///
    /// `root` may carry the low bits of CR3 (PCID, PWT, PCD): those that are not address are ignored (Intel SDM vol. 3, tables 5-3, 5-7, 5-12).
    #[must_use]
    pub const fn new(mode: PagingMode, root: PhysAddr, memory: &'m M) -> Self {
        let root = match mode {
            PagingMode::TwoLevel => root.as_u64() & 0xffff_f000,
            PagingMode::Pae => root.as_u64() & 0xffff_ffe0,
            PagingMode::FourLevel | PagingMode::FiveLevel => root.as_u64() & !0xfff,
        };
        Self {
            mode,
            format: Format::of(mode),
            root: PhysAddr::new(root),
            limits: Limits::WIDEST,
            memory,
        }
    }

    /// The same walker on a machine with these limits.
    #[must_use]
    pub const fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The paging mode.
    #[must_use]
    pub const fn mode(&self) -> PagingMode {
        self.mode
    }

    /// The physical address of the root table.
    #[must_use]
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// Walks to `address`.
    #[must_use]
    pub fn walk(&self, address: VirtAddr) -> Walk {
        let mut walk = Walk {
            mode: self.mode,
            limits: self.limits,
            address,
            steps: [Step {
                level: 0,
                entry: PhysAddr::ZERO,
                raw: 0,
            }; MAX_LEVELS],
            count: 0,
            end: End::NotCanonical,
        };
        if !self.mode.contains(address) {
            return walk;
        }
        let mut table = self.root;
        let mut rights = Rights::ALL;
        let mut level = self.mode.levels();
        loop {
            let entry = self.entry_address(table, level, address);
            let Some(raw) = self.read(entry) else {
                walk.end = End::Unreadable { level, entry };
                return walk;
            };
            walk.steps[walk.count] = Step { level, entry, raw };
            walk.count += 1;
            if raw & PRESENT == 0 {
                walk.end = End::NotPresent { level };
                return walk;
            }
            let reserved = self.format.reserved_bits(level, raw, self.limits);
            if reserved != 0 {
                walk.end = End::ReservedBits {
                    level,
                    bits: reserved,
                };
                return walk;
            }
            if self.format.is_leaf(level, raw, self.limits) {
                walk.end = End::Page(self.page(level, raw, rights, address));
                return walk;
            }
            rights = rights.and(self.format.rights(level, raw, self.limits));
            table = self.format.table(raw, self.limits);
            level -= 1;
        }
    }

    /// Where `address` is in physical memory; `None` when no page maps it. Rights do not count.
    #[must_use]
    pub fn translate(&self, address: VirtAddr) -> Option<PhysAddr> {
        self.walk(address).page().map(|page| page.phys)
    }

    /// The mappings in `range`, merged into runs; see [`Merge`] for what counts as one run.
    #[must_use]
    pub fn runs(&self, range: VirtRange) -> Runs<'m, M> {
        Runs::new(*self, range, Merge::default())
    }

    /// As [`runs`](Self::runs), with another idea of what one run is.
    #[must_use]
    pub fn runs_merged(&self, range: VirtRange, merge: Merge) -> Runs<'m, M> {
        Runs::new(*self, range, merge)
    }

    /// Where the entry for `address` lies in a table at `level`.
    pub(crate) fn entry_address(&self, table: PhysAddr, level: u8, address: VirtAddr) -> PhysAddr {
        let offset = self.mode.index(address, level) * self.format.entry_bytes();
        // A table lies inside one frame, and the last frame below 2^52 is whole.
        PhysAddr::new(table.as_u64() + offset)
    }

    pub(crate) fn read(&self, entry: PhysAddr) -> Option<u64> {
        match self.format {
            Format::TwoLevel => self.memory.read_u32(entry).map(u64::from),
            Format::Pae | Format::Long => self.memory.read_u64(entry),
        }
    }

    fn page(&self, level: u8, raw: u64, above: Rights, address: VirtAddr) -> Page {
        let offset = address.as_u64() & ((1 << self.format.shift(level)) - 1);
        let start = self.format.page(level, raw, self.limits);
        Page {
            // The offset is below the page's size, to a multiple of which the start was cut.
            phys: PhysAddr::new(start.as_u64() | offset),
            size: self.mode.leaf_size(level).unwrap_or(PageSize::Size4K),
            attributes: self.format.attributes(level, raw, above, self.limits),
        }
    }
}

/// One entry that a walk has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The level of the table it is in: 5 or less, 1 for the table of 4 KiB pages.
    pub level: u8,
    /// Where the entry lies.
    pub entry: PhysAddr,
    /// What it says.
    pub raw: u64,
}

/// The page at the end of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where the address itself (not the page's start) is in physical memory.
    pub phys: PhysAddr,
    /// The size of the page.
    pub size: PageSize,
    /// The rights of all levels, and the leaf's bits.
    pub attributes: Attributes,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At a page.
    Page(Page),
    /// The address is not one of this mode; nothing was read.
    NotCanonical,
    /// At an entry that is not present.
    NotPresent {
        /// Its level.
        level: u8,
    },
    /// At a present entry with reserved bits set.
    ReservedBits {
        /// Its level.
        level: u8,
        /// Those bits.
        bits: u64,
    },
    /// At a table that the memory does not hold.
    Unreadable {
        /// The level of that table.
        level: u8,
        /// The entry that could not be read.
        entry: PhysAddr,
    },
}

/// All that one walk has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    mode: PagingMode,
    limits: Limits,
    address: VirtAddr,
    steps: [Step; MAX_LEVELS],
    count: usize,
    end: End,
}

impl Walk {
    /// The address that was walked to.
    #[must_use]
    pub const fn address(&self) -> VirtAddr {
        self.address
    }

    /// Every entry read, from the root down.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps[..self.count]
    }

    /// How it ended.
    #[must_use]
    pub const fn end(&self) -> End {
        self.end
    }

    /// The page, when there is one.
    #[must_use]
    pub const fn page(&self) -> Option<Page> {
        match self.end {
            End::Page(page) => Some(page),
            _ => None,
        }
    }

    /// The page that the walk found hidden: mapped, but out of reach of every access until it is shown again (see
    /// [`Adjustment::Hidden`](crate::Adjustment::Hidden)). In a dump of a kernel that does not hide pages this way, a guess.
    #[must_use]
    pub fn hidden(&self) -> Option<Page> {
        let step = self.steps().last()?;
        if !matches!(self.end, End::NotPresent { .. }) || !is_hidden(step.raw) {
            return None;
        }
        let format = Format::of(self.mode);
        let size = self.mode.leaf_size(step.level)?;
        let leaf = format.shown(step.raw);
        let above = self.steps()[..self.count - 1].iter();
        let above = above.fold(Rights::ALL, |rights, step| {
            rights.and(format.rights(step.level, step.raw, self.limits))
        });
        let offset = self.address.as_u64() % size.bytes();
        let start = format.page(step.level, leaf, self.limits);
        Some(Page {
            // The offset is below the page's size, to a multiple of which the start was cut.
            phys: PhysAddr::new(start.as_u64() | offset),
            size,
            attributes: format.attributes(step.level, leaf, above, self.limits),
        })
    }

    /// What an access would meet: the page, or its fault. What the TLB may hold instead is another matter.
    ///
    /// # Errors
    ///
    /// [`Refusal::Fault`] when the access would raise one; [`Refusal::Unreadable`] when the memory at hand cannot tell.
    pub fn access(&self, intent: Intent, controls: Controls) -> Result<Page, Refusal> {
        let (level, cause) = match self.end {
            End::Page(page) => match self.forbidden(intent, controls, page) {
                None => return Ok(page),
                Some((level, cause)) => (Some(level), cause),
            },
            End::NotCanonical => (None, FaultCause::NotCanonical),
            End::NotPresent { level } => (Some(level), FaultCause::NotPresent),
            End::ReservedBits { level, bits } => (Some(level), FaultCause::ReservedBits(bits)),
            End::Unreadable { level, entry } => {
                return Err(Refusal::Unreadable {
                    address: self.address,
                    level,
                    entry,
                });
            }
        };
        // Fetches are reported where no-execute is in force (Intel SDM vol. 3, section 5.7): never in two-level paging.
        let reports = self.limits.no_execute() && self.mode != PagingMode::TwoLevel;
        let error_code = match cause {
            FaultCause::NotCanonical => None,
            cause => Some(intent.error_code(cause, controls, reports)),
        };
        Err(Refusal::Fault(Fault {
            address: self.address,
            intent,
            level,
            cause,
            error_code,
        }))
    }

    /// Which level forbids the access, and why; the highest level if several do.
    fn forbidden(
        &self,
        intent: Intent,
        controls: Controls,
        page: Page,
    ) -> Option<(u8, FaultCause)> {
        let needs = intent.needs(controls);
        let format = Format::of(self.mode);
        let leaf = self.steps().last().map_or(1, |step| step.level);
        if !intent.user && page.attributes.user {
            if needs.execute && controls.smep {
                return Some((leaf, FaultCause::Smep));
            }
            if !needs.execute && controls.smap && !controls.alignment_check {
                return Some((leaf, FaultCause::Smap));
            }
        }
        self.steps().iter().find_map(|step| {
            let rights = format.rights(step.level, step.raw, self.limits);
            let cause = if needs.user && !rights.user {
                FaultCause::User
            } else if needs.write && !rights.write {
                FaultCause::Write
            } else if needs.execute && !rights.execute {
                FaultCause::Fetch
            } else {
                return None;
            };
            Some((step.level, cause))
        })
    }
}

/// Why an access does not reach a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The CPU would raise this fault.
    Fault(Fault),
    /// The memory does not hold an entry that the walk needs.
    Unreadable {
        /// The address walked to.
        address: VirtAddr,
        /// The level of the table that is missing.
        level: u8,
        /// The entry that could not be read.
        entry: PhysAddr,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Unreadable {
                address,
                level,
                entry,
            } => write!(
                f,
                "walk to {address}: the level-{level} entry at physical {entry} is not in this memory"
            ),
        }
    }
}

impl core::error::Error for Refusal {}
