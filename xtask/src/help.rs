//! What `--help` prints.

use std::io::Write;

/// Which verb is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    /// The program as a whole.
    All,
    /// `run`.
    Run,
    /// `test`.
    Test,
    /// `bench`.
    Bench,
}

const ALL: &str = "  cargo xtask run                                  boot the kernel and read its log
  cargo xtask run --no-la57 --append nokaslr       the same, at Linux's default addresses
  cargo xtask test                                 everything a change must pass

usage: cargo xtask VERB [OPTIONS]        cargo xtask VERB --help says more

  run      build the kernel and boot it in QEMU
  test     format, lints, documentation, host tests, and boots held against QEMU's own page-table walker
  bench    measure, beside what others wrote for the same job

exit status:
  0  it worked, or everything passed
  1  something that was built, booted, tested or measured failed
  2  the command line makes no sense
  3  this machine lacks a program or toolchain, and it could not be installed
";

const RUN: &str = "  cargo xtask run                                  boot with 1 GiB and one CPU
  cargo xtask run --no-la57 --append nokaslr       4-level paging at Linux's default addresses
  cargo xtask run --gdb                            wait for a debugger before the first instruction

usage: cargo xtask run [OPTIONS]                 cargo xtask run --example multiboot2 [OPTIONS]

  --mem SIZE       RAM of the machine: 64M, 5G (default 1G)
  --smp N          CPUs (default 1)
  --la57           insist on a CPU with 5-level paging (default: use it if the CPU has it)
  --no-la57        hide 5-level paging from the kernel
  --append WORDS   add to the kernel's command line; may be repeated. Words: nokaslr, no5lvl, nogbpages, mem=SIZE, numa=off,
                   min_free_kbytes=N, show=TEXT,TEXT (zoneinfo, buddyinfo, iomem, meminfo, vmallocinfo, memtype),
                   dmesg, halt, measure, stress=ROUNDS, stress-frames=ROUNDS, test-vmalloc=NAME,NAME (all: all of them),
                   soak-vmalloc=N, fragment-vmalloc, vmalloc-debug=poison,random,flush, vmalloc-quarantine=PAGES,
                   test-permissions, test-text-patch=N, seed=N, provoke=FAULT (a wrong one names them all)
  --example NAME   boot a kernel of examples/ instead, by GRUB from a disc: multiboot2
  --gdb            start stopped, with a stub for gdb on localhost:1234
  --icount         count instructions (TCG): every run is the same, and one nanosecond of its clock is one instruction
  --accel NAME     auto, kvm or tcg (default auto: KVM if it runs a guest no slower than TCG does, else TCG)
";

const TEST: &str = "  cargo xtask test                                 all that a change must pass
  cargo xtask test boot                            only the steps and boots whose name contains \"boot\"
  cargo xtask test --all oracle                    every configuration of the page-table oracle

usage: cargo xtask test [--all] [FILTER] [OPTIONS]

  --all            all configurations of the oracle and the slow boots, not only the covering set
";

const BENCH: &str = "  cargo xtask bench                                all tables
  cargo xtask bench paging                         one of them: paging, cpus, frames or vmalloc
  cargo xtask bench --json                         rows {bench, name, unit, ours, peer, peer_name, ratio}

usage: cargo xtask bench [NAME] [--json] [--peer DIR] [--realtime] [OPTIONS]

  --json           an array of rows on standard output; a ratio above 1 means ours is better
  --peer DIR       a checkout of github.com/luhsra/llfree-rs, which the bench frames builds and measures beside ours and beside
                   crates; nothing of it is kept. Of the bench vmalloc: a directory whose `run vmalloc` boots Linux
  --realtime       of the bench vmalloc: what two CPUs do more than one, in host time
";

const HOST: &str = "
  --no-install     change nothing on this machine; say what is missing instead
  --toolchain WAY  where `core` for bare metal comes from: rustup (its target), rust-src (rustup's sources, built here) or
                   debian (the packages rustc-web and rust-web-src). Default: the first of these that is there
";

/// Prints the help of `topic` to standard output. A reader who closed the pipe has read enough.
pub(crate) fn print(topic: Topic) {
    let text = match topic {
        Topic::All => ALL.to_string(),
        Topic::Run => [RUN, HOST].concat(),
        Topic::Test => [TEST, HOST].concat(),
        Topic::Bench => [BENCH, HOST].concat(),
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_help_begins_with_three_commands_in_one_column() {
        for text in [ALL, RUN, TEST, BENCH] {
            let column = |line: &str| line.trim_end().rfind("   ").map(|gap| gap + 3);
            let commands: Vec<&str> = text.lines().take(3).collect();
            for line in &commands {
                assert!(line.starts_with("  cargo xtask "), "{line}");
                assert_eq!(column(line), column(commands[0]), "{line}");
            }
        }
    }
}
