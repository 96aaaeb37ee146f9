//! Reaching frames for a moment: zeroing, filling, copying them, in code that is the same where not all RAM is mapped.
//!
//! ```text
//!   x86-64    frame ──▶ its place in the direct map                       nothing to map, nothing to unmap
//!   i386      frame below 896 MiB ──▶ its place in the direct map
//!             frame above             ──▶ a slot of this CPU's, the next in a stack of them; given back in the reverse order
//! ```
//!
//! [`Kmap::map`] gives a guard. It keeps the caller on its CPU, since a slot is one CPU's; what is mapped is reached through it, and
//! ends with it. Guards nest: the last one taken ends first, as scopes do. Linux's `kmap_local_page` (include/linux/highmem.h) asks
//! the same of its callers.
//!
//! What differs is a [`FrameWindow`]. With [`DirectMapWindow`] a guard is an address and a length, and dropping it does nothing.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use kspace_layout::{FRAME_SIZE, Layout, PhysAddr, PhysRange, VirtAddr};

use crate::platform::Cpu;

/// A way to see frames.
///
/// # Safety
///
/// As long as the value that [`open`](Self::open) returned lives, on the CPU that asked for it, the pointer leads to the bytes of `range`, in order,
/// readable and writable.
pub unsafe trait FrameWindow {
    /// Keeps the frames in sight; dropping it ends that.
    type Opened;

    /// The most bytes that can be asked for at once, a multiple of 4 KiB.
    const LONGEST: u64;

    /// Where `range`, not longer than [`LONGEST`](Self::LONGEST), can be seen; `None` when that is nowhere.
    fn open(&self, range: PhysRange) -> Option<(NonNull<u8>, Self::Opened)>;

    /// Fills bytes with zeros, in the way that is best for whole frames on this machine.
    ///
    /// # Safety
    ///
    /// The `bytes` bytes from `start` on are in sight, and the caller's alone.
    #[inline(always)]
    unsafe fn clear(start: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's contract.
        unsafe { start.write_bytes(0, bytes) };
    }
}

/// All RAM, at a fixed distance.
#[derive(Clone, Copy, Debug)]
pub struct DirectMapWindow {
    start: VirtAddr,
    covered: PhysRange,
}

impl DirectMapWindow {
    /// The direct map of `layout`; `None` for a layout without one.
    ///
    /// # Safety
    ///
    /// It is built, and its tables are in use for as long as this is.
    #[must_use]
    pub unsafe fn new(layout: &Layout) -> Option<Self> {
        Some(Self {
            start: layout.phys_to_virt(PhysAddr::ZERO).ok()?,
            covered: layout.direct_mapped()?,
        })
    }
}

// SAFETY: the promise of `new`: RAM is mapped there, in order, for good.
unsafe impl FrameWindow for DirectMapWindow {
    type Opened = ();

    const LONGEST: u64 = !(FRAME_SIZE - 1);

    #[inline(always)]
    fn open(&self, range: PhysRange) -> Option<(NonNull<u8>, ())> {
        let address = self.start.as_u64() + range.start().as_u64();
        let pointer = NonNull::new(address as *mut u8)?;
        self.covered.contains_range(range).then_some((pointer, ()))
    }
}

/// Why frames cannot be reached, or not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KmapError {
    /// The frames are in no window.
    OutOfSight(PhysRange),
    /// So many bytes cannot be seen at once.
    TooLong {
        /// How many were asked for.
        bytes: u64,
        /// How many can be.
        longest: u64,
    },
    /// The bytes are not all in the mapping.
    Outside {
        /// The first, counted from the start of the mapping.
        offset: usize,
        /// How many.
        bytes: usize,
        /// How many there are.
        size: usize,
    },
}

impl fmt::Display for KmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfSight(range) => write!(
                f,
                "kmap: physical {range} is not in the direct map; map devices as an area"
            ),
            Self::TooLong { bytes, longest } => write!(
                f,
                "kmap: {bytes} bytes were asked for, {longest} can be seen at once; go piece by piece"
            ),
            Self::Outside {
                offset,
                bytes,
                size,
            } => write!(
                f,
                "kmap: {bytes} bytes from {offset} on are not all in a mapping of {size}"
            ),
        }
    }
}

impl core::error::Error for KmapError {}

/// Reaches frames through a window, on any CPU.
#[derive(Clone, Copy, Debug)]
pub struct Kmap<P, W> {
    platform: P,
    window: W,
}

