//! Every relative link of the pages leads to a file of the tree, every `#anchor` to a heading.

use crate::finding::Finding;
use crate::tidy::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.text_files().filter(|(path, _)| path.ends_with(".md")) {
        for (line, target) in links(text) {
            if let Err(what) = follow(tree, path, &target) {
                findings.push(Finding::error(path, line, what, "mend the link"));
            }
        }
    }
    findings
}

fn follow(tree: &Tree, from: &str, target: &str) -> Result<(), String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let page = if file.is_empty() {
        Some(from.to_owned())
    } else {
        resolve(from, file)
    };
    let page = page.ok_or_else(|| format!("link `{target}` leaves the tree"))?;
    if !tree.has(&page) && !tree.has_folder(&page) {
        return Err(format!("link `{target}` leads nowhere"));
    }
    let text = tree.text_of(&page).unwrap_or_default();
    if !anchor.is_empty() && page.ends_with(".md") && !anchors(text).any(|a| a == anchor) {
        return Err(format!("{page} has no heading for `#{anchor}`"));
    }
    Ok(())
}

/// The path of `target` as seen from the page `from`; none when it climbs above the root.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Targets of `[text](target)` with their lines; code is left out.
fn links(page: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, text) in prose(page) {
        let mut rest = text.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, tail)) = after.split_once(')') else {
                break;
            };
            let target = target.split_whitespace().next().unwrap_or_default();
            found.push((line, target.to_owned()));
            rest = tail;
        }
    }
    found
}

/// Lines outside fenced blocks, with inline code blanked.
fn prose(page: &str) -> impl Iterator<Item = (usize, String)> {
    let mut fenced = false;
    page.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        let outside: Vec<&str> = line.split('`').step_by(2).collect();
        (!fenced).then(|| (index + 1, outside.join(" ")))
    })
}

/// Heading anchors in the form that code hosts give them.
fn anchors(page: &str) -> impl Iterator<Item = String> {
    let mut fenced = false;
    page.lines().filter_map(move |line| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let title = line.trim_start_matches('#');
        let heading = !fenced && title.len() < line.len() && title.starts_with(' ');
        heading.then(|| {
            title
                .trim()
                .to_lowercase()
                .chars()
                .filter(|&c| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ')
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(page: &str) -> usize {
        let tree = Tree::of(&[
            ("docs/a/page.md", page),
            ("docs/other.md", "# Other page\n\n## One port, 443\n"),
            ("README.md", ""),
        ]);
        check(&tree).len()
    }

    #[test]
    fn links_that_lead_somewhere_pass() {
        for page in [
            "[a](../other.md) and [b](../../README.md)",
            "[a](../other.md#one-port-443)",
            "[a](https://example.org/x) [b](mailto:a@example.org)",
            "[folder](../../docs)",
            "`[a](nowhere.md)`",
            "```\n[a](nowhere.md)\n```",
            "# Here\n[a](#here)",
        ] {
            assert_eq!(found(page), 0, "{page}");
        }
    }

    #[test]
    fn links_that_lead_nowhere_are_refused() {
        for page in [
            "[a](nowhere.md)",
            "[a](../../../outside.md)",
            "[a](../other.md#no-such-heading)",
            "[a](#here)",
            "[a](../other.md) [b](gone.md)",
        ] {
            assert_eq!(found(page), 1, "{page}");
        }
    }
}
