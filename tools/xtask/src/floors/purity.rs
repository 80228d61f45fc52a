//! Floor 0 takes facts and the time as arguments.
//!
//! Sockets, files and clocks of the standard library are in no dependency graph, so their names
//! are looked for in the product code of the pure crates.

use crate::finding::Finding;
use crate::rust_text::{RustText, is_test_path};
use crate::tidy::tree::Tree;

const MODULES: &[&str] = &["net", "fs", "thread", "process", "env"];
const CLOCKS: &[&str] = &["Instant::now", "SystemTime::now", "UNIX_EPOCH.elapsed"];

pub(super) fn check(tree: &Tree, folders: &[&str]) -> Vec<Finding> {
    let pure = |path: &str| {
        folders.iter().any(|folder| {
            path.strip_prefix(folder)
                .is_some_and(|p| p.starts_with('/'))
        })
    };
    tree.rust_files()
        .filter(|(path, _)| pure(path) && !is_test_path(path))
        .flat_map(|(path, text)| check_file(path, text))
        .collect()
}

fn check_file(path: &str, text: &RustText) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, code) in text.product_lines() {
        let named = MODULES.iter().find(|module| names_module(code, module));
        if let Some(named) = named.or_else(|| CLOCKS.iter().find(|clock| code.contains(**clock))) {
            findings.push(Finding::error(
                path,
                line,
                format!("`{named}` in a crate of floor 0, which does no I/O and reads no clock"),
                "take the fact or the time as an argument, or move this code up a floor",
            ));
        }
    }
    findings
}

/// `std::fs::read`, `use std::fs;`, and `use std::{fs, net::TcpStream}` all name a module.
fn names_module(code: &str, module: &str) -> bool {
    code.match_indices("std::").any(|(at, prefix)| {
        let rest = code[at + prefix.len()..].trim_start();
        let starts = |part: &str| {
            part.trim_start()
                .strip_prefix(module)
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        };
        let rest = rest.strip_prefix("os::unix::").unwrap_or(rest);
        match rest.strip_prefix('{') {
            Some(group) => group.split(',').any(starts),
            None => starts(rest),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, source: &str) -> usize {
        check(&Tree::of(&[(path, source)]), &["dataplane/wire"]).len()
    }

    #[test]
    fn io_and_clocks_are_refused_on_floor_0() {
        for source in [
            "use std::net::TcpStream;",
            "use std::{fmt, fs};",
            "fn f() { std::fs::read(p); }",
            "use std::os::unix::net::UnixStream;",
            "let t = Instant::now();",
        ] {
            assert_eq!(found("dataplane/wire/src/a.rs", source), 1, "{source}");
        }
    }

    #[test]
    fn other_names_tests_and_other_floors_pass() {
        for source in [
            "use std::fmt;",
            "use std::time::Instant;",
            "use std::path::Path;",
            "// std::fs is for others",
            "fn f() {}\n#[cfg(test)]\nmod tests {\nuse std::fs;\n}",
        ] {
            assert_eq!(found("dataplane/wire/src/a.rs", source), 0, "{source}");
        }
        assert_eq!(found("dataplane/sys/src/a.rs", "use std::fs;"), 0);
        assert_eq!(found("dataplane/wire/tests/a.rs", "use std::fs;"), 0);
    }
}
