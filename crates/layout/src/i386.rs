//! The layouts of 32-bit x86, as Linux 4.20 and later have them.
//!
//! ```text
//!   ffffffff +---------------+
//!            :               :  4 KiB, or what reservetop= leaves to a hypervisor
//!            | fixmap        |  permanent slots
//!            :               :
//!            | early fixmap  |  512 pages in one page table, and a page for a test at boot
//!            :               :
//!            | cpu_entry     |  IDT page, then so many pages for each CPU
//!            :               :  down to a multiple of what one page table spans
//!            | LDT remap     |
//!            | pkmap         |  only with high memory
//!            :               :  8 KiB
//!            | vmalloc       |
//!            :               :  8 MiB
//!            | direct map    |  lowmem: as much of RAM as fits; the kernel image lies inside
//!   split    +---------------+
//!            | user          |
//!   00000000 +---------------+
//! ```
//!
//! Everything is placed from the top down (`asm/pgtable_32_areas.h`, `asm/fixmap.h`), then lowmem from the bottom up
//! (`arch/x86/mm/init_32.c`), and vmalloc gets what is between them. Older kernels placed cpu_entry, LDT remap and pkmap by other
//! rules; those are all in `Top::place`, so that another rule is another such function.

use core::fmt;

use crate::{
    AreaKind, AreaState, FRAME_SIZE, I386Error, KernelImage, Layout, LayoutBuilder, PagingMode,
    PhysAddr, VirtAddr, VirtRange, fixmap::early_start,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// `VMALLOC_OFFSET`: the hole between lowmem and vmalloc, which catches what runs off the end of memory.
const VMALLOC_OFFSET: u64 = 8 * MIB;
/// `__VMALLOC_RESERVE`: what lowmem leaves free for vmalloc and that hole, unless `vmalloc=` says otherwise.
const VMALLOC_RESERVE: u64 = 128 * MIB;
/// The hole between vmalloc and what follows it.
const VMALLOC_END_HOLE: u64 = 2 * FRAME_SIZE;
/// Early fixmap slots, `TOTAL_FIX_BTMAPS`.
const EARLY_SLOTS: u64 = 512;
/// Lowmem is never made smaller than this (`highmem=` refuses to, `arch/x86/mm/init_32.c`).
const LEAST_LOWMEM: u64 = 64 * MIB;
/// `MAX_IO_APICS` of 32-bit Linux.
const IO_APICS: u32 = 64;
/// Slots for short mappings that each CPU has: `KM_MAX_IDX`.
const KMAP_SLOTS_PER_CPU: u32 = 16;
/// The end of all addresses.
const END: u64 = 1 << 32;

/// Where user space ends and the kernel begins (`VMSPLIT_*` in `arch/x86/Kconfig`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Kernel from c0000000: 3 GiB for user space.
    ThreeG,
    /// Kernel from b0000000: a full 1 GiB of lowmem. Not with PAE.
    ThreeGOpt,
    /// Kernel from 80000000: 2 GiB for user space.
    TwoG,
    /// Kernel from 78000000: a full 2 GiB of lowmem. Not with PAE.
    TwoGOpt,
    /// Kernel from 40000000: 1 GiB for user space.
    OneG,
}

impl Split {
    /// All splits, from the largest user space to the smallest.
    pub const ALL: [Self; 5] = [
        Self::ThreeG,
        Self::ThreeGOpt,
        Self::TwoG,
        Self::TwoGOpt,
        Self::OneG,
    ];

    /// Linux's `PAGE_OFFSET`: the first address of the kernel's part.
    #[must_use]
    pub const fn page_offset(self) -> VirtAddr {
        VirtAddr::new(match self {
            Self::ThreeG => 0xc000_0000,
            Self::ThreeGOpt => 0xb000_0000,
            Self::TwoG => 0x8000_0000,
            Self::TwoGOpt => 0x7800_0000,
            Self::OneG => 0x4000_0000,
        })
    }

    /// The name in Linux's configuration, without `VMSPLIT_`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ThreeG => "3G",
            Self::ThreeGOpt => "3G_OPT",
            Self::TwoG => "2G",
            Self::TwoGOpt => "2G_OPT",
            Self::OneG => "1G",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The parameters of a 32-bit layout.
///
/// ```
/// # use kspace_layout::*;
/// let layout = I386::new(Split::ThreeG, PagingMode::Pae, PhysAddr::new((1 << 30) - 1)).build()?;
/// let lowmem = layout.area(AreaKind::DirectMap).unwrap();
/// assert_eq!(lowmem.range().start(), VirtAddr::new(0xc000_0000));
/// # Ok::<(), I386Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct I386 {
    split: Split,
    mode: PagingMode,
    last_ram: PhysAddr,
    highmem: bool,
    vmalloc: Option<u64>,
    reserve_top: u64,
    cpus: u32,
    cpu_entry_pages: u32,
    permanent_slots: Option<u32>,
    image: Option<KernelImage>,
}

