//! Why an edit was refused. Every refusal comes before the first change.

use core::fmt;

use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange};

use crate::CacheType;

/// Which edit was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// [`map`](super::Editor::map)
    Map,
    /// [`unmap`](super::Editor::unmap) or [`unmap_present`](super::Editor::unmap_present)
    Unmap,
    /// [`protect`](super::Editor::protect)
    Protect,
    /// [`merge`](super::Editor::merge)
    Merge,
    /// [`purge`](super::Editor::purge)
    Purge,
    /// [`populate`](super::Editor::populate)
    Populate,
    /// [`park`](super::Editor::park)
    Park,
    /// [`collect`](super::Editor::collect)
    Collect,
    /// [`leaf_table`](super::Editor::leaf_table)
    LeafTable,
    /// [`adjust`](super::Editor::adjust)
    Adjust,
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Map => "map",
            Self::Unmap => "unmap",
            Self::Protect => "protect",
            Self::Merge => "merge",
            Self::Purge => "purge",
            Self::Populate => "populate",
            Self::Park => "park",
            Self::Collect => "collect",
            Self::LeafTable => "leaf table",
            Self::Adjust => "adjust",
        })
    }
}

/// An edit that was refused; the tables are as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EditError {
    /// What was asked for.
    pub edit: Edit,
    /// Where.
    pub range: VirtRange,
    /// Why not.
    pub reason: Reason,
}

/// Why an edit was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The range does not begin and end at pages.
    Unaligned,
    /// The physical address does not begin at a page.
    PhysUnaligned(PhysAddr),
    /// The mode cannot translate part of the range.
    OutsideMode(PagingMode),
    /// The page at `page` would lie at `phys`, at or past the `limit` of what the machine's entries can name.
    PhysTooWide {
        /// The first such page.
        page: VirtAddr,
        /// Where it would lie; it may be past any physical address.
        phys: u64,
        /// The first address that entries cannot name.
        limit: u64,
    },
    /// A page of the range is mapped already.
    AlreadyMapped {
        /// The first such page.
        page: VirtAddr,
        /// Where it lies.
        phys: PhysAddr,
    },
    /// A page of the range is not mapped.
    NotMapped {
        /// The first such page.
        page: VirtAddr,
    },
    /// A page of the range is parked: what it mapped waits for its flush.
    Parked {
        /// The first such page.
        page: VirtAddr,
    },
    /// A page of the range is hidden: there is a page, but no access reaches it.
    Hidden {
        /// The first such page.
        page: VirtAddr,
    },
    /// The page attribute table has no index for the memory type.
    NoSuchCache(CacheType),
    /// A large page is parked, and only part of it is to be collected.
    ParkedBeyond {
        /// The first page of the range in it.
        page: VirtAddr,
        /// Its size.
        size: PageSize,
    },
    /// A page is writable and would become executable, or the other way round. Until the flush a CPU could do both.
    WriteExecute {
        /// The first such page.
        page: VirtAddr,
    },
    /// An entry above the page, made by somebody else, denies what the page should allow.
    Restricted {
        /// The first page under that entry.
        page: VirtAddr,
        /// The entry's level.
        level: u8,
        /// What it says.
        raw: u64,
    },
    /// There are not enough frames for the tables that are needed.
    OutOfFrames {
        /// Tables needed.
        needed: usize,
        /// Frames there were.
        available: usize,
    },
    /// The frame source gave a frame that cannot hold a table: the memory cannot reach it, or the entries cannot name it.
    UnusableFrame(PhysAddr),
    /// A table lies where the memory cannot reach it.
    Unreachable {
        /// The first page of the range that it translates.
        page: VirtAddr,
        /// Its level.
        level: u8,
        /// Where it lies.
        table: PhysAddr,
    },
    /// In PAE, an entry of the root is not there, and the CPU would not see it before CR3 is loaded again.
    RootEntryMissing {
        /// The first page under that entry.
        page: VirtAddr,
    },
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            edit,
            range,
            reason,
        } = *self;
        write!(f, "{edit} {range}: ")?;
        // Numbered in 4 KiB pages from 1, as in "page 3 of 4".
        let number = |page: VirtAddr| {
            let before = page.as_u64().saturating_sub(range.start().as_u64()) / 4096;
            Numbered {
                number: before + 1,
                of: range.size() / 4096,
                page,
            }
        };
        match reason {
            Reason::Unaligned => {
                f.write_str("start and size must be multiples of 4 KiB")?;
            }
            Reason::PhysUnaligned(phys) => {
                write!(f, "physical {phys} must be a multiple of 4 KiB")?;
            }
            Reason::OutsideMode(mode) => {
                write!(
                    f,
                    "{mode} paging does not reach all of it; keep to its range"
                )?;
            }
            Reason::PhysTooWide { page, phys, limit } => write!(
                f,
                "{} would lie at physical {phys:016x}, but the entries end below {limit:016x}",
                number(page)
            )?,
            Reason::AlreadyMapped { page, phys } => {
                write!(f, "{} already maps physical {phys}", number(page))?;
            }
            Reason::NotMapped { page } => write!(f, "{} is not mapped", number(page))?,
            Reason::Parked { page } => write!(
                f,
                "{} is parked until the flush of what it mapped; flush that token and collect it first",
                number(page)
            )?,
            Reason::Hidden { page } => write!(f, "{} is hidden; show it first", number(page))?,
            Reason::NoSuchCache(cache) => write!(
                f,
                "the page attribute table has no {cache} type; load Linux's table, or ask for another type"
            )?,
            Reason::ParkedBeyond { page, size } => write!(
                f,
                "{} is in a parked {size} page that goes on outside; collect all of it",
                number(page)
            )?,
            Reason::WriteExecute { page } => write!(
                f,
                "{} would be writable and executable until the flush; protect it read-only and flush first",
                number(page)
            )?,
            Reason::Restricted { page, level, raw } => write!(
                f,
                "the level-{level} entry {raw:016x} over {} denies what is asked for; widen it first",
                number(page)
            )?,
            Reason::OutOfFrames { needed, available } => write!(
                f,
                "{needed} tables are needed, and there were frames for {available}; free some memory"
            )?,
            Reason::UnusableFrame(frame) => write!(
                f,
                "the frame source gave physical {frame}, which cannot hold a table; give it reachable frames only"
            )?,
            Reason::Unreachable { page, level, table } => write!(
                f,
                "the level-{level} table of {} lies at physical {table}, out of reach; make it reachable first",
                number(page)
            )?,
            Reason::RootEntryMissing { page } => write!(
                f,
                "{} has no root entry, which PAE reads only with CR3; populate the range first",
                number(page)
            )?,
        }
        f.write_str("; nothing was changed")
    }
}

