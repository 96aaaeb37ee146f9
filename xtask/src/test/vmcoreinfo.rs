//! Memory dumps that explain themselves: a `dump-guest-memory` file is read with nothing but the note in it.
//!
//! ```text
//!   dump file      note VMCOREINFO -> root, levels, bases, image offset
//!                  PT_LOAD         -> physical memory -> our walker from that root in that mode
//! ```
//!
//! What comes out is held against sources that have no part in the note: QEMU's registers for root and mode, the kernel's ELF
//! file for the bytes of the code, Linux's formula for the image's physical address, the log's block for the bases.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use kspace_layout::{FRAME_SIZE, PagingMode, PhysAddr, VirtAddr};
use kspace_paging::{EntryRead, Walker};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection};
use serde_json::json;

use super::Check;
use super::boots::LIMIT;
use super::report::{Failed, Outcome, Passed};
use crate::failure::{About, Failure, Result};
use crate::kernel::Kernel;
use crate::qemu::boot::{Exit, boot};
use crate::qemu::machine::Machine;
use crate::qemu::paused::Paused;

/// The line after which the kernel changes nothing more.
const HALTED: &str = "kspace: halted";

/// Linux's `__START_KERNEL_map`, the anchor of `phys_base`.
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// CR4's bit for 5-level paging (Intel SDM vol. 3, section 2.5).
const CR4_LA57: u64 = 1 << 12;

/// Devices that are not what they should be: QEMU's options, and what the kernel says of them. `-fw_cfg` puts a read-only file of
/// any content in the device's place.
const WRONG: [(&[&str], &str); 4] = [
    (
        &["-fw_cfg", "name=etc/vmcoreinfo,string=short"],
        "vmcoreinfo: etc/vmcoreinfo has 5 bytes, not 16; dumps",
    ),
    (
        &["-fw_cfg", "name=etc/vmcoreinfo,string=0000000000000000"],
        "vmcoreinfo: the host takes formats 0x3030, not ELF (0x1); dumps",
    ),
    (
        &["-fw_cfg", "name=etc/vmcoreinfo,string=1111111111111111"],
        "fw_cfg: the device refused to have item",
    ),
    (
        &[
            "-fw_cfg",
            "name=etc/vmcoreinfo,string=1111111111111111",
            "-global",
            "fw_cfg_io.dma_enabled=off",
        ],
        "fw_cfg: the device cannot be written to: features 0x1 lack DMA (0x2); dumps",
    ),
];

/// The checks of this file.
pub(super) fn checks() -> Vec<Check> {
    let dumps = [4, 5].map(|levels| {
        Check::new(
            format!("dump explains itself, {levels}-level"),
            move |context| explains_itself(levels, &context.qemu()?, context.kernel()?),
        )
    });
    let refusals = Check::new("dump note is refused with a reason", |context| {
        is_refused(&context.qemu()?, context.kernel()?)
    });
    dumps.into_iter().chain([refusals]).collect()
}

/// Little memory, so that dumps are small; addresses are drawn.
fn machine(levels: u8) -> Machine {
    Machine {
        mem_mib: 64,
        without: if levels == 5 {
            Vec::new()
        } else {
            vec!["la57"]
        },
        append: "halt".to_owned(),
        ..Machine::default()
    }
}

fn explains_itself(levels: u8, qemu: &Path, kernel: &Kernel) -> Outcome {
    let mut command = machine(levels).command(qemu, kernel.path());
    command.args(["-device", "vmcoreinfo"]);
    let mut paused = Paused::start(command)?;
    let taken = paused.wait_for(HALTED, LIMIT).and_then(|()| take(&paused));
    let log = paused.log().to_owned();
    // The machine is gone from here on: the file must be enough.
    drop(paused);
    let compared = taken.and_then(|(registers, bytes)| {
        if registers.levels() != levels {
            return Err(differ("levels by CR4", levels, registers.levels()));
        }
        compare(&Dump::read(bytes)?, registers, &log, kernel)
    });
    match compared {
        Ok(pages) => Ok(Passed::noting(format!("{pages} pages of code"))),
        Err(failure) => Err(Failed::because(failure.message()).with_log(&log)),
    }
}

