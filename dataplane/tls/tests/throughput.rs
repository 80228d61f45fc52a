//! Speed of the record layer per suite, next to the bare cipher on the same buffers. Not a gate:
//!
//! ```text
//! cargo test --release -p tls --test throughput -- --ignored --nocapture
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the report"
)]

mod common;

use std::time::{Duration, Instant};

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use common::{SUITES, established, policy_with_suite};
use tls::{RECORD_PLAINTEXT_MAX, Session, SessionLimits};

const BATCH_RECORDS: usize = 16;
const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: usize = 7;

/// Median GiB/s of plaintext over some rounds of `work`, which does one batch.
fn rate(mut work: impl FnMut()) -> f64 {
    let mut rates = [0.0; ROUNDS];
    for rate in &mut rates {
        let start = Instant::now();
        let mut batches = 0_u32;
        while start.elapsed() < ROUND {
            work();
            batches += 1;
        }
        let bytes = f64::from(batches) * (BATCH_RECORDS * RECORD_PLAINTEXT_MAX) as f64;
        *rate = bytes / start.elapsed().as_secs_f64() / f64::from(1 << 30);
    }
    rates.sort_by(f64::total_cmp);
    rates[ROUNDS / 2]
}

fn nonce(count: &mut u64) -> Nonce {
    *count += 1;
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&count.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// The bare cipher: seal and open of one batch, no headers.
fn bare(algorithm: &'static Algorithm) -> (f64, f64) {
    let key = vec![7; algorithm.key_len()];
    let key = LessSafeKey::new(UnboundKey::new(algorithm, &key).unwrap());
    let plain = vec![1; BATCH_RECORDS * RECORD_PLAINTEXT_MAX];
    let mut sealed = vec![0; plain.len()];
    let mut tags = [[0; 16]; BATCH_RECORDS];
    let mut count = 0;
    let seal = rate(|| {
        let records = plain.chunks(RECORD_PLAINTEXT_MAX);
        let outs = sealed.chunks_mut(RECORD_PLAINTEXT_MAX);
        for ((record, out), tag) in records.zip(outs).zip(&mut tags) {
            let aad = Aad::from([0; 5]);
            key.seal_out_of_place_scatter(nonce(&mut count), aad, record, out, &[], tag)
                .unwrap();
        }
    });
    count -= BATCH_RECORDS as u64;
    let first = count;
    let mut opened = vec![0; plain.len()];
    let open = rate(|| {
        count = first;
        let records = sealed.chunks(RECORD_PLAINTEXT_MAX);
        let outs = opened.chunks_mut(RECORD_PLAINTEXT_MAX);
        for ((record, out), tag) in records.zip(outs).zip(&tags) {
            let aad = Aad::from([0; 5]);
            key.open_separate_gather(nonce(&mut count), aad, record, tag, out)
                .unwrap();
        }
    });
    (seal, open)
}

/// Sessions: seal alone, then seal and open in turn, from which the time of opening follows.
fn layered(name: &'static str) -> (f64, f64) {
    let limits = SessionLimits {
        records_per_key: 1 << 23,
        key_updates_per_second: u32::MAX,
    };
    let now = Instant::now();
    let (server, client) = established(&policy_with_suite(name), limits);
    let (mut server, mut client) = (server.session, client.session);
    let plain = vec![1; BATCH_RECORDS * RECORD_PLAINTEXT_MAX];
    let mut wire = vec![0; Session::sealed_len(plain.len())];
    let mut out = vec![0; plain.len() + 4_096];
    let seal_batch = |client: &mut Session, wire: &mut [u8]| {
        assert!(!client.control_pending(now));
        let mut at = 0;
        for record in plain.chunks(RECORD_PLAINTEXT_MAX) {
            at += client.seal(record, &mut wire[at..]).unwrap();
        }
        assert_eq!(at, wire.len());
    };
    let both = rate(|| {
        seal_batch(&mut client, &mut wire);
        let (mut from, mut to) = (0, 0);
        while from < wire.len() {
            let frame = Session::frame(&wire[from..]).unwrap().unwrap();
            let record = &wire[from..from + frame.wire_len];
            server.open(now, record, &mut out[to..]).unwrap();
            from += frame.wire_len;
            to += RECORD_PLAINTEXT_MAX;
        }
    });
    let seal = rate(|| seal_batch(&mut client, &mut wire));
    (seal, 1.0 / (1.0 / both - 1.0 / seal))
}

#[test]
#[ignore = "measures; run it alone, in release mode, on an idle machine"]
fn throughput_of_full_records() {
    println!(
        "{:30} {:>14} {:>14} {:>6} {:>6}",
        "suite", "seal (bare)", "open (bare)", "seal", "open"
    );
    for (name, algorithm) in
        SUITES
            .into_iter()
            .zip([&AES_128_GCM, &AES_256_GCM, &CHACHA20_POLY1305])
    {
        let (bare_seal, bare_open) = bare(algorithm);
        let (seal, open) = layered(name);
        println!(
            "{name:30} {seal:6.2} ({bare_seal:5.2}) {open:6.2} ({bare_open:5.2}) {:5.0}% {:5.0}%  GiB/s",
            100.0 * seal / bare_seal,
            100.0 * open / bare_open,
        );
    }
}
