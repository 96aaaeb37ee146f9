//! The i386 layouts beside the formulas of Linux's headers, over all parameters.

use kspace_layout::{AreaKind, I386, I386Error, Layout, PagingMode, PhysAddr, Split};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// A choice of parameters.
#[derive(Clone, Copy, Debug)]
struct Choice {
    split: Split,
    pae: bool,
    highmem: bool,
    vmalloc: Option<u64>,
    reserve_top: u64,
    cpus: u32,
    cpu_entry_pages: u32,
    slots: u32,
    ram: u64,
}

impl Choice {
    fn build(self) -> Result<Layout, I386Error> {
        let mode = if self.pae {
            PagingMode::Pae
        } else {
            PagingMode::TwoLevel
        };
        let mut layout = I386::new(self.split, mode, PhysAddr::new(self.ram - 1))
            .highmem(self.highmem)
            .reserve_top(self.reserve_top)
            .cpus(self.cpus)
            .cpu_entry_pages(self.cpu_entry_pages)
            .permanent_fixmap_slots(self.slots);
        if let Some(bytes) = self.vmalloc {
            layout = layout.vmalloc(bytes);
        }
        layout.build()
    }
}

/// The formulas, symbol by symbol, in signed numbers so that nothing can wrap: `asm/pgtable_32_areas.h`, `asm/fixmap.h`,
/// `arch/x86/mm/init_32.c` and `arch/x86/mm/pgtable_32.c` of Linux 4.20 and later. Ranges with exclusive ends.
struct Linux {
    fixmap: (i64, i64),
    cpu_entry: (i64, i64),
    ldt: (i64, i64),
    pkmap: (i64, i64),
    vmalloc: (i64, i64),
    lowmem: (i64, i64),
}

fn linux(choice: Choice) -> Linux {
    let page_offset: i64 = match choice.split {
        Split::ThreeG => 0xc000_0000,
        Split::ThreeGOpt => 0xb000_0000,
        Split::TwoG => 0x8000_0000,
        Split::TwoGOpt => 0x7800_0000,
        Split::OneG => 0x4000_0000,
    };
    let (ptrs_per_pte, max_arch_pfn) = if choice.pae {
        (512, 0x100_0000)
    } else {
        (1024, 0x10_0000)
    };
    let pmd_size = ptrs_per_pte * 4096;
    let pmd_mask = !(pmd_size - 1);
    let fixaddr_top = match choice.reserve_top as i64 {
        0 => 0xffff_f000,
        reserve => (((1 << 32) - reserve) & pmd_mask) - 4096,
    };

    let permanent = i64::from(choice.slots);
    let crosses = (permanent ^ (permanent + 512 - 1)) & -ptrs_per_pte != 0;
    let btmap_end = if crosses {
        permanent + 512 - (permanent & 511)
    } else {
        permanent
    };
    // FIX_BTMAP_BEGIN, then FIX_WP_TEST, then the end.
    let end_of_fixed = (btmap_end + 512 - 1) + 1 + 1;
    let fixaddr_tot_start = fixaddr_top - end_of_fixed * 4096;

    let cpu_pages = i64::from(choice.cpus) * i64::from(choice.cpu_entry_pages) + 1;
    let cpu_entry = (fixaddr_tot_start - 4096 * cpu_pages) & pmd_mask;
    let ldt = (cpu_entry - 4096) & pmd_mask;
    let pkmap = (ldt - 4096) & pmd_mask;
    let vmalloc_end = if choice.highmem { pkmap } else { ldt } - 2 * 4096;

    let vmalloc_reserve = choice
        .vmalloc
        .map_or(128 << 20, |bytes| bytes as i64 + (8 << 20));
    let maxmem = vmalloc_end - page_offset - vmalloc_reserve;
    let max_pfn = (choice.ram as i64 >> 12).min(max_arch_pfn);
    let max_low_pfn = max_pfn.min(maxmem >> 12);
    let high_memory = page_offset + max_low_pfn * 4096;
    Linux {
        fixmap: (fixaddr_top - permanent * 4096, fixaddr_top),
        cpu_entry: (cpu_entry, cpu_entry + cpu_pages * 4096),
        ldt: (ldt, ldt + pmd_size),
        pkmap: (pkmap, pkmap + ptrs_per_pte * 4096),
        vmalloc: (high_memory + (8 << 20), vmalloc_end),
        lowmem: (page_offset, high_memory),
    }
}

fn range(layout: &Layout, kind: AreaKind) -> Option<(i64, i64)> {
    let range = layout.area(kind)?.range();
    Some((range.start().as_u64() as i64, range.end_u64() as i64))
}

