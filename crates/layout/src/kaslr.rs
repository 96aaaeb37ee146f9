//! KASLR: where the movable areas and the kernel image lie, drawn from the caller's entropy.
//!
//! Three areas move, in this order, between the default start of the direct map and the CPU entry areas:
//!
//! ```text
//!   ff…    +---------------+ start: __PAGE_OFFSET_BASE of the mode
//!          :  offset 0     :        a multiple of 1 GiB, at most a third of what is free
//!          +---------------+ page_offset_base
//!          | direct map    |        RAM and padding, in TiB
//!          +---------------+
//!          : 1 GiB + offset:        at most half of what is free then
//!          +---------------+ vmalloc_base
//!          | vmalloc       |        32 TiB or 12.5 PiB
//!          +---------------+
//!          : 1 GiB + offset:        at most all that is free then
//!          +---------------+ vmemmap_base
//!          | vmemmap       |        records of all frames, in TiB
//!          +---------------+
//!          :               :
//!          +---------------+ end: CPU_ENTRY_AREA_BASE
//! ```
//!
//! The rules are Linux's (`kernel_randomize_memory` in `arch/x86/mm/kaslr.c`), with two differences, both in favour of the layout:
//!
//! - **The slot is drawn, not the byte.** Linux draws a byte offset, takes it modulo the number of bytes, and rounds it down to
//!   1 GiB; the last slot is then less likely than the others. Here a slot is drawn by multiplying: the upper 64 bits
//!   of `random * slots`. That needs no division and no second draw, it looks at the high bits, the better ones of a weak
//!   generator, and the chances of two slots differ by no more than 2^-64.
//! - **Gaps are paid for.** Linux leaves at least 1 GiB between areas but does not subtract it from what is free, so three extreme
//!   draws end up to 2 GiB inside the CPU entry areas. Here each gap is subtracted.
//!
//! The order of the areas is part of the layout and never changes. Nothing here is a secret after it has been printed; what a draw
//! is worth, in bits, is reported by [`Entropy`].

use core::fmt;

use crate::{
    AddressError, ByteSize, DEFAULT_IMAGE_START, FRAME_SIZE, IMAGE_WINDOW, LINUX_FRAME_DATA,
    PagingMode, PhysAddr, PhysRange, Regions, VirtAddr, VirtRange,
    long_mode::{MOVABLE_END, last_mappable},
};

/// All bases are multiples of this: what one entry of a page-directory-pointer table spans (Linux's `PUD_SIZE`).
const REGION_ALIGN: u64 = 1 << 30;

/// What slots for the kernel image are multiples of: `CONFIG_PHYSICAL_ALIGN`.
const IMAGE_ALIGN: u64 = 2 << 20;

const TIB: u64 = 1 << 40;

// `Kaslr::draw` relies on it: with areas of whole TiB, what is free is half a TiB or more, or nothing.
const _: () = {
    let four_level = MOVABLE_END.as_u64() - 0xffff_8880_0000_0000;
    let five_level = MOVABLE_END.as_u64() - 0xff11_0000_0000_0000;
    assert!(four_level % TIB == TIB / 2 && five_level.is_multiple_of(TIB));
};

/// Why there is nothing to draw from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KaslrError {
    /// KASLR of areas exists for 4-level and 5-level paging.
    WrongMode(PagingMode),
    /// RAM lies where the mode's direct map cannot reach.
    RamBeyondMode {
        /// The last byte of RAM.
        last_ram: PhysAddr,
        /// The last byte that can be reached.
        limit: PhysAddr,
    },
    /// A record of no bytes, or of more than a frame.
    FrameData(u64),
    /// The three areas and the gaps between them are larger than the space they move in.
    NoRoom {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        room: u64,
    },
    /// The kernel image is larger than every place it could lie in.
    ImageTooLarge {
        /// Bytes of the image.
        image: u64,
        /// Bytes of the largest place.
        room: u64,
    },
    /// A drawn address came out wrong.
    Address(AddressError),
}

