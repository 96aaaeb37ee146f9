//! How many instructions a pair takes, counted by callgrind: this program again, under valgrind, twice with different
//! numbers of pairs; what it does besides cancels out.

use std::hint::black_box;
use std::process::{Command, ExitCode};

use kspace_frames::{FrameAllocator, FreeError, Order, Owner, PinnedCpu};

use super::loads::Contender;
use super::ours::Ours;

/// The word with which this program is started to be counted: `--count-pairs ORDER PAIRS`.
pub(crate) const WORD: &str = "--count-pairs";

const PAIRS: [usize; 2] = [10_000, 110_000];

/// Instructions for one pair of `order`; `None` without valgrind.
pub(super) fn per_pair(order: usize) -> Option<f64> {
    let count = |order: &str, pairs: usize| -> Option<f64> {
        let own = std::env::current_exe().ok()?;
        let out = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(own)
            .args([WORD, order, &pairs.to_string()])
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

/// What the counted program does.
pub(crate) fn run(mut words: impl Iterator<Item = String>) -> ExitCode {
    let order = words.next();
    let count = words.next().and_then(|word| word.parse().ok());
    let (Some(order), Some(count), Some(ours)) = (order, count, Ours::new(1 << 18, 1)) else {
        return ExitCode::from(2);
    };
    let cpu = ours.cpu(0);
    match order.as_str() {
        "0" => counted::<0>(&ours.0, &cpu, count),
        "9" => counted::<9>(&ours.0, &cpu, count),
        _ => nothing(&cpu, count),
    }
    ExitCode::SUCCESS
}

/// The loop of [`counted`] alone.
#[inline(never)]
fn nothing(pin: &PinnedCpu, count: usize) {
    for _ in 0..count {
        black_box(pin);
    }
}

/// So many pairs, each finding its CPU's stacks anew.
#[inline(never)]
fn counted<const ORDER: u8>(frames: &FrameAllocator<'_>, pin: &PinnedCpu, count: usize) {
    for _ in 0..count {
        if let Ok(local) = frames.local(black_box(pin))
            && let Ok(block) = local.allocate(const { Order::new(ORDER) }, Owner::USER)
            && let Err(error) = local.free(block)
        {
            wrong(&error);
        }
    }
}

#[cold]
fn wrong(error: &FreeError) {
    eprintln!("{error}");
}
