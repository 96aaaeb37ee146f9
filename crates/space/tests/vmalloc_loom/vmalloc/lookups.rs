//! Look-ups of chunks, while the purger takes chunks out of the index and frees their books.
//!
//! A frame is a cell: *read* by who looks into it, *written* by who frees it. A CPU that keeps interrupts off holds its lock; a shootdown that
//! waits for the CPU takes it for a moment, and so comes after what the CPU did before, and before what it does next.

use std::cell::RefCell;

use kspace_layout::PhysAddr;
use kspace_paging::FrameSource;
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::chunk::Words;
use super::index::{Index, Reach};
use super::near::Near;
use super::sync::{AtomicU64, Ordering};

const FRAMES: u64 = 6;
const FRAME_BYTES: u64 = 4096;
const FIRST: u64 = 100;
/// The frame of the books of the chunk that is taken out, and of the one that takes its place.
const OLD: u64 = 4;
const NEW: u64 = 5;

struct Machine {
    index: Index,
    /// What interrupts being off is, on the CPU that looks up; and what it has of its own.
    off: Mutex<()>,
    near: Near,
    frames: [(Words, UnsafeCell<()>); FRAMES as usize],
}

/// Frames 2 and 3, for nodes.
struct Nodes(RefCell<Vec<u64>>);

// SAFETY: each number is given once.
unsafe impl FrameSource for Nodes {
    fn allocate(&self) -> Option<PhysAddr> {
        Some(frame(self.0.borrow_mut().pop()?))
    }

    fn release(&self, _: PhysAddr) {}
}

fn frame(number: u64) -> PhysAddr {
    PhysAddr::new(number * FRAME_BYTES)
}

impl<'a> Reach<'a> for &'a Machine {
    fn words(&self, frame: PhysAddr) -> &'a Words {
        &self.read(frame).0
    }
}

impl Machine {
    /// One with a chunk, in a tree of two levels whose root is frame 1.
    fn new() -> Arc<Self> {
        let machine = Self {
            index: Index::new(frame(1), FIRST, 4),
            off: Mutex::new(()),
            near: Near::new(),
            frames: [(); FRAMES as usize]
                .map(|()| ([(); 2].map(|()| AtomicU64::new(0)), UnsafeCell::new(()))),
        };
        machine.insert(OLD, vec![2]);
        Arc::new(machine)
    }

    fn insert(&self, books: u64, nodes: Vec<u64>) {
        let nodes = Nodes(RefCell::new(nodes));
        let missing = self.index.reserve(&self, &nodes, FIRST);
        let missing = missing.expect("there are as many as are needed");
        self.index.insert(&self, FIRST, frame(books), missing);
    }

    fn read(&self, frame: PhysAddr) -> &(Words, UnsafeCell<()>) {
        let frame = &self.frames[(frame.as_u64() / FRAME_BYTES) as usize];
        frame.1.with(|_| ());
        frame
    }

    /// Looks the chunk up and into its books, as the library does.
    fn look_up(&self) -> Option<u64> {
        let _off = self.off.lock().expect("nobody panics with it");
        let generation = self.index.generation();
        let books = match self.near.get(generation, FIRST) {
            Some((books, _)) => frame(books.addr() as u64),
            None => {
                let books = self.index.get(&self, FIRST)?;
                let number = (books.as_u64() / FRAME_BYTES) as usize;
                let place = core::ptr::without_provenance(number);
                self.near.put(generation, FIRST, place, place);
                books
            }
        };
        self.read(books);
        Some(books.as_u64() / FRAME_BYTES)
    }

    /// Takes the chunk out and frees its books and nodes, as the purger does.
    fn trim(&self) {
        let mut retired = vec![frame(OLD)];
        self.index.remove(&self, FIRST, |node| retired.push(node));
        self.index.next_generation();
        drop(self.off.lock().expect("nobody panics with it"));
        for frame in retired {
            let frame = &self.frames[(frame.as_u64() / FRAME_BYTES) as usize];
            // Others use it now.
            frame.1.with_mut(|_| ());
            for word in &frame.0 {
                word.store(u64::MAX, Ordering::Relaxed);
            }
        }
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

#[test]
fn nobody_looks_into_books_that_were_freed() {
    model(|| {
        let machine = Machine::new();
        let purger = {
            let machine = machine.clone();
            thread::spawn(move || machine.trim())
        };
        let (first, second) = (machine.look_up(), machine.look_up());
        assert!(first.is_none_or(|books| books == OLD));
        assert!(second.is_none_or(|_| first.is_some()), "a chunk came back");
        purger.join().expect("the purger panicked");
        assert_eq!(machine.look_up(), None);
    });
}

#[test]
fn a_chunk_in_the_place_of_another_is_found_and_not_the_other() {
    model(|| {
        let machine = Machine::new();
        let purger = {
            let machine = machine.clone();
            thread::spawn(move || {
                machine.trim();
                machine.insert(NEW, vec![3]);
            })
        };
        let (first, second) = (machine.look_up(), machine.look_up());
        assert!(
            second != Some(OLD) || first == Some(OLD),
            "a chunk came back"
        );
        purger.join().expect("the purger panicked");
        assert_eq!(machine.look_up(), Some(NEW));
    });
}
