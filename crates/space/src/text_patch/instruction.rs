//! The few instructions that can be stood in for: no-operations, jumps and calls.

use core::fmt;

use kspace_layout::VirtAddr;

/// What an instruction does, for one that a breakpoint stands in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Goes on at this address.
    Jump(VirtAddr),
    /// Pushes the address behind itself, and goes on at this one.
    Call(VirtAddr),
}

/// The longest instruction (Intel SDM vol. 2, section 2.3.11).
pub(super) const LONGEST: usize = 15;

/// The no-operation of five bytes that compilers and kernels leave where a call or a jump may come.
pub const NOP_5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

const CALL: u8 = 0xe8;
const JUMP: u8 = 0xe9;
const SHORT_JUMP: u8 = 0xeb;
/// `INT3`.
pub(super) const BREAKPOINT: u8 = 0xcc;

/// The recommended no-operations of each length (Intel SDM vol. 2, "NOP").
const NOPS: [&[u8]; 9] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &NOP_5,
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// What the instruction `bytes` does at `at`; `None` for one that is not among the few, or leads to no address.
pub(super) fn effect(at: VirtAddr, bytes: &[u8]) -> Option<Effect> {
    let relative = |distance: i64| {
        let behind = at.as_u64() + bytes.len() as u64;
        VirtAddr::try_new(behind.wrapping_add_signed(distance)).ok()
    };
    match *bytes {
        _ if NOPS.contains(&bytes) => relative(0).map(Effect::Jump),
        [JUMP, a, b, c, d] => relative(i32::from_le_bytes([a, b, c, d]).into()).map(Effect::Jump),
        [CALL, a, b, c, d] => relative(i32::from_le_bytes([a, b, c, d]).into()).map(Effect::Call),
        [SHORT_JUMP, distance] => relative((distance as i8).into()).map(Effect::Jump),
        _ => None,
    }
}

/// The five bytes of a jump at `from` to `to`.
///
/// # Errors
///
/// [`TooFar`].
pub fn jump(from: VirtAddr, to: VirtAddr) -> Result<[u8; 5], TooFar> {
    relative(JUMP, from, to)
}

/// The five bytes of a call at `from` of `to`.
///
/// # Errors
///
/// [`TooFar`].
pub fn call(from: VirtAddr, to: VirtAddr) -> Result<[u8; 5], TooFar> {
    relative(CALL, from, to)
}

fn relative(opcode: u8, from: VirtAddr, to: VirtAddr) -> Result<[u8; 5], TooFar> {
    let behind = from.as_u64().wrapping_add(5);
    let distance = to.as_u64().wrapping_sub(behind) as i64;
    let distance = i32::try_from(distance).map_err(|_| TooFar { from, to })?;
    let [a, b, c, d] = distance.to_le_bytes();
    Ok([opcode, a, b, c, d])
}

/// Two addresses are more than 2 GiB apart: 32 bits cannot say the distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFar {
    /// Where the instruction is.
    pub from: VirtAddr,
    /// Where it should lead.
    pub to: VirtAddr,
}

impl fmt::Display for TooFar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(
            f,
            "text patch: {to} is more than 2 GiB from {from}; put the code into area modules"
        )
    }
}

impl core::error::Error for TooFar {}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: VirtAddr = VirtAddr::new(0xffff_ffff_8100_0ffe);

    #[test]
    fn what_is_made_does_what_was_asked() {
        for distance in [0, 5, 100, 0x7fff_0000, -5, -0x7fff_0000_i64] {
            let to = VirtAddr::new(AT.as_u64().wrapping_add_signed(distance));
            assert_eq!(effect(AT, &jump(AT, to).unwrap()), Some(Effect::Jump(to)));
            assert_eq!(effect(AT, &call(AT, to).unwrap()), Some(Effect::Call(to)));
        }
        let far = VirtAddr::new(0xffff_8880_0000_0000);
        assert_eq!(jump(AT, far), Err(TooFar { from: AT, to: far }));
    }

    /// Bytes and their meaning as a disassembler gives it.
    #[test]
    fn known_encodings() {
        let to = |distance| Some(Effect::Jump(AT.checked_add(distance).unwrap()));
        assert_eq!(effect(AT, &[0xeb, 0x10]), to(0x12));
        assert_eq!(effect(AT, &[0xe9, 0xfb, 0xff, 0xff, 0xff]), to(0));
        for nop in NOPS {
            assert_eq!(effect(AT, nop), to(nop.len() as u64));
        }
        for other in [
            &[0xc3][..],
            &[0xcc],
            &[0x0f, 0x1f, 0x44, 0x00, 0x01],
            &[0xe8, 0],
        ] {
            assert_eq!(effect(AT, other), None);
        }
    }
}
