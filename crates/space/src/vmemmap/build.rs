//! From the plan to pages.

use core::fmt;

use kspace_frames::zone::{VmemmapPlan, VmemmapRun};
use kspace_layout::{AreaKind, Layout, PageSize, VirtRange};
use kspace_paging::{
    EditError, Editor, EntryFormat, FrameSource, Obstacle, PhysMemory, Protection, Run, Walker,
};

use crate::PageSource;
use crate::held_frames::HeldFrames;
use crate::page_source::LargePages;
use crate::table_count::tables_needed;

/// What was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Built {
    /// Pages of 4 KiB.
    pub small: u64,
    /// Pages of 2 MiB.
    pub large: u64,
    /// Page tables that they take at least, without the root: so many were allocated, if none of them existed before.
    pub tables: u64,
}

impl Built {
    /// Bytes of the pages.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.small * PageSize::Size4K.bytes() + self.large * PageSize::Size2M.bytes()
    }
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = kspace_layout::ByteSize(self.bytes());
        write!(
            f,
            "vmemmap: {bytes} in {} pages of 4k and {} of 2M",
            self.small, self.large
        )
    }
}

/// Puts pages of zeros where `plan` wants them, in the vmemmap of `layout`: writable, global, never executable. Pages and tables come
/// from the editor's source.
///
/// All of them are taken before the first change, so that running out of memory finds the tables unchanged.
///
/// # Errors
///
/// [`BuildError`]; only [`BuildError::Edit`] with `mapped` above zero leaves something behind.
pub fn build<F: EntryFormat, M: PhysMemory, S: PageSource>(
    editor: &Editor<'_, F, M, S>,
    layout: &Layout,
    plan: &VmemmapPlan<'_>,
) -> Result<Built, BuildError> {
    let area = layout.area(AreaKind::Vmemmap).ok_or(BuildError::NoArea)?;
    let (area, runs) = (area.range(), || plan.runs());
    let needed = survey(editor, area, runs)?;
    let large = &LargePages(editor.frames());
    back(editor, area, runs, needed, editor.frames(), large)
}

/// Backs some runs of the area, as they were surveyed, with pages of two sources.
pub(crate) fn back<F, M, T, S, L, I>(
    editor: &Editor<'_, F, M, T>,
    area: VirtRange,
    runs: impl Fn() -> I,
    needed: Built,
    small: &S,
    large: &L,
) -> Result<Built, BuildError>
where
    F: EntryFormat,
    M: PhysMemory,
    T: FrameSource,
    S: FrameSource,
    L: FrameSource,
    I: Iterator<Item = VmemmapRun>,
{
    let memory = editor.memory();
    let tables = HeldFrames::take(memory, editor.frames(), needed.tables)
        .map_err(out_of("page tables", needed.tables))?;
    let large = HeldFrames::take(memory, large, needed.large)
        .map_err(out_of("pages of 2 MiB", needed.large))?;
    let small = HeldFrames::take(memory, small, needed.small)
        .map_err(out_of("pages of 4 KiB", needed.small))?;
    // SAFETY: this is the same address space, over which the caller's editor is the authority. `map` returns no token and frees
    // no table; the tables it makes are frames of the caller's source, to which the caller's editor may give them back.
    let held_editor = unsafe {
        Editor::<F, M, _>::new(
            editor.mode(),
            editor.root(),
            editor.limits(),
            memory,
            &tables,
        )
    };
    let Ok(held_editor) = held_editor else {
        unreachable!("the caller's editor has the same mode and root")
    };
    let mut mapped = 0;
    for run in runs() {
        for page in pages(area, run) {
            let frame = match run.page() {
                PageSize::Size4K => small.allocate(),
                _ => large.allocate(),
            };
            let frame = frame.expect("as many were taken as the same runs need");
            held_editor
                .map(page, frame, Protection::KERNEL_DATA, run.page())
                .map_err(|error| BuildError::Edit { error, mapped })?;
            mapped += page.size();
        }
    }
    Ok(needed)
}

