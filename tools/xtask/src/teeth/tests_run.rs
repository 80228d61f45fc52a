//! Running named tests in the copy, and what became of them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::list::Mutant;

/// A test that takes this long does not end; nextest gives it less.
const TEST_TIME_MAX: Duration = Duration::from_secs(300);

/// What a named test did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// It was running when its process ended.
    Died,
    Hung,
}

impl Outcome {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Passed => "SURVIVED",
            Self::Failed => "caught",
            Self::Died => "aborted",
            Self::Hung => "hung",
        }
    }
}

/// The copy of the tree, and where it is built: in the target folder of the tree itself, where everything that comes
/// from elsewhere is built already. What comes from the copy has another path and lies beside it.
pub(super) struct Bench {
    tree: PathBuf,
    target: PathBuf,
}

impl Bench {
    pub(super) fn new(tree: PathBuf, target: PathBuf) -> Self {
        Self { tree, target }
    }

    pub(super) fn tree(&self) -> &Path {
        &self.tree
    }

    /// Every named test exists and passes without a defect.
    pub(super) fn all_pass(&self, mutants: &[Mutant]) -> Result<()> {
        let mut binaries: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for mutant in mutants {
            let tests = binaries
                .entry((&mutant.package, &mutant.target))
                .or_default();
            if !tests.contains(&mutant.test.as_str()) {
                tests.push(&mutant.test);
            }
        }
        for ((package, target), tests) in binaries {
            self.build(package, target)
                .with_context(|| format!("the tree does not build for {package} {target}"))?;
            let output = self.run(package, target, &tests)?;
            for test in tests {
                match outcome_of(&output, test) {
                    Some(Outcome::Passed) => {}
                    Some(_) => bail!(
                        "without any defect, {package} {test} fails:\n{}",
                        output.text
                    ),
                    None if output.hung => bail!(
                        "without any defect, the tests of {package} {target} take more than {} s; {test} was not reached",
                        TEST_TIME_MAX.as_secs()
                    ),
                    None => bail!("{package} {target} has no test {test}"),
                }
            }
        }
        Ok(())
    }

    /// What the mutant's test does now. A mutant that does not compile is an error of the list.
    pub(super) fn try_mutant(&self, mutant: &Mutant) -> Result<Outcome> {
        self.build(&mutant.package, &mutant.target)
            .with_context(|| format!("mutant \"{}\" does not compile", mutant.name))?;
        let output = self.run(&mutant.package, &mutant.target, &[&mutant.test])?;
        outcome_of(&output, &mutant.test)
            .with_context(|| format!("the test did not run:\n{}", output.text))
    }

    fn cargo(&self, package: &str, target: &str) -> Command {
        let mut cargo = Command::new("cargo");
        cargo
            .args(["test", "--quiet", "--locked", "--package", package])
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("INSTA_UPDATE", "no")
            // A defect has to be found by what runs every day, and in the time that a test has there.
            .env_remove("MIGRATEKIT_SOAK")
            .env_remove("MK_SIM_SEEDS");
        match target {
            "lib" => cargo.arg("--lib"),
            name => cargo.args(["--test", name]),
        };
        cargo
    }

    fn build(&self, package: &str, target: &str) -> Result<()> {
        let built = self
            .cargo(package, target)
            .arg("--no-run")
            .output()
            .context("cargo could not be started")?;
        if !built.status.success() {
            bail!("{}", String::from_utf8_lossy(&built.stderr));
        }
        Ok(())
    }

    fn run(&self, package: &str, target: &str, tests: &[&str]) -> Result<Output> {
        let mut cargo = self.cargo(package, target);
        // Pretty, so that a test is named before it runs: with `panic = "abort"` nothing is said afterwards.
        cargo
            .args(["--", "--format=pretty", "--exact", "--test-threads=1"])
            .args(tests);
        // A group of its own, so that cargo and the test end together.
        std::os::unix::process::CommandExt::process_group(&mut cargo, 0);
        let mut child = cargo
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cargo could not be started")?;
        let mut stdout = child.stdout.take().context("asked for above")?;
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            let read = stdout.read_to_end(&mut text);
            read.map(|_| String::from_utf8_lossy(&text).into_owned())
        });
        let deadline = Instant::now() + TEST_TIME_MAX;
        let mut hung = false;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline && !hung {
                hung = true;
                let group = format!("-{}", child.id());
                Command::new("kill")
                    .args(["-KILL", "--", &group])
                    .status()?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let text = reader.join().ok().context("the reader panicked")??;
        Ok(Output { text, hung })
    }
}

/// What the test binary printed.
struct Output {
    text: String,
    hung: bool,
}

/// None: the test was not run at all.
fn outcome_of(output: &Output, test: &str) -> Option<Outcome> {
    let begin = format!("test {test} ...");
    let line = output.text.lines().find(|line| line.starts_with(&begin))?;
    // With output in between the word may come on a later line; the summary tells as well.
    let failed = format!("    {test}");
    Some(if line.ends_with("... ok") {
        Outcome::Passed
    } else if line.ends_with("FAILED") || output.text.lines().any(|line| line == failed) {
        Outcome::Failed
    } else if output.hung {
        Outcome::Hung
    } else {
        Outcome::Died
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str, hung: bool) -> Option<Outcome> {
        let text = text.to_owned();
        outcome_of(&Output { text, hung }, "a::b")
    }

    #[test]
    fn the_word_behind_the_name_counts() {
        assert_eq!(outcome("test a::b ... ok\n", false), Some(Outcome::Passed));
        assert_eq!(
            outcome("running 1 test\ntest a::b ... FAILED\n", false),
            Some(Outcome::Failed)
        );
        assert_eq!(outcome("test a::bc ... ok\n", false), None);
        assert_eq!(outcome("running 0 tests\n", false), None);
    }

    #[test]
    fn a_test_without_a_word_died_or_hung() {
        assert_eq!(outcome("test a::b ... ", false), Some(Outcome::Died));
        assert_eq!(outcome("test a::b ... ", true), Some(Outcome::Hung));
    }
}
