//! How many frames each zone keeps back, and for whom.
//!
//! ```text
//!   free frames of a zone
//!   |------------------|----------------|---------------|--------------|--------------------->
//!   0     atomic      min              low             high          promo
//!      only who may    reclaim first:   reclaim wakes   reclaim is
//!      not wait        who can, waits   when below      content
//!
//!   and on top of each mark, the *protection*: what a lower zone keeps from those who could be served by a higher one
//! ```
//!
//! Integer arithmetic exactly as in Linux (`calculate_min_free_kbytes`, `__setup_per_zone_wmarks`,
//! `setup_per_zone_lowmem_reserve`, mm/page_alloc.c; `set_recommended_min_free_kbytes`, mm/khugepaged.c).

use core::fmt;

use super::{NodeId, ZoneKind, ZoneLimits};

/// The bounds between which the kernel chooses `min_free_kbytes` itself.
const MIN_FREE_KBYTES: (u64, u64) = (128, 262_144);

/// The largest `watermark_scale_factor`: a tenth of the zone (Linux: `one_thousand` times 3, kernel/sysctl.c).
const MAX_SCALE: u64 = 3000;

/// Frames that a zone outside low memory keeps at least and at most (`SWAP_CLUSTER_MAX` and 128).
const HIGH_ZONE_MIN: (u64, u64) = (32, 128);

/// What decides the reserves: Linux's settings under `/proc/sys/vm`, at their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    min_free_kbytes: Option<u64>,
    scale: u64,
    ratios: [u64; ZoneKind::COUNT],
    pageblock: Option<u64>,
}

impl Tuning {
    /// The defaults: `min_free_kbytes` by the size of memory, `watermark_scale_factor` 10, `lowmem_reserve_ratio` 256, 256,
    /// 32, 0, 0, and no transparent huge pages.
    #[must_use]
    pub const fn new() -> Self {
        let mut ratios = [0; ZoneKind::COUNT];
        ratios[ZoneKind::Dma.index()] = 256;
        ratios[ZoneKind::Dma32.index()] = 256;
        ratios[ZoneKind::Normal.index()] = 32;
        Self {
            min_free_kbytes: None,
            scale: 10,
            ratios,
            pageblock: None,
        }
    }

    /// The same with `min_free_kbytes` as it is given, instead of chosen. It is checked against memory in [`Reserves::new`].
    #[must_use]
    pub const fn with_min_free_kbytes(self, kbytes: u64) -> Self {
        Self {
            min_free_kbytes: Some(kbytes),
            ..self
        }
    }

    /// The same with another `watermark_scale_factor`: the distance between marks, in ten-thousandths of the zone.
    ///
    /// # Errors
    ///
    /// [`TuningError::Scale`] unless it is 1 to 3000.
    pub const fn with_scale(self, scale: u64) -> Result<Self, TuningError> {
        if scale == 0 || scale > MAX_SCALE {
            return Err(TuningError::Scale { scale });
        }
        Ok(Self { scale, ..self })
    }

    /// The same with a reserve large enough to keep huge pages possible, blocks of `pageblock` frames (512): what Linux's
    /// khugepaged asks for when it starts. It only raises what the kernel chose itself.
    #[must_use]
    pub const fn with_huge_pages(self, pageblock: u64) -> Self {
        Self {
            pageblock: Some(pageblock),
            ..self
        }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self::new()
    }
}

/// A setting that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TuningError {
    /// Not 1 to 3000.
    Scale {
        /// What was asked for.
        scale: u64,
    },
    /// More than half of low memory would be kept back, and nothing would start any more.
    ReserveTooLarge {
        /// What was asked for, in KiB.
        kbytes: u64,
        /// Low memory that the zones manage, in KiB.
        low_kbytes: u64,
    },
}

impl fmt::Display for TuningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Scale { scale } => write!(
                f,
                "watermark_scale_factor={scale}: must be 1 to {MAX_SCALE}; nothing was changed"
            ),
            Self::ReserveTooLarge { kbytes, low_kbytes } => write!(
                f,
                "min_free_kbytes={kbytes}: more than half of low memory, which is {low_kbytes} KiB; give at most {}; nothing \
                 was changed",
                low_kbytes / 2
            ),
        }
    }
}

impl core::error::Error for TuningError {}

/// How much one zone manages: what the reserves are computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneShare {
    /// The node.
    pub node: NodeId,
    /// The kind of zone.
    pub kind: ZoneKind,
    /// Frames that its allocator manages.
    pub managed: u64,
}

/// The marks of one zone, in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Watermarks {
    /// Below it only who may not wait gets memory.
    pub min: u64,
    /// Below it memory is reclaimed.
    pub low: u64,
    /// Up to it memory is reclaimed.
    pub high: u64,
    /// Up to it memory is reclaimed to make room for content of slower nodes.
    pub promo: u64,
}

/// What a zone keeps from requests whose highest zone is another, by the index of that kind, in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Protection(pub(super) [u64; ZoneKind::COUNT]);

impl Protection {
    /// What is kept from requests that could have been served from zones up to `highest`.
    #[must_use]
    pub const fn from(&self, highest: ZoneKind) -> u64 {
        self.0[highest.index()]
    }
}

