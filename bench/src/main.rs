//! Our figures beside those of peers, measured in one run on one machine, each with its ratio.
//!
//! `cargo xtask bench` is the way to call this; by itself it is `kspace-bench [NAME] [--json] [--peer DIR]`.

mod frames;
mod paging;
mod row;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use row::Row;

/// A bench, by the name it is asked for.
type Bench = (&'static str, fn(Option<&Path>) -> Vec<Row>);

const BENCHES: [Bench; 2] = [
    // Its peers are crates; it has no use for a directory.
    ("paging", |_| paging::rows()),
    ("frames", frames::rows),
];

fn main() -> ExitCode {
    let (mut json, mut wanted, mut peer) = (false, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json = true,
            "--peer" => peer = words.next().map(PathBuf::from),
            frames::COUNT_PAIRS => return frames::count_pairs(words),
            name if BENCHES.iter().any(|(bench, _)| *bench == name) => wanted = Some(word),
            _ => return refuse(&word),
        }
    }
    let chosen = BENCHES
        .iter()
        .filter(|(name, _)| wanted.as_deref().is_none_or(|one| one == *name));
    let rows: Vec<Row> = chosen.flat_map(|(_, rows)| rows(peer.as_deref())).collect();
    let text = if json {
        let rows: Vec<_> = rows.iter().map(Row::to_json).collect();
        format!("{}\n", serde_json::Value::from(rows))
    } else {
        rows.iter().map(|row| format!("{row}\n")).collect()
    };
    // A reader who closed the pipe has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn refuse(word: &str) -> ExitCode {
    let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
    eprintln!(
        "kspace-bench: no bench or option is called \"{word}\". All of them: {}, --json, --peer",
        names.join(", ")
    );
    ExitCode::from(2)
}