/// The stopped machine's registers and its dump.
fn take(paused: &Paused) -> Result<(Registers, Vec<u8>)> {
    let mut monitor = paused.monitor()?;
    monitor.stop()?;
    let printed = monitor.human("info registers")?;
    let registers = Registers::parse(&printed)
        .ok_or_else(|| Failure::failed(format!("no CR3 and CR4 in info registers:\n{printed}")))?;
    let file = paused.folder().join("dump");
    let protocol = format!("file:{}", file.display());
    monitor.execute(
        "dump-guest-memory",
        json!({ "paging": false, "protocol": protocol }),
    )?;
    Ok((registers, std::fs::read(&file).about(file.display())?))
}

/// Holds what the dump says of itself against everything else; returns how many pages of code were compared.
fn compare(dump: &Dump, registers: Registers, log: &str, kernel: &Kernel) -> Result<usize> {
    let note = &dump.note;
    let (root, levels) = (
        note.number("KSPACE_ROOT")?,
        note.number("KSPACE_PAGING_LEVELS")?,
    );
    equal("root by CR3", registers.cr3 & !(FRAME_SIZE - 1), root)?;
    equal("levels by CR4", u64::from(registers.levels()), levels)?;
    let five_level = u64::from(registers.levels() == 5);
    equal(
        "pgtable_l5_enabled",
        five_level,
        note.number("pgtable_l5_enabled")?,
    )?;
    for (key, row) in [
        ("page_offset_base", "lowmem"),
        ("vmalloc_base", "vmalloc"),
        ("vmemmap_base", "vmemmap"),
    ] {
        let printed = row_start(row, log)
            .ok_or_else(|| Failure::failed(format!("the log's block has no row {row}")))?;
        equal(key, printed, note.number(key)?)?;
    }
    let release = note.text("OSRELEASE")?;
    let version = release.trim_end_matches("-kspace");
    if !log.contains(&format!("kspace version {version} ")) {
        return Err(Failure::failed(format!(
            "OSRELEASE={release} is not the log's version"
        )));
    }

    let mode = match levels {
        5 => PagingMode::FiveLevel,
        _ => PagingMode::FourLevel,
    };
    let walker = Walker::new(mode, phys(root)?, dump);
    let direct_map = note.number("page_offset_base")?;
    for expected in [0, root] {
        let found = translate(&walker, direct_map.wrapping_add(expected))?;
        equal("direct map's frame", expected, found.as_u64())?;
    }
    compare_text(dump, &walker, kernel)
}

/// The image's code in the dump, byte for byte, against the ELF file.
fn compare_text(dump: &Dump, walker: &Walker<'_, Dump>, kernel: &Kernel) -> Result<usize> {
    let note = &dump.note;
    let unreadable =
        |error: object::Error| Failure::failed(format!("{}: {error}", kernel.path().display()));
    let bytes = std::fs::read(kernel.path()).about(kernel.path().display())?;
    let file = ElfFile64::<Endianness>::parse(&*bytes).map_err(unreadable)?;
    let section = file
        .section_by_name(".text")
        .ok_or_else(|| Failure::failed("the kernel's file has no .text"))?;
    let code = section.data().map_err(unreadable)?;
    let start = section.address().wrapping_add(note.hex("KERNELOFFSET")?);
    equal("_stext", start, note.hex("SYMBOL(_stext)")?)?;
    let window = note.number("KERNEL_IMAGE_SIZE")?;
    if start - START_KERNEL_MAP + code.len() as u64 > window {
        return Err(Failure::failed(format!(
            ".text at {start:016x} leaves the image's window of {window:#x} bytes"
        )));
    }
    let phys_base = note.number("phys_base")?;
    for (index, page) in code.chunks(FRAME_SIZE as usize).enumerate() {
        let virt = start + index as u64 * FRAME_SIZE;
        let phys = translate(walker, virt)?.as_u64();
        let by_linux = (virt - START_KERNEL_MAP).wrapping_add(phys_base);
        equal("physical address of code by phys_base", by_linux, phys)?;
        if dump.bytes(phys, page.len()) != Some(page) {
            return Err(Failure::failed(format!(
                "code at {virt:016x}, by the dump's tables at {phys:016x}, is not the file's"
            )));
        }
    }
    Ok(code.chunks(FRAME_SIZE as usize).len())
}

