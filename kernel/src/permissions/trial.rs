//! `test-permissions`: changes of live pages. What the tables say is read with the walker after each step, and the CPU itself reads and
//! writes where it may.

use core::fmt;

use kspace::permissions::{Change, PermissionError, Problem};
use kspace::vmalloc::AreaRequest;
use kspace_layout::{FRAME_SIZE, PageSize, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Attributes, CacheType, Walker};
use spin::Mutex;

use super::Rights;
use crate::arch::{CpuData, on_all};
use crate::vmalloc::Areas;
use crate::{info, info_lines, vmalloc};

/// Changes that each CPU makes of a page of its own, beside those of the others.
const ROUNDS: u64 = 8;

/// What the first CPU in trouble says.
static TROUBLE: Mutex<Option<Trouble>> = Mutex::new(None);
/// The pages of the CPUs, one each.
static SHARED: Mutex<Option<VirtRange>> = Mutex::new(None);

/// Something that is not as it must be.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// A change that was refused.
    Refused(PermissionError),
    /// A page is not as it was made.
    Page {
        at: VirtAddr,
        after: &'static str,
        found: Option<(PageSize, Attributes)>,
    },
    /// What was written is not what is read.
    Contents(VirtAddr),
    /// What must be refused was not, or with another error.
    NotRefused(&'static str),
    /// No memory to try it with.
    NoMemory,
}

impl From<PermissionError> for Trouble {
    fn from(error: PermissionError) -> Self {
        Self::Refused(error)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Page { at, after, found } => {
                write!(f, "after {after} the page at {at} is ")?;
                match found {
                    Some((size, attributes)) => write!(f, "a {size} page, {attributes}"),
                    None => f.write_str("not there"),
                }
            }
            Self::Contents(at) => write!(f, "what was written at {at} is not there any more"),
            Self::NotRefused(what) => write!(f, "{what} was not refused"),
            Self::NoMemory => f.write_str("there is no memory to try it with"),
        }
    }
}

/// Changes pages in every way; whether all went well.
pub fn run() -> bool {
    let (Some(rights), Some(areas)) = (super::get(), vmalloc::get()) else {
        return false;
    };
    let tried = try_area(rights, areas)
        .and_then(|()| try_direct_map(rights, areas))
        .and_then(|()| try_all_cpus(rights, areas));
    if let Err(trouble) = tried {
        info!("test-permissions: {trouble}");
    }
    let (changed, split) = rights.in_books();
    info!("test-permissions: {changed} ranges changed and {split} large pages split are left");
    tried.is_ok() && (changed, split) == (0, 0)
}

/// A page as the tables have it now.
fn page(areas: &Areas, at: VirtAddr) -> Option<(PageSize, Attributes)> {
    let tables = areas.tables();
    let walker = Walker::new(tables.mode(), tables.root(), tables.memory());
    let page = walker.with_limits(tables.limits()).walk(at).page()?;
    Some((page.size, page.attributes))
}

fn phys(areas: &Areas, at: VirtAddr) -> Result<PhysAddr, Trouble> {
    let tables = areas.tables();
    let walker = Walker::new(tables.mode(), tables.root(), tables.memory());
    let found = walker.with_limits(tables.limits()).translate(at);
    found.ok_or(Trouble::NoMemory)
}

/// The direct map's address of a page of an area.
fn direct(areas: &Areas, at: VirtAddr) -> Result<VirtAddr, Trouble> {
    let pointer = areas
        .tables()
        .memory()
        .pointer(phys(areas, at)?, FRAME_SIZE);
    let pointer = pointer.ok_or(Trouble::NoMemory)?;
    VirtAddr::try_new(pointer as u64).map_err(|_| Trouble::NoMemory)
}

/// Holds a page against what it must be: writable, executable, of this memory type; `None`: not present.
fn expect(
    areas: &Areas,
    at: VirtAddr,
    after: &'static str,
    wanted: Option<(bool, bool, CacheType)>,
) -> Result<(), Trouble> {
    let found = page(areas, at);
    let is = found.map(|(_, found)| (found.write, found.execute, found.cache));
    if is == wanted {
        Ok(())
    } else {
        Err(Trouble::Page { at, after, found })
    }
}

