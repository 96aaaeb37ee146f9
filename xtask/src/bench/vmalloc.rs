//! Areas mapped on demand, beside Linux on the same emulated machine: the workloads of its `lib/test_vmalloc.c`.
//!
//! ```text
//!   our kernel   test-vmalloc=NAME:5000 vmalloc-quarantine=N     one boot each; instructions of all loops, setting up and purges included
//!   DIR/run      vmalloc --loops 5000                            Linux, with the same options for QEMU
//! ```
//!
//! Linux purges when 32 MiB wait, which in five thousand loops of one page it never does. Ours is told to purge sooner, so that what a purge
//! costs is in the figure: at least [`PURGES`] of them in each run.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Peer, Row};
use crate::arguments::BenchOptions;
use crate::failure::{Failure, Result};
use crate::host::command::captured;
use crate::host::packages;
use crate::host::toolchain::{BARE_METAL, Toolchain};
use crate::kernel::Kernel;
use crate::qemu::boot::{Exit, boot};
use crate::qemu::machine::{Accel, Machine, QEMU};

/// The bench's name.
pub(super) const VMALLOC: &str = "vmalloc";

/// How long a boot may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Loops of each workload.
const LOOPS: u64 = 5000;
/// When throughput is measured, it is in windows as long as so many loops with areas take one CPU.
const SCALING_LOOPS: u64 = 300_000;

/// Purges that each measured run must have.
const PURGES: u64 = 20;

/// The workloads that the peer prints, and how many freed pages may wait in ours: a 25th of what a run frees, at most what our kernel
/// takes by itself.
const WORKLOADS: [(&str, u64); 6] = [
    ("fix_size_alloc_test", 200),
    ("full_fit_alloc_test", 850),
    ("long_busy_list_alloc_test", 8192),
    ("random_size_alloc_test", 8192),
    (ZEROED, 1000),
    ("vm_map_ram_test", 200),
];

/// The workload whose areas are zeroed.
const ZEROED: &str = "fix_align_alloc_test";

/// Measures ours, and Linux if there is a peer.
///
/// # Errors
///
/// When something does not boot, or says too little; or when the peer is none.
pub(super) fn rows(options: &BenchOptions, peer: Option<&Path>) -> Result<Vec<Row>> {
    let install = !options.host.no_install;
    let bench = Bench {
        qemu: packages::program(QEMU.0, QEMU.1, install)?,
        kernel: Kernel::build(&Toolchain::find(
            BARE_METAL,
            options.host.toolchain,
            install,
        )?)?,
    };
    if options.realtime {
        return bench.scaling(peer);
    }
    let linux = match peer {
        Some(peer) => peers_text(peer, &["vmalloc", "--loops", &LOOPS.to_string()])?,
        None => String::new(),
    };
    let mut rows = Vec::new();
    for (name, quarantine) in WORKLOADS {
        rows.extend(bench.workload(name, quarantine, &linux)?);
    }
    rows.extend(bench.bookkeeping()?);
    Ok(rows)
}

struct Bench {
    qemu: std::path::PathBuf,
    kernel: Kernel,
}

impl Bench {
    fn log(&self, words: &str, cpus: u32, accel: Accel) -> Result<String> {
        let machine = Machine {
            mem_mib: 2048,
            cpus,
            // As the peer: without it each byte of a `rep stosb` counts as an instruction.
            without: vec!["la57", "erms"],
            append: format!("nokaslr {words}"),
            accel,
        };
        let ended = boot(
            machine.command(&self.qemu, self.kernel.path()),
            PATIENCE,
            |_| {},
        )?;
        if ended.exit == Exit::Success {
            return Ok(ended.log);
        }
        eprint!("{}{}", ended.log, ended.complaints);
        Err(Failure::failed(format!(
            "bench: a boot with \"{words}\": {}",
            ended.exit
        )))
    }