impl core::error::Error for EditError {}

struct Numbered {
    number: u64,
    of: u64,
    page: VirtAddr,
}

impl fmt::Display for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} of {} ({})", self.number, self.of, self.page)
    }
}

/// Why a root cannot be edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootError {
    /// The format that was chosen at compile time is not this mode's.
    WrongFormat {
        /// The editor's format.
        format: crate::Format,
        /// The mode asked for.
        mode: PagingMode,
    },
    /// The root is not aligned as the mode needs it, or lies above what CR3 can name.
    Misplaced {
        /// Where it is.
        root: PhysAddr,
        /// The mode asked for.
        mode: PagingMode,
    },
    /// The memory cannot reach the root.
    Unreachable {
        /// Where it is.
        root: PhysAddr,
    },
}

impl fmt::Display for RootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongFormat { format, mode } => write!(
                f,
                "page-table root: an editor of {format:?} entries cannot edit {mode} tables; choose the format by the mode"
            ),
            Self::Misplaced { root, mode } => {
                let align = if *mode == PagingMode::Pae { 32 } else { 4096 };
                write!(
                    f,
                    "page-table root: physical {root} cannot be a {mode} root; it must be a multiple of {align} that CR3 can hold"
                )
            }
            Self::Unreachable { root } => write!(
                f,
                "page-table root: physical {root} is out of reach; give memory that holds it"
            ),
        }
    }
}

impl core::error::Error for RootError {}
