//! Memory for code that is made at run time: modules, JIT compilers. Writable and executable never meet.
//!
//! ```text
//!                    place of the code       write alias       direct map
//!   new              read-only               writable          writable
//!   seal             read-only               gone              read-only       one flush for a whole batch,
//!                    executable              gone              read-only       and one more
//!   drop             read-only, then gone                      writable
//! ```
//!
//! Code is written through another place than the one it will run at. So its own place is never writable, and becomes executable only
//! when every CPU has forgotten the places where it was. All copies of a place in the direct map are kept in step, for kernels that have
//! one: their layout says where it is.

use core::fmt;

use kspace_layout::{Layout, PageSize, PhysAddr, VirtRange};
use kspace_paging::{EditError, Flush, Invalidation, Protection, Stale, Walker};

use super::OwnedArea;
use crate::vmalloc::{AreaError, AreaRequest, Kernel, Kind, Vmalloc};

/// Code that is being written, or is sealed. Dropping it makes it data, unmaps and frees it; that waits for flushes, so not in atomic
/// context.
#[must_use = "code that is dropped is gone"]
pub struct Code<'v, 'a, K: Kernel, const CPUS: usize> {
    /// Freed last: it has the frames.
    area: Option<OwnedArea<'v, 'a, K, CPUS>>,
    range: VirtRange,
    /// Where it can be written, until it is sealed.
    alias: Option<OwnedArea<'v, 'a, K, CPUS>>,
    /// Where that is, or was.
    written: VirtRange,
    direct: Option<&'v Layout>,
    sealed: bool,
}

/// Why there is no such code, or why it is not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeError {
    /// There is no such area.
    Area(AreaError),
    /// Rights could not be changed: the direct map's large pages must be split, and there is no frame for a table. Nothing has become
    /// executable; free some memory and seal again.
    Rights(EditError),
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Area(error) => error.fmt(f),
            Self::Rights(error) => write!(f, "seal code: {error}"),
        }
    }
}

impl core::error::Error for CodeError {}

impl From<AreaError> for CodeError {
    fn from(error: AreaError) -> Self {
        Self::Area(error)
    }
}

impl From<EditError> for CodeError {
    fn from(error: EditError) -> Self {
        Self::Rights(error)
    }
}

impl<'v, 'a, K: Kernel, const CPUS: usize> Code<'v, 'a, K, CPUS> {
    /// Memory for `bytes` bytes of code, zeros, in `areas` (where code must be, to reach the kernel's with 32-bit distances), and writable
    /// in `aliases`, of the same address space. `direct`: the layout of a kernel whose direct map has these frames too.
    ///
    /// # Errors
    ///
    /// [`CodeError::Area`].
    ///
    /// # Panics
    ///
    /// When somebody else changes the new area's tables.
    #[track_caller]
    pub fn new(
        areas: &'v Vmalloc<'a, K, CPUS>,
        aliases: &'v Vmalloc<'a, K, CPUS>,
        direct: Option<&'v Layout>,
        bytes: u64,
    ) -> Result<Self, CodeError> {
        let request = AreaRequest::new(bytes)
            .kind(Kind::Executable)
            .protection(Protection::KERNEL_RODATA)
            .zeroed();
        let area = OwnedArea::allocate(areas, &request)?;
        let range = area.range();
        let walker = walker(areas);
        let frame = |page: u64| {
            let address = range.start().checked_add(page * PageSize::Size4K.bytes());
            let phys = address.ok().and_then(|address| walker.translate(address));
            phys.map(PhysAddr::pfn)
                .expect("all pages of a new area are mapped")
        };
        let request = AreaRequest::new(range.size()).kind(Kind::Frames);
        // SAFETY: the frames are the area's; `Drop` and `seal` end this mapping, with its translations, before they free the area.
        let alias = unsafe { OwnedArea::map(aliases, &request, frame) }?;
        Ok(Self {
            area: Some(area),
            range,
            written: alias.range(),
            alias: Some(alias),
            direct,
            sealed: false,
        })
    }

    /// Where the code will run. Nothing can be written here.
    #[must_use]
    pub const fn range(&self) -> VirtRange {
        self.range
    }

    /// Where it can be written; `None` when it is sealed.
    #[must_use]
    pub fn writable(&self) -> Option<VirtRange> {
        self.alias.as_ref().map(OwnedArea::range)
    }

