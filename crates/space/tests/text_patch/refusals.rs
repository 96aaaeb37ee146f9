//! What cannot be changed is refused with the place and the reason, and not one byte is changed.

use kspace::shootdown::Shootdown;
use kspace::text_patch::{Edit, NOP_5, PatchError, PatcherError};
use kspace_layout::{PageSize, VirtAddr, VirtRange};
use kspace_paging::{Limits, Protection, Walker};
use kspace_sim::{Schedule, SimFrames, SimMachine, SimMemory, SimPlatform};

use crate::world::{
    Broken, CODE, Fetched, KERNEL, MODE, Protocol, RAM, SITE, Text, TextPatcher, WINDOW, kernel,
    states,
};

#[test]
fn what_is_no_instruction_of_code_is_refused() {
    let memory = SimMemory::arena(RAM);
    let frames = SimFrames::new(&memory, RAM);
    let editor = kernel(&memory, &frames);
    let data = VirtRange::new(VirtAddr::new(CODE.end_u64()), 4096);
    let frame = kspace_paging::FrameSource::allocate(&frames).expect("there is room");
    editor
        .map(data, frame, Protection::KERNEL_RODATA, PageSize::Size4K)
        .expect("there is room");
    let machine = SimMachine::new(&memory, &frames, MODE, Limits::WIDEST, editor.root(), 1);
    let schedule = Schedule::new(1);
    let fetched = Fetched::new(1, [0; 5]);
    let text = Text::new(&schedule, &machine, &memory, &fetched, Broken::default());
    let probe = SimPlatform::new(&schedule, &machine);
    let shootdown: Protocol<'_, 1> = Shootdown::probed(text, probe);
    // SAFETY: simulated.
    let patcher = unsafe { TextPatcher::new(&editor, KERNEL, WINDOW, &shootdown) };
    let patcher = patcher.expect("there is room");
    let before: Vec<_> = [0, 1].map(|page| snapshot(&memory, &editor, page)).into();
    let refused = |edits: &[Edit<'_>]| {
        // SAFETY: simulated code.
        let error = unsafe { patcher.patch(edits) }.expect_err("refused");
        error.to_string()
    };
    let one = |at: VirtAddr, old: &[u8], new: &[u8]| refused(&[Edit { at, old, new }]);
    let zeros = [0; 16];
    let at = |offset| CODE.start().checked_add(offset).expect("in it");
    assert_eq!(
        one(SITE, &[], &[]),
        "text patch: an instruction of 0 bytes at ffffffff81000ffd; there are none but of 1 to 15; nothing was changed"
    );
    assert_eq!(
        one(SITE, &zeros, &zeros),
        "text patch: an instruction of 16 bytes at ffffffff81000ffd; there are none but of 1 to 15; nothing was changed"
    );
    assert_eq!(
        one(SITE, &[0], &NOP_5),
        "text patch: 1 bytes at ffffffff81000ffd cannot become 5; fill up with a no-operation; nothing was changed"
    );
    assert_eq!(
        one(VirtAddr::LAST, &zeros[..5], &NOP_5),
        "text patch: the instruction at ffffffffffffffff ends behind the last address; nothing was changed"
    );
    assert!(one(SITE, &[0], &[0xcc]).contains("is what changes are made with"));
    assert!(one(SITE, &zeros[..5], &[1; 5]).contains("patch a jump around it"));
    let short = Edit {
        at: SITE,
        old: &zeros[..2],
        new: &[0x66, 0x90],
    };
    let overlapping = Edit {
        at: SITE.checked_add(1).expect("in it"),
        ..short
    };
    assert!(refused(&[short, overlapping]).contains("sort them, without overlap"));
    assert_eq!(
        one(at(3 * 4096), &zeros[..5], &NOP_5),
        "text patch: nothing is mapped at ffffffff81003000; nothing was changed"
    );
    assert_eq!(
        one(at(2 * 4096 - 3), &zeros[..5], &NOP_5),
        "text patch: what is mapped at ffffffff81002000 is not kernel code: r-- supervisor global write-back; nothing was changed"
    );
    assert_eq!(
        one(at(8), &[0, 0, 7, 0, 0], &NOP_5),
        "text patch: 00 at ffffffff8100000a where 07 should be; somebody else has changed it; nothing was changed"
    );
    schedule.acquire_lock();
    assert!(one(SITE, &zeros[..5], &NOP_5).contains("do it later"));
    schedule.release_lock();
    // The second of two is wrong: the first is not made either.
    let first = Edit {
        at: at(0),
        old: &zeros[..5],
        new: &NOP_5,
    };
    let second = Edit {
        at: at(64),
        old: &[9; 5],
        new: &NOP_5,
    };
    assert!(refused(&[first, second]).contains("where 09 should be"));
    let after: Vec<_> = [0, 1].map(|page| snapshot(&memory, &editor, page)).into();
    assert_eq!(before, after);
    assert_eq!(patcher.breakpoint(SITE), None);

    // More than one batch, and single bytes among them.
    let many: Vec<_> = (0..80)
        .map(|index| Edit {
            at: at(16 * index),
            old: &zeros[..if index % 3 == 0 { 1 } else { 5 }],
            new: if index % 3 == 0 { &[0x90] } else { &NOP_5 },
        })
        .collect();
    // SAFETY: simulated code.
    unsafe { patcher.patch(&many) }.expect("all of them are zeros");
    assert!(many.iter().all(|edit| {
        // SAFETY: as above: nothing is changed, as it is changed already.
        let again = unsafe { patcher.patch(&[*edit]) };
        matches!(again, Err(PatchError::Unexpected { .. }))
    }));
    let lower = VirtRange::new(VirtAddr::ZERO, 1 << 47);
    let walker = Walker::new(MODE, patcher.alias_root(), &memory);
    assert_eq!(walker.runs(lower).count(), 0, "the alias is gone");
    assert_eq!(states()[0], NOP_5);
}

