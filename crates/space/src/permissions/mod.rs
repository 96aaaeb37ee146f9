//! Changing what pages allow, how they are cached, and whether they are there: Linux's `set_memory_*`, on the direct map, the kernel
//! image and areas that are mapped on demand.
//!
//! ```text
//!   area vmalloc   |   [ page 7 ]   |                 asked for: read-only here
//!                          |
//!   physical       |  .... [ frame ] ....  |
//!                          |        \
//!   direct map     | 2M .. [ same ] .. 2M |  image    then the same frame's other places become so as well, and the
//!                  | split into 4K pages  |           2M page around it is split; when all of it is alike again, merged
//! ```
//!
//! | [`Change`] | Linux | the page | its frame's other places |
//! |---|---|---|---|
//! | `ReadOnly` | `set_memory_ro` | loses the right to write | the same |
//! | `Writable` | `set_memory_rw` | gets it; refused where it is executable | the same; refused when one is executable |
//! | `Executable` | `set_memory_x` | gets it; refused where it is writable, and in the direct map | lose the right to write, first |
//! | `NotExecutable` | `set_memory_nx` | loses the right to be executed | nothing |
//! | `Uncached`, `WriteCombining`, `WriteBack` | `_uc`, `_wc`, `_wb` | has that memory type | the same, always |
//! | `NonPresent`, `Present` | `_np`, `_p` | no access reaches it; it does again | the same |
//!
//! Places are: the area that was asked for, the direct map, the kernel image. (Other areas that map the same frames are not looked for, as
//! in Linux; except that nothing becomes executable while an area or user mode can write to it, and no memory type changes that one of them
//! would not know of: both are refused. What CPUs may still know of freed areas is flushed before.) Devices' frames have no other places, and get their
//! type from [`ioremap`](crate::areas::IoMemory) for good. The kernel's code and constants, and the direct map's view of them, never become
//! writable.
//!
//! # The protocol
//!
//! 1. **One change at a time.** A change holds the *turn* from the first look to the last flush. Who waits for it serves shootdowns, with
//!    interrupts as they were: so the holder, who waits for the answers of all CPUs, waits for nobody who waits for it. Nobody waits in
//!    atomic context; there a change is refused. The locks of the books are held for a walk in a tree, never over a wait.
//! 2. **Ask, reserve, change.** Every place is surveyed, then tables and room in the books are set aside, and then nothing can fail any
//!    more. So a change happens in all places or in none.
//! 3. **Whoever holds the turn holds the large pages**: all edits of the direct map and the image after boot go through here (hot-added
//!    memory lies in large pages of its own), those for [`Code`](crate::areas::Code) too. So two CPUs that change neighbours in one large page are safe: the first splits it, the second
//!    finds it split, and who makes it uniform again merges it, in each case with the flush before the turn goes on. In an area the
//!    caller holds the pages, and only what lies in it wholly is merged.
//! 4. **What is taken away is flushed, exactly**: editors' tokens say what CPUs may know. What was only not there before needs no flush.
//! 5. **Writable and executable never meet**, over all places of a frame: to become executable, first the other places are made
//!    read-only and flushed. What is code in one area is not restored to be writable in another.
//! 6. **Memory types change in the manual's order** (Intel SDM vol. 3, section 12.12.4): the pages become non-present in all places; all CPUs
//!    flush; they become present with the new type; the caches are emptied of their lines. So there is no moment at which two types
//!    can be used, nor a line left from the old one.
//!
//! 7. **Nobody inherits a change**: an area of which anything is changed, in any place, cannot be freed, resized or moved; who tries is told
//!    to restore it. So frames are again what they were when somebody else gets them.
//!
//! # The books
//!
//! Every page that is not as it was is written down, with who did it: for [`verify`](crate::verify), which expects exactly that; for the
//! explanation of faults; and for [`restore`](Permissions::restore). They are in frames, and bounded.

mod books;
mod carry_out;
mod code;
mod error;
mod hold;
mod place;
mod restore;
mod turn;

use core::fmt;
use core::panic::Location;
use core::sync::atomic::AtomicBool;

