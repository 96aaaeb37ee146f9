//! How many free blocks of each order there are: what a buddy allocator reads off its lists, and this one counts.
//!
//! ```text
//!   bits      0 0 1 0 | 0 0 0 0 | 1 1 1 1 | 0 0 0 0      0: free
//!   blocks     1    0       2                  2         the largest aligned ones, by order
//! ```
//!
//! Counting from the bottom: of two neighbours of one order that are both free, and that begin where a block of the next
//! order may begin, neither counts; they are one of the next order. 64 frames are so counted with a handful of
//! operations on their word. Nothing is locked: what changes meanwhile is counted as it was before or after.

use super::FrameAllocator;
use super::bits::{STARTS, WORD, WORDS};
use super::huge::Fill;
use super::index::{HugeId, Order, TreeId};

/// Free blocks of each order, by the order's number.
type Counts = [usize; Order::COUNT];

impl FrameAllocator<'_> {
    /// How many free blocks of each order there are, as a buddy allocator would hold them: each free frame counts in the
    /// largest aligned block that is free around it. What CPUs keep is not free. Exact while nobody allocates or frees.
    ///
    /// Looks at every tree, and below at what is partly free.
    #[must_use]
    pub fn free_blocks(&self) -> [usize; Order::COUNT] {
        let mut counts = [0; Order::COUNT];
        for (number, tree) in self.meta.trees.iter().enumerate() {
            if tree.is_present() {
                self.count_tree(TreeId::new(number), &mut counts);
            }
        }
        counts
    }

    fn count_tree(&self, tree: TreeId, counts: &mut Counts) {
        let first = tree.first_huge().get();
        for (index, pair) in self.pairs(tree).iter().enumerate() {
            let fills = pair.fills();
            if fills == [Fill::Free; 2] {
                counts[usize::from(Order::MAX.get())] += 1;
                continue;
            }
            for (half, fill) in fills.into_iter().enumerate() {
                match fill {
                    Fill::Free => counts[usize::from(Order::HUGE.get())] += 1,
                    Fill::Partial(_) => {
                        self.count_bits(HugeId::new(first + 2 * index + half), counts)
                    }
                    Fill::Full | Fill::Whole | Fill::Reserved => {}
                }
            }
        }
    }

    /// Counts what is free of a huge frame in parts.
    fn count_bits(&self, huge: HugeId, counts: &mut Counts) {
        let mut whole_words = 0;
        for (index, word) in self.bits(huge).0.iter().enumerate() {
            let free = !word.load();
            if free == u64::MAX {
                whole_words |= 1 << index;
            } else if free != 0 {
                count_aligned(free, &mut counts[..=WORD_ORDER]);
            }
        }
        count_aligned(whole_words, &mut counts[WORD_ORDER..]);
    }
}

/// The order of the frames in one word.
const WORD_ORDER: usize = WORD.trailing_zeros() as usize;

const _: () = assert!(WORD_ORDER + WORDS.trailing_zeros() as usize == Order::HUGE.get() as usize);

/// Adds up the largest aligned blocks of set bits: those of one bit in the first of `counts`, and so on.
fn count_aligned(set: u64, counts: &mut [usize]) {
    let mut blocks = set;
    for (order, count) in counts.iter_mut().enumerate() {
        if blocks == 0 {
            return;
        }
        let pairs = match STARTS.get(order + 1) {
            Some(starts) => blocks & (blocks >> (1 << order)) & starts,
            None => 0,
        };
        *count += (blocks.count_ones() - 2 * pairs.count_ones()) as usize;
        blocks = pairs;
    }
}
