//! Tunables changed under load, each by its effect in a metric.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod server;

use std::fs::File;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Bed, have, skip, write_pattern};
use serde_json::{Value, json};
use server::{PATIENCE, Server, pki};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A server that runs transfers.
fn runner(bed: &Bed) -> Server {
    Server::start(bed, &["--nbd-unix", "own.sock", "--control-dir", "ctl"])
}

/// A server that takes everything, over TLS, and keeps nothing.
fn receiver(bed: &Bed) -> (Server, String) {
    let dir = pki(bed, "pki");
    let args = ["--listen", "127.0.0.1:0", "--tls-dir", "pki"];
    let export = ["--export", "n=null:4T", "--control-dir", "peer"];
    let server = Server::start(bed, &[args, export].concat());
    let uri = server.tls_uri("n", &dir);
    (server, uri)
}

/// A source that no machine gets to the end of while a test runs; it does not tell that it is empty.
struct Endless {
    nbdkit: Child,
    uri: String,
}

impl Endless {
    /// `None`, and a skip, without nbdkit.
    fn start(bed: &Bed) -> Option<Self> {
        if !have("nbdkit") {
            return None;
        }
        let (socket, pid) = (bed.path("endless.sock"), bed.path("endless.pid"));
        let mut command = bed.command("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]);
        command.arg(&socket).arg("--pidfile").arg(&pid);
        command.args(["--filter=noextents", "null", "4T"]);
        let nbdkit = command.spawn().unwrap();
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let endless = Self { nbdkit, uri };
        until("its pid file", || {
            Some(()).filter(|()| std::fs::metadata(&pid).is_ok_and(|file| file.len() > 0))
        });
        Some(endless)
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.nbdkit.kill();
        let _ = self.nbdkit.wait();
    }
}

fn start(server: &Server, id: &str, source: &str, target: &str) {
    let body = json!({"id": id, "source": source, "target": target});
    let answer = server.transfers("POST", "/v1/transfers", &body.to_string());
    answer.json(201);
}

fn view(server: &Server, id: &str) -> Value {
    let path = format!("/v1/transfers/{id}");
    server.transfers("GET", &path, "").json(200)
}

fn stop(server: &Server, id: &str) {
    let path = format!("/v1/transfers/{id}");
    let ended = server.transfers("DELETE", &path, "").json(200);
    assert_eq!(ended["state"], "cancelled", "it ended before: {ended}");
}

fn data_bytes(server: &Server, id: &str) -> u64 {
    let view = view(server, id);
    assert_eq!(view["state"], "running", "{view}");
    view["progress"]["data_bytes"].as_u64().unwrap()
}

/// Looks until `found`, and no longer than patience lasts.
fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} does not happen");
        // What is looked at changes by itself; looking all the time would take its processor.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Bytes a second of these transfers, over two seconds from now.
fn rate(server: &Server, ids: &[&str]) -> u64 {
    let moved = || ids.iter().map(|id| data_bytes(server, id)).sum::<u64>();
    let (begin, before) = (Instant::now(), moved());
    let elapsed = until("time", || {
        Some(begin.elapsed()).filter(|time| *time > Duration::from_secs(2))
    });
    let bytes = u128::from(moved() - before);
    u64::try_from(bytes * 1000 / elapsed.as_millis()).unwrap()
}

#[test]
fn rate_bytes_per_s_bounds_all_transfers_together_and_is_live() {
    let bed = Bed::new();
    let Some(source) = Endless::start(&bed) else {
        return;
    };
    let server = runner(&bed);
    // In force when they start, and yet no bound of their own: it is raised later.
    server.tune(&json!({"rate_bytes_per_s": "16M", "zero_scan_bytes": 0}));
    for id in ["a", "b"] {
        start(&server, id, &source.uri, "null:");
    }
    let together = || rate(&server, &["a", "b"]);
    for bound in [16 * MIB, 64 * MIB] {
        server.tune(&json!({"rate_bytes_per_s": bound}));
        let seen = until("the new rate", || {
            Some(together()).filter(|seen| *seen >= bound / 2)
        });
        assert!(seen <= bound / 10 * 13, "{seen} instead of {bound}");
    }
    server.tune(&json!({"rate_bytes_per_s": 0}));
    until("a higher rate", || {
        Some(together()).filter(|seen| *seen > 100 * MIB)
    });
    stop(&server, "a");
    stop(&server, "b");
    server.stop();
}

