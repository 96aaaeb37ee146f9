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
use core::panic::Location;

use kspace_layout::{PageSize, PhysAddr, VirtRange};
use kspace_paging::{Flush, Invalidation, Protection, Stale, Walker};

use super::OwnedArea;
use crate::permissions::{Change, PermissionError, Permissions, Problem};
use crate::vmalloc::caller::Caller;
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
    direct: Option<&'v Permissions<'v, 'a, K, CPUS>>,
    /// The other places of its frames are read-only.
    guarded: bool,
    sealed: bool,
}

/// Why there is no such code, or why it is not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeError {
    /// There is no such area.
    Area(AreaError),
    /// Rights could not be changed: the direct map's large pages must be split, and there is no frame for a table. Nothing has become
    /// executable; free some memory and seal again.
    Rights(PermissionError),
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

impl<'v, 'a, K: Kernel, const CPUS: usize> Code<'v, 'a, K, CPUS> {
    /// Memory for `bytes` bytes of code, zeros, in `areas` (where code must be, to reach the kernel's with 32-bit distances), and writable
    /// in `aliases`, of the same address space. `direct`: whoever changes the pages of a kernel whose direct map has these frames too; there is one
    /// in a kernel.
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
        direct: Option<&'v Permissions<'v, 'a, K, CPUS>>,
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
            guarded: false,
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
    #[track_caller]
    pub fn seal(batch: &mut [Self]) -> Result<(), CodeError> {
        let by = Caller::of(Location::caller());
        let Some(areas) = batch.iter().find_map(Self::areas) else {
            return Ok(());
        };
        // The kernel's one; held until the batch is sealed.
        let direct = batch.iter().find_map(|code| code.direct);
        let _turn = match direct.map(Permissions::take_turn).transpose() {
            Ok(turn) => turn,
            Err(problem) => return Err(batch[0].refused(problem)),
        };
        let mut token = Flush::nothing();
        for code in batch.iter_mut().filter(|code| !code.sealed) {
            if let Err(problem) = code.guard(by, &mut token) {
                let error = code.refused(problem);
                flush(areas, token);
                return Err(error);
            }
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

    /// Makes the other places of its frames read-only, if they are not yet.
    fn guard(&mut self, by: Caller, token: &mut Flush) -> Result<(), Problem> {
        if let Some(direct) = self.direct.filter(|_| !self.guarded) {
            direct.guard_code(self.range, by, token)?;
            self.guarded = true;
        }
        Ok(())
    }

    const fn refused(&self, problem: Problem) -> CodeError {
        CodeError::Rights(PermissionError {
            start: self.range.start(),
            bytes: self.range.size(),
            change: Some(Change::Executable),
            problem,
        })
    }

    /// Takes the right to execute away, and gives the other places theirs back.
    fn unseal(&self, areas: &Vmalloc<'a, K, CPUS>) -> Result<(), CodeError> {
        flush(areas, self.protect(areas, Protection::KERNEL_RODATA));
        let Some(direct) = self.direct.filter(|_| self.guarded) else {
            return Ok(());
        };
        let released = direct
            .take_turn()
            .and_then(|_turn| direct.release_code(self.range));
        released.map_err(|problem| self.refused(problem))
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
