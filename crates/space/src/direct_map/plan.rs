//! Which part of physical memory the direct map covers, with which page sizes: pure arithmetic, nothing is mapped.
//!
//! ```text
//!   physical    0      1M   2M          1G                  3G      |hole|   4G  ...
//!   RAM         [#####..####|###########|###################|##]            [###########
//!   runs        |4k.........|2M.........|1G.................|2M|4k|          |1G .......
//! ```
//!
//! The rules are those by which Linux decides (`init_mem_mapping` and `split_mem_range`, arch/x86/mm/init.c), and the
//! page sizes come out the same:
//!
//! - Only RAM is covered; holes and every other kind of memory stay unmapped, ACPI tables too: who needs those maps them
//!   by name.
//! - The first MiB is covered whole, RAM or not, in 4 KiB pages: the old video and BIOS windows lie there, between RAM, and
//!   the fixed MTRRs give its parts different memory types.
//!   It ends a stretch, so no large page begins before the next multiple of its size: on 32 bits, as Linux has it, everything
//!   below 2 or 4 MiB is in 4 KiB pages. There are no 1 GiB pages there, and the map ends where low memory ends.
//! - Elsewhere every address lies in the largest page that is wholly RAM, of one protection, and inside the map.
//! - Where the kernel's text and constants lie, the map is read-only, else it would be a back door to writing them.

use core::fmt;

use kspace_frames::MemoryMap;
use kspace_layout::{FRAME_SIZE, Layout, PageSize, PagingMode, PhysAddr, PhysRange};
use kspace_paging::{Access, Limits};

use crate::image::{ImageMap, ImageRun};

/// The end of the memory that the direct map always covers whole, in 4 KiB pages (Linux: `ISA_END_ADDRESS`).
pub const FIRST_MIB: PhysRange = PhysRange::new(PhysAddr::ZERO, 1 << 20);

/// What a direct map covers: a memory map, seen with the page sizes of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    map: &'a MemoryMap,
    mode: PagingMode,
    limits: Limits,
    /// The last address that may be covered.
    last: PhysAddr,
    image: Option<&'a ImageMap>,
}

/// The plan for `map` on a machine that has `mode` and `limits`.
#[must_use]
pub const fn plan(map: &MemoryMap, mode: PagingMode, limits: Limits) -> Plan<'_> {
    Plan {
        map,
        mode,
        limits,
        last: PhysAddr::LAST,
        image: None,
    }
}

impl<'a> Plan<'a> {
    /// The plan for the direct map of `layout`, which ends it; without a direct map, at the first MiB.
    #[must_use]
    pub fn for_layout(layout: &Layout, map: &'a MemoryMap, limits: Limits) -> Self {
        let last = layout.direct_mapped().unwrap_or(FIRST_MIB).last();
        plan(map, layout.mode(), limits).up_to(last)
    }

    /// The same plan without anything above `last`: the last byte of low memory on 32 bits, where the kernel's half of
    /// the address space is too small for all RAM. A page of which `last` is not the last byte is left out.
    #[must_use]
    pub const fn up_to(self, last: PhysAddr) -> Self {
        let end = (last.as_u64() + 1) & !(FRAME_SIZE - 1);
        // A limit inside the very first page would leave nothing to say; that page stays.
        let last = PhysAddr::new(if end == 0 { FRAME_SIZE - 1 } else { end - 1 });
        Self { last, ..self }
    }

    /// The same plan with the text and the constants of `image` read-only. On 32 bits, where the image is mapped
    /// nowhere else, its text is executable too.
    #[must_use]
    pub const fn with_image(self, image: &'a ImageMap) -> Self {
        Self {
            image: Some(image),
            ..self
        }
    }

    /// The paging mode that it was made for.
    #[must_use]
    pub const fn mode(&self) -> PagingMode {
        self.mode
    }

