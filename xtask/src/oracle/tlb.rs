//! The first reading: QEMU's own walk of the guest's page tables, `info tlb` on its monitor.
//!
//! QEMU (target/i386/monitor.c, `print_pte`) prints one line per leaf entry, large pages included, in ascending order:
//!
//! ```text
//!   ffff888000000000: 0000000000000000 XG-DA---W
//!   address of page   entry, masked    │││││││││
//!                                      ││││││││└ W  writable
//!                                      │││││││└─ U  user
//!                                      ││││││└── T  write-through
//!                                      │││││└─── C  cache disable
//!                                      ││││└──── A  accessed
//!                                      │││└───── D  dirty
//!                                      ││└────── P  bit 7: large page (in a 4 KiB page's entry, PAT)
//!                                      │└─────── G  global
//!                                      └──────── X  no-execute
//! ```
//!
//! The line shows the leaf's own bits: what higher levels forbid is not in it.

use std::fmt;

/// The bits of a leaf entry that a line shows, with their letters in the order of the line.
const FLAGS: [(u64, char); 9] = [
    (1 << 63, 'X'),
    (1 << 8, 'G'),
    (1 << 7, 'P'),
    (1 << 6, 'D'),
    (1 << 5, 'A'),
    (1 << 4, 'C'),
    (1 << 3, 'T'),
    (1 << 2, 'U'),
    (1 << 1, 'W'),
];

/// One leaf entry of the page tables, as QEMU shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// The first address of the page.
    pub(crate) virt: u64,
    /// Where the page begins in physical memory.
    pub(crate) phys: u64,
    /// The bits of [`FLAGS`] that are set.
    pub(crate) flags: u64,
}

impl Leaf {
    /// Whether the entry allows both writes and execution.
    pub(crate) fn is_write_execute(self) -> bool {
        let (no_execute, writable) = (1 << 63, 1 << 1);
        self.flags & (no_execute | writable) == writable
    }

    /// What QEMU would show of the entry `raw`, which maps the page of `size` bytes at `virt`.
    pub(crate) fn of_entry(virt: u64, raw: u64, size: u64) -> Self {
        let shown = FLAGS.iter().fold(0, |mask, (bit, _)| mask | bit);
        // Bits 12 to 51 are the address; a large page's lowest one is PAT and lies below the page's size.
        Self {
            virt,
            phys: raw & 0x000f_ffff_ffff_f000 & !(size - 1),
            flags: raw & shown,
        }
    }

    /// Reads one line; `None` when it is not of this form.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (virt, rest) = line.trim_end().split_once(": ")?;
        let (phys, letters) = rest.split_once(' ')?;
        if letters.len() != FLAGS.len() {
            return None;
        }
        let mut flags = 0;
        for ((bit, letter), shown) in FLAGS.into_iter().zip(letters.chars()) {
            match shown {
                '-' => {}
                _ if shown == letter => flags |= bit,
                _ => return None,
            }
        }
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Self {
            virt: number(virt)?,
            phys: number(phys)?,
            flags,
        })
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}: {:016x} ", self.virt, self.phys)?;
        FLAGS.iter().try_for_each(|(bit, letter)| {
            write!(f, "{}", if self.flags & bit == 0 { '-' } else { *letter })
        })
    }
}

/// Reads everything that `info tlb` printed.
///
/// # Errors
///
/// The first line that is not of the form above, such as `PG disabled`.
pub(crate) fn parse(printed: &str) -> Result<Vec<Leaf>, String> {
    let lines = printed.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| Leaf::parse(line).ok_or_else(|| line.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_shown_again() {
        for line in [
            "ffff888000000000: 0000000000000000 XG-DA---W",
            "ffffffff81000000: 0000000001000000 -GPDACTUW",
            "ff11000000000000: 000ffffffffff000 ---------",
        ] {
            assert_eq!(Leaf::parse(line).unwrap().to_string(), line);
        }
        let read = Leaf::parse("ffffffff81000000: 0000000001000000 -G--A----\r").unwrap();
        assert_eq!(
            read,
            Leaf {
                virt: 0xffff_ffff_8100_0000,
                phys: 0x100_0000,
                flags: 0x120
            }
        );
    }

    #[test]
    fn what_can_be_written_and_executed_is_seen() {
        let leaf = |letters: &str| Leaf::parse(&format!("0: 0 {letters}")).unwrap();
        assert!(leaf("-G--A---W").is_write_execute());
        assert!(!leaf("XG-DA---W").is_write_execute());
        assert!(!leaf("-G--A----").is_write_execute());
    }

    #[test]
    fn other_lines_are_refused() {
        for line in [
            "PG disabled",
            "x: y z",
            "1: 2 ---------x",
            "1: 2 W--------",
            "1: 2",
        ] {
            assert_eq!(Leaf::parse(line), None, "{line}");
        }
        assert_eq!(parse("\r\nPG disabled\r\n"), Err("PG disabled".to_owned()));
        assert_eq!(parse("\r\n"), Ok(vec![]));
    }

    #[test]
    fn an_entry_shows_its_address_and_flags() {
        // A global, no-execute, writable 2 MiB page at 4 MiB, PAT bit (12) set.
        let raw = 1 << 63 | 0x40_0000 | 1 << 12 | 1 << 8 | 1 << 7 | 1 << 6 | 1 << 5 | 3;
        let leaf = Leaf::of_entry(0xffff_8880_0040_0000, raw, 1 << 21);
        assert_eq!(
            leaf.to_string(),
            "ffff888000400000: 0000000000400000 XGPDA---W"
        );
    }
}