    fn workload(&self, name: &str, quarantine: u64, linux: &str) -> Result<Vec<Row>> {
        let words = format!("vmalloc-quarantine={quarantine} test-vmalloc={name}:{LOOPS}");
        let log = self.log(&words, 1, Accel::TcgCounting)?;
        let runs: Vec<Run> = log
            .lines()
            .filter_map(|line| Run::read(line, name))
            .collect();
        let Some(fewest) = runs.iter().map(|run| run.purges).min() else {
            return Err(Failure::failed(format!(
                "bench: no line \"test-vmalloc: {name}: …\""
            )));
        };
        if fewest < PURGES {
            return Err(Failure::failed(format!(
                "bench: {name}: {fewest} purges in a run; {PURGES} are wanted in each"
            )));
        }
        let loops: u64 = runs.iter().map(|run| run.loops).sum();
        let ticks: u64 = runs.iter().map(|run| run.ticks).sum();
        let ours = ticks as f64 / loops as f64;
        let theirs = linux_figure(linux, name);
        if theirs.is_none() && !linux.is_empty() {
            return Err(Failure::failed(format!("bench: the peer prints no {name}")));
        }
        let mut rows = vec![row(name, "instructions", ours, theirs)];
        if name == ZEROED {
            let zeroing = number_after(&log, "test-vmalloc: zeroing: 5 pages: ")
                .ok_or_else(|| Failure::failed("bench: no line \"test-vmalloc: zeroing: …\""))?;
            // Both write eight bytes with one counted instruction.
            let without = |figure: f64| figure - zeroing;
            let what = format!("{name}, zeroing ({zeroing}) taken off both");
            rows.push(row(
                &what,
                "instructions",
                without(ours),
                theirs.map(without),
            ));
        }
        rows.push(row(
            &format!("{name}: purges in each run"),
            "purges",
            fewest as f64,
            None,
        ));
        Ok(rows)
    }

    fn bookkeeping(&self) -> Result<Vec<Row>> {
        let log = self.log("test-vmalloc=bookkeeping", 1, Accel::TcgCounting)?;
        let figure = |pages: u64| {
            let line = format!("test-vmalloc: bookkeeping: 15000 areas of {pages} pages: ");
            let bytes = number_after(&log, &line);
            let bytes =
                bytes.ok_or_else(|| Failure::failed(format!("bench: no line \"{line}…\"")))?;
            let name = format!("page tables and books, for each of 15 000 areas of {pages} pages");
            Ok(row(&name, "bytes", bytes / 15_000.0, None))
        };
        [1, 16].into_iter().map(figure).collect()
    }

    /// Throughput of two CPUs over that of one, in host time: the median of the rounds.
    fn scaling(&self, peer: Option<&Path>) -> Result<Vec<Row>> {
        let words = format!("test-vmalloc=scaling:{SCALING_LOOPS}");
        let log = self.log(&words, 2, Accel::Tcg)?;
        let rounds: Vec<Round> = log.lines().filter_map(Round::read).collect();
        if rounds.is_empty() {
            return Err(Failure::failed(
                "bench: no line \"test-vmalloc: scaling: …\"",
            ));
        }
        let areas = median(rounds.iter().map(|round| round.areas[1] / round.areas[0]));
        let private = median(
            rounds
                .iter()
                .map(|round| round.private[1] / round.private[0]),
        );
        let linux = peer.map(linux_scaling).transpose()?;
        let mut areas_row = row(
            "fix_size_alloc_test, throughput of 2 CPUs over 1",
            "times",
            areas,
            None,
        );
        areas_row.peer = linux.map(|took| Peer {
            name: LINUX.to_owned(),
            took,
            ratio: areas / took,
        });
        Ok(vec![
            areas_row,
            row(
                "a private loop, throughput of 2 CPUs over 1",
                "times",
                private,
                None,
            ),
            row(
                "areas' scaling over the private loop's",
                "times",
                areas / private,
                None,
            ),
        ])
    }
}

/// The peer's name.
const LINUX: &str = "Linux 6.12";

fn row(name: &str, unit: &str, ours: f64, theirs: Option<f64>) -> Row {
    Row {
        bench: VMALLOC.to_owned(),
        name: name.to_owned(),
        unit: unit.to_owned(),
        ours,
        peer: theirs.map(|took| Peer {
            name: LINUX.to_owned(),
            took,
            ratio: took / ours,
        }),
    }
}

/// `test-vmalloc: NAME: 5000 loops in 2004586 ticks, 25 purges: 400 ticks each`
#[derive(Debug, PartialEq, Eq)]
struct Run {
    loops: u64,
    ticks: u64,
    purges: u64,
}

