//! Values that have an area: what they give back, and when.

use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc};

use kspace::areas::{KernelStack, MapError, Mapping, OwnedArea};
use kspace::vmalloc::{AreaError, AreaRequest, Kind, Resized, State};
use kspace_frames::{
    Block, FrameAllocator, MappedBlock, Metadata, MetadataSize, Order, Owner, PinnedCpu,
};
use kspace_layout::{Pfn, VirtAddr};
use kspace_paging::{Access, CacheType, Protection};

use crate::rig::{K4, M2, Setup, guard, pages, with_rig};

#[test]
fn an_area_goes_with_its_value() {
    with_rig(Setup::new(), |rig| {
        let area = OwnedArea::allocate(rig.areas, &AreaRequest::new(5)).expect("room");
        let range = area.range();
        assert_eq!(format!("{area:?}"), format!("OwnedArea({range} vmalloc)"));
        assert!(rig.page(range.start()).is_some());
        drop(area);
        assert_eq!(rig.page(range.start()), None);
        let info = rig.areas.find(range.start()).expect("it waits");
        assert_eq!(info.state, State::Freed);
    });
}

#[test]
fn who_frees_a_value_is_written_down() {
    with_rig(Setup::new(), |rig| {
        let area = OwnedArea::allocate(rig.areas, &AreaRequest::new(M2)).expect("room");
        let start = area.start();
        let ((), line) = (area.free(), line!());
        let by = rig.areas.find(start).and_then(|info| info.caller);
        let by = by.expect("the test is one image");
        assert_eq!((by.file(), by.line()), (file!(), line));
    });
}

#[test]
fn an_area_given_up_stays_until_it_is_taken_up() {
    with_rig(Setup::new(), |rig| {
        let area = OwnedArea::allocate(rig.areas, &AreaRequest::new(K4)).expect("room");
        let range = area.into_raw();
        assert!(rig.page(range.start()).is_some());
        // SAFETY: it was given up above.
        drop(unsafe { OwnedArea::from_raw(rig.areas, range, Kind::Memory) });
        assert_eq!(rig.page(range.start()), None);
    });
}

#[test]
#[should_panic(expected = "a double free")]
fn a_value_whose_area_somebody_else_freed_stops() {
    with_rig(Setup::new(), |rig| {
        let area = OwnedArea::allocate(rig.areas, &AreaRequest::new(K4)).expect("room");
        // SAFETY: nothing uses the area; that the value frees it again is refused.
        unsafe { rig.areas.free(area.start()) }.expect("it is there");
        area.free();
    });
}

#[test]
fn a_value_knows_its_new_size() {
    with_rig(Setup::new(), |rig| {
        let mut area = OwnedArea::allocate(rig.areas, &AreaRequest::new(M2)).expect("room");
        let resized = area.resize(&AreaRequest::new(2 * M2));
        assert_eq!(resized, Ok(Resized::InPlace(area.range())));
        assert_eq!(area.range().size(), 2 * M2);
        let range = area.range();
        drop(area);
        assert!(pages(range).all(|page| rig.page(page).is_none()));
        rig.areas.purge();
        assert!(rig.frames.blocks().is_empty());
    });
}

/// An allocator of frames that no memory stands behind: mapping them needs none.
struct Frames {
    memory: NonNull<u8>,
    size: MetadataSize,
}

const START: Pfn = Pfn::new(0x1_0000);
const FRAMES: usize = 1 << 16;

impl Frames {
    fn new() -> Self {
        let size = MetadataSize::new(START, FRAMES, 1);
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc_zeroed(Self::layout(size)) };
        Self {
            memory: NonNull::new(memory).expect("the host has memory"),
            size,
        }
    }

    fn layout(size: MetadataSize) -> Layout {
        Layout::from_size_align(size.bytes(), MetadataSize::ALIGN).expect("a layout")
    }

    fn allocator(&self) -> FrameAllocator<'_> {
        // SAFETY: zeroed, aligned, of that size, and alive as long as `self`; called once.
        let metadata = unsafe { Metadata::from_zeroed(self.memory, self.size) };
        let frames = FrameAllocator::new(START, FRAMES, metadata).expect("books that fit");
        frames.add(START, FRAMES).expect("frames");
        frames
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.memory.as_ptr(), Self::layout(self.size)) };
    }
}

