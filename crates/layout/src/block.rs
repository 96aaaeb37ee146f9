//! The block that Linux printed at boot, `virtual kernel memory layout:`.
//!
//! 32-bit Linux printed it until 5.6 (`mem_init` in `arch/x86/mm/init_32.c`), and for 32-bit modes the text here is
//! the same to the byte. 64-bit Linux never had it. For those modes it keeps the style, the row names and the order, with two
//! differences: addresses have 16 digits, and each size is printed in the largest of kB, MB, GB and TB in which it is at least 10,
//! as RISC-V Linux does, because one unit cannot serve both a 4 kB page and 12800 TB.
//!
//! There are at most ten rows, because people look at the block with `grep -A 10`.
//!
//! As in Linux, sizes are cut and not rounded, and each row's second address is the first *behind* the area. Linux's own areas
//! all end below the top; an area of another kernel may end at 2^64 (or 2^32), and then that number is printed, with its one digit
//! more: Linux's arithmetic would print 0, which is an address of something else.
//!
//! | row | 32-bit modes | 64-bit modes |
//! |---|---|---|
//! | fixmap | permanent slots | permanent slots but the vsyscall page |
//! | vsyscall | | the vsyscall page |
//! | modules | | the area |
//! | cpu_entry | the area | the area |
//! | pkmap | the area; only with high memory | |
//! | vmemmap | | the area |
//! | vmalloc | the area | the area |
//! | lowmem | the direct map | the direct map, from zero to the end of RAM |
//! | .init | init text and data | the same |
//! | .data | from read-only data to the end of data | the same |
//! | .text | text | the same |

use core::fmt;

use crate::{AreaKind, Layout, SectionKind, VirtRange};

/// What a row of the block is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowKind {
    /// The permanent fixmap.
    Fixmap,
    /// The vsyscall page.
    Vsyscall,
    /// Modules.
    Modules,
    /// The CPU entry areas.
    CpuEntry,
    /// Where high memory is mapped for a while.
    Pkmap,
    /// The records of frames, by what is reserved for them.
    Vmemmap,
    /// The vmalloc area.
    Vmalloc,
    /// The covered part of the direct map.
    Lowmem,
    /// The image's parts that are needed only while booting.
    Init,
    /// The image's data, read-only data included: `_etext` to `_edata` in Linux.
    Data,
    /// The image's code.
    Text,
}

/// The rows of 32-bit and of 64-bit modes, from the top.
const ROWS_32: &[RowKind] = &[
    RowKind::Fixmap,
    RowKind::CpuEntry,
    RowKind::Pkmap,
    RowKind::Vmalloc,
    RowKind::Lowmem,
    RowKind::Init,
    RowKind::Data,
    RowKind::Text,
];
const ROWS_64: &[RowKind] = &[
    RowKind::Fixmap,
    RowKind::Vsyscall,
    RowKind::Modules,
    RowKind::CpuEntry,
    RowKind::Vmemmap,
    RowKind::Vmalloc,
    RowKind::Lowmem,
    RowKind::Init,
    RowKind::Data,
    RowKind::Text,
];

impl RowKind {
    /// The row's name in the block.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.field().trim_ascii()
    }

    /// The 12 columns before the colon. Linux indents by eye: area names stand flush left at column 4 where they fit, and
    /// the image's rows a little to the right.
    const fn field(self) -> &'static str {
        match self {
            Self::Fixmap => "    fixmap  ",
            Self::Vsyscall => "   vsyscall ",
            Self::Modules => "    modules ",
            Self::CpuEntry => "  cpu_entry ",
            Self::Pkmap => "    pkmap   ",
            Self::Vmemmap => "    vmemmap ",
            Self::Vmalloc => "    vmalloc ",
            Self::Lowmem => "    lowmem  ",
            Self::Init => "      .init ",
            Self::Data => "      .data ",
            Self::Text => "      .text ",
        }
    }

    /// The row's range in `layout`; `None` when the layout has nothing for it.
    fn range(self, layout: &Layout) -> Option<VirtRange> {
        let area = |kind| Some(layout.area(kind)?.range());
        let sections = |first, last| {
            let image = layout.image()?;
            hull(image.section(first), image.section(last))
        };
        match self {
            Self::Fixmap => area(AreaKind::Fixmap),
            Self::Vsyscall => area(AreaKind::Vsyscall),
            Self::Modules => area(AreaKind::Modules),
            Self::CpuEntry => area(AreaKind::CpuEntry),
            Self::Pkmap => area(AreaKind::Pkmap),
            Self::Vmemmap => area(AreaKind::Vmemmap),
            Self::Vmalloc => area(AreaKind::Vmalloc),
            Self::Lowmem => layout.direct_map_covered(),
            Self::Init => sections(SectionKind::InitText, SectionKind::InitData),
            Self::Data => sections(SectionKind::Rodata, SectionKind::Data),
            Self::Text => sections(SectionKind::Text, SectionKind::Text),
        }
    }
}