    /// Whether it can run.
    #[must_use]
    pub const fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Makes all of `batch` executable and nothing of it writable any more, with two flushes however many they are.
    ///
    /// # Errors
    ///
    /// [`CodeError::Rights`]: none of those that were not sealed before is executable; they can be written still.
    ///
    /// # Panics
    ///
    /// When somebody else has changed the tables of the code.
    pub fn seal(batch: &mut [Self]) -> Result<(), CodeError> {
        let Some(areas) = batch.iter().find_map(Self::areas) else {
            return Ok(());
        };
        let mut token = Flush::nothing();
        let protected = batch
            .iter()
            .filter(|code| !code.sealed)
            .try_for_each(|code| code.protect_direct(areas, Protection::KERNEL_RODATA, &mut token));
        if let Err(error) = protected {
            flush(areas, token);
            return Err(CodeError::Rights(error));
        }
        for code in &mut *batch {
            code.alias = None;
        }
        let drafts = || batch.iter().filter(|code| !code.sealed);
        let aliases = drafts().map(|code| stale(code.written));
        areas
            .shootdown()
            .invalidate_all(token.invalidation().copied().into_iter().chain(aliases));
        // SAFETY: all that it asks for was flushed just now.
        unsafe { token.discharged(areas.tables().memory(), areas.tables().frames()) };
        // Nobody can write there any more.
        let mut token = Flush::nothing();
        for code in drafts() {
            token.absorb(
                code.protect(areas, Protection::KERNEL_TEXT),
                areas.tables().memory(),
            );
        }
        flush(areas, token);
        for code in batch {
            code.sealed = true;
        }
        Ok(())
    }

    fn areas(&self) -> Option<&'v Vmalloc<'a, K, CPUS>> {
        self.area.as_ref().map(OwnedArea::areas)
    }

    /// Gives the code's own place these rights.
    fn protect(&self, areas: &Vmalloc<'a, K, CPUS>, protection: Protection) -> Flush {
        match areas.tables().protect(self.range, protection) {
            Ok(token) => token,
            // No page is split, as all of the area is concerned; and it is never writable.
            Err(error) => panic!("the entries of code were changed by somebody else: {error}"),
        }
    }

    /// Gives the frames' places in the direct map these rights.
    fn protect_direct(
        &self,
        areas: &Vmalloc<'a, K, CPUS>,
        protection: Protection,
        token: &mut Flush,
    ) -> Result<(), EditError> {
        let Some(layout) = self.direct else {
            return Ok(());
        };
        for run in walker(areas).runs(self.range).flatten() {
            // RAM that the kernel allocates from is all in the direct map.
            let place = layout.phys_to_virt(run.phys);
            let range = place.map(|start| VirtRange::try_new(start, run.virt.size()));
            if let Ok(Ok(range)) = range {
                let one = areas.tables().protect(range, protection)?;
                token.absorb(one, areas.tables().memory());
            }
        }
        Ok(())
    }

    /// Takes the right to execute away, and gives the direct map its own back.
    fn unseal(&self, areas: &Vmalloc<'a, K, CPUS>) -> Result<(), EditError> {
        flush(areas, self.protect(areas, Protection::KERNEL_RODATA));
        let mut writable = Flush::nothing();
        let protected = self.protect_direct(areas, Protection::KERNEL_DATA, &mut writable);
        flush(areas, writable);
        protected
    }
}

impl<K: Kernel, const CPUS: usize> Drop for Code<'_, '_, K, CPUS> {
    fn drop(&mut self) {
        let Some(area) = self.area.take() else {
            return;
        };
        if self.alias.take().is_some() {
            // The frames may be freed before the alias's areas are purged.
            area.areas().shootdown().invalidate(&stale(self.written));
        }
        if let Err(error) = self.unseal(area.areas()) {
            // The direct map was split when it was sealed, so no table is needed, unless sealing failed half-way. Then the frames must not
            // come back to an allocator that could not write to them.
            let range = area.into_raw();
            debug_assert!(false, "the code at {range} is leaked: {error}");
        }
    }
}

impl<K: Kernel, const CPUS: usize> fmt::Debug for Code<'_, '_, K, CPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({}", self.range)?;
        match &self.alias {
            Some(alias) => write!(f, ", written at {})", alias.range()),
            None => f.write_str(", sealed)"),
        }
    }
}

fn walker<'a, K: Kernel, const CPUS: usize>(areas: &Vmalloc<'a, K, CPUS>) -> Walker<'a, K::Memory> {
    let tables = areas.tables();
    Walker::new(tables.mode(), tables.root(), tables.memory()).with_limits(tables.limits())
}

fn flush<K: Kernel, const CPUS: usize>(areas: &Vmalloc<'_, K, CPUS>, token: Flush) {
    let tables = areas.tables();
    token.flush(areas.shootdown(), tables.memory(), tables.frames());
}

/// All that CPUs may know of pages that were mapped in `range`.
const fn stale(range: VirtRange) -> Invalidation {
    Invalidation::Range(Stale {
        range,
        page: PageSize::Size4K,
        global: true,
        tables: false,
        root: false,
    })
}
