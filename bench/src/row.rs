//! One figure of ours beside a peer's.

use std::fmt;

use serde_json::{Value, json};

/// What was measured. Less is better in every bench.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) bench: &'static str,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    pub(crate) peer: f64,
    pub(crate) peer_name: &'static str,
}

impl Row {
    /// How many times the peer needs what we need: above 1, ours is better.
    pub(crate) fn ratio(&self) -> f64 {
        self.peer / self.ours
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "bench": self.bench,
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "peer": self.peer,
            "peer_name": self.peer_name,
            "ratio": self.ratio(),
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<8} {:<48} {:>12.0} {:<6} {:>12.0} {:<40} {:>6.2}x",
            self.bench,
            self.name,
            self.ours,
            self.unit,
            self.peer,
            self.peer_name,
            self.ratio()
        )
    }
}

/// Why there are no rows.
#[derive(Debug)]
pub(crate) struct Refused {
    message: String,
    /// Whether the caller's words were wrong, not what was done with them.
    pub(crate) usage: bool,
}

impl Refused {
    /// Something that should work did not.
    pub(crate) fn failed(message: String) -> Self {
        Self {
            message,
            usage: false,
        }
    }

    /// What was asked for makes no sense.
    pub(crate) fn usage(message: String) -> Self {
        Self {
            message,
            usage: true,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