#[test]
fn device_depth_bounds_the_operations_with_the_devices_and_is_live() {
    let bed = Bed::new();
    // Reads of a hole are operations like others, and need no disk.
    let file = File::create_new(bed.path("hole")).unwrap();
    file.set_len(1 << 30).unwrap();
    let args = ["--nbd-unix", "own.sock", "--control-dir", "ctl"];
    let server = Server::start(&bed, &[&args[..], &["--export", "hole=ro:hole"]].concat());
    let (done, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let read = |reader: u64| {
        let mut client = server.connect_unix("hole").unwrap();
        let mut bytes = vec![0; 2 << 20];
        while !is_over.load(Ordering::Relaxed) {
            client.read(reader * 32 * MIB, &mut bytes).unwrap();
            done.fetch_add(1, Ordering::Relaxed);
        }
        client.disconnect();
    };
    let depth = || {
        let shards = server.metric("migratekit_dataplane_device_ops");
        shards.into_iter().max().unwrap()
    };
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        for reader in 0..16 {
            scope.spawn(move || read(reader));
        }
        for bound in [64, 1, 10] {
            server.tune(&json!({"device_depth": bound}));
            until("the new depth", || Some(()).filter(|()| depth() <= bound));
            let most = (0..100).map(|_| depth()).max().unwrap();
            assert!(most <= bound, "{most} operations at a depth of {bound}");
            until("operations", || {
                Some(depth()).filter(|now| *now > bound.min(20) / 2)
            });
            let before = done.load(Ordering::Relaxed);
            until("reads", || {
                Some(()).filter(|()| done.load(Ordering::Relaxed) > before + 16)
            });
        }
    });
    server.stop();
}

/// Ends those who look at it, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn send_batch_bytes_bounds_a_send_and_is_live() {
    let bed = Bed::new();
    let Some(source) = Endless::start(&bed) else {
        return;
    };
    let (peer, target) = receiver(&bed);
    let server = runner(&bed);
    // Few requests to the source: those are sends as well.
    server.tune(&json!({
        "connections": 1, "request_bytes": "4M", "window_bytes_max": "16M", "zero_scan_bytes": 0,
    }));
    start(&server, "t", &source.uri, &target);
    let totals = || {
        let names = [
            "migratekit_dataplane_shard_sends_total",
            "migratekit_dataplane_shard_sent_bytes_total",
        ];
        server.metrics(names)
    };
    // Bytes of a send, on average over many from now on.
    let mean = || {
        let before = totals();
        until("sends", || {
            let after = totals();
            let sends = after[0] - before[0];
            (sends >= 300).then(|| (after[1] - before[1]) / sends)
        })
    };
    for batch in ["1M", "16K", "256K"] {
        server.tune(&json!({"send_batch_bytes": batch}));
        let (least, most) = match batch {
            // A batch ends behind the record, and a large one behind the lease, that fills it.
            "16K" => (8 * KIB, 34 * KIB),
            "256K" => (128 * KIB, 290 * KIB),
            _ => (512 * KIB, 1300 * KIB),
        };
        let seen = until("the new batch", || {
            Some(mean()).filter(|seen| (least..=most).contains(seen))
        });
        println!("batches of {batch}: {seen} bytes a send");
    }
    stop(&server, "t");
    server.stop();
    peer.stop();
}

#[test]
fn send_zc_decides_which_bytes_are_sent_without_a_copy_and_is_live() {
    let bed = Bed::new();
    let Some(source) = Endless::start(&bed) else {
        return;
    };
    let (peer, target) = receiver(&bed);
    let server = runner(&bed);
    if server.tier == "epoll" {
        return skip("kernel has no io_uring, and so no zero-copy sends");
    }
    server.tune(&json!({"zero_scan_bytes": 0}));
    start(&server, "t", &source.uri, &target);
    // On this machine the kernel copies in the end, and says so.
    let totals = || {
        let [fetched, copied, sent] = server.metrics([
            "migratekit_dataplane_zero_copy_bytes_total",
            "migratekit_dataplane_zero_copy_copied_bytes_total",
            "migratekit_dataplane_shard_sent_bytes_total",
        ]);
        (fetched + copied, sent)
    };
    for (word, is_on) in [
        ("off", false),
        ("on", true),
        ("off", false),
        ("auto", false),
    ] {
        server.tune(&json!({"send_zc": word}));
        until("the new way", || {
            let before = totals();
            let after = until("sends", || {
                Some(totals()).filter(|after| after.1 > before.1 + 64 * MIB)
            });
            Some(()).filter(|()| (after.0 > before.0) == is_on)
        });
    }
    stop(&server, "t");
    server.stop();
    peer.stop();
}

