//! What comparing costs: our own copy into a loop device with each kind of integrity, in interleaved rounds.

use anyhow::Result;
use benches::{
    disk::{Loop, make_source},
    ours::{Copying, Ours, make_certificates},
    process::Run,
};
use std::{fmt::Write as _, fs, path::Path};

/// What is compared, as the command line calls it.
const KINDS: [&str; 3] = ["none", "stream", "media"];

fn with(integrity: &'static str) -> Copying {
    Copying {
        integrity,
        connections: None,
        request_kib: None,
    }
}

/// Runs the rounds with everything in `folder` and gives the table; `Err` when this machine has no loop devices.
pub(crate) fn measure(binary: &Path, folder: &Path, bytes: u64, rounds: usize) -> Result<String> {
    let dir = tempfile::Builder::new()
        .prefix("mk-peers-")
        .tempdir_in(folder)?;
    let at = |name: &str| dir.path().join(name);
    make_source(&at("source"), bytes)?;
    make_certificates(binary, &at("pki"))?;
    fs::create_dir(at("control"))?;
    fs::File::create(at("target.img"))?.set_len(bytes)?;
    let device = Loop::attach(&at("target.img"))?;
    let (pki, source) = (at("pki"), at("source"));
    let ours = Ours::start(binary, &pki, &at("control"), device.path())?;
    // First touch of what is behind the target.
    ours.write(&source, &with(KINDS[0]))?;
    let mut runs: [Vec<Run>; 3] = Default::default();
    for round in 0..rounds {
        // Who begins changes from round to round.
        for step in 0..KINDS.len() {
            let kind = (round + step) % KINDS.len();
            runs[kind].push(ours.write(&source, &with(KINDS[kind]))?);
        }
    }
    drop(ours);
    Ok(table(bytes, &runs))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn table(bytes: u64, runs: &[Vec<Run>; 3]) -> String {
    let gib = bytes as f64 / (1_u64 << 30) as f64;
    let of = |runs: &[Run], value: fn(&Run) -> f64| median(runs.iter().map(value).collect());
    let plain = of(&runs[0], |run| run.seconds);
    let mut text =
        String::from("integrity   GiB/s   of none   sender CPU s/GiB   target CPU s/GiB\n");
    for (kind, runs) in KINDS.iter().zip(runs) {
        let seconds = of(runs, |run| run.seconds);
        let _ = writeln!(
            text,
            "{kind:<9} {:>7.2} {:>8.0} % {:>18.2} {:>18.2}",
            gib / seconds,
            100.0 * plain / seconds,
            of(runs, |run| run.sender_cpu) / gib,
            of(runs, |run| run.target_cpu) / gib,
        );
    }
    text
}
