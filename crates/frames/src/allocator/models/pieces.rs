//! The pieces by themselves: bits and counter of a huge frame, a tree, a record. Small enough for every order, or nearly.

use std::vec::Vec;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::super::bits::{BitWord, Fit, HugeBits, Sight, WORDS};
use super::super::huge::{Change, Fill, HugePair};
use super::super::index::{HUGE_FRAMES, Order};
use super::super::record::{FreedBy, Owner, Record};
use super::super::tree::Tree;
use super::{EVEN, ODD, check};

/// Two huge frames with their bits, and the content of a few frames.
struct Huge {
    pair: HugePair,
    bits: Vec<BitWord>,
    content: UnsafeCell<u32>,
}

impl Huge {
    /// The even one has all but `free` frames in use, from the first on.
    fn new(free: usize) -> Arc<Self> {
        let huge = Self {
            pair: HugePair::default(),
            bits: (0..WORDS).map(|_| BitWord::default()).collect(),
            content: UnsafeCell::new(0),
        };
        let used = HUGE_FRAMES - free;
        if used > 0 {
            huge.pair.half(EVEN).reserve(used, used);
            huge.bits().claim_reserved(used, |_, _| {});
        }
        Arc::new(huge)
    }

    fn bits(&self) -> HugeBits<'_> {
        HugeBits(&self.bits)
    }

    /// One frame, if there is one.
    fn take(&self) -> Option<usize> {
        self.pair.half(EVEN).reserve(1, 1)?;
        let mut frame = None;
        self.bits().claim_reserved(1, |word, bits| {
            frame = Some(word * 64 + bits.trailing_zeros() as usize);
        });
        frame
    }

    fn give(&self, frame: usize) {
        self.bits().release_range(frame, 1);
        self.pair.half(EVEN).give(1);
    }

    /// Writes to the content that goes with the last frame, as who owns it.
    #[allow(unsafe_code)] // Loom's cells are how it watches for unordered accesses.
    fn write(&self) {
        // SAFETY: only who was given the frame calls this; loom checks exactly that.
        self.content.with_mut(|content| unsafe { *content += 1 });
    }
}

#[test]
fn loom_reserved_frames_are_there() {
    check(None, || {
        let huge = Huge::new(2);
        let other = huge.clone();
        let taker = thread::spawn(move || other.take());
        let own = huge.take();
        let theirs = taker.join().unwrap();
        assert!(own.is_some() && theirs.is_some());
        assert_ne!(own, theirs);
        assert_eq!(huge.pair.half(EVEN).fill(), Fill::Full);
        assert_eq!(huge.take(), None);
    });
}

#[test]
fn loom_a_frame_given_back_is_taken_with_its_content() {
    check(Some(3), || {
        let huge = Huge::new(0);
        huge.write();
        let other = huge.clone();
        let giver = thread::spawn(move || {
            other.write();
            other.give(HUGE_FRAMES - 1);
        });
        // Asked twice: before and after, as it falls out.
        if let Some(frame) = huge.take().or_else(|| huge.take()) {
            assert_eq!(frame, HUGE_FRAMES - 1);
            huge.write();
        }
        giver.join().unwrap();
    });
}

#[test]
fn loom_a_frame_whose_counter_is_still_to_come_is_taken_with_its_content() {
    check(Some(3), || {
        // The last frame is free, the one before it is being given back: a reservation for the one may find the other.
        let huge = Huge::new(1);
        huge.write();
        let other = huge.clone();
        let giver = thread::spawn(move || {
            other.write();
            other.give(HUGE_FRAMES - 2);
        });
        if huge.take() == Some(HUGE_FRAMES - 2) {
            huge.write();
        }
        giver.join().unwrap();
    });
}