impl fmt::Display for KaslrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KASLR: ")?;
        match *self {
            Self::WrongMode(mode) => {
                write!(
                    f,
                    "{mode} paging has no movable areas; leave them where they are"
                )
            }
            Self::RamBeyondMode { last_ram, limit } => {
                write!(
                    f,
                    "RAM ends at {last_ram}, the paging mode reaches {limit}; use less RAM (mem=)"
                )
            }
            Self::FrameData(bytes) => write!(
                f,
                "a record of {} per frame is refused; ask for 1 to 4096 bytes",
                ByteSize(bytes),
            ),
            Self::NoRoom { needed, room } => write!(
                f,
                "the areas need {}, there are {}; use less padding or smaller records",
                ByteSize(needed),
                ByteSize(room),
            ),
            Self::ImageTooLarge { image, room } => write!(
                f,
                "the kernel image has {}, the largest place for it {}; leave it where it is",
                ByteSize(image),
                ByteSize(room),
            ),
            Self::Address(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for KaslrError {}

impl From<AddressError> for KaslrError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

/// How much an observer must guess: the number of equally likely places. Prints as `14.6 bits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entropy {
    slots: u64,
}

impl Entropy {
    /// The number of places, at least 1.
    #[must_use]
    pub const fn slots(self) -> u64 {
        self.slots
    }

    /// Ten times the base-2 logarithm of [`slots`](Self::slots), rounded: 146 for 14.6 bits. (Kernels have no floating point.)
    #[must_use]
    pub const fn tenths_of_bits(self) -> u32 {
        let whole = self.slots.ilog2();
        // The mantissa in [1, 2) with 31 bits after the point. Squaring it doubles its logarithm, so each
        // squaring brings the next bit of the logarithm before the point.
        let mut mantissa = if whole >= 31 {
            self.slots >> (whole - 31)
        } else {
            self.slots << (31 - whole)
        };
        let mut log = whole;
        let mut bit = 0;
        while bit < 16 {
            mantissa = (mantissa * mantissa) >> 31;
            log <<= 1;
            if mantissa >> 32 != 0 {
                mantissa >>= 1;
                log |= 1;
            }
            bit += 1;
        }
        (log * 10 + (1 << 15)) >> 16
    }
}

impl fmt::Display for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.tenths_of_bits();
        write!(f, "{}.{} bits", tenths / 10, tenths % 10)
    }
}

/// The machine for which the movable areas are drawn.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Kaslr {
    mode: PagingMode,
    last_ram: PhysAddr,
    padding: u64,
    frame_data: u64,
    whole_window: bool,
}

/// Three drawn areas, to be handed to [`X86_64::regions`](crate::X86_64::regions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionDraw {
    /// The areas.
    pub regions: Regions,
    /// What the draws of direct map, vmalloc and vmemmap were worth. The first depends on the machine alone, the others on what the
    /// draws before them had left.
    pub entropy: [Entropy; 3],
}

impl Kaslr {
    /// Draws for a machine in `mode` whose RAM ends with the byte `last_ram`, with Linux's defaults: 10 TiB of padding, which is
    /// `CONFIG_RANDOMIZE_MEMORY_PHYSICAL_PADDING` with memory hot-plug, and 64 bytes per frame.
    pub const fn new(mode: PagingMode, last_ram: PhysAddr) -> Self {
        Self {
            mode,
            last_ram,
            padding: 10,
            frame_data: LINUX_FRAME_DATA,
            whole_window: false,
        }
    }

    /// Keeps `tebibytes` beyond the end of RAM in the direct map, for memory that is added later. More leaves less to draw from.
    pub const fn padding_tib(mut self, tebibytes: u64) -> Self {
        self.padding = tebibytes;
        self
    }

    /// Sets the size of one frame's record in vmemmap, in bytes; 64 unless set.
    pub const fn frame_data(mut self, bytes: u64) -> Self {
        self.frame_data = bytes;
        self
    }

