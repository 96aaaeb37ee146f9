//! What the allocators are asked to do, the same for each. Nothing here knows any of them: the program that drives LLFree takes
//! this file as it is.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Frames that each allocator has for each thread: 1 GiB.
pub const FRAMES_A_THREAD: usize = 1 << 18;

/// Somebody's frame allocator. Each thread uses a CPU number of its own.
pub trait Contender: Sync {
    /// What a thread shows to say which CPU it is.
    type Cpu;
    /// The thread with this number begins.
    fn cpu(&self, number: usize) -> Self::Cpu;
    /// 2^order frames; the first one's number.
    fn allocate(&self, cpu: &Self::Cpu, order: usize) -> Option<usize>;
    /// Takes them back.
    fn free(&self, cpu: &Self::Cpu, frame: usize, order: usize);
    /// 2^order frames, taken and given back at once; whether there were any.
    #[inline(always)]
    fn pair(&self, cpu: &Self::Cpu, order: usize) -> bool {
        let frame = self.allocate(cpu, order);
        if let Some(frame) = frame {
            self.free(cpu, frame, order);
        }
        frame.is_some()
    }
    /// Whatever a CPU keeps goes back to all.
    fn drain(&self, cpu: &Self::Cpu);
}

/// A load, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One frame, taken and given back at once.
    Pair,
    /// Half of the memory in single frames, all taken, then all given back.
    Bulk,
    /// A huge frame, taken and given back at once.
    HugePair,
    /// Half of the memory in huge frames, all taken, then all given back.
    HugeBulk,
    /// Half of the memory, taken in single frames, given back in random order; only the giving back counts.
    RandomFree,
    /// Taken and given back at random, one frame to 32 KiB and now and then a huge frame, around half of the memory; the
    /// figure is how many huge frames are not free at the end, when the huge ones in use have been given back.
    Mixed,
}

impl Load {
    /// All.
    pub const ALL: [Self; 6] = [
        Self::Pair,
        Self::Bulk,
        Self::HugePair,
        Self::HugeBulk,
        Self::RandomFree,
        Self::Mixed,
    ];

    /// Its name, which a driver is asked with.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            Self::Bulk => "bulk",
            Self::HugePair => "huge-pair",
            Self::HugeBulk => "huge-bulk",
            Self::RandomFree => "random-free",
            Self::Mixed => "mixed",
        }
    }
}

/// Xorshift: the same sequence for each allocator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Runs a load on so many threads. Nanoseconds for each frame or huge frame taken and given back (given back: for the
/// random free), as each thread sees it; for [`Load::Mixed`], huge frames.
pub fn run<C: Contender>(contender: &C, load: Load, threads: usize) -> f64 {
    let barrier = Barrier::new(threads);
    let each = |number: usize| {
        let cpu = contender.cpu(number);
        barrier.wait();
        let (time, count) = match load {
            Load::Pair => pairs::<C, 0>(contender, &cpu, 1_000_000),
            Load::HugePair => pairs::<C, 9>(contender, &cpu, 1_000_000),
            Load::Bulk => bulk::<C, 0>(contender, &cpu, 4),
            Load::HugeBulk => bulk::<C, 9>(contender, &cpu, 400),
            Load::RandomFree => random_free(contender, &cpu),
            Load::Mixed => return mixed(contender, &cpu, number),
        };
        barrier.wait();
        contender.drain(&cpu);
        time.as_nanos() as f64 / count as f64
    };
    let figures: Vec<f64> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map(|number| scope.spawn(move || each(number)))
            .collect();
        let own = each(0);
        std::iter::once(own)
            .chain(
                others
                    .into_iter()
                    .map(|other| other.join().unwrap_or(f64::NAN)),
            )
            .collect()
    });
    if load == Load::Mixed {
        let cpu = contender.cpu(0);
        return (threads * FRAMES_A_THREAD / 512 - whole_left(contender, &cpu)) as f64;
    }
    figures.iter().sum::<f64>() / threads as f64
}

/// The word with which a program is started whose instructions are counted: `--count-pairs ORDER PAIRS`.
pub const COUNT_PAIRS: &str = "--count-pairs";

