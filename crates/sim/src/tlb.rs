//! One CPU's hostile TLB: it keeps whatever the architecture lets it keep.
//!
//! - Every translation ever used, and every upper-level entry on the way (PML5E to PDE), stays until a flush names it: under its PCID,
//!   or as global.
//! - A walk may start at any upper-level entry that is kept, as well as at the root; all of them are tried.
//! - A large page may be broken into small entries, each of which goes by itself once the tables have small pages there.
//! - PAE's four root entries are read only when CR3 is written.
//!
//! Sources: Intel SDM vol. 3, sections 5.10.2 and 5.10.3 (what is cached), 5.10.4 (what invalidates).

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use kspace_layout::{PageSize, PagingMode, Pfn, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Attributes, Invalidation, Stale};

/// A translation that a CPU may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Possible {
    /// The page.
    pub virt: VirtRange,
    /// Where it lies.
    pub phys: PhysAddr,
    /// Its size.
    pub page: PageSize,
    /// What it allows.
    pub attributes: Attributes,
    /// How often the frame at `phys` had been released when the translation was made.
    pub(crate) releases: u64,
    /// The page that the tables had when this was made, of which it may be a part.
    pub(crate) whole: VirtRange,
    /// The PCID under which it is kept; `None`: it is global.
    pub(crate) context: Option<u16>,
}

impl Possible {
    /// Where `address`, which lies in the page, is in physical memory.
    ///
    /// # Panics
    ///
    /// When `address` is not in the page.
    #[must_use]
    pub fn translate(&self, address: VirtAddr) -> PhysAddr {
        let offset = address
            .offset_from(self.virt.start())
            .expect("address below the page");
        assert!(
            self.virt.contains(address),
            "{address} is not in {}",
            self.virt
        );
        PhysAddr::new(self.phys.as_u64() + offset)
    }

    /// Whether it can be used while `context` is current.
    pub(crate) fn usable_in(&self, context: u16) -> bool {
        self.context.is_none_or(|own| own == context)
    }
}

/// All that might come of an access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The translations that the CPU might use.
    pub pages: Vec<Possible>,
    /// Some way through the tables and the upper-level entries that the CPU keeps ends without a page.
    pub may_fault: bool,
}

/// An upper-level entry that a CPU keeps: where a walk may go on without reading the levels above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CachedTable {
    /// The addresses that the entry translates.
    pub(crate) virt: VirtRange,
    /// The level of the table it leads to.
    pub(crate) level: u8,
    pub(crate) table: PhysAddr,
    pub(crate) write: bool,
    pub(crate) user: bool,
    pub(crate) execute: bool,
    pub(crate) releases: u64,
    pub(crate) context: u16,
}

/// A CPU may still reach a frame that is free for reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which CPU.
    pub cpu: usize,
    /// For which addresses.
    pub virt: VirtRange,
    /// Which frame.
    pub frame: Pfn,
    /// The level of the table the frame was; `None` when it was a page.
    pub table: Option<u8>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            virt,
            frame,
            table,
        } = self;
        match table {
            None => write!(f, "CPU {cpu} may still translate {virt} to frame {frame:x}")?,
            Some(level) => {
                write!(
                    f,
                    "CPU {cpu} may still walk {virt} through frame {frame:x}, once a level-{level} table"
                )?;
            }
        }
        f.write_str(", which has been released; a flush is missing")
    }
}

impl std::error::Error for Violation {}

/// What one CPU keeps.
#[derive(Debug, Default)]
pub(crate) struct HostileTlb {
    pub(crate) pages: Vec<Possible>,
    pub(crate) tables: Vec<CachedTable>,
    /// PAE's root entries, as they were when CR3 was written.
    pub(crate) root: [u64; 4],
}

impl HostileTlb {
    pub(crate) fn keep_page(&mut self, page: Possible) {
        if !self.pages.contains(&page) {
            self.pages.push(page);
        }
    }

    pub(crate) fn keep_table(&mut self, table: CachedTable) {
        if !self.tables.contains(&table) {
            self.tables.push(table);
        }
    }

    /// Forgets what `invalidation` names, and not one entry more.
    pub(crate) fn invalidate(&mut self, invalidation: &Invalidation) {
        match invalidation {
            Invalidation::Everything => self.forget_everything(),
            Invalidation::Range(stale) => {
                self.pages.retain(|page| !names_page(stale, page));
                self.tables
                    .retain(|table| !(stale.tables && stale.range.contains_range(table.virt)));
            }
        }
    }

    /// `INVLPG`. `granule` is what one entry spans at the level where a walk to `address` ends now: small entries of a larger page go
    /// together only as long as the tables have no smaller pages there.
    pub(crate) fn forget_page(&mut self, address: VirtAddr, granule: VirtRange, context: u16) {
        self.pages.retain(|page| {
            let together = granule.contains_range(page.whole) && page.whole.contains(address);
            !(page.usable_in(context) && (together || page.virt.contains(address)))
        });
        self.tables.retain(|table| table.context != context);
    }

    /// CR3 written without bit 63.
    pub(crate) fn forget_context(&mut self, context: u16) {
        self.pages.retain(|page| page.context != Some(context));
        self.tables.retain(|table| table.context != context);
    }

    /// `INVPCID` of type 3.
    pub(crate) fn forget_all_but_global(&mut self) {
        self.pages.retain(|page| page.context.is_none());
        self.tables.clear();
    }

    /// `INVPCID` of type 2, or a change of CR4.PGE.
    pub(crate) fn forget_everything(&mut self) {
        self.pages.clear();
        self.tables.clear();
    }

    /// The same number for the same content, in whatever order it came.
    pub(crate) fn digest(&self) -> u64 {
        let pages = self.pages.iter().map(|page| {
            hash(&(
                page.virt,
                page.phys,
                page.attributes.write,
                page.releases,
                page.whole,
                page.context,
            ))
        });
        let tables = self
            .tables
            .iter()
            .map(|table| hash(&(table.virt, table.table, table.releases, table.context)));
        pages
            .chain(tables)
            .fold(hash(&self.root), u64::wrapping_add)
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Pages that overlap the range go; but global ones only when the flush is said to concern them.
fn names_page(stale: &Stale, page: &Possible) -> bool {
    stale.range.overlaps(page.virt) && (stale.global || page.context.is_some())
}

/// Whether `mode` reads its root entries only when CR3 is written.
pub(crate) fn caches_root(mode: PagingMode) -> bool {
    mode == PagingMode::Pae
}