    /// Keeps the direct map at its full size, 64 TiB or 4 PiB, as Linux does with `CONFIG_ZONE_DEVICE`, where devices bring
    /// memory with any physical address.
    pub const fn whole_window(mut self) -> Self {
        self.whole_window = true;
        self
    }

    /// Draws the three areas. `entropy` is called three times and should give 64 random bits each time.
    ///
    /// # Errors
    ///
    /// [`KaslrError`] when the mode has no movable areas or they do not fit.
    pub fn draw(&self, mut entropy: impl FnMut() -> u64) -> Result<RegionDraw, KaslrError> {
        let sizes = self.sizes()?;
        let start = self.start()?;
        let room = MOVABLE_END.as_u64() - start.as_u64();
        let needed = sizes.iter().sum::<u64>() + 2 * REGION_ALIGN;
        if room < needed {
            return Err(KaslrError::NoRoom { needed, room });
        }

        // What is free includes the gaps, so that the first share is a third of all, as in Linux. Sizes are whole TiB, so half a
        // TiB is free at the least: a third of it, and half of the rest, always leave enough for the gaps.
        let mut free = room - needed + 2 * REGION_ALIGN;
        let mut place = start;
        let mut ranges = [VirtRange::new(start, 1); 3];
        let mut worth = [Entropy { slots: 1 }; 3];
        for (index, size) in sizes.into_iter().enumerate() {
            let left = (sizes.len() - index) as u64;
            let share = free / left;
            // A share of n whole GiB and a bit has n slots, as Linux counts; the bit is too rare to count.
            worth[index].slots = (share / REGION_ALIGN).max(1);
            let offset = pick(worth[index].slots, entropy()) * REGION_ALIGN;
            place = place.checked_add(offset)?;
            ranges[index] = VirtRange::try_new(place, size)?;
            free -= offset;
            if left > 1 {
                place = place.checked_add(size + REGION_ALIGN)?;
                free -= REGION_ALIGN;
            }
        }
        let [direct_map, vmalloc, vmemmap] = ranges;
        Ok(RegionDraw {
            regions: Regions {
                direct_map,
                vmalloc,
                vmemmap,
            },
            entropy: worth,
        })
    }

    /// Where the movable areas may begin.
    fn start(&self) -> Result<VirtAddr, KaslrError> {
        let fixed = Regions::fixed(self.mode).ok_or(KaslrError::WrongMode(self.mode))?;
        Ok(fixed.direct_map.start())
    }

    /// Sizes of direct map, vmalloc and vmemmap, each a whole number of TiB.
    fn sizes(&self) -> Result<[u64; 3], KaslrError> {
        let fixed = Regions::fixed(self.mode).ok_or(KaslrError::WrongMode(self.mode))?;
        let (last_ram, limit) = (self.last_ram, last_mappable(self.mode));
        if last_ram > limit {
            return Err(KaslrError::RamBeyondMode { last_ram, limit });
        }
        if self.frame_data == 0 || self.frame_data > FRAME_SIZE {
            return Err(KaslrError::FrameData(self.frame_data));
        }
        let window = limit.as_u64() / TIB + 1;
        let ram = last_ram.as_u64() / TIB + 1;
        let wanted = if self.whole_window {
            window
        } else {
            ram.saturating_add(self.padding)
        };
        let direct_map = wanted.min(window);
        let vmemmap = (direct_map * self.frame_data).div_ceil(FRAME_SIZE);
        Ok([direct_map * TIB, fixed.vmalloc.size(), vmemmap * TIB])
    }
}

/// One of `slots` numbers from 0, from 64 random bits: see the module's text for why not by modulo.
const fn pick(slots: u64, random: u64) -> u64 {
    ((random as u128 * slots as u128) >> 64) as u64
}

/// A drawn place for the kernel image in virtual memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageVirtDraw {
    /// Where the image's first byte goes.
    pub start: VirtAddr,
    /// What the draw was worth.
    pub entropy: Entropy,
}

