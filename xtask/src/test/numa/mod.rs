//! Nodes and zones: boots of the machines on which Linux was asked, and of some whose tables are nonsense.
//!
//! ```text
//!   crates/frames/tests/data/linux-6.12-numa-two.txt      QEMU's options --> the same machine --> the kernel's log
//!                                                         Linux's log, zoneinfo, iomem <-- line by line --'
//! ```
//!
//! What both count from the firmware's tables is the same to the byte. How much a zone manages is not, because each kernel takes
//! something for itself; the marks are held against Linux's formulas for what ours manages.

mod recorded;
mod tables;
mod zoneinfo;

use std::path::Path;

use super::Check;
use super::boots::LIMIT;
use super::report::{Failed, Outcome, Passed};
use crate::failure::About;
use crate::kernel::Kernel;
use crate::qemu::boot::{Ended, Exit, boot};
use crate::qemu::folder::Folder;
use crate::qemu::machine::Machine;
use recorded::{MACHINES, Recorded};
use tables::{HOSTILE, Hostile};

/// One boot for each recorded machine, and one for each hostile table.
pub(super) fn checks() -> impl Iterator<Item = Check> {
    let recorded = MACHINES.iter().map(|machine| {
        Check::new(format!("boot numa, {}", machine.name), |context| {
            as_linux(machine, &context.qemu()?, context.kernel()?)
        })
    });
    let hostile = HOSTILE.iter().map(|case| {
        Check::new(format!("boot numa, {}", case.name), |context| {
            survives(case, &context.qemu()?, context.kernel()?)
        })
    });
    let reserve = Check::new("boot min_free_kbytes=4096", |context| {
        keeps_back(4096, &context.qemu()?, context.kernel()?)
    });
    recorded.chain(hostile).chain([reserve])
}

/// Boots what Linux was booted on, and compares.
fn as_linux(recorded: &Recorded, qemu: &Path, kernel: &Kernel) -> Outcome {
    let machine = Machine {
        append: format!(
            "nokaslr show=zoneinfo,iomem {}",
            recorded.part("words").trim()
        ),
        ..Machine::default()
    };
    let mut command = machine.command(qemu, kernel.path());
    // They come after the usual ones, and the last one of a name counts.
    command.args(recorded.part("machine").split_whitespace());
    let ended = boot(command, LIMIT, |_| {})?;
    let compared = succeeded(&ended).and_then(|()| compare(recorded, &ended.log));
    match compared {
        Ok(zones) => Ok(Passed::noting(format!("{zones} zones as Linux has them"))),
        Err(reason) => Err(with_all(reason, &ended)),
    }
}

fn succeeded(ended: &Ended) -> Result<(), String> {
    match ended.exit {
        Exit::Success => Ok(()),
        exit => Err(format!("expected that {}; {exit}", Exit::Success)),
    }
}

fn with_all(reason: String, ended: &Ended) -> Failed {
    Failed::because(reason).with_log(&(ended.log.clone() + &ended.complaints))
}

/// Compares the kernel's log with what Linux said; returns how many zones have memory.
fn compare(recorded: &Recorded, log: &str) -> Result<usize, String> {
    let lines: Vec<&str> = log.lines().map(without_stamp).collect();
    same(
        "boot log",
        &recorded::of_nodes(recorded.part("log").lines()),
        &recorded::of_nodes(lines.iter().copied()),
    )?;
    same(
        "iomem",
        &recorded::ranges(recorded.part("iomem").lines()),
        &recorded::ranges(text(&lines, "iomem:").into_iter()),
    )?;
    near(recorded, &lines)?;
    zoneinfo::compare(
        recorded.part("zoneinfo").lines(),
        text(&lines, "zoneinfo:").into_iter(),
    )
}

