//! How many instructions a pair takes, counted by callgrind: a program is run under valgrind twice with different numbers of
//! pairs, and what it does besides cancels out.

use std::path::Path;
use std::process::Command;

use super::loads::COUNT_PAIRS;

const PAIRS: [usize; 2] = [10_000, 110_000];

/// Instructions for one pair of `order` in `program`, which is one that knows [`COUNT_PAIRS`]; `None` without valgrind.
pub(super) fn per_pair(program: &Path, order: usize) -> Option<f64> {
    let count = |order: &str, pairs: usize| -> Option<f64> {
        let out = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(program)
            .args([COUNT_PAIRS, order, &pairs.to_string()])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        let (_, after) = text.split_once("Collected :")?;
        after.split_whitespace().next()?.parse().ok()
    };
    let each = |order: &str| -> Option<f64> {
        let [few, many] = PAIRS.map(|pairs| count(order, pairs));
        Some((many? - few?) / (PAIRS[1] - PAIRS[0]) as f64)
    };
    // Without what the loop itself takes.
    Some(each(&order.to_string())? - each("none")?)
}
