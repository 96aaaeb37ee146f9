//! `1 CPU`, `2 CPUs`.

use core::fmt;

/// So many of something, by [`Display`](fmt::Display): the word gets an "s" when there is not exactly one.
#[derive(Clone, Copy, Debug)]
pub struct Counted(pub u64, pub &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, word) = self;
        write!(f, "{count} {word}")?;
        f.write_str(if *count == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn one_is_no_plural() {
        let texts = [0, 1, 2].map(|count| Counted(count, "other CPU").to_string());
        assert_eq!(texts, ["0 other CPUs", "1 other CPU", "2 other CPUs"]);
    }
}
