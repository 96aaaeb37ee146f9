//! A drawing of a layout for documents and terminals, made of nothing but the layout itself.
//!
//! The pictures in this crate's documentation are the output of this module; a test draws them again and compares.

use core::fmt;

use crate::{ByteSize, Layout, Place, VirtAddr, VirtRange};

/// Columns inside a box, from edge to edge.
const WIDTH: usize = 18;

/// A drawing of a layout, highest address first. Its `Display` has no line end after the last line.
///
/// Each line between two boxes bears the address at which the box above it starts. A box with dots for sides is a hole.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    layout: &'a Layout,
}

impl<'a> Picture<'a> {
    pub(crate) const fn new(layout: &'a Layout) -> Self {
        Self { layout }
    }

    fn digits(self) -> usize {
        if self.layout.mode().virt_bits() > 32 {
            16
        } else {
            8
        }
    }

    /// The line at `address`: the last address of all above the first box, else the start of the box above the line.
    fn edge(self, f: &mut fmt::Formatter<'_>, address: VirtAddr) -> fmt::Result {
        let digits = self.digits();
        write!(f, "{address:0digits$x} +{:-<WIDTH$}+", "")
    }

    /// The box of one place, and the line at its start.
    fn draw(self, f: &mut fmt::Formatter<'_>, place: Place, range: VirtRange) -> fmt::Result {
        let (margin, size) = (self.digits(), ByteSize(range.size()));
        match place {
            Place::Area { area, .. } => {
                let (name, state) = (area.name(), area.state());
                writeln!(
                    f,
                    "{:margin$} | {name:<w$.w$}|  {size}, {state}",
                    "",
                    w = WIDTH - 1
                )?;
            }
            Place::Hole(_) | Place::OutsideMode(_) => {
                writeln!(f, "{:margin$} :{:WIDTH$}:  {size}", "", "")?;
            }
        }
        self.edge(f, range.start())
    }

    /// The highest address below `start` that the mode has.
    fn below(self, start: VirtAddr) -> Option<VirtAddr> {
        let mode = self.layout.mode();
        if mode.upper_half_start() == Some(start) {
            return Some(mode.lower_half_last());
        }
        VirtAddr::try_new(start.as_u64().checked_sub(1)?).ok()
    }
}

impl fmt::Display for Picture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = self.layout.mode();
        let top = if mode.virt_bits() > 32 {
            VirtAddr::LAST
        } else {
            mode.lower_half_last()
        };
        self.edge(f, top)?;
        let mut next = Some(top);
        while let Some(address) = next {
            let place = self.layout.find(address);
            // `address` is always one that the mode has, so there is always a range.
            let Some(range) = place.range() else { break };
            f.write_str("\n")?;
            self.draw(f, place, range)?;
            next = self.below(range.start());
            if mode.upper_half_start() == Some(range.start()) {
                let margin = self.digits();
                writeln!(f, "\n{:margin$}   not canonical", "")?;
                self.edge(f, mode.lower_half_last())?;
            }
        }
        Ok(())
    }
}
