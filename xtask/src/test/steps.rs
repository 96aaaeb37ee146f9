//! The checks that need no virtual machine: format, lints, documentation, host tests, the 32-bit build.

use std::process::Command;

use super::report::{Failed, Outcome, Passed};
use crate::host::command::{captured, cargo, said};
use crate::host::toolchain::{Toolchain, Way};

/// The libraries that run on 32-bit machines too.
const NO_STD: [&str; 4] = ["kspace-layout", "kspace-paging", "kspace-frames", "kspace"];

/// The kernel has its bare-metal program behind a feature; on the host it is a library without it, so all other packages are
/// checked together, and the kernel without it.
const HOST_SETS: [&[&str]; 2] = [
    &[
        "--workspace",
        "--exclude",
        "kspace-kernel",
        // Not all features: one replaces atomics by those of a model checker, for models only.
        "--features",
        "kspace-layout/x86_64",
    ],
    &["--package", "kspace-kernel"],
];

/// `cargo fmt`.
pub(crate) fn format() -> Outcome {
    succeeds(cargo().args(["fmt", "--all", "--check"]))
}

/// clippy on everything that runs on the host.
pub(crate) fn clippy_host() -> Outcome {
    for set in HOST_SETS {
        let mut command = cargo();
        command
            .args(["clippy", "--quiet", "--all-targets"])
            .args(set);
        succeeds(command.args(["--", "--deny", "warnings"]))?;
    }
    Ok(Passed::one())
}

/// clippy on the kernels, for the machine they run on.
pub(crate) fn clippy_kernels(toolchain: &Toolchain) -> Outcome {
    // Debian's compiler comes without clippy; its own lints still are to be heard.
    let (verb, note) = match toolchain.way() {
        Way::Rustup | Way::RustSrc => ("clippy", ""),
        Way::Debian => (
            "check",
            "by the compiler alone: Debian's rustc-web has no clippy",
        ),
    };
    for package in ["kspace-kernel", "kspace-example-multiboot2"] {
        let mut command = toolchain.cargo(verb);
        command.args(["--quiet", "--package", package, "--features", "boot"]);
        command.args(["--profile", "kernel"]);
        if verb == "clippy" {
            command.args(["--", "--deny", "warnings"]);
        }
        let output = captured(&mut command)?;
        if !output.status.success() || (verb == "check" && !output.stderr.is_empty()) {
            return Err(Failed::because(said(&output)));
        }
    }
    Ok(Passed::noting(note))
}

/// rustdoc, whose warnings are mostly links that lead nowhere. The kernel is no library for others: its docs are for its authors, show
/// private items too, and may link to them.
pub(crate) fn docs() -> Outcome {
    const LIBRARIES: &str = "--deny warnings";
    const KERNEL: &str =
        "--deny warnings --document-private-items --allow rustdoc::private_intra_doc_links";
    for (set, flags) in HOST_SETS.into_iter().zip([LIBRARIES, KERNEL]) {
        let mut command = cargo();
        command.args(["doc", "--quiet", "--no-deps"]).args(set);
        succeeds(command.env("RUSTDOCFLAGS", flags))?;
    }
    Ok(Passed::one())
}

/// Every test that runs on the host, documentation examples included.
pub(crate) fn host_tests() -> Outcome {
    let (mut passed, mut failed, mut reason) = (0, 0, String::new());
    for set in HOST_SETS {
        let mut command = cargo();
        command
            .args(["test", "--quiet", "--no-fail-fast"])
            .args(set);
        let output = captured(&mut command)?;
        let text = said(&output);
        let counts = count_tests(&text);
        passed += counts.0;
        failed += counts.1;
        if !output.status.success() {
            // A package that does not compile fails without a test of its own to count.
            failed = failed.max(1);
            reason.push_str(&text);
        }
    }
    if failed == 0 {
        return Ok(Passed {
            count: passed,
            note: format!("{passed} tests"),
        });
    }
    Err(Failed {
        passed,
        failed,
        reason,
    })
}

/// The frame allocator's protocols in every schedule that the memory model allows. They need atomics of their own, so they are
/// no part of [`host_tests`]; optimised, because they run each model some hundred thousand times.
pub(crate) fn loom_models() -> Outcome {
    let mut command = cargo();
    command.args(["test", "--quiet", "--release", "--package", "kspace-frames"]);
    command.args(["--lib", "--features", "loom", "loom_"]);
    let output = captured(&mut command)?;
    let text = said(&output);
    match count_tests(&text) {
        (0, 0) => Err(Failed::because(format!("no model was run\n{text}"))),
        (passed, 0) if output.status.success() => Ok(Passed {
            count: passed,
            note: format!("{passed} models"),
        }),
        (passed, failed) => Err(Failed {
            passed,
            failed: failed.max(1),
            reason: text,
        }),
    }
}

/// The libraries, built for 32 bits.
pub(crate) fn thirty_two_bit(toolchain: &Toolchain) -> Outcome {
    let mut command = toolchain.cargo("build");
    command.args(["--quiet", "--lib"]);
    command.args(NO_STD.iter().flat_map(|package| ["--package", package]));
    succeeds(&mut command)
}

fn succeeds(command: &mut Command) -> Outcome {
    let output = captured(command)?;
    if output.status.success() {
        return Ok(Passed::one());
    }
    Err(Failed::because(said(&output)))
}

/// Adds up the lines `test result: ok. 12 passed; 0 failed; …` that test programs end with.
fn count_tests(text: &str) -> (u64, u64) {
    let results = text
        .lines()
        .filter_map(|line| line.strip_prefix("test result: "));
    results.fold((0, 0), |(passed, failed), line| {
        let number = |what: &str| -> u64 {
            let before = line.split(what).next().unwrap_or_default();
            before
                .rsplit([' ', '.'])
                .find_map(|word| word.parse().ok())
                .unwrap_or(0)
        };
        (passed + number(" passed"), failed + number(" failed"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_programs_add_up() {
        let text = "\
running 2 tests
..
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

test result: FAILED. 10 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.11s
";
        assert_eq!(count_tests(text), (12, 1));
        assert_eq!(count_tests("error: could not compile"), (0, 0));
    }
}
