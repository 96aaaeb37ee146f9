//! Large areas: more pages than a chunk takes, or a larger alignment.

mod areas;
mod failures;
mod rig;
