//! `cargo xtask run`: build the kernel, or one of the examples, boot it, show its log, say how it ended.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kspace_layout::PhysRange;

use crate::arguments::{AccelChoice, RunOptions};
use crate::example::Example;
use crate::failure::{About, Failure, Result};
use crate::host::packages;
use crate::host::toolchain::{BARE_METAL, Toolchain};
use crate::kernel::Kernel;
use crate::qemu::accel::Kvm;
use crate::qemu::boot::{Exit, boot};
use crate::qemu::machine::{Accel, Machine, QEMU};

/// How long a boot may take that nobody watches.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where `--gdb` listens.
const GDB: &str = "tcp:localhost:1234,server=on,wait=off";

/// Builds and boots the kernel as `options` ask.
///
/// # Errors
///
/// When something is missing, the kernel does not build, or it does not end with success.
pub(crate) fn run(options: &RunOptions) -> Result {
    let install = !options.host.no_install;
    let qemu = packages::program(QEMU.0, QEMU.1, install)?;
    let toolchain = Toolchain::find(BARE_METAL, options.host.toolchain, install)?;
    say(&format!("toolchain: {toolchain}"))?;
    let (machine, why) = machine(options, &qemu)?;
    let (mut command, program) = match &options.example {
        Some(name) => example(name, &machine, &qemu, &toolchain, install)?,
        None => reference(&machine, &qemu, &toolchain)?,
    };
    say(&format!("machine: {}", described(&machine, &why)))?;

    let ended = if options.gdb {
        command.args(["-S", "-gdb", GDB]);
        say(&format!(
            "stopped before the first instruction; type: gdb {} -ex 'target remote :1234'",
            shortened(&program)
        ))?;
        attached(command)?
    } else if std::io::stdin().is_terminal() {
        attached(command)?
    } else {
        let ended = boot(command, PATIENCE, |line| {
            // A reader who closed the pipe has read enough; the boot still decides the exit status.
            let _ = writeln!(std::io::stdout(), "{line}");
        })?;
        eprint!("{}", ended.complaints);
        (ended.exit, ended.took)
    };
    conclude(ended)
}

/// Builds the reference kernel: the command that boots it, and its file.
fn reference(machine: &Machine, qemu: &Path, toolchain: &Toolchain) -> Result<(Command, PathBuf)> {
    // The first build takes a while, and is silent.
    say("building the kernel")?;
    let begun = Instant::now();
    let kernel = Kernel::build(toolchain)?;
    let path = kernel.path();
    let (shown, took) = (shortened(path), seconds(begun.elapsed()));
    say(&format!("kernel: {shown}, built in {took}"))?;
    refuse_too_little_memory(machine, kernel.loaded_at()?)?;
    Ok((machine.command(qemu, path), path.to_owned()))
}

/// The same of a kernel of examples/, which boots from a disc.
fn example(
    name: &str,
    machine: &Machine,
    qemu: &Path,
    toolchain: &Toolchain,
    install: bool,
) -> Result<(Command, PathBuf)> {
    say(&format!("building the example {name}"))?;
    let begun = Instant::now();
    let example = Example::build(name, toolchain, install)?;
    let (disc, took) = (example.disc(), seconds(begun.elapsed()));
    say(&format!("disc: {}, built in {took}", shortened(disc)))?;
    let command = machine.command_of_disc(qemu, disc);
    Ok((command, example.program().to_owned()))
}

/// Turns what was asked for into a machine; the text says why its accelerator was chosen.
fn machine(options: &RunOptions, qemu: &Path) -> Result<(Machine, String)> {
    let (accel, why) = accel(options, qemu)?;
    if accel == Accel::Kvm && options.la57 == Some(true) && !Kvm::has_la57() {
        return Err(Failure::failed(
            "run: --la57 asks for 5-level paging, which this host's CPU lacks and --accel kvm needs; drop one",
        ));
    }
    let defaults = Machine::default();
    let machine = Machine {
        mem_mib: options.mem_mib.unwrap_or(defaults.mem_mib),
        cpus: options.cpus.unwrap_or(defaults.cpus),
        without: if options.la57 == Some(false) {
            vec!["la57"]
        } else {
            Vec::new()
        },
        append: options.append.join(" "),
        accel,
    };
    Ok((machine, why))
}

