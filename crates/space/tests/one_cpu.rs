//! A kernel with one CPU, ready made: brought up in memory of the host, with the tables read as a CPU reads them.

use std::alloc::{Layout as HostLayout, alloc_zeroed, dealloc};
use std::cell::Cell;

use kspace::areas::{DeviceCache, IoError, KernelStack, OwnedArea};
use kspace::fault::PageFault;
use kspace::one_cpu::{Boot, Error, OneCpu, Space};
use kspace::platform::{LocalFlush, TlbFeatures};
use kspace::vmalloc::AreaRequest;
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{
    AreaKind, KernelImage, Layout, LayoutBuilder, PagingMode, PhysAddr, PhysRange, SectionKind,
    VirtAddr, VirtRange,
};
use kspace_paging::{FrameSource, Limits, LinearMemory};

const K4: u64 = 4 << 10;
const RAM: u64 = 16 << 20;
const DIRECT_MAP: u64 = 0xffff_9000_0000_0000;
const VMALLOC: u64 = 0xffff_b000_0000_0000;
const IMAGE: u64 = 0xffff_ffff_c020_0000;
/// An error code that says: a write.
const WRITE: u32 = 1 << 1;

thread_local! {
    static FLUSHES: Cell<u32> = const { Cell::new(0) };
}

/// Memory of the host, zeroed, at a multiple of 2 MiB.
struct HostMemory(*mut u8, HostLayout);

impl HostMemory {
    fn new() -> Self {
        let layout = HostLayout::from_size_align(RAM as usize, 2 << 20).expect("a sound layout");
        // SAFETY: the size is not zero.
        Self(unsafe { alloc_zeroed(layout) }, layout)
    }

    /// The same as physical memory from zero on.
    fn linear(&self) -> LinearMemory {
        let at = VirtAddr::new(self.0.expose_provenance() as u64);
        // SAFETY: there as long as `self`, which every test keeps to its end.
        unsafe { LinearMemory::new(PhysRange::new(PhysAddr::ZERO, RAM), at) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.0, self.1) };
    }
}

fn image() -> KernelImage {
    let at = |offset| VirtAddr::new(IMAGE + offset);
    let sections = [
        (SectionKind::Text, at(0)),
        (SectionKind::Rodata, at(0x6000)),
        (SectionKind::Bss, at(0x8000)),
    ];
    KernelImage::try_from_sections(PhysAddr::new(2 << 20), &sections, at(0xa000)).expect("sound")
}

/// All of RAM but the image and what lies below it.
fn map() -> MemoryMap {
    let ram = [FirmwareEntry::new(0, RAM, 1)];
    let mut map = MemoryMap::from_firmware(ram, 40, |_| ()).expect("a sound map");
    let used = PhysRange::new(PhysAddr::ZERO, image().phys().end_u64());
    map.reserve(used).expect("room");
    map
}

fn builder(mode: PagingMode) -> LayoutBuilder {
    let area = |start, bytes| VirtRange::new(VirtAddr::new(start), bytes);
    LayoutBuilder::new(mode, PhysAddr::new(RAM - 1))
        .built(AreaKind::DirectMap, area(DIRECT_MAP, 1 << 40))
        .built(AreaKind::Vmalloc, area(VMALLOC, 1 << 40))
        .built(AreaKind::KernelImage, area(0xffff_ffff_c000_0000, 1 << 28))
}

fn layout() -> Layout {
    let layout = builder(PagingMode::FourLevel).image(image()).build();
    layout.expect("a sound layout")
}

fn cpu(mode: PagingMode) -> OneCpu {
    let flush = |_: LocalFlush| FLUSHES.set(FLUSHES.get() + 1);
    // SAFETY: no CPU uses these tables, so there is nothing to forget; each test has a machine of its own.
    unsafe { OneCpu::new(TlbFeatures::plain(mode), flush, |said| panic!("{said}")) }
}

/// Brings up a kernel in `memory`.
fn bring_up(
    memory: &HostMemory,
    layout: &Layout,
    map: &MemoryMap,
) -> Result<&'static Space, Error> {
    let memory = memory.linear();
    // SAFETY: the memory is the machine's, and nobody else uses it.
    let boot = unsafe { Boot::new(layout, map, Limits::WIDEST, memory) };
    let root = boot.build()?;
    // SAFETY: built just before; what is returned is not used after the memory has gone.
    unsafe { boot.adopt_through(memory, root, cpu(layout.mode())) }
}

