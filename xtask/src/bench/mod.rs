//! `cargo xtask bench`: what our code costs, beside what others wrote for the same job.
//!
//! Host benches run in the package `kspace-bench`; this verb adds what only a boot can tell, and prints one table per bench, or
//! all rows as JSON.

mod boots;
mod vmalloc;

use std::fmt;
use std::io::Write;

use serde_json::{Value, json};

use crate::arguments::BenchOptions;
use crate::failure::{Failure, Result};
use crate::host::command::{captured, cargo};
use crate::nearest::hint;

/// All there are, those with a host part as `kspace-bench` calls them.
const BENCHES: [&str; 4] = ["paging", boots::CPUS, "frames", vmalloc::VMALLOC];

/// Measures what `options` name and prints it.
///
/// # Errors
///
/// When something does not build, run or boot, or there is no such bench.
pub(crate) fn bench(options: &BenchOptions) -> Result {
    let known = |name: &String| BENCHES.contains(&name.as_str());
    if let Some(unknown) = options.name.as_ref().filter(|name| !known(name)) {
        return Err(Failure::usage(format!(
            "bench: no bench is called \"{unknown}\"{}. All of them: {}",
            hint(unknown, &BENCHES),
            BENCHES.join(", ")
        )));
    }
    let name = options.name.as_deref();
    let only_vmalloc = name == Some(vmalloc::VMALLOC);
    if options.realtime && !only_vmalloc {
        return Err(Failure::usage(
            "bench: --realtime is for bench vmalloc; the others have no figures in host time from boots",
        ));
    }
    // All rows of these come from boots.
    let mut rows = match name {
        Some(boots::CPUS | vmalloc::VMALLOC) => Vec::new(),
        _ => host_rows(options)?,
    };
    if !only_vmalloc {
        rows.extend(boots::rows(name, &options.host)?);
    }
    if only_vmalloc {
        rows.extend(vmalloc::rows(options, options.peer.as_deref())?);
    } else if name.is_none() {
        // A peer that was named is another bench's.
        rows.extend(vmalloc::rows(options, None)?);
    }
    let text = if options.json {
        let rows: Vec<Value> = rows.iter().map(Row::to_json).collect();
        format!("{:#}\n", Value::Array(rows))
    } else {
        tables(&rows)
    };
    // A reader who closed the pipe has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    /// The bench it belongs to.
    bench: String,
    /// What was measured.
    name: String,
    /// In what.
    unit: String,
    /// How much ours took.
    ours: f64,
    /// How much the peer took, its name, and the ratio, in which more than 1 means that ours is better.
    peer: Option<Peer>,
}

#[derive(Clone, Debug, PartialEq)]
struct Peer {
    name: String,
    took: f64,
    ratio: f64,
}

impl Row {
    /// Reads one element of the host benches' array.
    fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key)?.as_str().map(str::to_owned);
        let number = |key: &str| value.get(key)?.as_f64();
        let peer = match (text("peer_name"), number("peer"), number("ratio")) {
            (Some(name), Some(took), Some(ratio)) => Some(Peer { name, took, ratio }),
            _ => None,
        };
        Some(Self {
            bench: text("bench")?,
            name: text("name")?,
            unit: text("unit")?,
            ours: number("ours")?,
            peer,
        })
    }

    fn to_json(&self) -> Value {
        let peer = self.peer.as_ref();
        json!({
            "bench": self.bench,
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "peer": peer.map(|peer| peer.took),
            "peer_name": peer.map(|peer| peer.name.as_str()),
            "ratio": peer.map(|peer| peer.ratio),
        })
    }
}

/// A row of a table.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, unit, .. } = self;
        // A table's caller gives the width of its longest name.
        let width = f.width().unwrap_or(0);
        write!(f, "  {name:<width$} {:>14} {unit:<12}", grouped(self.ours))?;
        match &self.peer {
            Some(peer) => {
                write!(
                    f,
                    " {:>14} {:<28} {:>7.2}x",
                    grouped(peer.took),
                    peer.name,
                    peer.ratio
                )
            }
            None => Ok(()),
        }
    }
}

