//! The areas of one part of the address space: [`Vmalloc`], what it has, and what is shared in it how.

use core::fmt;
use core::sync::atomic::AtomicBool;

use kspace_layout::{FRAME_SIZE, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Editor, FrameSource, LeafBits, LeafTable, PhysMemory, Protection, Walker};

use super::apart::Apart;
use super::arena::Arena;
use super::arenas::Arenas;
use super::chunk::{Chunk, Words};
use super::index::{Index, Reach};
use super::large::Large;
use super::lazy::DirtyStack;
use super::lock::Lock;
use super::pages::CHUNK_PAGES;
use super::pool::{Books, Pool};
use super::settings::{Modes, Settings};
use super::sync::AtomicU64;
use super::{AreaError, Kernel};
use crate::platform::Interrupts;
use crate::ranges::{self, Ranges};
use crate::shootdown::Shootdown;

/// Bytes of a chunk.
pub(super) const CHUNK_BYTES: u64 = CHUNK_PAGES * FRAME_SIZE;

/// Freed pages that a CPU counts for itself at most, before it looks whether a purge is due.
const BATCH: u64 = 32;

/// The protection of ordinary data.
const DATA: Protection = Protection::KERNEL_DATA;

/// The proof that interrupts are off.
pub(super) type Off<K> = <<K as Kernel>::Platform as Interrupts>::Off;

/// The shootdown that an area's kernel uses.
pub type Flusher<K, const CPUS: usize> =
    Shootdown<<K as Kernel>::Platform, CPUS, 64, <K as Kernel>::Probe>;

/// The editor of the tables that a kernel's areas are in.
pub type Tables<'a, K> =
    Editor<'a, <K as Kernel>::Format, <K as Kernel>::Memory, <K as Kernel>::Frames>;

/// Areas mapped on demand in one part of the address space, on up to `CPUS` CPUs. See the [module](super).
pub struct Vmalloc<'a, K: Kernel, const CPUS: usize> {
    area: VirtRange,
    tables: Tables<'a, K>,
    shootdown: &'a Flusher<K, CPUS>,
    pub(super) index: Index,
    /// Addresses that no chunk and no large area has; and who may change the index. Taken first, if both are.
    pub(super) space: Apart<Lock<Ranges<'a, K::Memory, &'a K::Frames>>>,
    pub(super) pool: Apart<Lock<Pool>>,
    pub(super) large: Apart<Large<'a, K::Memory, K::Frames>>,
    pub(super) dirty: Apart<DirtyStack>,
    /// Somebody purges.
    pub(super) purging: Apart<AtomicBool>,
    /// Freed pages that wait for a purge, modulo 2^64, without what CPUs have not told yet.
    pub(super) lazy: Apart<AtomicU64>,
    /// Blocks that could not be given back, because the books on frames said otherwise.
    pub(super) lost: AtomicU64,
    /// Purges that had something to flush.
    pub(super) purges: AtomicU64,
    /// What entries of ordinary data say: most areas' do.
    data: LeafBits<K::Format>,
    pub(super) bound: u64,
    pub(super) batch: u64,
    pub(super) modes: Modes,
    arenas: &'a Arenas<CPUS>,
}