fn with_space(test: impl FnOnce(&'static Space)) {
    let memory = HostMemory::new();
    test(bring_up(&memory, &layout(), &map()).expect("there is room"));
}

#[test]
fn what_is_mapped_is_what_the_layout_says() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        let memory = HostMemory::new();
        let layout = builder(mode).image(image()).build().expect("sound");
        let space = bring_up(&memory, &layout, &map()).expect("there is room");
        space.verify().expect("as the layout says");
        let walker = space.walker();
        let leads_to = |virt| walker.translate(VirtAddr::new(virt)).map(PhysAddr::as_u64);
        for phys in [0, 0x9_f000, 2 << 20, RAM - 1] {
            assert_eq!(leads_to(DIRECT_MAP + phys), Some(phys));
        }
        assert_eq!(leads_to(DIRECT_MAP + RAM), None);
        assert_eq!(leads_to(IMAGE + 0x6123), Some((2 << 20) + 0x6123));
        assert_eq!(leads_to(IMAGE + 0xa000), None);
        assert_eq!(
            leads_to(0x10_0000),
            None,
            "the loader's tables are no part of it"
        );
    }
}

#[test]
fn no_page_is_writable_and_executable() {
    with_space(|space| {
        let everything =
            VirtRange::try_from_bounds(VirtAddr::new(0xffff_8000_0000_0000), VirtAddr::LAST);
        let runs = space.walker();
        let runs = runs
            .runs(everything.expect("the upper half"))
            .map(|run| run.expect("readable"));
        let (mut executable, mut writable) = (0, 0);
        for run in runs {
            let rights = run.attributes;
            assert!(!(rights.write && rights.execute), "{run}");
            assert!(!rights.user, "{run}");
            executable += u64::from(rights.execute) * run.virt.size();
            writable += u64::from(rights.write) * run.virt.size();
        }
        assert_eq!(executable, 0x6000, "the text, and nothing else");
        assert_eq!(
            writable,
            RAM - 0x8000 + 0x2000,
            "RAM without text and constants, and .bss once more"
        );
    });
}

#[test]
fn areas_are_used_and_all_of_them_comes_back() {
    with_space(|space| {
        let free = || {
            let allocator = space.frames().allocator();
            allocator.free_frames_exact() + allocator.cached_frames()
        };
        let round = || {
            let small =
                OwnedArea::allocate(space.areas(), &AreaRequest::new(20_000)).expect("room");
            let large = OwnedArea::allocate(space.areas(), &AreaRequest::new(3 << 20).zeroed());
            let large = large.expect("room");
            let stack = KernelStack::new(space.areas(), 16 << 10).expect("room");
            space.verify().expect("with areas in it");
            for range in [small.range(), large.range(), stack.range()] {
                let frame = space.walker().translate(range.last()).expect("mapped");
                assert!(frame.as_u64() > 2 << 20 && frame.as_u64() < RAM);
            }
            let zeros = space
                .walker()
                .translate(large.range().last())
                .expect("mapped");
            let byte = space.pointer(zeros, 1).expect("RAM");
            // SAFETY: inside the machine's memory.
            assert_eq!(unsafe { byte.read() }, 0);
        };
        let before = free();
        round();
        let flushes = FLUSHES.get();
        space.areas().purge();
        assert!(FLUSHES.get() > flushes, "a purge is a flush");
        space.verify().expect("with areas freed");
        // What stays is the chunk that the CPU goes on filling, and the books' nodes.
        let after = free();
        assert!(before - after < 16, "{before} frames before, {after} after");
        for _ in 0..20 {
            round();
            space.areas().purge();
        }
        assert_eq!(free(), after);
    });
}

#[test]
fn memory_can_be_used_up_and_comes_back() {
    with_space(|space| {
        let allocator = space.frames().allocator();
        let free = || allocator.free_frames_exact() + allocator.cached_frames();
        let use_up = || {
            let mut areas = Vec::new();
            for bytes in [1 << 20, 64 << 10, K4] {
                let request = AreaRequest::new(bytes).zeroed();
                while let Ok(area) = OwnedArea::allocate(space.areas(), &request) {
                    areas.push(area);
                }
            }
            space.verify().expect("every area on frames of its own");
            assert_eq!(free(), 0, "all are in use");
            areas
                .iter()
                .map(|area| area.range().size() / K4)
                .sum::<u64>()
        };
        let first = use_up();
        assert!(first > 3000, "{first} pages of {}", RAM / K4);
        space.areas().purge();
        assert!(free() as u64 >= first);
        // The second time nothing is lost: books and tables are there or are made again.
        let second = use_up();
        assert!(second + 16 > first, "{first} pages, then {second}");
        space.areas().purge();
        assert_eq!(use_up(), second);
    });
}