#[test]
fn loom_whole_or_single_but_not_both() {
    check(None, || {
        let huge = Huge::new(HUGE_FRAMES);
        let other = huge.clone();
        let single = thread::spawn(move || {
            let frame = other.take();
            if frame.is_some() {
                other.write();
            }
            frame
        });
        let whole = huge.pair.half(EVEN).take_whole();
        if whole.is_some() {
            huge.write();
        }
        let frame = single.join().unwrap();
        assert_ne!(whole.is_some(), frame.is_some());
        if let Some(frame) = frame {
            huge.give(frame);
            assert!(huge.pair.half(EVEN).take_whole().is_some());
        } else {
            huge.pair.half(EVEN).give_whole();
            assert_eq!(huge.take(), Some(0));
        }
    });
}

#[test]
fn loom_whole_after_the_last_single_came_back() {
    check(Some(3), || {
        let huge = Huge::new(HUGE_FRAMES);
        let frame = huge.take().unwrap();
        let other = huge.clone();
        let giver = thread::spawn(move || {
            other.write();
            other.give(frame);
        });
        let counter = huge.pair.half(EVEN);
        if counter
            .take_whole()
            .or_else(|| counter.take_whole())
            .is_some()
        {
            huge.write();
            assert!(huge.bits.iter().all(|word| word.load() == 0));
        }
        giver.join().unwrap();
    });
}

#[test]
fn loom_a_pair_needs_both_halves() {
    check(None, || {
        let huge = Huge::new(HUGE_FRAMES);
        let other = huge.clone();
        let odd = thread::spawn(move || other.pair.half(ODD).take_whole().is_some());
        let both = huge.pair.take_both().is_some();
        let odd = odd.join().unwrap();
        assert_ne!(both, odd);
        assert_eq!(huge.pair.half(EVEN).fill() == Fill::Free, odd);
    });
}

#[test]
fn loom_a_run_that_does_not_fit_leaves_nothing_behind() {
    check(Some(3), || {
        // Two free frames at the end: both singles and the run want them.
        let huge = Huge::new(2);
        let other = huge.clone();
        let run = thread::spawn(move || {
            let counter = other.pair.half(EVEN);
            counter.reserve(2, 2)?;
            let at = other.bits().claim_run(0, 2, Fit::Any);
            if at.is_none() {
                counter.give(2);
            }
            at
        });
        let single = huge.take();
        let run = run.join().unwrap();
        assert!(single.is_none() || run.is_none());
        let left = if run.is_some() {
            0
        } else {
            2 - usize::from(single.is_some())
        };
        let fill = huge.pair.half(EVEN).fill();
        assert_eq!(
            fill,
            if left == 0 {
                Fill::Full
            } else {
                Fill::Partial(left)
            }
        );
    });
}

/// Looks for a run, and takes note when there is none.
fn search(huge: &Huge, order: Order) {
    let counter = huge.pair.half(EVEN);
    if let Some(seen) = counter.partly_free(order)
        && huge.bits().look_for_run(order.frames(), Fit::Any) == Sight::None
    {
        counter.note_vain(seen, order);
    }
}

/// Whether a search that heeds what others took note of finds a run.
fn finds(huge: &Huge, order: Order) -> bool {
    huge.pair.half(EVEN).partly_free(order).is_some()
        && huge.bits().look_for_run(order.frames(), Fit::Any) != Sight::None
}

#[test]
fn loom_a_search_in_vain_hides_no_run_that_comes_back() {
    check(None, || {
        // The last frame is free, and the one before it is being given back.
        let huge = Huge::new(4);
        huge.pair.half(EVEN).reserve(2, 2).unwrap();
        assert!(huge.bits().claim_range(HUGE_FRAMES - 4, 1));
        assert!(huge.bits().claim_range(HUGE_FRAMES - 2, 1));
        let pair = Order::new(1);
        assert!(!finds(&huge, pair));
        let other = huge.clone();
        let searcher = thread::spawn(move || search(&other, pair));
        huge.give(HUGE_FRAMES - 2);
        searcher.join().unwrap();
        assert!(finds(&huge, pair));
    });
}

