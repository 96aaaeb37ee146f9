//! Looks that are left out because the last ones were in vain: for one search, then for two, four, and so on.

use super::sync::{AtomicU32, Relaxed};

const LEFT: u32 = 0xffff;
const LENGTH_SHIFT: u32 = 16;

/// How long a pause is (upper half), and how much of it is left (lower half). Only the CPU that owns it changes it. All zero: none.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(super) struct Pause(AtomicU32);

impl Pause {
    /// Whether to look in this search. If not, one search less is left to go without.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        let now = self.0.load(Relaxed);
        if now & LEFT == 0 {
            return true;
        }
        self.0.store(now - 1, Relaxed);
        false
    }

    /// Takes note of what a look has found. After one in vain the next pause is twice as long, up to `longest`; after one that was not, it
    /// begins at one again.
    pub(super) fn note(&self, found: bool, longest: u16) {
        let length = self.0.load(Relaxed) >> LENGTH_SHIFT;
        let next = if found {
            0
        } else {
            let length = (2 * length).clamp(1, u32::from(longest));
            length << LENGTH_SHIFT | length
        };
        self.0.store(next, Relaxed);
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::Pause;

    /// How many searches go without, until the next look.
    fn pause(pause: &Pause) -> usize {
        (0..).take_while(|_| !pause.is_over()).count()
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again() {
        let each = Pause::default();
        assert_eq!(pause(&each), 0);
        for length in [1, 2, 4, 8, 10, 10] {
            each.note(false, 10);
            assert_eq!(pause(&each), length);
        }
        each.note(true, 10);
        assert_eq!(pause(&each), 0);
        each.note(false, 10);
        assert_eq!(pause(&each), 1);
    }
}