impl I386 {
    /// A layout with this split, in two-level or PAE paging, for a machine whose RAM ends with the byte `last_ram`. Unless changed:
    /// with high memory, 8 CPUs, 39 pages of entry area for each (Linux 5.4), 120 MiB of vmalloc.
    pub const fn new(split: Split, mode: PagingMode, last_ram: PhysAddr) -> Self {
        Self {
            split,
            mode,
            last_ram,
            highmem: true,
            vmalloc: None,
            reserve_top: 0,
            cpus: 8,
            cpu_entry_pages: 39,
            permanent_slots: None,
            image: None,
        }
    }

    /// Whether the kernel can use memory that lowmem has no room for (`CONFIG_HIGHMEM`). Without, there is no pkmap.
    pub const fn highmem(mut self, highmem: bool) -> Self {
        self.highmem = highmem;
        self
    }

    /// `vmalloc=`: the least size of the vmalloc area in bytes, 120 MiB unless set.
    pub const fn vmalloc(mut self, bytes: u64) -> Self {
        self.vmalloc = Some(bytes);
        self
    }

    /// `reservetop=`: bytes at the very top that are left to a hypervisor.
    pub const fn reserve_top(mut self, bytes: u64) -> Self {
        self.reserve_top = bytes;
        self
    }

    /// `CONFIG_NR_CPUS`: how many CPUs get an entry area and slots in the fixmap.
    pub const fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// The size of one CPU's entry area in pages: 39 in Linux 4.15 and 5.4, 38 in 5.1 and 5.3.
    pub const fn cpu_entry_pages(mut self, pages: u32) -> Self {
        self.cpu_entry_pages = pages;
        self
    }

    /// Linux's `__end_of_permanent_fixed_addresses`, which depends on what a kernel was configured for. Unless set: the unused first
    /// slot, debug port, early console, local APIC, 64 I/O APICs, PCI configuration space, and with high memory 16 for each CPU.
    pub const fn permanent_fixmap_slots(mut self, slots: u32) -> Self {
        self.permanent_slots = Some(slots);
        self
    }

    /// Sets the kernel image. It must lie where the direct map puts its memory.
    pub const fn image(mut self, image: KernelImage) -> Self {
        self.image = Some(image);
        self
    }

    /// Checks the parameters and makes the layout.
    ///
    /// # Errors
    ///
    /// [`I386Error`], the first thing found wrong.
    pub fn build(self) -> Result<Layout, I386Error> {
        self.check_mode()?;
        let top = Top::place(&self)?;
        let low = Low::place(&self, &top)?;
        let range = |start: u64, end: u64| {
            let last = VirtAddr::try_new(end - 1)?;
            VirtRange::try_from_bounds(VirtAddr::try_new(start)?, last)
        };
        let offset = self.split.page_offset().as_u64();
        let mut builder = LayoutBuilder::new(self.mode, self.last_ram)
            .area(AreaKind::User, range(0, offset)?, AreaState::Reserved)
            .area(
                AreaKind::DirectMap,
                range(offset, low.high_memory)?,
                AreaState::Built,
            )
            .area(
                AreaKind::Vmalloc,
                range(low.vmalloc_start, top.vmalloc_end)?,
                AreaState::Reserved,
            )
            .area(
                AreaKind::LdtRemap,
                range(top.ldt, top.ldt + self.page_table_span())?,
                AreaState::Reserved,
            )
            .area(
                AreaKind::CpuEntry,
                range(top.cpu_entry, top.cpu_entry + self.cpu_entry_bytes())?,
                AreaState::Built,
            )
            .area(
                AreaKind::EarlyFixmap,
                range(top.early_start, top.early_end)?,
                AreaState::Reserved,
            )
            .area(
                AreaKind::Fixmap,
                range(top.fixmap, top.fixaddr_top)?,
                AreaState::Built,
            );
        if self.highmem {
            // LAST_PKMAP pages: one page table full.
            let pkmap = range(
                top.pkmap,
                top.pkmap + self.page_table_entries() * FRAME_SIZE,
            )?;
            builder = builder.area(AreaKind::Pkmap, pkmap, AreaState::Reserved);
        }
        if let Some(image) = self.image {
            builder = builder.image(image);
        }
        Ok(builder.build()?)
    }

    fn check_mode(&self) -> Result<(), I386Error> {
        let mode = self.mode;
        match (mode, self.split) {
            (PagingMode::FourLevel | PagingMode::FiveLevel, _) => {
                Err(crate::LayoutError::WrongMode {
                    family: "i386",
                    mode,
                }
                .into())
            }
            // A page directory of PAE spans 1 GiB, and user and kernel do not share one.
            (PagingMode::Pae, Split::ThreeGOpt | Split::TwoGOpt) => {
                Err(I386Error::SplitNeedsTwoLevel(self.split))
            }
            _ => Ok(()),
        }
    }

    /// `PTRS_PER_PTE`, and `LAST_PKMAP`.
    const fn page_table_entries(&self) -> u64 {
        self.mode.entries(1)
    }

    /// `PMD_SIZE`: what one page table spans, 2 or 4 MiB.
    const fn page_table_span(&self) -> u64 {
        self.page_table_entries() * FRAME_SIZE
    }

