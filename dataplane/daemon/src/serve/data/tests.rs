//! Our client against our server, and against servers that are none or lie.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use engine::digest::{CHUNK_BYTES, ChunkTree, Cv, Digest, GRAIN_BYTES, grain_cv};
use engine::export::StreamChunk;
use engine::{Address, ErrorKind, NbdClient, NbdEndpoint, TlsMode};
use rustls::{ServerConnection, StreamOwned};
use tokio::sync::Notify;

use super::*;
use crate::credentials::{self, ALPN_DATA, ALPN_NBD, Role};
use crate::mkdata::DataService;
use crate::serve::config::Config;
use crate::serve::{listen, open_exports, start};

const SIZE_BYTES: u64 = 3 * CHUNK_BYTES + 70_000;

/// Certificates in a folder.
fn site() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let files = tls::pki::new_site(&["localhost".into()], 1, SystemTime::now()).unwrap();
    for (name, pem, _) in files {
        std::fs::write(dir.path().join(name), pem).unwrap();
    }
    dir
}

fn endpoint(dir: &Path, port: u16) -> NbdEndpoint {
    NbdEndpoint {
        address: Address::Tcp {
            host: "127.0.0.1".into(),
            port,
        },
        tls: TlsMode::First {
            config: credentials::client_config(dir, &[ALPN_NBD], None).unwrap(),
            server_name: "localhost".into(),
        },
        export: "disk".into(),
        connect_timeout: Duration::from_secs(30),
        uri: "mk://target/disk".into(),
    }
}

/// A server in this process, with the export `disk`.
struct Target {
    dir: tempfile::TempDir,
    endpoint: NbdEndpoint,
    context: Arc<Context>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Target {
    fn new() -> Self {
        use clap::Parser;
        let dir = site();
        let disk = dir.path().join("disk");
        std::fs::write(&disk, vec![1; usize::try_from(SIZE_BYTES).unwrap()]).unwrap();
        let export = format!("disk={}", disk.display());
        let tls_dir = dir.path().to_str().unwrap();
        let words = [
            "x",
            "serve",
            "--tls-dir",
            tls_dir,
            "--listen",
            "127.0.0.1:0",
            "--export",
            &export,
            "--shards",
            "2",
        ];
        let cli = crate::cli::Cli::try_parse_from(words).unwrap();
        let crate::cli::Verb::Serve(args) = cli.verb else {
            unreachable!()
        };
        let context = start(Config::load(&args).unwrap()).unwrap();
        open_exports(&context).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        listen(&runtime, &context).unwrap();
        let address = &context.listeners.get().unwrap()[0].address;
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || runtime.block_on(stopped.notified()));
        Self {
            endpoint: endpoint(dir.path(), port),
            dir,
            context,
            stop,
            thread: Some(thread),
        }
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.disk()).unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn noise(len: u64, seed: u64) -> Vec<u8> {
    let byte = |at: u64| {
        (at ^ seed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_le_bytes()[7]
    };
    (0..len).map(byte).collect()
}

/// The digest of a chunk, from what was hashed in the stream and, for the rest, grains of the medium.
fn digest(chunk: &StreamChunk, medium: &[Cv], len: u64) -> Digest {
    let (have, cvs) = match chunk {
        StreamChunk::Complete(digest) => return *digest,
        StreamChunk::Grains { have, cvs } => (*have, cvs.to_vec()),
        StreamChunk::Unknown => (0, Vec::new()),
    };
    let mut tree = ChunkTree::new(len);
    for position in 0..tree.grains() {
        let known = have >> position & 1 == 1;
        tree.insert(
            position,
            if known {
                cvs[position]
            } else {
                medium[position]
            },
        );
    }
    tree.root().unwrap()
}

#[test]
fn our_client_learns_what_the_target_holds() {
    let target = Target::new();
    let service = DataService::new(target.endpoint.clone());
    let mut session = service.connect().unwrap();
    let facts = session.facts().unwrap();
    assert_eq!(facts.boot_id, target.context.boot_id);
    assert_eq!(facts.body.size_bytes, SIZE_BYTES);
    let hashes = session.hashes(0..SIZE_BYTES, CHUNK_BYTES).unwrap();
    let expected = |bytes: &[u8], chunk| bytes.chunks(chunk).map(Digest::of).collect::<Vec<_>>();
    assert_eq!(hashes, expected(&target.bytes(), 4 << 20));
    let small = session.hashes(512..SIZE_BYTES, 4096).unwrap();
    assert_eq!(small, expected(&target.bytes()[512..], 4096));
    let error = session.hashes(0..SIZE_BYTES + 1, CHUNK_BYTES).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Config, "{error}");
    let error = session.stream(0, 1).unwrap_err();
    assert!(error.to_string().contains("no stream"), "{error}");
    let other = NbdEndpoint {
        export: "other".into(),
        ..target.endpoint.clone()
    };
    let error = DataService::new(other)
        .connect()
        .unwrap()
        .facts()
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Authorisation, "{error}");
}

