//! One user space: its root, which user addresses are held, and the flushes about it.

use core::fmt;

use kspace_layout::{FRAME_SIZE, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{
    Editor, EntryFormat, FrameSource, Invalidation, Limits, PhysMemory, RawEntry, Walker,
};

use super::SpaceError;
use crate::platform::Interrupts;
use crate::ranges::{AllocateError, Ranges};
use crate::shootdown::Holding;
use crate::vmalloc::lock::Lock;
use crate::vmalloc::{Flusher, Kernel, Tables, Vmalloc};

/// The address space of a process: a root of its own. See the [module](super).
///
/// Dropping it frees its tables. No CPU may run it then, and none does if each one left by
/// [`switch_out`](crate::shootdown::Shootdown::switch_out); else it is leaked, and debug builds stop.
pub struct UserSpace<'s, 'a, K: Kernel, const CPUS: usize> {
    tables: Tables<'a, K>,
    user: VirtRange,
    /// User addresses that no mapping holds.
    places: Lock<Ranges<'a, K::Memory, &'a K::Frames>>,
    shootdown: &'s Flusher<K, CPUS>,
}

impl<'s, 'a, K: Kernel, const CPUS: usize> UserSpace<'s, 'a, K, CPUS> {
    /// A user space in whose user part, `user`, nothing is mapped. The rest is the kernel's: what the tables of `areas` have.
    ///
    /// # Errors
    ///
    /// [`SpaceError`].
    ///
    /// # Safety
    ///
    /// - The kernel's root entries are all there, and stay as they are: later ones would not be in this space;
    /// - `shootdown` is about this space alone, of [`Scope::Own`](crate::shootdown::Scope::Own), while it is there;
    /// - a CPU loads [`root`](Self::root) in its `switch_in`, loads another before its `switch_out`, and in between serves it when interrupted.
    pub unsafe fn new(
        areas: &Vmalloc<'a, K, CPUS>,
        user: VirtRange,
        shootdown: &'s Flusher<K, CPUS>,
    ) -> Result<Self, SpaceError> {
        let kernel = areas.tables();
        let (mode, memory, frames) = (kernel.mode(), kernel.memory(), kernel.frames());
        check::<K>(kernel, user)?;
        let root = frames.allocate().ok_or(SpaceError::NoFrames)?;
        let give_back = |_| {
            frames.release(root);
            SpaceError::NoFrames
        };
        let places = Ranges::new(user, memory, frames).map_err(give_back)?;
        // SAFETY: the root is a table of zeros, nobody else's; below, only the user part is edited, of which `places` gives each range to
        // one mapping at a time.
        let tables = unsafe { Editor::new(mode, root, kernel.limits(), memory, frames) };
        let Ok(tables) = tables else {
            frames.release(root);
            return Err(SpaceError::NoFrames);
        };
        share_kernel::<K>(kernel, root, user);
        if mode == PagingMode::Pae {
            // The CPU reads its four root entries only when it loads the root.
            match tables.populate(user) {
                // SAFETY: no CPU has loaded this root.
                Ok(token) => unsafe { token.discharged(memory, frames) },
                Err(_) => {
                    frames.release(root);
                    return Err(SpaceError::NoFrames);
                }
            }
        }
        Ok(Self {
            tables,
            user,
            places: Lock::new(places),
            shootdown,
        })
    }

    /// The physical address of the first table: what CR3 is to have.
    #[must_use]
    pub const fn root(&self) -> PhysAddr {
        self.tables.root()
    }

    /// The addresses that user mode may have.
    #[must_use]
    pub const fn range(&self) -> VirtRange {
        self.user
    }

    /// What makes the CPUs that run it forget.
    #[must_use]
    pub const fn shootdown(&self) -> &'s Flusher<K, CPUS> {
        self.shootdown
    }

    pub(super) const fn tables(&self) -> &Tables<'a, K> {
        &self.tables
    }

    /// Takes user addresses that nobody else holds.
    pub(super) fn hold(&self, range: VirtRange) -> Result<(), AllocateError> {
        self.with_places(|places| places.allocate_at(range))
    }

    /// Gives up what was held; nothing is mapped there, and no CPU knows otherwise.
    pub(super) fn let_go(&self, range: VirtRange) {
        let freed = self.with_places(|places| places.free(range));
        debug_assert!(freed.is_ok(), "{range} was held");
    }

    fn with_places<R>(
        &self,
        body: impl FnOnce(&mut Ranges<'a, K::Memory, &'a K::Frames>) -> R,
    ) -> R {
        let platform = self.shootdown.platform();
        self.places.with(platform, &platform.interrupts_off(), body)
    }

    /// Whether a CPU may walk the tables.
    fn is_run(&self) -> bool {
        let runs = |cpu| matches!(self.shootdown.holding(cpu), Holding::Active | Holding::Lazy);
        self.shootdown.holders().iter().any(runs)
    }
}

