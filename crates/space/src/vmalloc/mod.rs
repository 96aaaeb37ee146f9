//! Areas mapped on demand: virtually contiguous memory where physical memory is fragmented, and other things that need addresses for a
//! time. [`Vmalloc`] has those of one part of the address space.
//!
//! ```text
//!   the area of the layout, 4 KiB pages in 2 MiB chunks
//!   |  chunk   |  chunk   |     large area      |    |  chunk   |              | ...
//!      |    \
//!      |     '-- page table: a filled entry for each page of an area, none for its guard
//!      '-- books, one frame: a word for each area, the free pages, the areas that wait for a purge
//!
//!   |--- area ---|G|- area -|G|    free    |-- area --|G|     free     |        G: the guard, never mapped
//!
//!   allocate   CPU's own run of free pages (arena) --> fullest chunk with room (pool) --> new chunk (space)
//!   free       what the CPU used last (near), or the index: address --> books; the area's word: Live --> Lazy; entries parked
//!   purge      one shootdown for all that is lazy; then frames, addresses, and chunks that became empty
//! ```
//!
//! What takes more pages than a chunk gives, or a larger alignment, is in `large`. Given frames for a short time are mapped in chunks of their
//! own (`map_ram`).
//!
//! # The states of an area, and who owns what in each
//!
//! ```text
//!              word   entries         pages (addresses)      frames
//!   placed     Free   being filled    the allocating CPU's   the allocating CPU's, then the entries'
//!   live       Live   filled          the owner's            the entries'
//!   lazy       Lazy   parked          quarantined            the entries', which remember them
//!   purged     Free   empty           the pool's             free
//! ```
//!
//! 1. *Placing is exclusive*: pages are in the pool, or in one CPU's run, or an area's. The pool is behind a lock; a run is one word that
//!    is changed in one step, so another CPU may take the rest of it (`arena`). Few pages that are passed over for an alignment go with the
//!    area; for a large alignment a place is taken out of the pool, and the run stays.
//! 2. *Freeing is exclusive*: one compare-and-exchange takes a word from Live to Lazy. A second free finds out who made the first (`slot`).
//! 3. *A free is honest*: the entries are not present any more when it returns. They remember their frames in a form that the
//!    CPU ignores (parked entries, [`kspace_paging::LeafTable`]), so a free needs no memory, takes no lock, and works in interrupt handlers.
//! 4. *Nothing is reused before the flush*: frames are read out of parked entries, and pages go back to the pool, only by the purger,
//!    for areas whose bit it took before the shootdown began (`lazy`, `purge`). An area that was given up half filled goes the same way.
//! 5. *One purger at a time*, never in atomic context, with no lock held and interrupts on (if they were) while it waits. It runs when
//!    as many freed pages wait as the bound says (up to a quarter more, that CPUs have not told yet: `Vmalloc::for_cpus`), before an
//!    allocation fails for want of frames, tables or addresses, for the zones when memory is short, and when asked to. While twice as many
//!    wait as the bound says, who frees more waits for the purge under way, and purges.
//!
//! # The lifetime of page tables and books
//!
//! A chunk's page table and books are made before the index knows the chunk, and stay as long as it does. Only the purger takes a
//! chunk away: one without areas, not in any CPU's run, not marked dirty, taken out of pool and index, with its addresses held (`trim`).
//! Tables of upper levels without entries go the same way, when all addresses under them are free and held meanwhile. After that
//! comes a shootdown that waits for every CPU that walks or looks: *who looks up a chunk has interrupts off, from before the look-up
//! to after its last use of the books*, so it answers only when it has ended. Then tables, books and index nodes are freed. This holds for
//! frees of addresses that are no area, too, and for readers like [`Vmalloc::areas`]. A CPU may remember what it has looked up only with
//! the generation of the index, which the purger ends after it took chunks out and before that shootdown (`near`).
//!
//! # What is lock-free
//!
//! Allocating from the CPU's own run, freeing, looking up: no lock, a few locked instructions, cost proportional to the pages. A CPU that
//! needs another run takes the pool's lock, for a few hundred instructions; a new chunk takes the space's. All locks are taken
//! with interrupts off, and never held over a shootdown. Models of `arena`, `index` with `near`, `lazy` and `slot` are run in every order
//! that the memory model allows (tests/vmalloc_loom).

#[macro_use]
mod sync;

mod allocate;
mod apart;
mod arena;
mod arenas;
pub(crate) mod caller;
mod chunk;
mod error;
mod free;
mod index;
mod kernel;
mod large;
mod lazy;
pub(crate) mod lock;
mod look;
mod map_ram;
mod near;
mod pages;
mod poison;
mod pool;
mod purge;
mod random;
mod request;
mod resize;
mod settings;
mod slot;
mod state;
mod trim;
mod zones;

pub use arenas::Arenas;
pub use error::{AreaError, FreeError, FreeProblem, ProtectionProblem};
pub use kernel::{AreaFrames, Kernel, Want};
pub use look::{AreaInfo, State, Totals};
pub use purge::Purged;
pub use request::{AreaRequest, Kind};
pub use resize::{ResizeError, Resized};
pub use settings::{Debug, Settings};
pub use state::{Flusher, Tables, Vmalloc};
pub use zones::{AreaZones, Pinned};