#[test]
fn loom_a_search_in_vain_keeps_no_huge_frame_from_being_whole() {
    check(Some(3), || {
        // Two frames in use, so that there is no half.
        let huge = Huge::new(HUGE_FRAMES);
        huge.pair.half(EVEN).reserve(2, 2).unwrap();
        assert!(huge.bits().claim_range(0, 1));
        assert!(huge.bits().claim_range(HUGE_FRAMES / 2, 1));
        let half = Order::new(8);
        let other = huge.clone();
        let searcher = thread::spawn(move || search(&other, half));
        huge.give(0);
        huge.give(HUGE_FRAMES / 2);
        searcher.join().unwrap();
        assert_eq!(huge.pair.half(EVEN).fill(), Fill::Free);
        assert!(huge.pair.take_both().is_some());
    });
}

#[test]
fn loom_a_broken_block_is_given_back_in_parts() {
    check(Some(3), || {
        let huge = Huge::new(HUGE_FRAMES);
        huge.pair.half(EVEN).take_whole().unwrap();
        let other = huge.clone();
        let owner = thread::spawn(move || {
            other.bits().set_all();
            other.pair.half(EVEN).break_whole();
            other.write();
            other.give(7);
        });
        if let Some(frame) = huge.take() {
            assert_eq!(frame, 7);
            huge.write();
        }
        owner.join().unwrap();
    });
}

#[test]
fn loom_tree_counts_are_exact_in_the_end() {
    check(None, || {
        let (huge, tree) = (Huge::new(1), Arc::new(Tree::default()));
        tree.set_present();
        // One partly free; each thread makes it full or partly free, once.
        tree.note(Change {
            whole: 0,
            partial: 1,
        });
        let (other, others) = (huge.clone(), tree.clone());
        let giver = thread::spawn(move || {
            other.bits().release_range(3, 1);
            others.note(other.pair.half(EVEN).give(1));
        });
        if let Some((_, change)) = huge.pair.half(EVEN).reserve(1, 1) {
            huge.bits().claim_reserved(1, |_, _| {});
            tree.note(change);
        }
        giver.join().unwrap();
        assert_eq!(tree.counts(), (0, 1));
        assert_eq!(huge.pair.half(EVEN).fill(), Fill::Partial(1));
    });
}

#[test]
fn loom_a_tree_has_one_holder() {
    check(None, || {
        let tree = Arc::new(Tree::default());
        tree.set_present();
        let other = tree.clone();
        let second = thread::spawn(move || other.reserve(1));
        let first = tree.reserve(0);
        let second = second.join().unwrap();
        assert!(first != second);
        tree.unreserve(u16::from(first));
        assert!(!tree.is_unreserved());
        tree.unreserve(u16::from(second));
        assert!(tree.is_unreserved());
    });
}

#[test]
fn loom_one_of_two_frees_wins() {
    check(None, || {
        let record = Arc::new(Record::default());
        record.hand_out(Order::FRAME, Owner::USER);
        let other = record.clone();
        let second = thread::spawn(move || other.take_back(Order::FRAME, FreedBy::cpu(1)));
        let first = record.take_back(Order::FRAME, FreedBy::cpu(0));
        assert_ne!(first, second.join().unwrap());
    });
}

#[test]
fn loom_the_last_holder_sees_what_the_others_did() {
    check(None, || {
        let shared = Arc::new((Record::default(), Huge::new(0)));
        shared.0.hand_out(Order::FRAME, Owner::USER);
        shared.0.share().unwrap();
        let drop_one = |shared: &(Record, Arc<Huge>), writes: bool| {
            if writes {
                shared.1.write();
            }
            match shared.0.unshare() {
                Ok(true) => false,
                _ => {
                    assert!(shared.0.take_back(Order::FRAME, FreedBy::NOBODY));
                    shared.1.write();
                    true
                }
            }
        };
        let other = shared.clone();
        let second = thread::spawn(move || drop_one(&other, true));
        let first = drop_one(&shared, false);
        assert_ne!(first, second.join().unwrap());
    });
}
