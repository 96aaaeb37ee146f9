//! The note's bytes and its way to the device, honest or not; the boot tests read the note out of QEMU's dumps.

use kspace_layout::{I386, Regions, Split, VirtRange, X86_64};

use super::*;
use crate::fw_cfg::tests::{Answer, FakeDevice};

const LAST_RAM: PhysAddr = PhysAddr::new((1 << 30) - 1);
const ROOT: PhysAddr = PhysAddr::new(0x3f_f000);

/// A layout with 2 MiB of image at 16 MiB of memory, moved up by `offset`.
fn layout(mode: PagingMode, offset: u64) -> Layout {
    let start = DEFAULT_IMAGE_START.checked_add(offset).unwrap();
    let whole = VirtRange::new(start, 0x20_0000);
    let image = KernelImage::try_new(whole, PhysAddr::new(0x100_0000))
        .unwrap()
        .with_section(SectionKind::Text, VirtRange::new(start, 0x1000));
    X86_64::new(mode, LAST_RAM).image(image).build().unwrap()
}

fn text_of(note: &Note) -> &str {
    let size = u32::from_le_bytes(note.bytes()[4..8].try_into().unwrap());
    std::str::from_utf8(&note.bytes()[TEXT..][..size as usize]).unwrap()
}

#[test]
fn the_note_says_where_everything_is() {
    // Bases of Documentation/arch/x86/x86_64/mm.rst. phys_base is zero, as in a Linux loaded at 16 MiB that was not moved.
    let note = Note::describing(&layout(PagingMode::FourLevel, 0), ROOT).unwrap();
    assert_eq!(
        text_of(&note),
        concat!(
            "OSRELEASE=",
            env!("CARGO_PKG_VERSION"),
            "-kspace\n",
            "PAGESIZE=4096\n",
            "SYMBOL(_stext)=ffffffff81000000\n",
            "NUMBER(phys_base)=0\n",
            "KERNELOFFSET=0\n",
            "NUMBER(KERNEL_IMAGE_SIZE)=1073741824\n",
            "NUMBER(pgtable_l5_enabled)=0\n",
            "NUMBER(sme_mask)=0\n",
            "NUMBER(page_offset_base)=0xffff888000000000\n",
            "NUMBER(vmalloc_base)=0xffffc90000000000\n",
            "NUMBER(vmemmap_base)=0xffffea0000000000\n",
            "NUMBER(KSPACE_PAGING_LEVELS)=4\n",
            "NUMBER(KSPACE_ROOT)=0x3ff000\n",
        )
    );
}

