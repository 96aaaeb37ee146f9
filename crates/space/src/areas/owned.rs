//! An area that is freed when the value goes: the form for everybody who does not keep bare addresses.

use core::fmt;
use core::mem::ManuallyDrop;

use kspace_layout::{FRAME_SIZE, VirtAddr, VirtRange};

use crate::vmalloc::{AreaError, AreaRequest, Kernel, Kind, ResizeError, Resized, Vmalloc};

/// An area that this value has alone. Dropping it frees the area; [`free`](Self::free) also writes down who did.
///
/// In any context, as [`Vmalloc::free`].
#[must_use = "an area that is dropped is free again"]
pub struct OwnedArea<'v, 'a, K: Kernel, const CPUS: usize> {
    areas: &'v Vmalloc<'a, K, CPUS>,
    range: VirtRange,
    kind: Kind,
}

impl<'v, 'a, K: Kernel, const CPUS: usize> OwnedArea<'v, 'a, K, CPUS> {
    /// Allocates an area with frames of its own.
    ///
    /// # Errors
    ///
    /// [`AreaError`].
    #[track_caller]
    pub fn allocate(
        areas: &'v Vmalloc<'a, K, CPUS>,
        request: &AreaRequest,
    ) -> Result<Self, AreaError> {
        let range = areas.allocate(request)?;
        Ok(Self {
            areas,
            range,
            kind: request.kind,
        })
    }

    /// An area that maps given frames: that of each page is told by `frame`.
    ///
    /// # Errors
    ///
    /// [`AreaError`].
    ///
    /// # Safety
    ///
    /// As [`Vmalloc::map`].
    #[track_caller]
    pub unsafe fn map(
        areas: &'v Vmalloc<'a, K, CPUS>,
        request: &AreaRequest,
        frame: impl Fn(u64) -> kspace_layout::Pfn,
    ) -> Result<Self, AreaError> {
        // SAFETY: the caller's promise.
        let range = unsafe { areas.map(request, frame) }?;
        Ok(Self {
            areas,
            range,
            kind: request.kind,
        })
    }

    /// A short mapping of `pages` given frames: that of each page is told by `frame`.
    ///
    /// # Errors
    ///
    /// [`AreaError`].
    ///
    /// # Safety
    ///
    /// As [`Vmalloc::map_ram`].
    #[inline]
    #[track_caller]
    pub unsafe fn map_ram(
        areas: &'v Vmalloc<'a, K, CPUS>,
        pages: u64,
        frame: impl Fn(u64) -> kspace_layout::Pfn,
    ) -> Result<Self, AreaError> {
        // SAFETY: the caller's promise.
        let range = unsafe { areas.map_ram(pages, frame) }?;
        Ok(Self {
            areas,
            range,
            kind: Kind::ShortLived,
        })
    }

    /// Takes up an area that was given up by [`into_raw`](Self::into_raw), or never was one's own.
    ///
    /// # Safety
    ///
    /// A live area of `areas` and this kind has this range, and nobody else frees it.
    pub const unsafe fn from_raw(
        areas: &'v Vmalloc<'a, K, CPUS>,
        range: VirtRange,
        kind: Kind,
    ) -> Self {
        Self { areas, range, kind }
    }

    /// Gives up the value, but not the area: its addresses are all that is left of it.
    #[must_use = "the area leaks unless its addresses are freed"]
    pub fn into_raw(self) -> VirtRange {
        ManuallyDrop::new(self).range
    }

    /// Where it is, without the guard page that follows.
    #[must_use]
    pub const fn range(&self) -> VirtRange {
        self.range
    }

    /// Its first address.
    #[must_use]
    pub const fn start(&self) -> VirtAddr {
        self.range.start()
    }

    /// What it is for.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The areas that it is one of.
    #[must_use]
    pub const fn areas(&self) -> &'v Vmalloc<'a, K, CPUS> {
        self.areas
    }

    /// Makes it as large as `request` says, if that can be done where it is; see [`Vmalloc::resize`].
    ///
    /// # Errors
    ///
    /// [`ResizeError`]: the area is as it was.
    pub fn resize(&mut self, request: &AreaRequest) -> Result<Resized, ResizeError> {
        // SAFETY: the area is this value's, and `&mut` says that nobody else uses the value.
        let resized = unsafe { self.areas.resize(self.range.start(), request) }?;
        if let Resized::InPlace(range) = resized {
            self.range = range;
        }
        Ok(resized)
    }

    /// As [`resize`](Self::resize), and where there is no room it moves; see [`Vmalloc::reallocate`]. Returns where it is now.
    ///
    /// # Errors
    ///
    /// [`ResizeError`]: the area is as it was.
    #[track_caller]
    pub fn reallocate(&mut self, request: &AreaRequest) -> Result<VirtRange, ResizeError> {
        // SAFETY: the area is this value's, and `&mut` says that nobody else uses the value.
        self.range = unsafe { self.areas.reallocate(self.range.start(), request) }?;
        Ok(self.range)
    }

    /// Frees it, in the caller's name.
    ///
    /// # Panics
    ///
    /// When somebody else has freed it by its bare address; the message says who.
    #[track_caller]
    pub fn free(self) {
        ManuallyDrop::new(self).give_back();
    }

    #[track_caller]
    fn give_back(&self) {
        let start = self.range.start();
        // SAFETY: the area is this value's, which is not used any more.
        let freed = unsafe {
            match self.kind {
                Kind::ShortLived => self.areas.unmap_ram(start, self.range.size() / FRAME_SIZE),
                _ => self.areas.free(start),
            }
        };
        if let Err(error) = freed {
            panic!("{error}");
        }
    }
}

impl<K: Kernel, const CPUS: usize> Drop for OwnedArea<'_, '_, K, CPUS> {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// `OwnedArea(ffffc90000000000-ffffc90000000fff vmalloc)`
impl<K: Kernel, const CPUS: usize> fmt::Debug for OwnedArea<'_, '_, K, CPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnedArea({} {})", self.range, self.kind)
    }
}
