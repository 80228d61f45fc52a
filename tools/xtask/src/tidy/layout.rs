//! What may lie where: the top of the tree, binaries, logs, big files.

use crate::finding::Finding;
use crate::tidy::tree::{Content, File, Tree};

const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "VERSION.txt",
    "dataplane",
    "controlplane",
    "migrations",
    "benches",
    "tools",
    "docs",
    "README.md",
    "LICENSE",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "clippy.toml",
    "deny.toml",
    ".cargo",
    ".ci",
    ".config",
    ".editorconfig",
    ".gitattributes",
    ".gitignore",
];

/// Folders in which small binary files are test data, not build outputs.
const BINARY_DATA: &[&str] = &["/corpus/", "/seeds/", "/tests/data/"];

const LEN_BYTES_MAX: u64 = 1 << 20;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tree
        .files()
        .filter_map(|(path, file)| check_file(path, file))
        .collect();
    let mut strange: Vec<&str> = tree
        .files()
        .map(|(path, _)| path.split('/').next().unwrap_or(path))
        .filter(|top| !TOP.contains(top))
        .collect();
    strange.dedup();
    findings.extend(strange.into_iter().map(|top| {
        Finding::error(
            top,
            None,
            "not part of the top level of the tree",
            "move it below one of the folders there, or ignore it",
        )
    }));
    findings
}

fn check_file(path: &str, file: &File) -> Option<Finding> {
    let (what, remedy) = match file.content {
        Content::Binary { elf: true } => (
            "a compiled program".to_owned(),
            "build outputs go to dist/, which git ignores",
        ),
        Content::Binary { elf: false } if !BINARY_DATA.iter().any(|part| path.contains(part)) => (
            "a binary file".to_owned(),
            "make it when it is needed, or keep it under tests/data/",
        ),
        _ if path.ends_with(".log") => ("a log file".to_owned(), "delete it"),
        _ if file.len_bytes > LEN_BYTES_MAX => (
            format!("{} bytes, more than {LEN_BYTES_MAX}", file.len_bytes),
            "make it when it is needed instead of storing it",
        ),
        _ => return None,
    };
    Some(Finding::error(path, None, what, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_one(path: &str, bytes: &[u8], refused: bool) {
        let found = check(&Tree::of_bytes(&[(path, bytes)]));
        assert_eq!(!found.is_empty(), refused, "{path}: {found:?}");
    }

    #[test]
    fn the_top_level_is_closed() {
        check_one("Cargo.toml", b"", false);
        check_one("docs/a.md", b"", false);
        check_one("scripts/a", b"", true);
        check_one("notes.md", b"", true);
    }

    #[test]
    fn binaries_are_refused_outside_test_data() {
        check_one("tools/a", b"\x00\x01", true);
        check_one("tools/a", b"\xff\xfe", true);
        check_one("dataplane/wire/fuzz/corpus/a/1", b"\x00\x01", false);
        check_one("dataplane/wire/fuzz/corpus/a/1", b"\x7fELF\x00", true);
    }

    #[test]
    fn logs_and_big_files_are_refused() {
        check_one("docs/a.log", b"x", true);
        check_one("docs/a.md", &vec![b'x'; 1 << 20], false);
        check_one("docs/a.md", &vec![b'x'; (1 << 20) + 1], true);
    }
}
