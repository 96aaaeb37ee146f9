//! Runs of free pages: a CPU places areas in its run while the purger takes the rest of it away.
//!
//! Each page is a cell: *written* by who got it. Two who get the same page without one being ordered before the other are a data race.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::arena::{Arena, Run, Spot};

const CHUNK: u64 = 7;
const PAGES: u64 = 6;

struct Machine {
    arena: Arena,
    pages: [UnsafeCell<u64>; PAGES as usize],
    /// What the pool has: pages as bits.
    pool: Mutex<u64>,
}

impl Machine {
    /// One whose CPU has all pages in its run.
    fn new() -> Arc<Self> {
        let machine = Self {
            arena: Arena::new(),
            pages: [(); PAGES as usize].map(|()| UnsafeCell::new(0)),
            pool: Mutex::new(0),
        };
        machine.arena.exchange(2, Run::new(CHUNK, 0, PAGES));
        Arc::new(machine)
    }

    /// Takes pages, as who has them alone.
    fn write(&self, first: u64, count: u64) -> u64 {
        for page in first..first + count {
            // SAFETY: loom checks that nobody else is at it.
            self.pages[page as usize].with_mut(|times| unsafe { *times += 1 });
        }
        ((1 << count) - 1) << first
    }

    /// Places an area of one page and its guard: its pages, as bits.
    fn place(&self, align: u64) -> Option<u64> {
        let Spot {
            number,
            first,
            lead,
        } = self.arena.place(2, align)?;
        assert_eq!(number, CHUNK);
        assert_eq!(first % align, 0);
        Some(self.write(first - lead, 2 + lead))
    }

    /// What the purger does: the rests of all runs go to the pool.
    fn take_runs(&self) -> u64 {
        let mut pool = self.pool.lock().expect("nobody panics with it");
        let mut taken = 0;
        for run in self.arena.take_runs() {
            if run.left() > 0 {
                assert_eq!(run.number(), CHUNK);
                taken |= self.write(run.next(), run.left());
            }
        }
        *pool |= taken;
        taken
    }

    /// What a CPU does whose run is too short: it takes all that the pool has, which is a run here.
    fn refill(&self) -> bool {
        let mut pool = self.pool.lock().expect("nobody panics with it");
        if *pool == 0 {
            return false;
        }
        let (first, count) = (
            u64::from(pool.trailing_zeros()),
            u64::from(pool.count_ones()),
        );
        let run = Run::new(CHUNK, first, first + count);
        let old = self.arena.exchange(2, run);
        // What it still had goes to the pool.
        *pool = self.bits(old);
        true
    }

    fn bits(&self, run: Run) -> u64 {
        if run.left() == 0 {
            0
        } else {
            self.write(run.next(), run.left())
        }
    }
}

#[test]
fn no_page_is_placed_and_taken_away() {
    loom::model(|| {
        let machine = Machine::new();
        let purger = {
            let machine = machine.clone();
            thread::spawn(move || machine.take_runs())
        };
        let placed: Vec<u64> = (0..3).map_while(|_| machine.place(1)).collect();
        let taken = purger.join().expect("the purger panicked");
        let all = placed.iter().fold(taken, |all, pages| {
            assert_eq!(all & pages, 0, "a page twice");
            all | pages
        });
        assert_eq!(all, (1 << PAGES) - 1, "a page is nobody's");
    });
}

#[test]
fn pages_that_are_passed_over_go_with_the_area() {
    loom::model(|| {
        let machine = Machine::new();
        let purger = {
            let machine = machine.clone();
            thread::spawn(move || machine.take_runs())
        };
        let one = machine
            .arena
            .place(1, 1)
            .map(|spot| machine.write(spot.first, 1));
        let placed = [one, machine.place(4)];
        let taken = purger.join().expect("the purger panicked");
        let all = placed.iter().flatten().fold(taken, |all, pages| {
            assert_eq!(all & pages, 0, "a page twice");
            all | pages
        });
        assert_eq!(all, (1 << PAGES) - 1, "a page is nobody's");
    });
}

#[test]
fn a_run_that_was_away_and_came_back_is_as_good_as_one_that_stayed() {
    loom::model(|| {
        let machine = Machine::new();
        let purger = {
            let machine = machine.clone();
            thread::spawn(move || {
                machine.take_runs();
            })
        };
        let mut placed = 0;
        for _ in 0..2 {
            let pages = machine.place(1);
            let pages = pages.or_else(|| machine.refill().then(|| machine.place(1))?);
            let pages = pages.unwrap_or(0);
            assert_eq!(placed & pages, 0, "a page twice");
            placed |= pages;
        }
        purger.join().expect("the purger panicked");
        machine.take_runs();
        let pool = *machine.pool.lock().expect("nobody panics with it");
        assert_eq!(placed & pool, 0, "a page twice");
        assert_eq!(placed | pool, (1 << PAGES) - 1, "a page is nobody's");
    });
}