/// Digits in groups of three, two decimals only where they say something.
fn grouped(number: f64) -> String {
    if number.abs() < 100.0 && number.fract() != 0.0 {
        return format!("{number:.2}");
    }
    let digits = format!("{number:.0}");
    let (sign, digits) = digits
        .strip_prefix('-')
        .map_or(("", digits.as_str()), |rest| ("-", rest));
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    format!("{sign}{}", groups.join(" "))
}

fn tables(rows: &[Row]) -> String {
    let mut benches: Vec<&str> = rows.iter().map(|row| row.bench.as_str()).collect();
    benches.dedup();
    let mut text = String::new();
    for (index, bench) in benches.iter().enumerate() {
        if benches[..index].contains(bench) {
            continue;
        }
        if index > 0 {
            text.push('\n');
        }
        text.push_str(&format!(
            "{bench}    (a ratio above 1 means ours is better)\n"
        ));
        let rows = || rows.iter().filter(|row| row.bench == *bench);
        let longest = rows().map(|row| row.name.len()).max().unwrap_or(0);
        let width = longest.max(46);
        for row in rows() {
            text.push_str(format!("{row:width$}").trim_end());
            text.push('\n');
        }
    }
    text
}

/// How `kspace-bench` ends when what it was given makes no sense.
const USAGE: i32 = 2;

/// The rows of the benches that run on the host.
fn host_rows(options: &BenchOptions) -> Result<Vec<Row>> {
    let mut command = cargo();
    command.args([
        "run",
        "--quiet",
        "--profile",
        "measured",
        "--package",
        "kspace-bench",
        "--",
    ]);
    command.args(&options.name).arg("--json");
    if let Some(peer) = &options.peer {
        command.arg("--peer").arg(peer);
    }
    let output = captured(&mut command)?;
    let messages = String::from_utf8_lossy(&output.stderr);
    // A peer that is none is the caller's mistake, not a failed measurement.
    if output.status.code() == Some(USAGE) {
        // What the compiler had to say stands before it.
        let (_, message) = messages.split_once("kspace-bench: ").unwrap_or_default();
        return Err(Failure::usage(format!("bench: {}", message.trim())));
    }
    if !output.status.success() {
        eprint!("{messages}");
        return Err(Failure::failed(format!(
            "the host benches failed ({})",
            output.status
        )));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    parse_rows(&text)
}

fn parse_rows(text: &str) -> Result<Vec<Row>> {
    let array: Value = serde_json::from_str(text)
        .map_err(|error| Failure::failed(format!("bench: the host benches' output: {error}")))?;
    let rows = array.as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter()
        .map(|row| {
            Row::from_json(row).ok_or_else(|| Failure::failed(format!("bench: not a row: {row}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = r#"[
        {"bench": "paging", "name": "map 1 GiB in 4K", "unit": "ns", "ours": 1000.0, "peer": 7500.0,
         "peer_name": "x86_64", "ratio": 7.5},
        {"bench": "paging", "name": "tables", "unit": "bytes", "ours": 24576, "peer": null, "peer_name": null,
         "ratio": null}
    ]"#;

    #[test]
    fn rows_survive_the_way_through_json() {
        let rows = parse_rows(ROWS).unwrap();
        assert_eq!(rows.len(), 2);
        for row in rows {
            assert_eq!(Row::from_json(&row.to_json()), Some(row));
        }
    }

    #[test]
    fn a_table_has_a_line_per_row() {
        let rows = parse_rows(ROWS).unwrap();
        assert_eq!(
            tables(&rows),
            "paging    (a ratio above 1 means ours is better)\n  \
               map 1 GiB in 4K                                         1 000 ns                    7 500 x86_64                          7.50x\n  \
               tables                                                 24 576 bytes\n"
        );
    }

    #[test]
    fn what_is_no_row_is_refused() {
        assert_eq!(
            parse_rows(r#"[{"bench": "paging"}]"#)
                .unwrap_err()
                .to_string(),
            r#"kspace: bench: not a row: {"bench":"paging"}"#
        );
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1234567.0, "1 234 567"),
            (1.5, "1.50"),
            (-1000.0, "-1 000"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
