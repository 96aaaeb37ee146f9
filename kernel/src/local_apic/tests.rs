//! What each operation writes, against the registers and values of Intel's manual, written here as numbers.

use std::cell::RefCell;
use std::vec::Vec;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    Memory(u32, u32),
    Msr(u32, u64),
    Fence,
    InterruptsOff,
    InterruptsOn,
}

use Did::{Fence, InterruptsOff, InterruptsOn, Memory, Msr};

/// Registers that remember what was written, and read as told.
#[derive(Default)]
struct Recorder {
    did: RefCell<Vec<Did>>,
    reads: RefCell<Vec<u64>>,
}

impl Recorder {
    fn next(&self) -> u64 {
        self.reads.borrow_mut().pop().unwrap_or(0)
    }
}

impl Registers for &Recorder {
    fn read_memory(&self, _offset: u32) -> u32 {
        self.next() as u32
    }
    fn write_memory(&self, offset: u32, value: u32) {
        self.did.borrow_mut().push(Memory(offset, value));
    }
    fn read_msr(&self, _number: u32) -> u64 {
        self.next()
    }
    fn write_msr(&self, number: u32, value: u64) {
        self.did.borrow_mut().push(Msr(number, value));
    }
    fn fence(&self) {
        self.did.borrow_mut().push(Fence);
    }
    fn without_interrupts(&self, action: impl FnOnce()) {
        self.did.borrow_mut().push(InterruptsOff);
        action();
        self.did.borrow_mut().push(InterruptsOn);
    }
}

fn check(form: Form, reads: &[u64], act: impl FnOnce(LocalApic<&Recorder>), expected: &[Did]) {
    let recorder = Recorder::default();
    recorder.reads.borrow_mut().extend(reads.iter().rev());
    act(LocalApic::new(
        &recorder,
        form,
        Vectors {
            timer: 0xec,
            spurious: 0xff,
        },
    ));
    assert_eq!(*recorder.did.borrow(), expected);
}

#[test]
fn a_message_to_an_xapic_is_two_stores_with_interrupts_off() {
    // It is pending once, then accepted.
    check(
        Form::XApic,
        &[0x1000, 0],
        |apic| apic.send(3, 0xfb),
        &[
            InterruptsOff,
            Memory(0x310, 0x0300_0000),
            Memory(0x300, 0x40fb),
            InterruptsOn,
        ],
    );
    check(
        Form::XApic,
        &[],
        |apic| apic.send_startup(1, 0x9e),
        &[
            Memory(0x280, 0),
            InterruptsOff,
            Memory(0x310, 0x0100_0000),
            Memory(0x300, 0x469e),
            InterruptsOn,
        ],
    );
}

#[test]
fn a_message_to_an_x2apic_is_one_write_after_a_fence() {
    check(
        Form::X2Apic,
        &[],
        |apic| apic.send(0x1_0003, 0xfb),
        &[Fence, Msr(0x830, 0x0001_0003_0000_40fb)],
    );
    check(
        Form::X2Apic,
        &[],
        |apic| apic.send_nmi(2),
        &[Fence, Msr(0x830, 0x0000_0002_0000_4400)],
    );
    check(
        Form::X2Apic,
        &[],
        |apic| apic.send_init(2),
        &[Msr(0x828, 0), Fence, Msr(0x830, 0x0000_0002_0000_4500)],
    );
    check(
        Form::X2Apic,
        &[],
        |apic| apic.send_startup(300, 0x08),
        &[Msr(0x828, 0), Fence, Msr(0x830, 0x0000_012c_0000_4608)],
    );
    check(
        Form::X2Apic,
        &[],
        |apic| apic.end_of_interrupt(),
        &[Msr(0x80b, 0)],
    );
}

#[test]
fn x2apic_is_reached_through_xapic() {
    check(
        Form::X2Apic,
        &[0xfee0_0100],
        |apic| apic.enable(),
        &[
            Msr(0x1b, 0xfee0_0900),
            Msr(0x1b, 0xfee0_0d00),
            Msr(0x80f, 0x1ff),
            Msr(0x832, 0x1_00ec),
        ],
    );
    check(
        Form::XApic,
        &[0xfee0_0100],
        |apic| apic.enable(),
        &[
            Msr(0x1b, 0xfee0_0900),
            Memory(0xf0, 0x1ff),
            Memory(0x320, 0x1_00ec),
        ],
    );
}

#[test]
fn identifiers_have_8_or_32_bits() {
    check(
        Form::XApic,
        &[0x0700_0000],
        |apic| assert_eq!(apic.id(), 7),
        &[],
    );
    check(
        Form::X2Apic,
        &[0x0001_0007],
        |apic| assert_eq!(apic.id(), 0x1_0007),
        &[],
    );
}

#[test]
fn a_deadline_is_written_after_its_mode() {
    let ticks = 0x1234_5678_9abc;
    check(
        Form::X2Apic,
        &[],
        |apic| apic.start_deadline(ticks),
        &[Msr(0x832, 0x4_00ec), Fence, Msr(0x6e0, ticks)],
    );
    check(
        Form::XApic,
        &[],
        |apic| apic.start_deadline(ticks),
        &[Memory(0x320, 0x4_00ec), Fence, Msr(0x6e0, ticks)],
    );
}

#[test]
fn the_counting_timer_is_set_up_before_it_starts() {
    check(
        Form::XApic,
        &[],
        |apic| apic.start_timer(1000),
        &[
            Memory(0x3e0, 0b1011),
            Memory(0x320, 0xec),
            Memory(0x380, 1000),
        ],
    );
    check(
        Form::XApic,
        &[u64::from(u32::MAX - 5)],
        |apic| {
            apic.start_timer_silently();
            assert_eq!(apic.timer_passed(), 5);
            apic.stop_timer();
        },
        &[
            Memory(0x3e0, 0b1011),
            Memory(0x320, 0x1_00ec),
            Memory(0x380, u32::MAX),
            Memory(0x320, 0x1_00ec),
            Memory(0x380, 0),
        ],
    );
}

#[test]
fn only_identifiers_that_fit_a_destination_are_reached() {
    let recorder = Recorder::default();
    let vectors = Vectors {
        timer: 0xec,
        spurious: 0xff,
    };
    let xapic = LocalApic::new(&recorder, Form::XApic, vectors);
    // Identifier 256 would be sent to CPU 0, and 255 to all.
    assert_eq!(
        [0, 254, 255, 256].map(|id| xapic.reaches(id)),
        [true, true, false, false]
    );
    let x2apic = LocalApic::new(&recorder, Form::X2Apic, vectors);
    assert_eq!(
        [255, 256, u32::MAX].map(|id| x2apic.reaches(id)),
        [true, true, false]
    );
}
