//! The reference kernel's file: built quietly, then asked for what the tests need to know about it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kspace_layout::{KernelImage, PhysAddr, PhysRange, SectionKind, VirtAddr, VirtRange};
use object::elf::{FileHeader32, FileHeader64};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, FileKind, Object, ObjectSymbol};

use crate::failure::{About, Failure, Result};
use crate::host::command::quietly;
use crate::host::toolchain::Toolchain;

/// A kernel that has been built.
#[derive(Debug)]
pub(crate) struct Kernel {
    path: PathBuf,
}

impl Kernel {
    /// Builds the kernel. The compiler's messages are shown only when it fails.
    ///
    /// # Errors
    ///
    /// When it does not build, or cargo does not say where the file is.
    pub(crate) fn build(toolchain: &Toolchain) -> Result<Self> {
        build("kspace-kernel", "the kernel", toolchain).map(|path| Self { path })
    }

    /// The physical address of its first instruction: what its PVH note says (Xen, public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY).
    ///
    /// # Errors
    ///
    /// When the file is no ELF file or has no such note.
    pub(crate) fn pvh_entry(&self) -> Result<u64> {
        let bytes = std::fs::read(&self.path).about(self.path.display())?;
        pvh_entry(&bytes)
            .ok_or_else(|| Failure::failed(format!("{} has no PVH note", self.path.display())))
    }

    /// The image and its sections, from the file's symbols, as it is when its first byte is mapped at `start`.
    ///
    /// # Errors
    ///
    /// When the file is no ELF file, lacks a symbol, or the image does not fit there.
    pub(crate) fn image_at(&self, start: VirtAddr) -> Result<KernelImage> {
        let bytes = std::fs::read(&self.path).about(self.path.display())?;
        image(&bytes)
            .and_then(|image| {
                let phys = image.phys().start();
                image
                    .moved_to(start, phys)
                    .map_err(|error| error.to_string())
            })
            .map_err(|reason| Failure::failed(format!("{}: {reason}", self.path.display())))
    }

    /// Which physical memory a loader puts the image in.
    ///
    /// # Errors
    ///
    /// When the file is no ELF file or lacks a symbol.
    pub(crate) fn loaded_at(&self) -> Result<PhysRange> {
        let bytes = std::fs::read(&self.path).about(self.path.display())?;
        image(&bytes)
            .map(|image| image.phys())
            .map_err(|reason| Failure::failed(format!("{}: {reason}", self.path.display())))
    }

    /// The ELF file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Builds the bare-metal program of a package; where it is. Messages call it `what`.
///
/// # Errors
///
/// When it does not build, or cargo does not say where the file is.
pub(crate) fn build(package: &str, what: &str, toolchain: &Toolchain) -> Result<PathBuf> {
    let mut command = toolchain.cargo("build");
    command.args(["--package", package, "--features", "boot"]);
    command.args(["--profile", "kernel"]);
    command.arg("--message-format=json-render-diagnostics");
    let output = quietly(&mut command, &format!("{what} does not build"))?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = messages.lines().rev().find_map(executable);
    program
        .ok_or_else(|| Failure::failed(format!("cargo built {what} and did not say where it is")))
}

/// The symbols between which the linker script puts each section (kernel/src/arch/x86_64/image.ld).
const SECTIONS: [(SectionKind, &str, &str); 6] = [
    (SectionKind::Text, "_text", "_etext"),
    (SectionKind::Rodata, "__start_rodata", "__end_rodata"),
    (SectionKind::Data, "_sdata", "_edata"),
    (SectionKind::Bss, "__bss_start", "__bss_stop"),
    (SectionKind::InitText, "__init_begin", "init_data_start"),
    (SectionKind::InitData, "init_data_start", "__init_end"),
];

/// The image as it was linked, loaded where its program headers say.
fn image(bytes: &[u8]) -> std::result::Result<KernelImage, String> {
    let file = ElfFile64::<Endianness>::parse(bytes).map_err(|error| error.to_string())?;
    let symbols: BTreeMap<&str, u64> = file
        .symbols()
        .filter_map(|symbol| Some((symbol.name().ok()?, symbol.address())))
        .collect();
    let address = |name: &str| {
        symbols
            .get(name)
            .copied()
            .ok_or_else(|| format!("there is no symbol {name}"))
    };
    let range = |from: &str, to: &str| {
        let (start, end) = (address(from)?, address(to)?);
        VirtAddr::try_new(start)
            .and_then(|start| VirtRange::try_new(start, end.wrapping_sub(start.as_u64())))
            .map_err(|error| format!("{from} to {to}: {error}"))
    };
    let whole = range("image_start", "image_end")?;
    let endian = file.endian();
    let load = file
        .elf_program_headers()
        .iter()
        .find(|header| header.p_vaddr(endian) == whole.start().as_u64())
        .ok_or_else(|| format!("no program header loads {}", whole.start()))?;
    let phys = PhysAddr::try_new(load.p_paddr(endian)).map_err(|error| error.to_string())?;
    let mut image = KernelImage::try_new(whole, phys).map_err(|error| error.to_string())?;
    for (kind, from, to) in SECTIONS {
        image = image.with_section(kind, range(from, to)?);
    }
    Ok(image)
}

/// XEN_ELFNOTE_PHYS32_ENTRY.
const PHYS32_ENTRY: u32 = 18;

fn pvh_entry(bytes: &[u8]) -> Option<u64> {
    match FileKind::parse(bytes).ok()? {
        FileKind::Elf32 => entry_note::<FileHeader32<Endianness>>(bytes),
        FileKind::Elf64 => entry_note::<FileHeader64<Endianness>>(bytes),
        _ => None,
    }
}

fn entry_note<Elf: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Option<u64> {
    let header = Elf::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    for segment in header.program_headers(endian, bytes).ok()? {
        let Ok(Some(mut notes)) = segment.notes(endian, bytes) else {
            continue;
        };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == b"Xen" && note.n_type(endian) == PHYS32_ENTRY {
                let entry = note.desc().get(..4)?.try_into().ok()?;
                return Some(u64::from(u32::from_le_bytes(entry)));
            }
        }
    }
    None
}

/// The program that one of cargo's messages announces, if it does.
fn executable(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    message.get("executable")?.as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::tiny_guest;

    #[test]
    fn the_entry_is_what_the_note_says() {
        let guest = tiny_guest::elf("text", tiny_guest::End::Never);
        assert_eq!(pvh_entry(&guest), Some(u64::from(tiny_guest::ENTRY)));
        assert_eq!(pvh_entry(&guest[..0x80]), None);
        assert_eq!(pvh_entry(b"not ELF"), None);
    }

    #[test]
    fn cargo_says_where_the_program_is() {
        let built =
            r#"{"reason":"compiler-artifact","executable":"/t/kspace-kernel","fresh":true}"#;
        assert_eq!(executable(built), Some(PathBuf::from("/t/kspace-kernel")));
        for other in [
            r#"{"reason":"compiler-artifact","executable":null}"#,
            "{}",
            "warning: x",
            "",
        ] {
            assert_eq!(executable(other), None, "{other}");
        }
    }
}
