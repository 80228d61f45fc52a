//! Whether the tree is fit to be read, built and released. One module per question.

mod crate_roots;
mod docs;
mod layout;
mod licences;
mod links;
mod metrics;
mod prints;
mod shell;
mod sizes;
pub(crate) mod tree;
mod versions;
mod volume_commands;
mod words;

use anyhow::Result;
use cargo_metadata::Metadata;

use crate::finding::Finding;
use tree::Tree;

pub(crate) fn check_workspace(metadata: &Metadata) -> Result<Vec<Finding>> {
    let tree = Tree::load(metadata.workspace_root.as_std_path())?;
    let mut findings = Vec::new();
    for check in [
        layout::check,
        versions::check,
        sizes::check,
        prints::check,
        words::check,
        volume_commands::check,
        metrics::check,
        docs::check,
        links::check,
        crate::teeth::check,
    ] {
        findings.extend(check(&tree));
    }
    findings.extend(crate_roots::check(&tree, &crate_roots::roots(metadata)));
    findings.extend(licences::check(&tree, &licences::dependencies(metadata)));
    findings.extend(shell::check(&tree)?);
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(findings)
}
