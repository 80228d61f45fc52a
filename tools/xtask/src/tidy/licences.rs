//! What we build on: licences we may ship, from the one registry.
//!
//! `deny.toml` is the list; release engineers run `cargo deny check` with it, which also asks for
//! advisories. This check reads the same list, needs no network and no extra tool, and so can run
//! on every change.

use cargo_metadata::Metadata;
use toml::Table;

use crate::finding::Finding;
use crate::tidy::tree::Tree;

const LIST: &str = "deny.toml";

/// A third-party crate, as far as this check cares.
pub(super) struct Dependency {
    name: String,
    licence: Option<String>,
    from_registry: bool,
}

pub(super) fn dependencies(metadata: &Metadata) -> Vec<Dependency> {
    let foreign = |id| !metadata.workspace_members.contains(id);
    metadata
        .packages
        .iter()
        .filter(|package| foreign(&package.id))
        .map(|package| Dependency {
            name: format!("{} {}", package.name, package.version),
            licence: package.license.clone(),
            from_registry: package.source.as_ref().is_some_and(|s| s.is_crates_io()),
        })
        .collect()
}

pub(super) fn check(tree: &Tree, dependencies: &[Dependency]) -> Vec<Finding> {
    let Some(Ok(list)) = tree.text_of(LIST).map(str::parse::<Table>) else {
        return vec![Finding::error(
            LIST,
            None,
            "is missing or no TOML",
            "restore it",
        )];
    };
    let allowed: Vec<&str> = list
        .get("licenses")
        .and_then(|licenses| licenses.get("allow")?.as_array())
        .into_iter()
        .flatten()
        .filter_map(toml::Value::as_str)
        .collect();
    let mut findings = Vec::new();
    for dependency in dependencies {
        if !dependency.from_registry {
            let what = format!("{} does not come from crates.io", dependency.name);
            findings.push(Finding::error(
                "Cargo.lock",
                None,
                what,
                "use a published release",
            ));
        }
        let licence = dependency.licence.as_deref().unwrap_or("(none)");
        if !satisfies(licence, &allowed) {
            let what = format!("{} is licensed `{licence}`, not in {LIST}", dependency.name);
            let remedy = "use another crate, or get the licence agreed and add it to the list";
            findings.push(Finding::error("Cargo.lock", None, what, remedy));
        }
    }
    findings
}

/// Whether an SPDX expression can be met with the allowed licences alone. Anything it cannot read
/// counts as not met.
fn satisfies(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut tokens: Vec<&str> = spaced.split_whitespace().rev().collect();
    any_of(&mut tokens, allowed) == Some(true) && tokens.is_empty()
}

fn any_of(tokens: &mut Vec<&str>, allowed: &[&str]) -> Option<bool> {
    let mut met = all_of(tokens, allowed)?;
    while tokens.last() == Some(&"OR") {
        tokens.pop();
        met |= all_of(tokens, allowed)?;
    }
    Some(met)
}

fn all_of(tokens: &mut Vec<&str>, allowed: &[&str]) -> Option<bool> {
    let mut met = one(tokens, allowed)?;
    while tokens.last() == Some(&"AND") {
        tokens.pop();
        met &= one(tokens, allowed)?;
    }
    Some(met)
}

fn one(tokens: &mut Vec<&str>, allowed: &[&str]) -> Option<bool> {
    let token = tokens.pop()?;
    if token == "(" {
        let met = any_of(tokens, allowed)?;
        return (tokens.pop() == Some(")")).then_some(met);
    }
    let mut name = token.to_owned();
    if tokens.last() == Some(&"WITH") {
        tokens.pop();
        name = format!("{name} WITH {}", tokens.pop()?);
    }
    Some(allowed.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &[&str] = &["MIT", "Apache-2.0", "ISC"];

    #[test]
    fn expressions_that_can_be_met_pass() {
        for expression in [
            "MIT",
            "MIT OR GPL-3.0-only",
            "GPL-3.0-only/MIT",
            "MIT AND Apache-2.0",
            "ISC AND (GPL-3.0-only OR Apache-2.0)",
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ] {
            assert!(satisfies(expression, ALLOWED), "{expression}");
        }
    }

    #[test]
    fn others_are_refused() {
        for expression in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "ISC AND (GPL-3.0-only OR MPL-2.0)",
            "Apache-2.0 WITH LLVM-exception",
            "MIT OR",
            "(MIT",
            "MIT)",
            "",
            "(none)",
        ] {
            assert!(!satisfies(expression, ALLOWED), "{expression}");
        }
    }

    #[test]
    fn a_crate_from_elsewhere_is_refused() {
        let tree = Tree::of(&[(LIST, "[licenses]\nallow = [\"MIT\"]\n")]);
        let of = |from_registry| Dependency {
            name: "a 1.0.0".to_owned(),
            licence: Some("MIT".to_owned()),
            from_registry,
        };
        assert_eq!(check(&tree, &[of(true)]), []);
        assert_eq!(check(&tree, &[of(false)]).len(), 1);
    }
}
