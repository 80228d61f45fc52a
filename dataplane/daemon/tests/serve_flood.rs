//! A flood of clients that say nothing, or half of something, while honest ones come and go.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod server;

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::{Bed, skip};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use server::{Server, pki};

const SILENT: usize = 10_000;
const PARTIAL: usize = 1_000;
/// Each test wants the machine for itself, also under a runner that knows no groups.
static ALONE: Mutex<()> = Mutex::new(());
/// What an honest client may wait for its export, handshake included.
const HANDSHAKE_MAX: Duration = Duration::from_secs(2);
/// The beginning of a ClientHello whose rest never comes.
const HALF_A_HELLO: [u8; 11] = [22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];

/// Room for both kinds and what the test needs besides.
fn allow_descriptors() -> bool {
    let needed = (SILENT + PARTIAL + 200) as u64;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    soft >= needed
        || setrlimit(Resource::RLIMIT_NOFILE, needed.min(hard), hard).is_ok() && hard >= needed
}

/// Opens connections as fast as it can and keeps them, until it is told to stop or has enough.
fn flood(
    server: std::net::SocketAddr,
    count: usize,
    say: &'static [u8],
    opened: &AtomicUsize,
    stop: &AtomicBool,
) -> Vec<TcpStream> {
    let mut held = Vec::with_capacity(count);
    while held.len() < count && !stop.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect(server) {
            // It may be closed already: that is what the server is for.
            let _ = stream.write_all(say);
            held.push(stream);
            opened.fetch_add(1, Ordering::Relaxed);
        }
    }
    held
}

/// The first handshake of a process seeds its random numbers, which may take longer than a flood leaves to
/// a client; that is not what is tested here.
fn warm_up(server: &Server, pki: &Path) {
    server.connect_tls("n", pki).unwrap().disconnect();
}

/// The limit held, and only those went who had said nothing.
fn assert_shed(server: &Server) {
    let status = server.transfers("GET", "/v1/status", "").json(200);
    assert!(
        status["connections"]["preauth"].as_u64().unwrap() <= 512,
        "{status}"
    );
    let metrics = server.transfers("GET", "/metrics", "").body;
    let turned_away = |why: &str| {
        let name = format!("migratekit_dataplane_turned_away_total{{why=\"{why}\"}} ");
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(&name))
            .unwrap();
        line.parse::<u64>().unwrap()
    };
    assert!(
        turned_away("silent") >= (SILENT + PARTIAL - 512) as u64 / 2,
        "{metrics}"
    );
    assert_eq!(
        turned_away("greeted"),
        0,
        "nobody who greeted had to go: {metrics}"
    );
}

#[test]
fn honest_clients_are_served_within_two_seconds_during_a_flood() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !allow_descriptors() {
        return skip("the limit on descriptors is too low for a flood");
    }
    let seconds = if std::env::var_os("MIGRATEKIT_SOAK").is_some() {
        30
    } else {
        6
    };
    let bed = Bed::new();
    let dir = pki(&bed, "pki");
    let args = [
        "--listen",
        "127.0.0.1:0",
        "--tls-dir",
        "pki",
        "--export",
        "n=null:1M",
        "--control-dir",
        "ctl",
    ];
    let server = Arc::new(Server::start(&bed, &args));
    let address = server.tls.unwrap();
    warm_up(&server, &dir);
    let (opened, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let slowest = thread::scope(|scope| {
        let silent = scope.spawn(|| flood(address, SILENT, &[], &opened, &stop));
        let partial = scope.spawn(|| flood(address, PARTIAL, &HALF_A_HELLO, &opened, &stop));
        let (start, mut slowest) = (Instant::now(), Duration::ZERO);
        for second in 0..seconds {
            let before = Instant::now();
            let mut client = server
                .connect_tls("n", &dir)
                .unwrap_or_else(|error| panic!("second {second}: {error}: {}", server.log()));
            client.read(0, &mut [0; 4096]).unwrap();
            slowest = slowest.max(before.elapsed());
            assert!(
                before.elapsed() < HANDSHAKE_MAX,
                "second {second}: {:?}",
                before.elapsed()
            );
            client.disconnect();
            // One honest client a second: the pace is part of what is tested.
            let next = start + Duration::from_secs(second + 1);
            thread::park_timeout(next.saturating_duration_since(Instant::now()));
        }
        stop.store(true, Ordering::Relaxed);
        drop((silent.join().unwrap(), partial.join().unwrap()));
        slowest
    });
    assert_eq!(
        opened.load(Ordering::Relaxed),
        SILENT + PARTIAL,
        "the flood came"
    );
    assert_shed(&server);
    println!("the slowest of {seconds} good clients was served after {slowest:?}");
    assert!(slowest < HANDSHAKE_MAX);
    Arc::into_inner(server).unwrap().stop();
}

#[test]
fn a_server_without_descriptors_goes_on_accepting() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bed = Bed::new();
    let dir = pki(&bed, "pki");
    let mut command = bed.command("prlimit");
    if !common::have("prlimit") {
        return;
    }
    command.args(["--nofile=80:80", common::BINARY, "serve"]);
    command.args([
        "--listen",
        "127.0.0.1:0",
        "--tls-dir",
        "pki",
        "--export",
        "n=null:1M",
    ]);
    let server = Server::start_by(&bed, &mut command);
    let address = server.tls.unwrap();
    warm_up(&server, &dir);
    let held: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let before = Instant::now();
    server
        .connect_tls("n", &dir)
        .unwrap()
        .read(0, &mut [0; 512])
        .unwrap();
    assert!(before.elapsed() < HANDSHAKE_MAX, "{:?}", before.elapsed());
    drop(held);
    server.stop();
}
