//! Starting, reloading and ending.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod server;

use std::os::unix::net::UnixListener;
use std::time::Instant;

use common::{BINARY, Bed, have, skip};
use nix::sys::signal::Signal;
use server::{PATIENCE, Server, pki};

/// Blocks until `condition` holds.
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} does not happen");
        std::thread::yield_now();
    }
}

#[test]
fn new_certificates_serve_new_clients_and_old_connections_stay() {
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
    let server = Server::start(&bed, &args);
    let before = server.transfers("GET", "/v1/status", "").json(200);
    let mut living = server.connect_tls("n", &dir).unwrap();
    let fresh = pki(&bed, "fresh");
    for name in ["ca-cert.pem", "server-cert.pem", "server-key.pem"] {
        std::fs::rename(fresh.join(name), dir.join(name)).unwrap();
    }
    server.signal(Signal::SIGHUP);
    server.wait_for_notice("RELOADING=1");
    server.wait_for_notice("READY=1");
    let after = server.transfers("GET", "/v1/status", "").json(200);
    assert_ne!(before["server_fingerprint"], after["server_fingerprint"]);
    assert_eq!(after["config_generation"], 2);
    living
        .read(0, &mut [0; 512])
        .expect("the old connection lives");
    // Our client certificate is of the old authority, and only the new one counts now.
    assert!(server.connect_tls("n", &dir).is_err());
    for name in ["client-cert.pem", "client-key.pem"] {
        std::fs::rename(fresh.join(name), dir.join(name)).unwrap();
    }
    server.connect_tls("n", &dir).unwrap();
    living
        .read(0, &mut [0; 512])
        .expect("the old connection still lives");
    living.disconnect();
    server.stop();
}

#[test]
fn a_wrong_configuration_changes_nothing_and_is_told() {
    let bed = Bed::new();
    let dir = pki(&bed, "pki");
    std::fs::write(
        bed.path("config.toml"),
        "[[export]]\nname = \"a\"\nnull_bytes = 4096\n",
    )
    .unwrap();
    let args = [
        "--config",
        "config.toml",
        "--listen",
        "127.0.0.1:0",
        "--tls-dir",
        "pki",
        "--control-dir",
        "ctl",
    ];
    let server = Server::start(&bed, &args);
    std::fs::write(
        bed.path("config.toml"),
        "[[export]]\nname = \"b\"\nnul_bytes = 4096\n",
    )
    .unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_notice("RELOADING=1");
    server.wait_for_notice("READY=1");
    let status = server.transfers("GET", "/v1/status", "").json(200);
    assert!(
        status["config_error"]
            .as_str()
            .unwrap()
            .contains("nul_bytes"),
        "{status}"
    );
    assert_eq!(status["config_generation"], 1);
    server.connect_tls("a", &dir).unwrap();
    std::fs::remove_file(dir.join("server-key.pem")).unwrap();
    std::fs::write(
        bed.path("config.toml"),
        "[[export]]\nname = \"b\"\nnull_bytes = 4096\n",
    )
    .unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_notice("RELOADING=1");
    server.wait_for_notice("READY=1");
    let status = server.transfers("GET", "/v1/status", "").json(200);
    assert!(
        status["config_error"]
            .as_str()
            .unwrap()
            .contains("server-key.pem"),
        "{status}"
    );
    server
        .connect_tls("a", &dir)
        .expect("the old certificates and exports are in force");
    assert!(server.connect_tls("b", &dir).is_err());
    server.stop();
}

#[test]
fn a_reload_opens_new_exports_and_closes_old_ones() {
    let bed = Bed::new();
    let config = |names: &[&str]| {
        let export = |name: &&str| format!("[[export]]\nname = \"{name}\"\nnull_bytes = 4096\n");
        let text: String = names.iter().map(export).collect();
        std::fs::write(
            bed.path("config.toml"),
            format!("drain_timeout_s = 0\n{text}"),
        )
        .unwrap();
    };
    config(&["stays", "goes"]);
    let args = [
        "--config",
        "config.toml",
        "--nbd-unix",
        "s",
        "--control-dir",
        "ctl",
    ];
    let server = Server::start(&bed, &args);
    let mut stays = server.connect_unix("stays").unwrap();
    let mut goes = server.connect_unix("goes").unwrap();
    config(&["stays", "comes"]);
    server.signal(Signal::SIGHUP);
    let names = || {
        let list = server.exports("GET", "/v1/exports", "").json(200);
        let exports = list["exports"].as_array().unwrap().clone();
        exports
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    until("the exchange of exports", || names() == ["comes", "stays"]);
    stays.read(0, &mut [0; 512]).unwrap();
    assert!(goes.read(0, &mut [0; 512]).is_err());
    server.connect_unix("comes").unwrap();
    server.stop();
}

#[test]
fn sigterm_lets_clients_finish_and_takes_no_new_ones() {
    let bed = Bed::new();
    let args = [
        "--nbd-unix",
        "s",
        "--export",
        "n=null:1M",
        "--drain-timeout",
        "60",
        "--control-dir",
        "ctl",
    ];
    let server = Server::start(&bed, &args);
    let mut client = server.connect_unix("n").unwrap();
    client.read(0, &mut [0; 512]).unwrap();
    server.signal(Signal::SIGTERM);
    server.wait_for_notice("STOPPING=1");
    until("draining", || {
        server.transfers("GET", "/v1/status", "").json(200)["draining"] == true
    });
    until("the refusal of new clients", || {
        server.connect_unix("n").is_err()
    });
    let error = client.read(0, &mut [0; 512]).unwrap_err();
    let text = format!("{error}: {:?}", error.source);
    assert!(
        text.to_lowercase().contains("shut"),
        "ESHUTDOWN is told: {text}"
    );
    client.disconnect();
    assert_eq!(server.wait(), 0);
}

#[test]
fn clients_that_do_not_go_are_cut_at_the_drain_timeout() {
    let bed = Bed::new();
    let args = [
        "--nbd-unix",
        "s",
        "--export",
        "n=null:1M",
        "--drain-timeout",
        "1",
    ];
    let server = Server::start(&bed, &args);
    let client = server.connect_unix("n").unwrap();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait(), 0);
    drop(client);
}

