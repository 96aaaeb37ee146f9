//! Would this access fault, and how? The access-rights rules of the CPU (Intel SDM vol. 3, sections 5.6 and 5.7).

use core::fmt;

use kspace_layout::VirtAddr;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A load.
    Read,
    /// A store, or a read-modify-write.
    Write,
    /// An instruction fetch.
    Fetch,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Fetch => "fetch",
        })
    }
}

/// One access that somebody means to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Intent {
    /// What it does.
    pub operation: Operation,
    /// Whether it is made in user mode (CPL 3). The CPU's own accesses to its tables are not, whatever the CPL.
    pub user: bool,
}

impl Intent {
    /// An access by the kernel.
    #[must_use]
    pub const fn kernel(operation: Operation) -> Self {
        Self {
            operation,
            user: false,
        }
    }

    /// An access in user mode.
    #[must_use]
    pub const fn user(operation: Operation) -> Self {
        Self {
            operation,
            user: true,
        }
    }
}

/// The control bits of a CPU that decide about accesses. Whether no-execute is enabled is in [`Limits`](crate::Limits), because
/// it also decides which bits are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Controls {
    /// CR0.WP: the kernel cannot write to read-only pages either.
    pub write_protect: bool,
    /// CR4.SMEP: the kernel cannot execute user pages.
    pub smep: bool,
    /// CR4.SMAP: the kernel cannot touch user pages…
    pub smap: bool,
    /// …unless EFLAGS.AC is set.
    pub alignment_check: bool,
}

impl Controls {
    /// A kernel's everyday state: WP, SMEP and SMAP on, AC off.
    pub const KERNEL: Self = Self {
        write_protect: true,
        smep: true,
        smap: true,
        alignment_check: false,
    };

    /// All off, as after a reset.
    pub const NONE: Self = Self {
        write_protect: false,
        smep: false,
        smap: false,
        alignment_check: false,
    };
}

/// Why an access faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultCause {
    /// The address is not canonical in this mode: a general-protection (or stack) fault, before any table is read.
    NotCanonical,
    /// An entry is not present.
    NotPresent,
    /// A present entry has these bits set, which the machine reserves. In one of PAE's root entries they make the load of CR3
    /// fail instead (Intel); CPUs that read the root entry on each walk (AMD) raise the page fault.
    ReservedBits(u64),
    /// A level forbids writes.
    Write,
    /// A level forbids user mode.
    User,
    /// A level forbids instruction fetches.
    Fetch,
    /// The kernel executes a user page, with SMEP on.
    Smep,
    /// The kernel touches a user page, with SMAP on and AC off.
    Smap,
}

impl fmt::Display for FaultCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCanonical => f.write_str("not canonical"),
            Self::NotPresent => f.write_str("not present"),
            Self::ReservedBits(bits) => write!(f, "reserved bits {bits:#x} are set"),
            Self::Write => f.write_str("read-only"),
            Self::User => f.write_str("supervisor only"),
            Self::Fetch => f.write_str("not executable"),
            Self::Smep => f.write_str("user page, executed by the kernel (SMEP)"),
            Self::Smap => f.write_str("user page, touched by the kernel (SMAP)"),
        }
    }
}

/// The fault that an access raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Where the access went.
    pub address: VirtAddr,
    /// What it meant to do.
    pub intent: Intent,
    /// The level of the entry to blame, the highest if several; `None` when no table was read.
    pub level: Option<u8>,
    /// What is wrong.
    pub cause: FaultCause,
    /// The error code that the page fault pushes (see [`error_code`]); `None` for an address that is not canonical, which is no
    /// page fault.
    pub error_code: Option<u32>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.intent.user { "user" } else { "kernel" };
        write!(
            f,
            "{mode} {} at {}: {}",
            self.intent.operation, self.address, self.cause
        )?;
        if let Some(level) = self.level {
            write!(f, " at level {level}")?;
        }
        match self.error_code {
            Some(code) => write!(f, " (page fault, error code {code:#x})"),
            None => f.write_str(" (general protection)"),
        }
    }
}

/// The bits of a page fault's error code (Intel SDM vol. 3, section 5.7).
pub mod error_code {
    /// The fault came from a present translation: rights or reserved bits.
    pub const PRESENT: u32 = 1 << 0;
    /// The access was a write.
    pub const WRITE: u32 = 1 << 1;
    /// The access was made in user mode.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit was set.
    pub const RESERVED: u32 = 1 << 3;
    /// The access was an instruction fetch; only reported with SMEP, or where there is a no-execute bit in force.
    pub const FETCH: u32 = 1 << 4;
}

/// The rights an access needs from every level, and what else it must not meet, given the whole translation's U/S.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    pub(crate) write: bool,
    pub(crate) user: bool,
    pub(crate) execute: bool,
}

impl Intent {
    /// What the tables must grant.
    pub(crate) const fn needs(self, controls: Controls) -> Needs {
        Needs {
            write: matches!(self.operation, Operation::Write)
                && (self.user || controls.write_protect),
            user: self.user,
            execute: matches!(self.operation, Operation::Fetch),
        }
    }

    /// The error code of a page fault that this access raises.
    pub(crate) const fn error_code(
        self,
        cause: FaultCause,
        controls: Controls,
        reports_fetches: bool,
    ) -> u32 {
        let mut code = match cause {
            FaultCause::NotPresent => 0,
            FaultCause::ReservedBits(_) => error_code::PRESENT | error_code::RESERVED,
            _ => error_code::PRESENT,
        };
        if self.user {
            code |= error_code::USER;
        }
        match self.operation {
            Operation::Read => {}
            Operation::Write => code |= error_code::WRITE,
            Operation::Fetch => {
                if controls.smep || reports_fetches {
                    code |= error_code::FETCH;
                }
            }
        }
        code
    }
}
