//! Memory that is mapped in one piece: what it reaches, and what it refuses.

use std::sync::atomic::{AtomicU64, Ordering};

use kspace_layout::{PhysAddr, PhysRange, VirtAddr};
use kspace_paging::{LinearMemory, PhysMemory};

const K4: u64 = 4096;

/// Two frames, which pretend to lie at 1 MiB.
fn with_two_frames(test: impl FnOnce(&LinearMemory, &[AtomicU64])) {
    let words: Vec<AtomicU64> = (0..1024).map(AtomicU64::new).collect();
    let at = VirtAddr::new(words.as_ptr().expose_provenance() as u64);
    // SAFETY: the words are there as long as the value.
    let memory = unsafe { LinearMemory::new(PhysRange::new(PhysAddr::new(1 << 20), 2 * K4), at) };
    test(&memory, &words);
}

#[test]
fn entries_are_the_memory_itself() {
    with_two_frames(|memory, words| {
        let second = PhysAddr::new((1 << 20) + K4);
        let table = memory.entries::<u64>(second, 512).expect("inside");
        assert_eq!(table[3].load(Ordering::Relaxed), 512 + 3);
        table[511].store(7, Ordering::Relaxed);
        assert_eq!(words[1023].load(Ordering::Relaxed), 7);
        let narrow = memory.entries::<u32>(second, 1024).expect("inside");
        assert_eq!(narrow[6].load(Ordering::Relaxed), 512 + 3);
    });
}

#[test]
fn nothing_outside_is_reached() {
    with_two_frames(|memory, _| {
        let at = |phys, bytes| memory.pointer(PhysAddr::new(phys), bytes).is_some();
        assert!(at(1 << 20, 2 * K4));
        assert!(at((1 << 20) + 2 * K4 - 1, 1));
        assert!(!at(1 << 20, 2 * K4 + 1));
        assert!(!at((1 << 20) + 2 * K4, 1));
        assert!(!at((1 << 20) - 1, 1));
        assert!(!at(1 << 20, u64::MAX));
        assert!(!at((1 << 20) + 8, u64::MAX - 4));
        assert!(memory.entries::<u64>(PhysAddr::ZERO, 1).is_none());
        let end = PhysAddr::new((1 << 20) + 2 * K4 - 8);
        assert!(memory.entries::<u64>(end, 2).is_none());
        assert!(memory.entries::<u64>(end, usize::MAX / 4).is_none());
    });
}

#[test]
fn the_null_pointer_is_no_table() {
    // SAFETY: nothing is read: the one look is refused.
    let memory =
        unsafe { LinearMemory::new(PhysRange::new(PhysAddr::ZERO, 1 << 30), VirtAddr::ZERO) };
    assert!(memory.entries::<u64>(PhysAddr::ZERO, 512).is_none());
}
