//! Areas that are made, freed and purged by several CPUs at once.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::lazy::{DirtyStack, LAZY_WORDS, set_lazy, take_lazy};
use super::slot::AreaWord;
use super::sync::{AtomicU64, Ordering};

/// Two chunks with two areas each, as far as the purge sees them. Chunks are named by number, counted from 1.
struct Chunks {
    dirty: DirtyStack,
    chunks: [Chunk; 2],
}

struct Chunk {
    mark: AtomicU64,
    link: AtomicU64,
    lazy: [AtomicU64; LAZY_WORDS],
    words: [AtomicU64; 2],
    /// The entries of each area, and all that they lead to.
    entries: [UnsafeCell<()>; 2],
}

impl Chunk {
    fn new() -> Self {
        Self {
            mark: AtomicU64::new(0),
            link: AtomicU64::new(0),
            lazy: [(); LAZY_WORDS].map(|()| AtomicU64::new(0)),
            words: [(); 2].map(|()| AtomicU64::new(0)),
            entries: [(); 2].map(|()| UnsafeCell::new(())),
        }
    }
}

impl Chunks {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            dirty: DirtyStack::new(),
            chunks: [Chunk::new(), Chunk::new()],
        })
    }

    /// Fills an area's entries and makes it known.
    fn make(&self, chunk: usize, slot: usize, caller: u32) {
        let chunk = &self.chunks[chunk];
        chunk.entries[slot].with_mut(|_| ());
        AreaWord::live(2 * slot as u64, 1, 0, 0, caller).publish(&chunk.words[slot]);
    }

    /// Frees an area, as the library does. `Err`: who did before.
    fn free(&self, chunk: usize, slot: usize, caller: u32) -> Result<(), u32> {
        let this = &self.chunks[chunk];
        AreaWord::free(&this.words[slot], 2 * slot as u64, caller).map_err(AreaWord::caller)?;
        // Parks.
        this.entries[slot].with_mut(|_| ());
        if set_lazy(&this.lazy, &this.mark, slot as u64) {
            self.dirty.push(chunk as u64 + 1, &this.link);
        }
        Ok(())
    }

    /// Purges, and returns which areas, as bits.
    fn purge(&self) -> u64 {
        let mut purged = 0;
        let mut next = self.dirty.take();
        while next != 0 {
            let number = next as usize - 1;
            let chunk = &self.chunks[number];
            next = chunk.link.load(Ordering::Relaxed);
            let bits = take_lazy(&chunk.lazy, &chunk.mark);
            for slot in (0..2).filter(|slot| bits[0] >> slot & 1 != 0) {
                let word = AreaWord::load(&chunk.words[slot]);
                assert!(word.is_lazy(), "only what is freed is purged");
                // Collects.
                chunk.entries[slot].with_mut(|_| ());
                word.release(&chunk.words[slot]);
                purged |= 1 << (2 * number + slot);
            }
        }
        purged
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

#[test]
fn of_two_frees_one_succeeds_and_the_other_learns_whose() {
    model(|| {
        let chunks = Chunks::new();
        chunks.make(0, 0, 7);
        let other = {
            let chunks = chunks.clone();
            thread::spawn(move || chunks.free(0, 0, 1))
        };
        let here = chunks.free(0, 0, 2);
        let there = other.join().expect("the other CPU panicked");
        assert!(
            matches!((here, there), (Ok(()), Err(2)) | (Err(1), Ok(()))),
            "{here:?} {there:?}"
        );
        assert_eq!(chunks.purge(), 1);
    });
}

#[test]
fn no_freed_area_is_missed_and_none_is_purged_twice() {
    model(|| {
        let chunks = Chunks::new();
        chunks.make(0, 0, 7);
        chunks.make(0, 1, 7);
        let other = {
            let chunks = chunks.clone();
            thread::spawn(move || chunks.free(0, 1, 1).expect("it is live"))
        };
        chunks.free(0, 0, 2).expect("it is live");
        let first = chunks.purge();
        other.join().expect("the other CPU panicked");
        let second = chunks.purge();
        assert_eq!(first & second, 0, "purged twice");
        assert_eq!(first | second, 0b11, "missed");
        assert_eq!(chunks.purge(), 0);
        assert_eq!(chunks.chunks[0].mark.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn chunks_are_put_on_the_stack_by_two_cpus_and_none_is_lost() {
    model(|| {
        let chunks = Chunks::new();
        chunks.make(0, 0, 7);
        chunks.make(1, 0, 7);
        let cpus = [0, 1].map(|chunk| {
            let chunks = chunks.clone();
            thread::spawn(move || chunks.free(chunk, 0, 1).expect("it is live"))
        });
        let first = chunks.purge();
        for cpu in cpus {
            cpu.join().expect("the other CPU panicked");
        }
        let second = chunks.purge();
        assert_eq!(first & second, 0, "purged twice");
        assert_eq!(first | second, 0b101, "missed");
    });
}

#[test]
fn an_area_that_another_cpu_has_made_is_freed_with_all_its_entries() {
    model(|| {
        let chunks = Chunks::new();
        let other = {
            let chunks = chunks.clone();
            thread::spawn(move || chunks.make(0, 0, 7))
        };
        // Nobody tells it of the area but the word itself.
        let freed = chunks.free(0, 0, 1).is_ok();
        let purged = chunks.purge();
        assert_eq!(purged, u64::from(freed));
        other.join().expect("the other CPU panicked");
        assert_eq!(chunks.free(0, 0, 2).is_ok(), !freed);
    });
}

#[test]
fn the_address_of_a_purged_area_is_used_again() {
    model(|| {
        let chunks = Chunks::new();
        chunks.make(0, 0, 7);
        let other = {
            let chunks = chunks.clone();
            thread::spawn(move || {
                chunks.free(0, 0, 1).expect("it is live");
                chunks.make(1, 0, 7);
                chunks.free(1, 0, 1).expect("it is live");
            })
        };
        let mut purged = chunks.purge();
        if purged & 1 != 0 {
            // Its pages are this CPU's now.
            chunks.make(0, 0, 8);
            chunks.free(0, 0, 3).expect("it is live");
        }
        other.join().expect("the other CPU panicked");
        purged |= chunks.purge();
        assert_eq!(purged, 0b101);
        for chunk in &chunks.chunks {
            assert!(!AreaWord::load(&chunk.words[0]).is_live());
            assert!(!AreaWord::load(&chunk.words[0]).is_lazy());
        }
    });
}
