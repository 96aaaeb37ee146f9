//! The example multiboot2: booted by GRUB from its disc, and held against what is written here.
//!
//! Where its areas are to be is written down here a second time, with its own numbers; lines of its source are looked up in the source.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Check;
use super::report::{Failed, Outcome, Passed};
use crate::example::Example;
use crate::failure::About;
use crate::host::workspace;
use crate::oracle::{self, Leaf};
use crate::qemu::boot::{Ended, Exit, boot};
use crate::qemu::machine::Machine;
use crate::qemu::paused::Paused;

/// How long a boot may take: firmware and GRUB included.
const LIMIT: Duration = Duration::from_secs(60);

/// The last thing that the kernel says.
const DONE: &str = "done";

/// The machine: RAM from zero to 256 MiB, of which the firmware keeps the end.
const MEM_MIB: u64 = 256;

/// Where the areas are to be: first and last address.
const DIRECT_MAP: [u64; 2] = [0xffff_9000_0000_0000, 0xffff_9fff_ffff_ffff];
const VMALLOC: [u64; 2] = [0xffff_b000_0000_0000, 0xffff_b0ff_ffff_ffff];
const IMAGE: [u64; 2] = [0xffff_ffff_c020_0000, 0xffff_ffff_cfff_ffff];

/// Where a PC's HPET is (IA-PC HPET specification 1.0a, 3.1).
const HPET: u64 = 0xfed0_0000;

/// What is checked of the examples.
pub(super) fn checks() -> [Check; 3] {
    [
        Check::new("example multiboot2, boot", |context| {
            boots(&context.qemu()?, context.example()?)
        }),
        Check::new("example multiboot2, as small as can be", |context| {
            boots_small(&context.qemu()?, context.example()?)
        }),
        Check::new("example multiboot2, oracle", |context| {
            tables(&context.qemu()?, context.example()?)
        }),
    ]
}

fn machine() -> Machine {
    Machine {
        mem_mib: MEM_MIB,
        ..Machine::default()
    }
}

/// It says where everything is, and what each of its mistakes was.
fn boots(qemu: &Path, example: &Example) -> Outcome {
    let command = machine().command_of_disc(qemu, example.disc());
    let ended = boot(command, LIMIT, |_| {})?;
    let expected = expected_lines()?;
    match difference(&ended, &expected).or_else(|| misplaced(&ended.log)) {
        None => Ok(Passed::noting(format!("{} lines", expected.len()))),
        Some(reason) => Err(Failed::because(reason).with_log(&(ended.log + &ended.complaints))),
    }
}

/// Parts of lines that must come in this order.
fn expected_lines() -> std::result::Result<Vec<String>, Failed> {
    let file = source("main.rs");
    let text = std::fs::read_to_string(&file).about(file.display())?;
    let line = |call: &str| line_of(&text, "fn make_mistakes", call);
    let at = |call| line(call).map(|line| format!("examples/multiboot2/src/main.rs:{line}"));
    let mistakes = [
        at("OwnedArea::allocate("),
        at("KernelStack::new("),
        at("freed.free()"),
    ];
    let [Some(area), Some(stack), Some(freed)] = mistakes else {
        return Err(Failed::because(
            "main.rs: make_mistakes is not as this test knows it",
        ));
    };
    let [vmalloc, direct_map, text] = [VMALLOC[0], DIRECT_MAP[0], IMAGE[0]];
    let end = VMALLOC[1] + 1;
    Ok(vec![
        "virtual kernel memory layout:".to_owned(),
        format!("vmalloc : 0x{vmalloc:x} - 0x{end:x}   (1024 GB)"),
        // The firmware keeps less than a MiB at the end of RAM.
        format!("lowmem  : 0x{direct_map:x} - 0xffff90000ff"),
        format!(".text : 0x{text:x} - "),
        // What was written by one address is read by the other.
        "alias Some(187)".to_owned(),
        // Intel's number, and the rate of QEMU's HPET (hw/timer/hpet.c).
        "HPET by 8086, 100 MHz".to_owned(),
        format!("(20 KiB, made by {area}), the first byte past its end"),
        format!("(16 KiB, made by {stack}), 8 bytes below it"),
        "not mapped, the start of the freed vmalloc area ffffb0".to_owned(),
        format!("(4 KiB, freed by {freed})"),
        "read-only, kernel text, ".to_owned(),
        "write to 0000000000000008: not mapped, null pointer plus 8 bytes".to_owned(),
        "no page is writable and executable".to_owned(),
        DONE.to_owned(),
    ])
}

