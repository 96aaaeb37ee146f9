//! The ring behind `dmesg`: the newest records in a fixed number of bytes, the oldest dropped to make room.
//!
//! ```text
//!   tail                    head
//!    v                       v
//!   [ ticks 8 | length 2 | text ][ ticks | length | text ]....   wrapping at the end of the buffer
//! ```
//!
//! `tail` and `head` count bytes ever dropped and ever written; the place in the buffer is the remainder by its size. So
//! `head - tail` bytes are in use, and it never exceeds the size.

/// Longest text of one record in bytes; longer lines are cut at a character.
pub const MAX_TEXT: usize = 512;

const HEADER: usize = 10;

/// A ring of log records in `N` bytes.
///
/// # Invariants
///
/// From `tail` to `head` the buffer holds whole records, and `head - tail <= N`.
pub struct Ring<const N: usize> {
    bytes: [u8; N],
    tail: u64,
    head: u64,
    dropped: u64,
}

/// One record, copied out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The counter when the record was written.
    pub ticks: u64,
    text: [u8; MAX_TEXT],
    length: usize,
}

impl Record {
    /// The text, without a line end.
    #[must_use]
    pub fn text(&self) -> &str {
        // `push` takes a &str and cuts at a character, so this is text unless the ring was overwritten from outside.
        core::str::from_utf8(&self.text[..self.length]).unwrap_or("(damaged record)")
    }
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Ring<N> {
    const FITS_ONE_RECORD: () = assert!(N >= HEADER + MAX_TEXT, "a ring holds at least one record");

    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        let () = Self::FITS_ONE_RECORD;
        Self {
            bytes: [0; N],
            tail: 0,
            head: 0,
            dropped: 0,
        }
    }

    /// Adds a record, dropping the oldest ones until it fits.
    pub fn push(&mut self, ticks: u64, text: &str) {
        let text = &text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)];
        let needed = (HEADER + text.len()) as u64;
        while self.head - self.tail + needed > N as u64 {
            self.tail += self.record_at(self.tail).1;
            self.dropped += 1;
        }
        self.put(&ticks.to_le_bytes());
        self.put(&(text.len() as u16).to_le_bytes());
        self.put(text);
    }

    /// How many records were dropped to make room.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The records, oldest first.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let mut at = self.tail;
        core::iter::from_fn(move || {
            if at == self.head {
                return None;
            }
            let (record, size) = self.record_at(at);
            at += size;
            Some(record)
        })
    }

    fn put(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.bytes[(self.head % N as u64) as usize] = byte;
            self.head += 1;
        }
    }

    fn record_at(&self, at: u64) -> (Record, u64) {
        let byte = |offset: usize| self.bytes[((at + offset as u64) % N as u64) as usize];
        let ticks = u64::from_le_bytes(core::array::from_fn(byte));
        let length = u16::from_le_bytes(core::array::from_fn(|index| byte(8 + index))) as usize;
        let mut record = Record {
            ticks,
            text: [0; MAX_TEXT],
            length,
        };
        for (index, place) in record.text[..length].iter_mut().enumerate() {
            *place = byte(HEADER + index);
        }
        (record, (HEADER + length) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use super::*;

    fn read<const N: usize>(ring: &Ring<N>) -> Vec<(u64, String)> {
        ring.records()
            .map(|record| (record.ticks, record.text().to_string()))
            .collect()
    }

    #[test]
    fn the_newest_records_survive_any_number_of_turns() {
        let mut ring = Ring::<1024>::new();
        let mut model = VecDeque::new();
        let mut model_bytes = 0;
        for number in 0..5000u64 {
            // Lengths that share no factor with the size, so that records end everywhere.
            let text = "x".repeat((number * 37 % 300) as usize);
            ring.push(number, &text);
            model_bytes += 10 + text.len();
            model.push_back((number, text));
            while model_bytes > 1024 {
                model_bytes -= 10 + model.pop_front().unwrap().1.len();
            }
            assert_eq!(read(&ring), Vec::from(model.clone()));
            assert_eq!(ring.dropped() + model.len() as u64, number + 1);
        }
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        let mut ring = Ring::<2048>::new();
        ring.push(7, &"é".repeat(300));
        assert_eq!(read(&ring), [(7, "é".repeat(256))]);
        ring.push(8, &("a".to_string() + &"é".repeat(300)));
        assert_eq!(read(&ring)[1], (8, "a".to_string() + &"é".repeat(255)));
    }

    #[test]
    fn an_empty_ring_has_no_records() {
        assert_eq!(read(&Ring::<1024>::new()), []);
    }
}
