//! Short mappings that are made, unmapped and purged by several CPUs at once, in two blocks.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::lazy::DirtyStack;
use super::map_ram::account::{Account, BLOCK_PAGES};
use super::map_ram::open::OpenBlock;
use super::slot::AreaWord;
use super::sync::{AtomicU64, Ordering};

/// Pages of a mapping, so that a block has room for two: loom tries every order.
const PAGES: u64 = BLOCK_PAGES / 2 - 1;
/// Books of blocks, as addresses.
const BOOKS: [u64; 2] = [0x1000, 0x2000];

struct Block {
    mark: AtomicU64,
    link: AtomicU64,
    account: AtomicU64,
    words: [AtomicU64; 2],
    /// The entries of each mapping, and all that they lead to.
    entries: [UnsafeCell<()>; 2],
}

struct Machine {
    open: OpenBlock,
    dirty: DirtyStack,
    blocks: [Block; 2],
}

/// What a purge has found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Purged {
    mappings: u64,
    pages: u64,
    /// Blocks that nobody has any more, as bits.
    done: u64,
}

impl Machine {
    /// One CPU has the first block.
    fn new() -> Arc<Self> {
        let block = |_| Block {
            mark: AtomicU64::new(0),
            link: AtomicU64::new(0),
            account: AtomicU64::new(0),
            words: [(); 2].map(|()| AtomicU64::new(0)),
            entries: [(); 2].map(|()| UnsafeCell::new(())),
        };
        let machine = Self {
            open: OpenBlock::new(),
            dirty: DirtyStack::new(),
            blocks: [0, 1].map(block),
        };
        assert_eq!(machine.open.exchange(BOOKS[0]), None);
        Arc::new(machine)
    }

    fn block(&self, books: u64) -> &Block {
        &self.blocks[BOOKS
            .iter()
            .position(|&other| other == books)
            .expect("books")]
    }

    /// Maps: which block, and which of its halves.
    fn map(&self) -> Option<(u64, usize)> {
        let (books, first) = self.open.place(PAGES + 1)?;
        let (block, slot) = (self.block(books), (first / (PAGES + 1)) as usize);
        block.entries[slot].with_mut(|_| ());
        AreaWord::mapped(first, PAGES, 0, 7).publish(&block.words[slot]);
        Some((books, slot))
    }

    /// Unmaps, as the library does. `Err`: who did before.
    fn unmap(&self, (books, slot): (u64, usize), caller: u32) -> Result<(), u32> {
        let block = self.block(books);
        let first = slot as u64 * (PAGES + 1);
        AreaWord::unmap(&block.words[slot], first, PAGES, caller).map_err(AreaWord::caller)?;
        block.entries[slot].with_mut(|_| ());
        self.enter(books, Account::unmapped(PAGES));
        Ok(())
    }

    fn close(&self, with: u64) {
        if let Some(closed) = self.open.exchange(with) {
            self.enter(closed.books, Account::closed(closed.next));
        }
    }

    fn enter(&self, books: u64, entry: Account) {
        let block = self.block(books);
        if entry.enter(&block.account, &block.mark) {
            self.dirty.push(books, &block.link);
        }
    }

    fn purge(&self) -> Purged {
        let mut purged = Purged::default();
        let mut next = self.dirty.take();
        while next != 0 {
            let books = next;
            let block = self.block(books);
            next = block.link.load(Ordering::Relaxed);
            block.mark.swap(0, Ordering::AcqRel);
            let taken = Account::take(&block.account);
            purged.mappings += taken.mappings();
            purged.pages += taken.pages();
            if taken.is_done() {
                for slot in 0..2 {
                    // Whoever maps here next is the only one who changes these entries.
                    block.entries[slot].with_mut(|_| ());
                    let word = AreaWord::load(&block.words[slot]);
                    assert!(!word.is_mapped(), "a block is done, and has a mapping");
                    word.release(&block.words[slot]);
                }
                block.account.store(0, Ordering::Relaxed);
                purged.done |= books / BOOKS[0];
            }
        }
        purged
    }
}