impl Run {
    fn read(line: &str, name: &str) -> Option<Self> {
        let (_, rest) = line.split_once(&format!("test-vmalloc: {name}: "))?;
        let (loops, rest) = rest.split_once(" loops in ")?;
        let (ticks, rest) = rest.split_once(" ticks, ")?;
        let (purges, _) = rest.split_once(" purges")?;
        Some(Self {
            loops: loops.parse().ok()?,
            ticks: ticks.parse().ok()?,
            purges: purges.parse().ok()?,
        })
    }
}

/// Loops in a window: `…: areas 300000 loops on 1 CPU, 590000 on 2; private 900000 on 1, 1800000 on 2`
#[derive(Debug, PartialEq)]
struct Round {
    areas: [f64; 2],
    private: [f64; 2],
}

impl Round {
    fn read(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("test-vmalloc: scaling: round ")?;
        let (_, rest) = rest.split_once(": areas ")?;
        let (areas, private) = rest.split_once("; private ")?;
        let (areas_one, areas_two) = areas.split_once(" loops on 1 CPU, ")?;
        let (private_one, private_two) = private.split_once(" on 1, ")?;
        let number = |text: &str| text.split_whitespace().next()?.parse::<f64>().ok();
        Some(Self {
            areas: [number(areas_one)?, number(areas_two)?],
            private: [number(private_one)?, number(private_two)?],
        })
    }
}

/// The number that stands behind `text`.
fn number_after(log: &str, text: &str) -> Option<f64> {
    let (_, rest) = log.split_once(text)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// What the peer's program prints.
fn peers_text(peer: &Path, words: &[&str]) -> Result<String> {
    let program = peer.join("run");
    if !program.is_file() {
        return Err(Failure::usage(format!(
            "bench: {} is not there; --peer of bench vmalloc is the directory of the Linux peer",
            program.display()
        )));
    }
    let output = captured(Command::new(program).args(words))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(Failure::failed(format!(
        "bench: the peer failed ({}): {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )))
}

/// `fix_size_alloc_test                  3775.4 ns/op  (mean of 2 runs)`: a nanosecond is an instruction.
fn linux_figure(text: &str, name: &str) -> Option<f64> {
    let line = text
        .lines()
        .find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Throughput of Linux's two CPUs over one's.
fn linux_scaling(peer: &Path) -> Result<f64> {
    let name = WORKLOADS[0].0;
    let loops = SCALING_LOOPS.to_string();
    let each = |threads: &str| {
        let words = ["vmalloc", "--realtime", "--smp", "2", "--mask", "1"];
        let words = [&words[..], &["--threads", threads, "--loops", &loops]].concat();
        let text = peers_text(peer, &words)?;
        linux_figure(&text, name)
            .ok_or_else(|| Failure::failed(format!("bench: the peer prints no {name}: {text}")))
    };
    let mut rounds = Vec::new();
    for _ in 0..3 {
        rounds.push(2.0 * each("1")? / each("2")?);
    }
    Ok(median(rounds.into_iter()))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_are_read() {
        let line = "[    0.4] test-vmalloc: vm_map_ram_test: 5000 loops in 2004586 ticks, 25 purges: 400 ticks each";
        let run = Run {
            loops: 5000,
            ticks: 2_004_586,
            purges: 25,
        };
        assert_eq!(Run::read(line, "vm_map_ram_test"), Some(run));
        assert_eq!(Run::read(line, "fix_size_alloc_test"), None);
        let line = "[    4.1] test-vmalloc: scaling: round 5, in 4052924 ticks: areas 300004 loops on 1 CPU, 590079 on 2; private 900014 \
                    on 1, 1800017 on 2";
        let round = Round {
            areas: [300_004.0, 590_079.0],
            private: [900_014.0, 1_800_017.0],
        };
        assert_eq!(Round::read(line), Some(round));
    }

    #[test]
    fn the_peers_lines_are_read() {
        let text = "== peer: linux 6.12.117, cpus 1\nfix_size_alloc_test                  3775.4 ns/op  (mean of 2 runs)\n";
        assert_eq!(linux_figure(text, "fix_size_alloc_test"), Some(3775.4));
        assert_eq!(linux_figure(text, "vm_map_ram_test"), None);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
    }
}