fn translate(walker: &Walker<'_, Dump>, virt: u64) -> Result<PhysAddr> {
    let address = VirtAddr::try_new(virt).map_err(|error| Failure::failed(error.to_string()))?;
    walker.translate(address).ok_or_else(|| {
        Failure::failed(format!(
            "{virt:016x} is not mapped by the dump's tables: {:?}",
            walker.walk(address).end()
        ))
    })
}

fn phys(address: u64) -> Result<PhysAddr> {
    PhysAddr::try_new(address).map_err(|error| Failure::failed(error.to_string()))
}

fn equal(what: &str, expected: u64, found: u64) -> Result {
    if expected == found {
        return Ok(());
    }
    let hex = |value| format!("{value:016x}");
    Err(differ(what, hex(expected), hex(found)))
}

fn differ<T: std::fmt::Display>(what: &str, expected: T, found: T) -> Failure {
    Failure::failed(format!(
        "{what}: expected {expected}, the dump says {found}"
    ))
}

/// Where a row of the log's block begins.
fn row_start(row: &str, log: &str) -> Option<u64> {
    let line = log.lines().find_map(|line| {
        let (name, range) = line.split_once("] ")?.1.split_once(" : 0x")?;
        (name.trim() == row).then_some(range)
    })?;
    u64::from_str_radix(line.split_once(' ')?.0, 16).ok()
}

/// A machine that asks in vain is told why, one that does not ask hears nothing, and both boot.
fn is_refused(qemu: &Path, kernel: &Kernel) -> Outcome {
    let unasked: (&[&str], &str) = (&[], "");
    for (options, says) in WRONG.into_iter().chain([unasked]) {
        let machine = Machine {
            append: String::new(),
            ..machine(5)
        };
        let mut command = machine.command(qemu, kernel.path());
        command.args(options);
        let ended = boot(command, LIMIT, |_| {})?;
        let mut lines = ended
            .log
            .lines()
            .filter(|line| line.contains("vmcoreinfo: ") || line.contains("fw_cfg: "));
        let line = lines.next().unwrap_or_default();
        if ended.exit != Exit::Success || !line.contains(says) || line.is_empty() != says.is_empty()
        {
            let reason = format!(
                "{}: expected \"{says}\", found \"{line}\"; {}",
                options.join(" "),
                ended.exit
            );
            return Err(Failed::because(reason).with_log(&(ended.log + &ended.complaints)));
        }
    }
    Ok(Passed::noting(format!("{} devices", WRONG.len() + 1)))
}

/// QEMU's word for where translation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Registers {
    cr3: u64,
    cr4: u64,
}

impl Registers {
    fn parse(printed: &str) -> Option<Self> {
        let register = |name: &str| {
            let text = printed.split_once(name)?.1;
            u64::from_str_radix(text.split_whitespace().next()?, 16).ok()
        };
        Some(Self {
            cr3: register("CR3=")?,
            cr4: register("CR4=")?,
        })
    }

    fn levels(self) -> u8 {
        if self.cr4 & CR4_LA57 == 0 { 4 } else { 5 }
    }
}

/// A dump file: physical memory and the note.
struct Dump {
    file: Vec<u8>,
    /// Physical address of the first byte, and where the bytes are in the file.
    segments: Vec<(u64, Range<usize>)>,
    note: Note,
}

impl Dump {
    /// Reads an ELF core file.
    fn read(file: Vec<u8>) -> Result<Self> {
        let unreadable = |error: object::Error| Failure::failed(format!("the dump: {error}"));
        let header = FileHeader64::<Endianness>::parse(&*file).map_err(unreadable)?;
        let endian = header.endian().map_err(unreadable)?;
        let (mut segments, mut note) = (Vec::new(), None);
        for segment in header.program_headers(endian, &*file).map_err(unreadable)? {
            if segment.p_type(endian) == PT_LOAD {
                let (start, size) = segment.file_range(endian);
                segments.push((
                    segment.p_paddr(endian),
                    start as usize..start.saturating_add(size) as usize,
                ));
            }
            let Some(mut notes) = segment.notes(endian, &*file).map_err(unreadable)? else {
                continue;
            };
            while let Some(found) = notes.next().map_err(unreadable)? {
                if found.name() == b"VMCOREINFO" {
                    note = Some(Note::parse(found.desc()));
                }
            }
        }
        let note = note.ok_or_else(|| Failure::failed("the dump has no note VMCOREINFO"))?;
        Ok(Self {
            file,
            segments,
            note,
        })
    }