#[test]
fn what_is_hashed_in_the_stream_is_what_is_on_the_disk() {
    let target = Target::new();
    let mut session = DataService::new(target.endpoint.clone()).connect().unwrap();
    session.start_stream().unwrap();
    session.start_stream().unwrap();
    assert_eq!(session.stream(0, 4).unwrap(), vec![StreamChunk::Unknown; 4]);
    let mut lanes: Vec<_> = (0..2)
        .map(|_| NbdClient::connect(&target.endpoint).unwrap())
        .collect();
    // Out of order, on two connections that live on two shards, all of the first chunk and of the last.
    let pieces: Vec<u64> = (0..CHUNK_BYTES / (4 * GRAIN_BYTES)).rev().collect();
    for piece in pieces {
        let bytes = noise(4 * GRAIN_BYTES, piece);
        let lane = &mut lanes[usize::try_from(piece % 2).unwrap()];
        lane.write(piece * 4 * GRAIN_BYTES, &bytes).unwrap();
    }
    lanes[0].write(3 * CHUNK_BYTES, &noise(70_000, 9)).unwrap();
    // Unaligned, and one over another.
    lanes[0]
        .write(CHUNK_BYTES + 777, &noise(1_000_000, 10))
        .unwrap();
    lanes[1]
        .write(CHUNK_BYTES + 500_000, &noise(GRAIN_BYTES, 11))
        .unwrap();
    lanes[1]
        .write(CHUNK_BYTES + 8 * GRAIN_BYTES, &noise(GRAIN_BYTES, 12))
        .unwrap();
    lanes[0].flush().unwrap();
    let bytes = target.bytes();
    let chunks = session.stream(0, 4).unwrap();
    let kinds: Vec<_> = chunks
        .iter()
        .map(|chunk| match chunk {
            StreamChunk::Unknown => "unknown",
            StreamChunk::Complete(_) => "complete",
            StreamChunk::Grains { .. } => "grains",
        })
        .collect();
    assert_eq!(kinds, ["complete", "grains", "unknown", "complete"]);
    let medium = session.grains(0..SIZE_BYTES).unwrap();
    for (index, chunk) in bytes.chunks(4 << 20).enumerate() {
        let medium = &medium[index * 64..];
        let found = digest(&chunks[index], medium, chunk.len() as u64);
        assert_eq!(found, Digest::of(chunk), "chunk {index}");
        for (position, grain) in chunk.chunks(1 << 16).enumerate() {
            assert_eq!(medium[position], grain_cv(position, std::iter::once(grain)));
        }
    }
    drop(session);
    let mut session = DataService::new(target.endpoint.clone()).connect().unwrap();
    session.start_stream().unwrap();
    assert_eq!(
        session.stream(0, 1).unwrap(),
        [StreamChunk::Unknown],
        "it went with its user"
    );
}

