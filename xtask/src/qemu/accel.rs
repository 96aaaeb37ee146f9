//! Which accelerator runs guests here: KVM is tried before it is trusted.
//!
//! `/dev/kvm` may be there and yet not run an ordinary guest (nested virtualisation, a container without the device's rights), and
//! some fail only after the guest's first instructions. So a tiny guest is booted under KVM; if it does not print its line in
//! time, TCG runs everything.

use std::fmt;
use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use super::boot::{Exit, boot};
use super::machine::{Accel, Machine};
use super::tiny_guest::{self, End};
use crate::failure::{About, Result};
use crate::host;

/// How long the tiny guest may take; where KVM works it takes a fraction of a second.
const PATIENCE: Duration = Duration::from_secs(4);

/// What trying KVM showed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kvm {
    /// It runs guests.
    Works,
    /// It does not, for this reason.
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
    /// Tries KVM with a tiny guest.
    ///
    /// # Errors
    ///
    /// When the guest's file cannot be written, or QEMU not be started at all.
    pub(crate) fn try_it(qemu: &Path) -> Result<Self> {
        // Faster than QEMU, and it names the usual reason.
        if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            return Ok(Self::Unusable(format!("/dev/kvm: {error}")));
        }
        let file = host::scratch_dir().about("target")?.join("tiny-guest.elf");
        std::fs::write(&file, tiny_guest::elf("alive", End::Success)).about(file.display())?;
        let machine = Machine {
            mem_mib: 64,
            accel: Accel::Kvm,
            ..Machine::default()
        };
        let ended = boot(machine.command(qemu, &file), PATIENCE, |_| {})?;
        Ok(if ended.exit == Exit::Success && ended.log == "alive\n" {
            Self::Works
        } else {
            Self::Unusable(format!(
                "/dev/kvm is there and does not run a guest: {}",
                ended.exit
            ))
        })
    }

    /// Whether the host's CPU, which KVM passes on, has 5-level paging.
    pub(crate) fn has_la57() -> bool {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
        flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "la57"))
    }
}