fn check(choice: Choice, layout: &Layout) {
    let linux = linux(choice);
    assert_eq!(
        range(layout, AreaKind::Fixmap),
        Some(linux.fixmap),
        "fixmap"
    );
    assert_eq!(
        range(layout, AreaKind::CpuEntry),
        Some(linux.cpu_entry),
        "cpu_entry"
    );
    assert_eq!(range(layout, AreaKind::LdtRemap), Some(linux.ldt), "LDT");
    assert_eq!(
        range(layout, AreaKind::Pkmap),
        choice.highmem.then_some(linux.pkmap),
        "pkmap"
    );
    assert_eq!(
        range(layout, AreaKind::Vmalloc),
        Some(linux.vmalloc),
        "vmalloc"
    );
    assert_eq!(
        range(layout, AreaKind::DirectMap),
        Some(linux.lowmem),
        "lowmem"
    );
    assert_eq!(
        range(layout, AreaKind::User),
        Some((0, linux.lowmem.0)),
        "user"
    );

    // Early slots: all of them in one page table (the test page below them not counted), none of them permanent.
    let (start, end) = range(layout, AreaKind::EarlyFixmap).unwrap();
    let span = if choice.pae { 2 << 20 } else { 4 << 20 };
    assert!(end <= linux.fixmap.0 && start >= linux.cpu_entry.1);
    assert_eq!((end - 1) / span, (start + 4096) / span);
    // A vmalloc= is a promise.
    let vmalloc = linux.vmalloc.1 - linux.vmalloc.0;
    assert!(vmalloc >= choice.vmalloc.unwrap_or(120 << 20) as i64);
}

fn choices() -> impl Strategy<Value = Choice> {
    let vmalloc = prop::option::of(0..3000u64);
    let reserve = prop_oneof![Just(0u64), 1..1u64 << 30];
    let slots = prop_oneof![2..2048u32, Just(512), Just(1024)];
    let ram = prop_oneof![0x100_0000..2u64 << 30, 0x100_0000..80u64 << 30];
    (
        (0..5usize, any::<bool>(), any::<bool>()),
        (vmalloc, reserve, 1..=512u32, 1..=64u32, slots, ram),
    )
        .prop_map(
            |((split, pae, highmem), (vmalloc, reserve_top, cpus, pages, slots, ram))| Choice {
                split: Split::ALL[split],
                pae,
                highmem,
                vmalloc: vmalloc.map(|mib| (mib + 1) * MIB),
                reserve_top,
                cpus,
                cpu_entry_pages: pages,
                slots,
                ram,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_layout_is_linuxs(choice in choices()) {
        match choice.build() {
            Ok(layout) => check(choice, &layout),
            Err(I386Error::SplitNeedsTwoLevel(split)) => {
                prop_assert!(choice.pae);
                prop_assert_eq!(split, choice.split);
            }
            // Refused for want of room: Linux's own formulas must leave too little lowmem, or less than a page table to spare.
            Err(I386Error::Vmalloc { .. } | I386Error::NoRoom { .. } | I386Error::ReserveTop { .. }) => {
                let linux = linux(choice);
                let reserve = choice.vmalloc.map_or(128 << 20, |bytes| bytes as i64 + (8 << 20));
                let lowmem = linux.vmalloc.1 - linux.lowmem.0 - reserve;
                let tight = (64 + 24) * MIB as i64;
                let vmalloc_small = choice.vmalloc.is_some_and(|bytes| bytes < 120 * MIB);
                prop_assert!(lowmem < tight || vmalloc_small, "{} left", lowmem);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

#[test]
fn all_twenty_configurations_exist_but_the_four_that_pae_forbids() {
    let mut built = 0;
    for split in Split::ALL {
        for (pae, highmem) in [(false, false), (false, true), (true, false), (true, true)] {
            let choice = Choice {
                split,
                pae,
                highmem,
                vmalloc: None,
                reserve_top: 0,
                cpus: 8,
                cpu_entry_pages: 39,
                slots: 233,
                ram: 2 << 30,
            };
            if let Ok(layout) = choice.build() {
                check(choice, &layout);
                built += 1;
            }
        }
    }
    assert_eq!(built, 16);
}

#[test]
fn reservetop_lowers_the_fixmap_to_the_page_table_below() {
    // A hypervisor that keeps 168 MiB: FIXADDR_TOP was then f57ff000 with PAE.
    let layout = I386::new(
        Split::ThreeG,
        PagingMode::Pae,
        PhysAddr::new((512 << 20) - 1),
    )
    .reserve_top(168 * MIB)
    .build()
    .unwrap();
    assert_eq!(
        layout.area(AreaKind::Fixmap).unwrap().range().end_u64(),
        0xf57f_f000
    );
}

#[test]
fn slots_unless_given_follow_the_number_of_cpus() {
    let pages = |cpus, highmem| {
        let layout = I386::new(Split::ThreeG, PagingMode::Pae, PhysAddr::new((1 << 30) - 1));
        let layout = layout.cpus(cpus).highmem(highmem).build().unwrap();
        layout.area(AreaKind::Fixmap).unwrap().range().size() / 4096
    };
    assert_eq!(pages(8, true) - pages(1, true), 7 * 16);
    assert_eq!(pages(8, false), 69);
}