/// The reserves of all zones together, from which each zone's follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserves {
    tuning: Tuning,
    min_free_kbytes: u64,
    low_pages: u64,
}

impl Reserves {
    /// Those of no memory: what a zone without any is listed with.
    pub(super) const WITHOUT_MEMORY: Self = Self {
        tuning: Tuning::new(),
        min_free_kbytes: 0,
        low_pages: 0,
    };

    /// The reserves of a machine with these zones.
    ///
    /// # Errors
    ///
    /// [`TuningError::ReserveTooLarge`].
    pub fn new(
        zones: impl Iterator<Item = ZoneShare> + Clone,
        tuning: &Tuning,
    ) -> Result<Self, TuningError> {
        let low_zones = zones.filter(|zone| is_low(zone.kind));
        let low_pages = low_zones.clone().map(|zone| zone.managed).sum();
        let mut reserves = Self {
            tuning: *tuning,
            min_free_kbytes: 0,
            low_pages,
        };
        if let Some(kbytes) = tuning.min_free_kbytes {
            let low_kbytes = low_pages * 4;
            if kbytes > low_kbytes / 2 {
                return Err(TuningError::ReserveTooLarge { kbytes, low_kbytes });
            }
            reserves.min_free_kbytes = kbytes;
            return Ok(reserves);
        }
        // No marks are set yet, so all that low memory manages counts.
        let chosen = (low_pages * 4 * 16).isqrt();
        reserves.min_free_kbytes = chosen.clamp(MIN_FREE_KBYTES.0, MIN_FREE_KBYTES.1);
        if let Some(pageblock) = tuning.pageblock {
            let wanted = reserves.for_huge_pages(low_zones, pageblock) * 4;
            reserves.min_free_kbytes = reserves.min_free_kbytes.max(wanted);
        }
        Ok(reserves)
    }

    /// Frames to keep so that huge pages stay possible: in each zone two blocks, and one for each pair of kinds of content
    /// that could spoil each other's blocks (3 kinds: `MIGRATE_PCPTYPES`); at most a twentieth of what low memory can give.
    fn for_huge_pages(&self, low_zones: impl Iterator<Item = ZoneShare>, pageblock: u64) -> u64 {
        let mut zones = 0;
        let mut usable = 0;
        for zone in low_zones.filter(|zone| zone.managed > 0) {
            zones += 1;
            let high = self.watermarks(zone.kind, zone.managed).high;
            usable += zone.managed.saturating_sub(high);
        }
        (pageblock * zones * 2 + pageblock * zones * 9).min(usable / 20)
    }

    /// `min_free_kbytes`, given or chosen.
    #[must_use]
    pub const fn min_free_kbytes(&self) -> u64 {
        self.min_free_kbytes
    }

    /// Frames that the zones of low memory manage: all but HighMem, Movable and Device.
    #[must_use]
    pub const fn low_pages(&self) -> u64 {
        self.low_pages
    }

    /// The marks of a zone that manages so many frames.
    #[must_use]
    pub fn watermarks(&self, kind: ZoneKind, managed: u64) -> Watermarks {
        let pages_min = self.min_free_kbytes / 4;
        let share = mul_div(pages_min, managed, self.low_pages.max(1));
        let min = match kind {
            ZoneKind::HighMem | ZoneKind::Movable => {
                (managed / 1024).clamp(HIGH_ZONE_MIN.0, HIGH_ZONE_MIN.1)
            }
            _ => share,
        };
        let gap = (share >> 2).max(mul_div(managed, self.tuning.scale, 10_000));
        Watermarks {
            min,
            low: min + gap,
            high: min + 2 * gap,
            promo: min + 3 * gap,
        }
    }

    /// What a zone keeps from requests that a higher zone of its node could serve: a part of what those manage. `managed`
    /// says how much each kind of zone on the node manages.
    #[must_use]
    pub fn protection(
        &self,
        limits: &ZoneLimits,
        kind: ZoneKind,
        managed: impl Fn(ZoneKind) -> u64,
    ) -> Protection {
        let mut protection = Protection::default();
        let ratio = self.tuning.ratios[kind.index()];
        if ratio == 0 || managed(kind) == 0 {
            return protection;
        }
        let mut above = 0;
        for upper in limits.kinds().iter().filter(|upper| **upper > kind) {
            above += managed(*upper);
            protection.0[upper.index()] = above / ratio;
        }
        protection
    }
}

/// Whether a kind of zone is low memory: what the kernel can use for itself.
const fn is_low(kind: ZoneKind) -> bool {
    matches!(kind, ZoneKind::Dma | ZoneKind::Dma32 | ZoneKind::Normal)
}

/// `value * factor / divisor`, rounded down, without overflow in between.
fn mul_div(value: u64, factor: u64, divisor: u64) -> u64 {
    let result = u128::from(value) * u128::from(factor) / u128::from(divisor);
    u64::try_from(result).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::mul_div;

    #[test]
    fn nothing_is_lost_between() {
        assert_eq!(mul_div(u64::MAX, 10_000, 10_000), u64::MAX);
        assert_eq!(mul_div(1 << 40, 3000, 10_000), (1 << 40) / 10 * 3 + 1);
        assert_eq!(mul_div(16896, 3840, 3_103_285), 20);
    }
}
