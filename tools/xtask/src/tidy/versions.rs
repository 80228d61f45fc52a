//! `VERSION.txt` is the version; everything else repeats it or inherits it.

use toml::{Table, Value};

use crate::finding::Finding;
use crate::tidy::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(version) = tree.text_of("VERSION.txt").map(str::trim) else {
        return vec![Finding::error(
            "VERSION.txt",
            None,
            "is missing",
            "write the version in it",
        )];
    };
    let mut findings = Vec::new();
    let root = tree.text_of("Cargo.toml").map(str::parse::<Table>);
    let Some(Ok(root)) = root else {
        return vec![Finding::error(
            "Cargo.toml",
            None,
            "is missing or no TOML",
            "mend it",
        )];
    };
    let declared = root
        .get("workspace")
        .and_then(|w| w.get("package")?.get("version")?.as_str());
    if declared != Some(version) {
        findings.push(Finding::error(
            "Cargo.toml",
            None,
            format!("workspace version is {declared:?}, VERSION.txt says {version}"),
            "give both the same version",
        ));
    }
    let changelog = tree.text_of("docs/CHANGELOG.md").unwrap_or_default();
    if !changelog.lines().any(|line| is_heading_of(line, version)) {
        findings.push(Finding::error(
            "docs/CHANGELOG.md",
            None,
            format!("has no heading `## {version}`"),
            "start the section of the current version",
        ));
    }
    let excluded = strings(root.get("workspace").and_then(|w| w.get("exclude")));
    for (path, text) in tree.text_files() {
        let Some(folder) = path.strip_suffix("/Cargo.toml") else {
            continue;
        };
        if !excluded.contains(&folder) && !inherits_version(text) {
            findings.push(Finding::error(
                path,
                None,
                "the version is not inherited",
                "write `version.workspace = true`",
            ));
        }
    }
    findings
}

fn is_heading_of(line: &str, version: &str) -> bool {
    let longer = |c: char| c.is_ascii_alphanumeric() || ".-+".contains(c);
    line.strip_prefix("## ")
        .and_then(|title| title.trim_start_matches('[').strip_prefix(version))
        .is_some_and(|rest| !rest.starts_with(longer))
}

fn inherits_version(manifest: &str) -> bool {
    let Ok(manifest) = manifest.parse::<Table>() else {
        return false;
    };
    let version = manifest
        .get("package")
        .and_then(|package| package.get("version"));
    version
        .and_then(|v| v.get("workspace"))
        .and_then(Value::as_bool)
        == Some(true)
}

fn strings(value: Option<&Value>) -> Vec<&str> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str =
        "[workspace]\nexclude = [\"a/fuzz\"]\n[workspace.package]\nversion = \"1.2.3\"\n";
    const MEMBER: &str = "[package]\nname = \"a\"\nversion.workspace = true\n";

    fn found(version: &str, changelog: &str, member: &str) -> Vec<String> {
        let tree = Tree::of(&[
            ("VERSION.txt", version),
            ("Cargo.toml", ROOT),
            ("docs/CHANGELOG.md", changelog),
            ("a/Cargo.toml", member),
            ("a/fuzz/Cargo.toml", "[package]\nversion = \"0.0.0\"\n"),
        ]);
        check(&tree)
            .into_iter()
            .map(|finding| finding.path)
            .collect()
    }

    #[test]
    fn one_version_everywhere_passes() {
        assert!(found("1.2.3\n", "# Changes\n\n## 1.2.3 (open)\n", MEMBER).is_empty());
    }

    #[test]
    fn each_place_that_disagrees_is_named() {
        assert_eq!(found("1.2.4", "## 1.2.4", MEMBER), ["Cargo.toml"]);
        assert_eq!(found("1.2.3", "## 1.2.30", MEMBER), ["docs/CHANGELOG.md"]);
        assert_eq!(
            found("1.2.3", "## 1.2.3-rc1", MEMBER),
            ["docs/CHANGELOG.md"]
        );
        let own = "[package]\nname = \"a\"\nversion = \"1.2.3\"\n";
        assert_eq!(found("1.2.3", "## 1.2.3", own), ["a/Cargo.toml"]);
    }
}
