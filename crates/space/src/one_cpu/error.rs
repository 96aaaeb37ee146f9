//! Why an address space was not built or not adopted.

use core::fmt;

use kspace_frames::{AddError, NewError, WidenError};
use kspace_layout::{AreaKind, FRAME_SIZE, PhysAddr, PhysRange};
use kspace_paging::{EditError, RootError};

use crate::image::ImageError;
use crate::vmalloc::AreaError;
use crate::{direct_map, image};

/// Why an address space was not [built](super::Boot::build) or [adopted](super::Boot::adopt).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The layout lacks an area.
    NoArea(AreaKind),
    /// The layout was made without the kernel image.
    NoImage,
    /// The image's sections cannot have their rights page by page.
    Sections(ImageError),
    /// So many frames in a row are not free within reach.
    NoRoom {
        /// How many.
        frames: u64,
    },
    /// There is RAM that the direct map does not reach: the layout was made for less.
    OutOfReach {
        /// The last byte of RAM.
        last_ram: PhysAddr,
        /// What can be reached.
        reached: PhysRange,
    },
    /// The root cannot be one.
    Root(RootError),
    /// The image or the root entries were refused.
    Edit(EditError),
    /// The direct map was refused.
    DirectMap(direct_map::BuildError),
    /// The frames that boot has left cannot be taken over.
    Widen(WidenError),
    /// There can be no allocator for this memory.
    Allocator(NewError),
    /// The allocator refused frames.
    Add(AddError),
    /// There can be no areas.
    Areas(AreaError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoArea(kind) => write!(f, "layout: it has no area {kind}; add one"),
            Self::NoImage => {
                f.write_str("layout: it was made without the kernel image; add it to the builder")
            }
            Self::Sections(error) => error.fmt(f),
            Self::NoRoom { frames } => write!(
                f,
                "frames: no {} KiB of RAM in a row are free within reach; give the machine more memory",
                frames * (FRAME_SIZE / 1024)
            ),
            Self::OutOfReach { last_ram, reached } => write!(
                f,
                "frames: RAM goes on to {last_ram}, and {reached} is mapped; make the layout for all of it, or limit the memory map"
            ),
            Self::Root(error) => error.fmt(f),
            Self::Edit(error) => error.fmt(f),
            Self::DirectMap(error) => error.fmt(f),
            Self::Widen(error) => error.fmt(f),
            Self::Allocator(error) => error.fmt(f),
            Self::Add(error) => error.fmt(f),
            Self::Areas(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Error {}

macro_rules! from {
    ($($error:ty => $variant:ident;)*) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )*};
}

from! {
    image::ImageError => Sections;
    RootError => Root;
    EditError => Edit;
    direct_map::BuildError => DirectMap;
    WidenError => Widen;
    NewError => Allocator;
    AddError => Add;
    AreaError => Areas;
}
