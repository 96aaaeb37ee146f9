//! Physical and virtual addresses, and page frame numbers.
//!
//! Three newtypes, so that an address of one kind cannot be passed where another is meant:
//!
//! ```text
//!   VirtAddr   what an instruction uses      canonical for 57 bits: 0 .. 2^56 and its mirror at the top
//!   PhysAddr   what the memory bus sees      0 .. 2^52
//!   Pfn        which 4 KiB frame that is     PhysAddr / 4096, 0 .. 2^40
//! ```
//!
//! A [`VirtAddr`] is canonical for the widest mode (5-level, 57 bits). Whether it is also valid in a narrower mode is a
//! question for [`PagingMode::contains`](crate::PagingMode::contains). On 32-bit x86 addresses are zero-extended, so every one
//! of them is a `VirtAddr` below 4 GiB.
//!
//! Arithmetic never wraps and never jumps the canonical hole: it returns an [`AddressError`] that says so.

use core::fmt;

/// The size of the smallest page and of a frame: 4 KiB (Intel SDM vol. 3, section 5.3).
pub const FRAME_SIZE: u64 = 4096;

/// Bits of the widest physical address that x86 defines (Intel SDM vol. 3, section 5.1.4: MAXPHYADDR is at most 52).
pub const PHYS_ADDR_BITS: u32 = 52;

/// Bits of the widest virtual address, that of 5-level paging (Intel SDM vol. 3, section 5.5).
pub const VIRT_ADDR_BITS: u32 = 57;

/// Why a number is not an address, or why an addition has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// Bits 56 to 63 of a virtual address are not all equal.
    NotCanonical(u64),
    /// A physical address needs more than 52 bits.
    PhysTooWide(u64),
    /// Adding `offset` to the virtual address `start` runs into the canonical hole or past the last address.
    VirtOverflow {
        /// Where the addition began.
        start: u64,
        /// What was added, in bytes.
        offset: u64,
    },
    /// Adding `offset` to the physical address `start` passes 2^52.
    PhysOverflow {
        /// Where the addition began.
        start: u64,
        /// What was added, in bytes.
        offset: u64,
    },
    /// A range of no bytes was asked for at this address.
    EmptyRange(u64),
    /// The last address of a range is below its first.
    ReversedRange {
        /// The first address asked for.
        start: u64,
        /// The last address asked for.
        last: u64,
    },
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotCanonical(value) => {
                write!(
                    f,
                    "{value:016x} is not a virtual address: bits 56 to 63 must be equal"
                )
            }
            Self::PhysTooWide(value) => {
                write!(
                    f,
                    "{value:016x} is not a physical address: x86 has at most 52 bits"
                )
            }
            Self::VirtOverflow { start, offset } => write!(
                f,
                "{start:016x} plus {offset:#x} leaves the canonical half that it began in"
            ),
            Self::PhysOverflow { start, offset } => {
                write!(
                    f,
                    "{start:016x} plus {offset:#x} passes the last physical address"
                )
            }
            Self::EmptyRange(start) => write!(f, "a range at {start:016x} has no bytes"),
            Self::ReversedRange { start, last } => {
                write!(
                    f,
                    "a range ends at {last:016x}, before its start {start:016x}"
                )
            }
        }
    }
}

impl core::error::Error for AddressError {}

/// A virtual (linear) address, canonical for 57 bits.
///
/// # Invariants
///
/// Bits 56 to 63 are equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct VirtAddr(u64);

impl VirtAddr {
    /// Address zero, the first of the user half.
    pub const ZERO: Self = Self(0);
    /// The very last address.
    pub const LAST: Self = Self(u64::MAX);

    /// Checks that `value` is canonical for 57 bits.
    ///
    /// # Errors
    ///
    /// [`AddressError::NotCanonical`] when bits 56 to 63 differ.
    #[inline]
    pub const fn try_new(value: u64) -> Result<Self, AddressError> {
        if is_canonical(value) {
            Ok(Self(value))
        } else {
            Err(AddressError::NotCanonical(value))
        }
    }

