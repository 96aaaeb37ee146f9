//! Boots of the kernel, each held against its row of [the table](super::boot_table): how it ends, what it says, what it never says.

use std::path::Path;
use std::time::Duration;

use super::boot_table::{BootCase, Ending};
use super::report::{Failed, Outcome, Passed};
use super::start_info;
use crate::kernel::Kernel;
use crate::qemu::boot::{Ended, Exit, boot};
use crate::qemu::machine::{Accel, Machine};

/// How long one boot may take. Under TCG on a busy machine a boot takes a few seconds.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What the kernel says once it has held every live mapping and every row against the layout.
const VERIFIED: [&str; 2] = [
    "no page is writable and executable",
    "10 rows of the block are true",
];

/// The line before the block, as i386 printed it until Linux 5.6.
const HEADING: &str = "virtual kernel memory layout:";

/// The block's rows in their order; people read it with `grep -A 10`.
const ROWS: [&str; 10] = [
    "fixmap",
    "vsyscall",
    "modules",
    "cpu_entry",
    "vmemmap",
    "vmalloc",
    "lowmem",
    ".init",
    ".data",
    ".text",
];

/// Boots the kernel as `case` says and compares.
pub(crate) fn check(case: &BootCase, qemu: &Path, kernel: &Kernel) -> Outcome {
    let machine = Machine {
        mem_mib: case.mem_mib,
        cpus: case.cpus,
        without: case.without.to_vec(),
        append: case.append.to_owned(),
        accel: Accel::Tcg,
    };
    let command = machine.command(qemu, kernel.path());
    let ended = match case.altered {
        None => boot(command, LIMIT, |_| {})?,
        Some(alteration) => start_info::boot_altered(command, kernel, alteration, LIMIT)?,
    };
    match differences(case, &ended) {
        None => Ok(Passed::one()),
        Some(reason) => {
            Err(Failed::because(reason).with_log(&(ended.log.clone() + &ended.complaints)))
        }
    }
}

/// The first thing in which a boot differs from its row.
fn differences(case: &BootCase, ended: &Ended) -> Option<String> {
    let expected = match case.ends {
        Ending::Success => Exit::Success,
        Ending::Failure => Exit::Failure,
    };
    if ended.exit != expected {
        return Some(format!("expected that {expected}; {}", ended.exit));
    }
    if let Some(line) = ended
        .log
        .lines()
        .find(|line| case.never.iter().any(|text| line.contains(text)))
    {
        return Some(format!("must not be said: {line}"));
    }
    missing_in_order(case.says, &ended.log).map_or_else(
        || {
            if case.ends == Ending::Success {
                block_fault(&ended.log)
            } else {
                None
            }
        },
        |text| Some(format!("not said, or not in this order: {text}")),
    )
}

/// The first of `texts` that does not stand behind the one before it; they may share a line.
fn missing_in_order<'a>(texts: &[&'a str], log: &str) -> Option<&'a str> {
    let mut rest = log;
    texts
        .iter()
        .copied()
        .find(|text| match rest.split_once(text) {
            Some((_, behind)) => {
                rest = behind;
                false
            }
            None => true,
        })
}

/// What is wrong with the printed block, if anything is.
fn block_fault(log: &str) -> Option<String> {
    if let Some(text) = missing_in_order(&VERIFIED, log) {
        return Some(format!(
            "the live tables were not verified: no line says \"{text}\""
        ));
    }
    let mut lines = log.lines().skip_while(|line| !line.contains(HEADING));
    if lines.next().is_none() {
        return Some(format!("no line with \"{HEADING}\""));
    }
    ROWS.iter().find_map(|row| {
        let line = lines.next().unwrap_or_default();
        (name_of_row(line) != Some(row))
            .then(|| format!("the block lacks its row {row}; there is: {line}"))
    })
}

/// `vmalloc` of `[    0.1]     vmalloc : 0x…`.
fn name_of_row(line: &str) -> Option<&str> {
    let text = line.split_once("] ").map_or(line, |(_, text)| text);
    text.split_once(" :").map(|(name, _)| name.trim())
}

/// Two boots of one machine must not draw the same addresses: four draws of 9 bits and more agree once in 2^50 times.
pub(crate) fn draws_anew(qemu: &Path, kernel: &Kernel) -> Outcome {
    let machine = Machine {
        mem_mib: 256,
        ..Machine::default()
    };
    let drawn = || -> std::result::Result<Vec<String>, Failed> {
        let ended = boot(machine.command(qemu, kernel.path()), LIMIT, |_| {})?;
        let rows = ["vmemmap", "vmalloc", "lowmem", ".text"];
        let starts: Option<Vec<String>> =
            rows.iter().map(|row| start_of(row, &ended.log)).collect();
        starts.ok_or_else(|| Failed::because("the block lacks rows").with_log(&ended.log))
    };
    let (first, second) = (drawn()?, drawn()?);
    if first == second {
        return Err(Failed::because(format!(
            "both boots drew {}",
            first.join(" ")
        )));
    }
    Ok(Passed::noting(format!(
        "lowmem {}, then {}",
        first[2], second[2]
    )))
}

