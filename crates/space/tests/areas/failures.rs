//! Every single request for frames fails in turn: nothing is left of what did not come to be.

use kspace::areas::{Code, CodeError, DeviceCache, IoError, IoMemory, KernelStack, OwnedArea};
use kspace::vmalloc::{AreaError, AreaRequest, Arenas, Kind, Vmalloc};
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{Pfn, PhysAddr, VirtAddr, VirtRange};

use crate::rig::{K4, M2, Rig, Setup, with_rig};

/// Makes something with more and more requests served, until it succeeds; `Err`: it ran out.
fn fails_cleanly(rig: &Rig<'_, '_>, name: &str, make: impl Fn() -> Result<(), AreaError>) {
    // The books keep a frame or two once there has been something.
    make().expect("there are frames");
    let everything = || {
        rig.areas.purge();
        rig.everything()
    };
    let before = everything();
    let mut served = 0;
    loop {
        rig.frames.budget.set(Some(served));
        let made = make();
        rig.frames.budget.set(None);
        assert_eq!(everything(), before, "{name}: request {served} failed");
        match made {
            Ok(()) => break,
            Err(AreaError::NoFrames { .. } | AreaError::NoTables) => served += 1,
            Err(error) => panic!("{name}: {error}"),
        }
    }
    assert!(served > 0, "{name} takes no frames");
}

#[test]
fn nothing_is_left_of_anything() {
    with_rig(Setup::new(), |rig| {
        // No large pages, so that there is more to fail.
        rig.frames.fragment(5);
        for bytes in [K4, 9 * K4, M2 + K4] {
            fails_cleanly(rig, "an area", || {
                OwnedArea::allocate(rig.areas, &AreaRequest::new(bytes)).map(drop)
            });
        }
        fails_cleanly(rig, "a stack", || {
            KernelStack::new(rig.areas, 16 << 10).map(drop)
        });
        let entry = FirmwareEntry {
            start: 0,
            size: 80 << 20,
            kind: 1,
        };
        let map = MemoryMap::from_firmware([entry], 46, |_| ()).expect("a sound map");
        for bytes in [1, M2 + K4, (2 << 30) + M2 + K4] {
            let (start, cache) = (PhysAddr::new(4 << 30), DeviceCache::default());
            fails_cleanly(rig, "a device", || {
                // SAFETY: there is no device, nor a CPU.
                let device =
                    unsafe { IoMemory::new(rig.areas, rig.types, &map, start, bytes, cache) };
                device.map(drop).map_err(|error| match error {
                    IoError::Area(error) => error,
                    error => panic!("{error}"),
                })
            });
        }
        // Every second frame, so that there are no runs.
        let request = AreaRequest::new(M2).kind(Kind::Frames);
        fails_cleanly(rig, "a mapping", || {
            // SAFETY: nobody uses the area.
            let mapped = unsafe { OwnedArea::map(rig.areas, &request, |page| Pfn::new(2 * page)) };
            mapped.map(drop)
        });
    });
}

#[test]
fn nothing_is_left_of_code() {
    with_rig(Setup::new(), |rig| {
        rig.frames.fragment(5);
        let modules = VirtRange::new(VirtAddr::new(0xffff_ffff_c000_0000), 512 << 20);
        let arenas: &Arenas<1> = Box::leak(Box::default());
        let (tables, shootdown) = (*rig.areas.tables(), rig.areas.shootdown());
        // SAFETY: the area is used by nobody else.
        let areas = unsafe { Vmalloc::new(modules, tables, shootdown, arenas, 1 << 40) };
        let areas = areas.expect("there are frames");
        // A page that stays, so that the tables above the modules do.
        let stays = areas.allocate(&AreaRequest::new(K4)).expect("room");
        for bytes in [K4, M2 + K4] {
            fails_cleanly(rig, "code", || {
                let code = Code::new(&areas, rig.areas, None, bytes).map(drop);
                areas.purge();
                code.map_err(|error| match error {
                    CodeError::Area(error) => error,
                    CodeError::Rights(error) => panic!("{error}"),
                })
            });
        }
        assert!(rig.page(stays.start()).is_some());
    });
}
