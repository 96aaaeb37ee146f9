//! Which memory type each range of physical memory is mapped with: so that no two mappings of a page ever differ.
//!
//! ```text
//!   physical   |   RAM: write-back    |......|  registers  |....|   frame buffer   |.......|
//!                        | buffer |          | uncached- x2|    | write-combining  |
//!                        set by                made by two        made by one
//!                        set_memory            ioremaps           ioremap
//! ```
//!
//! Two mappings of the same memory with different types, one of them cacheable, lose writes or stop the machine, and the manual calls
//! them undefined (Intel SDM vol. 3, section 12.12.4). So each mapping of a device, and each change of RAM's type, is written down
//! here before it is made; one that would differ from what is there already is refused, and the error names both. Linux has the same
//! (arch/x86/mm/pat/memtype.c), and shows it as /sys/kernel/debug/x86/pat_memtype_list; [`CacheTypes::list`] is in its format.
//!
//! Of RAM only what is not write-back is written down. The books are in frames, as long as there is something in them.

mod error;

use core::fmt;

use kspace_layout::{FRAME_SIZE, Pfn, PhysAddr, PhysRange};
use kspace_paging::{CacheType, FrameSource, PhysMemory};

use crate::platform::Interrupts;
use crate::ranges::tree::Span;
use crate::span_map::{NoRoom, Piece, SpanMap, Value};
use crate::vmalloc::Kernel;
use crate::vmalloc::lock::Lock;

pub use error::TypeError;

/// Pieces in the books at most: 4 MiB of frames.
const LIMIT: u64 = 1 << 16;

/// The room that one change of a range of RAM takes.
const ROOM: u64 = 3;

/// The types by their numbers in the books.
const TYPES: [CacheType; 6] = [
    CacheType::WriteBack,
    CacheType::WriteThrough,
    CacheType::UncachedMinus,
    CacheType::Uncached,
    CacheType::WriteCombining,
    CacheType::WriteProtected,
];

/// A range of physical memory whose mappings have one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Typed {
    /// The memory, in whole pages.
    pub range: PhysRange,
    /// The type of all its mappings.
    pub cache: CacheType,
    /// How many mappings of a device there are; 0 for RAM whose type was changed.
    pub mappings: u64,
}

impl fmt::Display for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.range, self.cache)
    }
}

/// The types that are not as everybody would think. One for a kernel.
pub struct CacheTypes<'a, K: Kernel> {
    platform: &'a K::Platform,
    books: Lock<Books<'a, K>>,
}

struct Books<'a, K: Kernel> {
    map: SpanMap<'a, K::Memory, &'a K::Frames>,
    /// Room for so many pieces is kept for who was promised it.
    promised: u64,
}

impl<'a, K: Kernel> CacheTypes<'a, K> {
    /// Nothing written down.
    pub const fn new(
        platform: &'a K::Platform,
        memory: &'a K::Memory,
        frames: &'a K::Frames,
    ) -> Self {
        Self {
            platform,
            books: Lock::new(Books {
                map: SpanMap::new(memory, frames, LIMIT),
                promised: 0,
            }),
        }
    }

    /// Writes down one mapping more of a device's pages, with this type.
    ///
    /// # Errors
    ///
    /// [`TypeError`]: nothing was written down.
    pub fn add_mapping(&self, range: PhysRange, cache: CacheType) -> Result<(), TypeError> {
        let one_more = |value: Option<Value>| match value.map(entry) {
            None => Some((cache, 1)),
            Some((_, mappings)) => Some((cache, mappings + 1)),
        };
        self.change(range, Some(cache), one_more)
    }

    /// Strikes out a mapping that was [added](Self::add_mapping). No CPU has a translation of it any more.
    ///
    /// # Errors
    ///
    /// [`TypeError`], when there is no frame for the books because only a part of a mapping goes.
    pub fn remove_mapping(&self, range: PhysRange) -> Result<(), TypeError> {
        self.change(range, None, |value| {
            let (cache, mappings) = entry(value?);
            (mappings > 1).then_some((cache, mappings - 1))
        })
    }

    /// Refuses to give RAM a type when a part of it has another one that is not write-back.
    pub(crate) fn check_ram(&self, range: PhysRange, cache: CacheType) -> Result<(), TypeError> {
        let span = span_of(range).ok_or(TypeError::Unaligned(range))?;
        if cache == CacheType::WriteBack {
            return Ok(());
        }
        self.with(|books| check(&books.map, range, span, cache))
            .map(|_| ())
    }

    /// Sees to it that `ranges` calls of [`set_ram`](Self::set_ram) find room.
    pub(crate) fn promise(&self, asked: PhysRange, ranges: u64) -> Result<(), TypeError> {
        let room = ranges.saturating_mul(ROOM);
        self.with(|books| {
            books.map.reserve(books.promised.saturating_add(room))?;
            books.promised += room;
            Ok(())
        })
        .map_err(|room| TypeError::no_room(asked, room))
    }

    /// What was [promised](Self::promise) for so many ranges is not needed any more.
    pub(crate) fn release(&self, ranges: u64) {
        self.with(|books| {
            books.promised -= ranges.saturating_mul(ROOM);
            if books.promised == 0 {
                books.map.trim();
            }
        });
    }

    /// Writes down the type that RAM has from now on; room was promised, and the range checked.
    pub(crate) fn set_ram(&self, range: PhysRange, cache: CacheType) {
        let Some(span) = span_of(range) else { return };
        let value = (cache != CacheType::WriteBack).then(|| value_of((cache, 0)));
        self.with(|books| books.map.set(span, value));
    }

