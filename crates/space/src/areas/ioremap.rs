//! Devices' registers and memory, mapped so that the kernel can use them: `ioremap`.
//!
//! ```text
//!   physical   |......[ 0xfed40010, 0x20 bytes ].....|         whole pages are mapped, and the offset is kept
//!                     |
//!   virtual    |......[ address() ..           ].....| guard |
//! ```
//!
//! RAM is refused: two mappings of it with different cache types are a machine check on some CPUs, and lose writes on others (Intel SDM
//! vol. 3, section 12.12.4). For the same reason every mapping is written down in [`CacheTypes`] as long as a CPU may know of it, and a
//! page that is mapped already is mapped again with the same type only. (The first MiB is in the direct map as write-back, devices and all: there
//! the fixed-range MTRRs decide, and say uncached.) From 2 MiB on, large pages are used where the device's address is aligned for them; 1 GiB likewise.

use core::fmt;

use kspace_frames::MemoryMap;
use kspace_layout::{FRAME_SIZE, PageSize, Pfn, PhysAddr, PhysRange, VirtAddr, VirtRange};
use kspace_paging::{CacheType, Invalidation, Limits, Protection, Stale};

use super::OwnedArea;
use crate::cache_types::{CacheTypes, TypeError};
use crate::vmalloc::{AreaError, AreaRequest, Kernel, Kind, Vmalloc};

/// How the CPU treats accesses to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum DeviceCache {
    /// Registers: every access as it is written (Linux: `ioremap`, which leaves MTRRs the last word).
    #[default]
    UncachedMinus,
    /// The same, whatever the MTRRs say (Linux: `ioremap_uc`).
    Uncached,
    /// Frame buffers: writes are gathered (Linux: `ioremap_wc`).
    WriteCombining,
    /// Reads are cached (Linux: `ioremap_wt`).
    WriteThrough,
    /// Memory that behaves as RAM does: firmware tables (Linux: `ioremap_cache`).
    WriteBack,
}

impl DeviceCache {
    pub(super) const fn cache(self) -> CacheType {
        match self {
            Self::UncachedMinus => CacheType::UncachedMinus,
            Self::Uncached => CacheType::Uncached,
            Self::WriteCombining => CacheType::WriteCombining,
            Self::WriteThrough => CacheType::WriteThrough,
            Self::WriteBack => CacheType::WriteBack,
        }
    }
}

