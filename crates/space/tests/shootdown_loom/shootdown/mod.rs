//! The protocol, file by file, on other atomics; and its models.

#![allow(
    dead_code,
    unused_imports,
    reason = "the models use a part of what the library offers"
)]

#[macro_use]
mod sync;

#[path = "../../../src/shootdown/catch_up.rs"]
mod catch_up;
#[path = "../../../src/shootdown/count.rs"]
mod count;
#[path = "../../../src/shootdown/holder.rs"]
mod holder;
#[path = "../../../src/shootdown/local.rs"]
mod local;
#[path = "../../../src/shootdown/post.rs"]
mod post;
#[path = "../../../src/shootdown/probe.rs"]
mod probe;
#[path = "../../../src/shootdown/quarantine.rs"]
mod quarantine;
#[path = "../../../src/shootdown/request.rs"]
mod request;
#[path = "../../../src/shootdown/ring.rs"]
mod ring;
#[path = "../../../src/shootdown/standing.rs"]
mod standing;
#[path = "../../../src/shootdown/state.rs"]
mod state;

mod machine;
mod protocol_models;
mod quarantine_models;
mod ring_models;

pub use count::Activity;
pub use holder::Holding;
pub use probe::{Probe, Rule, Step, Unprobed};
pub use quarantine::{Due, Quarantine, Refused, quarantine_bound};
pub use standing::Load;
pub use state::{PAGE_LIMIT, Scope, Shootdown};
