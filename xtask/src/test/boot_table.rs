//! The boots as data: one row per question asked of the kernel.
//!
//! A row says what the machine is, how the boot must end, which lines must come in which order, and which must never come. The
//! expected addresses are Linux's own (Documentation/arch/x86/x86_64/mm.rst), not this project's constants.

use super::start_info::Alteration;

/// How a boot must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The kernel says that all is well, and prints its block.
    Success,
    /// The kernel says what is wrong and ends the machine itself.
    Failure,
}

/// One boot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootCase {
    /// What the boot shows.
    pub(crate) name: &'static str,
    /// RAM in MiB.
    pub(crate) mem_mib: u64,
    /// Number of CPUs.
    pub(crate) cpus: u32,
    /// CPU features taken away.
    pub(crate) without: &'static [&'static str],
    /// The kernel's command line.
    pub(crate) append: &'static str,
    /// What is altered before the first instruction.
    pub(crate) altered: Option<Alteration>,
    /// How it ends.
    pub(crate) ends: Ending,
    /// Texts that lines must contain, in this order.
    pub(crate) says: &'static [&'static str],
    /// Texts that no line may contain.
    pub(crate) never: &'static [&'static str],
    /// Only with `--all`.
    pub(crate) slow: bool,
}

impl BootCase {
    /// A boot of the usual machine that succeeds; rows change what is different.
    pub(crate) const USUAL: Self = Self {
        name: "",
        mem_mib: 256,
        cpus: 1,
        without: &[],
        append: "",
        altered: None,
        ends: Ending::Success,
        says: &[],
        never: &["panicked"],
        slow: false,
    };
}

/// The boots.
pub(crate) const BOOTS: &[BootCase] = &[BootCase {
    name: "5-level, KASLR",
    says: &["virtual kernel memory layout:"],
    ..BootCase::USUAL
}];
