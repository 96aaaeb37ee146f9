//! The oracle: three readings of a booted kernel's page tables, compared entry by entry.
//!
//! ```text
//!   1  QEMU's own walker            info tlb on the monitor                               (tlb)
//!   2  our walker                   kspace-paging over pages that pmemsave reads           (guest, walked)
//!   3  what the layout says         computed here from the log, the ELF file and the plan  (expected)
//! ```
//!
//! 1 and 2 must agree on every leaf: address, frame and flags. 2 and 3 must agree on every page: address, size, frame, rights, and
//! that nothing else is mapped. The kernel made the tables with the editor and does not take part: it is stopped.

mod expected;
mod guest;
mod tlb;
mod walked;

use std::path::Path;
use std::time::Duration;

use kspace_layout::PagingMode;
use kspace_paging::Walker;

use crate::failure::{Failure, Result};
use crate::kernel::Kernel;
use crate::qemu::machine::Machine;
use crate::qemu::paused::Paused;
use guest::{GuestMemory, Root};
pub(crate) use tlb::Leaf;
use walked::WalkedPage;

/// The line after which the kernel changes nothing more.
const HALTED: &str = "kspace: halted";

/// How long the boot to that line may take.
const LIMIT: Duration = Duration::from_secs(60);

/// One machine whose tables are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Configuration {
    /// Whether the CPU has 5-level paging, which the kernel then uses.
    pub(crate) five_level: bool,
    /// Whether addresses are drawn.
    pub(crate) kaslr: bool,
    /// RAM in MiB.
    pub(crate) mem_mib: u64,
    /// Whether the direct map may have 1 GiB pages.
    pub(crate) gigabyte_pages: bool,
    /// CPUs, all of which the kernel starts.
    pub(crate) cpus: u32,
}

/// The sizes of RAM that are tried.
const SIZES: [u64; 3] = [64, 1024, 5120];

impl Configuration {
    /// All 24 configurations of one CPU.
    pub(crate) fn all() -> Vec<Self> {
        let choices = [false, true];
        let mut all = Vec::new();
        for five_level in choices {
            for kaslr in choices {
                for mem_mib in SIZES {
                    for gigabyte_pages in choices {
                        all.push(Self {
                            five_level,
                            kaslr,
                            mem_mib,
                            gigabyte_pages,
                            cpus: 1,
                        });
                    }
                }
            }
        }
        all
    }

    /// Six of them in which every pair of choices occurs.
    pub(crate) fn covering() -> [Self; 6] {
        let row = |mem_mib, five_level, kaslr, gigabyte_pages| Self {
            five_level,
            kaslr,
            mem_mib,
            gigabyte_pages,
            cpus: 1,
        };
        [
            row(64, false, true, true),
            row(64, true, false, false),
            row(1024, false, false, true),
            row(1024, true, true, false),
            row(5120, false, true, false),
            row(5120, true, false, true),
        ]
    }

    /// Several CPUs: each has an entry area of its own.
    pub(crate) fn several_cpus() -> Self {
        Self {
            five_level: true,
            kaslr: true,
            mem_mib: 1024,
            gigabyte_pages: true,
            cpus: 4,
        }
    }

    /// `5-level, KASLR, 64M, 1G pages`, and the CPUs if there are several.
    pub(crate) fn name(&self) -> String {
        let size = match self.mem_mib {
            mib if mib % 1024 == 0 => format!("{}G", mib / 1024),
            mib => format!("{mib}M"),
        };
        let cpus = if self.cpus == 1 {
            String::new()
        } else {
            format!(", {} CPUs", self.cpus)
        };
        format!(
            "{}-level, {}, {size}, {}{cpus}",
            if self.five_level { 5 } else { 4 },
            if self.kaslr { "KASLR" } else { "nokaslr" },
            if self.gigabyte_pages {
                "1G pages"
            } else {
                "nogbpages"
            },
        )
    }