use kspace_layout::{FRAME_SIZE, Layout, VirtAddr, VirtRange};
use kspace_paging::{Adjustment, CacheType, Walker};

use crate::cache_types::CacheTypes;
use crate::platform::CacheLines;
use crate::vmalloc::caller::Caller;
use crate::vmalloc::lock::Lock;
use crate::vmalloc::{Flusher, Kernel, Tables, Vmalloc};

pub use books::Changed;
pub use error::{PermissionError, Problem};

use books::Books;

/// What is to change about pages. See the table in the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// No writes (`set_memory_ro`).
    ReadOnly,
    /// Writes (`set_memory_rw`).
    Writable,
    /// Execution (`set_memory_x`).
    Executable,
    /// No execution (`set_memory_nx`).
    NotExecutable,
    /// No caching (`set_memory_uc`): uncached-minus, as in Linux.
    Uncached,
    /// Writes are gathered (`set_memory_wc`).
    WriteCombining,
    /// As memory usually is (`set_memory_wb`).
    WriteBack,
    /// No access (`set_memory_np`). Frame, rights and type are remembered.
    NonPresent,
    /// Accesses again (`set_memory_p`).
    Present,
}

impl Change {
    /// The memory type that is asked for.
    const fn cache(self) -> Option<CacheType> {
        match self {
            Self::Uncached => Some(CacheType::UncachedMinus),
            Self::WriteCombining => Some(CacheType::WriteCombining),
            Self::WriteBack => Some(CacheType::WriteBack),
            _ => None,
        }
    }

    /// What it does to the pages that were asked for, in the end.
    const fn adjustment(self) -> Adjustment {
        match self {
            Self::ReadOnly => Adjustment::ReadOnly,
            Self::Writable => Adjustment::Writable,
            Self::Executable => Adjustment::Executable,
            Self::NotExecutable => Adjustment::NotExecutable,
            Self::Uncached => Adjustment::Cache(CacheType::UncachedMinus),
            Self::WriteCombining => Adjustment::Cache(CacheType::WriteCombining),
            Self::WriteBack => Adjustment::Cache(CacheType::WriteBack),
            Self::NonPresent => Adjustment::Hidden,
            Self::Present => Adjustment::Shown,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.adjustment().fmt(f)
    }
}

/// Whoever may change the kernel's pages: one for a kernel. See the [module](self).
pub struct Permissions<'v, 'a, K: Kernel, const CPUS: usize> {
    tables: Tables<'a, K>,
    shootdown: &'a Flusher<K, CPUS>,
    layout: &'v Layout,
    types: &'v CacheTypes<'a, K>,
    areas: &'v [&'v Vmalloc<'a, K, CPUS>],
    /// Somebody has the turn.
    turn: AtomicBool,
    books: Lock<Books<'a, K>>,
}

impl<'v, 'a, K: Kernel, const CPUS: usize> Permissions<'v, 'a, K, CPUS> {
    /// Changes nothing. `tables` are the kernel's live ones, which all address spaces share; `layout` says what is where in
    /// them; `areas` are those that may be changed, of the same tables.
    ///
    /// # Safety
    ///
    /// The direct map and the image of `layout` are built in `tables`, and nobody else edits them from now on, but where nothing is mapped
    /// and no large page of it reaches (memory that is plugged in).
    pub const unsafe fn new(
        tables: Tables<'a, K>,
        shootdown: &'a Flusher<K, CPUS>,
        layout: &'v Layout,
        types: &'v CacheTypes<'a, K>,
        areas: &'v [&'v Vmalloc<'a, K, CPUS>],
    ) -> Self {
        let books = Books::new(tables.memory(), tables.frames());
        Self {
            tables,
            shootdown,
            layout,
            types,
            areas,
            turn: AtomicBool::new(false),
            books: Lock::new(books),
        }
    }

    /// The memory types that are written down.
    #[must_use]
    pub const fn types(&self) -> &'v CacheTypes<'a, K> {
        self.types
    }

    /// What is known of the first changed page at or behind `from`, and of those behind it of which the same is known.
    #[must_use]
    pub fn next_changed(&self, from: VirtAddr) -> Option<Changed> {
        self.with_books(|books| books.next_changed(from))
    }

