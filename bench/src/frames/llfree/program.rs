//! The program that is built against a checkout of LLFree. It reads questions, a line each, and answers each with a number,
//! or `?` when it has none:
//!
//! ```text
//!   LOAD THREADS     runs the load of that word on fresh memory
//!   books            KiB of metadata for 1 GiB and one CPU
//!   start            milliseconds until 64 TiB are ready for 64 CPUs
//! ```
//!
//! Started with `--count-pairs ORDER PAIRS`, it does that and ends, to be counted from outside.

#[path = "../loads.rs"]
mod loads;

use std::io::BufRead;
use std::time::Instant;

use llfree::{Alloc, Classing, FrameId, Init, LLFree, MetaData, Request};

use loads::{Contender, FRAMES_A_THREAD, Load};

/// The allocator, with its books, which stay until the process ends.
struct Peer {
    allocator: LLFree<'static>,
    request: Box<dyn Fn(usize, usize) -> Request + Sync>,
}

impl Peer {
    fn new(frames: usize, cpus: usize) -> Option<Self> {
        // What it recommends: small and huge frames in trees of their own, reserved by each CPU.
        let (classing, request) = Classing::simple(cpus);
        let books = MetaData::alloc(&LLFree::metadata_size(&classing, frames));
        Some(Self {
            allocator: LLFree::new(frames, Init::FreeAll, &classing, books).ok()?,
            request: Box::new(request),
        })
    }
}

impl Contender for Peer {
    type Cpu = [Request; 11];

    fn cpu(&self, number: usize) -> [Request; 11] {
        std::array::from_fn(|order| (self.request)(order, number))
    }

    #[inline(always)]
    fn allocate(&self, cpu: &[Request; 11], order: usize) -> Option<usize> {
        let (frame, _) = self.allocator.get(None, cpu[order]).ok()?;
        Some(frame.0)
    }

    #[inline(always)]
    fn free(&self, cpu: &[Request; 11], frame: usize, order: usize) {
        if self.allocator.put(FrameId(frame), cpu[order]).is_err() {
            wrong(frame);
        }
    }

    fn drain(&self, _cpu: &[Request; 11]) {
        self.allocator.drain();
    }
}

#[cold]
fn wrong(frame: usize) -> ! {
    panic!("frame {frame:#x} was refused")
}

fn main() {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(loads::COUNT_PAIRS) {
        if let Some(peer) = Peer::new(FRAMES_A_THREAD, 1) {
            loads::count_pairs(&peer, words);
        }
        return;
    }
    for question in std::io::stdin().lock().lines().map_while(Result::ok) {
        match answer(&question) {
            Some(figure) => println!("{figure}"),
            None => println!("?"),
        }
    }
}

fn answer(question: &str) -> Option<f64> {
    match question {
        "books" => {
            let (classing, _) = Classing::simple(1);
            let size = LLFree::metadata_size(&classing, 1 << 18);
            Some((size.local + size.trees + size.lower) as f64 / 1024.0)
        }
        "start" => {
            let start = Instant::now();
            let peer = Peer::new(1 << 34, 64)?;
            let took = start.elapsed().as_secs_f64() * 1e3;
            (peer.allocator.frames() == 1 << 34).then_some(took)
        }
        _ => {
            let (word, threads) = question.split_once(' ')?;
            let load = Load::ALL.into_iter().find(|load| load.word() == word)?;
            let threads: usize = threads.parse().ok()?;
            let peer = Peer::new(threads * FRAMES_A_THREAD, threads)?;
            Some(loads::run(&peer, load, threads))
        }
    }
}
