//! From a chunk's number to its books: a tree of frames of words, like a page table.
//!
//! ```text
//!   root frame: 512 words --> frames --> ... --> the last level's words are the addresses of the books
//! ```
//!
//! Looking up takes no lock. Who changes the tree holds the space (`state`). A node without children is taken out of its parent, and
//! freed after the next shootdown that waits for everybody; who looks up has interrupts off, so has ended by then.

use kspace_layout::PhysAddr;
use kspace_paging::FrameSource;

use super::chunk::{FRAME_WORDS, MAX_RETIRED, Words};
use super::sync::{AtomicU64, Ordering};

const BITS: u32 = FRAME_WORDS.trailing_zeros();

/// The tree.
pub(super) struct Index {
    root: PhysAddr,
    levels: u32,
    /// The number of the first chunk.
    first: u64,
    /// How often chunks were taken out, counted from one.
    generation: AtomicU64,
}

/// Reaches a frame of words that is in the books.
pub(super) trait Reach<'a> {
    fn words(&self, frame: PhysAddr) -> &'a Words;
}

impl Index {
    constructor! {
        /// For `chunks` chunks from number `first` on, with `root`, a frame of zeros.
        pub(super) fn new(root: PhysAddr, first: u64, chunks: u64) -> Self {
            let bits = u64::BITS - chunks.saturating_sub(1).leading_zeros();
            let levels = bits.div_ceil(BITS);
            Self {
                root,
                levels: if levels == 0 { 1 } else { levels },
                first,
                generation: AtomicU64::new(1),
            }
        }
    }

    /// What look-ups since are as good as new in: see `near`.
    #[inline(always)]
    pub(super) fn generation(&self) -> u64 {
        // Acquire: who sees a generation finds nothing in the index that was taken out before it.
        self.generation.load(Ordering::Acquire)
    }

    /// Makes all forget what they have looked up, after chunks were taken out and before the shootdown after which their books are freed.
    pub(super) fn next_generation(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The frame of a chunk's books. The number is of an address in the area.
    #[inline]
    pub(super) fn get<'a>(&self, reach: &impl Reach<'a>, number: u64) -> Option<PhysAddr> {
        let number = number.wrapping_sub(self.first);
        let mut node = self.root;
        for level in (0..self.levels).rev() {
            // Acquire: what is found there was written before it could be found.
            let word = reach.words(node)[slot(number, level)].load(Ordering::Acquire);
            if word == 0 {
                return None;
            }
            node = PhysAddr::new(word);
        }
        Some(node)
    }

    /// Sets aside the frames of nodes that a chunk needs, or none. The space is held until they are used.
    pub(super) fn reserve<'a>(
        &self,
        reach: &impl Reach<'a>,
        frames: &impl FrameSource,
        number: u64,
    ) -> Result<Nodes, NoFrame> {
        let mut nodes = Nodes::default();
        for _ in 0..self.missing(reach, number) {
            let Some(frame) = frames.allocate() else {
                nodes.release(frames);
                return Err(NoFrame);
            };
            nodes.push(frame);
        }
        Ok(nodes)
    }

    /// How many nodes on the way to a chunk there are not.
    fn missing<'a>(&self, reach: &impl Reach<'a>, number: u64) -> u32 {
        let number = number - self.first;
        let mut node = self.root;
        for level in (1..self.levels).rev() {
            match reach.words(node)[slot(number, level)].load(Ordering::Relaxed) {
                0 => return level,
                child => node = PhysAddr::new(child),
            }
        }
        0
    }

    /// Makes a chunk known, with the nodes set aside for it.
    pub(super) fn insert<'a>(
        &self,
        reach: &impl Reach<'a>,
        number: u64,
        books: PhysAddr,
        mut nodes: Nodes,
    ) {
        let number = number - self.first;
        let mut node = self.root;
        for level in (1..self.levels).rev() {
            let slot = &reach.words(node)[slot(number, level)];
            let child = slot.load(Ordering::Relaxed);
            node = if child == 0 {
                let new = nodes.pop().expect("as many were set aside as were missing");
                slot.store(new.as_u64(), Ordering::Release);
                new
            } else {
                PhysAddr::new(child)
            };
        }
        reach.words(node)[slot(number, 0)].store(books.as_u64(), Ordering::Release);
    }

    /// Takes a chunk out, and all nodes that have no other children; these go to `retire`.
    pub(super) fn remove<'a>(
        &self,
        reach: &impl Reach<'a>,
        number: u64,
        mut retire: impl FnMut(PhysAddr),
    ) {
        let number = number - self.first;
        self.remove_below(reach, self.root, self.levels - 1, number, &mut retire);
    }

    /// Whether the node is empty now.
    fn remove_below<'a>(
        &self,
        reach: &impl Reach<'a>,
        node: PhysAddr,
        level: u32,
        number: u64,
        retire: &mut impl FnMut(PhysAddr),
    ) -> bool {
        let words = reach.words(node);
        let slot = &words[slot(number, level)];
        let child = slot.load(Ordering::Relaxed);
        if level > 0 && child != 0 {
            let child = PhysAddr::new(child);
            if !self.remove_below(reach, child, level - 1, number, retire) {
                return false;
            }
            retire(child);
        }
        slot.store(0, Ordering::Release);
        words.iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }

    /// The first chunk at or after `number`: its number and its books.
    pub(super) fn next<'a>(&self, reach: &impl Reach<'a>, number: u64) -> Option<(u64, PhysAddr)> {
        let number = number.saturating_sub(self.first);
        if number >> (BITS * self.levels) != 0 {
            return None;
        }
        let (found, books) = self.next_below(reach, self.root, self.levels - 1, number)?;
        Some((found + self.first, books))
    }

    fn next_below<'a>(
        &self,
        reach: &impl Reach<'a>,
        node: PhysAddr,
        level: u32,
        number: u64,
    ) -> Option<(u64, PhysAddr)> {
        let first = slot(number, level);
        for (at, word) in reach.words(node).iter().enumerate().skip(first) {
            let child = word.load(Ordering::Acquire);
            if child == 0 {
                continue;
            }
            let child = PhysAddr::new(child);
            let from = if at == first {
                number
            } else {
                // The first number below this slot.
                let above = number >> (BITS * (level + 1)) << (BITS * (level + 1));
                above + ((at as u64) << (BITS * level))
            };
            if level == 0 {
                return Some((from, child));
            }
            if let Some(found) = self.next_below(reach, child, level - 1, from) {
                return Some(found);
            }
        }
        None
    }
}

/// Frames for nodes, of zeros.
#[derive(Default)]
pub(super) struct Nodes {
    frames: [PhysAddr; MAX_RETIRED],
    count: usize,
}

impl Nodes {
    fn push(&mut self, frame: PhysAddr) {
        self.frames[self.count] = frame;
        self.count += 1;
    }

    fn pop(&mut self) -> Option<PhysAddr> {
        self.count = self.count.checked_sub(1)?;
        Some(self.frames[self.count])
    }

    /// Gives back what is left.
    pub(super) fn release(mut self, frames: &impl FrameSource) {
        while let Some(frame) = self.pop() {
            frames.release(frame);
        }
    }
}

/// There is no frame for a node.
#[derive(Debug)]
pub(super) struct NoFrame;

#[inline]
const fn slot(number: u64, level: u32) -> usize {
    (number >> (BITS * level)) as usize % FRAME_WORDS
}
