//! Who may depend on whom.
//!
//! [`table`] is the design's dependency table as data. [`graph`] is what cargo resolved. Anything
//! the graph has and the table does not allow is a finding, shown with the path that causes it.
//! [`purity`] looks at the sources of floor 0, because the standard library's sockets, files and
//! clocks appear in no dependency graph.

mod graph;
mod purity;
mod table;

use anyhow::Result;
use cargo_metadata::Metadata;

use crate::finding::Finding;
use crate::tidy::tree::Tree;
use graph::Graph;
use table::{FLOORS, Floor};

pub(crate) fn check_workspace(metadata: &Metadata) -> Result<Vec<Finding>> {
    let graph = Graph::from_metadata(metadata)?;
    let tree = Tree::load(metadata.workspace_root.as_std_path())?;
    let mut findings: Vec<Finding> = check_graph(&graph, FLOORS)
        .into_iter()
        .map(|v| v.locate(&tree))
        .collect();
    let pure: Vec<&str> = FLOORS.iter().filter(|f| f.pure).map(|f| f.folder).collect();
    findings.extend(purity::check(&tree, &pure));
    Ok(findings)
}

/// An edge or a path that the table forbids, before it has a line number.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    folder: String,
    /// The dependency in that crate's own manifest with which the path begins.
    first_hop: Option<String>,
    what: String,
    remedy: String,
}

impl Violation {
    fn locate(self, tree: &Tree) -> Finding {
        let manifest = format!("{}/Cargo.toml", self.folder);
        let line = self.first_hop.and_then(|hop| {
            let text = tree.text_of(&manifest)?;
            let declares = |line: &str| {
                line.trim_start()
                    .strip_prefix(hop.as_str())
                    .is_some_and(|rest| rest.trim_start().starts_with(['.', '=']))
            };
            text.lines().position(declares).map(|index| index + 1)
        });
        Finding::error(&manifest, line, self.what, self.remedy)
    }
}

fn check_graph(graph: &Graph, floors: &[Floor]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for member in graph.members() {
        let folder = graph.folder(member);
        match floors.iter().find(|floor| floor.folder == folder) {
            Some(floor) => check_member(graph, member, floor, &mut violations),
            None => violations.push(Violation {
                folder: folder.to_owned(),
                first_hop: None,
                what: format!("crate `{}` is not in the floor table", graph.name(member)),
                remedy: "say what it may use and must never reach in \
                         tools/xtask/src/floors/table.rs and docs/architecture/README.md"
                    .to_owned(),
            }),
        }
    }
    violations
}

fn check_member(graph: &Graph, member: usize, floor: &Floor, violations: &mut Vec<Violation>) {
    for &dep in graph.deps(member) {
        let direct_only = floor.never_direct.contains(&graph.name(dep));
        let ours = graph.is_member(dep) && !floor.uses.contains(&graph.folder(dep));
        if !ours && !direct_only {
            continue;
        }
        let why = if ours {
            "is not an edge of the floor table"
        } else {
            "must stay indirect"
        };
        violations.push(Violation {
            folder: floor.folder.to_owned(),
            first_hop: Some(graph.name(dep).to_owned()),
            what: format!("{} -> {} {why}", graph.name(member), graph.name(dep)),
            remedy: format!("{} may use {}", floor.folder, or_nothing(floor.uses)),
        });
    }
    for never in floor.never.iter().flat_map(|group| group.iter()) {
        let Some(path) = graph.path_to(member, never) else {
            continue;
        };
        violations.push(Violation {
            folder: floor.folder.to_owned(),
            first_hop: path.get(1).map(|hop| (*hop).to_owned()),
            what: format!(
                "{} must never reach {never}: {}",
                floor.folder,
                path.join(" -> ")
            ),
            remedy: "drop the first dependency of that path, or the feature that pulls it in"
                .to_owned(),
        });
    }
}

fn or_nothing(uses: &[&str]) -> String {
    if uses.is_empty() {
        "none of our crates".to_owned()
    } else {
        uses.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Floor] = &[
        Floor {
            folder: "p/low",
            uses: &[],
            never: &[&["tokio", "mio"]],
            never_direct: &[],
            pure: true,
        },
        Floor {
            folder: "p/high",
            uses: &["p/low"],
            never: &[],
            never_direct: &["sqlx"],
            pure: false,
        },
    ];

    #[track_caller]
    fn check(edges: &[(&str, &str)], expected: &[&str]) {
        let found = check_graph(&Graph::from_edges(&["p/low", "p/high"], edges), TABLE);
        let found: Vec<&str> = found.iter().map(|v| v.what.as_str()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn allowed_edges_pass() {
        check(
            &[
                ("high", "low"),
                ("high", "tokio"),
                ("tokio", "mio"),
                ("low", "serde"),
            ],
            &[],
        );
    }

    #[test]
    fn an_edge_upward_is_refused() {
        check(
            &[("low", "high")],
            &["low -> high is not an edge of the floor table"],
        );
    }

    #[test]
    fn a_forbidden_crate_is_found_behind_others_with_its_path() {
        let path = "p/low must never reach mio: low -> a -> b -> mio";
        check(
            &[("low", "a"), ("a", "b"), ("b", "mio"), ("a", "c")],
            &[path],
        );
    }

    #[test]
    fn a_direct_only_rule_lets_the_indirect_path_pass() {
        check(&[("high", "store"), ("store", "sqlx")], &[]);
        check(&[("high", "sqlx")], &["high -> sqlx must stay indirect"]);
    }

    #[test]
    fn a_crate_outside_the_table_is_refused() {
        let graph = Graph::from_edges(&["p/low", "p/other"], &[]);
        let found = check_graph(&graph, TABLE);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, "crate `other` is not in the floor table");
    }

    #[test]
    fn a_violation_points_at_the_line_of_the_dependency() {
        let tree = Tree::of(&[(
            "p/low/Cargo.toml",
            "[dependencies]\nab = \"1\"\na.workspace = true\n",
        )]);
        let violation = Violation {
            folder: "p/low".to_owned(),
            first_hop: Some("a".to_owned()),
            what: String::new(),
            remedy: String::new(),
        };
        assert_eq!(violation.locate(&tree).line, Some(3));
    }
}
