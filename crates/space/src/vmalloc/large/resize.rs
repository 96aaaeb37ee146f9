//! Giving a live area another size, where it is.
//!
//! ```text
//!   | pages of the area | guard | free addresses ...            grow: the guard becomes a page of the area,
//!   | pages of the area   more pages   | guard | free ...       and the last of the new addresses the guard
//! ```

use core::fmt;

use kspace_layout::{FRAME_SIZE, VirtAddr, VirtRange};

use super::allocate::Source;
use super::books::Entry;
use crate::vmalloc::allocate::{Checked, Shortage};
use crate::vmalloc::state::Vmalloc;
use crate::vmalloc::{AreaError, AreaInfo, AreaRequest, Kernel, State, Want};

/// What came of a request for another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resized {
    /// The area has room for it now, where it was. These are its addresses.
    InPlace(VirtRange),
    /// The addresses behind the area are taken. Nothing was changed: allocate another, copy, and free this one.
    Elsewhere,
}

/// Why an area could not get another size. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeError {
    /// No live area of the kind that was asked for begins there.
    NoArea {
        /// The address.
        address: VirtAddr,
        /// What is there instead.
        found: Option<AreaInfo>,
    },
    /// There could be no area of that size.
    Area(AreaError),
}

impl fmt::Display for ResizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoArea { address, found } => {
                write!(f, "vmalloc: resize {address}: no such area begins there")?;
                match found {
                    None => f.write_str("; give the address that allocating it returned"),
                    Some(found) if found.state == State::Freed => {
                        write!(f, "; {} was freed", found.range)
                    }
                    Some(found) => write!(f, "; there is {}, for {}", found.range, found.kind),
                }
            }
            Self::Area(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ResizeError {}

impl<K: Kernel, const CPUS: usize> Vmalloc<'_, K, CPUS> {
    /// Makes the area at `start` as large as `request` says, which is otherwise the request that it was made by, if that can be done where
    /// it is. A smaller size leaves the area as it is.
    ///
    /// # Errors
    ///
    /// [`ResizeError`].
    ///
    /// # Safety
    ///
    /// The area is the caller's: nobody else frees or resizes it meanwhile.
    pub unsafe fn resize(
        &self,
        start: VirtAddr,
        request: &AreaRequest,
    ) -> Result<Resized, ResizeError> {
        let checked = self.check(request, true).map_err(ResizeError::Area)?;
        let found = self.find(start);
        let Some(info) = found.filter(|info| {
            info.range.start() == start && info.state == State::Live && info.kind == request.kind
        }) else {
            return Err(ResizeError::NoArea {
                address: start,
                found,
            });
        };
        if checked.pages <= info.pages {
            return Ok(Resized::InPlace(info.range));
        }
        let Some(entry) = self.with_books(&self.off(), |books| books.live_at(start)) else {
            // In a chunk: it has no room to spare.
            return Ok(Resized::Elsewhere);
        };
        self.check_memory(checked).map_err(ResizeError::Area)?;
        self.grow(entry, request, checked)
    }

    fn grow(
        &self,
        entry: Entry,
        request: &AreaRequest,
        checked: Checked,
    ) -> Result<Resized, ResizeError> {
        let old = entry.range.size() / FRAME_SIZE;
        let more = (checked.pages - old) * FRAME_SIZE;
        let (Ok(added), Ok(behind), Ok(whole)) = (
            after(entry.range.start(), old, more),
            after(entry.range.start(), old + 1, more),
            VirtRange::try_new(entry.range.start(), checked.pages * FRAME_SIZE),
        ) else {
            return Ok(Resized::Elsewhere);
        };
        let grown = self.with_space(&self.off(), |space| space.grow(behind));
        if grown.is_err() {
            return Ok(Resized::Elsewhere);
        }
        // Nothing of others is shown to user space.
        let user = self.with_books(&self.off(), |books| books.is_for_users(entry));
        let source = Source::Own(Want {
            owner: request.kind.owner(),
            node: request.node,
            zeroed: request.zeroed || user,
        });
        if let Err(partial) = self.fill_large(added, request, source) {
            self.take_away(added.start(), partial.mapped, source);
            let shrunk = self.with_space(&self.off(), |space| space.shrink(behind));
            debug_assert!(shrunk.is_ok(), "it was added just now");
            let shortage = match partial.shortage {
                Shortage::Frames { filled } => Shortage::Frames {
                    filled: old + filled,
                },
                other => other,
            };
            return Err(ResizeError::Area(self.explain(checked, &shortage)));
        }
        self.with_books(&self.off(), |books| books.set_pages(entry, checked.pages));
        Ok(Resized::InPlace(whole))
    }
}

/// `bytes` bytes from page `page` after `start` on.
fn after(start: VirtAddr, page: u64, bytes: u64) -> Result<VirtRange, kspace_layout::AddressError> {
    VirtRange::try_new(start.checked_add(page * FRAME_SIZE)?, bytes)
}