#[test]
fn a_fault_is_explained_with_its_area() {
    with_space(|space| {
        let request = AreaRequest::new(1);
        let (area, line) = (OwnedArea::allocate(space.areas(), &request), line!());
        let range = area.as_ref().expect("room").range();
        let guard = VirtAddr::new(range.end_u64());
        let text = space.explain(PageFault::new(guard, WRITE)).to_string();
        assert_eq!(
            text,
            format!(
                "write to {guard}: not mapped, guard page of the vmalloc area {range} (4 KiB, made by {}:{line}), the first byte past its end",
                file!()
            )
        );
        let read_only = VirtAddr::new(IMAGE + 0x6000);
        let text = space
            .explain(PageFault::new(read_only, WRITE | 1))
            .to_string();
        assert!(
            text.contains("read-only") && text.contains(".rodata"),
            "{text}"
        );
    });
}

#[test]
fn devices_are_mapped_and_ram_is_not() {
    with_space(|space| {
        let start = PhysAddr::new(0xfed0_0010);
        // SAFETY: nobody follows the pointer.
        let device = unsafe { space.ioremap(start, 8, DeviceCache::UncachedMinus) }.expect("room");
        assert_eq!(space.walker().translate(device.address()), Some(start));
        assert_eq!(
            device.pointer().addr().get() as u64,
            device.address().as_u64()
        );
        space.verify().expect("with a device in it");
        // SAFETY: it is refused.
        let refused = unsafe { space.ioremap(PhysAddr::new(4 << 20), 8, DeviceCache::WriteBack) };
        assert!(matches!(refused, Err(IoError::Ram { .. })));
        assert_eq!(
            space.pointer(start, 8),
            None,
            "a device is not in the direct map"
        );
    });
}

#[test]
fn a_table_of_boot_becomes_the_allocators_when_it_is_released() {
    with_space(|space| {
        let allocator = space.frames().allocator();
        let (managed, root) = (allocator.managed_frames(), space.areas().tables().root());
        // No CPU uses the tables, and the test is over.
        space.frames().release(root);
        assert_eq!(allocator.managed_frames(), managed + 1);
    });
}

#[test]
fn what_is_missing_is_said() {
    let memory = HostMemory::new();
    let tried = |layout: Result<Layout, _>, map: &MemoryMap| {
        bring_up(&memory, &layout.expect("sound"), map).map(|_| ())
    };
    let mode = PagingMode::FourLevel;
    assert_eq!(tried(builder(mode).build(), &map()), Err(Error::NoImage));
    let range = |start, bytes| VirtRange::new(VirtAddr::new(start), bytes);
    let image_area = range(0xffff_ffff_c000_0000, 1 << 28);
    let bare = LayoutBuilder::new(mode, PhysAddr::new(RAM - 1)).image(image());
    let bare = bare.built(AreaKind::KernelImage, image_area);
    let missing = tried(
        bare.built(AreaKind::DirectMap, range(DIRECT_MAP, 1 << 40))
            .build(),
        &map(),
    );
    assert_eq!(missing, Err(Error::NoArea(AreaKind::Vmalloc)));
    let more = [
        FirmwareEntry::new(0, RAM, 1),
        FirmwareEntry::new(1 << 32, 1 << 20, 1),
    ];
    let mut more = MemoryMap::from_firmware(more, 40, |_| ()).expect("sound");
    let used = PhysRange::new(PhysAddr::ZERO, image().phys().end_u64());
    more.reserve(used).expect("room");
    let said = tried(builder(mode).image(image()).build(), &more).expect_err("out of reach");
    assert!(matches!(said, Error::OutOfReach { .. }));
    assert_eq!(
        said.to_string(),
        "frames: RAM goes on to 00000001000fffff, and 0000000000000000-0000000000ffffff is mapped; make the layout for all of it, or limit the memory map"
    );
}

#[test]
fn with_too_few_frames_it_ends_in_words() {
    let mut last = None;
    for frames in 0..200 {
        let mut map = map();
        let free = image().phys().end_u64() + frames * K4;
        map.reserve(PhysRange::new(PhysAddr::new(free), RAM - free))
            .expect("room");
        let memory = HostMemory::new();
        match bring_up(&memory, &layout(), &map) {
            Ok(space) => {
                space.verify().expect("as the layout says");
                last = Some(frames);
                break;
            }
            Err(error) => {
                let said = error.to_string();
                assert!(
                    said.contains("frame") || said.contains("memory"),
                    "{frames}: {said}"
                );
            }
        }
    }
    let needed = last.expect("200 frames are enough");
    assert!(needed > 10, "tables, books and values take {needed} frames");
}