impl<K: Kernel, const CPUS: usize> Drop for UserSpace<'_, '_, K, CPUS> {
    fn drop(&mut self) {
        let tables = &self.tables;
        let (memory, frames) = (tables.memory(), tables.frames());
        if self.is_run() {
            debug_assert!(
                false,
                "the user space at {} is leaked: a CPU runs it",
                self.root()
            );
            return;
        }
        // Mappings that were forgotten; what they hold stays held.
        let Ok(mut token) = tables.unmap_present(self.user) else {
            debug_assert!(false, "no page is parked, and none is split");
            return;
        };
        if let Ok(purged) = tables.purge(roots_of(tables.mode(), self.user)) {
            token.absorb(purged, memory);
        }
        // CPUs that were here and kept translations under their PCID: a later space may come to the same `shootdown`.
        self.shootdown.invalidate(&Invalidation::Everything);
        // SAFETY: no CPU runs the space, and who kept something was told to forget everything.
        unsafe { token.discharged(memory, frames) };
        free_root_tables::<K>(tables, self.user);
        frames.release(self.root());
    }
}

impl<K: Kernel, const CPUS: usize> fmt::Debug for UserSpace<'_, '_, K, CPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserSpace(root {}, {})", self.root(), self.user)
    }
}

/// Entries of a root.
type Slots<'a, K> = &'a [<<<K as Kernel>::Format as EntryFormat>::Raw as RawEntry>::Atomic];

fn slots<'a, K: Kernel>(tables: &Tables<'a, K>, root: PhysAddr) -> Slots<'a, K> {
    let (mode, memory) = (tables.mode(), tables.memory());
    let count = mode.entries(mode.levels()) as usize;
    memory
        .entries::<<K::Format as EntryFormat>::Raw>(root, count)
        .expect("memory does not reach a root")
}

/// Refuses user addresses that are not the user's.
fn check<K: Kernel>(kernel: &Tables<'_, K>, user: VirtRange) -> Result<(), SpaceError> {
    let mode = kernel.mode();
    if !user.is_aligned(FRAME_SIZE) {
        return Err(SpaceError::Unaligned(user));
    }
    let bits = match mode {
        PagingMode::TwoLevel | PagingMode::Pae => mode.virt_bits(),
        PagingMode::FourLevel | PagingMode::FiveLevel => mode.virt_bits() - 1,
    };
    if user.last().as_u64() >> bits != 0 {
        return Err(SpaceError::NotUser { range: user, mode });
    }
    let entries = slots::<K>(kernel, kernel.root());
    let there = user_entries(mode, user)
        .find(|&index| <K::Format as EntryFormat>::Raw::load(&entries[index]) != 0);
    match there {
        None => Ok(()),
        Some(index) => {
            let at = VirtAddr::new((index as u64) << mode.level_shift(mode.levels()));
            Err(SpaceError::Kernel { range: user, at })
        }
    }
}

/// Copies the kernel's root entries.
fn share_kernel<K: Kernel>(kernel: &Tables<'_, K>, root: PhysAddr, user: VirtRange) {
    let (from, to) = (slots::<K>(kernel, kernel.root()), slots::<K>(kernel, root));
    let own = user_entries(kernel.mode(), user);
    for (_, (from, to)) in (0..)
        .zip(from.iter().zip(to))
        .filter(|(index, _)| !own.contains(index))
    {
        <K::Format as EntryFormat>::Raw::store(to, <K::Format as EntryFormat>::Raw::load(from));
    }
}

/// Frees the tables that purging leaves: those under PAE's root, whose entries are permanent. They are empty.
fn free_root_tables<K: Kernel>(tables: &Tables<'_, K>, user: VirtRange) {
    let (mode, root, memory) = (tables.mode(), tables.root(), tables.memory());
    let limits: Limits = tables.limits();
    let walker = Walker::new(mode, root, memory).with_limits(limits);
    for index in user_entries(mode, user) {
        let address = VirtAddr::new((index as u64) << mode.level_shift(mode.levels()));
        if let [_, below, ..] = walker.walk(address).steps() {
            tables.frames().release(below.entry.align_down(FRAME_SIZE));
        }
    }
}

/// The root entries that the user part has.
fn user_entries(mode: PagingMode, user: VirtRange) -> core::ops::RangeInclusive<usize> {
    let index = |address| mode.index(address, mode.levels()) as usize;
    index(user.start())..=index(user.last())
}

/// All that these root entries translate.
fn roots_of(mode: PagingMode, user: VirtRange) -> VirtRange {
    let span = 1_u64 << mode.level_shift(mode.levels());
    let last = VirtAddr::new(user.last().as_u64() | (span - 1));
    VirtRange::try_from_bounds(user.start().align_down(span), last).unwrap_or(user)
}