/// Counts what the runs need, once it is clear that they can be mapped.
pub(crate) fn survey<F, M, T, I>(
    editor: &Editor<'_, F, M, T>,
    area: VirtRange,
    runs: impl Fn() -> I,
) -> Result<Built, BuildError>
where
    F: EntryFormat,
    M: PhysMemory,
    T: FrameSource,
    I: Iterator<Item = VmemmapRun>,
{
    let walker =
        Walker::new(editor.mode(), editor.root(), editor.memory()).with_limits(editor.limits());
    let mut needed = Built::default();
    for run in runs() {
        let range = run
            .range(area.start())
            .filter(|range| area.contains_range(*range))
            .ok_or(BuildError::Outside { area, run })?;
        match walker.runs(range).next() {
            None => {}
            Some(Ok(found)) => return Err(BuildError::NotEmpty { found }),
            Some(Err(obstacle)) => return Err(BuildError::Unreadable(obstacle)),
        }
        match run.page() {
            PageSize::Size4K => needed.small += run.pages(),
            PageSize::Size2M => needed.large += run.pages(),
            page => return Err(BuildError::PageSize(page)),
        }
    }
    needed.tables = tables_needed(editor.mode(), || {
        runs().filter_map(|run| {
            let range = run.range(area.start())?;
            Some((range.start().as_u64(), range.last().as_u64(), run.page()))
        })
    });
    Ok(needed)
}

/// The pages of a run that lies in the area.
fn pages(area: VirtRange, run: VmemmapRun) -> impl Iterator<Item = VirtRange> {
    let size = run.page().bytes();
    (0..run.pages()).filter_map(move |number| {
        let start = area
            .start()
            .checked_add(run.offset() + number * size)
            .ok()?;
        VirtRange::try_new(start, size).ok()
    })
}

fn out_of(what: &'static str, needed: u64) -> impl FnOnce(u64) -> BuildError {
    move |had| BuildError::OutOfMemory { what, needed, had }
}

/// Why area vmemmap was not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The layout has no such area.
    NoArea,
    /// A part of the books lies outside the area: the books were arranged for another layout.
    Outside {
        /// The area.
        area: VirtRange,
        /// The part.
        run: VmemmapRun,
    },
    /// The plan has pages of a size that no source gives.
    PageSize(PageSize),
    /// Something is mapped there already.
    NotEmpty {
        /// The first of it.
        found: Run,
    },
    /// The tables cannot be read.
    Unreadable(Obstacle),
    /// Too little memory.
    OutOfMemory {
        /// For what.
        what: &'static str,
        /// How many are needed.
        needed: u64,
        /// How many there were.
        had: u64,
    },
    /// An edit was refused.
    Edit {
        /// Which, and why.
        error: EditError,
        /// How many bytes had been mapped before, and still are.
        mapped: u64,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vmemmap: ")?;
        match *self {
            Self::NoArea => f.write_str("the layout has no such area; keep the books elsewhere"),
            Self::Outside { area, run } => write!(
                f,
                "{run} does not lie in {area}; arrange the books for this layout; nothing was changed"
            ),
            Self::PageSize(page) => write!(
                f,
                "pages of {page} were asked for; plan with 4k or 2M; nothing was changed"
            ),
            Self::NotEmpty { found } => write!(
                f,
                "{found} is mapped already; unmap it first; nothing was changed"
            ),
            Self::Unreadable(obstacle) => write!(f, "{obstacle}; nothing was changed"),
            Self::OutOfMemory { what, needed, had } => write!(
                f,
                "{needed} {what} are needed, and there is memory for {had}; give the machine more RAM; nothing was changed"
            ),
            Self::Edit { error, mapped: 0 } => error.fmt(f),
            Self::Edit { error, mapped } => write!(
                f,
                "{error}, but {mapped:#x} bytes were mapped before; discard these tables"
            ),
        }
    }
}

impl core::error::Error for BuildError {}