#[test]
fn a_moved_image_has_a_negative_phys_base() {
    let note = Note::describing(&layout(PagingMode::FiveLevel, 0x2a0_0000), ROOT).unwrap();
    let text = text_of(&note);
    for line in [
        "SYMBOL(_stext)=ffffffff83a00000\n",
        "NUMBER(phys_base)=-44040192\n",
        "KERNELOFFSET=2a00000\n",
        "NUMBER(pgtable_l5_enabled)=1\n",
        "NUMBER(page_offset_base)=0xff11000000000000\n",
        "NUMBER(vmalloc_base)=0xffa0000000000000\n",
        "NUMBER(vmemmap_base)=0xffd4000000000000\n",
        "NUMBER(KSPACE_PAGING_LEVELS)=5\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

#[test]
fn the_bytes_are_an_elf_note() {
    let note = Note::describing(&layout(PagingMode::FourLevel, 0), ROOT).unwrap();
    let bytes = note.bytes();
    let text = text_of(&note);
    let mut expected = vec![11, 0, 0, 0];
    expected.extend((text.len() as u32).to_le_bytes());
    expected.extend(b"\0\0\0\0VMCOREINFO\0\0");
    expected.extend(text.bytes());
    expected.resize(expected.len().next_multiple_of(4), 0);
    assert_eq!(bytes, expected);
}

#[test]
fn the_longest_note_fits_and_a_longer_one_fails() {
    let longest = layout(PagingMode::FiveLevel, 0x3ec0_0000);
    let note = Note::describing(&longest, PhysAddr::LAST).unwrap();
    assert!(note.bytes().len() < 600, "{}", note.bytes().len());
    let mut note = note;
    let room = CAPACITY - note.length;
    assert_eq!(note.write_str(&"x".repeat(room + 1)), Err(fmt::Error));
    assert_eq!(note.write_str(&"x".repeat(room)), Ok(()));
    assert_eq!(note.write_str("x"), Err(fmt::Error));
}

#[test]
fn a_layout_that_lacks_something_is_named() {
    let message = |layout: &Layout| Note::describing(layout, ROOT).unwrap_err().to_string();
    let bare = X86_64::new(PagingMode::FourLevel, LAST_RAM)
        .build()
        .unwrap();
    assert_eq!(message(&bare), "vmcoreinfo: the layout has no kernel image");
    let i386 = I386::new(Split::ThreeG, PagingMode::Pae, LAST_RAM)
        .build()
        .unwrap();
    assert_eq!(
        message(&i386),
        "vmcoreinfo: the note is one of 4 or 5 paging levels, the layout has 3"
    );
}

/// QEMU's file: it takes ELF notes and has none.
const OFFERED: [u8; RECORD] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn device(offered: &[u8]) -> FakeDevice {
    FakeDevice::new(&[
        (b"etc/e820", vec![0; 20]),
        (b"etc/vmcoreinfo", offered.to_vec()),
    ])
}

fn publish_to(device: FakeDevice, layout: &Layout) -> Result<Option<Published>, Problem> {
    let shared: &'static Shared = Box::leak(Box::new(Shared::new()));
    let phys_of = |virt: VirtAddr| PhysAddr::try_new(virt.as_u64()).ok();
    // SAFETY: the fake device takes this process's addresses for physical ones.
    unsafe { publish(device, layout, ROOT, shared, phys_of) }
}

#[test]
fn the_device_gets_the_address_of_the_note() {
    let layout = layout(PagingMode::FourLevel, 0);
    let device = device(&OFFERED);
    let published = publish_to(device.clone(), &layout).unwrap().unwrap();
    let record: [u8; RECORD] = device.items.borrow()[&0x21][..].try_into().unwrap();
    assert_eq!(record[..4], [1, 0, 1, 0]);
    assert_eq!(record[4..8], (published.size as u32).to_le_bytes());
    assert_eq!(record[8..], published.at.as_u64().to_le_bytes());
    // SAFETY: the "physical" address is one of this process's, of a note that is never freed.
    let found =
        unsafe { core::slice::from_raw_parts(published.at.as_u64() as *const u8, published.size) };
    let expected = Note::describing(&layout, ROOT).unwrap();
    assert_eq!(found, expected.bytes());
}

#[test]
fn a_machine_that_does_not_ask_gets_nothing_and_no_line() {
    let layout = layout(PagingMode::FourLevel, 0);
    for silent in [
        FakeDevice::new(&[]),
        FakeDevice::new(&[]).without_dma(),
        FakeDevice::new(&[(b"etc/vmcoreinfo2", OFFERED.to_vec())]),
        device(&OFFERED).without_signature(),
    ] {
        assert_eq!(publish_to(silent, &layout), Ok(None));
    }
}

#[test]
fn a_device_that_is_wrong_is_named() {
    let complete = layout(PagingMode::FourLevel, 0);
    for (device, reason) in [
        (
            device(&OFFERED[..15]),
            "vmcoreinfo: etc/vmcoreinfo has 15 bytes, not 16",
        ),
        (
            device(&[0; RECORD]),
            "vmcoreinfo: the host takes formats 0x0, not ELF (0x1)",
        ),
        (
            device(&OFFERED).without_dma(),
            "fw_cfg: the device cannot be written to: features 0x1 lack DMA (0x2)",
        ),
        (
            device(&OFFERED).with_endless_directory(),
            "fw_cfg: the directory claims 4294967295 files, and items are numbered for 16352",
        ),
        (
            device(&OFFERED).answering(Answer::Refusal),
            "fw_cfg: the device refused to have item 0x21 written",
        ),
        (
            device(&OFFERED).answering(Answer::Silence),
            "fw_cfg: the device did not answer a write of item 0x21 within 1000000 looks",
        ),
    ] {
        assert_eq!(
            publish_to(device, &complete).unwrap_err().to_string(),
            format!("{reason}; dumps of this machine will not explain themselves")
        );
    }
    let bare = X86_64::new(PagingMode::FourLevel, LAST_RAM)
        .regions(Regions::fixed(PagingMode::FourLevel).unwrap())
        .build()
        .unwrap();
    assert_eq!(
        publish_to(device(&OFFERED), &bare),
        Err(Problem::Note(NoteError::Missing("kernel image")))
    );
}

#[test]
fn memory_without_a_physical_address_is_named() {
    let layout = layout(PagingMode::FourLevel, 0);
    let shared: &'static Shared = Box::leak(Box::new(Shared::new()));
    // SAFETY: no physical address is given at all.
    let problem = unsafe { publish(device(&OFFERED), &layout, ROOT, shared, |_| None) };
    let at = VirtAddr::new(shared.note.get().unwrap().bytes().as_ptr() as u64);
    assert_eq!(problem, Err(Problem::Address(at)));
    assert_eq!(
        Problem::Address(VirtAddr::new(0x1000)).to_string(),
        "vmcoreinfo: 0000000000001000 has no known physical address; dumps of this machine will not explain themselves"
    );
}
