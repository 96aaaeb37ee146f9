//! What a virtual machine is made of, as a value, and QEMU's command line for it.

use std::path::Path;
use std::process::Command;

/// QEMU's program, and Debian's package with it.
pub(crate) const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

/// The port of the isa-debug-exit device: a write of `value` ends QEMU with status `value * 2 + 1`.
const DEBUG_EXIT: &str = "isa-debug-exit,iobase=0xf4,iosize=0x04";

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accel {
    /// The host's CPU.
    Kvm,
    /// QEMU's translator.
    Tcg,
    /// QEMU's translator, one guest nanosecond per instruction: every run is the same.
    TcgCounting,
}

/// One virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// RAM in MiB.
    pub(crate) mem_mib: u64,
    /// Number of CPUs.
    pub(crate) cpus: u32,
    /// Features of `-cpu max` that this CPU lacks, in QEMU's names: `la57`, `pdpe1gb`, `nx`.
    pub(crate) without: Vec<&'static str>,
    /// The kernel's command line.
    pub(crate) append: String,
    /// What executes it.
    pub(crate) accel: Accel,
}

impl Default for Machine {
    /// One CPU with every feature, 1 GiB, TCG: the machine that tests start from.
    fn default() -> Self {
        Self {
            mem_mib: 1024,
            cpus: 1,
            without: Vec::new(),
            append: String::new(),
            accel: Accel::Tcg,
        }
    }
}

impl Machine {
    /// The command that runs `kernel` on this machine; the serial port and every other channel are the caller's to attach.
    pub(crate) fn command(&self, qemu: &Path, kernel: &Path) -> Command {
        let mut command = self.hardware(qemu);
        command.args(["-device", DEBUG_EXIT]);
        command.arg("-kernel").arg(kernel);
        if !self.append.is_empty() {
            command.args(["-append", &self.append]);
        }
        command
    }

    /// The command that boots this machine from the disc image `disc`, whose boot loader gives the kernel no command line.
    pub(crate) fn command_of_disc(&self, qemu: &Path, disc: &Path) -> Command {
        let mut command = self.without_end(qemu, disc);
        command.args(["-device", DEBUG_EXIT]);
        command
    }

    /// The same without the device by which a kernel ends the machine: it stays as it is at its end.
    pub(crate) fn without_end(&self, qemu: &Path, disc: &Path) -> Command {
        let mut command = self.hardware(qemu);
        command.arg("-cdrom").arg(disc);
        command
    }

    fn hardware(&self, qemu: &Path) -> Command {
        let mut command = Command::new(qemu);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args(["-machine", "q35"]);
        command.args([
            "-m",
            &format!("{}M", self.mem_mib),
            "-smp",
            &self.cpus.to_string(),
        ]);
        command.args(["-cpu", &self.cpu()]);
        match self.accel {
            Accel::Kvm => command.args(["-accel", "kvm"]),
            Accel::Tcg => command.args(["-accel", "tcg"]),
            Accel::TcgCounting => command.args([
                "-accel",
                "tcg",
                "-icount",
                "shift=0,sleep=off",
                "-rtc",
                "clock=vm",
                "-seed",
                "1",
            ]),
        };
        command
    }

    /// `max` with KVM is the host's own CPU.
    fn cpu(&self) -> String {
        let off: String = self
            .without
            .iter()
            .map(|feature| format!(",{feature}=off"))
            .collect();
        format!("max{off}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::command::shown;

    #[test]
    fn a_machine_is_its_command_line() {
        let machine = Machine {
            mem_mib: 5120,
            cpus: 2,
            without: vec!["la57", "pdpe1gb"],
            append: "nokaslr mem=1G".to_owned(),
            accel: Accel::TcgCounting,
        };
        assert_eq!(
            shown(&machine.command(Path::new("qemu"), Path::new("/k"))),
            "qemu -nodefaults -no-user-config -display none -no-reboot -machine q35 \
             -m 5120M -smp 2 -cpu max,la57=off,pdpe1gb=off \
             -accel tcg -icount shift=0,sleep=off -rtc clock=vm -seed 1 \
             -device isa-debug-exit,iobase=0xf4,iosize=0x04 -kernel /k -append nokaslr mem=1G"
        );
    }
}