    /// What was changed about a page; `None` when nothing was. Waits for no lock, so it may know less while another CPU changes something,
    /// or was stopped doing so: for who explains a fault.
    #[must_use]
    pub fn try_changed(&self, address: VirtAddr) -> Option<Changed> {
        let off = crate::platform::Interrupts::interrupts_off(self.shootdown.platform());
        let found = self
            .books
            .try_with(&off, |books| books.next_changed(address));
        found
            .flatten()
            .filter(|changed| changed.range.contains(address))
    }

    /// How many ranges of changed pages there are in the books, and how many large pages are split.
    #[must_use]
    pub fn in_books(&self) -> (u64, u64) {
        self.with_books(|books| books.counts())
    }

    fn walker(&self) -> Walker<'a, K::Memory> {
        Walker::new(self.tables.mode(), self.tables.root(), self.tables.memory())
            .with_limits(self.tables.limits())
    }

    fn with_books<R>(&self, body: impl FnOnce(&mut Books<'a, K>) -> R) -> R {
        let platform = self.shootdown.platform();
        let off = crate::platform::Interrupts::interrupts_off(platform);
        self.books.with(platform, &off, body)
    }
}

impl<K: Kernel, const CPUS: usize> Permissions<'_, '_, K, CPUS>
where
    K::Platform: CacheLines,
{
    /// Changes `bytes` bytes of pages from `start` on, in all their places, or nothing. When this returns, every CPU goes by it.
    ///
    /// # Errors
    ///
    /// [`PermissionError`]: nothing was changed.
    ///
    /// # Panics
    ///
    /// When somebody else changes these pages' tables meanwhile.
    ///
    /// # Safety
    ///
    /// Whoever uses these pages, wherever they are mapped, bears the change: does not write to what becomes read-only, does not touch what is
    /// not present, and while a memory type changes touches nothing of it. An area belongs to the caller, and nobody maps frames of it
    /// anew, nor frees frames that were changed through another place, before they are [restored](Self::restore). (The area itself cannot be
    /// freed before.)
    #[track_caller]
    pub unsafe fn set(
        &self,
        start: VirtAddr,
        bytes: u64,
        change: Change,
    ) -> Result<(), PermissionError> {
        let by = Caller::of(Location::caller());
        let fail = |problem| PermissionError {
            start,
            bytes,
            change: Some(change),
            problem,
        };
        let range = whole_pages(start, bytes).map_err(fail)?;
        let _turn = self.take_turn().map_err(fail)?;
        self.change(range, change, by).map_err(fail)
    }

    /// Makes `bytes` bytes of pages from `start` on what they were before the first change, in all their places, and forgets who changed
    /// them. For areas that are to be freed, above all.
    ///
    /// # Errors
    ///
    /// [`PermissionError`]: nothing was changed.
    ///
    /// # Panics
    ///
    /// As [`set`](Self::set).
    ///
    /// # Safety
    ///
    /// As [`set`](Self::set).
    pub unsafe fn restore(&self, start: VirtAddr, bytes: u64) -> Result<(), PermissionError> {
        let fail = |problem| PermissionError {
            start,
            bytes,
            change: None,
            problem,
        };
        let range = whole_pages(start, bytes).map_err(fail)?;
        let _turn = self.take_turn().map_err(fail)?;
        self.put_back(range).map_err(fail)
    }
}

/// The range, when it is one of whole pages.
fn whole_pages(start: VirtAddr, bytes: u64) -> Result<VirtRange, Problem> {
    if bytes == 0 {
        return Err(Problem::Empty);
    }
    if !start.is_aligned(FRAME_SIZE) || !bytes.is_multiple_of(FRAME_SIZE) {
        return Err(Problem::Unaligned);
    }
    VirtRange::try_new(start, bytes).map_err(|_| Problem::Wraps)
}

impl<K: Kernel, const CPUS: usize> fmt::Debug for Permissions<'_, '_, K, CPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permissions").finish_non_exhaustive()
    }
}