/// From the start of the lower to the end of the higher range.
fn hull(a: Option<VirtRange>, b: Option<VirtRange>) -> Option<VirtRange> {
    let (Some(a), Some(b)) = (a, b) else {
        return a.or(b);
    };
    VirtRange::try_from_bounds(a.start().min(b.start()), a.last().max(b.last())).ok()
}

/// The unit in which a size is printed, as the power of two it divides by and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    shift: u32,
    name: &'static str,
}

const UNITS: [Unit; 4] = [
    Unit {
        shift: 40,
        name: "TB",
    },
    Unit {
        shift: 30,
        name: "GB",
    },
    Unit {
        shift: 20,
        name: "MB",
    },
    Unit {
        shift: 10,
        name: "kB",
    },
];

/// One row of the block. Its `Display` is the line as it is printed, without a line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    kind: RowKind,
    range: VirtRange,
    wide: bool,
}

impl Row {
    /// What the row is about.
    #[must_use]
    pub const fn kind(self) -> RowKind {
        self.kind
    }

    /// The name as printed, without its indent.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.kind.name()
    }

    /// What the row claims: to be checked against the live page tables.
    #[must_use]
    pub const fn range(self) -> VirtRange {
        self.range
    }

    fn unit(self) -> Unit {
        let [_, _, megabytes, kilobytes] = UNITS;
        if self.wide {
            let ten_or_more = |unit: &Unit| self.range.size() >> unit.shift >= 10;
            return UNITS.into_iter().find(ten_or_more).unwrap_or(kilobytes);
        }
        match self.kind {
            RowKind::Lowmem | RowKind::Vmalloc => megabytes,
            _ => kilobytes,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.unit();
        let digits = if self.wide { 16 } else { 8 };
        let start = self.range.start();
        // Wider than an address, for a range that ends at 2^64.
        let end = u128::from(self.range.last().as_u64()) + 1;
        let size = self.range.size() >> unit.shift;
        write!(
            f,
            "{}: 0x{start:0digits$x} - 0x{end:0digits$x}   ({size:4} {})",
            self.kind.field(),
            unit.name,
        )
    }
}

/// The printed block of a layout. Its `Display` is the heading and all rows, without a line end after the last.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    layout: &'a Layout,
}

impl<'a> Block<'a> {
    /// The line above the rows.
    pub const HEADING: &'static str = "virtual kernel memory layout:";

    pub(crate) const fn new(layout: &'a Layout) -> Self {
        Self { layout }
    }

    /// The rows from the top, each to be printed as a record of its own or checked. Rows for which the layout has nothing (an area it
    /// lacks, a section the image lacks) are left out.
    pub fn rows(self) -> impl Iterator<Item = Row> + 'a {
        let layout = self.layout;
        let wide = layout.mode().virt_bits() > 32;
        let kinds = if wide { ROWS_64 } else { ROWS_32 };
        kinds.iter().filter_map(move |&kind| {
            Some(Row {
                kind,
                range: kind.range(layout)?,
                wide,
            })
        })
    }
}

impl fmt::Display for Block<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::HEADING)?;
        for row in self.rows() {
            write!(f, "\n{row}")?;
        }
        Ok(())
    }
}
