//! A metric that nobody explains is noise, and one that nobody moves is a lie.
//!
//! The scheme: a metric is named by one whole string literal in the product code of `dataplane/`,
//! and `docs/OPERATIONS.md` has the same names, no fewer and no more.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::Finding;
use crate::rust_text::is_test_path;
use crate::tidy::tree::Tree;

const PREFIX: &str = "migratekit_dataplane_";
const PAGE: &str = "docs/OPERATIONS.md";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut declared = BTreeMap::new();
    let product = |path: &str| path.starts_with("dataplane/") && !is_test_path(path);
    for (path, text) in tree.rust_files().filter(|(path, _)| product(path)) {
        for literal in text.product_literals() {
            for name in names(&literal.text) {
                if name == PREFIX {
                    findings.push(Finding::error(
                        path,
                        literal.line,
                        "a metric name put together from pieces cannot be searched for",
                        "write each metric's whole name as one literal",
                    ));
                } else {
                    declared.entry(name).or_insert((path, literal.line));
                }
            }
        }
    }
    let page = tree.text_of(PAGE).unwrap_or_default();
    let explained: BTreeSet<&str> = names(page).collect();
    for (name, (path, line)) in &declared {
        if !explained.contains(name) {
            let what = format!("metric `{name}` is not explained in {PAGE}");
            let remedy = "add the sentence that tells an operator what to do with it";
            findings.push(Finding::error(path, *line, what, remedy));
        }
    }
    for (index, line) in page.lines().enumerate() {
        for name in names(line).filter(|name| !declared.contains_key(name)) {
            let what = format!("metric `{name}` is explained but no code declares it");
            findings.push(Finding::error(PAGE, index + 1, what, "delete the sentence"));
        }
    }
    findings
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(PREFIX).map(|(at, _)| {
        let tail = &text[at + PREFIX.len()..];
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let len = tail.find(|c| !is_part(c)).unwrap_or(tail.len());
        &text[at..at + PREFIX.len() + len]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(code: &str, page: &str) -> Vec<String> {
        let tree = Tree::of(&[("dataplane/daemon/src/metrics.rs", code), (PAGE, page)]);
        check(&tree)
            .into_iter()
            .map(|finding| finding.path)
            .collect()
    }

    #[test]
    fn a_metric_with_its_sentence_passes() {
        let code = "const A: &str = \"migratekit_dataplane_bytes_total\";";
        assert!(found(code, "`migratekit_dataplane_bytes_total`: rises.").is_empty());
        assert!(found("target: \"migratekit_dataplane\"", "").is_empty());
    }

    #[test]
    fn either_side_alone_is_refused() {
        let code = "f(\"# HELP migratekit_dataplane_bytes_total x\")";
        assert_eq!(found(code, ""), ["dataplane/daemon/src/metrics.rs"]);
        assert_eq!(found("", "`migratekit_dataplane_bytes_total`"), [PAGE]);
        let longer = "`migratekit_dataplane_bytes_total_x`";
        assert_eq!(found(code, longer).len(), 2);
    }

    #[test]
    fn names_in_pieces_are_refused_and_tests_may_do_as_they_like() {
        assert_eq!(
            found("format!(\"migratekit_dataplane_{name}\")", "").len(),
            1
        );
        let test = "#[cfg(test)]\nmod tests {\nf(\"migratekit_dataplane_\")\n}";
        assert!(found(test, "").is_empty());
    }
}
