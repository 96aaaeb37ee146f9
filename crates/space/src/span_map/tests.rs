//! The map against one entry a page, and what it does when there is no room.

extern crate std;
use std::collections::BTreeMap;

use kspace_layout::{PhysAddr, PhysRange};
use kspace_sim::{SimFrames, SimMemory};
use proptest::prelude::*;

use super::{NoRoom, SpanMap, Value};
use crate::ranges::tree::Span;

const PAGES: u64 = 40;

fn with_map(
    limit: u64,
    test: impl FnOnce(&SimFrames<'_>, &mut SpanMap<'_, SimMemory, &SimFrames<'_>>),
) {
    let memory = SimMemory::sparse();
    let frames = SimFrames::new(&memory, PhysRange::new(PhysAddr::ZERO, 1 << 20));
    {
        let mut map = SpanMap::new(&memory, &frames, limit);
        test(&frames, &mut map);
    }
    assert_eq!(frames.in_use(), 0);
}

proptest! {
    #[test]
    fn it_knows_of_each_page_what_was_set_last(
        sets in prop::collection::vec((0..PAGES, 1..12_u64, prop::option::weighted(0.7, 1..4_u64)), 1..40),
    ) {
        with_map(1000, |_, map| {
            let mut model: BTreeMap<u64, Value> = BTreeMap::new();
            for (start, pages, value) in sets {
                let value = value.map(|value| [value, value + 1]);
                map.reserve(2).expect("frames");
                map.set(Span { start, pages }, value);
                map.trim();
                for page in start..start + pages {
                    match value {
                        Some(value) => model.insert(page, value),
                        None => model.remove(&page),
                    };
                }
                // As few pieces as there can be, in order, and nothing between them.
                let mut runs = 0;
                for page in 0..PAGES + 12 {
                    let now = model.get(&page).copied();
                    assert_eq!(map.get(page).map(|piece| piece.value), now);
                    let before = page.checked_sub(1).and_then(|page| model.get(&page).copied());
                    runs += u64::from(now.is_some() && now != before);
                    let next = (page..PAGES + 12).find(|page| model.contains_key(page));
                    let found = map.next(page).map(|piece| piece.span.start.max(page));
                    assert_eq!(found, next);
                    let (first, value) = map.first_of(Span { start: page, pages: 60 });
                    assert_eq!(value, now);
                    assert_eq!(first.start, page);
                    assert!((first.start..first.end()).all(|page| model.get(&page).copied() == now));
                }
                assert_eq!(map.pieces(), runs);
            }
        });
    }
}

#[test]
fn there_is_no_more_than_the_limit_or_the_frames() {
    with_map(3, |frames, map| {
        assert_eq!(map.reserve(4), Err(NoRoom::Full { limit: 3 }));
        frames.set_budget(Some(0));
        assert_eq!(map.reserve(3), Err(NoRoom::NoFrame));
        frames.set_budget(None);
        assert_eq!(map.reserve(3), Ok(()));
        map.set(Span { start: 0, pages: 1 }, Some([1, 1]));
        assert_eq!(map.reserve(3), Err(NoRoom::Full { limit: 3 }));
    });
}
