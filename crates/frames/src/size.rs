//! Sizes as people write them on a command line: `64M`, `0x4000000`, `2g`.

use core::fmt;

/// Reads a size in bytes: a decimal or `0x` number with an optional suffix `K`, `M`, `G`, `T`, `P` or `E` in either
/// case, as Linux's `memparse` (lib/cmdline.c).
///
/// Stricter than Linux, which ignores what it does not understand: anything left over is an error, and so is a leading
/// zero, which Linux would read as octal.
///
/// # Errors
///
/// [`SizeError`], which says what is wrong with `text`.
///
/// ```
/// use kspace_frames::parse_size;
///
/// assert_eq!(parse_size(b"64M"), Ok(64 << 20));
/// assert_eq!(parse_size(b"0x1000k"), Ok(0x1000 << 10));
/// assert_eq!(
///     parse_size(b"64MB").unwrap_err().to_string(),
///     "\"64MB\" is not a size: \"B\" follows the suffix M; write for example 64M"
/// );
/// ```
pub fn parse_size(text: &[u8]) -> Result<u64, SizeError<'_>> {
    let refuse = |problem| Err(SizeError { text, problem });
    let (digits, base) = match text {
        [b'0', b'x' | b'X', rest @ ..] => (rest, 16),
        _ => (text, 10),
    };
    let count = digits
        .iter()
        .take_while(|byte| is_digit(**byte, base))
        .count();
    let (number, rest) = digits.split_at(count);
    if number.is_empty() {
        return refuse(if text.is_empty() {
            SizeProblem::Empty
        } else {
            SizeProblem::NoNumber
        });
    }
    if base == 10 && number.len() > 1 && number[0] == b'0' {
        return refuse(SizeProblem::LeadingZero);
    }
    let Some(value) = read_number(number, base) else {
        return refuse(SizeProblem::TooLarge);
    };
    let Some((&suffix, after)) = rest.split_first() else {
        return Ok(value);
    };
    let Some(shift) = suffix_shift(suffix) else {
        return refuse(SizeProblem::Suffix(rest));
    };
    if !after.is_empty() {
        return refuse(SizeProblem::AfterSuffix(suffix, after));
    }
    match value.checked_mul(1 << shift) {
        Some(bytes) => Ok(bytes),
        None => refuse(SizeProblem::TooLarge),
    }
}

/// Why a text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeError<'a> {
    text: &'a [u8],
    problem: SizeProblem<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SizeProblem<'a> {
    Empty,
    NoNumber,
    LeadingZero,
    TooLarge,
    Suffix(&'a [u8]),
    AfterSuffix(u8, &'a [u8]),
}

impl fmt::Display for SizeError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.escape_ascii();
        match self.problem {
            SizeProblem::Empty => write!(f, "a size is missing"),
            SizeProblem::NoNumber => {
                write!(
                    f,
                    "\"{text}\" is not a size: it does not begin with a number"
                )
            }
            SizeProblem::LeadingZero => {
                write!(
                    f,
                    "\"{text}\" is not a size: leave out the leading zero, or write 0x for hexadecimal"
                )
            }
            SizeProblem::TooLarge => {
                write!(f, "\"{text}\" is not a size: it does not fit in 64 bits")
            }
            SizeProblem::Suffix(rest) => write!(
                f,
                "\"{text}\" is not a size: \"{}\" is no suffix; the suffixes are K, M, G, T, P and E",
                rest.escape_ascii()
            ),
            SizeProblem::AfterSuffix(suffix, rest) => write!(
                f,
                "\"{text}\" is not a size: \"{}\" follows the suffix {}",
                rest.escape_ascii(),
                suffix.escape_ascii()
            ),
        }?;
        f.write_str("; write for example 64M")
    }
}

impl core::error::Error for SizeError<'_> {}

fn is_digit(byte: u8, base: u64) -> bool {
    if base == 16 {
        byte.is_ascii_hexdigit()
    } else {
        byte.is_ascii_digit()
    }
}

fn read_number(digits: &[u8], base: u64) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, &digit| {
        let digit = char::from(digit).to_digit(base as u32)?;
        value.checked_mul(base)?.checked_add(u64::from(digit))
    })
}

fn suffix_shift(suffix: u8) -> Option<u32> {
    Some(match suffix.to_ascii_uppercase() {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        b'T' => 40,
        b'P' => 50,
        b'E' => 60,
        _ => return None,
    })
}
