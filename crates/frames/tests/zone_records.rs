//! Where the records of frames are mapped: everywhere where there is RAM, nowhere else, and cheaply.

use kspace_frames::zone::{NodeId, Nodes, RecordPlan};
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{PageSize, PhysAddr, PhysRange};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const LARGE: Option<PageSize> = Some(PageSize::Size2M);

fn nodes_of(ram: &[(u64, u64)]) -> Nodes {
    let entries = ram.iter().map(|(start, end)| FirmwareEntry {
        start: *start,
        size: end - start,
        kind: 1,
    });
    let map = MemoryMap::from_firmware(entries, 52, |_| ()).expect("a usable map");
    Nodes::new(&map, &[], |_| ()).expect("one node")
}

fn check(nodes: &Nodes, record_bytes: u64, expected: &[&str]) {
    let plan = RecordPlan::new(nodes, record_bytes, LARGE).expect("a power of two");
    let runs: Vec<String> = plan.runs().map(|run| run.to_string()).collect();
    assert_eq!(runs, expected);
}

/// 64 MiB and records of Linux's size: half of the 2 MiB that a whole section would take.
#[test]
fn a_small_machine_pays_for_what_it_has() {
    let nodes = nodes_of(&[(0x1000, 0x9f000), (MIB, 64 * MIB)]);
    check(
        &nodes,
        64,
        &[
            "records of frames 0-bf, 12 KiB, page 4k",
            "records of frames 100-3fff, 1008 KiB, page 4k",
        ],
    );
    check(&nodes, 4, &["records of frames 0-3fff, 64 KiB, page 4k"]);
}

#[test]
fn whole_large_pages_are_used_and_holes_left_out() {
    let nodes = nodes_of(&[(MIB, 3 * GIB + 64 * MIB), (4 * GIB, 4 * GIB + 192 * MIB)]);
    check(
        &nodes,
        64,
        &[
            // The first MiB has no RAM: 256 frames, four pages of records.
            "records of frames 100-7fff, 1.9 MiB, page 4k",
            "records of frames 8000-bffff, 46 MiB, page 2M",
            "records of frames c0000-c3fff, 1 MiB, page 4k",
            "records of frames 100000-107fff, 2 MiB, page 2M",
            "records of frames 108000-10bfff, 1 MiB, page 4k",
        ],
    );
}

/// RAM that ends inside a page of records takes that page; two that share one take it once.
#[test]
fn a_page_of_records_is_taken_once() {
    let page = |number: u64| 16 * MIB + number * 4096;
    let nodes = nodes_of(&[(page(0), page(3)), (page(5), page(6)), (page(70), page(71))]);
    check(&nodes, 64, &["records of frames 1000-107f, 8 KiB, page 4k"]);
}

#[test]
fn plugged_in_memory_shares_no_page_with_the_rest() {
    let mut nodes = nodes_of(&[(MIB, GIB)]);
    let before = RecordPlan::new(&nodes, 4, LARGE)
        .expect("a power of two")
        .bytes();
    let new = PhysRange::new(PhysAddr::new(4 * GIB), 128 * MIB);
    nodes.add(NodeId::ZERO, new).expect("new memory");
    let plan = RecordPlan::new(&nodes, 4, LARGE).expect("a power of two");
    let added: Vec<String> = plan.only(new).runs().map(|run| run.to_string()).collect();
    assert_eq!(added, ["records of frames 100000-107fff, 128 KiB, page 4k"]);
    assert_eq!(plan.bytes(), before + plan.only(new).bytes());
}

#[test]
fn records_must_not_cross_pages() {
    let nodes = nodes_of(&[(MIB, GIB)]);
    for (bytes, shown) in [(0, "0"), (12, "12"), (8192, "8192")] {
        let error = RecordPlan::new(&nodes, bytes, LARGE).expect_err("refused");
        assert_eq!(
            error.to_string(),
            format!("frame records of {shown} bytes: no power of two from 1 to 4096; round up")
        );
    }
}

proptest! {
    /// Against a model that asks page by page: exactly the pages with a record of RAM, and large ones where all 512 have.
    #[test]
    fn the_plan_is_that_of_a_page_by_page_model(
        ram in prop::collection::vec((0_u64..3000, 1_u64..1200), 1..6),
        shift in 6_u32..=12,
        large in any::<bool>(),
    ) {
        let ram: Vec<(u64, u64)> = ram.iter().map(|(start, len)| (*start, start + len)).collect();
        let bytes: Vec<(u64, u64)> = ram.iter().map(|(start, end)| (start * 4096, end * 4096)).collect();
        let nodes = nodes_of(&bytes);
        let size = 1_u64 << shift;
        let plan = RecordPlan::new(&nodes, size, if large { LARGE } else { None }).expect("a power of two");
        let per_page = 4096 / size;
        let wanted = |page: u64| {
            (page * per_page..(page + 1) * per_page).any(|frame| ram.iter().any(|(start, end)| (*start..*end).contains(&frame)))
        };
        let wanted: Vec<bool> = (0..8192).map(wanted).collect();
        let mut covered = vec![None; 8192];
        let mut last: Option<(u64, PageSize)> = None;
        for run in plan.runs() {
            prop_assert_eq!(run.offset() % run.page().bytes(), 0);
            prop_assert_eq!(run.size() % run.page().bytes(), 0);
            if let Some((end, page)) = last {
                prop_assert!(end < run.offset() || (end == run.offset() && page != run.page()));
            }
            for page in run.offset() / 4096..(run.offset() + run.size()) / 4096 {
                prop_assert!(covered[page as usize].replace(run.page()).is_none());
            }
            last = Some((run.offset() + run.size(), run.page()));
        }
        for (page, covered) in covered.into_iter().enumerate() {
            let whole = large && wanted[page / 512 * 512..][..512].iter().all(|wanted| *wanted);
            let size = if whole { PageSize::Size2M } else { PageSize::Size4K };
            prop_assert_eq!(covered, wanted[page].then_some(size), "page {}", page);
        }
    }
}
