//! Job sheets and decision records are found by their names.

use crate::finding::Finding;
use crate::tidy::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, _) in tree.files() {
        if let Some(name) = path.strip_prefix("docs/jobs/")
            && !is_job_sheet(name)
        {
            findings.push(Finding::error(
                path,
                None,
                "not the name of a job sheet",
                "call it YYYYMMDD-title.md, the title in lower case with dashes",
            ));
        }
        if let Some(name) = path.strip_prefix("docs/decisions/")
            && !is_decision(name)
        {
            findings.push(Finding::error(
                path,
                None,
                "not the name of a decision record",
                "call it NNNN-title.md with the next free number",
            ));
        }
    }
    findings
}

fn is_job_sheet(name: &str) -> bool {
    let Some((date, title)) = name.split_at_checked(8) else {
        return false;
    };
    let number =
        |range: std::ops::Range<usize>| date.get(range).and_then(|d| d.parse::<u32>().ok());
    date.bytes().all(|b| b.is_ascii_digit())
        && number(0..4).is_some_and(|year| year >= 2000)
        && number(4..6).is_some_and(|month| (1..=12).contains(&month))
        && number(6..8).is_some_and(|day| (1..=31).contains(&day))
        && is_title(title)
}

fn is_decision(name: &str) -> bool {
    let Some((number, title)) = name.split_at_checked(4) else {
        return false;
    };
    number.bytes().all(|b| b.is_ascii_digit()) && is_title(title)
}

/// `-words-with-dashes.md`
fn is_title(rest: &str) -> bool {
    let title = rest
        .strip_prefix('-')
        .and_then(|rest| rest.strip_suffix(".md"));
    title.is_some_and(|title| {
        !title.is_empty()
            && title
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_name(path: &str, refused: bool) {
        assert_eq!(
            !check(&Tree::of(&[(path, "")])).is_empty(),
            refused,
            "{path}"
        );
    }

    #[test]
    fn well_named_pages_pass() {
        check_name("docs/jobs/20261124-workspace.md", false);
        check_name("docs/decisions/0001-ring-directly.md", false);
        check_name("docs/GLOSSARY.md", false);
    }

    #[test]
    fn other_names_are_refused() {
        for path in [
            "docs/jobs/2026-11-24-workspace.md",
            "docs/jobs/20261324-workspace.md",
            "docs/jobs/20261100-workspace.md",
            "docs/jobs/20261124-Workspace.md",
            "docs/jobs/20261124-.md",
            "docs/jobs/notes.md",
            "docs/decisions/1-ring.md",
            "docs/decisions/0001-ring/a.md",
        ] {
            check_name(path, true);
        }
    }
}
