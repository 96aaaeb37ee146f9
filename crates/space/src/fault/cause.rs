//! What was wrong with an access.

use core::fmt;

use kspace_paging::access::error_code;
use kspace_paging::{Operation, Walk};

use super::{PageFault, Spot};

/// Bit 5 of the error code: a protection key forbids the access (Intel SDM vol. 3, section 5.7).
const PROTECTION_KEY: u32 = 1 << 5;
/// Bit 6: the access was one to a shadow stack (the same section).
const SHADOW_STACK: u32 = 1 << 6;

/// Why the CPU refused an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No page is mapped there.
    NotMapped,
    /// The page allows no writes.
    ReadOnly,
    /// The page allows no instruction fetches.
    NotExecutable,
    /// User mode touched a page of the kernel.
    KernelOnly,
    /// The kernel touched a user page outside the places where it may (CR4.SMAP).
    Smap,
    /// The kernel executed a user page (CR4.SMEP).
    Smep,
    /// A protection key forbids it.
    ProtectionKey,
    /// A shadow-stack access to a page that is none, or the other way round.
    ShadowStack,
    /// An entry has bits set that must be zero: the page tables are damaged.
    ReservedBits,
    /// The mode has no such address.
    NotCanonical,
    /// The page is there and allows the access, by the error code.
    Unclear,
}

impl Cause {
    pub(super) fn of(fault: &PageFault, spot: &Spot, walk: Option<&Walk>) -> Self {
        let has = |bit| fault.error_code & bit != 0;
        let intent = fault.intent();
        if has(error_code::RESERVED) {
            return Self::ReservedBits;
        }
        if !has(error_code::PRESENT) {
            return Self::NotMapped;
        }
        if has(PROTECTION_KEY) {
            return Self::ProtectionKey;
        }
        if has(SHADOW_STACK) {
            return Self::ShadowStack;
        }
        let attributes = walk.and_then(Walk::page).map(|page| page.attributes);
        let user_page = attributes.map_or(spot.is_user(), |attributes| attributes.user);
        let read_only = attributes.is_some_and(|attributes| !attributes.write);
        match (intent.user, user_page, intent.operation) {
            (true, false, _) => Self::KernelOnly,
            (false, true, Operation::Fetch) => Self::Smep,
            (_, _, Operation::Fetch) => Self::NotExecutable,
            // SMAP is checked before the right to write; the error code does not say which it was.
            (false, true, Operation::Write) if read_only => Self::ReadOnly,
            (false, true, _) => Self::Smap,
            (_, _, Operation::Write) => Self::ReadOnly,
            (_, _, Operation::Read) => Self::Unclear,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotMapped => "not mapped",
            Self::ReadOnly => "read-only",
            Self::NotExecutable => "not executable",
            Self::KernelOnly => "not for user mode",
            Self::Smap => "user page, closed to the kernel by SMAP",
            Self::Smep => "user page, which the kernel may not execute (SMEP)",
            Self::ProtectionKey => "forbidden by a protection key",
            Self::ShadowStack => "wrong kind of page for a shadow-stack access",
            Self::ReservedBits => "damaged page tables (a reserved bit is set)",
            Self::NotCanonical => "not canonical",
            Self::Unclear => "present, and the error code does not say what is wrong",
        })
    }
}
