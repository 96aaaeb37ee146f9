//! What a buddy allocator would have on its lists, from nothing but which frames are free.

use std::collections::BTreeSet;

/// Free blocks of each order: every block of the largest order is one, if all of it is free, or else two halves.
pub fn buddy_blocks(free: &BTreeSet<u64>) -> [usize; 11] {
    let mut counts = [0; 11];
    let end = free.last().map_or(0, |last| last + 1);
    for start in (0..end).step_by(1 << 10) {
        halve(free, start, 10, &mut counts);
    }
    counts
}

fn halve(free: &BTreeSet<u64>, start: u64, order: usize, counts: &mut [usize; 11]) {
    let inside = free.range(start..start + (1 << order)).count();
    if inside == 1 << order {
        counts[order] += 1;
    } else if inside > 0 {
        halve(free, start, order - 1, counts);
        halve(free, start + (1 << (order - 1)), order - 1, counts);
    }
}