/// What it then does with the words that follow: so many pairs of the order, or as often nothing, for the order `none`.
/// Whether the words made sense.
pub fn count_pairs<C: Contender>(contender: &C, mut words: impl Iterator<Item = String>) -> bool {
    let order = words.next();
    let Some(count) = words.next().and_then(|word| word.parse().ok()) else {
        return false;
    };
    let cpu = contender.cpu(0);
    match order.as_deref() {
        Some("0") => drop(pairs::<C, 0>(contender, &cpu, count)),
        Some("1") => drop(pairs::<C, 1>(contender, &cpu, count)),
        Some("3") => drop(pairs::<C, 3>(contender, &cpu, count)),
        Some("6") => drop(pairs::<C, 6>(contender, &cpu, count)),
        Some("8") => drop(pairs::<C, 8>(contender, &cpu, count)),
        Some("9") => drop(pairs::<C, 9>(contender, &cpu, count)),
        Some("none") => (0..count).for_each(|number| {
            black_box(number);
        }),
        _ => return false,
    }
    true
}

/// So many pairs of one order, which the code knows, as that of a kernel does; the time they take, and how many.
#[inline(never)]
fn pairs<C: Contender, const ORDER: usize>(
    contender: &C,
    cpu: &C::Cpu,
    count: usize,
) -> (Duration, usize) {
    let start = Instant::now();
    for _ in 0..count {
        if !contender.pair(black_box(cpu), ORDER) {
            return (Duration::MAX, count);
        }
    }
    (start.elapsed(), count)
}

fn bulk<C: Contender, const ORDER: usize>(
    contender: &C,
    cpu: &C::Cpu,
    rounds: usize,
) -> (Duration, usize) {
    let count = (FRAMES_A_THREAD / 2) >> ORDER;
    let mut frames = Vec::with_capacity(count);
    let mut round = || {
        frames.extend((0..count).filter_map(|_| contender.allocate(cpu, ORDER)));
        for frame in frames.drain(..) {
            contender.free(cpu, frame, ORDER);
        }
    };
    // The host gives books their pages at the first touch; a kernel's are there from boot.
    round();
    let start = Instant::now();
    (0..rounds).for_each(|_| round());
    (start.elapsed(), rounds * count)
}

fn random_free<C: Contender>(contender: &C, cpu: &C::Cpu) -> (Duration, usize) {
    let count = FRAMES_A_THREAD / 2;
    let mut frames: Vec<usize> = (0..count)
        .filter_map(|_| contender.allocate(cpu, 0))
        .collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for index in (1..frames.len()).rev() {
        frames.swap(index, random.below(index + 1));
    }
    let start = Instant::now();
    for frame in frames {
        contender.free(cpu, frame, 0);
    }
    (start.elapsed(), count)
}

/// Leaves its small blocks in use: what comes after is to see what they left whole.
fn mixed<C: Contender>(contender: &C, cpu: &C::Cpu, number: usize) -> f64 {
    let mut random = Random(0x2545_f491_4f6c_dd1d + number as u64);
    let mut live: Vec<(usize, usize)> = Vec::new();
    let mut used = 0;
    for _ in 0..2_000_000 {
        // The fuller it is, the likelier is a free: it hovers around half.
        if random.below(FRAMES_A_THREAD) >= used {
            let order = match random.below(1000) {
                0 => 9,
                1..=100 => random.below(3) + 1,
                _ => 0,
            };
            if let Some(frame) = contender.allocate(cpu, order) {
                live.push((frame, order));
                used += 1 << order;
            }
        } else if !live.is_empty() {
            let (frame, order) = live.swap_remove(random.below(live.len()));
            contender.free(cpu, frame, order);
            used -= 1 << order;
        }
    }
    for &(frame, order) in live.iter().filter(|(_, order)| *order == 9) {
        contender.free(cpu, frame, order);
    }
    contender.drain(cpu);
    0.0
}

fn whole_left<C: Contender>(contender: &C, cpu: &C::Cpu) -> usize {
    std::iter::from_fn(|| contender.allocate(cpu, 9)).count()
}
