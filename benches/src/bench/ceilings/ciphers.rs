//! TLS records on one core, through the record layer that copies use.

use super::{
    Plan,
    memory::Memory,
    meter::{Figures, Run, timed},
};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::time::{Instant, SystemTime};
use tls::{LoopbackPair, LoopbackSite, Opened, Session};

/// Plaintext of a full record.
pub(super) const RECORD: usize = tls::RECORD_PLAINTEXT_MAX;
/// The suites of TLS 1.3 that are spoken.
const SUITES: [&str; 3] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];
/// What is sealed at once before it is opened, where the ciphertext shall still be in a cache.
const HOT_RECORDS: usize = 8;

/// One suite.
#[derive(Debug, Serialize)]
pub(super) struct Cipher {
    pub suite: &'static str,
    /// From memory, into a cache.
    pub seal: Figures,
    /// From a cache, into a cache.
    pub open_hot: Figures,
    /// From memory, into a cache: as bytes come that another core received.
    pub open_cold: Figures,
}

/// Seals whole records; `out` has room for them.
pub(super) fn seal_all(session: &mut Session, plain: &[u8], out: &mut [u8]) -> Result<usize> {
    let mut at = 0;
    for record in plain.chunks(RECORD) {
        at += session.seal(record, &mut out[at..])?;
    }
    Ok(at)
}

/// Opens whole records into `out`, which has a byte more than they hold; tells how many bytes that are.
pub(super) fn open_all(session: &mut Session, wire: &[u8], out: &mut [u8]) -> Result<usize> {
    let now = Instant::now();
    let (mut from, mut to) = (0, 0);
    while from < wire.len() {
        let frame = Session::frame(&wire[from..])?.context("a record is cut off")?;
        let record = &wire[from..from + frame.wire_len];
        match session.open(now, record, &mut out[to..])? {
            Opened::Data { len } => to += len,
            other => bail!("{other:?} where data should be"),
        }
        from += frame.wire_len;
    }
    Ok(to)
}

/// Every suite, round by round.
pub(super) fn measure(plan: &Plan, memory: &Memory) -> Result<Vec<Cipher>> {
    let site = LoopbackSite::make(SystemTime::now())?;
    let mut runs: Vec<[Vec<Run>; 3]> = SUITES.iter().map(|_| Default::default()).collect();
    let mut wire = vec![0; Session::sealed_len(memory.len())];
    for _ in 0..plan.rounds {
        for (suite, [seal, hot, cold]) in SUITES.iter().zip(&mut runs) {
            let mut pair = site.connect(Some(suite))?;
            let (sealed, opened) = hot_records(plan, memory, &mut pair)?;
            seal.push(sealed);
            hot.push(opened);
            cold.push(cold_records(memory, &mut pair, &mut wire)?);
        }
    }
    let ciphers = SUITES
        .iter()
        .zip(&runs)
        .map(|(suite, [seal, hot, cold])| Cipher {
            suite,
            seal: Figures::of(plan.bytes, seal),
            open_hot: Figures::of(plan.bytes, hot),
            open_cold: Figures::of(memory.len(), cold),
        });
    Ok(ciphers.collect())
}

/// Seals a few records of the source, opens them, seals the next; the sums of both.
fn hot_records(plan: &Plan, memory: &Memory, pair: &mut LoopbackPair) -> Result<(Run, Run)> {
    const PLAIN: usize = HOT_RECORDS * RECORD;
    let mut wire = [0; Session::sealed_len(PLAIN)];
    let mut plain = vec![0; PLAIN + 1];
    let (mut sealing, mut opening) = (0.0, 0.0);
    for index in 0..plan.bytes / PLAIN {
        let begun = Instant::now();
        let len = seal_all(&mut pair.client, memory.batch(index, PLAIN), &mut wire)?;
        let between = Instant::now();
        open_all(&mut pair.server, &wire[..len], &mut plain)?;
        sealing += (between - begun).as_secs_f64();
        opening += between.elapsed().as_secs_f64();
    }
    // One thread that never waits: its time is its CPU time.
    let run = |seconds| Run {
        seconds,
        cpu_seconds: seconds,
        machine_busy_seconds: seconds,
        steal_seconds: 0.0,
    };
    Ok((run(sealing), run(opening)))
}

/// Opens what was sealed so long ago that no cache has it.
fn cold_records(memory: &Memory, pair: &mut LoopbackPair, wire: &mut [u8]) -> Result<Run> {
    let len = seal_all(&mut pair.client, memory.batch(0, memory.len()), wire)?;
    let step = Session::sealed_len(HOT_RECORDS * RECORD);
    let mut plain = vec![0; HOT_RECORDS * RECORD + 1];
    timed(|| {
        for records in wire[..len].chunks(step) {
            open_all(&mut pair.server, records, &mut plain)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_to_the_same_bytes() {
        let mut pair = LoopbackSite::make(SystemTime::now())
            .unwrap()
            .connect(None)
            .unwrap();
        let plain: Vec<u8> = (0..=250).cycle().take(3 * RECORD + 5).collect();
        let mut wire = vec![0; Session::sealed_len(plain.len())];
        let len = seal_all(&mut pair.client, &plain, &mut wire).unwrap();
        assert_eq!(len, wire.len());
        let mut out = vec![0; plain.len() + 1];
        let len = open_all(&mut pair.server, &wire, &mut out).unwrap();
        assert!(out[..len] == plain);
        wire[100] ^= 1;
        assert!(open_all(&mut pair.server, &wire, &mut out).is_err());
    }
}