#[test]
fn what_belongs_to_the_next_transfer_changes_the_next_and_not_the_running_one() {
    let bed = Bed::new();
    let Some(source) = Endless::start(&bed) else {
        return;
    };
    let (peer, target) = receiver(&bed);
    let server = runner(&bed);
    server.tune(&json!({"zero_scan_bytes": 0}));
    let connections = || peer.metric("migratekit_dataplane_export_connections")[0];
    let in_flight = || server.metric("migratekit_dataplane_transfer_in_flight_bytes")[0];
    let most = || (0..200).map(|_| in_flight()).max().unwrap();
    let request = || {
        let totals = || {
            let names = [
                "migratekit_dataplane_export_requests_total",
                "migratekit_dataplane_export_written_bytes_total",
            ];
            peer.metrics(names)
        };
        let before = totals();
        until("requests", || {
            let after = totals();
            let requests = after[0] - before[0];
            (requests >= 200).then(|| (after[1] - before[1]) / requests)
        })
    };
    let rounds = [
        (1, 64 * KIB, MIB, "a"),
        (3, 512 * KIB, 4 * MIB, "b"),
        (2, 256 * KIB, 2 * MIB, "c"),
    ];
    for (count, request_bytes, window, id) in rounds {
        server.tune(&json!({
            "connections": count, "request_bytes": request_bytes, "window_bytes_max": window,
        }));
        start(&server, id, &source.uri, &target);
        until("the connections", || {
            Some(()).filter(|()| connections() == count)
        });
        let is_cut_so = |mean: u64| mean.abs_diff(request_bytes) <= request_bytes / 50;
        // The last one of a window may reach past it by less than a request.
        let bound = count * (window + request_bytes);
        let seen = most();
        assert!(seen <= bound, "{seen} bytes in flight, at most {bound}");
        // A window begins at 2 MiB, and a peer as near as this one gives it no reason to grow.
        until("a full window", || {
            Some(in_flight()).filter(|seen| *seen > count * window.min(2 * MIB) / 2)
        });
        assert!(is_cut_so(request()), "{} of {request_bytes}", request());
        // The next values leave this one alone.
        server.tune(&json!({
            "connections": 8, "request_bytes": "1M", "window_bytes_max": "64M",
        }));
        assert!(is_cut_so(request()), "{} of {request_bytes}", request());
        assert!(most() <= bound && connections() == count);
        stop(&server, id);
        until("the end", || Some(()).filter(|()| connections() == 0));
    }
    server.stop();
    peer.stop();
}

#[test]
fn zero_scan_bytes_decides_which_zeroes_are_found() {
    let bed = Bed::new();
    let (peer, target) = receiver(&bed);
    let server = runner(&bed);
    let path = bed.path("striped");
    let file = File::create_new(&path).unwrap();
    // Stripes of zeroes that are written, so that no map tells them.
    let (stripe, stripes) = (64 * KIB, 128);
    for index in 0..stripes {
        let offset = index * stripe;
        match index % 2 {
            0 => write_pattern(&file, offset, stripe),
            _ => std::os::unix::fs::FileExt::write_all_at(
                &file,
                &vec![0; usize::try_from(stripe).unwrap()],
                offset,
            )
            .unwrap(),
        }
    }
    file.sync_all().unwrap();
    // A request is cut into three parts at most.
    server.tune(&json!({"request_bytes": "128K"}));
    let zeroed = || peer.metric("migratekit_dataplane_export_zeroed_bytes_total")[0];
    for (granule, found) in [("64K", true), ("128K", false), ("4K", true), ("0", false)] {
        server.tune(&json!({"zero_scan_bytes": granule}));
        let before = zeroed();
        let id = format!("granule-{granule}");
        let source = path.display().to_string();
        start(&server, &id, &source, &target);
        let ended = until("the end", || {
            Some(view(&server, &id)).filter(|view| view["state"] != "running")
        });
        assert_eq!(ended["state"], "succeeded", "{ended}");
        let expected = if found { stripe * stripes / 2 } else { 0 };
        assert_eq!(
            ended["progress"]["zero_bytes"], expected,
            "{granule}: {ended}"
        );
        assert_eq!(zeroed() - before, expected, "{granule}");
    }
    server.stop();
    peer.stop();
}

#[test]
fn every_live_tunable_has_its_test_here() {
    let live: Vec<&str> = engine::Tunables::table()
        .iter()
        .filter(|row| row.is_live())
        .map(|row| row.name)
        .collect();
    let tested = [
        "send_batch_bytes",
        "send_zc",
        "device_depth",
        "rate_bytes_per_s",
    ];
    for name in live {
        assert!(tested.contains(&name), "{name} is live and not tested here");
    }
}
