//! All that is to be refused, in one list: each says what is wrong, where, and what to do, and changes nothing.

use std::fmt::Display;

use kspace::areas::{DeviceCache, IoMemory, KernelStack, Mapping, OwnedArea};
use kspace::vmalloc::{AreaRequest, Kind};
use kspace_frames::{
    Block, FirmwareEntry, FrameAllocator, MappedBlock, MemoryMap, Metadata, MetadataSize, Order,
    Owner, PinnedCpu,
};
use kspace_layout::{Pfn, PhysAddr, VirtAddr};
use kspace_paging::{Access, CacheType, Protection};

use crate::rig::{K4, M2, Rig, Setup, with_rig};

/// That something is refused, in these words, and that what there is stays as it was.
fn says<T, E: Display>(rig: &Rig<'_, '_>, asked: impl FnOnce() -> Result<T, E>, text: &str) {
    let before = rig.everything();
    match asked() {
        Ok(_) => panic!("not refused: {text}"),
        Err(error) => assert_eq!(error.to_string(), text),
    }
    assert_eq!(rig.everything(), before, "{text}");
}

#[test]
fn sizes_and_alignments_that_no_area_can_have() {
    with_rig(Setup::new(), |rig| {
        let allocate = |request: AreaRequest, text: &str| {
            says(rig, || rig.areas.allocate(&request), text);
        };
        let area = "ffffc90000000000-ffffc9ffffffffff (0x10000000000 bytes)";
        allocate(
            AreaRequest::new(0),
            "vmalloc: no bytes were asked for; ask for at least one",
        );
        allocate(
            AreaRequest::new((64 << 20) + 1),
            "vmalloc: 16385 pages (64 MiB) are asked for, and the machine has 16384 (64 MiB); ask for less",
        );
        for bytes in [(1_u64 << 40) + 1, u64::MAX, u64::MAX - K4 + 2] {
            let text = format!("vmalloc: {bytes:#x} bytes: more than all of {area}");
            allocate(AreaRequest::new(bytes), &text);
            if bytes.checked_next_power_of_two().is_none() {
                says(rig, || KernelStack::new(rig.areas, bytes), &text);
            }
        }
        for align in [0, 3, 3 * K4, (1 << 63) + 1] {
            let text = format!("vmalloc: alignment {align:#x}: it is no power of two");
            allocate(AreaRequest::new(K4).aligned(align), &text);
        }
        allocate(
            AreaRequest::new(K4).aligned(1 << 63),
            "vmalloc: no 2 free pages in one piece at a multiple of 2251799813685248 in \
             ffffc90000000000-ffffc9ffffffffff; the longest piece has 268435456",
        );
    });
}

#[test]
fn devices_that_are_none() {
    with_rig(Setup::new(), |rig| {
        let ram = FirmwareEntry {
            start: 0,
            size: 80 << 20,
            kind: 1,
        };
        let map = MemoryMap::from_firmware([ram], 52, |_| ()).expect("a sound map");
        let device = |start: u64, bytes: u64, text: &str| {
            let start = PhysAddr::new(start);
            let cache = DeviceCache::default();
            // SAFETY: it is refused.
            let asked =
                || unsafe { IoMemory::new(rig.areas, rig.types, &map, start, bytes, cache) };
            says(rig, asked, text);
        };
        device(
            (80 << 20) - 1,
            2,
            "ioremap: 0000000004fff000-0000000005000fff: 0000000004fff000-0000000004ffffff is RAM, which is mapped with another \
             cache type already; use the direct map",
        );
        for bytes in [K4 + 1, u64::MAX] {
            let text = format!(
                "ioremap: {bytes:#x} bytes from 000ffffffffff000 on go past the last physical address; check the device's size"
            );
            device((1 << 52) - K4, bytes, &text);
        }
        device(
            1 << 40,
            0,
            "ioremap: no bytes at 0000010000000000; ask for at least one",
        );
    });
}

#[test]
fn rights_that_would_make_data_code() {
    with_rig(Setup::new(), |rig| {
        let area = OwnedArea::allocate(rig.areas, &AreaRequest::new(K4)).expect("room");
        let range = area.range();
        says(
            rig,
            || rig.areas.tables().protect(range, Protection::KERNEL_TEXT),
            &format!(
                "protect {range}: page 1 of 1 ({}) would be writable and executable until the flush; protect it read-only and flush \
                 first; nothing was changed",
                range.start()
            ),
        );
        let mapping = |protection| Mapping::new(rig.areas, &[], protection);
        says(
            rig,
            || mapping(Protection::KERNEL_TEXT),
            "vmap: executable is refused, the frames are writable elsewhere; ask for executable memory, and seal it",
        );
        says(
            rig,
            || mapping(Protection::user(Access::ReadWrite)),
            "vmap: user mode has no right here; map them in a user space",
        );
        says(
            rig,
            || mapping(Protection::KERNEL_DATA.with_cache(CacheType::WriteCombining)),
            "vmap: write-combining is refused, the frames are write-back in the direct map; ask for write-back",
        );
    });
}

