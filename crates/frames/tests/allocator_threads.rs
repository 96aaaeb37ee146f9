//! Many CPUs at once: no frame is handed out twice, none is lost, and the counts are right when all is back.

mod allocator_books;
mod xorshift;

use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};

use allocator_books::Books;
use kspace_frames::{
    AllocError, Constraint, Flags, FrameAllocator, HUGE_FRAMES, History, Order, Owner, PinnedCpu,
};
use kspace_layout::Pfn;
use xorshift::Random;

const CPUS: usize = 8;

/// A machine: who has each frame, as the threads say; and the proof for each CPU, for one thread at a time.
struct Machine<'m> {
    frames: FrameAllocator<'m>,
    holders: Vec<AtomicU16>,
    cpus: Vec<Mutex<()>>,
}

impl<'m> Machine<'m> {
    fn new(books: &'m Books) -> Self {
        let frames = books.allocator();
        frames.add(books.start, books.frames).unwrap();
        Self {
            frames,
            holders: (0..books.frames).map(|_| AtomicU16::new(0)).collect(),
            cpus: (0..CPUS).map(|_| Mutex::new(())).collect(),
        }
    }

    /// Runs on a CPU, as long as nobody else does.
    fn on<T>(&self, cpu: usize, run: impl FnOnce(&PinnedCpu) -> T) -> T {
        let _alone = self.cpus[cpu].lock().unwrap();
        // SAFETY: the lock keeps others off this CPU, and orders what they did before it.
        run(&unsafe { PinnedCpu::new(cpu as u16) })
    }

    /// Notes that a thread has frames which nobody had.
    fn take(&self, start: Pfn, count: usize, thread: u16) {
        for frame in start.as_u64() as usize..start.as_u64() as usize + count {
            let before = self.holders[frame].swap(thread, Ordering::Relaxed);
            assert_eq!(
                before, 0,
                "frame {frame:x} of {before} was given to {thread}"
            );
        }
    }

    /// Notes that a thread gives up frames which it had.
    fn give(&self, start: Pfn, count: usize, thread: u16) {
        for frame in start.as_u64() as usize..start.as_u64() as usize + count {
            let before = self.holders[frame].swap(0, Ordering::Relaxed);
            assert_eq!(
                before, thread,
                "frame {frame:x} of {thread} was given to {before}"
            );
        }
    }

    fn all_back(&self) {
        for cpu in 0..CPUS {
            self.on(cpu, |pin| self.frames.drain(pin));
        }
        assert_eq!(self.frames.free_frames(), self.frames.managed_frames());
        assert_eq!(
            self.frames.free_huges(),
            self.frames.managed_frames() / HUGE_FRAMES
        );
        assert_eq!(self.frames.refused_drops(), 0);
        let in_use = |frame: &usize| {
            let history = self.frames.history(Pfn::new(*frame as u64));
            matches!(history, Some(History::InUse { .. }))
        };
        assert_eq!((0..self.holders.len()).find(in_use), None);
    }
}

/// Threads that move between CPUs, give blocks to each other, and use up all memory now and then.
#[test]
fn every_frame_is_accounted_for() {
    let books = Books::new(0, 24 * 1024, CPUS);
    let machine = Machine::new(&books);
    let shared: Mutex<Vec<(Pfn, Order)>> = Mutex::new(Vec::new());
    let exhausted = AtomicUsize::new(0);
    let thread = |number: u16| {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ u64::from(number) << 20);
        let mut live: Vec<(Pfn, Order)> = Vec::new();
        for step in 0..60_000 {
            let cpu = match random.below(16) {
                0 => random.below(CPUS),
                _ => usize::from(number) % CPUS,
            };
            let filling = step / 4000 % 2 == 0;
            if random.below(100) < if filling { 60 } else { 40 } {
                let order = match random.below(100) {
                    0 => 10,
                    1 | 2 => 9,
                    3..=20 => random.below(8) as u8 + 1,
                    _ => 0,
                };
                let order = Order::new(order);
                let owner = Owner::new(number as u8);
                match machine.on(cpu, |pin| {
                    machine
                        .frames
                        .allocate(pin, order, owner)
                        .map(|block| block.into_raw())
                }) {
                    Ok((pfn, order)) => {
                        machine.take(pfn, order.frames(), number);
                        live.push((pfn, order));
                    }
                    Err(AllocError::Exhausted { .. }) => {
                        exhausted.fetch_add(1, Ordering::Relaxed);
                        machine.frames.request_drain();
                    }
                    Err(other) => panic!("{other}"),
                }
            } else if !live.is_empty() {
                let (pfn, order) = live.swap_remove(random.below(live.len()));
                machine.give(pfn, order.frames(), number);
                if random.below(8) == 0 {
                    // Another thread frees it; whose it was is in the record.
                    shared.lock().unwrap().push((pfn, order));
                } else {
                    // SAFETY: taken from `into_raw` above, once.
                    machine
                        .on(cpu, |pin| unsafe { machine.frames.free(pin, pfn, order) })
                        .unwrap();
                }
            }
            if random.below(64) == 0 {
                let given = std::mem::take(&mut *shared.lock().unwrap());
                for (pfn, order) in given {
                    // SAFETY: taken from `into_raw` above, once.
                    machine
                        .on(cpu, |pin| unsafe { machine.frames.free(pin, pfn, order) })
                        .unwrap();
                }
            }
            if random.below(2000) == 0 {
                machine.on(cpu, |pin| machine.frames.drain_if_requested(pin));
            }
        }
        for (pfn, order) in live {
            machine.give(pfn, order.frames(), number);
            // SAFETY: taken from `into_raw` above, once.
            let block = unsafe { kspace_frames::Block::from_raw(&machine.frames, pfn, order) };
            drop(block.unwrap());
        }
    };
    std::thread::scope(|scope| {
        for number in 1..=CPUS as u16 {
            scope.spawn(move || thread(number));
        }
    });
    for (pfn, order) in shared.into_inner().unwrap() {
        // SAFETY: taken from `into_raw` above, once.
        machine
            .on(0, |pin| unsafe { machine.frames.free(pin, pfn, order) })
            .unwrap();
    }
    assert!(exhausted.into_inner() > 0, "memory never ran out");
    machine.all_back();
}

