//! What is asked for.

use core::fmt;

use kspace_frames::Owner;
use kspace_frames::zone::NodeId;
use kspace_layout::{FRAME_SIZE, PageSize};
use kspace_paging::{Access, CacheType, Protection};

use super::ProtectionProblem;

/// What an area is for. The numbers are in the books on areas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Memory: frames of its own.
    Memory = 0,
    /// A stack: frames of its own.
    Stack = 1,
    /// Code: frames of its own.
    Executable = 2,
    /// Frames that somebody gave.
    Frames = 3,
    /// Frames that somebody gave, for a short time.
    ShortLived = 4,
    /// A device's registers or memory.
    Device = 5,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Memory,
        Self::Stack,
        Self::Executable,
        Self::Frames,
        Self::ShortLived,
        Self::Device,
    ];

    /// The kind with this number, from the books.
    pub(super) fn from_raw(raw: u64) -> Self {
        let index = usize::try_from(raw).unwrap_or(usize::MAX);
        Self::ALL.get(index).copied().unwrap_or(Self::Memory)
    }

    /// Whether the frames belong to the area, and are freed with it.
    #[inline]
    #[must_use]
    pub const fn owns_frames(self) -> bool {
        matches!(self, Self::Memory | Self::Stack | Self::Executable)
    }

    /// As [`owns_frames`](Self::owns_frames), by a number from the books.
    #[inline(always)]
    pub(super) const fn raw_owns_frames(raw: u64) -> bool {
        // Those that do come first.
        raw < Self::Frames as u64
    }

    /// Whose frames they are in the books on frames.
    #[inline]
    pub(super) const fn owner(self) -> Owner {
        match self {
            Self::Stack => Owner::STACK,
            _ => Owner::VMALLOC,
        }
    }
}

/// As `/proc/vmallocinfo` calls them.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Memory => "vmalloc",
            Self::Stack => "stack",
            Self::Executable => "executable",
            Self::Frames => "vmap",
            Self::ShortLived => "vm_map_ram",
            Self::Device => "ioremap",
        })
    }
}

/// A request for an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaRequest {
    pub(super) bytes: u64,
    pub(super) align: u64,
    pub(crate) kind: Kind,
    pub(super) protection: Protection,
    pub(super) node: Option<NodeId>,
    pub(super) zeroed: bool,
    pub(super) user: bool,
    pub(super) small_pages: bool,
    pub(super) strict: bool,
}

impl AreaRequest {
    /// At least so many bytes of writable memory, at any page.
    #[inline]
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self {
            bytes,
            align: FRAME_SIZE,
            kind: Kind::Memory,
            protection: Protection::kernel(Access::ReadWrite),
            node: None,
            zeroed: false,
            user: false,
            small_pages: false,
            strict: false,
        }
    }

    /// At a multiple of so many bytes: a power of two. Less than a page counts as a page.
    #[inline]
    #[must_use]
    pub const fn aligned(self, bytes: u64) -> Self {
        Self {
            align: bytes,
            ..self
        }
    }

    /// For something else than memory.
    #[inline]
    #[must_use]
    pub const fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// With other rights.
    #[inline]
    #[must_use]
    pub const fn protection(self, protection: Protection) -> Self {
        Self { protection, ..self }
    }

    /// Near to a node, and not to this CPU's.
    #[inline]
    #[must_use]
    pub const fn node(self, node: NodeId) -> Self {
        Self {
            node: Some(node),
            ..self
        }
    }

    /// From no other node than the one that is [named](Self::node), or this CPU's (Linux: `__GFP_THISNODE`). Page tables may come from anywhere.
    #[inline]
    #[must_use]
    pub const fn this_node(self) -> Self {
        Self {
            strict: true,
            ..self
        }
    }

    /// In large pages wherever there are blocks for them, at its end too: the size is rounded up to whole 2 MiB (Linux: `vmalloc_huge`). What
    /// is smaller than 2 MiB has small pages without this; what is larger has large ones anyway, except at its end.
    #[inline]
    #[must_use]
    pub const fn huge(self) -> Self {
        // What is too large to be rounded is too large.
        let bytes = match self
            .bytes
            .checked_next_multiple_of(PageSize::Size2M.bytes())
        {
            Some(bytes) => bytes,
            None => self.bytes,
        };
        Self { bytes, ..self }
    }

    /// In pages of 4 KiB only (Linux: `VM_NO_HUGE_VMAP`): for who changes the rights of single pages later, and would split large ones.
    #[inline]
    #[must_use]
    pub const fn small_pages(self) -> Self {
        Self {
            small_pages: true,
            ..self
        }
    }

    /// Why its rights are refused.
    pub(super) const fn protection_problem(&self) -> Option<ProtectionProblem> {
        let Protection {
            access,
            user,
            cache,
            ..
        } = self.protection;
        if user {
            Some(ProtectionProblem::User)
        } else if matches!(access, Access::ReadExecute) {
            Some(ProtectionProblem::Executable)
        } else if !matches!(
            (self.kind, cache),
            (Kind::Device, _) | (_, CacheType::WriteBack)
        ) {
            Some(ProtectionProblem::Cache)
        } else {
            None
        }
    }

    /// To be [mapped in user spaces](crate::user), too: filled with zeros, so that nothing of others is shown there (Linux: `vmalloc_user`,
    /// `VM_USERMAP`). Only plain memory can be.
    #[inline]
    #[must_use]
    pub const fn user_mappable(self) -> Self {
        Self {
            zeroed: true,
            user: true,
            ..self
        }
    }

    /// Whether it asks for what user spaces may have: data that nobody executes.
    pub(super) fn is_for_users(&self) -> bool {
        self.kind == Kind::Memory && self.protection.access != Access::ReadExecute
    }

    /// Filled with zeros.
    #[inline]
    #[must_use]
    pub const fn zeroed(self) -> Self {
        Self {
            zeroed: true,
            ..self
        }
    }
}
