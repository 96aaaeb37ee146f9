//! The shape of the trees, and the order of a range.

extern crate std;
use std::collections::BTreeMap;
use std::vec::Vec;

use kspace_layout::{PhysAddr, PhysRange};
use kspace_sim::{SimFrames, SimMemory};

use super::{BySize, NodeId, Slab, Sorting, Span, Tree, load, priority, size_key};

type SimSlab<'a> = Slab<'a, SimMemory, &'a SimFrames<'a>>;

/// Checks the tree under `node`: keys ascend, no child is above its parent by priority, each child knows its parent. Returns the
/// keys.
fn check<S: Sorting>(
    slab: &SimSlab<'_>,
    node: Option<NodeId>,
    parent: Option<NodeId>,
) -> Vec<S::Key> {
    let Some(node) = node else {
        return Vec::new();
    };
    let words = slab.words(node);
    assert_eq!(load(&words[S::PARENT]), parent);
    assert!(parent.is_none_or(|parent| priority(parent) >= priority(node)));
    let mut keys = check::<S>(slab, load(&words[S::BELOW]), Some(node));
    keys.push(S::key(words));
    keys.extend(check::<S>(slab, load(&words[S::ABOVE]), Some(node)));
    keys
}

#[test]
fn a_tree_is_a_treap_whatever_goes_in_and_out() {
    let memory = SimMemory::sparse();
    let frames = SimFrames::new(&memory, PhysRange::new(PhysAddr::ZERO, 1 << 20));
    let mut slab = Slab::new(&memory, &frames);
    slab.reserve(500).expect("frames");
    let tree = Tree::<BySize>::new();
    let mut inside = BTreeMap::new();
    for step in 0_u64..4_000 {
        // A number that goes around all below 509, a prime, in steps.
        let start = step * 211 % 509;
        let span = Span {
            start,
            pages: 1 + start % 7,
        };
        let key = size_key(span.pages, span.start);
        match inside.remove(&key) {
            Some(node) => {
                tree.remove(&slab, node);
                slab.put(node);
            }
            None if step % 3 != 0 => {
                let node = slab.take().expect("a node");
                span.store(slab.words(node));
                tree.insert(&slab, node);
                inside.insert(key, node);
            }
            None => {}
        }
        let keys = check::<BySize>(&slab, load(&tree.root), None);
        assert!(keys.iter().eq(inside.keys()), "step {step}");
        let after = inside.range(key..).next().map(|(_, node)| *node);
        assert_eq!(tree.at_or_after(&slab, key), after);
        let (below, above, _) = tree.around(&slab, key);
        assert_eq!(
            below,
            inside.range(..=key).next_back().map(|(_, node)| *node)
        );
        assert_eq!(above, inside.range(key + 1..).next().map(|(_, node)| *node));
        if let Some(below) = below {
            assert_eq!(Tree::<BySize>::next(&slab, below), above);
        }
        assert_eq!(tree.last(&slab), inside.values().next_back().copied());
    }
}

#[test]
fn the_order_is_that_of_the_largest_aligned_block() {
    for start in 0..70 {
        for pages in 1..140 {
            let span = Span { start, pages };
            let holds = |order: &u32| {
                let size = 1 << order;
                (start..start + pages).any(|at| at % size == 0 && at + size <= span.end())
            };
            assert_eq!((0..10).filter(holds).max(), Some(span.order()), "{span:?}");
        }
    }
}
