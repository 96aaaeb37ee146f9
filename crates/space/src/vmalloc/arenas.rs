//! What all CPUs have of their own, apart from the rest.

use core::fmt;

use super::arena::Arena;

/// What each of up to `CPUS` CPUs has of its own. It is apart from the rest, because it is larger than some kernels' stacks: a kernel has it in
/// a static.
pub struct Arenas<const CPUS: usize>(pub(super) [Arena; CPUS]);

impl<const CPUS: usize> Arenas<CPUS> {
    /// Of CPUs that have nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { Arena::new() }; CPUS])
    }
}

impl<const CPUS: usize> Default for Arenas<CPUS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const CPUS: usize> fmt::Debug for Arenas<CPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arenas").finish_non_exhaustive()
    }
}
