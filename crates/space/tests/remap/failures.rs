//! Every single request for frames fails in turn: nothing is left of a mapping, or of a space, that did not come to be.

use kspace::areas::{OwnedArea, RemapError};
use kspace::user::SpaceError;
use kspace::vmalloc::AreaRequest;
use kspace_layout::PagingMode;
use kspace_layout::{VirtAddr, VirtRange};
use kspace_paging::{Access, EntryFormat, LongMode, Pae, TwoLevel};

use crate::rig::{K4, M2, Rig, Setup, with_rig, with_rig_of};
use crate::spaces::{AT, with_space};

/// Does something with more and more requests served, until it succeeds. `Err`: it ran out, and said so.
fn fails_cleanly<E: EntryFormat>(
    rig: &Rig<'_, '_, E>,
    name: &str,
    make: impl Fn() -> Result<(), ()>,
) {
    make().expect("there are frames");
    let before = rig.everything();
    for served in 0.. {
        rig.frames.budget.set(Some(served));
        let made = make();
        rig.frames.budget.set(None);
        assert_eq!(rig.everything(), before, "{name}: request {served} failed");
        if made.is_ok() {
            assert!(served > 0, "{name} takes no frames");
            return;
        }
    }
}

#[test]
fn nothing_is_left_of_a_mapping() {
    with_rig(Setup::new(), |rig| {
        rig.frames.fragment(3);
        for bytes in [K4, 5 * K4, M2 + K4] {
            let request = AreaRequest::new(bytes).user_mappable();
            let area = OwnedArea::allocate(rig.areas, &request).expect("room");
            // In a space of its own each time, as its tables stay.
            let before = rig.everything();
            let mut served = 0;
            loop {
                let mut made = None;
                with_space(rig, |space| {
                    let before = rig.everything();
                    rig.frames.budget.set(Some(served));
                    let mapping = area.remap(space, AT, 0..bytes / K4, Access::ReadWrite);
                    rig.frames.budget.set(None);
                    made = Some(mapping.map(drop));
                    if made != Some(Ok(())) {
                        assert_eq!(rig.everything(), before, "request {served} failed");
                    }
                })
                .expect("room");
                assert_eq!(rig.everything(), before);
                match made.expect("it was tried") {
                    Ok(()) => break,
                    Err(error) => assert_eq!(error, RemapError::NoFrames),
                }
                served += 1;
            }
            assert!(served >= 3, "four levels: three tables at least");
        }
    });
}

fn space_in<E: EntryFormat>(mode: PagingMode, area: VirtRange) {
    let setup = Setup {
        mode,
        area,
        ..Setup::new()
    };
    with_rig_of::<E>(setup, |rig| {
        fails_cleanly(rig, "a space", || {
            with_space(rig, |_| ()).map_err(|error| assert_eq!(error, SpaceError::NoFrames))
        });
    });
}

#[test]
fn nothing_is_left_of_a_space() {
    let low = VirtRange::new(VirtAddr::new(0xd000_0000), 128 << 20);
    space_in::<LongMode>(PagingMode::FourLevel, crate::rig::AREA);
    space_in::<Pae>(PagingMode::Pae, low);
    space_in::<TwoLevel>(PagingMode::TwoLevel, low);
}
