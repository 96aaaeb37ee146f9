//! Tables that the editor wrote, read by somebody else: the `x86_64` crate's mapper.

mod rig;

use kspace_layout::{PageSize, PagingMode, PhysRange, VirtAddr};
use kspace_paging::{Access, CacheType, FrameSource, Limits, Protection};
use kspace_sim::{SimFrames, SimMemory};
use proptest::prelude::*;
use rig::{Rig, phys, range};
use x86_64::structures::paging::mapper::{
    MappedFrame, OffsetPageTable, Translate, TranslateResult,
};
use x86_64::structures::paging::{PageTable, PageTableFlags};

const K4: u64 = 4 << 10;
const BASE: u64 = 0xffff_8880_0000_0000;

/// What the other reader says about `address`: physical address, page size, flags of the leaf.
fn read(rig: &Rig<'_>, address: u64) -> Option<(u64, u64, PageTableFlags)> {
    let host = rig.memory.arena_host().unwrap().as_ptr();
    // Tables lie from physical 0 on, so the arena's place is the offset.
    let offset = x86_64::VirtAddr::new(host as u64);
    // SAFETY: the arena holds every table at that offset, and nothing edits them meanwhile.
    let table = unsafe {
        let root: &mut PageTable = &mut *host.add(rig.root.as_u64() as usize).cast();
        OffsetPageTable::new(root, offset)
    };
    match table.translate(x86_64::VirtAddr::new(address)) {
        TranslateResult::NotMapped => None,
        TranslateResult::InvalidFrameAddress(frame) => panic!("invalid frame {frame:?}"),
        TranslateResult::Mapped {
            frame,
            offset,
            flags,
        } => {
            let size = match frame {
                MappedFrame::Size4KiB(_) => PageSize::Size4K,
                MappedFrame::Size2MiB(_) => PageSize::Size2M,
                MappedFrame::Size1GiB(_) => PageSize::Size1G,
            };
            Some((frame.start_address().as_u64() + offset, size.bytes(), flags))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_x86_64_crate_reads_the_same(
        skip in 0u64..1024,
        count in 1u64..2048,
        hole in 0u64..2048,
        beside in prop_oneof![Just(0u64), Just(1u64), Just(512u64)],
        access in prop_oneof![Just(Access::ReadOnly), Just(Access::ReadWrite), Just(Access::ReadExecute)],
        user in any::<bool>(),
        global in any::<bool>(),
        uncached in any::<bool>(),
    ) {
        let arena = PhysRange::new(phys(0), 64 << 20);
        let memory = SimMemory::arena(arena);
        let frames = SimFrames::new(&memory, arena);
        let root = frames.allocate().unwrap();
        let rig = Rig { mode: PagingMode::FourLevel, limits: Limits::WIDEST, memory: &memory, frames: &frames, root };
        let cache = if uncached { CacheType::Uncached } else { CacheType::WriteBack };
        let protection = Protection { access, user, global, cache };
        let start = BASE + skip * K4;
        let all = range(start, start + count * K4);
        let to = (skip + beside) * K4;
        rig.map(all, phys(to), protection, PageSize::Size1G).unwrap();
        let hole = start + hole % count * K4;
        rig.discharge(rig.unmap(range(hole, hole + K4)).unwrap());

        let mut at = start;
        while at < start + count * K4 {
            let theirs = read(&rig, at + 5);
            let ours = rig.walker().walk(VirtAddr::new(at + 5)).page();
            if at == hole {
                prop_assert_eq!(theirs, None);
                prop_assert_eq!(ours, None);
                at += K4;
                continue;
            }
            let (found, size, flags) = theirs.expect("mapped");
            let ours = ours.expect("mapped");
            prop_assert_eq!(found, to + (at - start) + 5);
            prop_assert_eq!(found, ours.phys.as_u64());
            prop_assert_eq!(size, ours.size.bytes());
            prop_assert_eq!(flags.contains(PageTableFlags::WRITABLE), access == Access::ReadWrite);
            prop_assert_eq!(flags.contains(PageTableFlags::NO_EXECUTE), access != Access::ReadExecute);
            prop_assert_eq!(flags.contains(PageTableFlags::USER_ACCESSIBLE), user);
            prop_assert_eq!(flags.contains(PageTableFlags::GLOBAL), global);
            let bits = PageTableFlags::NO_CACHE | PageTableFlags::WRITE_THROUGH;
            prop_assert_eq!(flags.contains(bits), uncached);
            at += K4;
        }
        prop_assert_eq!(read(&rig, start - 1), None);
        prop_assert_eq!(read(&rig, start + count * K4), None);
    }
}