    /// `CPU_ENTRY_AREA_MAP_SIZE`: the IDT's page and the pages of all CPUs. Both counts have 32 bits, so it fits in 64, and in
    /// [`END`] or not: the caller looks.
    const fn cpu_entry_bytes(&self) -> u64 {
        let pages = (self.cpus as u64).saturating_mul(self.cpu_entry_pages as u64) + 1;
        pages.saturating_mul(FRAME_SIZE)
    }

    fn slots(&self) -> u64 {
        let per_cpu = if self.highmem { KMAP_SLOTS_PER_CPU } else { 0 };
        let wanted = self.permanent_slots.map_or_else(
            || u64::from(5 + IO_APICS) + u64::from(per_cpu) * u64::from(self.cpus),
            u64::from,
        );
        // Slot 0 is never used, so a fixmap has a second.
        wanted.max(2)
    }
}

/// Everything that is placed from the top down.
struct Top {
    fixaddr_top: u64,
    fixmap: u64,
    early_end: u64,
    early_start: u64,
    cpu_entry: u64,
    ldt: u64,
    pkmap: u64,
    vmalloc_end: u64,
}

impl Top {
    /// The rules of Linux 4.20 and later.
    fn place(from: &I386) -> Result<Self, I386Error> {
        let span = from.page_table_span();
        let bottom = from.split.page_offset().as_u64() + LEAST_LOWMEM + VMALLOC_RESERVE;
        let fixaddr_top = fixaddr_top(from, bottom)?;

        let permanent = from.slots();
        let early = early_start(permanent, EARLY_SLOTS, from.page_table_entries());
        // One more slot, FIX_WP_TEST, follows the early ones.
        let all = early + EARLY_SLOTS + 1;
        // What lies below the fixmap, each rounded down to a page table's span: at most that much more for each.
        let below = from
            .cpu_entry_bytes()
            .saturating_add(5 * span + VMALLOC_END_HOLE);
        let needed = (all * FRAME_SIZE).saturating_add(below);
        let room = fixaddr_top.saturating_sub(bottom);
        if needed > room {
            return Err(I386Error::NoRoom { needed, room });
        }

        let down = |address: u64| address & !(span - 1);
        // Linux's early slots may begin at the slot that FIXADDR_START names, which the fixmap's row already holds.
        let first_early = early.max(permanent + 1);
        let cpu_entry = down(fixaddr_top - all * FRAME_SIZE - from.cpu_entry_bytes());
        let ldt = down(cpu_entry - FRAME_SIZE);
        let pkmap = down(ldt - FRAME_SIZE);
        let end = if from.highmem { pkmap } else { ldt };
        Ok(Self {
            fixaddr_top,
            fixmap: fixaddr_top - permanent * FRAME_SIZE,
            early_end: fixaddr_top - (first_early - 1) * FRAME_SIZE,
            early_start: fixaddr_top - (all - 1) * FRAME_SIZE,
            cpu_entry,
            ldt,
            pkmap,
            vmalloc_end: end - VMALLOC_END_HOLE,
        })
    }
}

/// `__FIXADDR_TOP`, after `reservetop=` if given (`reserve_top_address` in `arch/x86/mm/pgtable_32.c`).
fn fixaddr_top(from: &I386, bottom: u64) -> Result<u64, I386Error> {
    let reserve = from.reserve_top;
    if reserve == 0 {
        return Ok(END - FRAME_SIZE);
    }
    let most = END - bottom - from.page_table_span();
    if reserve > most {
        return Err(I386Error::ReserveTop { reserve, most });
    }
    Ok(((END - reserve) & !(from.page_table_span() - 1)) - FRAME_SIZE)
}

/// Lowmem, and where vmalloc begins above it.
struct Low {
    high_memory: u64,
    vmalloc_start: u64,
}

impl Low {
    fn place(from: &I386, top: &Top) -> Result<Self, I386Error> {
        let offset = from.split.page_offset().as_u64();
        let room = top.vmalloc_end - offset;
        // An area of no pages would leave vmalloc_start at vmalloc_end.
        let wanted = from
            .vmalloc
            .unwrap_or(VMALLOC_RESERVE - VMALLOC_OFFSET)
            .max(FRAME_SIZE);
        let most = room.saturating_sub(VMALLOC_OFFSET + LEAST_LOWMEM);
        if wanted > most {
            return Err(I386Error::Vmalloc {
                vmalloc: wanted,
                most,
            });
        }
        // MAXMEM: the most that lowmem can hold.
        let maxmem = room - wanted - VMALLOC_OFFSET;
        let limit = match from.mode {
            PagingMode::TwoLevel => 4 * GIB,
            _ => 64 * GIB,
        };
        // max_low_pfn: whole frames only.
        let ram = (from.last_ram.as_u64() + 1).min(limit);
        let lowmem = ram.min(maxmem) & !(FRAME_SIZE - 1);
        let high_memory = offset + lowmem.max(FRAME_SIZE);
        Ok(Self {
            high_memory,
            vmalloc_start: high_memory + VMALLOC_OFFSET,
        })
    }
}
