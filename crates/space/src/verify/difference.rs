//! How live tables differ from what they should be.

use core::fmt;

use kspace_layout::{Area, Layout, Place, Row, VirtAddr};
use kspace_paging::{Obstacle, Run};

use super::Expected;
use crate::image::ImageError;

/// The first difference between live tables and what the layout says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Something must be mapped, and is not.
    Missing {
        /// Where.
        place: Whereabouts,
        /// What must be there.
        expected: Expected,
    },
    /// Something is mapped where nothing may be.
    Unexpected {
        /// Where.
        place: Whereabouts,
        /// What is there.
        found: Run,
    },
    /// Something is mapped in another way.
    Wrong {
        /// Where.
        place: Whereabouts,
        /// In what it differs first.
        aspect: Aspect,
        /// What must be there, from the first address that differs.
        expected: Expected,
        /// What is there, from the same address.
        found: Run,
    },
    /// A page is writable and executable.
    WriteExecute {
        /// Where.
        place: Whereabouts,
        /// What is there.
        found: Run,
    },
    /// The tables cannot be read, or break the machine's rules.
    Obstacle(Obstacle),
    /// A row of the printed block says something else than the tables.
    Row {
        /// The row.
        row: Row,
        /// The address that contradicts it.
        at: VirtAddr,
        /// What the row means for that address.
        expected: &'static str,
        /// What the tables have there; `None` for nothing.
        found: Option<Run>,
    },
    /// The layout's kernel image cannot be mapped at all.
    Image(ImageError),
}

/// The names of what lies at an address: a [`Place`] that is small enough to return in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the area of this name.
    Area(&'static str),
    /// In the hole between two areas; `None` at an end of the half.
    Hole {
        /// The area below.
        below: Option<&'static str>,
        /// The area above.
        above: Option<&'static str>,
    },
}

impl Whereabouts {
    pub(super) fn of(layout: &Layout, address: VirtAddr) -> Self {
        match layout.find(address) {
            Place::Area { area, .. } => Self::Area(area.name()),
            Place::Hole(hole) => Self::Hole {
                below: hole.below().map(Area::name),
                above: hole.above().map(Area::name),
            },
            // The walker finds nothing there.
            Place::OutsideMode(_) => Self::Hole {
                below: None,
                above: None,
            },
        }
    }
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Area(name) => f.write_str(name),
            Self::Hole {
                below: Some(below),
                above: Some(above),
            } => {
                write!(f, "the hole between {below} and {above}")
            }
            Self::Hole {
                below: Some(below),
                above: None,
            } => write!(f, "the hole above {below}"),
            Self::Hole {
                below: None,
                above: Some(above),
            } => write!(f, "the hole below {above}"),
            Self::Hole {
                below: None,
                above: None,
            } => f.write_str("outside every area"),
        }
    }
}

/// What about a mapping is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// Where it lies in physical memory.
    Phys,
    /// It must lie in RAM, and does not.
    NotRam,
    /// The size of its pages.
    Page,
    /// What accesses it allows, to whom, whether it is global, or how it is cached.
    Rights,
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Phys => "physical address",
            Self::NotRam => "not RAM",
            Self::Page => "page size",
            Self::Rights => "rights",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("verify: ")?;
        match *self {
            Self::Missing { place, expected } => {
                write!(f, "{place}: expected {expected}, found nothing mapped")
            }
            Self::Unexpected { place, found } => {
                write!(f, "{place}: expected nothing mapped, found {found}")
            }
            Self::Wrong {
                place,
                aspect,
                expected,
                found,
            } => {
                write!(f, "{place}: {aspect}: expected {expected}, found {found}")
            }
            Self::WriteExecute { place, found } => {
                write!(
                    f,
                    "{place}: expected no page to be writable and executable, found {found}"
                )
            }
            Self::Obstacle(obstacle) => obstacle.fmt(f),
            Self::Row {
                row,
                at,
                expected,
                found,
            } => {
                write!(
                    f,
                    "row {} of the printed block, {}: {at}: expected {expected}, found ",
                    row.name(),
                    row.range()
                )?;
                match found {
                    Some(found) => found.fmt(f),
                    None => f.write_str("nothing mapped"),
                }
            }
            Self::Image(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Difference {}
