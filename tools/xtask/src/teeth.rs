//! Seeded defects: a check that cannot fail proves nothing.
//!
//! Each entry of `teeth.toml` is made in a copy of the tree, and the test it names has to fail there. First all named
//! tests run in an unchanged copy, where they have to pass. The copy stays in the target folder, so that a second run
//! compiles what changed only.

mod list;
mod tests_run;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::finding::Finding;
use crate::tidy::tree::Tree;
use list::{Edit, Mutant};
use tests_run::{Bench, Outcome};

const LIST: &str = "tools/xtask/teeth.toml";

/// Runs the mutants whose name or package contains one of `words` (all without words).
pub(crate) fn run(root: &Path, target: &Path, words: &[&str]) -> Result<ExitCode> {
    let text =
        fs::read_to_string(root.join(LIST)).with_context(|| format!("cannot read {LIST}"))?;
    let mut mutants = list::parse(&text)?;
    mutants.retain(|mutant| words.is_empty() || words.iter().any(|word| mutant.matches(word)));
    ensure!(
        !mutants.is_empty(),
        "no mutant is called {}",
        words.join(" or ")
    );
    let copy = target.join("teeth");
    mirror(root, &copy)?;
    let bench = Bench::new(copy, target.to_owned());
    for mutant in &mutants {
        mutant.check(|path| fs::read_to_string(bench.tree().join(path)).ok())?;
    }
    bench.all_pass(&mutants)?;
    let mut survivors = 0;
    for (number, mutant) in mutants.iter().enumerate() {
        let start = Instant::now();
        let outcome = try_one(&bench, mutant)?;
        survivors += usize::from(outcome == Outcome::Passed);
        println!(
            "{:>2}/{} {:<8} {:>4} s  {}\n{:>21}{} {}",
            number + 1,
            mutants.len(),
            outcome.word(),
            start.elapsed().as_secs(),
            mutant.name,
            "",
            mutant.package,
            mutant.test,
        );
    }
    let caught = mutants.len() - survivors;
    println!("teeth: {caught} defects caught, {survivors} survived");
    Ok(if survivors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Entries that no longer fit the tree, for `tidy`: that costs nothing, and a list nobody runs rots.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(text) = tree.text_of(LIST) else {
        return Vec::new();
    };
    let remedy = "adapt the entry to what the code looks like now";
    let stale = |error: anyhow::Error| Finding::error(LIST, None, format!("{error:#}"), remedy);
    match list::parse(text) {
        Err(error) => vec![stale(error)],
        Ok(mutants) => mutants
            .iter()
            .filter_map(|mutant| {
                let text = |path: &str| tree.text_of(path).map(str::to_owned);
                mutant.check(text).err().map(stale)
            })
            .collect(),
    }
}

/// Makes the defect, runs the test, takes the defect back.
fn try_one(bench: &Bench, mutant: &Mutant) -> Result<Outcome> {
    let mut originals = BTreeMap::new();
    for edit in &mutant.edits {
        let path = bench.tree().join(&edit.file);
        let text = fs::read_to_string(&path)?;
        fs::write(&path, edit.apply(&text))?;
        originals.entry(path).or_insert(text);
    }
    let outcome = bench.try_mutant(mutant);
    for (path, text) in originals {
        fs::write(path, text)?;
    }
    outcome
}

/// Makes `copy` hold the tracked files as they stand in the working tree, and nothing else. Files that are equal
/// keep their time, so that nothing is compiled for their sake.
fn mirror(root: &Path, copy: &Path) -> Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached"])
        .current_dir(root)
        .output()
        .context("git could not be started")?;
    ensure!(listed.status.success(), "git ls-files failed");
    let names = String::from_utf8(listed.stdout).context("file names are text here")?;
    let mut wanted: Vec<PathBuf> = Vec::new();
    for name in names.split_terminator('\0') {
        // Deleted but not yet committed, or no file: not part of a build.
        let Ok(bytes) = fs::read(root.join(name)) else {
            continue;
        };
        let to = copy.join(name);
        if fs::read(&to).ok().as_ref() != Some(&bytes) {
            fs::create_dir_all(to.parent().unwrap_or(copy))?;
            fs::write(&to, bytes).with_context(|| format!("cannot write {}", to.display()))?;
        }
        wanted.push(to);
    }
    wanted.sort();
    remove_others(copy, &wanted)
}

/// Removes files that are not `wanted` (sorted).
fn remove_others(folder: &Path, wanted: &[PathBuf]) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, wanted)?;
        } else if wanted.binary_search(&path).is_err() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

impl Edit {
    fn apply(&self, text: &str) -> String {
        text.replacen(&self.find, &self.replace, 1)
    }
}
