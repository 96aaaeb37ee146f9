//! The figures Linux gives the CPUs' own lists of frames, which the texts show (`zone_batchsize`, `zone_highsize`,
//! mm/page_alloc.c; `calculate_normal_threshold`, mm/vmstat.c).

/// How many frames move between a zone and a CPU's list at once.
#[must_use]
pub fn batch(managed: u64) -> u64 {
    // At most 1 MiB, a quarter of it at once; one less than a power of two, so that lists do not collide in the caches.
    let batch = ((managed >> 10).min((1 << 20) / 4096) / 4).max(1);
    let around = batch + batch / 2;
    (1 << around.ilog2()) - 1
}

/// By how much one CPU's part of a zone's counters may differ from the common part.
#[must_use]
pub fn stat_threshold(managed: u64, cpus: u64) -> u64 {
    let bits = |value: u64| u64::from(u64::BITS - value.leading_zeros());
    (2 * bits(cpus) * (1 + bits(managed >> 15))).min(125)
}

#[cfg(test)]
mod tests {
    use super::{batch, stat_threshold};

    /// DMA, DMA32 and Normal of a live Linux 6.18 with 2 CPUs.
    #[test]
    fn as_linux_shows_them() {
        for (managed, shown, threshold) in [(3840, 1, 4), (772_917, 63, 24), (2_326_528, 63, 32)] {
            assert_eq!(batch(managed).max(1), shown);
            assert_eq!(stat_threshold(managed, 2), threshold);
        }
    }
}