    /// As [`try_new`](Self::try_new), for constants.
    ///
    /// # Panics
    ///
    /// When `value` is not canonical; in a `const` that is a compile error.
    #[inline]
    #[must_use]
    pub const fn new(value: u64) -> Self {
        assert!(
            is_canonical(value),
            "virtual address is not canonical for 57 bits"
        );
        Self(value)
    }

    /// The address as a number.
    #[inline]
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// `self + offset`, in bytes.
    ///
    /// # Errors
    ///
    /// [`AddressError::VirtOverflow`] when the sum wraps, or is in the canonical hole or beyond it.
    #[inline]
    pub const fn checked_add(self, offset: u64) -> Result<Self, AddressError> {
        match self.0.checked_add(offset) {
            // A sum in the other half would have jumped the hole, so the halves must be the same.
            Some(sum) if is_canonical(sum) && (sum >> 63) == (self.0 >> 63) => Ok(Self(sum)),
            _ => Err(AddressError::VirtOverflow {
                start: self.0,
                offset,
            }),
        }
    }

    /// How many bytes `self` lies above `base`; `None` when it lies below.
    #[inline]
    #[must_use]
    pub const fn offset_from(self, base: Self) -> Option<u64> {
        self.0.checked_sub(base.0)
    }

    /// The largest multiple of `align` that is not above `self`. `align` must be a power of two.
    ///
    /// The result is canonical: clearing low bits keeps an address in its half, whose start every power of two up to 2^56
    /// divides.
    ///
    /// # Panics
    ///
    /// When `align` is not a power of two or exceeds 2^56.
    #[inline]
    #[must_use]
    pub const fn align_down(self, align: u64) -> Self {
        assert!(align.is_power_of_two() && align <= 1 << (VIRT_ADDR_BITS - 1));
        Self(self.0 & !(align - 1))
    }

    /// The smallest multiple of `align` that is not below `self`.
    ///
    /// # Errors
    ///
    /// [`AddressError::VirtOverflow`] when that multiple would lie in the canonical hole or past the end.
    ///
    /// # Panics
    ///
    /// When `align` is not a power of two or exceeds 2^56.
    #[inline]
    pub const fn align_up(self, align: u64) -> Result<Self, AddressError> {
        let down = self.align_down(align);
        if down.0 == self.0 {
            Ok(self)
        } else {
            down.checked_add(align)
        }
    }

    /// Whether `self` is a multiple of `align`, a power of two.
    ///
    /// # Panics
    ///
    /// When `align` is not a power of two.
    #[inline]
    #[must_use]
    pub const fn is_aligned(self, align: u64) -> bool {
        assert!(align.is_power_of_two());
        self.0 & (align - 1) == 0
    }
}

const fn is_canonical(value: u64) -> bool {
    let shift = 64 - VIRT_ADDR_BITS;
    (((value << shift) as i64) >> shift) as u64 == value
}

