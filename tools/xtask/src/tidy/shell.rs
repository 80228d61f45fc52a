//! Shell scripts parse, can be started, and please shellcheck where it is installed.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::finding::Finding;
use crate::tidy::tree::Tree;

pub(super) fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let shellcheck = Command::new("shellcheck")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    for (path, file) in tree
        .files()
        .filter(|(_, file)| file.text().is_some_and(is_script))
    {
        if !file.executable {
            let remedy = format!("chmod +x {path}");
            findings.push(Finding::error(
                path,
                None,
                "a script that cannot be started",
                remedy,
            ));
        }
        findings.extend(complaints(tree, path, "bash", &["-n"])?);
        if shellcheck {
            findings.extend(complaints(
                tree,
                path,
                "shellcheck",
                &["--external-sources"],
            )?);
        }
    }
    Ok(findings)
}

fn is_script(text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    first.starts_with("#!") && (first.ends_with("sh") || first.contains("bash "))
}

fn complaints(tree: &Tree, path: &str, tool: &str, args: &[&str]) -> Result<Option<Finding>> {
    let checked = Command::new(tool)
        .args(args)
        .arg(path)
        .current_dir(tree.root())
        .output()
        .with_context(|| format!("{tool} could not be started"))?;
    if checked.status.success() {
        return Ok(None);
    }
    let said = [checked.stdout, checked.stderr].concat();
    let what = format!(
        "{tool} complains:\n{}",
        String::from_utf8_lossy(&said).trim_end()
    );
    Ok(Some(Finding::error(path, None, what, "mend the script")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_known_by_their_first_line() {
        assert!(is_script("#!/usr/bin/env bash\nset -e\n"));
        assert!(is_script("#!/bin/sh\n"));
        assert!(!is_script("#!/usr/bin/env python3\n"));
        assert!(!is_script("echo\n"));
    }

    #[test]
    fn a_script_that_does_not_parse_is_refused() {
        let folder = std::env::temp_dir().join(format!("xtask-shell-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder can be made");
        let tree = |text: &str| {
            std::fs::write(folder.join("script"), text).expect("the script can be written");
            Tree::of(&[("script", text)]).rooted_at(&folder)
        };
        let good = tree("#!/usr/bin/env bash\nif true; then :; fi\n");
        assert_eq!(
            complaints(&good, "script", "bash", &["-n"]).expect("bash runs"),
            None
        );
        let bad = tree("#!/usr/bin/env bash\nif true; then\n");
        assert!(
            complaints(&bad, "script", "bash", &["-n"])
                .expect("bash runs")
                .is_some()
        );
        std::fs::remove_dir_all(&folder).expect("the temporary folder can be removed");
    }
}
