//! How fast one core seals and opens records with each suite, through the record layer that copies use.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tls::{LoopbackPair, LoopbackSite, Session, TlsError};

use crate::credentials::SUITES;
use crate::exit::Failure;

/// Each direction of each suite is measured so long: enough for a few hundred records.
const MEASURE_FOR: Duration = Duration::from_millis(10);
/// Plaintext of a full record.
const RECORD_BYTES: usize = tls::session::RECORD_PLAINTEXT_MAX;

/// Speed of one suite on one core, plaintext bytes per second.
#[derive(Debug, Clone, Serialize)]
pub(super) struct CipherSpeed {
    pub(super) suite: &'static str,
    pub(super) seal_bytes_per_s: u64,
    pub(super) open_bytes_per_s: u64,
    pub(super) handshake_us: u64,
    /// True when this is what the CPU makes us offer first.
    pub(super) preferred: bool,
}

impl CipherSpeed {
    /// For people.
    pub(super) fn to_text(&self) -> String {
        use crate::size::format_size;
        format!(
            "{:<28} seal {}/s, open {}/s, handshake {} us{}",
            self.suite,
            format_size(self.seal_bytes_per_s),
            format_size(self.open_bytes_per_s),
            self.handshake_us,
            if self.preferred { ", preferred" } else { "" }
        )
    }
}

/// Measures every suite.
pub(super) fn measure() -> Result<Vec<CipherSpeed>, Failure> {
    let failed = |error| Failure::tls("measuring the ciphers", &error);
    let site = LoopbackSite::make(SystemTime::now()).map_err(failed)?;
    let preferred = site.connect(None).map_err(failed)?.client.suite_name();
    let speed = |suite| speed_of(&site, suite, suite == preferred).map_err(failed);
    SUITES.into_iter().map(speed).collect()
}

/// Seals, opens and forges a record with every suite; the name of what does not hold.
pub(super) fn check() -> Result<(), String> {
    let site = LoopbackSite::make(SystemTime::now()).map_err(|error| error.to_string())?;
    SUITES
        .into_iter()
        .try_for_each(|suite| check_one(&site, suite).map_err(|what| format!("{suite}: {what}")))
}

fn speed_of(
    site: &LoopbackSite,
    suite: &'static str,
    preferred: bool,
) -> Result<CipherSpeed, TlsError> {
    let ends = site.prepare(Some(suite))?;
    let begun = Instant::now();
    let LoopbackPair {
        mut client,
        mut server,
    } = ends.connect()?;
    let handshake = begun.elapsed();
    let plain = vec![0xa5; RECORD_BYTES];
    let mut wire = vec![0; Session::sealed_len(RECORD_BYTES)];
    let mut sealed = Vec::new();
    let seal_bytes_per_s = rate_of(|| {
        let len = client.seal(&plain, &mut wire)?;
        Ok(len)
    })?;
    // The receiver opens records in the order they were sealed: the first pair has gone on, so a new
    // one prepares enough of them for the time.
    let LoopbackPair {
        client: mut sender,
        server: mut receiver,
    } = site.connect(Some(suite))?;
    std::mem::swap(&mut server, &mut receiver);
    let records = records_for(seal_bytes_per_s);
    for _ in 0..records {
        let len = sender.seal(&plain, &mut wire)?;
        sealed.push(wire[..len].to_vec());
    }
    let mut out = vec![0; RECORD_BYTES + 1];
    let begun = Instant::now();
    for record in &sealed {
        server.open(begun, record, &mut out)?;
    }
    Ok(CipherSpeed {
        suite,
        seal_bytes_per_s,
        open_bytes_per_s: per_second(records, begun.elapsed()),
        handshake_us: u64::try_from(handshake.as_micros()).unwrap_or(u64::MAX),
        preferred,
    })
}

fn check_one(site: &LoopbackSite, suite: &'static str) -> Result<(), String> {
    let LoopbackPair {
        mut client,
        mut server,
    } = site
        .connect(Some(suite))
        .map_err(|error| error.to_string())?;
    let plain: Vec<u8> = (0..=u8::MAX).cycle().take(RECORD_BYTES).collect();
    let mut wire = vec![0; Session::sealed_len(RECORD_BYTES)];
    let mut out = vec![0; RECORD_BYTES + 1];
    let now = Instant::now();
    for _ in 0..2 {
        let len = client
            .seal(&plain, &mut wire)
            .map_err(|error| error.to_string())?;
        server
            .open(now, &wire[..len], &mut out)
            .map_err(|error| error.to_string())?;
        if out[..RECORD_BYTES] != plain {
            return Err("an opened record differs".to_owned());
        }
    }
    let len = client
        .seal(&plain, &mut wire)
        .map_err(|error| error.to_string())?;
    wire[len / 2] ^= 1;
    match server.open(now, &wire[..len], &mut out) {
        Err(TlsError::BadRecordMac) => Ok(()),
        _ => Err("a forged record was accepted".to_owned()),
    }
}

/// Records that one core seals in the measuring time, and not more than memory that a probe may take.
fn records_for(bytes_per_s: u64) -> u64 {
    const RECORDS_MAX: u64 = 4096;
    let bytes = u128::from(bytes_per_s) * MEASURE_FOR.as_micros() / 1_000_000;
    u64::try_from(bytes / RECORD_BYTES as u128)
        .unwrap_or(RECORDS_MAX)
        .clamp(8, RECORDS_MAX)
}

/// Repeats `work`, one record a time, for the measuring time.
fn rate_of(mut work: impl FnMut() -> Result<usize, TlsError>) -> Result<u64, TlsError> {
    let begun = Instant::now();
    let mut records = 0;
    while begun.elapsed() < MEASURE_FOR {
        work()?;
        records += 1;
    }
    Ok(per_second(records, begun.elapsed()))
}

fn per_second(records: u64, time: Duration) -> u64 {
    crate::size::rate(records * RECORD_BYTES as u64, time.as_secs_f64()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_is_measured_and_one_is_preferred() {
        let speeds = measure().unwrap();
        assert_eq!(speeds.len(), 3);
        assert_eq!(speeds.iter().filter(|speed| speed.preferred).count(), 1);
        assert!(
            speeds
                .iter()
                .all(|s| s.seal_bytes_per_s > 0 && s.open_bytes_per_s > 0)
        );
    }

    #[test]
    fn every_suite_holds() {
        assert_eq!(check(), Ok(()));
    }
}