    /// The memory around `phys` that has one type written down.
    #[must_use]
    pub fn at(&self, phys: PhysAddr) -> Option<Typed> {
        self.with(|books| books.map.get(phys.pfn().as_u64()))
            .map(typed)
    }

    /// The first such memory that has pages at or behind `from`.
    #[must_use]
    pub fn next(&self, from: PhysAddr) -> Option<Typed> {
        self.with(|books| books.map.next(from.pfn().as_u64()))
            .map(typed)
    }

    /// All that is written down, in the order of addresses. What is changed meanwhile may be missing, or there.
    pub fn iter(&self) -> impl Iterator<Item = Typed> + '_ {
        let mut from = Some(PhysAddr::ZERO);
        core::iter::from_fn(move || {
            let next = self.next(from?)?;
            from = next.range.last().checked_add(1).ok();
            Some(next)
        })
    }

    /// The same as Linux shows it: see [`List`].
    #[must_use]
    pub const fn list(&self) -> List<'_, 'a, K> {
        List(self)
    }

    /// Gives every page of `range` what `change` makes of what is known of it; with `wanted`, no page may have another type.
    fn change(
        &self,
        range: PhysRange,
        wanted: Option<CacheType>,
        change: impl Fn(Option<Value>) -> Option<(CacheType, u64)>,
    ) -> Result<(), TypeError> {
        let Some(span) = span_of(range) else {
            return Err(TypeError::Unaligned(range));
        };
        self.with(|books| {
            let parts = match wanted {
                Some(wanted) => check(&books.map, range, span, wanted)?,
                None => parts_of(&books.map, span).count() as u64,
            };
            let (map, promised) = (&mut books.map, books.promised);
            map.reserve(promised.saturating_add(parts + 2))
                .map_err(|room| TypeError::no_room(range, room))?;
            let mut rest = Some(span);
            while let Some(now) = rest {
                let (part, value) = map.first_of(now);
                map.set(part, change(value).map(value_of));
                rest = (part.end() < now.end()).then(|| Span::between(part.end(), now.end()));
            }
            if promised == 0 {
                map.trim();
            }
            Ok(())
        })
    }

    fn with<R>(&self, body: impl FnOnce(&mut Books<'a, K>) -> R) -> R {
        let off = self.platform.interrupts_off();
        self.books.with(self.platform, &off, body)
    }
}

impl<K: Kernel> fmt::Debug for CacheTypes<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheTypes").finish_non_exhaustive()
    }
}

/// What is written down, as Linux shows it; a range's end is the first byte behind it:
///
/// ```text
/// PAT memtype list:
/// PAT: [mem 0x00000000fee00000-0x00000000fee01000] uncached-minus
/// ```
pub struct List<'t, 'a, K: Kernel>(&'t CacheTypes<'a, K>);

impl<K: Kernel> fmt::Debug for List<'_, '_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("List")
    }
}

impl<K: Kernel> fmt::Display for List<'_, '_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "PAT memtype list:")?;
        self.0.iter().try_for_each(|Typed { range, cache, .. }| {
            let (start, end) = (range.start().as_u64(), range.end_u64());
            writeln!(f, "PAT: [mem {start:#018x}-{end:#018x}] {cache}")
        })
    }
}

/// Refuses a type that a part of the range does not have; otherwise, of how many parts different things are known.
fn check<M: PhysMemory, F: FrameSource>(
    books: &SpanMap<'_, M, F>,
    asked: PhysRange,
    span: Span,
    wanted: CacheType,
) -> Result<u64, TypeError> {
    let mut parts = 0;
    for (part, value) in parts_of(books, span) {
        parts += 1;
        if value.is_some_and(|value| entry(value).0 != wanted)
            && let Some(found) = books.get(part.start).map(typed)
        {
            return Err(TypeError::Conflict {
                asked,
                wanted,
                found,
            });
        }
    }
    Ok(parts)
}

/// The parts of `span`, each with what is known of it.
fn parts_of<M: PhysMemory, F: FrameSource>(
    books: &SpanMap<'_, M, F>,
    span: Span,
) -> impl Iterator<Item = (Span, Option<Value>)> {
    let mut rest = Some(span);
    core::iter::from_fn(move || {
        let now = rest?;
        let (part, value) = books.first_of(now);
        rest = (part.end() < now.end()).then(|| Span::between(part.end(), now.end()));
        Some((part, value))
    })
}

fn span_of(range: PhysRange) -> Option<Span> {
    range.is_aligned(FRAME_SIZE).then(|| Span {
        start: range.start().pfn().as_u64(),
        pages: range.size() / FRAME_SIZE,
    })
}

fn value_of((cache, mappings): (CacheType, u64)) -> Value {
    let number = TYPES.iter().position(|known| *known == cache);
    [number.unwrap_or_default() as u64, mappings]
}

fn entry(value: Value) -> (CacheType, u64) {
    (TYPES[value[0] as usize], value[1])
}

fn typed(piece: Piece) -> Typed {
    let (cache, mappings) = entry(piece.value);
    let start = Pfn::new(piece.span.start).start();
    Typed {
        range: PhysRange::new(start, piece.span.pages * FRAME_SIZE),
        cache,
        mappings,
    }
}

/// Whether this type lets the CPU keep the memory's contents in its caches.
pub(crate) const fn is_cached(cache: CacheType) -> bool {
    matches!(
        cache,
        CacheType::WriteBack | CacheType::WriteThrough | CacheType::WriteProtected
    )
}

impl TypeError {
    const fn no_room(asked: PhysRange, room: NoRoom) -> Self {
        match room {
            NoRoom::NoFrame => Self::NoFrame(asked),
            NoRoom::Full { limit } => Self::Full { asked, limit },
        }
    }
}
