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
    let held_editor = tables.editor(editor);
    let mut mapped = 0;
    for run in runs() {
        match run.page() {
            PageSize::Size4K => back_run(&held_editor, area, run, &small, &mut mapped),
            _ => back_run(&held_editor, area, run, &large, &mut mapped),
        }
        .map_err(|error| BuildError::Edit { error, mapped })?;
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

/// Backs a run that lies in the area, with one edit for as many pages as come in a row; adds the bytes of each to `mapped`. Pages
/// of an edit that is refused go back to the source.
fn back_run<F: EntryFormat, M: PhysMemory, T: FrameSource>(
    editor: &Editor<'_, F, M, T>,
    area: VirtRange,
    run: VmemmapRun,
    source: &impl FrameSource,
    mapped: &mut u64,
) -> Result<(), EditError> {
    let size = run.page().bytes();
    let take = || {
        let page = source.allocate();
        page.expect("as many were taken as the same runs need")
    };
    let mut rest = run.range(area.start());
    let mut taken = None;
    while let Some(virt) = rest {
        let first = taken.take().unwrap_or_else(take);
        let mut bytes = size;
        while bytes < virt.size() && taken.is_none() {
            let page = take();
            if first.checked_add(bytes) == Ok(page) {
                bytes += size;
            } else {
                taken = Some(page);
            }
        }
        let row = VirtRange::new(virt.start(), bytes);
        if let Err(error) = editor.map(row, first, Protection::KERNEL_DATA, run.page()) {
            let row = (0..bytes / size).filter_map(|page| first.checked_add(page * size).ok());
            row.chain(taken).for_each(|page| source.release(page));
            return Err(error);
        }
        *mapped += bytes;
        rest = behind(virt, bytes);
    }
    Ok(())
}

/// What is left of `range` without its first `bytes`; `None` when that is all of it.
fn behind(range: VirtRange, bytes: u64) -> Option<VirtRange> {
    let start = range.start().checked_add(bytes).ok()?;
    VirtRange::try_new(start, range.size() - bytes).ok()
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