/// Where the block's row says that its area begins.
fn start_of(row: &str, log: &str) -> Option<String> {
    let line = log.lines().find(|line| name_of_row(line) == Some(row))?;
    Some(line.split_once(": 0x")?.1.split_once(' ')?.0.to_owned())
}

/// With instructions counted, two boots must print the same to the byte, times and draws included: figures rest on that.
pub(crate) fn repeats_when_counted(qemu: &Path, kernel: &Kernel) -> Outcome {
    let machine = Machine {
        mem_mib: 256,
        accel: Accel::TcgCounting,
        ..Machine::default()
    };
    let log = || boot(machine.command(qemu, kernel.path()), LIMIT, |_| {}).map(|ended| ended.log);
    let (first, second) = (log()?, log()?);
    match first
        .lines()
        .zip(second.lines())
        .find(|(first, second)| first != second)
    {
        Some((first, second)) => Err(Failed::because(format!("first {first}\nthen  {second}"))),
        None => Ok(Passed::noting(format!("{} lines", first.lines().count()))),
    }
}

/// Instructions that a frame may cost that is taken from and given back to what its CPU keeps.
const PAIR_LIMIT: u64 = 40;

/// With instructions counted, a pair of order 0 and one of order 9 must stay within the limit.
pub(crate) fn counts_pairs_of_frames(qemu: &Path, kernel: &Kernel) -> Outcome {
    let machine = Machine {
        accel: Accel::TcgCounting,
        append: "nokaslr measure".to_owned(),
        ..Machine::default()
    };
    let ended = boot(machine.command(qemu, kernel.path()), LIMIT, |_| {})?;
    let count = |order: u8| -> Option<u64> {
        let name = format!("measure: alloc + free, order {order}, through the allocator: ");
        let (_, value) = ended.log.split_once(&name)?;
        value.split_once(" ticks")?.0.parse().ok()
    };
    match [0, 9].map(count) {
        [Some(single), Some(huge)] if single.max(huge) <= PAIR_LIMIT => {
            Ok(Passed::noting(format!("{single} and {huge} instructions")))
        }
        counts => Err(Failed::because(format!(
            "pairs of order 0 and 9: {counts:?} instructions, at most {PAIR_LIMIT} each are wanted; {}\n{}{}",
            ended.exit, ended.log, ended.complaints
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(log: &str, exit: Exit) -> Ended {
        Ended {
            log: log.to_owned(),
            complaints: String::new(),
            exit,
            took: Duration::ZERO,
        }
    }

    fn block() -> String {
        let rows: String = ROWS
            .iter()
            .map(|row| format!("[    0.1] {row:>10}  : 0x0 - 0x1\n"))
            .collect();
        format!(
            "[    0.1] verify: {}\n[    0.1] {HEADING}\n{rows}",
            VERIFIED.join(", ")
        )
    }

    #[test]
    fn a_boot_as_its_row_says_passes() {
        let case = BootCase {
            says: &["one", "two"],
            never: &["bad"],
            ..BootCase::USUAL
        };
        let log = format!("one\n{}two\n", block());
        assert_eq!(differences(&case, &ended(&log, Exit::Success)), None);
    }

    #[test]
    fn each_difference_is_named() {
        let case = BootCase {
            says: &["one", "two"],
            never: &["bad"],
            ..BootCase::USUAL
        };
        let fault = |log: &str, exit| differences(&case, &ended(log, exit));
        assert_eq!(
            fault("", Exit::Reset).unwrap(),
            "expected that the kernel ended with success; the CPU reset itself (triple fault)"
        );
        assert_eq!(
            fault("a bad line", Exit::Success).unwrap(),
            "must not be said: a bad line"
        );
        assert_eq!(
            fault("two\none\n", Exit::Success).unwrap(),
            "not said, or not in this order: two"
        );
        assert_eq!(
            fault("one\ntwo\n", Exit::Success).unwrap(),
            "the live tables were not verified: no line says \"no page is writable and executable\""
        );
        let log = format!("one\ntwo\n{}", VERIFIED.join("\n"));
        assert_eq!(
            fault(&log, Exit::Success).unwrap(),
            "no line with \"virtual kernel memory layout:\""
        );
        let log = format!("one\ntwo\n{}", block().replace("vmemmap", "vmalloc"));
        assert_eq!(
            fault(&log, Exit::Success).unwrap(),
            "the block lacks its row vmemmap; there is: [    0.1]    vmalloc  : 0x0 - 0x1"
        );
    }
}
