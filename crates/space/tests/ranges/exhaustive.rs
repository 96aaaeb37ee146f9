//! Small areas, where everything that can happen is tried.

use kspace::ranges::{AllocateError, FreeError, Request};

use crate::model::{Model, Wanted};
use crate::{SimRanges, numbers, pages, with_ranges};

/// A page number that is a multiple of 8 and no more.
const BASE: u64 = 0xffff_c900_0001_8;

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

#[test]
fn every_call_in_every_state_of_seven_pages() {
    let states = all_states(7);
    let calls = all_calls(BASE + 1, BASE + 8);
    with_ranges(pages(BASE + 1, 7), |_, ranges| {
        for state in &states {
            for call in &calls {
                for (start, count) in &state.live {
                    ranges.allocate_at(pages(*start, *count)).expect("free");
                }
                let mut model = state.clone();
                run(*call, &mut model, ranges);
                model.check(ranges);
                for (start, count) in model.live {
                    ranges.free(pages(start, count)).expect("live");
                }
            }
        }
    });
}

#[test]
fn every_sequence_of_five_calls_on_four_pages() {
    let (start, end) = (BASE + 2, BASE + 6);
    let whole = |call: &Call| match call {
        Call::Allocate(wanted) => wanted.window == (start, end) && wanted.align < 4,
        Call::AllocateAt(_, count) => *count == 1,
        Call::Free(..) => true,
    };
    let calls: Vec<Call> = all_calls(start, end).into_iter().filter(whole).collect();
    fn go(depth: u32, calls: &[Call], model: &Model, ranges: &mut SimRanges<'_>) {
        model.check(ranges);
        if depth == 0 {
            return;
        }
        for call in calls {
            let mut next = model.clone();
            run(*call, &mut next, ranges);
            if next.live == model.live {
                // Nothing was changed, so what follows is tried by the other calls.
                next.check(ranges);
                continue;
            }
            go(depth - 1, calls, &next, ranges);
            // Back to where it was.
            match next
                .live
                .iter()
                .find(|(start, _)| !model.live.contains_key(start))
            {
                Some((start, count)) => ranges.free(pages(*start, *count)).expect("live"),
                None => {
                    let mut gone = model.live.iter();
                    let gone = gone.find(|(start, _)| !next.live.contains_key(start));
                    let (start, count) = gone.expect("one more or one less");
                    ranges.allocate_at(pages(*start, *count)).expect("free");
                }
            }
        }
    }
    with_ranges(pages(start, 4), |_, ranges| {
        go(5, &calls, &Model::new(start, 4), ranges);
    });
}