impl Purged {
    fn and(self, other: Self) -> Self {
        assert_eq!(self.done & other.done, 0, "a block is given back twice");
        Self {
            mappings: self.mappings + other.mappings,
            pages: self.pages + other.pages,
            done: self.done | other.done,
        }
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

const WHOLE: Purged = Purged {
    mappings: 2,
    pages: 2 * PAGES,
    done: 1,
};

#[test]
fn a_block_is_given_back_once_and_only_when_nothing_is_mapped_in_it() {
    model(|| {
        let machine = Machine::new();
        let [one, two] = [(); 2].map(|()| machine.map().expect("room"));
        let other = {
            let machine = machine.clone();
            thread::spawn(move || machine.unmap(two, 1).expect("it is mapped"))
        };
        machine.unmap(one, 2).expect("it is mapped");
        machine.close(0);
        let first = machine.purge();
        other.join().expect("the other CPU panicked");
        assert_eq!(first.and(machine.purge()), WHOLE);
        assert_eq!(machine.purge(), Purged::default());
    });
}

#[test]
fn a_full_block_is_not_given_back_as_long_as_a_cpu_has_it() {
    model(|| {
        let machine = Machine::new();
        let [one, two] = [(); 2].map(|()| machine.map().expect("room"));
        assert_eq!(machine.map(), None);
        let other = {
            let machine = machine.clone();
            thread::spawn(move || {
                machine.unmap(one, 1).expect("it is mapped");
                machine.unmap(two, 1).expect("it is mapped");
            })
        };
        let first = machine.purge();
        assert_eq!(first.done, 0);
        other.join().expect("the other CPU panicked");
        let second = machine.purge();
        assert_eq!(second.done, 0);
        machine.close(BOOKS[1]);
        assert_eq!(first.and(second).and(machine.purge()), WHOLE);
    });
}

#[test]
fn a_block_is_taken_away_from_a_cpu_that_maps_in_it() {
    model(|| {
        let machine = Machine::new();
        let other = {
            let machine = machine.clone();
            thread::spawn(move || {
                let mapped = machine.map();
                if let Some(mapped) = mapped {
                    machine.unmap(mapped, 1).expect("it is mapped");
                }
                mapped.is_some()
            })
        };
        machine.close(0);
        let first = machine.purge();
        let mapped = u64::from(other.join().expect("the other CPU panicked"));
        let all = first.and(machine.purge());
        assert_eq!((all.mappings, all.done), (mapped, 1));
    });
}

#[test]
fn of_two_unmaps_one_succeeds_and_the_other_learns_whose() {
    model(|| {
        let machine = Machine::new();
        let one = machine.map().expect("room");
        let other = {
            let machine = machine.clone();
            thread::spawn(move || machine.unmap(one, 1))
        };
        let here = machine.unmap(one, 2);
        let there = other.join().expect("the other CPU panicked");
        assert!(
            matches!((here, there), (Ok(()), Err(2)) | (Err(1), Ok(()))),
            "{here:?} {there:?}"
        );
        machine.close(0);
        let purged = machine.purge();
        assert_eq!((purged.mappings, purged.done), (1, 1));
    });
}

#[test]
fn a_block_that_was_given_back_is_mapped_in_again() {
    model(|| {
        let machine = Machine::new();
        let one = machine.map().expect("room");
        let other = {
            let machine = machine.clone();
            thread::spawn(move || machine.unmap(one, 1).expect("it is mapped"))
        };
        machine.close(BOOKS[1]);
        let first = machine.purge();
        if first.done == 1 {
            // It is this CPU's again.
            machine.close(BOOKS[0]);
            let again = machine.map().expect("room");
            machine.unmap(again, 2).expect("it is mapped");
        }
        other.join().expect("the other CPU panicked");
        machine.close(0);
        machine.purge();
        for block in &machine.blocks {
            assert_eq!(block.account.load(Ordering::Relaxed), 0);
            assert!(
                block
                    .words
                    .iter()
                    .all(|word| !AreaWord::load(word).is_known())
            );
        }
    });
}
