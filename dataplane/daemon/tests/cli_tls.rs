//! Both ends are ours: `serve` on a port of the kernel's choice, `copy` and `info` over `mk://` and `nbds://`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use common::{BINARY, Bed, Run, assert_same, finish};

/// A running server; ends by its handle.
struct Server {
    child: Child,
    /// Kept open: the server may say more.
    _stdout: BufReader<ChildStdout>,
    mk: String,
    nbds: String,
}

impl Server {
    /// Serves `exports` with the certificates of the folder `site`.
    fn start(bed: &Bed, exports: &[&str]) -> Self {
        let mut command = bed.command(BINARY);
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--nbds-listen",
            "127.0.0.1:0",
        ]);
        command.args(["--tls-dir", "site"]);
        for export in exports {
            command.args(["--export", export]);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (mut mk, mut nbds) = (String::new(), String::new());
        while mk.is_empty() || nbds.is_empty() {
            let mut line = String::new();
            assert!(
                stdout.read_line(&mut line).unwrap() > 0,
                "the server ended: {:?}",
                child.wait()
            );
            match line
                .trim()
                .strip_prefix("listening ")
                .map(|place| place.split_once(' '))
            {
                Some(Some(("nbds", address))) => nbds = format!("nbds://{address}"),
                Some(None) => mk = format!("mk://{}", line.trim().rsplit(' ').next().unwrap()),
                _ => {}
            }
        }
        Self {
            child,
            _stdout: stdout,
            mk,
            nbds,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A bed with certificates in `site`, and a folder `bare` with nothing but the authority.
fn bed() -> Bed {
    let bed = Bed::new();
    bed.run(&[
        "pki",
        "init",
        "site",
        "--host",
        "localhost",
        "--host",
        "127.0.0.1",
    ])
    .done();
    bed.run(&["pki", "init", "foreign", "--host", "127.0.0.1"])
        .done();
    std::fs::create_dir(bed.path("bare")).unwrap();
    std::fs::copy(bed.path("site/ca-cert.pem"), bed.path("bare/ca-cert.pem")).unwrap();
    bed
}

fn copy(bed: &Bed, source: &str, target: &str) -> Run {
    bed.run(&[
        "copy",
        source,
        target,
        "--tls-dir",
        "site",
        "--output",
        "json",
    ])
}

#[test]
fn a_disk_travels_out_and_back_over_both_kinds_of_tls() {
    let bed = bed();
    let disk = bed.disk("a", (12 << 20) + 512);
    std::fs::write(bed.path("served"), vec![0xee; (12 << 20) + 512]).unwrap();
    let server = Server::start(&bed, &["disk=served"]);
    let there = copy(&bed, "a", &format!("{}/disk", server.mk))
        .done()
        .object();
    assert_same(&disk, &bed.path("served"));
    assert_eq!(there["durable"], true);
    assert_eq!(there["plaintext_copied_bytes"], 0);
    assert!(
        there["suite"].as_str().unwrap().starts_with("TLS_"),
        "{there}"
    );
    for (uri, name) in [(&server.nbds, "starttls"), (&server.mk, "first")] {
        copy(&bed, &format!("{uri}/disk"), name).done();
        assert_same(&disk, &bed.path(name));
    }
}

#[test]
fn info_tells_the_suite_and_the_exports() {
    let bed = bed();
    bed.disk("a", 1 << 20);
    let server = Server::start(&bed, &["one=ro:a", "two=null:1M"]);
    for (uri, kind) in [(&server.mk, "first"), (&server.nbds, "starttls")] {
        let one = format!("{uri}/one");
        let args = ["info", &one, "--tls-dir", "site", "--output", "json"];
        let info = bed.run(&args).done().object();
        assert_eq!(
            (&info["tls"], &info["read_only"]),
            (&kind.into(), &true.into())
        );
        assert!(
            info["suite"].as_str().unwrap().starts_with("TLS_"),
            "{info}"
        );
        let list = bed
            .run(&["info", uri, "--tls-dir", "site", "--list"])
            .done();
        assert_eq!(list.stdout, "\"one\"\n\"two\"\n");
    }
}

#[test]
fn certificates_that_do_not_fit_are_exit_3_and_say_why() {
    let bed = bed();
    bed.disk("a", 1 << 20);
    let server = Server::start(&bed, &["disk=ro:a"]);
    for uri in [&server.mk, &server.nbds] {
        let plain = format!("{uri}/disk");
        let other_name = format!("{uri}/disk?tls-hostname=other.example");
        for (uri, dir, why) in [
            (&plain, "foreign", "authority"),
            (&plain, "bare", "certificate_required"),
            (&other_name, "site", "other.example"),
        ] {
            let run = bed.run(&["info", uri, "--tls-dir", dir]);
            assert!(run.refused(3).contains(uri.as_str()), "{run:?}");
            assert!(run.stderr.contains(why), "{why}: {run:?}");
        }
    }
}

#[test]
fn the_kind_of_tls_must_fit_the_port() {
    let bed = bed();
    let server = Server::start(&bed, &["disk=null:1M"]);
    let crossed = server.nbds.replace("nbds://", "mk://");
    let run = bed.run(&["info", &format!("{crossed}/disk"), "--tls-dir", "site"]);
    assert!(run.refused(3).contains(&crossed), "{run:?}");
}

#[test]
fn a_server_that_dies_in_the_middle_is_exit_6() {
    let bed = bed();
    bed.disk("a", 64 << 20);
    let server = Server::start(&bed, &["disk=null:64M"]);
    let mut child = bed
        .command(BINARY)
        .args([
            "copy",
            "a",
            &format!("{}/disk", server.mk),
            "--tls-dir",
            "site",
        ])
        .args([
            "--rate-limit",
            "64K",
            "--progress",
            "json",
            "--request-size",
            "64K",
            "--reconnect-timeout",
            "2",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let moving = lines.by_ref().map(Result::unwrap).any(|line| {
        let object: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        object["data_bytes"].as_u64().is_some_and(|bytes| bytes > 0)
    });
    assert!(moving, "the copy ended before it moved a byte");
    drop(server);
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(6), "{rest:?}");
    assert!(
        rest.iter().any(|line| line.starts_with("error: ")),
        "{rest:?}"
    );
}

#[test]
fn a_rate_limit_is_kept() {
    let bed = Bed::new();
    bed.disk("a", 9 << 20);
    let run = finish(bed.command(BINARY).args([
        "copy",
        "a",
        "b",
        "--rate-limit",
        "4M",
        "--output",
        "json",
    ]));
    let result = run.done().object();
    // Six MiB of data; a second of burst is generous.
    let elapsed = result["elapsed_s"].as_f64().unwrap();
    assert!(elapsed >= 0.5, "{elapsed} s is too fast: {result}");
}
