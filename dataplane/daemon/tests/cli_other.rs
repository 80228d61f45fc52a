//! `info`, `probe`, `pki`, help and version by the real binary.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{BINARY, Bed, finish, have};

#[test]
fn a_file_is_described_with_its_map() {
    let bed = Bed::new();
    bed.disk("a", 3 << 20);
    let result = bed
        .run(&["info", "a", "--map", "--output", "json"])
        .done()
        .object();
    assert_eq!(result["schema"], 1);
    assert_eq!(result["kind"], "file");
    assert_eq!(result["size_bytes"], 3 << 20);
    let map = result["map"].as_array().unwrap();
    let total: u64 = map
        .iter()
        .map(|entry| entry["length_bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(total, 3 << 20);
    assert!(map.iter().any(|entry| entry["hole"] == true), "{map:?}");
    let text = bed.run(&["info", "a", "--map"]).done().stdout;
    assert!(
        text.contains("direct") && text.contains("hole,zero"),
        "{text}"
    );
}

#[test]
fn a_server_is_described_as_it_says_itself() {
    if !have("nbdkit") {
        return;
    }
    let bed = Bed::new();
    bed.disk("a", 3 << 20);
    let script = r#""$BIN" info "$uri" --map --output json"#;
    let result = bed.under_nbdkit(&["file", "a"], script).done().object();
    assert_eq!(result["kind"], "export");
    assert_eq!(result["size_bytes"], 3 << 20);
    assert_eq!(result["read_only"], false);
    assert!(result["tls"].is_null() && result["suite"].is_null());
    let flags = result["flags"].to_string();
    assert!(
        flags.contains("flush") && flags.contains("multi_conn"),
        "{flags}"
    );
    assert!(result["contexts"].to_string().contains("base:allocation"));
    let map = result["map"].as_array().unwrap();
    assert!(map.iter().any(|entry| entry["zero"] == true), "{map:?}");
    let text = bed
        .under_nbdkit(&["-r", "file", "a"], r#""$BIN" info "$uri""#)
        .done()
        .stdout;
    assert!(text.contains("read_only"), "{text}");
}

#[test]
fn the_map_equals_the_one_of_nbdinfo() {
    if !have("nbdkit") || !have("nbdinfo") {
        return;
    }
    let bed = Bed::new();
    bed.disk("a", 3 << 20);
    let script = r#"nbdinfo --map --json "$uri" | tr -d '\n' && echo && "$BIN" info "$uri" --map --output json"#;
    let run = bed.under_nbdkit(&["file", "a"], script).done();
    let (theirs, ours) = run.stdout.split_once('\n').unwrap();
    let theirs: serde_json::Value = serde_json::from_str(theirs).unwrap();
    let ours: serde_json::Value = serde_json::from_str(ours).unwrap();
    let theirs: Vec<_> = theirs
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let kind = entry["type"].as_u64().unwrap();
            (
                entry["offset"].as_u64(),
                entry["length"].as_u64(),
                kind & 1 != 0,
                kind & 2 != 0,
            )
        })
        .collect();
    let ours: Vec<_> = ours["map"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let flag = |name: &str| entry[name].as_bool().unwrap();
            (
                entry["offset_bytes"].as_u64(),
                entry["length_bytes"].as_u64(),
                flag("hole"),
                flag("zero"),
            )
        })
        .collect();
    assert_eq!(ours, theirs);
}

