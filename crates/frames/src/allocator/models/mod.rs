//! Loom models: every order of the accesses of a few threads, for each protocol. Run them with
//! `cargo test -p kspace-frames --features loom --release loom_`.
//!
//! The content of frames is modelled, too: cells that loom watches for accesses without an order between them. So a claim
//! that forgot to acquire, or a release that forgot to release, fails here.

mod machine;
mod pieces;

use super::HugeId;

const EVEN: HugeId = HugeId::new(0);
const ODD: HugeId = HugeId::new(1);

/// Runs a model; with at most `preemptions` switches where a thread could have gone on, if any number is given.
fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 1_000_000;
    builder.check(model);
}
