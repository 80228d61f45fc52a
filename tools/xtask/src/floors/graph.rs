//! The dependency graph: normal and build edges only, since tests may use what they like.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, Metadata};

pub(super) struct Graph {
    nodes: Vec<Node>,
}

struct Node {
    name: String,
    /// Relative to the workspace root; workspace members only.
    folder: Option<String>,
    deps: Vec<usize>,
}

impl Graph {
    pub(super) fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let resolve = metadata
            .resolve
            .as_ref()
            .context("cargo metadata resolved nothing")?;
        let mut nodes = Vec::new();
        let mut index = BTreeMap::new();
        for package in &metadata.packages {
            let folder = metadata
                .workspace_members
                .contains(&package.id)
                .then(|| {
                    let folder = package.manifest_path.parent()?;
                    Some(
                        folder
                            .strip_prefix(&metadata.workspace_root)
                            .ok()?
                            .to_string(),
                    )
                })
                .flatten();
            index.insert(&package.id, nodes.len());
            nodes.push(Node {
                name: package.name.to_string(),
                folder,
                deps: Vec::new(),
            });
        }
        for node in &resolve.nodes {
            let from = index[&node.id];
            for dep in &node.deps {
                if dep
                    .dep_kinds
                    .iter()
                    .any(|kind| kind.kind != DependencyKind::Development)
                {
                    nodes[from].deps.push(index[&dep.pkg]);
                }
            }
        }
        Ok(Self { nodes })
    }

    pub(super) fn members(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|&node| self.is_member(node))
    }

    pub(super) fn is_member(&self, node: usize) -> bool {
        self.nodes[node].folder.is_some()
    }

    pub(super) fn folder(&self, node: usize) -> &str {
        self.nodes[node].folder.as_deref().unwrap_or_default()
    }

    pub(super) fn name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    pub(super) fn deps(&self, node: usize) -> &[usize] {
        &self.nodes[node].deps
    }

    /// The shortest chain of crate names from `start` to a crate called `name`.
    pub(super) fn path_to(&self, start: usize, name: &str) -> Option<Vec<&str>> {
        let mut came_from: Vec<Option<usize>> = vec![None; self.nodes.len()];
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            if node != start && self.name(node) == name {
                return Some(self.chain(start, node, &came_from));
            }
            for &dep in self.deps(node) {
                if dep != start && came_from[dep].is_none() {
                    came_from[dep] = Some(node);
                    queue.push_back(dep);
                }
            }
        }
        None
    }

    fn chain(&self, start: usize, end: usize, came_from: &[Option<usize>]) -> Vec<&str> {
        let steps = std::iter::successors(Some(end), |&node| {
            if node == start { None } else { came_from[node] }
        });
        let mut names: Vec<&str> = steps.map(|node| self.name(node)).collect();
        names.reverse();
        names
    }
}

#[cfg(test)]
impl Graph {
    /// Members are named by the last part of their folder.
    pub(super) fn from_edges(members: &[&str], edges: &[(&str, &str)]) -> Self {
        let mut graph = Self { nodes: Vec::new() };
        for folder in members {
            let name = folder
                .rsplit('/')
                .next()
                .expect("rsplit yields at least one part");
            let node = graph.node(name);
            graph.nodes[node].folder = Some((*folder).to_owned());
        }
        for (from, to) in edges {
            let (from, to) = (graph.node(from), graph.node(to));
            graph.nodes[from].deps.push(to);
        }
        graph
    }

    fn node(&mut self, name: &str) -> usize {
        if let Some(found) = self.nodes.iter().position(|node| node.name == name) {
            return found;
        }
        self.nodes.push(Node {
            name: name.to_owned(),
            folder: None,
            deps: Vec::new(),
        });
        self.nodes.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_path_is_the_one_shown() {
        let edges = [
            ("a", "b"),
            ("b", "c"),
            ("c", "d"),
            ("a", "e"),
            ("e", "d"),
            ("d", "a"),
        ];
        let graph = Graph::from_edges(&["x/a"], &edges);
        assert_eq!(graph.path_to(0, "d"), Some(vec!["a", "e", "d"]));
        assert_eq!(graph.path_to(0, "z"), None);
    }
}
