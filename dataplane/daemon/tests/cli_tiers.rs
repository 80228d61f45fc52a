//! Where io_uring is forbidden, missing or short of memory: what runs, and what is said about it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod server;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{BINARY, Bed, assert_same, finish, have, skip, without_io_uring};
use serde_json::Value;
use server::Server;

/// What each errno is taken for.
const DENIALS: [(&str, &str); 2] = [
    ("EPERM", "forbidden by the kernel.io_uring_disabled setting"),
    (
        "ENOSYS",
        "not in this kernel, or a seccomp filter answers ENOSYS",
    ),
];

/// Serves, copies there over TLS and back, all by commands that `wrap` makes; the object of the first copy.
fn serve_and_copy(bed: &Bed, wrap: impl Fn() -> Command, check: impl Fn(&Server)) -> Value {
    let hosts = ["--host", "localhost", "--host", "127.0.0.1"];
    finish(wrap().args([BINARY, "pki", "init", "pki"]).args(hosts)).done();
    let source = bed.disk("source", (4 << 20) + 512);
    let target = std::fs::File::create(bed.path("target")).unwrap();
    target.set_len((4 << 20) + 512).unwrap();
    let everybody = std::fs::Permissions::from_mode(0o666);
    target.set_permissions(everybody).unwrap();
    let mut serve = wrap();
    serve.args([BINARY, "serve", "--listen", "127.0.0.1:0"]);
    serve.args(["--tls-dir", "pki", "--control-dir", "ctl"]);
    let server = Server::start_by(bed, serve.args(["--export", "disk=target"]));
    check(&server);
    let uri = server.tls_uri("disk", &bed.path("pki"));
    let copy = |source: &str, target: &str| {
        let json = ["--progress", "none", "--output", "json"];
        finish(wrap().args([BINARY, "copy", source, target]).args(json)).done()
    };
    let there = copy(&source.display().to_string(), &uri);
    assert_same(&source, &bed.path("target"));
    let back = bed.path("open/back").display().to_string();
    copy(&uri, &back);
    assert_same(&source, &bed.path("open/back"));
    server.stop();
    let result = there.object();
    assert_eq!(result["durable"], true, "{result}");
    result
}

/// A bed in which another user may write into `open`.
fn shared_bed() -> Bed {
    let bed = Bed::new();
    std::fs::create_dir(bed.path("open")).unwrap();
    for name in ["", "open", "tmp"] {
        let everybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(bed.path(name), everybody).unwrap();
    }
    bed
}

#[test]
fn where_io_uring_is_denied_everything_runs_on_epoll_and_says_why() {
    for (errno, why) in DENIALS {
        let bed = shared_bed();
        let wrap = || without_io_uring(&bed, errno);
        let other = DENIALS.iter().find(|(name, _)| *name != errno).unwrap().1;
        let told = |text: &str| {
            assert!(text.contains(why), "{errno}: {text}");
            assert!(!text.contains(other), "{errno}: {text}");
        };
        let probe = finish(wrap().args([BINARY, "probe", "--output", "json"])).done();
        let found = probe.object();
        assert_eq!(found["tier"], "epoll", "{found}");
        told(found["tier_reason"].as_str().unwrap());
        let result = serve_and_copy(&bed, wrap, |server| {
            assert_eq!(server.tier, "epoll");
            let status = server.transfers("GET", "/v1/status", "").json(200);
            assert_eq!(status["tier"], "epoll", "{status}");
            told(status["tier_reason"].as_str().unwrap());
        });
        assert_eq!(result["tier"], "epoll", "{result}");
        told(result["warnings"][0].as_str().unwrap());
        // Who asks for a ring is not given something else.
        let asked = ["copy", "null:1M", "null:", "--runtime", "plain"];
        let run = finish(wrap().arg(BINARY).args(asked));
        told(run.refused(2));
    }
}

#[test]
fn a_ring_that_can_be_had_in_small_only_gives_way_to_epoll() {
    if !cfg!(target_endian = "little") {
        return skip("kernel filters of this machine see the other half of an argument");
    }
    let bed = shared_bed();
    if common::tiers(&bed) == ["epoll"] {
        return skip("kernel has no ring that could be too large");
    }
    let wrap = || without_io_uring(&bed, "ENOMEM");
    let told = |text: &str| {
        assert!(text.contains("only in small"), "{text}");
        assert!(text.contains("no memory for the ring"), "{text}");
        assert!(text.contains("LimitMEMLOCK"), "{text}");
    };
    let probe = finish(wrap().args([BINARY, "probe", "--output", "json"])).done();
    assert_eq!(probe.object()["tier"], "epoll", "{probe:?}");
    told(probe.object()["tier_reason"].as_str().unwrap());
    let result = serve_and_copy(&bed, wrap, |server| {
        assert_eq!(server.tier, "epoll", "{}", server.log());
        let status = server.transfers("GET", "/v1/status", "").json(200);
        told(status["tier_reason"].as_str().unwrap());
        assert_eq!(status["registered_buffers"], false);
    });
    assert_eq!(result["tier"], "epoll", "{result}");
    told(result["warnings"][0].as_str().unwrap());
    let asked = ["copy", "null:1M", "null:", "--runtime", "plain"];
    let run = finish(wrap().arg(BINARY).args(asked));
    assert!(run.refused(2).contains("no ring for the shard"), "{run:?}");
}

#[test]
fn an_ordinary_user_with_little_memory_to_lock_is_served_all_the_same() {
    if !have("prlimit") || !have("setpriv") {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let bed = shared_bed();
    let wrap = || {
        let mut command = bed.command("prlimit");
        command.args(["--memlock=65536:65536", "setpriv", "--reuid=65534"]);
        command.args(["--regid=65534", "--clear-groups", "--no-new-privs"]);
        command.args(["--inh-caps=-all", "--bounding-set=-all"]);
        command
    };
    let probe = finish(wrap().args([BINARY, "probe", "--output", "json"])).done();
    let found = probe.object();
    assert_eq!(found["registered_buffers"], false, "{found}");
    let advice = found["advice"].to_string();
    if found["tier"] != "epoll" {
        assert!(advice.contains("64.0 KiB") && advice.contains("LimitMEMLOCK"));
    }
    let result = serve_and_copy(&bed, wrap, |server| {
        let status = server.transfers("GET", "/v1/status", "").json(200);
        assert_eq!(status["registered_buffers"], false, "{status}");
        assert_eq!(status["tier"], found["tier"], "{status}");
        let log = server.log();
        let told = log.matches("not registered").count();
        assert_eq!(told, 1, "once: {log}");
        assert_eq!(
            server.metrics(["migratekit_dataplane_registered_buffers"]),
            [0]
        );
    });
    assert_eq!(result["tier"], found["tier"], "{result}");
}
