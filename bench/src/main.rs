//! Our figures beside those of peers, measured in one run on one machine, each with its ratio.
//!
//! `cargo xtask bench` is the way to call this; by itself it is `kspace-bench [NAME] [--json] [--peer DIR]`.

mod frames;
mod paging;
mod row;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use row::{Refused, Row};

/// A bench, by the name it is asked for.
type Bench = (&'static str, fn(Option<&Path>) -> Result<Vec<Row>, Refused>);

const BENCHES: [Bench; 2] = [
    // Its peers are crates; it has no use for a directory.
    ("paging", |_| Ok(paging::rows())),
    ("frames", frames::rows),
];

/// What the caller's words mean.
#[derive(Default)]
struct Options {
    wanted: Option<String>,
    json: bool,
    peer: Option<PathBuf>,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == frames::COUNT_PAIRS).is_some() {
        return match frames::count_pairs(words) {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(USAGE),
        };
    }
    match options(words).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refused) => {
            eprintln!("kspace-bench: {refused}");
            ExitCode::from(if refused.usage { USAGE } else { 1 })
        }
    }
}

/// How this program ends when its words make no sense.
const USAGE: u8 = 2;

fn options(mut words: impl Iterator<Item = String>) -> Result<Options, Refused> {
    let mut options = Options::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => options.json = true,
            "--peer" => {
                let directory = words.next();
                let missing = || Refused::usage("--peer: no directory follows".to_owned());
                options.peer = Some(PathBuf::from(directory.ok_or_else(missing)?));
            }
            name if BENCHES.iter().any(|(bench, _)| *bench == name) => options.wanted = Some(word),
            _ => return Err(unknown(&word)),
        }
    }
    Ok(options)
}

fn unknown(word: &str) -> Refused {
    let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
    Refused::usage(format!(
        "no bench or option is called \"{word}\". All of them: {}, --json, --peer",
        names.join(", ")
    ))
}

fn run(options: &Options) -> Result<(), Refused> {
    let mut rows = Vec::new();
    for (name, measure) in BENCHES {
        if options.wanted.as_deref().is_none_or(|one| one == name) {
            rows.extend(measure(options.peer.as_deref())?);
        }
    }
    let text = if options.json {
        let rows: Vec<_> = rows.iter().map(Row::to_json).collect();
        format!("{}\n", serde_json::Value::from(rows))
    } else {
        rows.iter().map(|row| format!("{row}\n")).collect()
    };
    // A reader who closed the pipe has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