fn set(rights: &Rights, range: VirtRange, change: Change) -> Result<(), PermissionError> {
    // SAFETY: the pages are the test's, and it keeps to what they allow.
    unsafe { rights.set(range.start(), range.size(), change) }
}

/// Writes a word and reads it: the CPU's own word on what the page allows.
fn use_page(at: VirtAddr, word: u64) -> Result<(), Trouble> {
    let pointer = at.as_u64() as *mut u64;
    // SAFETY: a page of the test's, which is writable now; if it is not, the fault says so.
    let read = unsafe {
        pointer.write_volatile(word);
        pointer.read_volatile()
    };
    (read == word).then_some(()).ok_or(Trouble::Contents(at))
}

fn read(at: VirtAddr, word: u64) -> Result<(), Trouble> {
    // SAFETY: a page of the test's, which is present.
    let read = unsafe { (at.as_u64() as *const u64).read_volatile() };
    (read == word).then_some(()).ok_or(Trouble::Contents(at))
}

/// Every change of an area's pages, with what becomes of their other place.
#[inline(never)]
fn try_area(rights: &Rights, areas: &Areas) -> Result<(), Trouble> {
    use CacheType::{UncachedMinus, WriteBack, WriteCombining};
    let range = areas.allocate(&AreaRequest::new(4 * FRAME_SIZE));
    let range = range.map_err(|_| Trouble::NoMemory)?;
    let (own, other) = (range.start(), direct(areas, range.start())?);
    let before = page(areas, other);
    let both = |after, wanted| {
        expect(areas, own, after, wanted)?;
        expect(areas, other, after, wanted)
    };
    use_page(own, 1)?;
    let refused = set(rights, range, Change::Executable);
    if !matches!(refused, Err(error) if matches!(error.problem, Problem::WriteExecute { .. })) {
        return Err(Trouble::NotRefused("executable while writable"));
    }
    set(rights, range, Change::ReadOnly)?;
    both("ro", Some((false, false, WriteBack)))?;
    read(other, 1)?;
    set(rights, range, Change::Executable)?;
    expect(areas, own, "x", Some((false, true, WriteBack)))?;
    expect(areas, other, "x", Some((false, false, WriteBack)))?;
    if set(rights, range, Change::Writable).is_ok() {
        return Err(Trouble::NotRefused("writable while executable"));
    }
    set(rights, range, Change::NotExecutable)?;
    set(rights, range, Change::Writable)?;
    both("nx and rw", Some((true, false, WriteBack)))?;
    use_page(own, 2)?;
    for (change, after, cache) in [
        (Change::Uncached, "uc", UncachedMinus),
        (Change::WriteBack, "wb", WriteBack),
        (Change::WriteCombining, "wc", WriteCombining),
        (Change::WriteBack, "wb", WriteBack),
    ] {
        set(rights, range, change)?;
        both(after, Some((true, false, cache)))?;
        read(other, 2)?;
        if cache == UncachedMinus {
            info_lines!("{}", rights.types().list());
        }
    }
    set(rights, range, Change::NonPresent)?;
    both("np", None)?;
    set(rights, range, Change::Present)?;
    both("p", Some((true, false, WriteBack)))?;
    read(own, 2)?;
    set(rights, range, Change::ReadOnly)?;
    // SAFETY: the area is the test's.
    unsafe { rights.restore(range.start(), range.size()) }?;
    both("restored", Some((true, false, WriteBack)))?;
    let after = page(areas, other);
    if before.map(|page| page.0) != after.map(|page| page.0) {
        return Err(Trouble::Page {
            at: other,
            after: "all",
            found: after,
        });
    }
    // SAFETY: made here, and not used any more.
    let freed = unsafe { areas.free(range.start()) };
    debug_assert!(freed.is_ok(), "it was made here");
    info!("test-permissions: area: ro x nx rw uc wc wb np p, in both places, and W+X refused");
    Ok(())
}

/// An area with a large page, and some small ones' worth of addresses in the middle of that.
fn large_area(areas: &Areas) -> Result<(VirtRange, VirtRange), Trouble> {
    let large = PageSize::Size2M.bytes();
    let range = areas.allocate(&AreaRequest::new(2 * large));
    let range = range.map_err(|_| Trouble::NoMemory)?;
    let middle = range.start().checked_add(large / 2);
    let own = middle.and_then(|middle| VirtRange::try_new(middle, 64 * FRAME_SIZE));
    own.map(|own| (range, own)).map_err(|_| Trouble::NoMemory)
}

