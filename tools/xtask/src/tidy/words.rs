//! Words that say "not finished" and paths of one particular machine.
//!
//! The words are put together from halves here so that this file may stay in the tree it checks.

use crate::finding::Finding;
use crate::rust_text::contains_word;
use crate::tidy::tree::Tree;

const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];
const UNFINISHED_MACROS: &[&str] = &["todo", "unimplemented"];
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/root/", ".cargo")];
/// Texts that are not ours to edit.
const FOREIGN: &[&str] = &["Cargo.lock", "LICENSE"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree
        .text_files()
        .filter(|(path, _)| !FOREIGN.contains(path))
    {
        for (index, line) in text.lines().enumerate() {
            if let Some(word) = UNFINISHED.iter().find(|word| contains_word(line, word)) {
                findings.push(Finding::error(
                    path,
                    index + 1,
                    format!("`{word}` in the tree"),
                    "finish it, or file it where work is tracked",
                ));
            }
            if let Some(prefix) = MACHINE_PATHS.iter().find(|prefix| names_path(line, prefix)) {
                findings.push(Finding::error(
                    path,
                    index + 1,
                    format!("`{prefix}` is a path of one machine"),
                    "name the place relative to the checkout, or by an environment variable",
                ));
            }
        }
    }
    for (path, text) in tree.rust_files() {
        for (index, code) in text.code.lines().enumerate() {
            let calls =
                |name: &str| contains_word(code, name) && code.contains(&format!("{name}!"));
            if let Some(name) = UNFINISHED_MACROS.iter().find(|name| calls(name)) {
                findings.push(Finding::error(
                    path,
                    index + 1,
                    format!("`{name}!` in the tree"),
                    "write the code, or leave the function out",
                ));
            }
        }
    }
    findings
}

/// Whether an absolute path begins here, as opposed to the middle of a longer one.
fn names_path(line: &str, prefix: &str) -> bool {
    line.match_indices(prefix).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_.~-*})".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        check(&Tree::of(&[(path, text)])).len()
    }

    #[test]
    fn unfinished_words_are_refused_in_any_text() {
        assert_eq!(found("docs/a.md", concat!("x TO", "DO y")), 1);
        assert_eq!(found("tools/a", concat!("# FIX", "ME: y")), 1);
        assert_eq!(
            found("docs/a.md", concat!("AUTO", "DO and mktemp XXXX", "XX")),
            0
        );
        assert_eq!(found("Cargo.lock", concat!("TO", "DO")), 0);
    }

    #[test]
    fn unfinished_macros_are_refused_in_code_only() {
        assert_eq!(found("a/src/b.rs", concat!("fn f() { to", "do!() }")), 1);
        assert_eq!(found("a/src/b.rs", "// todo! is refused"), 0);
    }

    #[test]
    fn machine_paths_are_refused() {
        assert_eq!(found("docs/a.md", concat!("see /wo", "rk/main")), 1);
        assert_eq!(found("docs/a.md", concat!("`/root/", ".cargo/bin`")), 1);
        assert_eq!(found("docs/a.md", concat!("net/wo", "rk/a.md")), 0);
    }
}
