//! Slots: what is found is what was published, never a mixture.

use loom::sync::Arc;
use loom::thread;

use super::machine::forget;
use super::request::Request;
use super::ring::Ring;

/// A request that shares neither of its words with that of the other generation.
fn request(generation: u64) -> Request {
    let mut request = Request::new(&forget(generation as usize), 33);
    request.pages = Some(generation as u32);
    request
}

#[test]
fn a_slot_holds_one_request_or_none() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let ring = Arc::new(Ring::<1>::new());
        assert_eq!(ring.take(2), 2);
        // The reader is started last: loom reverses the order of a load and the store before it, but may overlook the load when the
        // writer begins with one itself.
        let writer = {
            let ring = ring.clone();
            thread::spawn(move || ring.publish(2, request(2)))
        };
        let reader = {
            let ring = ring.clone();
            thread::spawn(move || {
                for generation in [1, 2] {
                    let found = ring.find(generation);
                    assert!(found.is_none_or(|found| found == request(generation)));
                }
            })
        };
        ring.publish(1, request(1));
        writer.join().expect("the writer panicked");
        reader.join().expect("the reader found a mixture");
        // The later one had the slot, unless the earlier one was in it just then.
        assert!(ring.find(1).is_none() || ring.find(2).is_none());
    });
}