impl<P: Cpu, W: FrameWindow> Kmap<P, W> {
    /// Through this window.
    pub const fn new(platform: P, window: W) -> Self {
        Self { platform, window }
    }

    /// Shows `range` to this CPU until the guard is dropped.
    ///
    /// # Errors
    ///
    /// [`KmapError::OutOfSight`] and [`KmapError::TooLong`].
    ///
    /// # Safety
    ///
    /// While the guard lives, the bytes are RAM that only the caller writes, and nobody has references to them.
    #[inline(always)]
    pub unsafe fn map(&self, range: PhysRange) -> Result<Mapped<'_, P, W>, KmapError> {
        if range.size() > W::LONGEST {
            return Err(KmapError::TooLong {
                bytes: range.size(),
                longest: W::LONGEST,
            });
        }
        let pin = self.platform.pin();
        let opened = self.window.open(range);
        let (start, opened) = opened.ok_or(KmapError::OutOfSight(range))?;
        Ok(Mapped {
            start,
            size: range.size() as usize,
            _opened: opened,
            _pin: pin,
            kmap: PhantomData,
        })
    }

    /// Fills `range` with zeros, however long it is.
    ///
    /// # Errors
    ///
    /// [`KmapError::OutOfSight`]: at the first piece of which that is true, those before it are zero.
    ///
    /// # Safety
    ///
    /// As [`map`](Self::map).
    #[inline]
    pub unsafe fn zero(&self, range: PhysRange) -> Result<(), KmapError> {
        let mut done = 0;
        while done < range.size() {
            let bytes = (range.size() - done).min(W::LONGEST);
            let piece = PhysRange::new(PhysAddr::new(range.start().as_u64() + done), bytes);
            // SAFETY: the caller's contract.
            unsafe { self.map(piece) }?.zero();
            done += bytes;
        }
        Ok(())
    }
}

/// Frames that this CPU can reach, until this is dropped.
#[must_use = "a mapping that is dropped is gone"]
pub struct Mapped<'k, P: Cpu, W: FrameWindow> {
    start: NonNull<u8>,
    size: usize,
    // Dropped in this order: out of sight first, then free to move.
    _opened: W::Opened,
    _pin: P::Pin,
    kmap: PhantomData<&'k Kmap<P, W>>,
}

impl<P: Cpu, W: FrameWindow> Mapped<'_, P, W> {
    /// Where the first byte is seen.
    #[must_use]
    pub fn address(&self) -> VirtAddr {
        VirtAddr::new(self.start.as_ptr() as u64)
    }

    /// How many bytes there are.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Fills all with zeros.
    #[inline]
    pub fn zero(&mut self) {
        // SAFETY: the window shows so many bytes, and they are the caller's.
        unsafe { W::clear(self.start, self.size) };
    }

    /// Reads the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`KmapError::Outside`]; nothing was read.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), KmapError> {
        let (from, bytes) = (self.at(offset, into.len())?, into.len());
        // SAFETY: `at` has checked that they are inside; nobody writes them, and the caller's buffer is elsewhere, being a reference.
        unsafe { from.copy_to_nonoverlapping(NonNull::from(into).cast(), bytes) };
        Ok(())
    }

    /// Writes the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`KmapError::Outside`]; nothing was written.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), KmapError> {
        let to = self.at(offset, bytes.len())?;
        // SAFETY: as in `read`.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Ok(())
    }

    /// Makes this a copy of another mapping's frames, which are others, and as many.
    ///
    /// # Errors
    ///
    /// [`KmapError::Outside`], when they are not as many; nothing was written.
    pub fn copy_from(&mut self, other: &Self) -> Result<(), KmapError> {
        if other.size != self.size {
            return Err(KmapError::Outside {
                offset: 0,
                bytes: other.size,
                size: self.size,
            });
        }
        // SAFETY: both are in sight, and as long; the same frames mapped twice would be right, too.
        unsafe { self.start.copy_from(other.start, self.size) };
        Ok(())
    }

    /// Where `bytes` bytes from `offset` on are.
    fn at(&self, offset: usize, bytes: usize) -> Result<NonNull<u8>, KmapError> {
        let end = offset.checked_add(bytes);
        if end.is_none_or(|end| end > self.size) {
            return Err(KmapError::Outside {
                offset,
                bytes,
                size: self.size,
            });
        }
        // SAFETY: inside what the window shows.
        Ok(unsafe { self.start.add(offset) })
    }
}

impl<P: Cpu, W: FrameWindow> fmt::Debug for Mapped<'_, P, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapped({} bytes at {})", self.size, self.address())
    }
}
