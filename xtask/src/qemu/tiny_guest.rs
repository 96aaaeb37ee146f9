//! The smallest guest that proves something: it prints one line and ends the machine, or fails to in a known way.
//!
//! It boots as the kernel does (PVH), uses the same two ports, and needs no compiler: its few instructions are written out here.
//! With it an accelerator is tried before it is trusted, and the machinery of this module is tested apart from the kernel.
//!
//! ```text
//!   file                                memory
//!   0000  ELF header, 2 program headers
//!   0080  PVH note: entry 00100000
//!   1000  code, then the text           00100000  code      00100000 + TEXT  the text, NUL at its end
//! ```

/// Where the guest's first instruction lies, in guest-physical memory.
pub(crate) const ENTRY: u32 = 0x10_0000;

/// Where its text lies.
pub(crate) const TEXT: u32 = ENTRY + (CODE.len() + END_LEN) as u32;

const CODE_OFFSET: u32 = 0x1000;
const NOTE_OFFSET: u32 = 0x80;

/// What the guest does after its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It ends the machine with success.
    Success,
    /// It executes an undefined instruction without any handler: a triple fault.
    Reset,
    /// It spins for ever.
    Never,
}

/// ```text
///   cld; mov $TEXT, %esi; mov $0x3f8, %dx
///   1: lodsb; test %al, %al; jz 2f; out %al, %dx; jmp 1b
/// ```
#[rustfmt::skip]
const CODE: [u8; 18] = {
    let text = (ENTRY + 32).to_le_bytes();
    [
        0xfc, 0xbe, text[0], text[1], text[2], text[3], 0x66, 0xba, 0xf8, 0x03,
        0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8,
    ]
};

const END_LEN: usize = 14;

impl End {
    /// `2:` and what follows.
    #[rustfmt::skip]
    const fn code(self) -> [u8; END_LEN] {
        match self {
            // mov $0xf4, %dx; mov $0x10, %eax; out %eax, %dx; 3: hlt; jmp 3b
            Self::Success => [0x66, 0xba, 0xf4, 0x00, 0xb8, 0x10, 0, 0, 0, 0xef, 0xf4, 0xeb, 0xfd, 0x90],
            // mov $0x100000, %esp; lidt (%esp); ud2: as a table's address, the code's first bytes point behind the text, where memory
            // is zero and no gate present.
            Self::Reset => [0xbc, 0, 0, 0x10, 0, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b, 0x90, 0x90, 0x90],
            // 3: jmp 3b
            Self::Never => [0xeb, 0xfe, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90],
        }
    }
}

/// The guest's ELF file; it prints `text` and a line end.
pub(crate) fn elf(text: &str, end: End) -> Vec<u8> {
    let code = [&CODE[..], &end.code()].concat();
    let mut file = header();
    file.extend(program_header(
        1,
        CODE_OFFSET,
        ENTRY,
        (code.len() + text.len() + 2) as u32,
        7,
    ));
    file.extend(program_header(4, NOTE_OFFSET, 0, 20, 4));
    file.resize(NOTE_OFFSET as usize, 0);
    // The note: name size, description size, XEN_ELFNOTE_PHYS32_ENTRY, name, description.
    file.extend([4_u32, 4, 18].into_iter().flat_map(u32::to_le_bytes));
    file.extend(b"Xen\0");
    file.extend(ENTRY.to_le_bytes());
    file.resize(CODE_OFFSET as usize, 0);
    file.extend(code);
    file.extend(text.bytes());
    file.extend(b"\n\0");
    file
}

/// An ELF32 header for i386 with two program headers after it.
fn header() -> Vec<u8> {
    let mut bytes = b"\x7fELF\x01\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2_u16, 3].into_iter().flat_map(u16::to_le_bytes));
    bytes.extend([1, ENTRY, 52, 0, 0].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend(
        [52_u16, 32, 2, 0, 0, 0]
            .into_iter()
            .flat_map(u16::to_le_bytes),
    );
    bytes
}

fn program_header(kind: u32, offset: u32, address: u32, size: u32, flags: u32) -> Vec<u8> {
    let words = [kind, offset, address, address, size, size, flags, 4];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}