fn snapshot(memory: &SimMemory, editor: &crate::world::Kernel<'_>, page: u64) -> Vec<u64> {
    let walker = Walker::new(MODE, editor.root(), memory);
    let at = CODE.start().checked_add(page * 4096).expect("in it");
    memory.snapshot(walker.translate(at).expect("mapped").pfn())
}

#[test]
fn a_patcher_that_cannot_be_leaves_nothing() {
    let memory = SimMemory::arena(RAM);
    let frames = SimFrames::new(&memory, RAM);
    let editor = kernel(&memory, &frames);
    let machine = SimMachine::new(&memory, &frames, MODE, Limits::WIDEST, editor.root(), 1);
    let schedule = Schedule::new(1);
    let fetched = Fetched::new(1, [0; 5]);
    let text = Text::new(&schedule, &machine, &memory, &fetched, Broken::default());
    let probe = SimPlatform::new(&schedule, &machine);
    let shootdown: Protocol<'_, 1> = Shootdown::probed(text, probe);
    // SAFETY: simulated.
    let new = |window| unsafe { TextPatcher::new(&editor, KERNEL, window, &shootdown) };
    let used = frames.in_use();
    for window in [
        KERNEL.start(),
        VirtAddr::new(0x6000_0000_0010),
        VirtAddr::new(0x6000_001f_f000),
        VirtAddr::new(0x7fff_ffff_f000),
        VirtAddr::LAST.align_down(4096),
    ] {
        let error = new(window).expect_err("no place for it");
        assert!(matches!(error, PatcherError::Window { .. }), "{error}");
    }
    // A root, and a table for each level below.
    for budget in 0..4 {
        frames.set_budget(Some(budget));
        new(WINDOW).expect_err("frames run out");
        assert_eq!(frames.in_use(), used);
    }
    frames.set_budget(Some(4));
    new(WINDOW).expect("there are enough");
    assert_eq!(frames.in_use(), used + 4);
}
