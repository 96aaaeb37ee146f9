//! The project's automation: build and boot the kernel, test everything, measure it.
//!
//! One module per verb (`run`, `test`, `bench`); below them `host` (programs, packages and toolchains of this machine)
//! and `qemu` (one virtual machine, from its configuration to what it said and how it ended).
//!
//! ```text
//!   run      test      bench          the verbs: parse nothing, decide what happens
//!      \    /    \    /
//!  kernel, example  oracle             the kernels' files; three readings of their page tables
//!        |        |
//!       qemu (machine, boot, paused, monitor, gdb)
//!        |
//!       host (command, packages, toolchain)
//! ```
//!
//! Dependencies, one reason each: `lexopt` parses arguments exactly and brings nothing else; `serde_json` speaks QEMU's monitor
//! protocol and cargo's messages; `object` reads the kernel's ELF file without trusting it.

mod arguments;
mod bench;
mod example;
mod failure;
mod help;
mod host;
mod kernel;
mod nearest;
mod oracle;
mod qemu;
mod run;
mod test;

use std::process::ExitCode;

use arguments::Verb;

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1);
    let outcome = arguments::parse(words).and_then(|verb| match verb {
        Verb::Help(topic) => {
            help::print(topic);
            Ok(())
        }
        Verb::Run(options) => run::run(&options),
        Verb::Test(options) => test::test(&options),
        Verb::Bench(options) => bench::bench(&options),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A test run has closed with its count, after which nothing is left to say.
            if !failure.message().is_empty() {
                eprintln!("{failure}");
            }
            ExitCode::from(failure.status())
        }
    }
}