/// A page in the middle of a large one of the direct map, and of its area.
#[inline(never)]
fn try_direct_map(rights: &Rights, areas: &Areas) -> Result<(), Trouble> {
    let (range, own) = large_area(areas)?;
    let at = direct(areas, own.start())?;
    let one = VirtRange::new(at, FRAME_SIZE);
    let size = |after| {
        let found = page(areas, at);
        found.map(|page| page.0).ok_or(Trouble::Page {
            at,
            after,
            found: None,
        })
    };
    let before = size("nothing")?;
    use_page(at, 3)?;
    if set(rights, one, Change::Executable).is_ok() {
        return Err(Trouble::NotRefused("the direct map executable"));
    }
    set(rights, one, Change::ReadOnly)?;
    let split = size("ro")?;
    read(at, 3)?;
    set(rights, one, Change::NonPresent)?;
    expect(areas, at, "np", None)?;
    // The area has the frame still: only the direct map was asked.
    read(own.start(), 3)?;
    set(rights, one, Change::Present)?;
    set(rights, one, Change::Writable)?;
    use_page(at, 4)?;
    let merged = size("rw")?;
    info!(
        "test-permissions: direct map: the {before} page of physical {} was split to {split}, and is {merged} again",
        phys(areas, at)?
    );
    // SAFETY: made here, and not used any more.
    let freed = unsafe { areas.free(range.start()) };
    debug_assert!(freed.is_ok(), "it was made here");
    if before == merged && split == PageSize::Size4K {
        Ok(())
    } else {
        Err(Trouble::Page {
            at,
            after: "rw",
            found: page(areas, at),
        })
    }
}

/// All CPUs at once change neighbours in one large page, each a page of its own.
#[inline(never)]
fn try_all_cpus(rights: &Rights, areas: &Areas) -> Result<(), Trouble> {
    let (range, own) = large_area(areas)?;
    let other = direct(areas, own.start())?;
    let places = [other, own.start()];
    let before = places.map(|at| page(areas, at).map(|page| page.0));
    *SHARED.lock() = Some(own);
    on_all(change_own);
    if let Some(trouble) = TROUBLE.lock().take() {
        return Err(trouble);
    }
    for (at, before) in places.into_iter().zip(before) {
        let found = page(areas, at);
        if found.map(|page| page.0) != before {
            return Err(Trouble::Page {
                at,
                after: "changes on all CPUs",
                found,
            });
        }
    }
    info!("test-permissions: {ROUNDS} rounds on each CPU at once, neighbours in one large page");
    // SAFETY: the area is the test's.
    unsafe { rights.restore(range.start(), range.size()) }?;
    // SAFETY: made here, and not used any more.
    let freed = unsafe { areas.free(range.start()) };
    debug_assert!(freed.is_ok(), "it was made here");
    Ok(())
}

fn change_own(cpu: &CpuData) {
    let (Some(rights), Some(areas)) = (super::get(), vmalloc::get()) else {
        return;
    };
    let range = *SHARED.lock();
    let Some(range) = range else { return };
    let place = u64::from(cpu.index()) % (range.size() / FRAME_SIZE) * FRAME_SIZE;
    let Ok(at) = range.start().checked_add(place) else {
        return;
    };
    let one = VirtRange::new(at, FRAME_SIZE);
    let round = |number: u64| -> Result<(), Trouble> {
        use_page(at, number)?;
        set(rights, one, Change::ReadOnly)?;
        expect(areas, at, "ro", Some((false, false, CacheType::WriteBack)))?;
        read(at, number)?;
        set(rights, one, Change::Writable)?;
        use_page(at, number + 1)?;
        set(rights, one, Change::NonPresent)?;
        expect(areas, at, "np", None)?;
        set(rights, one, Change::Present)?;
        read(at, number + 1)
    };
    if let Err(trouble) = (0..ROUNDS).try_for_each(round) {
        TROUBLE.lock().get_or_insert(trouble);
    }
}