#[test]
fn a_second_order_ends_at_once() {
    let bed = Bed::new();
    let args = [
        "--nbd-unix",
        "s",
        "--export",
        "n=null:1M",
        "--drain-timeout",
        "600",
    ];
    let server = Server::start(&bed, &args);
    let client = server.connect_unix("n").unwrap();
    server.signal(Signal::SIGTERM);
    server.wait_for_notice("STOPPING=1");
    server.signal(Signal::SIGINT);
    assert_eq!(server.wait(), 8);
    drop(client);
}

#[test]
fn what_cannot_be_served_is_said_with_its_exit_code() {
    let bed = Bed::new();
    pki(&bed, "pki");
    std::fs::write(bed.path("file"), b"x").unwrap();
    let _taken = UnixListener::bind(bed.path("taken")).unwrap();
    let cases: [(&[&str], i32, &str); 7] = [
        (
            &["--tls-dir", "nowhere", "--listen", "127.0.0.1:0"],
            3,
            "ca-cert.pem",
        ),
        (
            &["--nbd-unix", "s", "--export", "d=/nonexistent"],
            5,
            "/nonexistent",
        ),
        (
            &["--nbd-unix", "s", "--export", "d"],
            2,
            "--export NAME=PATH",
        ),
        (&["--nbd-unix", "file"], 9, "no socket"),
        (&["--nbd-unix", "taken"], 9, "in use"),
        (
            &["--tls-dir", "pki", "--nbds-listen", "0.0.0.0:0"],
            9,
            "network",
        ),
        (
            &["--nbd-unix", "s", "--config", "missing.toml"],
            2,
            "missing.toml",
        ),
    ];
    for (args, code, word) in cases {
        let words: Vec<&str> = ["serve"].iter().chain(args).copied().collect();
        let run = bed.run(&words);
        assert!(run.refused(code).contains(word), "{args:?}: {run:?}");
        assert_eq!(run.stdout, "", "{args:?}");
    }
}

#[test]
fn the_socket_of_a_dead_server_is_replaced() {
    let bed = Bed::new();
    drop(UnixListener::bind(bed.path("s")).unwrap());
    assert!(bed.path("s").exists());
    let server = Server::start(&bed, &["--nbd-unix", "s", "--export", "n=null:1M"]);
    server.connect_unix("n").unwrap();
    server.stop();
    assert!(!bed.path("s").exists());
}

#[test]
fn the_configuration_in_force_can_be_printed() {
    let bed = Bed::new();
    let run = bed
        .run(&[
            "serve",
            "--nbd-unix",
            "s",
            "--export",
            "n=null:1M",
            "--print-config",
        ])
        .done();
    assert!(run.stdout.contains("listen = \"none\"\n"), "{run:?}");
    assert!(run.stdout.contains("null_bytes = 1048576\n"), "{run:?}");
}

#[test]
fn without_memory_to_lock_and_without_rights_it_runs_and_says_so() {
    if !have("prlimit") || !have("setpriv") {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let bed = Bed::new();
    // The folder is root's; nobody else could reach it or write into it.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(bed.dir(), open).unwrap();
    let mut command = bed.command("prlimit");
    command
        .args([
            "--memlock=0:0",
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ])
        .args([
            "--no-new-privs",
            "--inh-caps=-all",
            "--bounding-set=-all",
            BINARY,
            "serve",
        ])
        .args(["--nbd-unix", "s", "--export", "n=null:1M"]);
    let server = Server::start_by(&bed, &mut command);
    assert!(server.log().contains("not registered"), "{}", server.log());
    let mut client = server.connect_unix("n").unwrap();
    client.read(0, &mut [0; 4096]).unwrap();
    client.disconnect();
    server.stop();
}
