//! Physical frames: how fast they are handed out and taken back, what stays whole, and what the books cost.
//!
//! The contenders take turns; the figure is the best of each one's turns, because a busy host only ever adds.
//! Threads run at once, each as a CPU of its own.

mod buddy;
mod driver;
mod instructions;
mod loads;
mod ours;

use std::path::Path;
use std::time::Instant;

use kspace_frames::MetadataSize;
use kspace_layout::Pfn;

use buddy::Buddy;
use driver::Driver;
pub(crate) use instructions::{WORD as COUNT_PAIRS, run as count_pairs};
use loads::{FRAMES_A_THREAD, Load};
use ours::Ours;

use crate::row::Row;

/// Turns of each contender.
const TURNS: usize = 7;

/// Frames of 64 TiB, all the memory that a direct map of 4-level paging reaches.
const FRAMES_64_TIB: usize = 1 << 34;

/// All rows of this bench; with a peer's program, also against it.
pub(crate) fn rows(peer: Option<&Path>) -> Vec<Row> {
    let mut driver = peer.and_then(|directory| {
        Driver::start(directory)
            .map_err(|error| {
                eprintln!("kspace-bench: {}/frames-peer: {error}", directory.display());
            })
            .ok()
    });
    let mut rows = Vec::new();
    for load in Load::ALL {
        for threads in [1, 2] {
            rows.extend(measure(load, threads, driver.as_mut()));
        }
    }
    rows.extend(instructions(driver.as_mut()));
    rows.extend(books(driver.as_mut()));
    rows
}

/// One load, everybody in turn.
fn measure(load: Load, threads: usize, mut driver: Option<&mut Driver>) -> Vec<Row> {
    // Blocks left whole are no matter of time: each turn finds the same.
    let turns = if load == Load::Mixed { 1 } else { TURNS };
    let question = format!("{} {threads}", load.word());
    let frames = threads * FRAMES_A_THREAD;
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..turns {
        times[0].extend(Ours::new(frames, threads).map(|ours| loads::run(&ours, load, threads)));
        times[1].push(loads::run(&Buddy::new(frames), load, threads));
        times[2].extend(driver.as_mut().and_then(|driver| driver.ask(&question)));
    }
    let [ours, buddy, other] = times.map(best);
    let peers = [
        (buddy, "buddy_system_allocator"),
        (other, driver.map_or("", |driver| driver.name)),
    ];
    let row = |(peer, peer_name): (Option<f64>, &'static str)| {
        Some(Row {
            bench: "frames",
            name: format!(
                "{}, {threads} thread{}",
                title(load),
                if threads > 1 { "s" } else { "" }
            ),
            unit: if load == Load::Mixed { "2M" } else { "ns" },
            ours: ours?,
            peer: peer?,
            peer_name,
        })
    };
    peers.into_iter().filter_map(row).collect()
}

fn title(load: Load) -> &'static str {
    match load {
        Load::Pair => "order 0, alloc + free",
        Load::Bulk => "order 0, bulk",
        Load::HugePair => "order 9, alloc + free",
        Load::HugeBulk => "order 9, bulk",
        Load::RandomFree => "order 0, random free",
        Load::Mixed => "huge frames not whole after a mix",
    }
}

fn best(times: Vec<f64>) -> Option<f64> {
    times.into_iter().min_by(f64::total_cmp)
}

/// Instructions for each pair, against the peer's and the limit that is set.
fn instructions(mut driver: Option<&mut Driver>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (order, limit) in [(0, 40.0), (9, 40.0)] {
        let Some(ours) = instructions::per_pair(order) else {
            continue;
        };
        let mut row = |peer: f64, peer_name| {
            rows.push(Row {
                bench: "frames",
                name: format!("order {order}, instructions of alloc + free"),
                unit: "instr",
                ours,
                peer,
                peer_name,
            });
        };
        row(limit, "the limit set");
        if let Some(driver) = driver.as_mut()
            && let Some(peer) = driver.ask(&format!("instructions {order}"))
        {
            row(peer, driver.name);
        }
    }
    rows
}

/// What the books cost: bytes for each GiB, and the time until 64 TiB can be handed out.
fn books(mut driver: Option<&mut Driver>) -> Vec<Row> {
    let kib = MetadataSize::new(Pfn::new(0), 1 << 18, 1).bytes() as f64 / 1024.0;
    let start = Instant::now();
    let ready = Ours::new(FRAMES_64_TIB, 64).map(|_| start.elapsed().as_secs_f64() * 1e3);
    let mut rows = Vec::new();
    let mut row = |name: &str, unit, ours, peer, peer_name| {
        rows.push(Row {
            bench: "frames",
            name: name.to_owned(),
            unit,
            ours,
            peer,
            peer_name,
        });
    };
    row(
        "books of 1 GiB",
        "KiB",
        kib,
        16.0 * 1024.0,
        "Linux's struct page",
    );
    if let Some(ready) = ready {
        row("64 TiB ready", "ms", ready, 1000.0, "the limit set");
    }
    if let Some(driver) = driver.as_mut() {
        if let Some(peer) = driver.ask("books") {
            row("books of 1 GiB", "KiB", kib, peer, driver.name);
        }
        if let (Some(ready), Some(peer)) = (ready, driver.ask("start")) {
            row("64 TiB ready", "ms", ready, peer, driver.name);
        }
    }
    rows
}