/// A TLS server that serves one connection: `alpn` is what it knows, `answer` is what it says to whatever comes.
fn impostor(dir: &Path, alpn: &[&[u8]], answer: Vec<u8>) -> (u16, JoinHandle<()>) {
    let policy = tls::TlsPolicy {
        alpn: alpn.iter().map(|name| name.to_vec()).collect(),
        ..tls::TlsPolicy::default()
    };
    let credentials = credentials::load(dir, Role::Server).unwrap();
    let config = tls::server_config(&credentials, &policy).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let tls = ServerConnection::new(config).unwrap();
        let mut stream = StreamOwned::new(tls, socket);
        // The client may leave at any time.
        let _ = stream.write_all(if answer.starts_with(b"NBD") {
            &answer
        } else {
            b""
        });
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(&answer);
        let _ = stream.flush();
    });
    (port, thread)
}

#[test]
fn a_server_without_the_service_is_told_apart() {
    let dir = site();
    // One that knows other protocols only, one that ignores them all and speaks NBD at once, as stunnel does.
    let cases: [&[&[u8]]; 2] = [&[ALPN_NBD], &[]];
    for alpn in cases {
        let (port, thread) = impostor(dir.path(), alpn, b"NBDMAGICIHAVEOPT\0\x03".to_vec());
        let service = DataService::new(endpoint(dir.path(), port));
        let error = service.connect().err().unwrap();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{alpn:?}: {error}");
        thread.join().unwrap();
    }
    let plain = NbdEndpoint {
        tls: TlsMode::None,
        ..endpoint(dir.path(), 1)
    };
    let error = DataService::new(plain).connect().err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unsupported);
}

#[test]
fn a_server_that_lies_is_not_believed() {
    let dir = site();
    let http = |body: &str| {
        let len = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{body}").into_bytes()
    };
    let endless = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nxx".to_vec();
    let cases = [
        http(""),
        http("short"),
        http(&"x".repeat(33)),
        endless,
        http(&"x".repeat(1 << 20)),
    ];
    for answer in cases {
        let (port, thread) = impostor(dir.path(), &[ALPN_DATA], answer);
        let mut session = DataService::new(endpoint(dir.path(), port))
            .connect()
            .unwrap();
        let error = session.hashes(0..4096, 4096).unwrap_err();
        let expected = [
            ErrorKind::Protocol,
            ErrorKind::ConnectionLost,
            ErrorKind::TargetConnect,
        ];
        assert!(expected.contains(&error.kind), "{error}");
        drop(session);
        thread.join().unwrap();
    }
    let (port, thread) = impostor(dir.path(), &[ALPN_DATA], http("{\"api\":1}"));
    let mut session = DataService::new(endpoint(dir.path(), port))
        .connect()
        .unwrap();
    assert_eq!(session.facts().unwrap_err().kind, ErrorKind::Protocol);
    drop(session);
    thread.join().unwrap();
}

/// A server that serves one connection after the other: each answers its list, request by request, and breaks.
fn scripted(dir: &Path, script: Vec<Vec<Vec<u8>>>) -> (u16, JoinHandle<()>) {
    let policy = tls::TlsPolicy {
        alpn: vec![ALPN_DATA.to_vec()],
        ..tls::TlsPolicy::default()
    };
    let credentials = credentials::load(dir, Role::Server).unwrap();
    let config = tls::server_config(&credentials, &policy).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = thread::spawn(move || {
        for answers in script {
            let (socket, _) = listener.accept().unwrap();
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(tls, socket);
            for answer in answers {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(&answer);
                let _ = stream.flush();
            }
        }
    });
    (port, thread)
}

fn reply(status: u16, body: &serde_json::Value) -> Vec<u8> {
    let body = body.to_string();
    let len = body.len();
    format!("HTTP/1.1 {status} Told\r\nContent-Length: {len}\r\n\r\n{body}").into_bytes()
}

