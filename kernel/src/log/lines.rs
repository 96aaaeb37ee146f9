//! A text of several lines, each to become a record of its own: the log knows no line ends.

use core::fmt;

use super::ring::MAX_TEXT;

/// Takes a text in any pieces and hands it on line by line. A line that is longer than a record is cut; a last line without an end
/// is handed on when the value is dropped.
pub struct Lines<F: FnMut(&str)> {
    bytes: [u8; MAX_TEXT],
    length: usize,
    line: F,
}

impl<F: FnMut(&str)> Lines<F> {
    /// Hands every line to `line`.
    pub const fn new(line: F) -> Self {
        Self {
            bytes: [0; MAX_TEXT],
            length: 0,
            line,
        }
    }

    fn add(&mut self, text: &str) {
        let room = MAX_TEXT - self.length;
        let part = &text.as_bytes()[..text.floor_char_boundary(room)];
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len();
    }

    fn end(&mut self) {
        let text = core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default();
        (self.line)(text);
        self.length = 0;
    }
}

impl<F: FnMut(&str)> fmt::Write for Lines<F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((line, behind)) = rest.split_once('\n') {
            self.add(line);
            self.end();
            rest = behind;
        }
        self.add(rest);
        Ok(())
    }
}

impl<F: FnMut(&str)> Drop for Lines<F> {
    fn drop(&mut self) {
        if self.length > 0 {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use super::*;

    fn lines(pieces: &[&str]) -> Vec<String> {
        let mut all = Vec::new();
        let mut lines = Lines::new(|line| all.push(line.to_string()));
        for piece in pieces {
            lines.write_str(piece).unwrap();
        }
        drop(lines);
        all
    }

    #[test]
    fn pieces_become_lines() {
        assert_eq!(lines(&[]), Vec::<String>::new());
        assert_eq!(lines(&["a", "b\nc", "\n\nd\n"]), ["ab", "c", "", "d"]);
        assert_eq!(lines(&["no end"]), ["no end"]);
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        let long = "\u{e9}".repeat(MAX_TEXT);
        let cut = lines(&["x", &long, "\nnext"]);
        assert_eq!(cut[0].len(), MAX_TEXT - 1);
        assert_eq!(cut[1], "next");
    }
}