/// A physical address, below 2^52.
///
/// # Invariants
///
/// Bits 52 to 63 are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// The first byte of memory.
    pub const ZERO: Self = Self(0);
    /// The last address that x86 can name.
    pub const LAST: Self = Self((1 << PHYS_ADDR_BITS) - 1);

    /// Checks that `value` fits in 52 bits.
    ///
    /// # Errors
    ///
    /// [`AddressError::PhysTooWide`] when it does not.
    #[inline]
    pub const fn try_new(value: u64) -> Result<Self, AddressError> {
        if value <= Self::LAST.0 {
            Ok(Self(value))
        } else {
            Err(AddressError::PhysTooWide(value))
        }
    }

    /// As [`try_new`](Self::try_new), for constants.
    ///
    /// # Panics
    ///
    /// When `value` needs more than 52 bits; in a `const` that is a compile error.
    #[inline]
    #[must_use]
    pub const fn new(value: u64) -> Self {
        assert!(
            value <= Self::LAST.0,
            "physical address is wider than 52 bits"
        );
        Self(value)
    }

    /// The address as a number.
    #[inline]
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The frame that holds this address.
    #[inline]
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 / FRAME_SIZE)
    }

    /// `self + offset`, in bytes.
    ///
    /// # Errors
    ///
    /// [`AddressError::PhysOverflow`] when the sum passes 2^52.
    #[inline]
    pub const fn checked_add(self, offset: u64) -> Result<Self, AddressError> {
        match self.0.checked_add(offset) {
            Some(sum) if sum <= Self::LAST.0 => Ok(Self(sum)),
            _ => Err(AddressError::PhysOverflow {
                start: self.0,
                offset,
            }),
        }
    }

    /// How many bytes `self` lies above `base`; `None` when it lies below.
    #[inline]
    #[must_use]
    pub const fn offset_from(self, base: Self) -> Option<u64> {
        self.0.checked_sub(base.0)
    }

    /// The largest multiple of `align`, a power of two, that is not above `self`.
    ///
    /// # Panics
    ///
    /// When `align` is not a power of two.
    #[inline]
    #[must_use]
    pub const fn align_down(self, align: u64) -> Self {
        assert!(align.is_power_of_two());
        Self(self.0 & !(align - 1))
    }

    /// The smallest multiple of `align` that is not below `self`.
    ///
    /// # Errors
    ///
    /// [`AddressError::PhysOverflow`] when that multiple passes 2^52.
    ///
    /// # Panics
    ///
    /// When `align` is not a power of two.
    #[inline]
    pub const fn align_up(self, align: u64) -> Result<Self, AddressError> {
        let down = self.align_down(align);
        if down.0 == self.0 {
            Ok(self)
        } else {
            down.checked_add(align)
        }
    }

    /// Whether `self` is a multiple of `align`, a power of two.
    ///
    /// # Panics
    ///
    /// When `align` is not a power of two.
    #[inline]
    #[must_use]
    pub const fn is_aligned(self, align: u64) -> bool {
        assert!(align.is_power_of_two());
        self.0 & (align - 1) == 0
    }
}

/// A page frame number: a physical address divided by 4096.
///
/// # Invariants
///
/// Below 2^40, so that its address fits in 52 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Pfn(u64);

impl Pfn {
    /// Checks that the frame's address fits in 52 bits.
    ///
    /// # Errors
    ///
    /// [`AddressError::PhysTooWide`], with the address (or `u64::MAX` when even that overflows).
    #[inline]
    pub const fn try_new(value: u64) -> Result<Self, AddressError> {
        if value <= PhysAddr::LAST.0 / FRAME_SIZE {
            Ok(Self(value))
        } else {
            Err(AddressError::PhysTooWide(value.saturating_mul(FRAME_SIZE)))
        }
    }

    /// As [`try_new`](Self::try_new), for constants.
    ///
    /// # Panics
    ///
    /// When `value` is 2^40 or more; in a `const` that is a compile error.
    #[inline]
    #[must_use]
    pub const fn new(value: u64) -> Self {
        assert!(
            value <= PhysAddr::LAST.0 / FRAME_SIZE,
            "page frame number is wider than 40 bits"
        );
        Self(value)
    }

    /// The number itself.
    #[inline]
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The address of the frame's first byte.
    #[inline]
    #[must_use]
    pub const fn start(self) -> PhysAddr {
        PhysAddr(self.0 * FRAME_SIZE)
    }
}

macro_rules! print_as_hex {
    ($($type:ident, $width:literal;)*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({:0", $width, "x})"), self.0)
            }
        }
        impl fmt::LowerHex for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
        impl From<$type> for u64 {
            fn from(value: $type) -> u64 {
                value.0
            }
        }
    )*};
}

print_as_hex! {
    VirtAddr, 16;
    PhysAddr, 16;
    Pfn, 1;
}

impl TryFrom<u64> for VirtAddr {
    type Error = AddressError;
    fn try_from(value: u64) -> Result<Self, AddressError> {
        Self::try_new(value)
    }
}

impl TryFrom<u64> for PhysAddr {
    type Error = AddressError;
    fn try_from(value: u64) -> Result<Self, AddressError> {
        Self::try_new(value)
    }
}