#[test]
fn exports_are_listed() {
    if !have("nbdkit") {
        return;
    }
    let bed = Bed::new();
    let kit = [
        "--filter=exportname",
        "memory",
        "1M",
        "exportname-list=explicit",
        "exportname=first",
        "exportname=se cond",
    ];
    let run = bed
        .under_nbdkit(&kit, r#""$BIN" info "$uri" --list --output json"#)
        .done();
    let names: Vec<_> = run.object()["exports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|export| export["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["first", "se cond"]);
    let text = bed
        .under_nbdkit(&kit, r#""$BIN" info "$uri" --list"#)
        .done()
        .stdout;
    assert_eq!(text, "\"first\"\n\"se cond\"\n");
}

#[test]
fn probe_measures_every_cipher_and_names_the_tier() {
    let bed = Bed::new();
    let result = bed.run(&["probe", "--output", "json"]).done().object();
    assert_eq!(result["schema"], 1);
    let tier = result["tier"].as_str().unwrap();
    assert!(["rich", "plain", "epoll"].contains(&tier), "{tier}");
    let ciphers = result["ciphers"].as_array().unwrap();
    assert_eq!(ciphers.len(), 3);
    assert!(
        ciphers
            .iter()
            .all(|cipher| cipher["seal_bytes_per_s"].as_u64().unwrap() > 0)
    );
    assert!(result["machine"]["cpus_usable"].as_u64().unwrap() >= 1);
}

#[test]
fn the_self_test_passes_and_leaves_nothing() {
    let bed = Bed::new();
    let run = bed
        .run(&["probe", "--self-test", "--output", "json"])
        .done();
    let tests = run.object()["self_test"].as_array().unwrap().clone();
    assert!(tests.len() >= 4, "{tests:?}");
    assert!(
        tests.iter().all(|test| test["error"].is_null()),
        "{tests:?}"
    );
    bed.assert_no_leftovers();
}

#[test]
fn a_site_is_made_once_and_openssl_accepts_it() {
    let bed = Bed::new();
    let init = [
        "pki",
        "init",
        "site",
        "--host",
        "disk.example",
        "--host",
        "127.0.0.1",
    ];
    let run = bed.run(&init).done();
    assert_eq!(
        run.stdout
            .lines()
            .filter(|line| line.starts_with("sha256 "))
            .count(),
        3
    );
    let mode = |name: &str| {
        std::fs::metadata(bed.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("site/server-key.pem"), mode("site/server-cert.pem")),
        (0o600, 0o644)
    );
    assert!(bed.run(&init).refused(9).contains("not overwritten"));
    let issued = bed
        .run(&["pki", "issue-client", "site", "vma-1", "--output", "json"])
        .done();
    let fingerprint = issued.object()["fingerprints"][1]["sha256"]
        .as_str()
        .unwrap()
        .to_owned();
    bed.run(&["pki", "issue-client", "site", "vma-1"])
        .refused(9);
    if have("openssl") {
        assert_openssl_agrees(&bed, &fingerprint);
    }
}

/// Chain, purposes, names and fingerprint, seen by somebody else.
fn assert_openssl_agrees(bed: &Bed, fingerprint: &str) {
    let ca = "site/ca-cert.pem";
    let client = "site/clients/vma-1/client-cert.pem";
    let verify = ["verify", "-CAfile", ca, "-purpose"];
    let server = [
        "sslserver",
        "-verify_hostname",
        "disk.example",
        "site/server-cert.pem",
    ];
    bed.tool("openssl", &[&verify[..], &server].concat());
    bed.tool("openssl", &[&verify[..], &["sslclient", client]].concat());
    let theirs = bed.tool(
        "openssl",
        &["x509", "-noout", "-fingerprint", "-sha256", "-in", client],
    );
    let theirs = theirs
        .stdout
        .trim()
        .rsplit('=')
        .next()
        .unwrap()
        .replace(':', "");
    assert_eq!(theirs.to_lowercase(), fingerprint);
}

#[test]
fn help_and_version_are_results_and_wrong_words_are_not() {
    let bed = Bed::new();
    let version = bed.run(&["--version"]).done();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../VERSION.txt");
    let expected = std::fs::read_to_string(file).unwrap();
    assert_eq!(
        version.stdout.trim(),
        format!("migratekit-dataplane {}", expected.trim())
    );
    let help = bed.run(&["--help"]).done();
    assert!(help.stdout.contains("Exit codes") && help.stderr.is_empty());
    let wrong = bed.run(&["fly"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stdout.is_empty() && wrong.stderr.contains("fly"));
}

#[test]
fn a_result_that_cannot_be_written_is_told() {
    let bed = Bed::new();
    bed.disk("a", 4096);
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let run = finish(bed.command(BINARY).args(["info", "a"]).stdout(full));
    assert!(run.refused(2).contains("standard output"), "{run:?}");
}
