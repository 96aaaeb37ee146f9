//! Any bytes as a command line and as a size: no panic, every refusal can be printed, and a size that is taken is the number that
//! arithmetic gives.

#![no_main]

use std::fmt::Write;

use kspace_frames::parse_size;
use kspace_kernel::command_line::CommandLine;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut text = String::new();
    let parsed = CommandLine::parse(data, |rejected| {
        write!(text, "{rejected}").expect("a string takes anything");
    });
    let _ = parsed;
    match parse_size(data) {
        Ok(bytes) => assert_eq!(Some(u128::from(bytes)), by_arithmetic(data)),
        Err(error) => write!(text, "{error}").expect("a string takes anything"),
    }
});

/// The value in 128 bits, by another way: the standard library's parser.
fn by_arithmetic(data: &[u8]) -> Option<u128> {
    let text = std::str::from_utf8(data).ok()?.to_ascii_uppercase();
    let hexadecimal = text.strip_prefix("0X");
    let (number, base) = hexadecimal.map_or((text.as_str(), 10), |digits| (digits, 16));
    // E is a digit in hexadecimal.
    let suffixes = if base == 16 { "KMGTP" } else { "KMGTPE" };
    let (number, shift) = match number.chars().last().and_then(|last| suffixes.find(last)) {
        Some(index) => (&number[..number.len() - 1], 10 * (index as u32 + 1)),
        None => (number, 0),
    };
    u128::from_str_radix(number, base)
        .ok()?
        .checked_mul(1 << shift)
}
