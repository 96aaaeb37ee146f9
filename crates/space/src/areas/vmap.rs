//! Frames that somebody has already, mapped one behind the other: `vmap`, and for a short time `vm_map_ram`.

use core::cell::Cell;
use core::fmt;

use kspace_frames::MappedBlock;
use kspace_layout::{FRAME_SIZE, Pfn, VirtRange};
use kspace_paging::{Access, CacheType, Protection};

use super::OwnedArea;
use crate::vmalloc::{AreaError, AreaRequest, Kernel, Kind, Vmalloc};

/// Given frames at addresses of their own. Dropping it unmaps them.
///
/// The blocks stay the giver's, and borrowed meanwhile. When the mapping is dropped, no entry leads to them any more, but CPUs may still
/// have translations: [`Vmalloc::purge`] ends them, and must come before
/// [`MappedBlock::unmapped`](kspace_frames::MappedBlock::unmapped).
#[must_use = "a mapping that is dropped is gone"]
pub struct Mapping<'v, 'a, 'b, K: Kernel, const CPUS: usize> {
    area: OwnedArea<'v, 'a, K, CPUS>,
    blocks: &'b [MappedBlock<'b>],
}

/// Why frames were not mapped. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// Mappings of given frames are never executable: whoever has the frames can write to them.
    Executable,
    /// The kernel's addresses are not for user mode.
    User,
    /// RAM is cached as memory everywhere: two types for one frame are a machine check on some CPUs (Intel SDM vol. 3, section 13.12.4).
    Cache(CacheType),
    /// There is no such area.
    Area(AreaError),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Executable => f.write_str(
                "vmap: executable is refused, the frames are writable elsewhere; ask for executable memory, and seal it",
            ),
            Self::User => f.write_str("vmap: user mode has no right here; map them in a user space"),
            Self::Cache(cache) => write!(
                f,
                "vmap: {cache} is refused, the frames are write-back in the direct map; ask for write-back"
            ),
            Self::Area(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for MapError {}

impl From<AreaError> for MapError {
    fn from(error: AreaError) -> Self {
        Self::Area(error)
    }
}

impl<'v, 'a, 'b, K: Kernel, const CPUS: usize> Mapping<'v, 'a, 'b, K, CPUS> {
    /// Maps all frames of `blocks`, in their order (Linux: `vmap`).
    ///
    /// # Errors
    ///
    /// [`MapError`].
    #[track_caller]
    pub fn new(
        areas: &'v Vmalloc<'a, K, CPUS>,
        blocks: &'b [MappedBlock<'b>],
        protection: Protection,
    ) -> Result<Self, MapError> {
        match protection {
            Protection {
                access: Access::ReadExecute,
                ..
            } => return Err(MapError::Executable),
            Protection { user: true, .. } => return Err(MapError::User),
            Protection {
                cache: CacheType::WriteBack,
                ..
            } => {}
            Protection { cache, .. } => return Err(MapError::Cache(cache)),
        }
        let request = AreaRequest::new(pages_of(blocks) * FRAME_SIZE)
            .kind(Kind::Frames)
            .protection(protection);
        let place = Place::default();
        // SAFETY: the blocks are in use and marked as mapped, and borrowed for as long as the mapping is there; who has them promises to
        // take them out of use only after a flush. They are RAM, which entries can name.
        let area = unsafe { OwnedArea::map(areas, &request, |page| place.frame(blocks, page)) }?;
        Ok(Self { area, blocks })
    }

    /// As [`new`](Self::new), readable and writable, and said to be for a short time only (Linux: `vm_map_ram`).
    ///
    /// # Errors
    ///
    /// [`MapError::Area`].
    #[track_caller]
    pub fn short_lived(
        areas: &'v Vmalloc<'a, K, CPUS>,
        blocks: &'b [MappedBlock<'b>],
    ) -> Result<Self, MapError> {
        let place = Place::default();
        // SAFETY: as in `new`.
        let area = unsafe {
            OwnedArea::map_ram(areas, pages_of(blocks), |page| place.frame(blocks, page))
        }?;
        Ok(Self { area, blocks })
    }

    /// Where the frames are now.
    #[must_use]
    pub const fn range(&self) -> VirtRange {
        self.area.range()
    }

    /// What is mapped.
    pub const fn blocks(&self) -> &'b [MappedBlock<'b>] {
        self.blocks
    }

    /// Unmaps them, in the caller's name.
    #[track_caller]
    pub fn unmap(self) {
        self.area.free();
    }
}

impl<K: Kernel, const CPUS: usize> fmt::Debug for Mapping<'_, '_, '_, K, CPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Mapping({} {}, {} blocks)",
            self.area.range(),
            self.area.kind(),
            self.blocks.len()
        )
    }
}

fn pages_of(blocks: &[MappedBlock<'_>]) -> u64 {
    blocks.iter().map(frames_of).sum()
}

fn frames_of(block: &MappedBlock<'_>) -> u64 {
    block.order().frames() as u64
}

/// The block that was asked for last, and its first page: the next question is nearly always about it, or the one after it.
#[derive(Default)]
struct Place {
    block: Cell<usize>,
    first: Cell<u64>,
}

impl Place {
    /// The frame of a page, which one of the blocks has.
    fn frame(&self, blocks: &[MappedBlock<'_>], page: u64) -> Pfn {
        if page < self.first.get() {
            self.block.set(0);
            self.first.set(0);
        }
        loop {
            let (block, first) = (&blocks[self.block.get()], self.first.get());
            let behind = first + frames_of(block);
            if page < behind {
                return Pfn::new(block.pfn().as_u64() + (page - first));
            }
            self.block.set(self.block.get() + 1);
            self.first.set(behind);
        }
    }
}