    fn machine(&self) -> Machine {
        let words = [
            Some("halt"),
            // The expected stacks are read from there.
            Some("show=vmallocinfo"),
            (!self.kaslr).then_some("nokaslr"),
            (!self.gigabyte_pages).then_some("nogbpages"),
        ];
        Machine {
            mem_mib: self.mem_mib,
            cpus: self.cpus,
            without: if self.five_level {
                Vec::new()
            } else {
                vec!["la57"]
            },
            append: words.into_iter().flatten().collect::<Vec<_>>().join(" "),
            ..Machine::default()
        }
    }
}

/// What the three readings agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// Leaf entries.
    pub(crate) leaves: usize,
    /// Page tables that were read to find them.
    pub(crate) tables: usize,
}

/// Boots `configuration` and compares the three readings.
///
/// # Errors
///
/// The first difference, with both values and the log so far.
pub(crate) fn compare(
    configuration: &Configuration,
    qemu: &Path,
    kernel: &Kernel,
) -> Result<Agreement> {
    let machine = configuration.machine();
    let mut paused = Paused::start(machine.command(qemu, kernel.path()))?;
    let compared = paused
        .wait_for(HALTED, LIMIT)
        .and_then(|()| compare_stopped(configuration, &paused, kernel));
    compared.map_err(|failure| {
        let log: String = paused
            .log()
            .lines()
            .map(|line| format!("    | {line}\n"))
            .collect();
        Failure::failed(format!("{}\n{}", failure.message(), log.trim_end()))
    })
}

fn compare_stopped(
    configuration: &Configuration,
    paused: &Paused,
    kernel: &Kernel,
) -> Result<Agreement> {
    let read = read_stopped(paused)?;
    let expected = expected::pages(configuration, read.mode, paused.log(), kernel)?;
    expected::same_pages(&expected, &read.by_walker)?;
    Ok(Agreement {
        leaves: read.by_qemu.len(),
        tables: read.tables,
    })
}

/// Every leaf entry of any guest's page tables: stops it, and has QEMU's walker and ours agree on each.
///
/// # Errors
///
/// The first difference.
pub(crate) fn leaves(paused: &Paused) -> Result<Vec<Leaf>> {
    read_stopped(paused).map(|read| read.by_qemu)
}

/// The first two readings, which agree.
struct Read {
    mode: PagingMode,
    by_qemu: Vec<Leaf>,
    by_walker: Vec<WalkedPage>,
    tables: usize,
}

fn read_stopped(paused: &Paused) -> Result<Read> {
    let mut monitor = paused.monitor()?;
    monitor.stop()?;
    let root = Root::of(&mut monitor)?;
    let printed = monitor.human("info tlb")?;
    let by_qemu = tlb::parse(&printed)
        .map_err(|line| Failure::failed(format!("info tlb: not an entry: {line}")))?;

    let memory = GuestMemory::new(paused, monitor);
    let by_walker = walked::pages(&Walker::new(root.mode, root.cr3, &memory))?;
    let tables = memory.frames_read()?;
    walked::same_leaves(&by_qemu, &by_walker)?;
    Ok(Read {
        mode: root.mode,
        by_qemu,
        by_walker,
        tables,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_covering_set_holds_every_pair_of_choices() {
        let choices = |one: &Configuration| {
            [
                u64::from(one.five_level),
                u64::from(one.kaslr),
                one.mem_mib,
                u64::from(one.gigabyte_pages),
            ]
        };
        let pairs = |set: &[Configuration]| {
            let mut pairs = std::collections::BTreeSet::new();
            for one in set {
                let values = choices(one);
                for i in 0..values.len() {
                    for j in 0..i {
                        pairs.insert((i, j, values[i], values[j]));
                    }
                }
            }
            pairs
        };
        let all = Configuration::all();
        assert_eq!(all.len(), 24);
        assert_eq!(pairs(&Configuration::covering()), pairs(&all));
    }

    #[test]
    fn a_configuration_is_a_machine() {
        let one = Configuration {
            five_level: false,
            kaslr: false,
            mem_mib: 5120,
            gigabyte_pages: false,
            cpus: 1,
        };
        assert_eq!(one.name(), "4-level, nokaslr, 5G, nogbpages");
        let machine = one.machine();
        assert_eq!(machine.append, "halt show=vmallocinfo nokaslr nogbpages");
        assert_eq!(machine.without, ["la57"]);
    }
}
