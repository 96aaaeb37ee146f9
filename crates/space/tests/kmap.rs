//! Frames reached for a moment: by the direct map, where that is arithmetic; and by slots that must be given back in order, as 32 bits will have.

use std::cell::{Cell, RefCell};
use std::mem::{needs_drop, size_of};
use std::ptr::NonNull;
use std::rc::Rc;

use kspace::kmap::{DirectMapWindow, FrameWindow, Kmap, KmapError, Mapped};
use kspace::platform::{Complaint, Cpu, CpuId};
use kspace_layout::{PagingMode, PhysAddr, PhysRange, X86_64};

/// A CPU that counts how often it is held.
struct Counting(Rc<Cell<i32>>);

struct Pin(Rc<Cell<i32>>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

// SAFETY: there is one.
unsafe impl Cpu for Counting {
    type Pin = Pin;
    fn id(&self) -> CpuId {
        CpuId::new(0)
    }
    fn pin(&self) -> Pin {
        self.0.set(self.0.get() + 1);
        Pin(self.0.clone())
    }
    fn is_atomic(&self) -> bool {
        false
    }
    fn report(&self, complaint: &Complaint) {
        panic!("{complaint}")
    }
}

#[derive(Clone, Copy)]
struct Free;

// SAFETY: there is one, which is never preempted.
unsafe impl Cpu for Free {
    type Pin = ();
    fn id(&self) -> CpuId {
        CpuId::new(0)
    }
    fn pin(&self) {}
    fn is_atomic(&self) -> bool {
        false
    }
    fn report(&self, complaint: &Complaint) {
        panic!("{complaint}")
    }
}

#[test]
fn on_64_bits_it_is_the_direct_maps_arithmetic_and_costs_nothing() {
    let layout = X86_64::new(PagingMode::FourLevel, PhysAddr::new((1 << 30) - 1));
    let layout = layout.build().expect("a layout");
    // SAFETY: nothing is reached through it.
    let window = unsafe { DirectMapWindow::new(&layout) }.expect("it has a direct map");
    let kmap = Kmap::new(Free, window);
    for (first, size) in [(0x1000, 4096), (0x20_0000, 4 << 20), (0x3fff_f000, 4096)] {
        let range = PhysRange::new(PhysAddr::new(first), size);
        // SAFETY: as above.
        let mapped = unsafe { kmap.map(range) }.expect("RAM");
        // Linux's page_offset_base without KASLR.
        assert_eq!(mapped.address().as_u64(), 0xffff_8880_0000_0000 + first);
        assert_eq!(mapped.size() as u64, size);
    }
    // A guard is an address and a length, and forgetting it is as good as dropping it.
    assert!(!needs_drop::<Mapped<'_, Free, DirectMapWindow>>());
    assert_eq!(
        size_of::<Mapped<'_, Free, DirectMapWindow>>(),
        2 * size_of::<usize>()
    );
    let beyond = PhysRange::new(PhysAddr::new((1 << 30) - 4096), 8192);
    // SAFETY: as above.
    let refused = unsafe { kmap.map(beyond) }.map(drop);
    assert_eq!(refused, Err(KmapError::OutOfSight(beyond)));
}

/// Four pages of memory at 1 MiB, seen through slots that are a stack.
#[derive(Clone)]
struct Slots {
    memory: Rc<RefCell<Vec<u8>>>,
    open: Rc<RefCell<Vec<u32>>>,
    next: Rc<Cell<u32>>,
}

const MEMORY: PhysRange = PhysRange::new(PhysAddr::new(1 << 20), 4 * 4096);

impl Slots {
    fn new() -> Self {
        Self {
            memory: Rc::new(RefCell::new(vec![0xaa; MEMORY.size() as usize])),
            open: Rc::default(),
            next: Rc::default(),
        }
    }
}

struct Slot {
    number: u32,
    open: Rc<RefCell<Vec<u32>>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        assert_eq!(self.open.borrow_mut().pop(), Some(self.number), "in order");
    }
}

// SAFETY: the memory stays where it is, as nothing is added to it.
unsafe impl FrameWindow for Slots {
    type Opened = Slot;
    const LONGEST: u64 = 4096;
    fn open(&self, range: PhysRange) -> Option<(NonNull<u8>, Slot)> {
        if !MEMORY.contains_range(range) {
            return None;
        }
        let number = self.next.replace(self.next.get() + 1);
        self.open.borrow_mut().push(number);
        let offset = range.start().as_u64() - MEMORY.start().as_u64();
        let start = self.memory.borrow_mut().as_mut_ptr();
        let slot = Slot {
            number,
            open: self.open.clone(),
        };
        Some((NonNull::new(start.wrapping_add(offset as usize))?, slot))
    }
}

fn page(index: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new((1 << 20) + index * 4096), 4096)
}

