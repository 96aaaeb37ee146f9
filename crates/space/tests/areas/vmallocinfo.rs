//! The list of all areas, as text.

use kspace::areas::{Addresses, DeviceCache, IoMemory, KernelStack, OwnedArea, VmallocInfo};
use kspace::vmalloc::AreaRequest;
use kspace_frames::zone::NodeId;
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{PagingMode, Pfn, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::Pae;

use crate::rig::{K4, M2, Setup, with_rig, with_rig_of};

fn node_of(frame: Pfn) -> Option<NodeId> {
    // Frame 0x2000 is at 32 MiB, in the middle of the RAM in use.
    NodeId::try_new(u32::from(frame.as_u64() >= 0x2000))
}

#[test]
fn rows_are_linuxs_and_in_order() {
    with_rig(Setup::new(), |rig| {
        let entry = FirmwareEntry {
            start: 0,
            size: 80 << 20,
            kind: 1,
        };
        let map = MemoryMap::from_firmware([entry], 46, |_| ()).expect("a sound map");
        let (memory, at) = (
            OwnedArea::allocate(rig.areas, &AreaRequest::new(3 * K4)),
            line!() - 1,
        );
        let memory = memory.expect("room");
        let (stack, stack_at) = (KernelStack::new(rig.areas, K4), line!());
        let stack = stack.expect("room");
        let (large, large_at) = (
            OwnedArea::allocate(rig.areas, &AreaRequest::new(8 * M2)),
            line!() - 1,
        );
        let large = large.expect("room");
        let device = PhysAddr::new(0xfed0_0008);
        let (cache, io_at) = (DeviceCache::default(), line!() + 2);
        // SAFETY: there is no device, nor a CPU.
        let io = unsafe { IoMemory::new(rig.areas, rig.types, &map, device, 8, cache) };
        let io = io.expect("room");
        // SAFETY: nobody uses the frames.
        let short = unsafe { OwnedArea::map_ram(rig.areas, 2, |page| Pfn::new(0x800 + page)) };
        let short = short.expect("room");
        let freed = OwnedArea::allocate(rig.areas, &AreaRequest::new(1)).expect("room");
        let freed_range = freed.range();
        drop(freed);

        let file = file!();
        let nodes = |range: VirtRange| {
            let frames = rig.frames_of(range);
            let upper = frames.iter().filter(|&&frame| frame >= 0x2000).count();
            [(0, frames.len() - upper), (1, upper)]
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(node, count)| format!(" N{node}={count}"))
                .collect::<String>()
        };
        let io_page = io.address().align_down(K4);
        let mut rows = [
            row(
                memory.range(),
                &format!("{file}:{at} pages=3 vmalloc{}", nodes(memory.range())),
            ),
            row(
                stack.range(),
                &format!(
                    "{file}:{stack_at} pages=1 vmalloc stack{}",
                    nodes(stack.range())
                ),
            ),
            row(
                large.range(),
                &format!(
                    "{file}:{large_at} pages=4096 vmalloc{} 2M=8",
                    nodes(large.range())
                ),
            ),
            row(
                VirtRange::new(io_page, K4),
                &format!("{file}:{io_at} phys=0x00000000fed00000 ioremap"),
            ),
            row(short.range(), "vm_map_ram"),
            row(freed_range, "unpurged vm_area"),
        ];
        rows.sort();
        let text = VmallocInfo::new(rig.areas, Addresses::Real, node_of).to_string();
        assert_eq!(text, rows.concat());
        // Who may not know addresses learns the rest.
        let text = VmallocInfo::new(rig.areas, Addresses::Hidden, node_of).to_string();
        let hidden = |row: &String| {
            let (_, rest) = row.split_once(' ').expect("a row has addresses");
            let rest = rest.replace("phys=0x00000000fed00000", &format!("phys={:#018x}", 0));
            format!("{0:#018x}-{0:#018x} {rest}", 0)
        };
        assert_eq!(text, rows.iter().map(hidden).collect::<String>());
        assert!(
            text.contains(" N1="),
            "the large area reaches into the second node:\n{text}"
        );
    });
}

/// With the guard page, and the end that is not part of it.
fn row(range: VirtRange, rest: &str) -> String {
    let (start, size) = (range.start().as_u64(), range.size() + K4);
    format!("{start:#018x}-{:#018x} {size:>7} {rest}\n", start + size)
}

#[test]
fn addresses_have_eight_digits_on_32_bits() {
    let setup = Setup {
        mode: PagingMode::Pae,
        area: VirtRange::new(VirtAddr::new(0xf7c0_0000), 64 << 20),
        ..Setup::new()
    };
    with_rig_of::<Pae>(setup, |rig| {
        rig.areas.allocate(&AreaRequest::new(1)).expect("room");
        let text = VmallocInfo::new(rig.areas, Addresses::Real, |_| None).to_string();
        assert!(text.starts_with("0xf7"), "{text}");
        assert_eq!(text.find(' '), Some(21));
    });
}