/// `vmap` takes blocks, and a block comes from the books on frames: of frames that are not the caller's there is none.
#[test]
fn frames_that_are_not_ones_own() {
    let first = Pfn::new(0x1_0000);
    let size = MetadataSize::new(first, 1 << 10, 1);
    let mut books = vec![0_u64; size.bytes().div_ceil(8) + MetadataSize::ALIGN / 8];
    let start = books.as_mut_ptr().cast::<u8>();
    let aligned = start.wrapping_add(start.align_offset(MetadataSize::ALIGN));
    let memory = std::ptr::NonNull::new(aligned).expect("the host has memory");
    // SAFETY: zeroed, aligned, of that size, and alive until the end of the test.
    let metadata = unsafe { Metadata::from_zeroed(memory, size) };
    let frames = FrameAllocator::new(first, 1 << 10, metadata).expect("books that fit");
    frames.add(first, 1 << 10).expect("frames");
    // SAFETY: the test is one thread.
    let pin = unsafe { PinnedCpu::new(0) };
    let before = frames.free_frames();
    let refused = |pfn: u64, text: &str| {
        // SAFETY: it is refused.
        let block = unsafe { MappedBlock::from_raw(&frames, Pfn::new(pfn), Order::FRAME) };
        let error = block.map(|block| block.into_raw()).expect_err(text);
        assert_eq!(
            error.to_string(),
            format!(
                "frames: free of {}, order 0 (4 KiB): {text}; nothing was changed",
                Pfn::new(pfn).start()
            )
        );
    };
    refused(0x1_03ff, "never handed out");
    refused(
        0x1_0400,
        "not in the span 0000000010000000-00000000103fffff",
    );
    let block: Block<'_> = frames
        .allocate(&pin, Order::FRAME, Owner::KERNEL)
        .expect("frames");
    let pfn = block.pfn().as_u64();
    refused(
        pfn,
        "not mapped (in use as kernel memory, order 0 (4 KiB)); free it as a block",
    );
    block.free(&pin).expect("its own");
    refused(
        pfn,
        "free already (was kernel memory, order 0 (4 KiB), freed by CPU 0)",
    );
    frames.drain(&pin);
    assert_eq!(frames.free_frames(), before);
}

#[test]
fn frees_of_what_is_not_there() {
    with_rig(Setup::new(), |rig| {
        for bytes in [3 * K4, M2 + K4] {
            let area = rig.areas.allocate(&AreaRequest::new(bytes)).expect("room");
            let free = |address: u64| {
                // SAFETY: nobody uses the area.
                unsafe { rig.areas.free(VirtAddr::new(address)) }
            };
            let (start, line) = (area.start(), line!() - 2);
            let by = free(K4).expect_err("it is outside").caller();
            assert_eq!((by.file(), by.line()), (file!(), line));
            for inside in [start.as_u64() + 8, start.as_u64() + K4, area.end_u64()] {
                let text = format!(
                    "vfree {} by {by}: inside the area {area}; free it by its start, {start}; nothing was changed",
                    VirtAddr::new(inside)
                );
                says(rig, || free(inside), &text);
            }
            free(start.as_u64()).expect("it lives");
            let text = format!(
                "vfree {start} by {by}: a double free: the area {area} was freed before, by {by}; nothing was changed"
            );
            says(rig, || free(start.as_u64()), &text);
            let outside = format!(
                "vfree 0000000000001000 by {by}: not in {}, where areas are; nothing was changed",
                rig.areas.area()
            );
            says(rig, || free(K4), &outside);
            let nothing = rig.areas.area().last().align_down(K4);
            let text =
                format!("vfree {nothing} by {by}: no area begins there; nothing was changed");
            says(rig, || free(nothing.as_u64()), &text);
        }
    });
}

#[test]
fn kinds_that_do_not_go_with_the_call() {
    with_rig(Setup::new(), |rig| {
        let request = AreaRequest::new(K4);
        says(
            rig,
            || rig.areas.allocate(&request.kind(Kind::Frames)),
            "vmalloc: an area for vmap has no frames of its own; give some",
        );
        says(
            rig,
            // SAFETY: it is refused.
            || unsafe { rig.areas.map(&request, |_| Pfn::new(1)) },
            "vmalloc: an area for vmalloc has frames of its own; give none",
        );
        rig.cpu.atomic.set(true);
        says(
            rig,
            || rig.areas.allocate(&request),
            "vmalloc: in atomic context (a lock held, or in an interrupt handler); allocate before it",
        );
        rig.cpu.atomic.set(false);
    });
}