/// Refuses a machine in which the image has no place: its firmware would wait for ever without a word.
fn refuse_too_little_memory(machine: &Machine, image: PhysRange) -> Result {
    let (given, needed) = (machine.mem_mib, image.last().as_u64() / (1 << 20) + 1);
    if given >= needed {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "run: --mem {given}M ends below the kernel's image, physical {image}; give at least {needed}M"
    )))
}

fn accel(options: &RunOptions, qemu: &Path) -> Result<(Accel, String)> {
    if options.icount {
        return Ok((Accel::TcgCounting, "TCG, counting instructions".to_owned()));
    }
    match options.accel {
        AccelChoice::Tcg => Ok((Accel::Tcg, "TCG".to_owned())),
        AccelChoice::Auto if options.la57 == Some(true) && !Kvm::has_la57() => Ok((
            Accel::Tcg,
            "TCG (this host's CPU has no 5-level paging)".to_owned(),
        )),
        AccelChoice::Auto => Ok(match Kvm::try_against_tcg(qemu)? {
            Kvm::Works => (Accel::Kvm, Kvm::Works.to_string()),
            unusable @ Kvm::Unusable(_) => (Accel::Tcg, unusable.to_string()),
        }),
        AccelChoice::Kvm => match Kvm::try_it(qemu)? {
            Kvm::Works => Ok((Accel::Kvm, "KVM".to_owned())),
            Kvm::Unusable(why) => Err(Failure::failed(format!("run: --accel kvm: {why}"))),
        },
    }
}

/// Runs the machine with its serial port on our own terminal; Ctrl-A X ends it, Ctrl-A C shows QEMU's monitor.
fn attached(mut command: Command) -> Result<(Exit, Duration)> {
    command
        .args(["-serial", "mon:stdio"])
        .stdin(Stdio::inherit());
    let begun = Instant::now();
    let status = command.status().about(QEMU.0)?;
    // With nobody reading QEMU's own words, a reset and an end by hand look the same; the second is what happens.
    let exit = match Exit::of(status) {
        Exit::Reset => Exit::FromOutside,
        exit => exit,
    };
    Ok((exit, begun.elapsed()))
}

fn conclude((exit, took): (Exit, Duration)) -> Result {
    match exit {
        Exit::Success => say(&format!(
            "booted and ended with success in {}",
            seconds(took)
        )),
        Exit::FromOutside => Err(Failure::failed(format!(
            "after {}: {}",
            seconds(took),
            Exit::FromOutside
        ))),
        other => Err(Failure::failed(format!(
            "boot failed after {}: {other}",
            seconds(took)
        ))),
    }
}

fn described(machine: &Machine, accel: &str) -> String {
    let mem = match machine.mem_mib {
        mib if mib % 1024 == 0 => format!("{} GiB", mib / 1024),
        mib => format!("{mib} MiB"),
    };
    let cpus = if machine.cpus == 1 {
        "1 CPU".to_owned()
    } else {
        format!("{} CPUs", machine.cpus)
    };
    let without: String = machine
        .without
        .iter()
        .map(|feature| format!(" without {feature}"))
        .collect();
    format!("{mem}, {cpus}{without}, {accel}")
}

/// One line of ours between the kernel's.
fn say(text: &str) -> Result {
    let mut out = std::io::stdout();
    match writeln!(out, "kspace: {text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).about("stdout"),
        _ => Ok(()),
    }
}

/// A path as seen from the folder the user is in.
fn shortened(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    path.strip_prefix(here)
        .unwrap_or(path)
        .display()
        .to_string()
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use kspace_layout::PhysAddr;

    use super::*;

    #[test]
    fn memory_must_reach_over_the_image() {
        let image = PhysRange::new(PhysAddr::new(16 << 20), 0xa_8000);
        let with = |mem_mib| {
            let machine = Machine {
                mem_mib,
                ..Machine::default()
            };
            refuse_too_little_memory(&machine, image).map_err(|failure| failure.to_string())
        };
        assert_eq!(
            with(16),
            Err("kspace: run: --mem 16M ends below the kernel's image, physical 0000000001000000-00000000010a7fff; give at least 17M".to_owned())
        );
        assert_eq!(with(17), Ok(()));
    }
}
