//! This machine against another one that serves: what qualifies a site. Only the sender's side can be seen from here.

use super::Plan;
use anyhow::{Context, Result, bail};
use benches::{
    disk::make_source,
    machine,
    process::timed,
    spread::{GIB, Spread},
};
use control::Exit;
use std::{
    path::Path,
    process::{Command, ExitCode},
};

/// The other machine, and what is asked of it.
pub(super) struct Site<'a> {
    /// `mk://HOST/EXPORT`.
    pub uri: &'a str,
    /// Certificates of this side; `None`: the data plane's default.
    pub tls_dir: Option<&'a Path>,
    /// GiB/s.
    pub need: Option<f64>,
}

/// `3.2GiB/s`, or the bare number.
pub(super) fn parse_need(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("GiB/s").unwrap_or(text).trim();
    let need = number
        .parse()
        .ok()
        .filter(|need: &f64| need.is_finite() && *need > 0.0);
    need.ok_or_else(|| format!("{text:?} is no rate like 3.2GiB/s"))
}

/// Writes to the export round by round, and judges the median.
pub(super) fn measure(plan: &Plan, site: &Site<'_>) -> Result<ExitCode> {
    let export = match may_be_overwritten(plan, site)? {
        Ok(export) => export,
        Err(refusal) => {
            eprintln!("migratekit-bench: {}: {refusal}", site.uri);
            return Ok(ExitCode::from(Exit::Refused.code()));
        }
    };
    let size_bytes = export.size_bytes;
    if size_bytes < plan.bytes {
        bail!(
            "{} has {size_bytes} bytes, and a run writes {}: choose a smaller --mib",
            site.uri,
            plan.bytes
        );
    }
    let memory = tempfile::Builder::new()
        .prefix("mk-bench-")
        .tempdir_in("/dev/shm")?;
    let source = memory.path().join("source");
    make_source(&source, plan.bytes)?;
    println!(
        "{}\nto {}, {} MiB a run, {} rounds\n",
        machine::describe()?.line(),
        site.uri,
        plan.bytes >> 20,
        plan.rounds
    );
    let gib = plan.bytes as f64 / GIB;
    let mut medians = Vec::new();
    // What is thrown away cannot be compared.
    let kinds: &[&str] = match export.is_discarded {
        true => &["none"],
        false => &["none", "stream"],
    };
    for integrity in kinds {
        let runs = (0..plan.rounds)
            .map(|_| timed(&mut copy(plan, site, &source, integrity), &[], &[]))
            .collect::<Result<Vec<_>>>()?;
        let rate = Spread::of(runs.iter().map(|run| gib / run.seconds));
        let cpu = Spread::of(runs.iter().map(|run| run.sender_cpu / gib)).median;
        let busy = Spread::of(runs.iter().map(|run| run.machine_busy / gib)).median;
        println!(
            "integrity {integrity:<6} {:.2} {:.2} {:.2} GiB/s (min median max), CPU of this side {cpu:.2} s/GiB, of this machine {busy:.2}",
            rate.min, rate.median, rate.max
        );
        medians.push(rate.median);
    }
    let Some(need) = site.need else {
        return Ok(ExitCode::SUCCESS);
    };
    let reached = medians.first().copied().unwrap_or(0.0);
    let holds = reached >= need;
    let word = if holds { "PASS" } else { "FAIL" };
    println!("{word}: {reached:.2} GiB/s without integrity, {need} needed");
    Ok(match holds {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(Exit::AssertionFailed.code()),
    })
}

/// An export whose content is worth nothing.
#[derive(Debug, PartialEq)]
struct Export {
    size_bytes: u64,
    is_discarded: bool,
}

/// The export, or why nothing may be written there: what is measured on is lost.
fn may_be_overwritten(plan: &Plan, site: &Site<'_>) -> Result<Result<Export, String>> {
    let mut command = Command::new(&plan.binary);
    command.args(["info", site.uri, "--output", "json"]);
    with_certificates(&mut command, site);
    let output = command.output().context("info")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let info: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(judge(&info))
}

fn judge(info: &serde_json::Value) -> Result<Export, String> {
    let device = &info["device"];
    if device["scratch"] != true && device["discarded"] != true {
        let remedy = "serve one with --export NAME=scratch:PATH or NAME=null:SIZE";
        return Err(format!(
            "it is no scratch or null export, and a benchmark overwrites it: {remedy}"
        ));
    }
    let size_bytes = info["size_bytes"]
        .as_u64()
        .ok_or("it does not tell its size")?;
    Ok(Export {
        size_bytes,
        is_discarded: device["discarded"] == true,
    })
}

fn copy(plan: &Plan, site: &Site<'_>, source: &Path, integrity: &str) -> Command {
    let mut command = Command::new(&plan.binary);
    command.arg("copy").arg(source).arg(site.uri);
    command.args([
        "--overwrite",
        "--progress",
        "none",
        "--integrity",
        integrity,
    ]);
    with_certificates(&mut command, site);
    command
}

fn with_certificates(command: &mut Command, site: &Site<'_>) {
    if let Some(dir) = site.tls_dir {
        command.arg("--tls-dir").arg(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rates_are_read_with_their_unit_or_without() {
        assert_eq!(parse_need("3.2GiB/s"), Ok(3.2));
        assert_eq!(parse_need("3.2"), Ok(3.2));
        for bad in ["", "GiB/s", "-1", "0", "inf", "3.2GB/s"] {
            assert!(parse_need(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_is_worth_nothing_is_overwritten() {
        let info = |scratch, discarded| json!({"size_bytes": 5, "device": {"scratch": scratch, "discarded": discarded}});
        for is_discarded in [true, false] {
            let size_bytes = 5;
            let export = judge(&info(!is_discarded, is_discarded));
            assert_eq!(
                export,
                Ok(Export {
                    size_bytes,
                    is_discarded
                })
            );
        }
        assert!(judge(&info(false, false)).is_err());
        // A server that tells nothing about its device.
        assert!(judge(&json!({"size_bytes": 5})).is_err());
        assert!(judge(&json!({"device": {"scratch": true}})).is_err());
    }
}
