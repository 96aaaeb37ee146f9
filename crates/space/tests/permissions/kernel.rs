//! A kernel with 3 GiB of direct map, two of them in pages of 1 GiB, an image, an area of eight pages, and a device.

use kspace::cache_types::CacheTypes;
use kspace::cpu_entry;
use kspace::direct_map::{self, Plan};
use kspace::image::{self, ImageMap};
use kspace::permissions::{Change, PermissionError, Permissions};
use kspace::vmalloc::{AreaRequest, Kind};
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{
    AreaKind, KernelImage, Layout, PageSize, PagingMode, Pfn, PhysAddr, SectionKind, VirtAddr,
    VirtRange, X86_64,
};
use kspace_paging::{Access, CacheType, LongMode, Protection, Walker};

use crate::simulated::{CPUS, K4, M2, Rig, Setup, SimKernel, with_rig};

pub const GIB: u64 = 1 << 30;
const IMAGE_PHYS: u64 = 512 << 20;
const IMAGE: VirtAddr = VirtAddr::new(0xffff_ffff_8100_0000);
/// Pages of each section of the image.
pub const SECTION: u64 = 4;

pub type Sim<'v, 'r> = Permissions<'v, 'r, SimKernel<'r, LongMode>, CPUS>;

/// A kernel on a rig.
pub struct Machine<'v, 'a, 'r> {
    pub rig: &'v Rig<'a, 'r, LongMode>,
    pub layout: &'v Layout,
    pub map: &'v MemoryMap,
    pub permissions: &'v Sim<'v, 'r>,
    pub area: VirtRange,
    pub device: VirtRange,
}

/// What the tables say of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageState {
    pub frame: Pfn,
    pub access: Access,
    pub cache: CacheType,
    pub present: bool,
}

fn image_at() -> KernelImage {
    let at = |page, pages| {
        let start = IMAGE.checked_add(page * K4).expect("in the image");
        VirtRange::new(start, pages * K4)
    };
    KernelImage::try_new(at(0, 4 * SECTION), PhysAddr::new(IMAGE_PHYS))
        .expect("a sound image")
        .with_section(SectionKind::Text, at(0, SECTION))
        .with_section(SectionKind::Rodata, at(SECTION, SECTION))
        .with_section(SectionKind::Data, at(2 * SECTION, SECTION))
        .with_section(SectionKind::Bss, at(3 * SECTION, SECTION))
}

