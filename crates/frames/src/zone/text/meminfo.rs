//! `/proc/meminfo` (`meminfo_proc_show`, fs/proc/meminfo.c; `arch_report_meminfo`, arch/x86/mm/pat/set_memory.c).

use core::fmt;

use kspace_layout::{FRAME_SIZE, PageSize};

use crate::zone::{ZoneFrames, ZoneKind, Zones};

/// The text of `/proc/meminfo`, for what there is: Linux's lines in Linux's order, without those for what this kernel does not
/// have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meminfo {
    total: u64,
    free: u64,
    available: u64,
    high: Option<PageTotals>,
    low: Option<PageTotals>,
    page_tables: Option<u64>,
    kernel_stacks: Option<u64>,
    vmalloc: Option<VmallocTotals>,
    per_cpu: Option<u64>,
    direct_map: Option<DirectMap>,
}

/// Frames of a part of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PageTotals {
    /// All that are managed.
    pub total: u64,
    /// Those that are free.
    pub free: u64,
}

/// The vmalloc area, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VmallocTotals {
    /// The size of the area.
    pub total: u64,
    /// What of it is in use.
    pub used: u64,
}

/// What the direct map covers with each size of page, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectMap {
    /// With 4 KiB pages.
    pub small: u64,
    /// The size of large pages: 2 MiB or 4 MiB.
    pub large_page: PageSize,
    /// With large pages.
    pub large: u64,
    /// With 1 GiB pages; `None` where the CPU has none.
    pub huge: Option<u64>,
}

impl Meminfo {
    /// What the zones know: all memory and free memory, and on 32 bits those of high memory.
    ///
    /// Available is what a program can count on: free without what the zones keep back (`si_mem_available`; there is no page
    /// cache to add).
    #[must_use]
    pub fn of<A: ZoneFrames>(zones: &Zones<'_, A>) -> Self {
        let all = totals(zones, |_| true);
        let high = zones
            .limits()
            .has(ZoneKind::HighMem)
            .then(|| totals(zones, |kind| kind == ZoneKind::HighMem));
        Self {
            total: all.total,
            free: all.free,
            available: all.free.saturating_sub(zones.reserved_frames()),
            high,
            low: high.map(|high| PageTotals {
                total: all.total - high.total,
                free: all.free.saturating_sub(high.free),
            }),
            ..Self::default()
        }
    }

    /// With the bytes of page tables.
    #[must_use]
    pub const fn with_page_tables(self, bytes: u64) -> Self {
        Self {
            page_tables: Some(bytes),
            ..self
        }
    }

    /// With the bytes of the kernel's stacks.
    #[must_use]
    pub const fn with_kernel_stacks(self, bytes: u64) -> Self {
        Self {
            kernel_stacks: Some(bytes),
            ..self
        }
    }

    /// With the vmalloc area.
    #[must_use]
    pub const fn with_vmalloc(self, totals: VmallocTotals) -> Self {
        Self {
            vmalloc: Some(totals),
            ..self
        }
    }

    /// With the bytes of per-CPU areas.
    #[must_use]
    pub const fn with_per_cpu(self, bytes: u64) -> Self {
        Self {
            per_cpu: Some(bytes),
            ..self
        }
    }

    /// With the pages of the direct map.
    #[must_use]
    pub const fn with_direct_map(self, direct_map: DirectMap) -> Self {
        Self {
            direct_map: Some(direct_map),
            ..self
        }
    }
}

fn totals<A: ZoneFrames>(zones: &Zones<'_, A>, wanted: impl Fn(ZoneKind) -> bool) -> PageTotals {
    let zones = zones.as_slice().iter().filter(|zone| wanted(zone.kind()));
    zones.fold(PageTotals::default(), |sum, zone| PageTotals {
        total: sum.total + zone.frames().managed_frames(),
        free: sum.free + zone.frames().free_frames_exact(),
    })
}

impl fmt::Display for Meminfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, bytes: Option<u64>| match bytes {
            Some(bytes) => writeln!(f, "{name:<16}{:>8} kB", bytes / 1024),
            None => Ok(()),
        };
        let frames = |count: u64| Some(count * FRAME_SIZE);
        line("MemTotal:", frames(self.total))?;
        line("MemFree:", frames(self.free))?;
        line("MemAvailable:", frames(self.available))?;
        line("HighTotal:", self.high.and_then(|high| frames(high.total)))?;
        line("HighFree:", self.high.and_then(|high| frames(high.free)))?;
        line("LowTotal:", self.low.and_then(|low| frames(low.total)))?;
        line("LowFree:", self.low.and_then(|low| frames(low.free)))?;
        line("KernelStack:", self.kernel_stacks)?;
        line("PageTables:", self.page_tables)?;
        line("VmallocTotal:", self.vmalloc.map(|area| area.total))?;
        line("VmallocUsed:", self.vmalloc.map(|area| area.used))?;
        // Linux keeps the line for old programs and always writes zero.
        line("VmallocChunk:", self.vmalloc.map(|_| 0))?;
        line("Percpu:", self.per_cpu)?;
        let Some(map) = self.direct_map else {
            return Ok(());
        };
        line("DirectMap4k:", Some(map.small))?;
        let large = match map.large_page {
            PageSize::Size4M => "DirectMap4M:",
            _ => "DirectMap2M:",
        };
        line(large, Some(map.large))?;
        line("DirectMap1G:", map.huge)
    }
}
