//! CloudStack's volume commands are named in the volume crates and nowhere else.
//!
//! Whoever needs a volume operation asks the Volume Daemon through the volume client. CloudStack
//! does not care about the case of a command name, so neither does this check.

use crate::finding::Finding;
use crate::tidy::tree::Tree;

/// Noun and verbs, in lower case.
const COMMANDS: &[(&str, &[&str])] = &[
    (
        "volume",
        &[
            "create", "attach", "detach", "delete", "destroy", "recover", "resize", "migrate",
            "update", "extract", "assign", "import", "unmanage",
        ],
    ),
    ("snapshot", &["create", "delete", "revert"]),
    ("template", &["create"]),
    ("volumes", &["list"]),
    ("snapshots", &["list"]),
];

/// The two crates of the Volume Daemon, and the lab, which plays CloudStack's side.
const AT_HOME: &[&str] = &[
    "controlplane/volume_commands/",
    "controlplane/volumed/",
    "tools/lab/",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust_files() {
        if AT_HOME.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        for literal in &text.literals {
            let words = literal.text.split(|c: char| !c.is_alphanumeric());
            findings.extend(words.filter(|word| is_volume_command(word)).map(|word| {
                Finding::error(
                    path,
                    literal.line,
                    format!("the CloudStack volume command `{word}`"),
                    "ask the Volume Daemon through the volume client",
                )
            }));
        }
    }
    findings
}

fn is_volume_command(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    COMMANDS.iter().any(|(noun, verbs)| {
        word.strip_suffix(noun)
            .is_some_and(|verb| verbs.contains(&verb))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, command: &str) -> usize {
        check(&Tree::of(&[(
            path,
            &format!("call(\"{command}\", \"x {command}=1\");"),
        )]))
        .len()
    }

    #[test]
    fn volume_commands_are_refused_elsewhere() {
        for (noun, verbs) in COMMANDS {
            for verb in *verbs {
                let command = format!("{verb}{noun}");
                assert_eq!(
                    found("controlplane/clients/src/a.rs", &command),
                    2,
                    "{command}"
                );
            }
        }
        assert_eq!(
            found("controlplane/oma/src/a.rs", &["list", "Volumes"].concat()),
            2
        );
        assert_eq!(
            found("tools/cli/src/a.rs", &["REVERT", "snapshot"].concat()),
            2
        );
    }

    #[test]
    fn volume_crates_and_other_commands_pass() {
        let create = ["create", "Volume"].concat();
        assert_eq!(found("controlplane/volume_commands/src/a.rs", &create), 0);
        assert_eq!(
            found("controlplane/oma/src/a.rs", "deployVirtualMachine"),
            0
        );
        assert_eq!(found("controlplane/oma/src/a.rs", "create volume"), 0);
        assert_eq!(check(&Tree::of(&[("a/b.rs", "fn create_volume() {}")])), []);
    }
}
