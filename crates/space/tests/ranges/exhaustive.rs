//! Small areas, where everything that can happen is tried.

use kspace::ranges::{AllocateError, FreeError, Request};

use crate::model::{Model, Wanted};
use crate::{SimRanges, VMALLOC, numbers, pages, with_ranges};

/// A page number that is a multiple of 8 and no more.
const BASE: u64 = VMALLOC + 24;

/// Every way in which allocations can lie in `count` pages.
fn all_states(count: u64) -> Vec<Model> {
    fn go(model: Model, from: u64, states: &mut Vec<Model>) {
        if from == model.end {
            states.push(model);
            return;
        }
        go(model.clone(), from + 1, states);
        for count in 1..=model.end - from {
            let mut with = model.clone();
            with.live.insert(from, count);
            go(with, from + count, states);
        }
    }
    let mut states = Vec::new();
    go(Model::new(BASE + 1, count), BASE + 1, &mut states);
    states
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Call {
    Allocate(Wanted),
    AllocateAt(u64, u64),
    Free(u64, u64),
}

/// Every call on that area. The windows are all that start or end with the area, and all of one page more than the request.
fn all_calls(start: u64, end: u64) -> Vec<Call> {
    let mut calls = Vec::new();
    for count in 1..=end - start {
        for align in [1, 2, 4, 8] {
            let windows = (start..end).flat_map(|from| {
                [
                    (start, from + 1),
                    (from, end),
                    (from, end.min(from + count + 1)),
                ]
            });
            for window in windows {
                let call = Call::Allocate(Wanted {
                    pages: count,
                    align,
                    window,
                });
                if !calls.contains(&call) {
                    calls.push(call);
                }
            }
        }
        for at in start..=end - count {
            calls.extend([Call::AllocateAt(at, count), Call::Free(at, count)]);
        }
    }
    calls
}

/// Makes the call on both, and compares what comes back. What is not an allocation is not freed.
fn run(call: Call, model: &mut Model, ranges: &mut SimRanges<'_>) {
    match call {
        Call::Allocate(wanted) => {
            let (from, to) = wanted.window;
            let request = Request::pages(wanted.pages)
                .aligned(wanted.align)
                .within(pages(from, to - from));
            match ranges.allocate(&request) {
                Ok(range) => {
                    let (start, count) = numbers(range);
                    assert_eq!(model.best(&wanted), Some(start), "{wanted:?} in {model:?}");
                    model.live.insert(start, count);
                }
                Err(AllocateError::NoSpace { .. }) => {
                    assert_eq!(model.best(&wanted), None, "{wanted:?} in {model:?}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        Call::AllocateAt(start, count) => {
            let result = ranges.allocate_at(pages(start, count));
            assert_eq!(
                result.is_ok(),
                model.is_free(start, count),
                "{call:?} in {model:?}"
            );
            if result.is_ok() {
                model.live.insert(start, count);
            }
        }
        Call::Free(start, count) => {
            let gaps = model.gaps();
            let overlaps = gaps
                .iter()
                .any(|gap| gap.0 < start + count && start < gap.1);
            if overlaps {
                let result = ranges.free(pages(start, count));
                assert!(
                    matches!(result, Err(FreeError::AlreadyFree { .. })),
                    "{result:?}"
                );
            } else if model.live.get(&start) == Some(&count) {
                assert_eq!(ranges.free(pages(start, count)), Ok(()));
                model.live.remove(&start);
            }
        }
    }
}

/// Takes back what one call did, so that `ranges` is as `before` says.
fn undo(before: &Model, after: &Model, ranges: &mut SimRanges<'_>) {
    for (start, count) in &after.live {
        if !before.live.contains_key(start) {
            ranges.free(pages(*start, *count)).expect("live");
        }
    }
    for (start, count) in &before.live {
        if !after.live.contains_key(start) {
            ranges.allocate_at(pages(*start, *count)).expect("free");
        }
    }
}

#[test]
fn every_call_in_every_state_of_seven_pages() {
    let states = all_states(7);
    let calls = all_calls(BASE + 1, BASE + 8);
    with_ranges(pages(BASE + 1, 7), |_, ranges| {
        let mut current = Model::new(BASE + 1, 7);
        for state in states {
            // From one state to the next: out with everything, and in with what is live there.
            undo(&Model::new(BASE + 1, 7), &current, ranges);
            undo(&state, &Model::new(BASE + 1, 7), ranges);
            for call in &calls {
                let mut after = state.clone();
                run(*call, &mut after, ranges);
                after.check(ranges);
                undo(&state, &after, ranges);
            }
            current = state;
        }
    });
}

#[test]
fn every_sequence_of_five_calls_on_four_pages() {
    let (start, end) = (BASE + 2, BASE + 6);
    let chosen = |call: &Call| match call {
        Call::Allocate(wanted) => wanted.window == (start, end) && wanted.align < 4,
        Call::AllocateAt(_, count) => *count == 1,
        Call::Free(..) => true,
    };
    let mut calls = all_calls(start, end);
    calls.retain(chosen);
    with_ranges(pages(start, 4), |_, ranges| {
        sequences(5, &calls, &Model::new(start, 4), ranges);
    });
}

/// Makes every sequence of at most `depth` calls, each of which changes something; what follows one that does not is tried
/// without it.
fn sequences(depth: u32, calls: &[Call], before: &Model, ranges: &mut SimRanges<'_>) {
    before.check(ranges);
    if depth == 0 {
        return;
    }
    for call in calls {
        let mut after = before.clone();
        run(*call, &mut after, ranges);
        if after.live == before.live {
            after.check(ranges);
        } else {
            sequences(depth - 1, calls, &after, ranges);
            undo(before, &after, ranges);
        }
    }
}
