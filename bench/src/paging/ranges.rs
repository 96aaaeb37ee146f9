//! Mapping and unmapping a range, against the `x86_64` crate page by page (all it has) and `page_table_multiarch`'s region call.
//!
//! Every contender works on its own tables in the same kind of memory, in turns; the figure is the best of many turns, the one that the
//! rest of the machine disturbed least. Nobody flushes a TLB. "Tables there" repeats the edit on tables that exist; "tables new" begins with an empty root each time.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Editor, FrameSource, Limits, LongMode, PhysMemory, Protection, RawEntry};
use page_table_entry::x86_64::X64PTE;
use page_table_multiarch::{MappingFlags, PageTable64, PagingHandler, PagingMetaData};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageSize as TheirSize, PageTable,
    PageTableFlags, PhysFrame, Size2MiB, Size4KiB,
};

use super::pool::Pool;
use crate::row::Row;

/// Turns of each contender; the best of them counts.
const TURNS: usize = 31;

/// One edit: the range, where it goes, and in which pages.
#[derive(Clone, Copy)]
pub(super) struct Edit {
    pub(super) name: &'static str,
    pub(super) virt: u64,
    pub(super) phys: u64,
    pub(super) size: u64,
    pub(super) page: PageSize,
}

const EDITS: [Edit; 2] = [
    Edit {
        name: "1 GiB in 4K",
        virt: 0xffff_c900_0000_0000,
        phys: 1 << 30,
        size: 1 << 30,
        page: PageSize::Size4K,
    },
    // 2 MiB off, so that no region call can use 1 GiB pages.
    Edit {
        name: "64 GiB in 2M",
        virt: 0xffff_c900_0000_0000,
        phys: (1 << 30) + (2 << 20),
        size: 64 << 30,
        page: PageSize::Size2M,
    },
];

/// Somebody's page tables.
pub(super) trait Contender {
    /// Forgets all tables and begins with an empty root.
    fn restart(&mut self);
    /// Maps and unmaps.
    fn edit(&mut self, edit: Edit);
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for edit in EDITS {
        for (tables, fresh) in [("there", false), ("new", true)] {
            let [ours, offset, multiarch] = measure(edit, fresh);
            for (peer, peer_name) in [
                (offset, "x86_64 OffsetPageTable"),
                (multiarch, "page_table_multiarch"),
            ] {
                rows.push(Row {
                    bench: "paging",
                    name: format!("map + unmap {}, tables {tables}", edit.name),
                    unit: "ns",
                    ours: ours.as_nanos() as f64,
                    peer: peer.as_nanos() as f64,
                    peer_name,
                });
            }
        }
    }
    rows
}

/// The best time of each contender, all taking turns.
fn measure(edit: Edit, fresh: bool) -> [Duration; 3] {
    let mut contenders: [Box<dyn Contender>; 3] = [
        Box::new(Ours::new()),
        Box::new(Offset::new()),
        Box::new(Multiarch::new()),
    ];
    let mut times = [const { Vec::new() }; 3];
    for turn in 0..=TURNS {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            if fresh || turn == 0 {
                contender.restart();
            }
            let start = Instant::now();
            contender.edit(black_box(edit));
            let time = start.elapsed();
            // The first turn makes the tables and warms the caches.
            if turn > 0 {
                times.push(time);
            }
        }
    }
    times.map(|times| times.into_iter().min().unwrap_or_default())
}

/// Host memory, at the physical addresses that are its own.
pub(super) struct HostMemory;

// SAFETY: the tables come from pools that live as long as the process, and only this bench's one thread uses them.
unsafe impl PhysMemory for HostMemory {
    #[inline]
    fn entries<E: RawEntry>(&self, table: PhysAddr, count: usize) -> Option<&[E::Atomic]> {
        // SAFETY: every table of this bench is a frame of a pool, which is at that address.
        Some(unsafe { core::slice::from_raw_parts(table.as_u64() as *const E::Atomic, count) })
    }
}

static OUR_POOL: Pool = Pool::new();
static OFFSET_POOL: Pool = Pool::new();
static MULTIARCH_POOL: Pool = Pool::new();

/// Our side asks for frames of zeros, as both peers clear theirs themselves.
pub(super) struct OurFrames;

// SAFETY: the pool hands each frame out once, and it is cleared here.
unsafe impl FrameSource for OurFrames {
    fn allocate(&self) -> Option<PhysAddr> {
        let frame = OUR_POOL.allocate()?;
        // SAFETY: the frame is 4 KiB that nobody uses.
        unsafe { core::ptr::write_bytes(frame as *mut u8, 0, 4096) };
        Some(PhysAddr::new(frame))
    }

    fn release(&self, _: PhysAddr) {}
}

pub(super) struct Ours {
    root: PhysAddr,
}

impl Ours {
    pub(super) fn new() -> Self {
        Self {
            root: PhysAddr::ZERO,
        }
    }

    /// An editor of our tables.
    pub(super) fn editor(&self) -> Editor<'static, LongMode, HostMemory, OurFrames> {
        let (mode, limits) = (PagingMode::FourLevel, Limits::WIDEST);
        // SAFETY: nothing else uses these tables.
        unsafe { Editor::new(mode, self.root, limits, &HostMemory, &OurFrames) }.expect("a root")
    }
}

