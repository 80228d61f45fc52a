//! Ratios that a machine must reach. Only ratios: a rate says as much about the machine as about the program.
//!
//! ```toml
//! [[ratio]]
//! scenario = "write-null"
//! of = "ours"
//! to = "nbdcopy -> nbdkit, TLS"
//! at_least = 2.2
//! ```

use super::report::Report;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{fmt::Write as _, path::Path};

/// What a file asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Assertions {
    ratio: Vec<Ratio>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    scenario: String,
    of: String,
    to: String,
    at_least: f64,
}

/// What became of them.
pub(super) struct Verdict {
    pub failed: usize,
    pub text: String,
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Assertions> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(name)?;
    let assertions: Assertions = toml::from_str(&text).with_context(name)?;
    if assertions.ratio.is_empty() {
        bail!("{} asks for nothing", name());
    }
    Ok(assertions)
}

impl Assertions {
    /// A ratio that was not measured has failed: nobody knows that it holds.
    pub(super) fn check(&self, report: &Report) -> Verdict {
        let measured = |wanted: &Ratio| {
            let of = |name: &str| report.scenarios.iter().find(|m| m.scenario.name() == name);
            of(&wanted.scenario)?.ratio(&wanted.of, &wanted.to)
        };
        self.judge(measured)
    }

    fn judge(&self, measured: impl Fn(&Ratio) -> Option<f64>) -> Verdict {
        let (mut failed, mut text) = (0, String::new());
        for wanted in &self.ratio {
            let ratio = measured(wanted);
            let holds = ratio.is_some_and(|ratio| ratio >= wanted.at_least);
            failed += usize::from(!holds);
            let Ratio {
                scenario,
                of,
                to,
                at_least,
            } = wanted;
            let found =
                ratio.map_or_else(|| "not measured".to_owned(), |ratio| format!("{ratio:.2}"));
            let word = if holds { "PASS" } else { "FAIL" };
            let _infallible = writeln!(
                text,
                "{word}: {scenario}: {of} to {to}: {found}, at least {at_least} wanted"
            );
        }
        let passed = self.ratio.len() - failed;
        let _infallible = write!(text, "{passed} passed, {failed} failed");
        Verdict { failed, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        [[ratio]]
        scenario = 'write-null'
        of = 'ours'
        to = 'nbdcopy -> nbdkit, TLS'
        at_least = 2.0
        [[ratio]]
        scenario = 'write-null'
        of = 'ours'
        to = 'bare pipeline'
        at_least = 0.9
        [[ratio]]
        scenario = 'write-moon'
        of = 'ours'
        to = 'bare pipeline'
        at_least = 0.1
    ";

    #[test]
    fn what_is_too_low_or_was_not_measured_fails() {
        let assertions: Assertions = toml::from_str(TEXT).unwrap();
        let measured = crate::baseline::report::tests::measured();
        let verdict = assertions.judge(|wanted| {
            let is_there = wanted.scenario == measured.scenario.name();
            is_there.then(|| measured.ratio(&wanted.of, &wanted.to))?
        });
        assert_eq!(verdict.failed, 2, "{}", verdict.text);
        let words: Vec<_> = verdict.text.lines().map(|line| &line[..4]).collect();
        assert_eq!(words, ["PASS", "FAIL", "FAIL", "1 pa"]);
        assert!(verdict.text.contains("not measured"));
    }

    #[test]
    fn unknown_keys_and_empty_files_are_errors() {
        assert!(toml::from_str::<Assertions>("[[rate]]\nat_least = 1").is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "ratio = []").unwrap();
        assert!(
            read(file.path())
                .unwrap_err()
                .to_string()
                .contains("asks for nothing")
        );
    }
}
