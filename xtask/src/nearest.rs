//! The known word nearest to a mistyped one.

/// The one of `known` that needs the fewest edits to become `typed`; `None` when even that is a different word.
pub(crate) fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|word| (distance(typed, word), *word))
        .filter(|(edits, word)| *edits <= word.chars().count().max(3) / 2)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, word)| word)
}

/// `; nearest: WORD`, or nothing.
pub(crate) fn hint(typed: &str, known: &[&str]) -> String {
    nearest(typed, known).map_or(String::new(), |word| format!("; nearest: {word}"))
}

/// The number of insertions, deletions, replacements and swaps of neighbours that turn one word into the other (optimal string
/// alignment: no character is edited twice).
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    // edits[i][j]: between the first i characters of one and the first j of the other.
    let mut edits = vec![vec![0; right.len() + 1]; left.len() + 1];
    for i in 0..=left.len() {
        for j in 0..=right.len() {
            edits[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let same = left[i - 1] == right[j - 1];
                let mut least = (edits[i - 1][j] + 1)
                    .min(edits[i][j - 1] + 1)
                    .min(edits[i - 1][j - 1] + usize::from(!same));
                let swapped =
                    i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1];
                if swapped {
                    least = least.min(edits[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    edits[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_known_pairs() {
        for (left, right, edits) in [
            ("", "", 0),
            ("run", "run", 0),
            ("kitten", "sitting", 3),
            ("", "abc", 3),
        ] {
            assert_eq!(distance(left, right), edits, "{left} {right}");
            assert_eq!(distance(right, left), edits, "{right} {left}");
        }
    }

    #[test]
    fn a_near_word_is_named_and_a_far_one_is_not() {
        assert_eq!(nearest("tset", &["run", "test", "bench"]), Some("test"));
        assert_eq!(nearest("--apend", &["--append", "--mem"]), Some("--append"));
        assert_eq!(nearest("zzzzzzzz", &["run", "test"]), None);
    }
}
