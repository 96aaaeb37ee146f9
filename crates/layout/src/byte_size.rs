//! Sizes for people: `4 KiB`, `4.1 KiB`, `12.5 PiB`.
//!
//! Messages and pictures use binary units by their unambiguous names. The printed block does not: Linux prints `kB` and `MB`
//! there, see [`Block`](crate::Block).

use core::fmt;

/// A number of bytes that prints in the largest binary unit it reaches, with at most one decimal, cut and not rounded.
///
/// ```
/// # use kspace_layout::ByteSize;
/// assert_eq!(ByteSize(4096).to_string(), "4 KiB");
/// assert_eq!(ByteSize(4200).to_string(), "4.1 KiB");
/// assert_eq!(ByteSize(25 << 49).to_string(), "12.5 PiB");
/// assert_eq!(ByteSize(17).to_string(), "17 bytes");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Units from 2^10 upwards, one every ten bits. 2^64 - 1 is 15.9 EiB.
const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            return write!(f, "{} byte{}", self.0, if self.0 == 1 { "" } else { "s" });
        }
        let unit = self.0.ilog2() / 10;
        let whole = self.0 >> (10 * unit);
        // The next ten bits are 1024ths of the unit: enough for one decimal, and small enough to multiply.
        let thousandths = (self.0 >> (10 * (unit - 1))) & 1023;
        let name = UNITS[unit as usize - 1];
        match thousandths * 10 / 1024 {
            0 => write!(f, "{whole} {name}"),
            tenths => write!(f, "{whole}.{tenths} {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::ByteSize;

    #[test]
    fn the_largest_unit_reached_is_chosen() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 20, "1 MiB"),
            (1 << 39, "512 GiB"),
            (1 << 56, "64 PiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
