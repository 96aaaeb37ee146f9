//! The caches of memory's contents, as far as a change of memory types needs them emptied.

use kspace_layout::PhysRange;

/// A machine whose caches can be emptied of a range of memory.
///
/// # Safety
///
/// Memory is used uncached on the word of this call: when [`write_back_and_invalidate`](Self::write_back_and_invalidate) returns, no cache
/// of any CPU holds a line of the range, and what was modified in them is in memory. (A line that comes back into a cache by a
/// translation that some CPU still has is not this trait's business.)
pub unsafe trait CacheLines {
    /// Empties the caches of these whole pages, which are in the direct map: `CLFLUSH` or `CLFLUSHOPT` of every line between two `MFENCE`,
    /// which reaches all CPUs of the coherence domain (Intel SDM vol. 2, "CLFLUSH"). `WBINVD` on all CPUs does it, too.
    fn write_back_and_invalidate(&self, range: PhysRange);
}