/// Why a device was not mapped. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoError {
    /// No bytes were asked for.
    Empty(PhysAddr),
    /// The range goes on behind the last physical address that there is.
    Wraps {
        /// Where it begins.
        start: PhysAddr,
        /// How long it would be.
        bytes: u64,
    },
    /// The machine's entries cannot name the end of it.
    TooWide {
        /// What was asked for.
        range: PhysRange,
        /// The machine's physical address bits.
        bits: u32,
    },
    /// Some of its pages are RAM.
    Ram {
        /// What was asked for, in whole pages.
        range: PhysRange,
        /// The first RAM in it.
        ram: PhysRange,
    },
    /// The page attribute table has no index for the cache type.
    NoSuchCache(CacheType),
    /// A page of it is mapped with another cache type already, or there is no room to write it down.
    Type(TypeError),
    /// There is no such area.
    Area(AreaError),
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ioremap: ")?;
        match *self {
            Self::Empty(start) => write!(f, "no bytes at {start}; ask for at least one"),
            Self::Wraps { start, bytes } => write!(
                f,
                "{bytes:#x} bytes from {start} on go past the last physical address; check the device's size"
            ),
            Self::TooWide { range, bits } => write!(
                f,
                "{range}: this machine has {bits} bits of physical address; check the device's address"
            ),
            Self::Ram { range, ram } => write!(
                f,
                "{range}: {ram} is RAM, which is mapped with another cache type already; use the direct map"
            ),
            Self::NoSuchCache(cache) => write!(
                f,
                "{cache}: the page attribute table has no such type; load Linux's table, or ask for another type"
            ),
            Self::Type(error) => error.fmt(f),
            Self::Area(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for IoError {}

impl From<TypeError> for IoError {
    fn from(error: TypeError) -> Self {
        Self::Type(error)
    }
}

impl From<AreaError> for IoError {
    fn from(error: AreaError) -> Self {
        Self::Area(error)
    }
}

/// The whole pages that hold `bytes` bytes from `start` on, if a device may be mapped there.
///
/// # Errors
///
/// [`IoError`].
pub fn device_pages(
    map: &MemoryMap,
    limits: Limits,
    start: PhysAddr,
    bytes: u64,
) -> Result<PhysRange, IoError> {
    if bytes == 0 {
        return Err(IoError::Empty(start));
    }
    let Ok(range) = PhysRange::try_new(start, bytes) else {
        return Err(IoError::Wraps { start, bytes });
    };
    let bits = limits.phys_bits();
    // Widths are 32 to 52.
    if range.last().as_u64() >> bits != 0 {
        return Err(IoError::TooWide { range, bits });
    }
    let first = start.align_down(FRAME_SIZE);
    // The last address of a page that a physical address lies in is one, too.
    let last = PhysAddr::new(range.last().as_u64() | (FRAME_SIZE - 1));
    let Ok(pages) = PhysRange::try_from_bounds(first, last) else {
        return Err(IoError::Wraps { start, bytes });
    };
    match map.ram().find_map(|ram| ram.intersection(pages)) {
        Some(ram) => Err(IoError::Ram { range: pages, ram }),
        None => Ok(pages),
    }
}

/// A device's registers or memory, mapped. Dropping it unmaps them; that waits for a flush, so not in atomic context.
#[must_use = "a mapping that is dropped is gone"]
pub struct IoMemory<'v, 'a, K: Kernel, const CPUS: usize> {
    /// Gone only in `give_back`.
    area: Option<OwnedArea<'v, 'a, K, CPUS>>,
    types: &'v CacheTypes<'a, K>,
    address: VirtAddr,
    phys: PhysRange,
    /// The whole pages.
    pages: PhysRange,
    cache: DeviceCache,
}

impl<'v, 'a, K: Kernel, const CPUS: usize> IoMemory<'v, 'a, K, CPUS> {
    /// Maps `bytes` bytes of a device at `start`. `map` says what is RAM; in `types` the mapping is written down.
    ///
    /// # Errors
    ///
    /// [`IoError`].
    ///
    /// # Safety
    ///
    /// The device bears being mapped: reading its registers ahead of time has no effect that is not wanted, as far as the cache type lets
    /// the CPU do it; and mappings of it that are not in `types` have the same cache type.
    #[track_caller]
    pub unsafe fn new(
        areas: &'v Vmalloc<'a, K, CPUS>,
        types: &'v CacheTypes<'a, K>,
        map: &MemoryMap,
        start: PhysAddr,
        bytes: u64,
        cache: DeviceCache,
    ) -> Result<Self, IoError> {
        let limits = areas.tables().limits();
        let pages = device_pages(map, limits, start, bytes)?;
        if limits.pat().index(cache.cache()).is_none() {
            return Err(IoError::NoSuchCache(cache.cache()));
        }
        let request = AreaRequest::new(pages.size())
            .kind(Kind::Device)
            .protection(Protection::KERNEL_DATA.with_cache(cache.cache()));
        types.add_mapping(pages, cache.cache())?;
        let first = pages.start().pfn().as_u64();
        // SAFETY: no RAM is in these pages, the entries can name them, and the caller answers for the device.
        let area = unsafe { OwnedArea::map(areas, &request, |page| Pfn::new(first + page)) };
        let area = area.inspect_err(|_| forget(types, pages))?;
        Ok(Self {
            // Inside the area's first page, so it is an address.
            address: VirtAddr::new(area.start().as_u64() + start.as_u64() % FRAME_SIZE),
            area: Some(area),
            types,
            phys: PhysRange::new(start, bytes),
            pages,
            cache,
        })
    }

    /// The virtual address of the device's first byte.
    #[must_use]
    pub const fn address(&self) -> VirtAddr {
        self.address
    }

    /// The device, without what else is in its pages.
    #[must_use]
    pub const fn range(&self) -> VirtRange {
        VirtRange::new(self.address, self.phys.size())
    }

    /// Where it is in physical memory.
    #[must_use]
    pub const fn phys(&self) -> PhysRange {
        self.phys
    }

    /// How the CPU treats accesses to it.
    #[must_use]
    pub const fn cache(&self) -> DeviceCache {
        self.cache
    }

    /// Unmaps it, in the caller's name.
    #[track_caller]
    pub fn unmap(mut self) {
        self.give_back();
    }

    #[track_caller]
    fn give_back(&mut self) {
        let Some(area) = self.area.take() else { return };
        let (areas, range) = (area.areas(), area.range());
        area.free();
        // With another type it can be mapped only when no CPU knows of this mapping any more.
        let stale = Stale {
            range,
            page: PageSize::Size4K,
            global: true,
            tables: false,
            root: false,
        };
        areas.shootdown().invalidate(&Invalidation::Range(stale));
        forget(self.types, self.pages);
    }
}

impl<K: Kernel, const CPUS: usize> Drop for IoMemory<'_, '_, K, CPUS> {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Strikes a mapping out. When there is no frame for that, it stays in the books: its pages can have the same type only, from then on.
fn forget<K: Kernel>(types: &CacheTypes<'_, K>, pages: PhysRange) {
    if let Err(error) = types.remove_mapping(pages) {
        debug_assert!(
            !matches!(error, TypeError::Unaligned(_)),
            "a device was mapped in whole pages: {error}"
        );
    }
}

impl<K: Kernel, const CPUS: usize> fmt::Debug for IoMemory<'_, '_, K, CPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "IoMemory({} -> {} {})",
            self.range(),
            self.phys,
            self.cache.cache()
        )
    }
}
