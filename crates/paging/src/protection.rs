//! What a mapping allows: what an editor is asked for, and what a walker finds.
//!
//! The two differ on purpose. A [`Protection`] cannot say "writable and executable"; [`Attributes`] can, because a walker reads
//! tables that others wrote.

use core::fmt;

use crate::CacheType;

/// What accesses a mapping allows. Reading is always allowed: x86 has no way to forbid it on a present page.
///
/// Writable and executable together has no name here, so no caller can ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads only.
    ReadOnly,
    /// Reads and writes, no instruction fetch.
    ReadWrite,
    /// Reads and instruction fetches, no write.
    ReadExecute,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "writable",
            Self::ReadExecute => "executable",
        })
    }
}

/// What an editor is asked to give a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protection {
    /// The accesses allowed.
    pub access: Access,
    /// Whether user mode may use the page (the U/S bit). The kernel's own use of it is then subject to SMEP and SMAP.
    pub user: bool,
    /// Whether the translation survives a CR3 write (the G bit; it counts once CR4.PGE is set).
    pub global: bool,
    /// How the CPU caches the page.
    pub cache: CacheType,
}

impl Protection {
    /// Kernel code: read and execute.
    pub const KERNEL_TEXT: Self = Self::kernel(Access::ReadExecute);
    /// Kernel constants: read.
    pub const KERNEL_RODATA: Self = Self::kernel(Access::ReadOnly);
    /// Kernel data, and the direct map: read and write.
    pub const KERNEL_DATA: Self = Self::kernel(Access::ReadWrite);

    /// A global, write-back, supervisor mapping.
    #[inline]
    #[must_use]
    pub const fn kernel(access: Access) -> Self {
        Self {
            access,
            user: false,
            global: true,
            cache: CacheType::WriteBack,
        }
    }

    /// A write-back mapping for user mode, not global.
    #[inline]
    #[must_use]
    pub const fn user(access: Access) -> Self {
        Self {
            access,
            user: true,
            global: false,
            cache: CacheType::WriteBack,
        }
    }

    /// The same with another cache type.
    #[inline]
    #[must_use]
    pub const fn with_cache(self, cache: CacheType) -> Self {
        Self { cache, ..self }
    }
}

/// What a walker finds a mapping to be: the rights of all its levels together, and the leaf's own bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// Every level allows writes.
    pub write: bool,
    /// Every level allows user mode.
    pub user: bool,
    /// No level forbids execution (or the machine has no such bit).
    pub execute: bool,
    /// The leaf is global.
    pub global: bool,
    /// The cache type that the leaf selects.
    pub cache: CacheType,
    /// The leaf has been used.
    pub accessed: bool,
    /// The leaf has been written through.
    pub dirty: bool,
}

impl Attributes {
    /// Whether the mapping can be both written and executed, which no mapping of ours ever may.
    #[inline]
    #[must_use]
    pub const fn is_write_execute(&self) -> bool {
        self.write && self.execute
    }

    /// Whether the mapping is what `protection` asks for; accessed and dirty do not count.
    #[inline]
    #[must_use]
    pub fn grants(&self, protection: Protection) -> bool {
        self.write == (protection.access == Access::ReadWrite)
            && self.execute == (protection.access == Access::ReadExecute)
            && self.user == protection.user
            && self.global == protection.global
            && self.cache == protection.cache
    }

    /// The same, but with accessed and dirty off: for comparisons where they do not count.
    #[inline]
    #[must_use]
    pub const fn without_history(self) -> Self {
        Self {
            accessed: false,
            dirty: false,
            ..self
        }
    }
}

/// `rw- supervisor global write-back`: the rights, who has them, and what is special.
impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "r{}{} {}{} {}",
            if self.write { 'w' } else { '-' },
            if self.execute { 'x' } else { '-' },
            if self.user { "user" } else { "supervisor" },
            if self.global { " global" } else { "" },
            self.cache,
        )
    }
}
