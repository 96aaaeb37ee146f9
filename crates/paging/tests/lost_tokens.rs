//! A token that is dropped leaks and is reported. One test, because the report is the process's.

mod rig;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kspace_layout::{PageSize, PagingMode};
use kspace_paging::{Flush, Limits, Protection, leaked_tokens, on_leak};
use rig::{phys, range, with_rig};

static REPORTS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static DROPS: AtomicUsize = AtomicUsize::new(0);

struct Payload;

impl Drop for Payload {
    fn drop(&mut self) {
        DROPS.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn dropped_tokens_leak_and_are_reported() {
    on_leak(|leak| REPORTS.lock().unwrap().push(leak.to_string()));
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let at = range(0x20_0000, 0x40_0000);
        rig.map(at, phys(0x1000), Protection::KERNEL_DATA, PageSize::Size4K)
            .unwrap();
        assert_eq!(rig.frames.in_use(), 4);

        drop(rig.unmap(at).unwrap().with(Payload));
        assert_eq!(
            DROPS.load(Ordering::Relaxed),
            0,
            "the payload must not be freed"
        );
        drop(rig.purge(range(0, 0x40_0000)).unwrap());
        assert_eq!(rig.frames.in_use(), 4, "the table must not be reused");
        assert_eq!(leaked_tokens(), 2);
        assert_eq!(
            *REPORTS.lock().unwrap(),
            [
                "flush: a token for 0000000000200000-00000000003fffff was dropped before its flush; 0 table frames and its \
                 payload are leaked; flush every token",
                "flush: a token for 0000000000000000-00000000003fffff was dropped before its flush; 1 table frames and its \
                 payload are leaked; flush every token",
            ]
        );

        // A token that owes nothing may be dropped, with its payload.
        drop(Flush::nothing().with(Payload));
        assert_eq!((DROPS.load(Ordering::Relaxed), leaked_tokens()), (1, 2));
    });
}
