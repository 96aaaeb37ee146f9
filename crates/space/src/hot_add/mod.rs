//! Memory that is plugged in while the kernel runs: direct map, vmemmap and zones grow by it, all of them or none.
//!
//! ```text
//!   the new range   |####################################|bb|        128 MiB or a multiple; b: its own books, at its end
//!                    |                                     |
//!   direct map      |2M 2M 2M ... then merged as far as the plan says, as if it had always been there
//!   vmemmap         4 KiB pages for its records, bits, counters  <--'
//!   zone            spans it, and has all but b free
//! ```
//!
//! In this order, so that a refusal finds everything as it was:
//!
//! 1. what is known of memory is extended as a copy, and what that means for zones, direct map and vmemmap is checked;
//! 2. all page tables are taken from the editor's source;
//! 3. the direct map reaches the range, its last frames become the books' pages, and the zone gets the others. Nothing of this
//!    can fail any more;
//! 4. where the plan has larger pages now, tables are merged to them. What that makes stale is in the token.
//!
//! So adding needs a few page tables, and nothing else that is not in the range.

mod direct;
mod error;
mod prepare;
mod top_frames;

use kspace_frames::zone::{NodeId, Nodes, Vmemmap, ZoneLimits, Zones};
use kspace_frames::{AddError, FrameAllocator, MemoryMap};
use kspace_layout::{FRAME_SIZE, Layout, PhysRange};
use kspace_paging::{Editor, EntryFormat, Flush, FrameSource, PhysMemory};

use crate::held_frames::HeldFrames;
use crate::vmemmap;

pub use error::HotAddError;

use prepare::Prepared;
use top_frames::TopFrames;

/// What a kernel knows of its physical memory. Plain values, extended together.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The areas; the direct map ends where RAM does.
    pub layout: Layout,
    /// What is RAM.
    pub map: MemoryMap,
    /// Near to which node.
    pub nodes: Nodes,
}

/// What was made when memory became allocatable, and stays.
#[derive(Clone, Copy, Debug)]
pub struct Arranged<'a, 'z> {
    /// Which addresses are of which kind of zone.
    pub limits: &'a ZoneLimits,
    /// Where the allocators' books lie, and what each zone may span.
    pub vmemmap: &'a Vmemmap,
    /// The zones, each with an allocator for all that it may span.
    pub zones: &'a Zones<'z, FrameAllocator<'z>>,
}

/// What was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// Frames that can be allocated now.
    pub managed: u64,
    /// Frames of the range that hold its own books.
    pub books: u64,
}

/// Takes in the RAM at `range`, whole sections of 128 MiB near to `node`. Then [`verify`](crate::verify) finds direct map and vmemmap
/// as `known` says. To be followed by [`Zones::set_reserves`], because marks depend on what zones manage.
///
/// One CPU does this at a time. `next` is room for what will be known, whatever is in it: a kernel's stack is too small for a second
/// copy.
///
/// The token asks for the translations of the direct map that were merged, the same as before but for their size.
///
/// # Errors
///
/// [`HotAddError`]; nothing is changed.
pub fn hot_add<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    known: &mut Known,
    next: &mut Known,
    arranged: &Arranged<'_, '_>,
    node: NodeId,
    range: PhysRange,
) -> Result<Flush<Added>, HotAddError> {
    prepare::extend(known, next, node, range)?;
    let prepared = Prepared::new(editor, known, next, arranged, range)?;
    let needed = prepared.tables;
    let pool = HeldFrames::take(editor.memory(), editor.frames(), needed)
        .map_err(|had| HotAddError::OutOfTables { needed, had })?;
    let books = TopFrames::of(range, editor.memory());
    if !books.reaches(prepared.built.small) {
        return Err(HotAddError::Unreachable { range });
    }
    let held_editor = pool.editor(editor);
    prepared.direct.map(&held_editor, next)?;
    let runs = || prepare::runs_since(arranged.vmemmap, &known.nodes, &next.nodes);
    vmemmap::back(
        &held_editor,
        prepared.area,
        runs,
        prepared.built,
        &books,
        &books,
    )
    .map_err(HotAddError::Vmemmap)?;
    let flush = prepared.direct.merge(editor, next)?;
    let managed = give(arranged, &next.nodes, range, books.taken());
    known.clone_from(next);
    Ok(flush.with(Added {
        managed,
        books: books.taken(),
    }))
}

/// Hands the range to its zones, but for its last `books` frames; how many frames that is. It was checked that they take it.
fn give(arranged: &Arranged<'_, '_>, nodes: &Nodes, range: PhysRange, books: u64) -> u64 {
    let end = range.last().pfn().as_u64() + 1 - books;
    let mut managed = 0;
    for (node, kind, part) in nodes.zones_in(arranged.limits, range) {
        let Some(zone) = arranged.zones.get(node, kind) else {
            unreachable!("node {node} zone {kind} was there a moment ago")
        };
        let first = part.start().pfn();
        zone.extend(nodes.zone(arranged.limits, node, kind));
        let part_end = part.last().pfn().as_u64() + 1;
        // The range's last zone may have less of it than the books take.
        let frames = end.min(part_end).saturating_sub(first.as_u64());
        let is_busy = || match zone.frames().add(first, frames as usize) {
            Ok(()) => false,
            // Another CPU adds other memory to the same zone.
            Err(AddError::Busy) => true,
            Err(error) => unreachable!("{error}"),
        };
        while frames > 0 && is_busy() {
            core::hint::spin_loop();
        }
        managed += frames;
    }
    managed
}

/// Frames of a range of whole pages.
const fn frames_of(range: PhysRange) -> u64 {
    range.size() / FRAME_SIZE
}