/// The number of the first line with `call` after that with `function`.
fn line_of(text: &str, function: &str, call: &str) -> Option<usize> {
    let mut lines = text.lines().zip(1..);
    lines.find(|(line, _)| line.contains(function))?;
    lines
        .find(|(line, _)| line.contains(call))
        .map(|(_, number)| number)
}

fn difference(ended: &Ended, expected: &[String]) -> Option<String> {
    if ended.exit != Exit::Success {
        return Some(ended.exit.to_string());
    }
    let mut rest = ended.log.as_str();
    for text in expected {
        match rest.split_once(text.as_str()) {
            Some((_, after)) => rest = after,
            None => return Some(format!("not said, or not in this order: {text}")),
        }
    }
    None
}

/// Whether the 8 MiB it allocates are so many, in the area for them.
fn misplaced(log: &str) -> Option<String> {
    let said = log.lines().find_map(|line| {
        let (range, _) = line.strip_prefix("vmalloc: ")?.split_once(',')?;
        let (start, last) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some((number(start)?, number(last)?))
    });
    let Some((start, last)) = said else {
        return Some("it does not say where its 8 MiB are".to_owned());
    };
    let sound =
        last.checked_sub(start) == Some((8 << 20) - 1) && VMALLOC[0] <= start && last < VMALLOC[1];
    (!sound).then(|| format!("{start:x}-{last:x} are not 8 MiB in area vmalloc"))
}

/// With less and less RAM it boots, or says what is missing; with 16 MiB it boots.
fn boots_small(qemu: &Path, example: &Example) -> Outcome {
    // With 8 MiB GRUB itself does not always come as far as loading it.
    for (mem_mib, exit) in [(16, Exit::Success), (10, Exit::Failure)] {
        let machine = Machine {
            mem_mib,
            ..Machine::default()
        };
        let ended = boot(machine.command_of_disc(qemu, example.disc()), LIMIT, |_| {})?;
        let last = ended.log.lines().last().unwrap_or_default();
        let in_words = exit == Exit::Success || last.contains("; ask for less");
        if ended.exit != exit || !in_words {
            let reason = format!("with {mem_mib} MiB: {}", ended.exit);
            return Err(Failed::because(reason).with_log(&(ended.log.clone() + &ended.complaints)));
        }
    }
    Ok(Passed::one())
}

/// The live tables at its end, as QEMU reads them: every page is in an area, and none is writable and executable.
fn tables(qemu: &Path, example: &Example) -> Outcome {
    let mut paused = Paused::start(machine().without_end(qemu, example.disc()))?;
    let read = paused
        .wait_for(DONE, LIMIT)
        .and_then(|()| oracle::leaves(&paused));
    let leaves = read
        .map_err(|failure| Failed::because(failure.message().to_owned()).with_log(paused.log()))?;
    match wrong(&leaves) {
        None => Ok(Passed::noting(format!("{} entries", leaves.len()))),
        Some(reason) => Err(Failed::because(reason)),
    }
}

