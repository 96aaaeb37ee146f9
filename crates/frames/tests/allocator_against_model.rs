//! The allocator against a model that knows nothing but which frames are free: a set of numbers.
//!
//! The model does not say where a block has to lie, only whether what was given was free, and whether a refusal was right:
//! with all CPUs drained there must be no free aligned block of that order.

mod allocator_books;
mod buddy_blocks;

use std::collections::BTreeSet;

use allocator_books::Books;
use buddy_blocks::buddy_blocks;
use kspace_frames::{Block, Constraint, Contiguous, FrameAllocator, Order, Owner, PinnedCpu};
use kspace_layout::Pfn;
use proptest::prelude::*;

const CPUS: u16 = 3;
const SPAN: usize = 20 * 1024;

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        cpu: u16,
        order: u8,
    },
    Many {
        cpu: u16,
        order: u8,
        count: usize,
    },
    Range {
        frames: usize,
        align: u32,
        last: u64,
    },
    At {
        start: u64,
        frames: usize,
    },
    Free {
        cpu: Option<u16>,
        which: usize,
    },
    FreeHalf {
        cpu: u16,
        odd: bool,
    },
    FreeRange {
        which: usize,
    },
    Split {
        which: usize,
        order: u8,
    },
    Drain {
        cpu: u16,
    },
    Request,
    Count,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cpu = 0..CPUS;
    let order = prop_oneof![4 => Just(0_u8), 3 => 1..9_u8, 2 => 9..11_u8];
    prop::collection::vec(
        prop_oneof![
            4 => (cpu.clone(), order.clone()).prop_map(|(cpu, order)| Step::Allocate { cpu, order }),
            4 => (cpu.clone(), order.clone(), 1..300_usize)
                .prop_map(|(cpu, order, count)| Step::Many { cpu, order, count }),
            2 => (1..3000_usize, 0..12_u32, 0..SPAN as u64)
                .prop_map(|(frames, align, last)| Step::Range { frames, align, last }),
            1 => (0..SPAN as u64, 1..2000_usize).prop_map(|(start, frames)| Step::At { start, frames }),
            4 => (prop::option::of(cpu.clone()), any::<usize>())
                .prop_map(|(cpu, which)| Step::Free { cpu, which }),
            2 => (cpu.clone(), any::<bool>()).prop_map(|(cpu, odd)| Step::FreeHalf { cpu, odd }),
            2 => any::<usize>().prop_map(|which| Step::FreeRange { which }),
            2 => (any::<usize>(), 0..10_u8).prop_map(|(which, order)| Step::Split { which, order }),
            1 => cpu.prop_map(|cpu| Step::Drain { cpu }),
            1 => Just(Step::Request),
            1 => Just(Step::Count),
        ],
        1..60,
    )
}

/// The allocator, what it gave, and the model.
struct Run<'m> {
    frames: &'m FrameAllocator<'m>,
    blocks: Vec<Block<'m>>,
    ranges: Vec<Contiguous<'m>>,
    free: BTreeSet<u64>,
}

fn pin(cpu: u16) -> PinnedCpu {
    // SAFETY: one thread, which uses each proof only between calls.
    unsafe { PinnedCpu::new(cpu) }
}

impl<'m> Run<'m> {
    fn take(&mut self, start: u64, count: usize) {
        for frame in start..start + count as u64 {
            assert!(self.free.remove(&frame), "{frame:x} was not free");
        }
    }

    fn give(&mut self, start: u64, count: usize) {
        for frame in start..start + count as u64 {
            assert!(self.free.insert(frame));
        }
    }

    fn drain_all(&self) {
        (0..CPUS).for_each(|cpu| self.frames.drain(&pin(cpu)));
    }

    fn has_run(&self, count: usize, align: u64, last: u64) -> bool {
        (0..=last)
            .step_by(align as usize)
            .take_while(|start| start + count as u64 - 1 <= last)
            .any(|start| self.free.range(start..start + count as u64).count() == count)
    }

    fn allocate(&mut self, cpu: u16, order: Order) -> bool {
        match self.frames.allocate(&pin(cpu), order, Owner::USER) {
            Ok(block) => {
                assert_eq!(block.pfn().as_u64() % order.frames() as u64, 0);
                self.take(block.pfn().as_u64(), order.frames());
                self.blocks.push(block);
                true
            }
            Err(_) => {
                // Other CPUs may have kept what is missing; then it must work without.
                self.drain_all();
                let again = self.frames.allocate(&pin(cpu), order, Owner::USER);
                let there = self.has_run(order.frames(), order.frames() as u64, SPAN as u64 - 1);
                assert_eq!(again.is_ok(), there, "{order}");
                false
            }
        }
    }

