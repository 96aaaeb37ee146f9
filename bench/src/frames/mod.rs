//! Physical frames: how fast they are handed out and taken back, what stays whole, and what the books cost.
//!
//! The contenders take turns; the figure is the best of each one's turns, because a busy host only ever adds.
//! Threads run at once, each as a CPU of its own.

mod buddy;
mod instructions;
mod llfree;
mod loads;
mod ours;

use std::path::Path;
use std::time::Instant;

use kspace_frames::MetadataSize;
use kspace_layout::Pfn;

use buddy::Buddy;
use llfree::LlFree;
use loads::{FRAMES_A_THREAD, Load};
use ours::Ours;

pub(crate) use loads::COUNT_PAIRS;

use crate::row::{Refused, Row};

/// Turns of each contender.
const TURNS: usize = 9;

/// Frames of 64 TiB, all the memory that a direct map of 4-level paging reaches.
const FRAMES_64_TIB: usize = 1 << 34;

/// All rows of this bench; with a checkout of LLFree, also against it.
pub(crate) fn rows(peer: Option<&Path>) -> Result<Vec<Row>, Refused> {
    let mut llfree = peer.map(LlFree::start).transpose()?;
    let mut rows = Vec::new();
    for load in Load::ALL {
        for threads in [1, 2] {
            rows.extend(measure(load, threads, llfree.as_mut()));
        }
    }
    rows.extend(instructions(llfree.as_ref()));
    rows.extend(books(llfree.as_mut()));
    Ok(rows)
}

/// What this program does when it is started to be counted.
pub(crate) fn count_pairs(words: impl Iterator<Item = String>) -> bool {
    Ours::new(FRAMES_A_THREAD, 1).is_some_and(|ours| loads::count_pairs(&ours, words))
}

/// One load, everybody in turn.
fn measure(load: Load, threads: usize, mut llfree: Option<&mut LlFree>) -> Vec<Row> {
    // Blocks left whole are no matter of time: each turn finds about the same.
    let turns = if load == Load::Mixed { 1 } else { TURNS };
    let question = format!("{} {threads}", load.word());
    let frames = threads * FRAMES_A_THREAD;
    let mut figures = [const { Vec::new() }; 3];
    for _ in 0..turns {
        figures[0].extend(Ours::new(frames, threads).map(|ours| loads::run(&ours, load, threads)));
        figures[1].push(loads::run(&Buddy::new(frames), load, threads));
        figures[2].extend(llfree.as_mut().and_then(|llfree| llfree.ask(&question)));
    }
    let [ours, buddy, other] = figures.map(least);
    let peers = [
        (buddy, "buddy_system_allocator"),
        (other, llfree.map_or("", |llfree| llfree.name)),
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

fn least(figures: Vec<f64>) -> Option<f64> {
    figures.into_iter().min_by(f64::total_cmp)
}

fn row(
    name: impl Into<String>,
    unit: &'static str,
    ours: f64,
    peer: f64,
    peer_name: &'static str,
) -> Row {
    Row {
        bench: "frames",
        name: name.into(),
        unit,
        ours,
        peer,
        peer_name,
    }
}

/// Instructions for each pair, against the limit that is set and the peer's.
fn instructions(llfree: Option<&LlFree>) -> Vec<Row> {
    let mut rows = Vec::new();
    let Ok(own) = std::env::current_exe() else {
        return rows;
    };
    for (order, limit) in [(0, 40.0), (9, 40.0)] {
        let Some(ours) = instructions::per_pair(&own, order) else {
            continue;
        };
        let name = format!("order {order}, alloc + free");
        rows.push(row(&name, "instr", ours, limit, "the limit set"));
        if let Some(llfree) = llfree
            && let Some(peer) = instructions::per_pair(&llfree.program, order)
        {
            rows.push(row(&name, "instr", ours, peer, llfree.name));
        }
    }
    rows
}

/// What the books cost: memory for each GiB, and the time until 64 TiB can be handed out.
fn books(llfree: Option<&mut LlFree>) -> Vec<Row> {
    /// `struct page` of x86-64 is 64 bytes (Linux's include/linux/mm_types.h).
    const LINUX_KIB: f64 = 16.0 * 1024.0;
    const GIB_IN_64_TIB: f64 = 65536.0;
    let kib = MetadataSize::new(Pfn::new(0), FRAMES_A_THREAD, 1).bytes() as f64 / 1024.0;
    let mut rows = vec![row(
        "books of 1 GiB",
        "KiB",
        kib,
        LINUX_KIB,
        "Linux's struct page",
    )];
    let start = Instant::now();
    if Ours::new(FRAMES_64_TIB, 64).is_none() {
        return rows;
    }
    let ready = start.elapsed().as_secs_f64() * 1e3;
    let mut starts = |peer: f64, peer_name| {
        rows.push(row("64 TiB ready", "ms", ready, peer, peer_name));
        let each = |ms: f64| ms * 1e6 / GIB_IN_64_TIB;
        rows.push(row(
            "1 GiB of them ready",
            "ns",
            each(ready),
            each(peer),
            peer_name,
        ));
    };
    starts(1000.0, "the limit set");
    if let Some(llfree) = llfree
        && let Some(peer) = llfree.ask("start")
    {
        starts(peer, llfree.name);
    }
    rows
}