/// A drawn place for the kernel image in physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImagePhysDraw {
    /// Where the image's first byte goes.
    pub start: PhysAddr,
    /// What the draw was worth.
    pub entropy: Entropy,
}

/// Draws the virtual place of a kernel image of `bytes` bytes on x86-64: a multiple of 2 MiB from
/// [`DEFAULT_IMAGE_START`] up, inside [`IMAGE_WINDOW`] (Linux's `find_random_virt_addr`, `arch/x86/boot/compressed/kaslr.c`).
/// `entropy` is called once.
///
/// # Errors
///
/// [`KaslrError::ImageTooLarge`] when the image does not even fit unmoved.
pub fn draw_image_virt(
    bytes: u64,
    mut entropy: impl FnMut() -> u64,
) -> Result<ImageVirtDraw, KaslrError> {
    let room = IMAGE_WINDOW.last().as_u64() - DEFAULT_IMAGE_START.as_u64() + 1;
    let bytes = bytes.max(1);
    let spare = room
        .checked_sub(bytes)
        .ok_or(KaslrError::ImageTooLarge { image: bytes, room })?;
    let slots = 1 + spare / IMAGE_ALIGN;
    let start = DEFAULT_IMAGE_START.checked_add(pick(slots, entropy()) * IMAGE_ALIGN)?;
    Ok(ImageVirtDraw {
        start,
        entropy: Entropy { slots },
    })
}

/// Draws the physical place of a kernel image of `bytes` bytes: a multiple of 2 MiB not below `lowest`, inside one of the ranges of
/// `free`. Every place in every range is equally likely. `entropy` is called once.
///
/// Linux draws the physical place apart from the virtual one, so that knowing either tells nothing about the other. It uses the
/// lower of 512 MiB and the load address for `lowest`. What else must not be overwritten (the boot loader's data, an initial
/// RAM disk, the running copy of the image) is for the caller to leave out of `free`. The ranges should not overlap: addresses in two of
/// them would be twice as likely.
///
/// # Errors
///
/// [`KaslrError::ImageTooLarge`] when no range has room.
pub fn draw_image_phys(
    bytes: u64,
    lowest: PhysAddr,
    free: impl Iterator<Item = PhysRange> + Clone,
    mut entropy: impl FnMut() -> u64,
) -> Result<ImagePhysDraw, KaslrError> {
    let bytes = bytes.max(1);
    let usable = free.filter_map(|range| usable(range, lowest));
    let slots = usable
        .clone()
        .fold(0u64, |sum, range| sum.saturating_add(places(range, bytes)));
    if slots == 0 {
        let room = usable.map(PhysRange::size).max().unwrap_or(0);
        return Err(KaslrError::ImageTooLarge { image: bytes, room });
    }
    let mut chosen = pick(slots, entropy());
    for range in usable {
        let here = places(range, bytes);
        if chosen < here {
            let start = range.start().checked_add(chosen * IMAGE_ALIGN)?;
            return Ok(ImagePhysDraw {
                start,
                entropy: Entropy { slots },
            });
        }
        chosen -= here;
    }
    // Only an iterator whose clone yields other ranges gets here.
    Err(KaslrError::ImageTooLarge {
        image: bytes,
        room: 0,
    })
}

/// The part of `range` in which an image may lie: not below `lowest`, starting on a multiple of 2 MiB.
fn usable(range: PhysRange, lowest: PhysAddr) -> Option<PhysRange> {
    let start = range.start().max(lowest).align_up(IMAGE_ALIGN).ok()?;
    PhysRange::try_from_bounds(start, range.last()).ok()
}

/// How many places an image has in a usable range.
fn places(range: PhysRange, bytes: u64) -> u64 {
    range
        .size()
        .checked_sub(bytes)
        .map_or(0, |spare| 1 + spare / IMAGE_ALIGN)
}
