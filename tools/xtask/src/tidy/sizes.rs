//! Files stay readable. Functions are measured by clippy (70 lines); here their exceptions are.

use crate::finding::Finding;
use crate::rust_text::is_test_path;
use crate::tidy::tree::Tree;

const LINES_WARN: usize = 600;
const LINES_MAX: usize = 900;

const NO_SILENT_ALLOW: &[&str] = &[
    "too_many_lines",
    "print_stdout",
    "print_stderr",
    "unwrap_used",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust_files().filter(|(path, _)| !is_test_path(path)) {
        let lines = text.product_lines().count();
        if lines > LINES_WARN {
            let what = format!("{lines} lines without its tests (aim 400, at most {LINES_MAX})");
            let found = Finding::error(path, None, what, "split it where the story turns");
            findings.push(if lines > LINES_MAX {
                found
            } else {
                found.warning()
            });
        }
        findings.extend(text.product_lines().filter_map(|(line, code)| {
            let allowed = code.split_once("allow(")?.1;
            let lint = NO_SILENT_ALLOW
                .iter()
                .find(|lint| allowed.contains(**lint))?;
            let what = format!("`allow({lint})` stays when its cause is gone");
            Some(Finding::error(
                path,
                line,
                what,
                "write `expect(…, reason = \"…\")`",
            ))
        }));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    fn found(source: &str) -> Vec<Severity> {
        check(&Tree::of(&[("a/src/b.rs", source)]))
            .iter()
            .map(|f| f.severity)
            .collect()
    }

    #[test]
    fn a_long_file_warns_and_a_very_long_one_fails() {
        assert_eq!(found(&"x\n".repeat(600)), []);
        assert_eq!(found(&"x\n".repeat(601)), [Severity::Warning]);
        assert_eq!(found(&"x\n".repeat(900)), [Severity::Warning]);
        assert_eq!(found(&"x\n".repeat(901)), [Severity::Error]);
    }

    #[test]
    fn tests_do_not_count() {
        let source = format!("x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "x\n".repeat(2000));
        assert_eq!(found(&source), []);
    }

    #[test]
    fn exceptions_are_expectations() {
        assert_eq!(found("#[allow(clippy::too_many_lines)]"), [Severity::Error]);
        assert_eq!(
            found("#[expect(clippy::too_many_lines, reason = \"a table\")]"),
            []
        );
        assert_eq!(found("#[allow(clippy::cast_lossless)]"), []);
    }
}
