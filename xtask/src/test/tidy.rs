//! Habits that no compiler checks: names that say something, files of a size one can read, a doc at the head of each.

use std::path::{Path, PathBuf};

use super::report::{Failed, Outcome, Passed};
use crate::host::workspace;

/// Names of files and folders that say nothing about what is in them.
const EMPTY_NAMES: [&str; 7] = [
    "util", "utils", "common", "misc", "helper", "helpers", "stuff",
];

/// Lines after which a file is two.
const LONGEST: usize = 600;

/// The same for a file of nothing but tests, which is read one test at a time.
const LONGEST_TESTS: usize = 900;

/// Words that mark something as unfinished; spelled in two halves so that this file does not contain them.
const UNFINISHED: [&str; 4] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!("),
    concat!("unimpl", "emented!("),
];

/// Holds every source file of the workspace against the habits.
pub(crate) fn tidy() -> Outcome {
    let mut files = Vec::new();
    collect(workspace(), &mut files);
    let mut complaints = Vec::new();
    for file in &files {
        let shown = file.strip_prefix(workspace()).unwrap_or(file);
        match std::fs::read_to_string(file) {
            Ok(text) => complaints.extend(complaints_about(shown, &text)),
            Err(error) => complaints.push(format!("{}: {error}", shown.display())),
        }
    }
    if complaints.is_empty() {
        return Ok(Passed::noting(format!("{} files", files.len())));
    }
    Err(Failed::because(complaints.join("\n")))
}

/// The `.rs` files below `folder`, apart from what is built or fetched there.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, files);
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
}

fn complaints_about(path: &Path, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |what: String| complaints.push(format!("{}{what}", path.display()));
    for part in path.components() {
        let part = part.as_os_str().to_string_lossy();
        if EMPTY_NAMES.contains(&part.trim_end_matches(".rs")) {
            complain(format!(
                ": the name \"{part}\" says nothing; name what lives there"
            ));
        }
    }
    let lines = text.lines().count();
    let only_tests = path.ends_with("tests.rs") || path.iter().any(|part| part == "tests");
    let longest = if only_tests { LONGEST_TESTS } else { LONGEST };
    if lines > longest {
        complain(format!(
            ": {lines} lines, more than {longest}; split it by its readers' questions"
        ));
    }
    if !["//!", "#![doc"]
        .iter()
        .any(|doc| text.trim_start().starts_with(doc))
    {
        complain(": no module documentation; begin with //! and what lives there".to_owned());
    }
    for (number, line) in text.lines().enumerate() {
        if let Some(word) = UNFINISHED.iter().find(|word| line.contains(**word)) {
            complain(format!(
                ":{}: {word} marks something unfinished; finish it",
                number + 1
            ));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_habit_is_missed_when_broken() {
        let about = |path: &str, text: &str| complaints_about(Path::new(path), text);
        assert_eq!(about("a/walker.rs", "//! Walks.\n"), Vec::<String>::new());
        assert_eq!(
            about("a/utils.rs", "//! x"),
            ["a/utils.rs: the name \"utils.rs\" says nothing; name what lives there"]
        );
        assert_eq!(
            about("a/b.rs", "use x;"),
            ["a/b.rs: no module documentation; begin with //! and what lives there"]
        );
        assert_eq!(
            about("a/b.rs", &"//! x\n".repeat(601)),
            ["a/b.rs: 601 lines, more than 600; split it by its readers' questions"]
        );
        assert_eq!(
            about("a/tests/b.rs", &"//! x\n".repeat(900)),
            Vec::<String>::new()
        );
        assert_eq!(about("a/tests.rs", &"//! x\n".repeat(901)).len(), 1);
        let text = format!("//! x\n// {}: later", UNFINISHED[0]);
        assert_eq!(
            about("a/b.rs", &text),
            [format!(
                "a/b.rs:2: {} marks something unfinished; finish it",
                UNFINISHED[0]
            )]
        );
    }
}