/// Each CPU is on the node that Linux has it on, and its memory comes from the first node of that one's fallback order.
fn near(recorded: &Recorded, lines: &[&str]) -> Result<(), String> {
    if recorded.part("nodes").lines().count() == 1 {
        return Ok(());
    }
    for (cpu, node) in recorded.cpus() {
        let first = recorded.first_asked(node);
        let expected =
            format!("CPU {cpu} is near node {node}; a frame for it comes from node {first}, zone ");
        if !lines.iter().any(|line| line.starts_with(&expected)) {
            return Err(format!("not said: {expected}…"));
        }
    }
    Ok(())
}

/// `text` of `[    0.123456] text`.
fn without_stamp(line: &str) -> &str {
    match line.split_once("] ") {
        Some((stamp, text)) if stamp.starts_with('[') => text,
        _ => line,
    }
}

/// The lines of a text that the kernel printed below its name.
fn text<'a>(lines: &[&'a str], name: &str) -> Vec<&'a str> {
    let below = lines.iter().skip_while(|line| **line != name).skip(1);
    let ends = ["zoneinfo:", "buddyinfo:", "iomem:", "meminfo:"];
    below
        .take_while(|line| !ends.contains(line) && !line.starts_with("kspace: "))
        .copied()
        .collect()
}

/// The first difference between Linux's lines and ours.
fn same<T: AsRef<str>>(what: &str, theirs: &[T], ours: &[T]) -> Result<(), String> {
    if theirs.is_empty() {
        return Err(format!("{what}: nothing is recorded of Linux"));
    }
    for index in 0..theirs.len().max(ours.len()) {
        let line = |lines: &[T]| {
            lines
                .get(index)
                .map_or("(nothing)".to_owned(), |line| line.as_ref().to_owned())
        };
        if line(theirs) != line(ours) {
            return Err(format!(
                "{what}, line {}: Linux said\n  {}\nwe say\n  {}",
                index + 1,
                line(theirs),
                line(ours)
            ));
        }
    }
    Ok(())
}

/// Boots with a reserve of our choice.
fn keeps_back(kbytes: u64, qemu: &Path, kernel: &Kernel) -> Outcome {
    let machine = Machine {
        append: format!("nokaslr show=zoneinfo min_free_kbytes={kbytes}"),
        ..Machine::default()
    };
    let ended = boot(machine.command(qemu, kernel.path()), LIMIT, |_| {})?;
    let lines: Vec<&str> = ended.log.lines().map(without_stamp).collect();
    let zones = succeeded(&ended)
        .and_then(|()| zoneinfo::reserves(text(&lines, "zoneinfo:").into_iter(), kbytes));
    match zones {
        Ok(5) => Ok(Passed::one()),
        Ok(zones) => Err(with_all(format!("{zones} zones are listed, not 5"), &ended)),
        Err(reason) => Err(with_all(reason, &ended)),
    }
}

/// Boots on a hostile table.
fn survives(case: &Hostile, qemu: &Path, kernel: &Kernel) -> Outcome {
    let folder = Folder::new()?;
    let machine = Machine {
        mem_mib: 256,
        append: "nokaslr show=zoneinfo".to_owned(),
        ..Machine::default()
    };
    let mut command = machine.command(qemu, kernel.path());
    for (signature, body) in (case.tables)() {
        let path = folder.path().join(signature);
        std::fs::write(&path, body).about(path.display())?;
        let table = format!("sig={signature},rev=3,data={}", path.display());
        command.args(["-acpitable", &table]);
    }
    let ended = boot(command, LIMIT, |_| {})?;
    let lines: Vec<&str> = ended.log.lines().map(without_stamp).collect();
    let checked = succeeded(&ended).and_then(|()| {
        let missing = case.says.iter().find(|line| !lines.contains(line));
        match missing {
            Some(line) => Err(format!("not said: {line}")),
            None => Ok(()),
        }
    });
    let nodes = zoneinfo::nodes(text(&lines, "zoneinfo:").into_iter());
    match checked {
        Ok(()) if nodes == case.nodes => Ok(Passed::noting(format!("{nodes} nodes"))),
        Ok(()) => Err(with_all(
            format!("expected {} nodes, there are {nodes}", case.nodes),
            &ended,
        )),
        Err(reason) => Err(with_all(reason, &ended)),
    }
}