/// Runs `test` on a machine with such a kernel; with several CPUs they have yet to join.
pub fn with_kernel(setup: Setup, test: impl FnOnce(&Machine<'_, '_, '_>)) {
    let layout = X86_64::new(PagingMode::FourLevel, PhysAddr::new(3 * GIB - 1)).image(image_at());
    let layout = layout.build().expect("a sound layout");
    let map = memory_map();
    with_rig::<LongMode>(setup, |rig| {
        build(rig, &layout, &map);
        for cpu in 0..setup.cpus {
            // The root has more entries now.
            rig.machine
                .load_root(cpu, rig.areas.tables().root(), 0, false);
        }
        let tables = rig.areas.tables();
        let types = CacheTypes::new(
            rig.areas.shootdown().platform(),
            tables.memory(),
            tables.frames(),
        );
        let list = [rig.areas];
        // SAFETY: the memory is simulated, and nobody else edits these tables where something is mapped.
        let permissions =
            unsafe { Permissions::new(*tables, rig.areas.shootdown(), &layout, &types, &list) };
        let area = rig.areas.allocate(&AreaRequest::new(8 * K4)).expect("room");
        let request = AreaRequest::new(2 * K4).kind(Kind::Device);
        let request = request.protection(Protection::KERNEL_DATA.with_cache(CacheType::Uncached));
        // SAFETY: there is no device.
        let device = unsafe { rig.areas.map(&request, |page| Pfn::new(0xfee00 + page)) };
        test(&Machine {
            rig,
            layout: &layout,
            map: &map,
            permissions: &permissions,
            area,
            device: device.expect("room"),
        });
    });
}

/// Maps direct map and image as a kernel does.
fn build(rig: &Rig<'_, '_, LongMode>, layout: &Layout, map: &MemoryMap) {
    let tables = rig.areas.tables();
    let sections = ImageMap::try_new(&image_at()).expect("sections on pages");
    let plan = Plan::for_layout(layout, map, tables.limits()).with_image(&sections);
    direct_map::build(tables, layout, &plan).expect("room");
    image::build(tables, &sections).expect("room");
    let entry = layout.cpu_entry().expect("x86-64 has one");
    cpu_entry::build(tables, entry, 0).expect("room");
}

/// 3 GiB of RAM, and nothing else: the first GiB is in small pages, because the image is in it, and the first MiB.
fn memory_map() -> MemoryMap {
    let entry = FirmwareEntry {
        start: 0,
        size: 3 * GIB,
        kind: 1,
    };
    MemoryMap::from_firmware([entry], 46, |_| ()).expect("a sound map")
}

impl<'r> Machine<'_, '_, 'r> {
    /// Changes pages; the test answers for who uses them.
    pub fn set(&self, range: VirtRange, change: Change) -> Result<(), PermissionError> {
        // SAFETY: what is in these pages is simulated.
        unsafe { self.permissions.set(range.start(), range.size(), change) }
    }

    pub fn restore(&self, range: VirtRange) -> Result<(), PermissionError> {
        // SAFETY: as above.
        unsafe { self.permissions.restore(range.start(), range.size()) }
    }

    pub fn walker(&self) -> Walker<'r, crate::simulated::TestMemory<'r>> {
        let tables = self.rig.areas.tables();
        Walker::new(tables.mode(), tables.root(), tables.memory()).with_limits(tables.limits())
    }

    /// What the tables say of a page.
    pub fn page(&self, address: VirtAddr) -> PageState {
        let walk = self.walker().walk(address);
        let page = walk.page().or_else(|| walk.hidden());
        let page = page.unwrap_or_else(|| panic!("{address} is not mapped"));
        let attributes = page.attributes;
        let access = match (attributes.write, attributes.execute) {
            (true, true) => panic!("{address} is writable and executable"),
            (true, false) => Access::ReadWrite,
            (false, true) => Access::ReadExecute,
            (false, false) => Access::ReadOnly,
        };
        PageState {
            frame: page.phys.pfn(),
            access,
            cache: attributes.cache,
            present: walk.page().is_some(),
        }
    }

    /// The size of the page at an address.
    pub fn size(&self, address: VirtAddr) -> PageSize {
        let walk = self.walker().walk(address);
        walk.page().expect("it is present").size
    }

    /// `pages` pages of the direct map from a physical address on.
    pub fn direct(&self, phys: u64, pages: u64) -> VirtRange {
        let start = self.layout.phys_to_virt(PhysAddr::new(phys)).expect("RAM");
        VirtRange::new(start, pages * K4)
    }

    /// `pages` pages of the direct map's large pages, from a distance to the first of them on.
    pub fn large(&self, at: u64, pages: u64) -> VirtRange {
        self.direct(GIB + at, pages)
    }

    /// A section of the image.
    pub fn section(&self, kind: SectionKind) -> VirtRange {
        let image = self.layout.image().expect("there is one");
        image.section(kind).expect("it has them all")
    }

    pub fn start_of(&self, kind: AreaKind) -> VirtAddr {
        self.layout
            .area(kind)
            .expect("x86-64 has it")
            .range()
            .start()
    }
}

/// Of the direct map's large pages, addresses at whose borders something may go wrong: first and last page of a stretch.
pub const STRETCHES: [(u64, u64); 7] = [
    (0, K4),
    (K4, M2 - K4),
    (M2 - K4, M2),
    (M2, M2 + K4),
    (M2 + K4, 2 * M2),
    (GIB - K4, GIB),
    (GIB, GIB + K4),
];
