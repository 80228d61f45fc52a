//! Business code has no print macros. A binary's output module says so by an expectation.

use crate::finding::Finding;
use crate::rust_text::{contains_word, is_test_path};
use crate::tidy::tree::Tree;

const PRODUCT: &[&str] = &["dataplane/", "controlplane/"];
/// Crates that are run and talk to a person; libraries never print.
const MAY_PRINT: &[&str] = &[
    "dataplane/daemon/",
    "controlplane/oma/",
    "controlplane/vma/",
    "controlplane/volumed/",
];
const PRINTS: &[&str] = &["print", "println", "eprint", "eprintln"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust_files().filter(|(path, _)| !is_test_path(path)) {
        let product = PRODUCT.iter().any(|folder| path.starts_with(folder));
        let output_module = MAY_PRINT.iter().any(|folder| path.starts_with(folder))
            && text.code.contains("expect(")
            && text.code.contains("clippy::print_std");
        for (line, code) in text.product_lines() {
            let calls =
                |name: &str| contains_word(code, name) && code.contains(&format!("{name}!"));
            let named = match calls("dbg") {
                true => Some("dbg"),
                false if product && !output_module => {
                    PRINTS.iter().copied().find(|name| calls(name))
                }
                false => None,
            };
            if let Some(name) = named {
                findings.push(Finding::error(
                    path,
                    line,
                    format!("`{name}!` outside an output module"),
                    "return the value, trace it, or print it in the module of a binary that \
                     carries #![expect(clippy::print_stdout, reason = …)]",
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, source: &str) -> usize {
        check(&Tree::of(&[(path, source)])).len()
    }

    #[test]
    fn product_code_does_not_print() {
        assert_eq!(
            found("dataplane/engine/src/a.rs", "fn f() { println!(\"x\"); }"),
            1
        );
        assert_eq!(
            found("dataplane/daemon/src/a.rs", "fn f() { eprint!(\"x\"); }"),
            1
        );
        assert_eq!(
            found("dataplane/engine/src/a.rs", "fn f() { sprintln!(\"x\"); }"),
            0
        );
        assert_eq!(found("dataplane/engine/src/a.rs", "// println!(\"x\")"), 0);
        assert_eq!(found("dataplane/engine/tests/a.rs", "println!(\"x\");"), 0);
    }

    #[test]
    fn an_output_module_of_a_binary_prints_and_a_library_never() {
        let source = "#![expect(clippy::print_stdout, reason = \"output\")]\nprintln!(\"x\");";
        assert_eq!(found("dataplane/daemon/src/output.rs", source), 0);
        assert_eq!(found("dataplane/engine/src/output.rs", source), 1);
    }

    #[test]
    fn dbg_is_refused_everywhere() {
        assert_eq!(found("tools/xtask/src/a.rs", "dbg!(x);"), 1);
        assert_eq!(found("tools/xtask/src/a.rs", "println!(\"x\");"), 0);
    }
}