    fn free(&mut self, cpu: Option<u16>, which: usize) {
        if self.blocks.is_empty() {
            return;
        }
        let block = self.blocks.swap_remove(which % self.blocks.len());
        self.give(block.pfn().as_u64(), block.order().frames());
        match cpu {
            Some(cpu) => block.free(&pin(cpu)).unwrap(),
            None => drop(block),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Allocate { cpu, order } => drop(self.allocate(cpu, Order::new(order))),
            Step::Many { cpu, order, count } => {
                (0..count).all(|_| self.allocate(cpu, Order::new(order)));
            }
            Step::Range {
                frames,
                align,
                last,
            } => {
                let within = Constraint {
                    align: 1 << align,
                    last: Pfn::new(last),
                };
                self.drain_all();
                let there = self.has_run(frames, 1 << align, last);
                let range = self
                    .frames
                    .allocate_contiguous(&pin(0), frames, within, Owner::DMA);
                assert_eq!(range.is_ok(), there, "{step:?}");
                if let Ok(range) = range {
                    assert_eq!(range.pfn().as_u64() % (1 << align), 0);
                    assert!(range.range().last().pfn().as_u64() <= last);
                    self.take(range.pfn().as_u64(), frames);
                    self.ranges.push(range);
                }
            }
            Step::At { start, frames } => {
                self.drain_all();
                let there = self.free.range(start..start + frames as u64).count() == frames;
                let range = self
                    .frames
                    .allocate_at(Pfn::new(start), frames, Owner::KERNEL);
                assert_eq!(range.is_ok(), there, "{step:?}");
                if let Ok(range) = range {
                    self.take(start, frames);
                    self.ranges.push(range);
                }
            }
            Step::Free { cpu, which } => self.free(cpu, which),
            Step::FreeHalf { cpu, odd } => {
                for which in (0..self.blocks.len())
                    .rev()
                    .filter(|which| (which % 2 == 1) == odd)
                {
                    self.free(Some(cpu), which);
                }
            }
            Step::FreeRange { which } => {
                if !self.ranges.is_empty() {
                    let range = self.ranges.swap_remove(which % self.ranges.len());
                    self.give(range.pfn().as_u64(), range.frames());
                    if which % 2 == 0 {
                        range.free(&pin(0)).unwrap();
                    } else {
                        range.into_blocks(|block| block.free(&pin(1)).unwrap());
                    }
                }
            }
            Step::Split { which, order } => {
                if !self.blocks.is_empty() {
                    let block = self.blocks.swap_remove(which % self.blocks.len());
                    let (pfn, before) = (block.pfn(), block.order());
                    let blocks = &mut self.blocks;
                    if let Err(block) = block.split(Order::new(order), |part| blocks.push(part)) {
                        assert!(Order::new(order) >= before);
                        assert_eq!(block.pfn(), pfn);
                        blocks.push(block);
                    }
                }
            }
            Step::Drain { cpu } => self.frames.drain(&pin(cpu)),
            Step::Request => self.frames.request_drain(),
            Step::Count => {
                self.drain_all();
                assert_eq!(self.frames.free_blocks(), buddy_blocks(&self.free));
            }
        }
        assert_eq!(
            self.frames.free_frames_exact() + self.frames.cached_frames(),
            self.free.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn it_gives_what_is_free_and_refuses_what_is_not(steps in steps()) {
        let books = Books::new(0, SPAN, usize::from(CPUS));
        let frames = books.allocator();
        // Holes at both ends and in the middle, off every boundary.
        let holes = [0..3_u64, 5000..5100, 9000..13_000, SPAN as u64 - 1..SPAN as u64];
        let mut start = 0;
        for hole in &holes {
            if hole.start > start {
                frames.add(Pfn::new(start), (hole.start - start) as usize).unwrap();
            }
            start = hole.end;
        }
        let free = (0..SPAN as u64).filter(|frame| !holes.iter().any(|hole| hole.contains(frame)));
        let mut run = Run { frames: &frames, blocks: Vec::new(), ranges: Vec::new(), free: free.collect() };
        for step in &steps {
            run.step(step);
        }
        for block in std::mem::take(&mut run.blocks) {
            run.give(block.pfn().as_u64(), block.order().frames());
        }
        run.ranges.clear();
        run.drain_all();
        prop_assert_eq!(frames.free_frames(), frames.managed_frames());
        prop_assert_eq!(frames.refused_drops(), 0);
    }
}
