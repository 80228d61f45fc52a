//! `check`: what of this machine matters to transfers, each with a verdict and what to do.
//!
//! What cannot be seen is said to be unseen, never guessed.

mod clock;
mod device;
mod machine;

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::Output;

/// What to look at.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Ask this export's server for its clock and its device
    #[arg(long, value_name = "mk://HOST/EXPORT")]
    peer: Option<String>,
    /// Folder with ca-cert.pem, client-cert.pem and client-key.pem, for --peer
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// Look at this block device
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// The data plane's program, which knows the kernel interface that works [default: the one beside this, or of PATH]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// How the result is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// What is to be thought of a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// As it should be.
    Good,
    /// It is so, and nothing has to be done about it.
    Info,
    /// It cannot be seen from here.
    Unseen,
    /// It costs something.
    Slow,
    /// It is wrong.
    Bad,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Info => "info",
            Self::Unseen => "unseen",
            Self::Slow => "slow",
            Self::Bad => "bad",
        }
    }
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    topic: &'static str,
    fact: String,
    found: String,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Findings of one topic.
struct Findings {
    topic: &'static str,
    all: Vec<Finding>,
}

impl Findings {
    const fn new() -> Self {
        let topic = "";
        Self {
            topic,
            all: Vec::new(),
        }
    }

    fn add(&mut self, fact: &str, found: impl Into<String>, verdict: Verdict, remedy: &str) {
        self.all.push(Finding {
            topic: self.topic,
            fact: fact.to_owned(),
            found: found.into(),
            verdict,
            remedy: Some(remedy.to_owned()).filter(|remedy| !remedy.is_empty()),
        });
    }

    /// A fact that nobody shows.
    fn unseen(&mut self, fact: &str, why: &str) {
        self.add(fact, "not visible", Verdict::Unseen, why);
    }

    /// A fact that is good, or has a verdict and a remedy.
    fn judge(
        &mut self,
        fact: &str,
        found: impl Into<String>,
        good: bool,
        or: Verdict,
        remedy: &str,
    ) {
        if good {
            self.add(fact, found, Verdict::Good, "");
        } else {
            self.add(fact, found, or, remedy);
        }
    }
}

/// Where the kernel tells about itself: `/`, and a folder in tests.
struct Root(PathBuf);

impl Root {
    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = std::fs::read_to_string(self.0.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.parse().ok()
    }
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    command: &'static str,
    findings: &'a [Finding],
}

pub(super) fn run(args: &Args) -> Result<String> {
    let root = Root(PathBuf::from("/"));
    let mut findings = Findings::new();
    machine::look(&root, &mut findings);
    machine::tier(args.program.as_deref(), &mut findings);
    if let Some(device) = &args.device {
        device::look(&root, device, &mut findings)?;
    }
    if let Some(peer) = &args.peer {
        clock::look(peer, args.tls_dir.as_deref(), &mut findings)?;
    }
    match args.output {
        Output::Text => Ok(table(&findings.all)),
        Output::Json => Ok(serde_json::to_string(&Report {
            schema: 1,
            command: "check",
            findings: &findings.all,
        })?),
    }
}

fn table(findings: &[Finding]) -> String {
    let wide = |of: fn(&Finding) -> &str| findings.iter().map(|one| of(one).len()).max();
    let fact = wide(|one| &one.fact).unwrap_or_default();
    let found = wide(|one| &one.found).unwrap_or_default().min(40);
    let mut text = String::new();
    for one in findings {
        let verdict = one.verdict.name();
        let line = format!(
            "{:<8} {:<fact$}  {:<found$}  {verdict:<6}  {}",
            one.topic,
            one.fact,
            one.found,
            one.remedy.as_deref().unwrap_or_default()
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
