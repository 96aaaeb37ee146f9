//! The heap, as `alloc` uses it: pieces that grow and shrink while the frames below are fought for.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::mixed::Dice;
use super::tally::TALLY;

/// Has the heap take its first block, which it keeps for its own books, so that it is counted before and after.
pub(super) fn first_block() {
    drop(Box::new(0_u64));
}

/// One round: a vector that grows beyond every small piece, boxes of many sizes, a map.
pub(super) fn grow_and_shrink(dice: &mut Dice) {
    vector(dice.below(40_000), dice.next());
    boxes(dice);
    map(dice.below(300), dice.next());
}

fn note(is_right: bool) {
    TALLY.add_pieces(1);
    TALLY.add_wrong_pieces(u64::from(!is_right));
}

fn vector(len: u64, number: u64) {
    let mut grown = Vec::new();
    for index in 0..len {
        // On a small machine the others may hold every block that is large enough.
        if grown.try_reserve(1).is_err() {
            TALLY.add_refusals(1);
            break;
        }
        grown.push(number ^ index);
    }
    grown.truncate(grown.len() / 3);
    grown.shrink_to_fit();
    let right = |(index, value): (usize, &u64)| *value == number ^ index as u64;
    note(grown.iter().enumerate().all(right));
}

fn boxes(dice: &mut Dice) {
    let mut boxes: Vec<Box<[u8]>> = (0..20)
        .map(|which| alloc::vec![which as u8; 1 + dice.below(3000) as usize].into_boxed_slice())
        .collect();
    // Leaves gaps between the others.
    let mut index = 0;
    boxes.retain(|_| {
        index += 1;
        index % 2 == 0
    });
    let right = |(index, bytes): (usize, Box<[u8]>)| {
        bytes.iter().all(|byte| usize::from(*byte) == 2 * index + 1)
    };
    note(boxes.into_iter().enumerate().all(right));
}

fn map(len: u64, number: u64) {
    let key = |index: u64| index.wrapping_mul(number | 1);
    let mut map: BTreeMap<u64, Box<u64>> = (0..len)
        .map(|index| (key(index), Box::new(index)))
        .collect();
    let (even, odd) = (0..len).partition::<Vec<_>, _>(|index| index % 2 == 0);
    let removed = even
        .into_iter()
        .all(|index| map.remove(&key(index)).as_deref() == Some(&index));
    let left = odd
        .into_iter()
        .all(|index| map.get(&key(index)).map(|value| **value) == Some(index));
    note(removed && left);
}