impl Contender for Ours {
    fn restart(&mut self) {
        OUR_POOL.reset();
        self.root = OurFrames.allocate().expect("a pool has frames");
    }

    fn edit(&mut self, edit: Edit) {
        let editor = self.editor();
        let range = VirtRange::new(VirtAddr::new(edit.virt), edit.size);
        editor
            .map(
                range,
                PhysAddr::new(edit.phys),
                Protection::KERNEL_DATA,
                edit.page,
            )
            .expect("the range is free");
        let flush = editor.unmap(range).expect("the range is mapped");
        // SAFETY: no CPU uses these tables.
        unsafe { flush.discharged(&HostMemory, &OurFrames) };
    }
}

pub(super) struct Offset {
    root: u64,
}

struct OffsetFrames;

// SAFETY: the pool hands each frame out once.
unsafe impl FrameAllocator<Size4KiB> for OffsetFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame<Size4KiB>> {
        let frame = OFFSET_POOL.allocate()?;
        Some(PhysFrame::containing_address(x86_64::PhysAddr::new(frame)))
    }
}

impl Offset {
    pub(super) fn new() -> Self {
        Self { root: 0 }
    }

    fn edit_pages<S: TheirSize + std::fmt::Debug>(&mut self, edit: Edit)
    where
        for<'a> OffsetPageTable<'a>: Mapper<S>,
    {
        // SAFETY: the root is a frame of the pool, and physical memory is at offset zero.
        let mut table = unsafe {
            let root: &mut PageTable = &mut *(self.root as *mut PageTable);
            OffsetPageTable::new(root, x86_64::VirtAddr::zero())
        };
        let flags = PageTableFlags::PRESENT
            | PageTableFlags::WRITABLE
            | PageTableFlags::GLOBAL
            | PageTableFlags::NO_EXECUTE;
        let page =
            |offset| Page::<S>::containing_address(x86_64::VirtAddr::new(edit.virt + offset));
        for offset in (0..edit.size).step_by(S::SIZE as usize) {
            let frame = PhysFrame::containing_address(x86_64::PhysAddr::new(edit.phys + offset));
            // SAFETY: no CPU uses these tables.
            unsafe { table.map_to(page(offset), frame, flags, &mut OffsetFrames) }
                .expect("the page is free")
                .ignore();
        }
        for offset in (0..edit.size).step_by(S::SIZE as usize) {
            table
                .unmap(page(offset))
                .expect("the page is mapped")
                .1
                .ignore();
        }
    }
}

impl Contender for Offset {
    fn restart(&mut self) {
        OFFSET_POOL.reset();
        self.root = OFFSET_POOL.allocate().expect("a pool has frames");
        // SAFETY: the frame is 4 KiB that nobody uses.
        unsafe { core::ptr::write_bytes(self.root as *mut u8, 0, 4096) };
    }

    fn edit(&mut self, edit: Edit) {
        match edit.page {
            PageSize::Size2M => self.edit_pages::<Size2MiB>(edit),
            _ => self.edit_pages::<Size4KiB>(edit),
        }
    }
}

/// 4-level paging, whose flush does nothing: INVLPG is not for user mode.
struct NoFlush;

impl PagingMetaData for NoFlush {
    const LEVELS: usize = 4;
    const PA_MAX_BITS: usize = 52;
    const VA_MAX_BITS: usize = 48;
    type VirtAddr = memory_addr::VirtAddr;

    fn flush_tlb(_: Option<memory_addr::VirtAddr>) {}
}

struct MultiarchFrames;

impl PagingHandler for MultiarchFrames {
    fn alloc_frames(num: usize, _: usize) -> Option<memory_addr::PhysAddr> {
        assert_eq!(num, 1, "tables are single frames");
        MULTIARCH_POOL
            .allocate()
            .map(|frame| memory_addr::PhysAddr::from(frame as usize))
    }

    fn dealloc_frames(_: memory_addr::PhysAddr, _: usize) {}

    fn phys_to_virt(paddr: memory_addr::PhysAddr) -> memory_addr::VirtAddr {
        memory_addr::VirtAddr::from(paddr.as_usize())
    }
}

struct Multiarch {
    table: Option<PageTable64<NoFlush, X64PTE, MultiarchFrames>>,
}

impl Multiarch {
    fn new() -> Self {
        Self { table: None }
    }
}

impl Contender for Multiarch {
    fn restart(&mut self) {
        self.table = None;
        MULTIARCH_POOL.reset();
        self.table = Some(PageTable64::try_new().expect("a pool has frames"));
    }

    fn edit(&mut self, edit: Edit) {
        let mut cursor = self.table.as_mut().expect("restarted first").cursor();
        let virt = memory_addr::VirtAddr::from(edit.virt as usize);
        let phys = |at: memory_addr::VirtAddr| {
            memory_addr::PhysAddr::from((at.as_usize() as u64 - edit.virt + edit.phys) as usize)
        };
        let flags = MappingFlags::READ | MappingFlags::WRITE;
        let large = edit.page != PageSize::Size4K;
        cursor
            .map_region(virt, phys, edit.size as usize, flags, large)
            .expect("the range is free");
        cursor
            .unmap_region(virt, edit.size as usize)
            .expect("the range is mapped");
    }
}