fn blocks<'f>(frames: &'f FrameAllocator<'f>, orders: &[u8]) -> Vec<MappedBlock<'f>> {
    // SAFETY: the test is one thread.
    let pin = unsafe { PinnedCpu::new(0) };
    let block = |order: &u8| -> Block<'f> {
        frames
            .allocate(&pin, Order::new(*order), Owner::KERNEL)
            .expect("there are frames")
    };
    let mapped = |order| block(order).map().expect("the books agree");
    orders.iter().map(mapped).collect()
}

#[test]
fn blocks_are_mapped_one_behind_the_other() {
    let (frames, orders) = (Frames::new(), [0, 3, 0, 9, 1, 5]);
    let frames = frames.allocator();
    let blocks = blocks(&frames, &orders);
    let expected: Vec<u64> = blocks
        .iter()
        .flat_map(|block| {
            let first = block.pfn().as_u64();
            first..first + block.order().frames() as u64
        })
        .collect();
    with_rig(Setup::new(), |rig| {
        let protection = Protection::kernel(Access::ReadOnly);
        let mapping = Mapping::new(rig.areas, &blocks, protection).expect("room");
        let range = mapping.range();
        assert_eq!(rig.frames_of(range), expected);
        assert_eq!(rig.page(guard(range)), None);
        let page = rig.page(range.start()).expect("mapped");
        assert!(page.attributes.grants(protection));
        mapping.unmap();
        assert!(pages(range).all(|page| rig.page(page).is_none()));
        let short = Mapping::short_lived(rig.areas, &blocks[..3]).expect("room");
        assert_eq!(rig.frames_of(short.range()), expected[..10]);
        let info = rig.areas.find(short.range().start()).expect("it is there");
        assert_eq!(info.kind, Kind::ShortLived);
        drop(short);
        // Whose frames they are is not for the areas to say.
        assert_eq!(rig.areas.purge().areas, 2);
    });
    for block in blocks {
        // SAFETY: the mappings are gone, with the machine.
        let block = unsafe { block.unmapped() }.expect("the books agree");
        drop(block);
    }
    // SAFETY: the test is one thread.
    frames.drain(&unsafe { PinnedCpu::new(0) });
    assert_eq!(frames.free_frames(), frames.managed_frames());
}

#[test]
fn mappings_that_must_not_be_are_refused() {
    let frames = Frames::new();
    let frames = frames.allocator();
    let blocks = blocks(&frames, &[0]);
    with_rig(Setup::new(), |rig| {
        let refused = |protection| Mapping::new(rig.areas, &blocks, protection).map(drop);
        assert_eq!(refused(Protection::KERNEL_TEXT), Err(MapError::Executable));
        let user = Protection::user(Access::ReadWrite);
        assert_eq!(refused(user), Err(MapError::User));
        let cache = CacheType::Uncached;
        let uncached = Protection::KERNEL_DATA.with_cache(cache);
        assert_eq!(refused(uncached), Err(MapError::Cache(cache)));
        assert_eq!(
            MapError::Cache(cache).to_string(),
            "vmap: uncached is refused, the frames are write-back in the direct map; ask for write-back"
        );
        let none = Mapping::short_lived(rig.areas, &[]).map(drop);
        assert_eq!(none, Err(MapError::Area(AreaError::Empty)));
    });
}

#[test]
fn stacks_have_a_guard_on_both_sides_wherever_they_lie() {
    with_rig(Setup::new(), |rig| {
        let bytes =
            KernelStack::<crate::rig::SimKernel<'_, kspace_paging::LongMode>, 1>::LINUX_BYTES;
        let mut stacks = Vec::new();
        for round in 0..100 {
            let stack = KernelStack::new(rig.areas, bytes - round % 3).expect("room");
            // Something of another size between them.
            let other = OwnedArea::allocate(rig.areas, &AreaRequest::new(1 + round * K4));
            stacks.push((stack, other.expect("room")));
        }
        for (stack, _) in &stacks {
            let range = stack.range();
            assert!(range.size() == bytes && stack.bottom().is_aligned(bytes));
            assert_eq!(rig.page(stack.top()), None);
            let below = VirtAddr::new(stack.bottom().as_u64() - 1);
            assert_eq!(rig.page(below), None, "{stack:?}");
            assert!(rig.page(range.last()).expect("mapped").attributes.write);
        }
        let refused = KernelStack::new(rig.areas, u64::MAX).map(drop);
        assert!(matches!(refused, Err(AreaError::TooLarge { .. })));
    });
}
