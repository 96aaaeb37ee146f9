//! Figures that only a boot can tell, counted in instructions: the guest's clock advances by one nanosecond per instruction.

use std::time::Duration;

use super::Row;
use crate::arguments::HostOptions;
use crate::failure::{Failure, Result};
use crate::host::packages;
use crate::host::toolchain::{BARE_METAL, Toolchain};
use crate::kernel::Kernel;
use crate::qemu::boot::{Exit, boot};
use crate::qemu::machine::{Accel, Machine, QEMU};

/// How long a counted boot may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// From entry to the printed block; the host part of this bench is in `kspace-bench`.
const PAGING: &str = "paging";
/// Bring-up and shootdown.
pub(super) const CPUS: &str = "cpus";
/// Pairs of allocation and free; the host part of this bench is in `kspace-bench`.
const FRAMES: &str = "frames";

/// What the names of figures of [`FRAMES`] begin with; all others that the kernel measures are of [`CPUS`].
const OF_FRAMES: &str = "alloc + free";

/// The kernel's line that says how far its counter has come when the block stands in the log; here a tick is an instruction.
const COUNTED: &str = "ticks of the time-stamp counter from entry to the block";

/// The rows of the bench called `name`, or of all.
pub(super) fn rows(name: Option<&str>, options: &HostOptions) -> Result<Vec<Row>> {
    let wanted = |bench| name.is_none_or(|name| name == bench);
    if ![PAGING, CPUS, FRAMES].into_iter().any(wanted) {
        return Ok(Vec::new());
    }
    let install = !options.no_install;
    let qemu = packages::program(QEMU.0, QEMU.1, install)?;
    let kernel = Kernel::build(&Toolchain::find(BARE_METAL, options.toolchain, install)?)?;
    let counted_boot = |machine: Machine| -> Result<String> {
        let machine = Machine {
            accel: Accel::TcgCounting,
            ..machine
        };
        let ended = boot(machine.command(&qemu, kernel.path()), PATIENCE, |_| {})?;
        if ended.exit != Exit::Success {
            eprint!("{}{}", ended.log, ended.complaints);
            return Err(Failure::failed(format!(
                "bench: a counted boot: {}",
                ended.exit
            )));
        }
        Ok(ended.log)
    };
    let mut rows = Vec::new();
    if wanted(PAGING) {
        rows.extend(entry_to_block(&counted_boot)?);
    }
    if wanted(CPUS) {
        rows.extend(cpus(&counted_boot)?);
    }
    if wanted(FRAMES) {
        let log = counted_boot(Machine {
            append: "nokaslr measure".to_owned(),
            ..Machine::default()
        })?;
        let of_frames = |row: &Row| row.bench == FRAMES;
        rows.extend(log.lines().filter_map(measured).filter(of_frames));
    }
    Ok(rows)
}

fn row(bench: &str, name: String, unit: &str, ours: f64) -> Row {
    Row {
        bench: bench.to_owned(),
        name,
        unit: unit.to_owned(),
        ours,
        peer: None,
    }
}

fn entry_to_block(counted_boot: &impl Fn(Machine) -> Result<String>) -> Result<Vec<Row>> {
    let machines = [
        ("1 GiB, 4-level", 1024, &["la57"][..]),
        ("5 GiB, 5-level", 5120, &[]),
    ];
    machines
        .into_iter()
        .map(|(name, mem_mib, without)| {
            let log = counted_boot(Machine {
                mem_mib,
                without: without.to_vec(),
                append: "nokaslr".to_owned(),
                ..Machine::default()
            })?;
            let ours = counted(&log).ok_or_else(|| {
                Failure::failed(format!("bench: boot with {name}: no line \"… {COUNTED}\""))
            })?;
            Ok(row(
                PAGING,
                format!("entry to printed block, {name}"),
                "instructions",
                ours,
            ))
        })
        .collect()
}

/// Flushes and bring-up with 1, 2, 4 and 16 CPUs. With several CPUs the count is of all of them together, and depends on how QEMU
/// takes turns between them.
fn cpus(counted_boot: &impl Fn(Machine) -> Result<String>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for cpus in [1, 2, 4, 16] {
        let log = counted_boot(Machine {
            cpus,
            append: "nokaslr measure".to_owned(),
            ..Machine::default()
        })?;
        let of_cpus = |row: &Row| row.bench == CPUS;
        rows.extend(log.lines().filter_map(measured).filter(of_cpus));
        if cpus == 16 {
            let microseconds = online_after(&log, cpus).ok_or_else(|| {
                Failure::failed(
                    "bench: sixteen CPUs: no line \"smp: 16 of 16 CPUs online\"".to_owned(),
                )
            })?;
            let name = format!("bring-up of {cpus} CPUs");
            rows.push(row(CPUS, name, "instructions", microseconds * 1000.0));
        }
    }
    Ok(rows)
}

/// The number before [`COUNTED`] in the log.
fn counted(log: &str) -> Option<f64> {
    let line = log.lines().find_map(|line| line.split_once(COUNTED))?.0;
    line.split_whitespace()
        .next_back()?
        .parse::<u64>()
        .ok()
        .map(|number| number as f64)
}

/// A line `measure: NAME: VALUE UNIT`.
fn measured(line: &str) -> Option<Row> {
    let (name, value) = line.split_once("measure: ")?.1.rsplit_once(": ")?;
    let (value, unit) = value.split_once(' ')?;
    let unit = if unit == "ticks" {
        "instructions"
    } else {
        unit
    };
    let bench = if name.starts_with(OF_FRAMES) {
        FRAMES
    } else {
        CPUS
    };
    Some(row(
        bench,
        name.to_owned(),
        unit,
        value.parse::<u64>().ok()? as f64,
    ))
}

fn online_after(log: &str, cpus: u32) -> Option<f64> {
    let line = log
        .split_once(&format!("smp: {cpus} of {cpus} CPUs online after "))?
        .1;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()
        .map(|number| number as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_stands_before_its_words() {
        let log = "[    0.001] kspace: 1234567 ticks of the time-stamp counter from entry to the block above\n";
        assert_eq!(counted(log), Some(1_234_567.0));
        assert_eq!(counted("nothing"), None);
    }

    #[test]
    fn a_measured_line_is_a_row() {
        let line = "[    0.004922] measure: remote flush of a page, 1 other CPU: 995 ticks";
        let name = "remote flush of a page, 1 other CPU".to_owned();
        assert_eq!(measured(line), Some(row(CPUS, name, "instructions", 995.0)));
        assert_eq!(measured("[    0.1] measure: nothing"), None);
        let line = "[    0.027] measure: alloc + free, order 0, through the allocator: 40 ticks";
        let name = "alloc + free, order 0, through the allocator".to_owned();
        assert_eq!(
            measured(line),
            Some(row(FRAMES, name, "instructions", 40.0))
        );
    }

    #[test]
    fn bring_up_is_timed_only_when_all_came() {
        let log = "[    0.004247] smp: 16 of 16 CPUs online after 1641 microseconds";
        assert_eq!(online_after(log, 16), Some(1641.0));
        assert_eq!(
            online_after("smp: 15 of 16 CPUs online after 3 microseconds", 16),
            None
        );
    }
}
