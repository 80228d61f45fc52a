//! The other side: its clock, and the device behind its export.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use control::ExportFacts;

use super::{Findings, Verdict};
use crate::peer::{Peer, Place};

/// Certificates begin and end by the clock; a skew of minutes makes new ones invalid.
const SKEW_GOOD_MS: i64 = 5_000;

pub(super) fn look(uri: &str, tls_dir: Option<&Path>, findings: &mut Findings) -> Result<()> {
    let place = Place::parse(uri)?;
    let mut peer = Peer::connect(&place, tls_dir)?;
    let path = format!("/v1/exports/{}", place.export);
    // The first request pays for the handshake.
    let _: ExportFacts = peer.get(&path)?;
    let (sent, asked) = (SystemTime::now(), Instant::now());
    let facts: ExportFacts = peer.get(&path)?;
    let round_trip = asked.elapsed();
    findings.topic = "peer";
    findings.add("version", facts.version, Verdict::Info, "");
    findings.add(
        "round trip",
        format!("{} us", round_trip.as_micros()),
        Verdict::Info,
        "",
    );
    let theirs = unix_ms(&facts.time)
        .with_context(|| format!("{} is no time as mk-data/1 writes it", facts.time))?;
    let skew = skew_ms(sent, round_trip, theirs);
    let remedy = "let both sides follow NTP: certificates begin and end by the clock";
    let found = format!("{skew:+} ms");
    findings.judge(
        "clock skew",
        found,
        skew.abs() <= SKEW_GOOD_MS,
        Verdict::Bad,
        remedy,
    );
    let remedy =
        "the page cache is in between; give the server a device or a file system with direct I/O";
    let word = if facts.direct { "yes" } else { "no" };
    findings.judge(
        "direct i/o",
        word,
        facts.direct || facts.discarded,
        Verdict::Slow,
        remedy,
    );
    let block = facts.logical_block_bytes.to_string();
    findings.add("logical block", block, Verdict::Info, "");
    Ok(())
}

/// How far their clock is ahead of ours in the middle of the round trip.
fn skew_ms(sent: SystemTime, round_trip: Duration, theirs: i64) -> i64 {
    let middle = sent + round_trip / 2;
    let ours = middle
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    theirs - i64::try_from(ours).unwrap_or(i64::MAX)
}

/// `2026-11-24T12:13:14.015Z` in milliseconds since 1970.
pub(super) fn unix_ms(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let numbers = |text: &str, at: char| -> Option<Vec<i64>> {
        text.split(at).map(|part| part.parse().ok()).collect()
    };
    let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
    let (clock, millis) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(clock, ':')?.try_into().ok()?;
    let fraction: i64 = format!("{millis:0<3}").get(..3)?.parse().ok()?;
    // Years that begin in March have their odd day last.
    let (year, month) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let era_days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = era_days + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + fraction)
}