/// Facts of process `boot_id` with the file `inode`.
fn told(boot_id: &str, inode: u64) -> Vec<u8> {
    let facts = serde_json::json!({
        "api": 1, "boot_id": boot_id, "name": "disk", "version": "0.1.0", "machine_boot_id": "m",
        "time": "2026-11-24T12:13:14.015Z", "size_bytes": 8192, "logical_block_bytes": 512,
        "identity": {"kind": "file", "dev": 1, "inode": inode}, "read_only": false,
        "scratch": false, "discarded": false, "direct": true,
        "flush": {"epoch": 0, "succeeded": 0, "failed": 0}
    });
    reply(200, &facts)
}

fn no(status: u16, error: control::ErrorBody) -> Vec<u8> {
    let answer = control::Answer::new("a", control::ErrorAnswer { error });
    reply(status, &serde_json::to_value(answer).unwrap())
}

/// What becomes of a question after the facts, when the first connection breaks and `next` is told on the second.
fn asked_after(next: Vec<u8>) -> engine::EngineError {
    let dir = site();
    let script = vec![vec![told("a", 1)], vec![next]];
    let (port, thread) = scripted(dir.path(), script);
    let mut session = DataService::new(endpoint(dir.path(), port))
        .connect()
        .unwrap();
    session.facts().unwrap();
    let error = session.hashes(0..8192, 4096).unwrap_err();
    drop(session);
    thread.join().unwrap();
    error
}

#[test]
fn a_silent_reconnect_ends_at_the_same_process_and_device_or_is_a_loss() {
    for next in [told("b", 1), told("a", 2)] {
        let error = asked_after(next);
        assert_eq!(error.kind, ErrorKind::ConnectionLost, "{error}");
        assert!(error.to_string().contains("another server"), "{error}");
    }
    // The same one is asked, and breaks this connection, too.
    let error = asked_after(told("a", 1));
    assert_eq!(error.kind, ErrorKind::ConnectionLost, "{error}");
    assert!(!error.to_string().contains("another server"), "{error}");
}

#[test]
fn an_export_that_was_there_comes_back() {
    let refusal = problem::refuse(control::ErrorKind::NotFound, "no export", "check");
    let error = asked_after(no(404, refusal));
    assert_eq!(error.kind, ErrorKind::TargetConnect, "{error}");
}

#[test]
fn a_server_that_is_busy_to_the_end_is_lost_and_has_not_failed() {
    let dir = site();
    let busy = || problem::later(control::ErrorKind::Busy, "busy", "wait");
    for status in [409, 429, 503] {
        let script = vec![vec![no(status, busy())]];
        let (port, thread) = scripted(dir.path(), script);
        let service = DataService::impatient(endpoint(dir.path(), port));
        let error = service.connect().unwrap().hashes(0..8192, 4096);
        let error = error.unwrap_err();
        assert_eq!(error.kind, ErrorKind::ConnectionLost, "{status}: {error}");
        assert!(error.to_string().contains("busy"), "{status}: {error}");
        thread.join().unwrap();
    }
}

#[test]
fn a_stream_that_went_with_its_export_is_a_lost_connection() {
    let dir = site();
    let begun = serde_json::json!({"api": 1, "boot_id": "a", "name": "disk", "streaming": true});
    let gone = problem::refuse(control::ErrorKind::Conflict, "no stream", "PUT it first");
    let script = vec![vec![reply(200, &begun), no(409, gone)]];
    let (port, thread) = scripted(dir.path(), script);
    let service = DataService::new(endpoint(dir.path(), port));
    let mut session = service.connect().unwrap();
    session.start_stream().unwrap();
    let error = session.stream(0, 1).unwrap_err();
    assert_eq!(error.kind, ErrorKind::ConnectionLost, "{error}");
    drop(session);
    thread.join().unwrap();
}
