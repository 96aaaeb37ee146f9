//! An area in the largest pages that there are, of every node, and one that gets other sizes: what it holds is read back each time.

use kspace::areas::{Addresses, OwnedArea, VmallocInfo};
use kspace::vmalloc::{AreaRequest, Kind};
use kspace_frames::zone::{NodeId, Zone};
use kspace_layout::{FRAME_SIZE, PageSize, VirtRange};
use kspace_paging::Walker;

use super::account::Account;
use crate::memory::{self, Memory};
use crate::vmalloc::{self, Areas};
use crate::{arch, info, info_lines};

/// The sizes that an area gets one after the other, in pages: in its chunk, out of it, into large pages, and back.
const SIZES: [u64; 9] = [1, 3, 200, 300, 1500, 1100, 513, 40, 2];

/// Makes an area of half of all free memory, or all whole GiB of that, and says what it is made of.
pub(super) fn large_pages() -> bool {
    let (Some(areas), Some(memory)) = (vmalloc::get(), memory::get()) else {
        return false;
    };
    let before = Account::take(areas, memory);
    let half = memory.free_frames() * FRAME_SIZE / 2;
    let whole = half & !(PageSize::Size1G.bytes() - 1);
    let bytes = if whole > 0 { whole } else { half };
    let asked = [
        ("as it comes", AreaRequest::new(bytes)),
        ("in small pages", AreaRequest::new(64 << 20).small_pages()),
        (
            "rounded to large pages",
            AreaRequest::new((4 << 20) + 1).huge(),
        ),
    ];
    let done = asked.iter().all(|(how, request)| one(areas, how, request));
    done && nodes(areas, memory) && before.is_same_as(&Account::take(areas, memory))
}

fn one(areas: &'static Areas, how: &str, request: &AreaRequest) -> bool {
    let area = match OwnedArea::allocate(areas, request) {
        Ok(area) => area,
        Err(error) => {
            info!("test-vmalloc: large_pages: {error}");
            return false;
        }
    };
    let [small, large, huge] = sizes(areas, area.range());
    write(area.range(), 0);
    let same = is_written(area.range(), 0);
    info!(
        "test-vmalloc: large_pages: {} KiB {how}: {huge} pages of 1G, {large} of 2M, {small} of 4K, read back: {same}",
        area.range().size() >> 10
    );
    list(areas);
    same
}

/// The areas that there are, as the log's readers, who are privileged, may see them.
fn list(areas: &'static Areas) {
    let Some(memory) = memory::get() else { return };
    let node_of = |frame| memory.zones().spanning(frame).next().map(Zone::node);
    info_lines!("{}", VmallocInfo::new(areas, Addresses::Real, node_of));
}

/// How many pages of each size an area has.
fn sizes(areas: &Areas, range: VirtRange) -> [u64; 3] {
    let tables = areas.tables();
    let walker = Walker::new(tables.mode(), tables.root(), tables.memory());
    let mut counts = [0; 3];
    for run in walker.with_limits(tables.limits()).runs(range).flatten() {
        let at = match run.page {
            PageSize::Size4K => 0,
            PageSize::Size2M | PageSize::Size4M => 1,
            PageSize::Size1G => 2,
        };
        counts[at] += run.virt.size() / run.page.bytes();
    }
    counts
}

/// An area of each node that has memory, and of no other.
fn nodes(areas: &'static Areas, memory: &Memory) -> bool {
    NodeId::all().all(|node| {
        let request = AreaRequest::new(300 * FRAME_SIZE).node(node).this_node();
        let made = OwnedArea::allocate(areas, &request);
        let has = memory.zones().has_memory(node);
        if has {
            let made = made.is_ok();
            info!("test-vmalloc: large_pages: 300 pages of node {node} and no other: {made}");
            list(areas);
        }
        made.is_ok() == has
    })
}

/// Gives an area one size after the other.
pub(super) fn reallocate(loops: u64) -> bool {
    let (Some(areas), Some(memory)) = (vmalloc::get(), memory::get()) else {
        return false;
    };
    let before = Account::take(areas, memory);
    let (began, mut moves) = (arch::ticks(), 0);
    for round in 0..loops {
        match one_round(areas, round) {
            Some(moved) => moves += moved,
            None => return false,
        }
    }
    let took = arch::ticks() - began;
    info!(
        "test-vmalloc: reallocate: {loops} loops in {took} ticks, {} sizes each, {moves} moves, every page read back",
        SIZES.len()
    );
    before.is_same_as(&Account::take(areas, memory))
}

/// How often it moved; `None` when something was refused, or not what was written.
fn one_round(areas: &'static Areas, round: u64) -> Option<u64> {
    let request = |pages| {
        AreaRequest::new(pages * FRAME_SIZE)
            .kind(Kind::Memory)
            .zeroed()
    };
    let mut area = OwnedArea::allocate(areas, &request(SIZES[0])).ok()?;
    let mut others = [const { None }; SIZES.len()];
    let mut moves = 0;
    for (pages, other) in SIZES.into_iter().zip(&mut others) {
        let old = area.range();
        write(old, round);
        // Something behind it, so that it has to move.
        *other = OwnedArea::allocate(areas, &request(1)).ok();
        let now = match area.reallocate(&request(pages)) {
            Ok(now) => now,
            Err(error) => {
                info!("test-vmalloc: reallocate: {error}");
                return None;
            }
        };
        moves += u64::from(now.start() != old.start());
        let kept = old.size().min(now.size());
        let new = now.size() - kept;
        let is_kept = is_written(VirtRange::new(now.start(), kept), round);
        let is_zero = (0..new / FRAME_SIZE).all(|page| read(now, kept / FRAME_SIZE + page) == 0);
        if !is_kept || !is_zero || now.size() != pages * FRAME_SIZE {
            info!("test-vmalloc: reallocate: {old} became {now}, and is not as it was");
            return None;
        }
    }
    Some(moves)
}

/// Writes a number of its own into each page.
fn write(range: VirtRange, salt: u64) {
    for page in 0..range.size() / FRAME_SIZE {
        let word = (range.start().as_u64() + page * FRAME_SIZE) as *mut u64;
        // SAFETY: the area is mapped, writable and this file's alone.
        unsafe { word.write_volatile(arch::mix(page ^ salt) | 1) };
    }
}

fn is_written(range: VirtRange, salt: u64) -> bool {
    let pages = range.size() / FRAME_SIZE;
    (0..pages).all(|page| read(range, page) == arch::mix(page ^ salt) | 1)
}

fn read(range: VirtRange, page: u64) -> u64 {
    let word = (range.start().as_u64() + page * FRAME_SIZE) as *const u64;
    // SAFETY: as in `write`.
    unsafe { word.read_volatile() }
}
