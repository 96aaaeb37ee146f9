//! The kernel image under W^X: which pages of it are code, which constants, which variables.
//!
//! ```text
//!   sections   [ .text      ][ .rodata ]  [ .data  ][ .bss ]
//!   pages      |rx|rx|rx|rx|r-|r-|r-|     |rw|rw|rw|rw|rw|rw|
//! ```
//!
//! An [`ImageMap`] is the proof that the linker put no two sections of different rights into one page. What lies
//! between sections is not mapped.

use core::fmt;

use kspace_layout::{
    FRAME_SIZE, KernelImage, PageSize, PhysAddr, PhysRange, Section, SectionKind, VirtAddr,
    VirtRange,
};
use kspace_paging::{Access, EditError, Editor, EntryFormat, FrameSource, PhysMemory, Protection};

/// The most runs that an image can have: each section could be one.
const MAX_RUNS: usize = SectionKind::ALL.len();

/// What the pages of a section may be used for.
#[must_use]
pub const fn access(kind: SectionKind) -> Access {
    match kind {
        SectionKind::Text | SectionKind::InitText => Access::ReadExecute,
        SectionKind::Rodata => Access::ReadOnly,
        SectionKind::Data | SectionKind::Bss | SectionKind::InitData => Access::ReadWrite,
    }
}

/// Whole pages of the image that share their rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageRun {
    /// Where they are mapped.
    pub virt: VirtRange,
    /// What they map to: the first of as many frames.
    pub phys: PhysAddr,
    /// What they may be used for.
    pub access: Access,
}

impl ImageRun {
    /// What to ask an editor for.
    #[must_use]
    pub const fn protection(&self) -> Protection {
        Protection::kernel(self.access)
    }

    /// The frames behind the pages.
    #[must_use]
    pub fn frames(&self) -> PhysRange {
        PhysRange::new(self.phys, self.virt.size())
    }
}

/// The pages of a kernel image, in runs of equal rights.
///
/// # Invariants
///
/// Runs are sorted, disjoint, whole pages, inside the image, and no run is writable and executable.
#[derive(Clone, Copy, Debug)]
pub struct ImageMap {
    runs: [Option<ImageRun>; MAX_RUNS],
    len: usize,
}

impl ImageMap {
    /// The pages of `image`. One that a [`Layout`](kspace_layout::Layout) was built with has sound sections; what is
    /// left to check is that its pages can have one set of rights each.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the sections cannot be given their rights page by page.
    pub fn try_new(image: &KernelImage) -> Result<Self, ImageError> {
        if !image.virt().start().is_aligned(FRAME_SIZE)
            || !image.phys().start().is_aligned(FRAME_SIZE)
        {
            return Err(ImageError::NotAligned {
                virt: image.virt(),
                phys: image.phys(),
            });
        }
        let (sections, count) = sorted_sections(image);
        let mut map = Self {
            runs: [None; MAX_RUNS],
            len: 0,
        };
        let mut below: Option<Section> = None;
        for section in sections.into_iter().take(count).flatten() {
            if !image.virt().contains_range(section.range) {
                return Err(ImageError::OutsideImage {
                    section,
                    image: image.virt(),
                });
            }
            if !map.push(image, section) {
                let below = below.unwrap_or(section);
                return Err(ImageError::SharedPage {
                    below,
                    above: section,
                });
            }
            below = Some(section);
        }
        Ok(map)
    }

    /// The runs, in order of address.
    pub fn runs(&self) -> impl Iterator<Item = ImageRun> + Clone + '_ {
        self.runs.iter().take(self.len).copied().flatten()
    }

    /// Adds the pages of `section`, which lies above all before it; `false` when its first page has other rights
    /// already.
    fn push(&mut self, image: &KernelImage, section: Section) -> bool {
        let access = access(section.kind);
        let start = section.range.start().align_down(FRAME_SIZE);
        let last = last_of_page(section.range.last());
        if let Some(Some(below)) = self.len.checked_sub(1).map(|index| &mut self.runs[index]) {
            let shares_page = start <= below.virt.last();
            if below.access == access && (shares_page || below.virt.end_u64() == start.as_u64()) {
                below.virt = span(below.virt.start(), last.max(below.virt.last()));
                return true;
            }
            if shares_page {
                return false;
            }
        }
        let offset = start.as_u64() - image.virt().start().as_u64();
        // The section is inside the image, whose frames all have addresses.
        let phys = PhysAddr::new(image.phys().start().as_u64() + offset);
        self.runs[self.len] = Some(ImageRun {
            virt: span(start, last),
            phys,
            access,
        });
        self.len += 1;
        true
    }
}

/// Maps the pages of `image`, each run with its rights: in 2 MiB pages (4 MiB in two-level paging) where virtual and
/// physical address allow it, else in 4 KiB pages.
///
/// # Errors
///
/// [`EditError`]; runs below the one it names have been mapped.
pub fn build<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    image: &ImageMap,
) -> Result<(), EditError> {
    // Never 1 GiB: no image is as large.
    let largest = PageSize::Size4M;
    image
        .runs()
        .try_for_each(|run| editor.map(run.virt, run.phys, run.protection(), largest))
}

/// The sections from the lowest up, and how many there are.
fn sorted_sections(image: &KernelImage) -> ([Option<Section>; MAX_RUNS], usize) {
    let mut sorted = [None; MAX_RUNS];
    let mut count = 0;
    for (slot, section) in sorted.iter_mut().zip(image.sections()) {
        *slot = Some(section);
        count += 1;
    }
    sorted[..count].sort_unstable_by_key(|section: &Option<Section>| {
        section.map(|section| section.range.start())
    });
    (sorted, count)
}

fn last_of_page(address: VirtAddr) -> VirtAddr {
    // Setting low bits cannot leave the half that an address is in.
    VirtAddr::new(address.as_u64() | (FRAME_SIZE - 1))
}

fn span(start: VirtAddr, last: VirtAddr) -> VirtRange {
    VirtRange::new(start, last.as_u64() - start.as_u64() + 1)
}

/// Why an image cannot be mapped under W^X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The image does not begin at a page.
    NotAligned {
        /// Where it is mapped.
        virt: VirtRange,
        /// Where it lies.
        phys: PhysRange,
    },
    /// A section is not inside the image.
    OutsideImage {
        /// The section.
        section: Section,
        /// The image.
        image: VirtRange,
    },
    /// Two sections that need different rights share a page.
    SharedPage {
        /// The lower one.
        below: Section,
        /// The upper one.
        above: Section,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotAligned { virt, phys } => {
                write!(
                    f,
                    "kernel image: virtual {virt}, physical {phys}: both must begin at a page"
                )
            }
            Self::OutsideImage { section, image } => {
                write!(
                    f,
                    "kernel image: {section} is not inside the image {image}; check the linker script"
                )
            }
            Self::SharedPage { below, above } => write!(
                f,
                "kernel image: {below} is {} and {above} is {}, and they share a page; align {} to 4 KiB in the linker script",
                access(below.kind),
                access(above.kind),
                above.kind
            ),
        }
    }
}

impl core::error::Error for ImageError {}