    /// The runs, in order of address: disjoint, and no two that touch have the same page size and access.
    #[must_use]
    pub fn runs(&self) -> Runs<'a> {
        Runs {
            pieces: Pieces {
                plan: *self,
                next: Some(PhysAddr::ZERO),
            },
            pending: None,
        }
    }

    /// Bytes that the direct map covers.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs().map(|run| run.phys.size()).sum()
    }

    /// The stretch of memory at or above `from` that one kind of mapping can cover: contiguous, covered, of one access.
    fn stretch(&self, from: PhysAddr) -> Option<Stretch> {
        let range = self.covered(from)?;
        let start = range.start().max(from);
        let mut last = range.last().min(self.last);
        let access = self.access(start);
        let image = self
            .image
            .into_iter()
            .flat_map(ImageMap::runs)
            .map(|run| run.frames());
        for edge in image.flat_map(|frames| [frames.start().as_u64(), frames.end_u64()]) {
            let inside = edge > start.as_u64() && edge <= last.as_u64();
            if inside && self.access(PhysAddr::try_new(edge).ok()?) != access {
                last = PhysAddr::try_new(edge - 1).ok()?;
            }
        }
        let range = PhysRange::try_from_bounds(start, last).ok()?;
        Some(Stretch { range, access })
    }

    /// The lowest covered range that ends at or above `from`.
    fn covered(&self, from: PhysAddr) -> Option<PhysRange> {
        if from <= FIRST_MIB.last() {
            return Some(FIRST_MIB);
        }
        self.map.ram().find(|ram| ram.last() >= from)
    }

    fn access(&self, address: PhysAddr) -> Access {
        let holds = |run: &ImageRun| run.frames().contains(address);
        let in_image = self
            .image
            .and_then(|image| image.runs().find(holds))
            .map(|run| run.access);
        match in_image {
            Some(Access::ReadExecute) if self.mode.upper_half_start().is_some() => Access::ReadOnly,
            Some(access) => access,
            None => Access::ReadWrite,
        }
    }
}

/// A part of a direct map that has one page size and one access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The frames covered; whole pages of `page`.
    pub phys: PhysRange,
    /// The size of the pages.
    pub page: PageSize,
    /// What the direct map may do there: read and write, or only read; on 32 bits it may execute the kernel's text.
    pub access: Access,
}

impl fmt::Display for Run {
    /// As Linux's boot log: `[mem 0x00100000-0x001fffff] page 4k`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, last) = (self.phys.start(), self.phys.last());
        write!(f, "[mem {start:#010x}-{last:#010x}] page {}", self.page)?;
        if self.access == Access::ReadWrite {
            Ok(())
        } else {
            write!(f, " {}", self.access)
        }
    }
}

/// A stretch of memory that could be one run but for alignment.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    range: PhysRange,
    access: Access,
}

/// Iterator over the runs of a plan; see [`Plan::runs`].
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    pieces: Pieces<'a>,
    /// A piece that was read ahead and did not belong to the run before it.
    pending: Option<Run>,
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let mut run = self.pending.take().or_else(|| self.pieces.next())?;
        for piece in self.pieces.by_ref() {
            match join(run, piece) {
                Some(joined) => run = joined,
                None => {
                    self.pending = Some(piece);
                    break;
                }
            }
        }
        Some(run)
    }
}

/// One run of two that touch and are alike.
fn join(below: Run, above: Run) -> Option<Run> {
    let touch = below.phys.end_u64() == above.phys.start().as_u64();
    if !touch || below.page != above.page || below.access != above.access {
        return None;
    }
    let phys = PhysRange::try_from_bounds(below.phys.start(), above.phys.last()).ok()?;
    Some(Run { phys, ..below })
}

/// The runs before neighbours are joined.
#[derive(Clone, Debug)]
struct Pieces<'a> {
    plan: Plan<'a>,
    /// The first address that no piece has covered; `None` after the last address there is.
    next: Option<PhysAddr>,
}

impl Iterator for Pieces<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let stretch = self.plan.stretch(self.next?)?;
        let run = self.first_run(stretch)?;
        self.next = run.phys.last().checked_add(1).ok();
        Some(run)
    }
}

impl Pieces<'_> {
    /// As much of the beginning of `stretch` as the largest page that fits there can cover.
    fn first_run(&self, stretch: Stretch) -> Option<Run> {
        let (start, size) = (stretch.range.start().as_u64(), stretch.range.size());
        let mut page = PageSize::Size4K;
        // Where a larger page than `page` fits first, as an offset; until there `page` is the largest.
        let mut larger_at = size;
        for larger in self.page_sizes() {
            let offset = start.next_multiple_of(larger.bytes()) - start;
            let fits = offset
                .checked_add(larger.bytes())
                .is_some_and(|end| end <= size);
            if fits && offset == 0 {
                (page, larger_at) = (larger, size);
            } else if fits {
                larger_at = offset;
                break;
            }
        }
        let bytes = larger_at & !(page.bytes() - 1);
        let phys = PhysRange::try_new(stretch.range.start(), bytes).ok()?;
        Some(Run {
            phys,
            page,
            access: stretch.access,
        })
    }

    /// The machine's page sizes above 4 KiB, small to large.
    fn page_sizes(&self) -> impl Iterator<Item = PageSize> {
        let Plan { mode, limits, .. } = self.plan;
        let largest = limits.largest_leaf_level(mode, PageSize::Size1G);
        (2..=largest).filter_map(move |level| mode.leaf_size(level))
    }
}

const _: () = assert!(FIRST_MIB.size().is_multiple_of(FRAME_SIZE));