    /// `size` bytes of physical memory that lie in one segment.
    fn bytes(&self, phys: u64, size: usize) -> Option<&[u8]> {
        self.segments.iter().find_map(|(start, range)| {
            let offset = usize::try_from(phys.checked_sub(*start)?).ok()?;
            self.file.get(range.clone())?.get(offset..)?.get(..size)
        })
    }
}

impl EntryRead for Dump {
    fn read_u32(&self, entry: PhysAddr) -> Option<u32> {
        let bytes = self.bytes(entry.as_u64(), 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    fn read_u64(&self, entry: PhysAddr) -> Option<u64> {
        let bytes = self.bytes(entry.as_u64(), 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// The note's lines.
struct Note {
    lines: BTreeMap<String, String>,
}

impl Note {
    fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let lines = text.lines().filter_map(|line| line.split_once('='));
        Self {
            lines: lines
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    fn text(&self, key: &str) -> Result<&str> {
        let value = self.lines.get(key).map(String::as_str);
        value.ok_or_else(|| Failure::failed(format!("the note has no {key}")))
    }

    /// `NUMBER(key)`: decimal with a sign, or hexadecimal with 0x. Negative ones wrap.
    fn number(&self, key: &str) -> Result<u64> {
        let key = format!("NUMBER({key})");
        let text = self.text(&key)?;
        let value = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok().map(i64::cast_unsigned),
        };
        value.ok_or_else(|| Failure::failed(format!("the note: {key}={text} is no number")))
    }

    /// A value that is hexadecimal without 0x.
    fn hex(&self, key: &str) -> Result<u64> {
        let text = self.text(key)?;
        u64::from_str_radix(text, 16)
            .map_err(|_| Failure::failed(format!("the note: {key}={text} is not hexadecimal")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        Note::parse(
            b"OSRELEASE=1\nNUMBER(a)=-4096\nNUMBER(b)=0xff\nKERNELOFFSET=2a\nNUMBER(c)=x\n\0",
        )
    }

    #[test]
    fn numbers_of_the_note_are_read_in_linuxs_formats() {
        let note = note();
        assert_eq!(note.number("a"), Ok(0xffff_ffff_ffff_f000));
        assert_eq!(note.number("b"), Ok(0xff));
        assert_eq!(note.hex("KERNELOFFSET"), Ok(0x2a));
        assert_eq!(note.text("OSRELEASE"), Ok("1"));
        let message = |result: Result<u64>| result.unwrap_err().message().to_owned();
        assert_eq!(
            message(note.number("c")),
            "the note: NUMBER(c)=x is no number"
        );
        assert_eq!(message(note.number("d")), "the note has no NUMBER(d)");
    }

    #[test]
    fn memory_is_found_in_its_segment_and_not_beyond() {
        let dump = Dump {
            file: (0..32).collect(),
            segments: vec![(0, 8..16), (0x1000, 16..32), (0x2000, 24..40)],
            note: note(),
        };
        assert_eq!(dump.bytes(0, 2), Some(&[8, 9][..]));
        assert_eq!(dump.bytes(0x1004, 2), Some(&[20, 21][..]));
        assert_eq!(dump.bytes(7, 2), None);
        assert_eq!(dump.bytes(0x0fff, 2), None);
        assert_eq!(dump.bytes(0x2000, 2), None);
        assert_eq!(
            dump.read_u64(PhysAddr::new(0x1008)),
            Some(0x1f1e_1d1c_1b1a_1918)
        );
    }

    #[test]
    fn a_file_without_a_note_is_no_dump() {
        assert!(Dump::read(b"not ELF".to_vec()).is_err());
    }

    #[test]
    fn registers_and_rows_are_found() {
        let printed = "CR0=80010011 CR2=0000000000000000 CR3=0000000003fdf000 CR4=000010a0\r\n";
        let registers = Registers::parse(printed).unwrap();
        assert_eq!((registers.cr3, registers.levels()), (0x3fd_f000, 5));
        assert_eq!(Registers::parse("CR3=1000"), None);
        let log = "[    0.1]     vmalloc : 0xffffc90000000000 - 0xffffe90000000000   (  32 TB)";
        assert_eq!(row_start("vmalloc", log), Some(0xffff_c900_0000_0000));
        assert_eq!(row_start("vmemmap", log), None);
    }
}
