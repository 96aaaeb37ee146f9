//! A small machine that a kernel has built its address space on: 3 GiB of RAM with the usual holes, one CPU.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::sync::atomic::Ordering::Relaxed;

use kspace::cpu_entry;
use kspace::direct_map::{self, Plan};
use kspace::image::{self, ImageMap};
use kspace::verify::{Claims, FixedPage};
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{
    AreaKind, Fixmap, FixmapSlot, KernelImage, Layout, PageSize, PagingMode, Pfn, PhysAddr,
    PhysRange, SectionKind, VirtAddr, VirtRange, X86_64,
};
use kspace_paging::{Access, CacheType, Editor, FrameSource, Limits, LongMode, Protection, Walker};
use kspace_sim::{SimFrames, SimMemory};

pub mod pages;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// The image's place in physical memory.
pub const IMAGE_PHYS: PhysAddr = PhysAddr::new(0x100_0000);
pub const IMAGE_VIRT: VirtAddr = VirtAddr::new(0xffff_ffff_8100_0000);

/// RAM up to 1 GiB and from 4 to 6 GiB, with the old hole below 1 MiB, nothing at 512 MiB, and ACPI tables at 1008 MiB.
pub fn memory_map() -> MemoryMap {
    let entry = |start, end: u64, kind| FirmwareEntry {
        start,
        size: end - start,
        kind,
    };
    let entries = [
        entry(0, 0x9_fc00, 1),
        entry(0x9_fc00, 0xa_0000, 2),
        entry(0xf_0000, 0x10_0000, 2),
        entry(0x10_0000, 512 * MIB, 1),
        entry(513 * MIB, 1008 * MIB, 1),
        entry(1008 * MIB, 1009 * MIB, 3),
        entry(1009 * MIB, GIB, 1),
        entry(4 * GIB, 6 * GIB, 1),
    ];
    MemoryMap::from_firmware(entries, 40, |_| ()).expect("a sound map")
}

/// An image of 3 MiB of text, constants, data and bss, with a page between constants and data that no section has.
pub fn kernel_image() -> KernelImage {
    let at =
        |offset, size| VirtRange::new(IMAGE_VIRT.checked_add(offset).expect("in the image"), size);
    KernelImage::try_new(at(0, 0x40_5800), IMAGE_PHYS)
        .expect("a sound image")
        .with_section(SectionKind::Text, at(0, 0x30_0000))
        .with_section(SectionKind::Rodata, at(0x30_0000, 0x8_0123))
        .with_section(SectionKind::Data, at(0x38_2000, 0x2345))
        .with_section(SectionKind::Bss, at(0x38_4345, 0x8_14bb))
}

pub fn layout(mode: PagingMode) -> Layout {
    X86_64::new(mode, memory_map().ram_last())
        .image(kernel_image())
        .build()
        .expect("a sound layout")
}

pub fn fixed_pages() -> [FixedPage; 1] {
    let page = Fixmap.address(FixmapSlot::LocalApic).expect("a slot");
    [FixedPage {
        page,
        phys: PhysAddr::new(0xfee0_0000),
        protection: Protection::kernel(Access::ReadWrite).with_cache(CacheType::Uncached),
    }]
}

/// Memory and the frames for tables: 16 MiB at 768 MiB.
pub struct Machine {
    pub memory: SimMemory,
    pub mode: PagingMode,
    pub limits: Limits,
    pub map: MemoryMap,
    pub layout: Layout,
    pub fixed: [FixedPage; 1],
}

impl Machine {
    pub fn new(mode: PagingMode, limits: Limits) -> Self {
        Self::with_map(mode, limits, memory_map())
    }

    pub fn with_map(mode: PagingMode, limits: Limits, map: MemoryMap) -> Self {
        let layout = X86_64::new(mode, map.ram_last()).image(kernel_image());
        Self {
            memory: SimMemory::sparse(),
            mode,
            limits,
            map,
            layout: layout.build().expect("a sound layout"),
            fixed: fixed_pages(),
        }
    }

    pub fn frames(&self) -> SimFrames<'_> {
        SimFrames::new(
            &self.memory,
            PhysRange::new(PhysAddr::new(768 * MIB), 16 * MIB),
        )
    }

    pub fn claims(&self) -> Claims<'_> {
        Claims {
            layout: &self.layout,
            map: &self.map,
            limits: self.limits,
            cpus: 1,
            fixed: &self.fixed,
            vmemmap: None,
            areas: None,
            changes: None,
        }
    }

    pub fn editor<'a>(&'a self, frames: &'a SimFrames<'a>) -> SimEditor<'a> {
        let root = frames.allocate().expect("a frame for the root");
        // SAFETY: nobody else edits these tables, and no CPU uses them.
        unsafe { Editor::new(self.mode, root, self.limits, &self.memory, frames) }
            .expect("an editor")
    }

    pub fn walker(&self, root: PhysAddr) -> Walker<'_, SimMemory> {
        Walker::new(self.mode, root, &self.memory).with_limits(self.limits)
    }

    /// Builds everything, as a kernel does at boot.
    pub fn build(&self, editor: &SimEditor<'_>) {
        let sections = ImageMap::try_new(&kernel_image()).expect("sections on pages");
        let plan = Plan::for_layout(&self.layout, &self.map, self.limits).with_image(&sections);
        direct_map::build(editor, &self.layout, &plan).expect("a direct map");
        image::build(editor, &sections).expect("an image");
        let entry = self.layout.cpu_entry().expect("x86-64 has one");
        cpu_entry::build(editor, entry, 0).expect("an entry area");
        for fixed in &self.fixed {
            let page = VirtRange::new(fixed.page, 4096);
            editor
                .map(page, fixed.phys, fixed.protection, PageSize::Size4K)
                .expect("a fixmap page");
        }
    }

    /// Whether everything that is mapped in `range` reads as zeros.
    pub fn is_zero(&self, root: PhysAddr, range: VirtRange) -> bool {
        self.walker(root).runs(range).all(|run| {
            let run = run.expect("readable");
            let first = run.phys.pfn().as_u64();
            let mut frames = (first..).take((run.virt.size() / 4096) as usize);
            frames.all(|frame| {
                let words = self.memory.words(Pfn::new(frame));
                words.iter().all(|word| word.load(Relaxed) == 0)
            })
        })
    }

    pub fn start_of(&self, kind: AreaKind) -> VirtAddr {
        self.layout
            .area(kind)
            .expect("x86-64 has it")
            .range()
            .start()
    }
}

pub type SimEditor<'a> = Editor<'a, LongMode, SimMemory, SimFrames<'a>>;
