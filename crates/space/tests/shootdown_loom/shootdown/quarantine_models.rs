//! Bays: what is put in comes out once, and by one CPU at a time.

use kspace_paging::Flush;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::quarantine::{Due, Quarantine};

#[test]
fn what_is_put_in_comes_out_once() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let quarantine = Arc::new(Quarantine::<usize, 2>::new(100));
        let out = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let purge = |quarantine: &Quarantine<usize, 2>, out: &[AtomicUsize; 2]| {
            quarantine.purge_by(
                |_| {},
                |token| {
                    // SAFETY: the token asks for nothing.
                    let index = unsafe { token.discharged(&NoMemory, &NoMemory) };
                    out[index].fetch_add(1, Ordering::Relaxed);
                },
            )
        };
        let other = {
            let (quarantine, out) = (quarantine.clone(), out.clone());
            thread::spawn(move || {
                let put = quarantine.put(Flush::nothing().with(0), 1);
                assert_eq!(put.ok(), Some(Due::Later));
                purge(&quarantine, &out)
            })
        };
        let put = quarantine.put(Flush::nothing().with(1), 1);
        assert_eq!(put.ok(), Some(Due::Later));
        let mut count = purge(&quarantine, &out);
        count += other.join().expect("the other CPU panicked");
        count += purge(&quarantine, &out);
        assert_eq!(count, 2);
        assert_eq!(out[0].load(Ordering::Relaxed), 1);
        assert_eq!(out[1].load(Ordering::Relaxed), 1);
        assert_eq!(quarantine.frames(), 0);
    });
}

/// Never asked: the tokens own no tables.
struct NoMemory;

// SAFETY: has no memory to get wrong.
unsafe impl kspace_paging::PhysMemory for NoMemory {
    fn entries<E: kspace_paging::RawEntry>(
        &self,
        _: kspace_layout::PhysAddr,
        _: usize,
    ) -> Option<&[E::Atomic]> {
        None
    }
}

// SAFETY: has no frames to get wrong.
unsafe impl kspace_paging::FrameSource for NoMemory {
    fn allocate(&self) -> Option<kspace_layout::PhysAddr> {
        None
    }

    fn release(&self, frame: kspace_layout::PhysAddr) {
        panic!("{frame} was never allocated");
    }
}