/// Ranges against single frames: what one takes, the other does not get.
#[test]
fn ranges_and_frames_do_not_overlap() {
    let books = Books::new(0, 8 * 1024, CPUS);
    let machine = Machine::new(&books);
    std::thread::scope(|scope| {
        for number in 1..=4_u16 {
            let machine = &machine;
            scope.spawn(move || {
                let mut random = Random(77 + u64::from(number));
                let cpu = usize::from(number);
                for _ in 0..3000 {
                    let frames = random.below(1500) + 1;
                    let within = Constraint {
                        align: 1 << random.below(6),
                        last: Pfn::new(0x1fff),
                    };
                    if number % 2 == 0 {
                        let range = machine.on(cpu, |pin| {
                            machine
                                .frames
                                .allocate_contiguous(pin, frames, within, Owner::DMA)
                        });
                        if let Ok(range) = range {
                            assert_eq!(range.pfn().as_u64() % within.align as u64, 0);
                            machine.take(range.pfn(), frames, number);
                            machine.give(range.pfn(), frames, number);
                            machine.on(cpu, |pin| range.free(pin)).unwrap();
                        }
                    } else {
                        let order = Order::new(random.below(11) as u8);
                        let mut blocks = Vec::new();
                        let done = machine.on(cpu, |pin| {
                            machine.frames.allocate_runs(
                                pin,
                                frames,
                                order,
                                Order::FRAME,
                                Owner::USER,
                                |block| {
                                    blocks.push(block);
                                },
                            )
                        });
                        for block in &blocks {
                            machine.take(block.pfn(), block.order().frames(), number);
                        }
                        let sum: usize = blocks.iter().map(|block| block.order().frames()).sum();
                        assert!(done.is_err() || sum == frames);
                        for block in blocks {
                            machine.give(block.pfn(), block.order().frames(), number);
                            machine.on(cpu, |pin| block.free(pin)).unwrap();
                        }
                    }
                }
            });
        }
    });
    machine.all_back();
}

/// Of all who free one block at the same time, one succeeds.
#[test]
fn a_race_to_free_has_one_winner() {
    let books = Books::new(0, 4096, CPUS);
    let machine = Machine::new(&books);
    for order in [0, 4, 9, 10].map(Order::new) {
        for _ in 0..200 {
            let block = machine
                .on(0, |pin| machine.frames.allocate(pin, order, Owner::USER))
                .unwrap();
            let (pfn, order) = block.into_raw();
            let barrier = Barrier::new(4);
            let won = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for cpu in 0..4 {
                    let (machine, barrier, won) = (&machine, &barrier, &won);
                    scope.spawn(move || {
                        barrier.wait();
                        // SAFETY: wrong on purpose, for all but one of them.
                        let freed =
                            machine.on(cpu, |pin| unsafe { machine.frames.free(pin, pfn, order) });
                        won.fetch_add(usize::from(freed.is_ok()), Ordering::Relaxed);
                    });
                }
            });
            assert_eq!(won.into_inner(), 1);
        }
    }
    machine.all_back();
}

/// Holders that come and go on several CPUs: the last one frees, once.
#[test]
fn shared_frames_live_until_their_last_holder() {
    let books = Books::new(0, 4096, CPUS);
    let machine = Machine::new(&books);
    for _ in 0..300 {
        let first = machine.on(0, |pin| {
            machine.frames.allocate(pin, Order::FRAME, Owner::USER)
        });
        let first = first.unwrap().share();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let own = first.try_clone().unwrap();
                scope.spawn(move || {
                    let more: Vec<_> = (0..10).map(|_| own.try_clone().unwrap()).collect();
                    drop(own);
                    assert!(more.iter().all(|holder| holder.pfn() == more[0].pfn()));
                });
            }
        });
        let pfn = first.pfn();
        assert!(matches!(
            machine.frames.history(pfn),
            Some(History::InUse {
                references: 1,
                flags: Flags::NONE,
                ..
            })
        ));
        drop(first);
    }
    machine.all_back();
}
