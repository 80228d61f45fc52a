//! The parts that do no I/O: what a request costs before and after the bytes move. `cargo bench -p benches`.
//!
//! A gain here is worth something when `migratekit-bench baseline` sees it, too.
#![forbid(unsafe_code)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use engine::{
    ExtentSet,
    digest::{CHUNK_BYTES, Digest, hash_payload},
};
use std::{
    hint::black_box,
    time::{Instant, SystemTime},
};
use tls::{LoopbackSite, RECORD_PLAINTEXT_MAX, Session};
use wire::{
    BlockSizes, ClientConn, ClientParams, Command, CommandFlags, Cookie, ExportInfo, HeaderBuf,
    Incoming, Mode, ServerConn, ServerParams, TransmissionFlags,
};

const REQUEST_BYTES: u64 = 256 << 10;
const DISK_BYTES: u64 = 1 << 40;

fn export() -> ExportInfo {
    ExportInfo {
        size_bytes: DISK_BYTES,
        flags: TransmissionFlags::HAS_FLAGS.union(TransmissionFlags::SEND_FLUSH),
        block: BlockSizes {
            min: 1,
            preferred: 4096,
            payload_max: 32 << 20,
        },
        description: String::new(),
    }
}

fn ends(mode: Mode) -> (ClientConn, ServerConn) {
    let client = ClientConn::new(
        &ClientParams {
            info: export(),
            mode,
            contexts: Vec::new(),
            block_sizes_stated: true,
        },
        64,
    );
    let server = ServerConn::new(&ServerParams {
        export_name: "disk".into(),
        info: export(),
        mode,
        base_allocation: None,
        block_sizes_negotiated: true,
    });
    (client, server)
}

/// A request from the client's call to its reply understood by the client, without payload.
fn round_trip(client: &mut ClientConn, server: &mut ServerConn, out: &mut HeaderBuf) -> Cookie {
    let cookie = client
        .start(Command::Write, CommandFlags::NONE, 0, REQUEST_BYTES, out)
        .expect("there is room");
    let (_, incoming) = server
        .handle_header(out.as_bytes())
        .expect("a valid header");
    let Some(Incoming::Request(request)) = incoming else {
        panic!("no request: {incoming:?}");
    };
    server.handle_payload(u32::try_from(REQUEST_BYTES).expect("fits"));
    server.encode_done(&request, out);
    client.handle_header(out.as_bytes()).expect("a valid reply");
    cookie
}

fn nbd(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nbd");
    for (name, mode) in [
        ("structured", Mode::Structured),
        ("extended", Mode::Extended),
    ] {
        let (mut client, mut server) = ends(mode);
        let mut out = HeaderBuf::default();
        group.bench_function(format!("write and its reply, {name}"), |bencher| {
            bencher.iter(|| black_box(round_trip(&mut client, &mut server, &mut out)));
        });
    }
    group.finish();
}

fn records(criterion: &mut Criterion) {
    const PLAIN: usize = RECORD_PLAINTEXT_MAX;
    /// Of one setup: more records would spill out of the caches that a hot one is in.
    const HOT: usize = 8;
    /// More than most last-level caches.
    const COLD: usize = 8192;
    let site = LoopbackSite::make(SystemTime::now()).expect("certificates");
    let plain = vec![0xa5; PLAIN];
    let mut wire = vec![0; Session::sealed_len(PLAIN)];
    let mut group = criterion.benchmark_group("records");
    group.throughput(Throughput::Bytes(PLAIN as u64));
    let mut pair = site.connect(None).expect("a handshake");
    group.bench_function("seal", |bencher| {
        bencher.iter(|| {
            pair.client
                .seal(black_box(&plain), &mut wire)
                .expect("sealed")
        });
    });
    for (name, count) in [("open, hot", HOT), ("open, cold", COLD)] {
        group.sample_size(20);
        group.throughput(Throughput::Bytes((PLAIN * count) as u64));
        let setup = || {
            let mut pair = site.connect(None).expect("a handshake");
            let mut sealed = vec![0; count * wire.len()];
            for record in sealed.chunks_mut(Session::sealed_len(PLAIN)) {
                pair.client.seal(&plain, record).expect("sealed");
            }
            (pair.server, sealed)
        };
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                setup,
                |(server, sealed)| {
                    let now = Instant::now();
                    let mut out = [0; PLAIN + 1];
                    for record in sealed.chunks(Session::sealed_len(PLAIN)) {
                        server.open(now, record, &mut out).expect("opened");
                    }
                    black_box(&mut out);
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn extents(criterion: &mut Criterion) {
    const COUNT: u64 = 10_000;
    let every = |step: u64, len: u64| {
        let ranges = (0..COUNT).map(|index| index * step..index * step + len);
        ExtentSet::from_unsorted(ranges.collect())
    };
    let (a, b) = (every(1 << 20, 1 << 16), every(3 << 18, 1 << 15));
    let shuffled: Vec<_> = {
        let ranges: Vec<_> = a.iter().collect();
        // A step that has no factor in common with the count visits each once.
        (0..ranges.len())
            .map(|index| ranges[index * 7919 % ranges.len()].clone())
            .collect()
    };
    let mut group = criterion.benchmark_group("extents");
    group.throughput(Throughput::Elements(COUNT));
    group.bench_function("from a list in any order", |bencher| {
        bencher.iter_batched(
            || shuffled.clone(),
            ExtentSet::from_unsorted,
            BatchSize::SmallInput,
        );
    });
    group.bench_function("union", |bencher| bencher.iter(|| black_box(&a).union(&b)));
    group.bench_function("intersection", |bencher| {
        bencher.iter(|| black_box(&a).intersect(&b));
    });
    group.finish();
}

fn hashes(criterion: &mut Criterion) {
    let chunk: Vec<u8> = (0..=250).cycle().take(4 << 20).collect();
    let mut group = criterion.benchmark_group("hashes");
    group.throughput(Throughput::Bytes(REQUEST_BYTES));
    let request = &chunk[..256 << 10];
    group.bench_function("grains of a request", |bencher| {
        bencher.iter(|| {
            let mut told = 0;
            hash_payload(
                0,
                request.len(),
                CHUNK_BYTES,
                |at| &request[at..],
                |_| told += 1,
            );
            black_box(told)
        });
    });
    group.throughput(Throughput::Bytes(CHUNK_BYTES));
    group.bench_function("a chunk at once", |bencher| {
        bencher.iter(|| Digest::of(black_box(&chunk)));
    });
    group.finish();
}

criterion_group!(pure, nbd, records, extents, hashes);
criterion_main!(pure);
