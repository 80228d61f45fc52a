//! Unsafe code compiles in `dataplane/sys` and nowhere else.

use cargo_metadata::{Metadata, TargetKind};

use crate::finding::Finding;
use crate::rust_text::contains_word;
use crate::tidy::tree::Tree;

const UNSAFE_HOME: &str = "dataplane/sys/";

/// Root files of every library, binary and build script of the workspace, relative to it.
pub(super) fn roots(metadata: &Metadata) -> Vec<String> {
    let shipped = [
        TargetKind::Lib,
        TargetKind::Bin,
        TargetKind::ProcMacro,
        TargetKind::CustomBuild,
    ];
    metadata
        .workspace_packages()
        .into_iter()
        .flat_map(|package| &package.targets)
        .filter(|target| target.kind.iter().any(|kind| shipped.contains(kind)))
        .filter_map(|target| target.src_path.strip_prefix(&metadata.workspace_root).ok())
        .map(ToString::to_string)
        .collect()
}

pub(super) fn check(tree: &Tree, roots: &[String]) -> Vec<Finding> {
    let outside = || {
        tree.rust_files()
            .filter(|(path, _)| !path.starts_with(UNSAFE_HOME))
    };
    let mut findings = Vec::new();
    for (path, text) in outside() {
        for (index, code) in text.code.lines().enumerate() {
            if contains_word(code, "unsafe") {
                findings.push(Finding::error(
                    path,
                    index + 1,
                    "unsafe code outside dataplane/sys",
                    "put a safe function for it in dataplane/sys",
                ));
            }
        }
    }
    for (path, text) in outside().filter(|(path, _)| roots.iter().any(|root| root == path)) {
        if !forbids_unsafe(&text.code) {
            findings.push(Finding::error(
                path,
                1,
                "the crate root does not begin with #![forbid(unsafe_code)]",
                "write it right after the crate's documentation",
            ));
        }
    }
    findings
}

/// Looks through the inner attributes at the top; the first item ends the search.
fn forbids_unsafe(code: &str) -> bool {
    let mut rest = code.trim_start();
    while let Some(attribute) = rest.strip_prefix("#![") {
        if attribute.starts_with("forbid(unsafe_code") {
            return true;
        }
        let mut depth = 1_usize;
        let end = attribute.find(|c| {
            match c {
                '[' => depth += 1,
                ']' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let Some(end) = end else { return false };
        rest = attribute[end + 1..].trim_start();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, source: &str) -> usize {
        check(&Tree::of(&[(path, source)]), &[path.to_owned()]).len()
    }

    #[test]
    fn a_root_that_forbids_unsafe_passes() {
        for source in [
            "//! Docs.\n#![forbid(unsafe_code)]\nfn f() {}",
            "#![no_main]\n#![expect(x, reason = \"[y]\")]\n#![forbid(unsafe_code, unused)]\n",
        ] {
            assert_eq!(found("a/src/lib.rs", source), 0, "{source}");
        }
    }

    #[test]
    fn a_root_that_does_not_is_refused() {
        for source in [
            "fn f() {}",
            "//! #![forbid(unsafe_code)]\nfn f() {}",
            "#![deny(unsafe_code)]\n",
        ] {
            assert_eq!(found("a/src/lib.rs", source), 1, "{source}");
        }
    }

    #[test]
    fn unsafe_is_at_home_in_sys_only() {
        let source = "#![forbid(unsafe_code)]\nfn f() { unsafe { g() } }";
        assert_eq!(found("a/src/lib.rs", source), 1);
        assert_eq!(found("dataplane/sys/src/lib.rs", source), 0);
        assert_eq!(
            found("a/src/lib.rs", "#![forbid(unsafe_code)]\n// unsafe\n"),
            0
        );
    }
}
