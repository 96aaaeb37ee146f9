//! Which accelerator runs guests here: KVM is tried before it is trusted.
//!
//! `/dev/kvm` may be there and yet not run an ordinary guest (a container without the device's rights), fail only after the guest's first
//! instructions, or, where this machine is itself a guest, run many times slower than no KVM at all. So a tiny guest is booted under
//! TCG and then under KVM; KVM is used if it prints its line without taking much longer.

use std::fmt;
use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use super::boot::{Ended, Exit, boot};
use super::machine::{Accel, Machine};
use super::tiny_guest::{self, End};
use crate::failure::{About, Result};
use crate::host;

/// How long the tiny guest may take under KVM when nothing else will do.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much longer than under TCG it may take when TCG would do: starting KVM has a price of its own.
const HANDICAP: Duration = Duration::from_millis(300);

/// What trying KVM showed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kvm {
    /// It runs guests.
    Works,
    /// It does not, or not well, for this reason.
    Unusable(String),
}

impl fmt::Display for Kvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("KVM"),
            Self::Unusable(why) => write!(f, "TCG ({why})"),
        }
    }
}

impl Kvm {
    /// Tries whether KVM runs guests at all.
    ///
    /// # Errors
    ///
    /// When the guest's file cannot be written, or QEMU not be started at all.
    pub(crate) fn try_it(qemu: &Path) -> Result<Self> {
        Self::try_within(qemu, PATIENCE)
    }

    /// Tries whether KVM runs guests, and no slower than TCG does.
    ///
    /// # Errors
    ///
    /// As [`try_it`](Self::try_it).
    pub(crate) fn try_against_tcg(qemu: &Path) -> Result<Self> {
        let tcg = tiny_boot(qemu, Accel::Tcg, PATIENCE)?;
        Self::try_within(qemu, tcg.took + HANDICAP)
    }

    fn try_within(qemu: &Path, limit: Duration) -> Result<Self> {
        // Faster than QEMU, and it names the usual reason.
        if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            return Ok(Self::Unusable(format!("/dev/kvm: {error}")));
        }
        let ended = tiny_boot(qemu, Accel::Kvm, limit)?;
        Ok(match ended.exit {
            Exit::Success if ended.log == "alive\n" => Self::Works,
            Exit::TimedOut(limit) => Self::Unusable(format!(
                "KVM is there, but its guest of one line takes more than {:.1} s",
                limit.as_secs_f64()
            )),
            exit => Self::Unusable(format!("KVM is there and does not run a guest: {exit}")),
        })
    }

    /// Whether the host's CPU, which KVM passes on, has 5-level paging.
    pub(crate) fn has_la57() -> bool {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
        flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "la57"))
    }
}

fn tiny_boot(qemu: &Path, accel: Accel, limit: Duration) -> Result<Ended> {
    let file = host::scratch_dir().about("target")?.join("tiny-guest.elf");
    std::fs::write(&file, tiny_guest::elf("alive", End::Success)).about(file.display())?;
    let machine = Machine {
        mem_mib: 64,
        accel,
        ..Machine::default()
    };
    boot(machine.command(qemu, &file), limit, |_| {})
}