/// The first leaf that must not be, or what must be and is not.
fn wrong(leaves: &[Leaf]) -> Option<String> {
    let within = |area: [u64; 2], leaf: &Leaf| (area[0]..=area[1]).contains(&leaf.virt);
    let areas = [DIRECT_MAP, VMALLOC, IMAGE];
    for leaf in leaves {
        if leaf.is_write_execute() {
            return Some(format!("writable and executable: {leaf}"));
        }
        if !areas.iter().any(|area| within(*area, leaf)) {
            return Some(format!("in no area: {leaf}"));
        }
        let distance = leaf.virt - DIRECT_MAP[0].min(leaf.virt);
        if within(DIRECT_MAP, leaf) && leaf.phys != distance {
            return Some(format!("not the direct map's frame: {leaf}"));
        }
        if within(IMAGE, leaf) && leaf.phys != leaf.virt - 0xffff_ffff_c000_0000 {
            return Some(format!("not the image's frame: {leaf}"));
        }
    }
    let hpet = leaves
        .iter()
        .find(|leaf| leaf.phys == HPET && within(VMALLOC, leaf));
    // Of its flags, accessed and dirty say nothing.
    match hpet.map(|leaf| leaf.to_string().replace(['A', 'D'], "-")) {
        Some(shown) if shown.ends_with(" XG---C--W") => {}
        Some(shown) => return Some(format!("a device is not mapped as one: {shown}")),
        None => return Some("the HPET is not mapped".to_owned()),
    }
    let empty = areas
        .iter()
        .find(|area| !leaves.iter().any(|leaf| within(**area, leaf)));
    empty.map(|area| format!("nothing is mapped from {:x} on", area[0]))
}

fn source(file: &str) -> PathBuf {
    workspace().join("examples/multiboot2/src").join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that are neither empty nor a comment.
    fn lines_of_code(text: &str) -> usize {
        let code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
        text.lines().filter(code).count()
    }

    #[test]
    fn the_example_has_less_than_three_hundred_lines() {
        let files = ["main.rs", "machine.rs", "entry.s", "../build.rs"].map(source);
        let count = |file: &PathBuf| lines_of_code(&std::fs::read_to_string(file).expect("there"));
        let lines: usize = files.iter().map(count).sum();
        assert!(
            (100..300).contains(&lines),
            "{lines} lines of Rust and assembly"
        );
        let folder = std::fs::read_dir(source("")).expect("there").count();
        assert_eq!(folder, files.len() - 1, "a file that is not counted");
    }

    #[test]
    fn comments_and_empty_lines_are_no_code() {
        assert_eq!(lines_of_code("//! x\n\nfn f() {}  // y\n    // z\n}\n"), 2);
    }

    #[test]
    fn lines_are_counted_as_compilers_do() {
        let text = "free()\nfn a\n  free()\nfree()";
        assert_eq!(line_of(text, "fn a", "free()"), Some(3));
        assert_eq!(line_of(text, "fn b", "free()"), None);
    }

    #[test]
    fn an_area_elsewhere_is_seen() {
        let sound = "x\nvmalloc: ffffb00000200000-ffffb000009fffff, alias Some(187)\n";
        assert_eq!(misplaced(sound), None);
        for log in [
            "vmalloc: ffffb00000200000-ffffb000009ffffe, alias Some(187)",
            "vmalloc: ffffc00000200000-ffffc000009fffff, alias Some(187)",
            "vmalloc: none",
        ] {
            assert!(misplaced(log).is_some(), "{log}");
        }
    }

    #[test]
    fn wrong_tables_are_seen() {
        let leaf = |line: &str| Leaf::parse(line).expect("a leaf");
        let sound = [
            leaf("ffff900000200000: 0000000000200000 XGPDA---W"),
            leaf("ffffb00000200000: 00000000fed00000 XG-DAC--W"),
            leaf("ffffffffc0200000: 0000000000200000 -G--A----"),
        ];
        assert_eq!(wrong(&sound), None);
        for line in [
            "ffffffffc0300000: 0000000000300000 -G--A---W",
            "ffff900000400000: 0000000000200000 XGPDA---W",
            "ffffffffc0300000: 0000000000200000 XG--A---W",
            "0000000000100000: 0000000000100000 XG--A---W",
        ] {
            assert!(wrong(&[sound[0], sound[1], leaf(line)]).is_some(), "{line}");
        }
        let cached = leaf("ffffb00000200000: 00000000fed00000 XG-DA---W");
        let said = wrong(&[sound[0], cached, sound[2]]);
        assert!(said.is_some_and(|said| said.contains("not mapped as one")));
        for (leaves, missing) in [(&sound[..2], "ffffffffc0"), (&sound[1..], "ffff9000000")] {
            assert!(wrong(leaves).is_some_and(|said| said.contains(missing)));
        }
    }
}
