//! Why the kernel cannot boot.

use core::fmt;

use kspace::image::ImageError;
use kspace_frames::MapError;
use kspace_layout::{AddressError, KaslrError, LayoutError, PhysRange};

use crate::address_space::BuildError;
use crate::memory::GroundError;
use crate::start_info::StartInfoError;

/// What stopped the first stage.
#[derive(Debug)]
pub enum BootError {
    /// The loader's start info cannot be used.
    StartInfo(StartInfoError),
    /// The firmware's memory map cannot be used.
    MemoryMap(MapError),
    /// The loader put the image where the memory map has no RAM.
    ImageOutsideRam(PhysRange),
    /// The image does not fit where it should go.
    Image(AddressError),
    /// No addresses could be drawn.
    Kaslr(KaslrError),
    /// The areas do not make a layout.
    Layout(LayoutError),
    /// The image's sections cannot be mapped apart.
    Sections(ImageError),
    /// The layout lacks something that the kernel needs.
    Missing(&'static str),
    /// Memory cannot be divided into nodes and zones.
    Ground(GroundError),
    /// The tables could not be built.
    Build(BuildError),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartInfo(error) => error.fmt(f),
            Self::MemoryMap(error) => error.fmt(f),
            Self::ImageOutsideRam(range) => write!(
                f,
                "image: it was loaded at {range}, which the memory map does not call RAM; check the loader and mem="
            ),
            Self::Image(error) => write!(f, "image: {error}"),
            Self::Kaslr(error) => error.fmt(f),
            Self::Layout(error) => error.fmt(f),
            Self::Sections(error) => error.fmt(f),
            Self::Missing(what) => write!(f, "layout: it has no {what}, which this kernel needs"),
            Self::Ground(error) => error.fmt(f),
            Self::Build(error) => error.fmt(f),
        }
    }
}

macro_rules! from {
    ($($error:ty => $variant:ident;)*) => {$(
        impl From<$error> for BootError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )*};
}

from! {
    StartInfoError => StartInfo;
    MapError => MemoryMap;
    AddressError => Image;
    KaslrError => Kaslr;
    LayoutError => Layout;
    ImageError => Sections;
    GroundError => Ground;
    BuildError => Build;
}
