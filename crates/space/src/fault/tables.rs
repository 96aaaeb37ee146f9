//! What the page tables say about a fault, beside what the layout says.

use core::fmt;

use kspace_paging::{Controls, End, Intent, Walk};

/// The end of a walk to a faulting address, in words: one line, without a line end.
///
/// ```text
///   page tables: 4k page, r-x supervisor global write-back, physical 0000000001001068
///   page tables: not present at level 3, where the entry at physical 0000000000105440 is 0000000000000000
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PageTables<'a> {
    /// The walk to the address.
    pub walk: &'a Walk,
    /// The access that faulted, if known: then tables that would allow it are called out.
    pub intent: Option<Intent>,
}

impl fmt::Display for PageTables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("page tables: ")?;
        match self.walk.end() {
            End::Page(page) => {
                write!(
                    f,
                    "{} page, {}, physical {}",
                    page.size, page.attributes, page.phys
                )?;
            }
            End::NotCanonical => f.write_str("not walked, the address is not one of this mode")?,
            End::NotPresent { level } => {
                write!(f, "not present at level {level}")?;
                self.write_entry(f)?;
                if let Some(page) = self.walk.hidden() {
                    write!(
                        f,
                        ": hidden, a {} page, {}, physical {}",
                        page.size, page.attributes, page.phys
                    )?;
                }
            }
            End::ReservedBits { level, bits } => {
                write!(f, "reserved bits {bits:#x} set at level {level}")?;
                self.write_entry(f)?;
            }
            End::Unreadable { level, entry } => {
                write!(
                    f,
                    "the level-{level} entry at physical {entry} cannot be read"
                )?;
            }
        }
        match self.intent {
            Some(intent) if self.walk.access(intent, Controls::KERNEL).is_ok() => f.write_str(
                "; they allow the access now, so the CPU used an older translation: a flush is missing",
            ),
            _ => Ok(()),
        }
    }
}

impl PageTables<'_> {
    fn write_entry(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.walk.steps().last() {
            Some(step) => {
                write!(
                    f,
                    ", where the entry at physical {} is {:016x}",
                    step.entry, step.raw
                )
            }
            None => Ok(()),
        }
    }
}
