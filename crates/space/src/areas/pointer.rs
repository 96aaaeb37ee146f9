//! From an area to a pointer: the one place where addresses of areas become something to read and write by.

use core::ptr::{NonNull, with_exposed_provenance_mut};

use kspace_layout::VirtAddr;

use super::{IoMemory, OwnedArea};
use crate::vmalloc::Kernel;

impl<K: Kernel, const CPUS: usize> OwnedArea<'_, '_, K, CPUS> {
    /// Its first byte, to be used as its [`range`](Self::range) and its protection allow. Not zeroed unless that was asked for.
    #[must_use]
    pub fn pointer(&self) -> NonNull<u8> {
        pointer(self.start())
    }
}

impl<K: Kernel, const CPUS: usize> IoMemory<'_, '_, K, CPUS> {
    /// The device's first byte. Its registers are read and written with `read_volatile` and `write_volatile`, inside its
    /// [`range`](Self::range).
    #[must_use]
    pub fn pointer(&self) -> NonNull<u8> {
        pointer(self.address())
    }
}

/// # Panics
///
/// Never: no area is in the first page, and none where the machine has no addresses.
fn pointer(address: VirtAddr) -> NonNull<u8> {
    let address =
        usize::try_from(address.as_u64()).expect("an area lies where the machine has addresses");
    NonNull::new(with_exposed_provenance_mut(address)).expect("no area lies at the null pointer")
}