#[test]
fn with_slots_every_mapping_ends_and_the_cpu_is_held_meanwhile() {
    let (slots, held) = (Slots::new(), Rc::new(Cell::new(0)));
    let kmap = Kmap::new(Counting(held.clone()), slots.clone());
    {
        // SAFETY: the memory is the test's; here and below.
        let mut first = unsafe { kmap.map(page(0)) }.expect("in sight");
        first.write(100, b"frame").expect("inside");
        // SAFETY: as above.
        let mut second = unsafe { kmap.map(page(2)) }.expect("in sight");
        second.copy_from(&first).expect("as long");
        let mut bytes = [0; 5];
        second.read(100, &mut bytes).expect("inside");
        assert_eq!(&bytes, b"frame");
        assert_eq!((held.get(), slots.open.borrow().len()), (2, 2));
        let outside = KmapError::Outside {
            offset: 4092,
            bytes: 5,
            size: 4096,
        };
        assert_eq!(first.read(4092, &mut bytes), Err(outside));
        assert_eq!(first.write(4092, &bytes), Err(outside));
        assert!(first.write(usize::MAX, &bytes).is_err());
        first.write(4091, &bytes).expect("up to the last byte");
    }
    assert_eq!((held.get(), slots.open.borrow().len()), (0, 0));
    let memory = slots.memory.borrow();
    assert_eq!(&memory[4091..4096], b"frame");
    assert_eq!(&memory[8192 + 100..8192 + 105], b"frame");
    assert!(memory[4096..8192].iter().all(|byte| *byte == 0xaa));
}

#[test]
fn zeroing_goes_piece_by_piece_where_it_must() {
    let (slots, held) = (Slots::new(), Rc::new(Cell::new(0)));
    let kmap = Kmap::new(Counting(held.clone()), slots.clone());
    let three = PhysRange::new(PhysAddr::new((1 << 20) + 4096), 3 * 4096);
    // SAFETY: the memory is the test's.
    let refused = unsafe { kmap.map(three) }.map(drop);
    assert_eq!(
        refused.expect_err("too long").to_string(),
        "kmap: 12288 bytes were asked for, 4096 can be seen at once; go piece by piece"
    );
    // SAFETY: as above.
    unsafe { kmap.zero(three) }.expect("in sight");
    let is_zero = |range: std::ops::Range<usize>| {
        let memory = slots.memory.borrow();
        memory[range].iter().all(|byte| *byte == 0)
    };
    assert!(is_zero(4096..4 * 4096) && !is_zero(0..4096));
    let beyond = PhysRange::new(page(3).start(), 2 * 4096);
    // SAFETY: as above.
    let refused = unsafe { kmap.zero(beyond) };
    assert_eq!(
        refused.expect_err("out of sight").to_string(),
        "kmap: physical 0000000000104000-0000000000104fff is not in the direct map; map devices as an area"
    );
    assert_eq!((held.get(), slots.open.borrow().len()), (0, 0));
}