/// A chunk that was looked up. Interrupts stay off while it is used.
pub(super) struct Known<'a, K: Kernel> {
    pub(super) chunk: Chunk<'a>,
    pub(super) table: LeafTable<'a, K::Format>,
}

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// Areas in `area`, which has none yet, kept as `settings` say: a number of pages is the bound of [`Settings::new`].
    ///
    /// # Errors
    ///
    /// [`AreaError::NoTables`], when there are no frames for the books.
    ///
    /// # Safety
    ///
    /// - Nobody else edits or maps anything in `area`, and no translation in it is cached by any CPU;
    /// - every CPU that uses these tables takes part in `shootdown`, from before it uses an area;
    /// - the tables are those of all address spaces as far as `area` goes: the editor keeps its root entries;
    /// - nobody else uses `arenas`, nor has used them.
    pub unsafe fn new(
        area: VirtRange,
        tables: Tables<'a, K>,
        shootdown: &'a Flusher<K, CPUS>,
        arenas: &'a Arenas<CPUS>,
        settings: impl Into<Settings>,
    ) -> Result<Self, AreaError> {
        let settings = settings.into();
        let (bound, modes) = (settings.bound(), settings.modes());
        let (memory, frames) = (tables.memory(), tables.frames());
        let root = frames.allocate().ok_or(AreaError::NoTables)?;
        let Ok(ranges) = Ranges::new(area, memory, frames) else {
            frames.release(root);
            return Err(AreaError::NoTables);
        };
        let first = area.start().as_u64() / CHUNK_BYTES;
        let chunks = area.last().as_u64() / CHUNK_BYTES - first + 1;
        Ok(Self {
            area,
            tables,
            shootdown,
            index: Index::new(root, first, chunks),
            space: Apart(Lock::new(ranges)),
            pool: Apart(Lock::new(Pool::new())),
            large: Apart(Large::new(memory, frames)),
            dirty: Apart(DirtyStack::new()),
            purging: Apart(AtomicBool::new(false)),
            lazy: Apart(AtomicU64::new(0)),
            lost: AtomicU64::new(0),
            purges: AtomicU64::new(0),
            data: LeafBits::new(DATA, tables.limits()),
            bound,
            batch: batch_of(bound, CPUS),
            modes,
            arenas,
        })
    }

    /// Says that no more than `cpus` of the `CPUS` CPUs will ever use the areas: then each may count more freed pages for itself.
    ///
    /// What waits for a purge is never more than the bound and a quarter of it, beside what was freed in atomic context or while a purge is
    /// under way.
    #[must_use]
    pub fn for_cpus(mut self, cpus: usize) -> Self {
        self.batch = batch_of(self.bound, cpus);
        self
    }

    /// Where the areas are.
    #[inline]
    #[must_use]
    pub const fn area(&self) -> VirtRange {
        self.area
    }

    /// The editor of the tables.
    #[inline]
    #[must_use]
    pub const fn tables(&self) -> &Tables<'a, K> {
        &self.tables
    }

    /// What makes all CPUs forget.
    #[inline]
    #[must_use]
    pub const fn shootdown(&self) -> &'a Flusher<K, CPUS> {
        self.shootdown
    }

    #[inline]
    pub(super) fn platform(&self) -> &'a K::Platform {
        self.shootdown.platform()
    }

    #[inline]
    pub(super) fn memory(&self) -> &'a K::Memory {
        self.tables.memory()
    }

    #[inline]
    pub(super) fn frames(&self) -> &'a K::Frames {
        self.tables.frames()
    }

    /// What the entries of an area say.
    #[inline]
    pub(super) fn bits(&self, protection: Protection) -> LeafBits<K::Format> {
        if protection == DATA {
            self.data
        } else {
            LeafBits::new(protection, self.tables.limits())
        }
    }

    /// Keeps interrupts off as long as it lives. Who looks up a chunk has it: its books stay until the CPU answers a shootdown.
    #[inline(always)]
    pub(super) fn off(&self) -> Off<K> {
        self.platform().interrupts_off()
    }

    /// This CPU's own.
    ///
    /// # Panics
    ///
    /// When the platform counts CPUs that the areas were not made for.
    #[inline(always)]
    pub(super) fn arena(&self, off: &Off<K>) -> &Arena {
        &self.arenas.0[self.platform().id_of(off).index()]
    }

    #[inline]
    pub(super) const fn arenas(&self) -> &'a [Arena; CPUS] {
        &self.arenas.0
    }

    pub(super) fn with_pool<R>(&self, off: &Off<K>, body: impl FnOnce(&mut Pool) -> R) -> R {
        self.pool.with(self.platform(), off, body)
    }

    pub(super) fn with_space<R>(
        &self,
        off: &Off<K>,
        body: impl FnOnce(&mut Ranges<'a, K::Memory, &'a K::Frames>) -> R,
    ) -> R {
        self.space.with(self.platform(), off, body)
    }

    /// A reader of the tables.
    pub(super) fn walker(&self) -> Walker<'a, K::Memory> {
        let tables = self.tables();
        Walker::new(tables.mode(), tables.root(), tables.memory()).with_limits(tables.limits())
    }

    /// A request for addresses, at a random place if that was asked for.
    pub(super) fn drawn(&self, request: ranges::Request) -> ranges::Request {
        match &self.modes.random {
            Some(draws) => request.random(draws.draw()),
            None => request,
        }
    }

    /// The number of the chunk that an address lies in: counted from address zero, so that it says where the chunk is.
    #[inline(always)]
    pub(super) const fn number_of(&self, address: VirtAddr) -> u64 {
        address.as_u64() / CHUNK_BYTES
    }

    /// The addresses of `pages` pages from `first` on in the chunk with this number. They lie in the area.
    #[inline]
    pub(super) fn range_of(&self, number: u64, first: u64, pages: u64) -> VirtRange {
        VirtRange::new(self.address_of(number, first), pages * FRAME_SIZE)
    }

    /// The address of a page of the chunk with this number.
    #[inline(always)]
    pub(super) fn address_of(&self, number: u64, page: u64) -> VirtAddr {
        VirtAddr::new(number * CHUNK_BYTES + page * FRAME_SIZE)
    }

    /// The chunk with this number, and its page table.
    #[inline(always)]
    pub(super) fn chunk_numbered(&self, off: &Off<K>, number: u64) -> Option<Known<'a, K>> {
        match self.known_near(off, number) {
            Some(known) => Some(known),
            None => self.look_up(off, number),
        }
    }

    /// The chunk with this number, if this CPU has used it lately.
    #[inline(always)]
    pub(super) fn known_near(&self, off: &Off<K>, number: u64) -> Option<Known<'a, K>> {
        let (books, slots) = self.arena(off).near.get(self.index.generation(), number)?;
        // SAFETY: `look_up` made these of references that live as long as the memory, which is longer than `self`; no other type writes there.
        // The chunk's books and table are still what they were: see `near`.
        unsafe {
            core::hint::assert_unchecked(!books.is_null() && !slots.is_null());
            let chunk = Chunk::new(&*books.cast::<Words>());
            let table = LeafTable::from_slots(chunk.table(), slots, self.tables.limits());
            Some(Known { chunk, table })
        }
    }

    /// The chunk with this number, from the index.
    #[inline(never)]
    fn look_up(&self, off: &Off<K>, number: u64) -> Option<Known<'a, K>> {
        let generation = self.index.generation();
        let chunk = self.chunk(self.index.get(self, number)?);
        let table = self.leaf_table(chunk);
        let books = core::ptr::from_ref(chunk.words()).cast();
        // What is not remembered is not freed by the short way, which does not know of poison.
        if !self.modes.poison {
            let near = &self.arena(off).near;
            near.put(generation, number, books, table.as_slots());
        }
        Some(Known { chunk, table })
    }

    /// The chunk of a run or of a place in one: it stays as long as that.
    ///
    /// # Panics
    ///
    /// When there is no such chunk.
    #[inline(always)]
    pub(super) fn chunk_of(&self, off: &Off<K>, number: u64) -> Known<'a, K> {
        let chunk = self.chunk_numbered(off, number);
        chunk.expect("a chunk was given up whose pages a CPU had")
    }

    /// The page table of a chunk.
    #[inline]
    pub(super) fn leaf_table(&self, chunk: Chunk<'a>) -> LeafTable<'a, K::Format> {
        // SAFETY: the address is what the editor gave when the chunk was made, and tables of chunks are taken out only together with the
        // chunk. Of its slots each area's belong to who has the area: its owner, who frees it, the purger, one after the other.
        let table = unsafe { LeafTable::at(chunk.table(), self.memory(), self.tables.limits()) };
        table.expect("memory lost a table that it showed before")
    }

    /// Where a chunk's page is in its page table: in two-level paging two chunks share one.
    #[inline]
    pub(super) fn slot_of(&self, chunk: Chunk<'a>, page: u64) -> usize {
        let first = if LeafTable::<K::Format>::SLOTS as u64 == CHUNK_PAGES {
            0
        } else {
            chunk.number() * CHUNK_PAGES % LeafTable::<K::Format>::SLOTS as u64
        };
        (first + page) as usize
    }
}

/// Freed pages that each of `cpus` CPUs may count for itself: of all of them together, a quarter of the bound.
const fn batch_of(bound: u64, cpus: usize) -> u64 {
    let share = bound / (4 * if cpus == 0 { 1 } else { cpus as u64 });
    if share < BATCH { share } else { BATCH }
}

impl<'a, K: Kernel, const CPUS: usize> Reach<'a> for Vmalloc<'a, K, CPUS> {
    #[inline]
    fn words(&self, frame: PhysAddr) -> &'a Words {
        let words = self
            .memory()
            .entries::<u64>(frame, super::chunk::FRAME_WORDS);
        words
            .and_then(|words| words.try_into().ok())
            .expect("memory does not reach a frame of books")
    }
}

impl<'a, K: Kernel, const CPUS: usize> Books<'a> for Vmalloc<'a, K, CPUS> {
    #[inline]
    fn chunk(&self, frame: PhysAddr) -> Chunk<'a> {
        Chunk::new(self.words(frame))
    }
}

impl<K: Kernel, const CPUS: usize> fmt::Debug for Vmalloc<'_, K, CPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmalloc")
            .field("area", &self.area)
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}
