//! Conversions to and from the address types of the `x86_64` crate (feature `x86_64`).
//!
//! Its `VirtAddr` is canonical for 48 bits, ours for 57, so theirs always converts and ours may not. Physical addresses have 52
//! bits in both.

use crate::{PhysAddr, VirtAddr};

impl From<x86_64::VirtAddr> for VirtAddr {
    fn from(address: x86_64::VirtAddr) -> Self {
        // Canonical for 48 bits implies canonical for 57.
        Self::new(address.as_u64())
    }
}

impl TryFrom<VirtAddr> for x86_64::VirtAddr {
    type Error = x86_64::addr::VirtAddrNotValid;

    fn try_from(address: VirtAddr) -> Result<Self, Self::Error> {
        Self::try_new(address.as_u64())
    }
}

impl From<x86_64::PhysAddr> for PhysAddr {
    fn from(address: x86_64::PhysAddr) -> Self {
        Self::new(address.as_u64())
    }
}

impl TryFrom<PhysAddr> for x86_64::PhysAddr {
    type Error = x86_64::addr::PhysAddrNotValid;

    fn try_from(address: PhysAddr) -> Result<Self, Self::Error> {
        Self::try_new(address.as_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn theirs_always_converts() {
        let low = x86_64::VirtAddr::new(0x7fff_ffff_ffff);
        let high = x86_64::VirtAddr::new(0xffff_8000_0000_0000);
        assert_eq!(VirtAddr::from(low).as_u64(), low.as_u64());
        assert_eq!(VirtAddr::from(high).as_u64(), high.as_u64());
        let last = x86_64::PhysAddr::new((1 << 52) - 1);
        assert_eq!(PhysAddr::from(last), PhysAddr::LAST);
    }

    #[test]
    fn ours_converts_where_it_has_48_bits() {
        let four_level = VirtAddr::new(0xffff_8880_0000_0000);
        assert_eq!(
            x86_64::VirtAddr::try_from(four_level).unwrap().as_u64(),
            four_level.as_u64()
        );
        let five_level = VirtAddr::new(0xff11_0000_0000_0000);
        assert_eq!(
            x86_64::VirtAddr::try_from(five_level).unwrap_err().0,
            five_level.as_u64()
        );
        assert_eq!(
            x86_64::PhysAddr::try_from(PhysAddr::LAST).unwrap().as_u64(),
            (1 << 52) - 1
        );
    }
}
