//! Bad input: one line that names the thing and the remedy, and its exit code.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::{Bed, have};

/// Files that the cases below speak of.
fn bed() -> Bed {
    let bed = Bed::new();
    bed.disk("disk.raw", 1 << 20);
    bed.disk("small.raw", 4096);
    bed.disk("disk.vhdx", 4096);
    for (name, text) in [
        ("misaligned", "0 512\n100 512\n"),
        ("garbage", "# fine\n\n0 512\nhello world again\n"),
        ("beyond", "1048576 512\n"),
        ("binary", "\u{fffd}\u{1}\n"),
    ] {
        std::fs::write(bed.path(name), text).unwrap();
    }
    std::fs::create_dir(bed.path("folder")).unwrap();
    std::os::unix::fs::symlink("disk.raw", bed.path("link.raw")).unwrap();
    bed
}

/// Arguments, exit code, what the line must name, and the remedy it must tell.
type Case<'a> = (&'a [&'a str], i32, &'a str, &'a str);

#[track_caller]
fn check(bed: &Bed, cases: &[Case<'_>]) {
    for (args, code, thing, remedy) in cases {
        let run = bed.run(args);
        let line = run.refused(*code);
        assert!(line.contains(thing), "{args:?}: no {thing:?} in {line}");
        assert!(line.contains(remedy), "{args:?}: no {remedy:?} in {line}");
        let errors = run.stderr.matches("error: ").count();
        assert_eq!(errors, 1, "{args:?} is told in one line: {run:?}");
        assert!(run.stdout.is_empty(), "{args:?}: {}", run.stdout);
    }
    bed.assert_no_leftovers();
}

#[test]
fn a_bad_source_is_exit_4() {
    check(
        &bed(),
        &[
            (&["copy", "none.raw", "t"], 4, "none.raw", "check the path"),
            (&["copy", "folder", "t"], 4, "folder", "a regular file"),
            (
                &["copy", "none.qcow2", "t"],
                4,
                "none.qcow2",
                "check the path",
            ),
            (
                &["copy", "nbd+unix:///?socket=none.sock", "t"],
                4,
                "none.sock",
                "check that the server runs",
            ),
            (&["info", "none.raw"], 4, "none.raw", "check the path"),
            (
                &["info", "nbd://127.0.0.1:1/x"],
                4,
                "127.0.0.1:1",
                "check that the server runs",
            ),
        ],
    );
}

#[test]
fn a_bad_target_is_exit_5() {
    check(
        &bed(),
        &[
            (
                &["copy", "disk.raw", "none/t"],
                5,
                "none/t",
                "check the path",
            ),
            (
                &["copy", "disk.raw", "small.raw", "--overwrite"],
                5,
                "small.raw",
                "make it larger",
            ),
            (
                &["copy", "disk.raw", "nbd+unix:///?socket=none.sock"],
                5,
                "none.sock",
                "check that the server runs",
            ),
        ],
    );
}

#[test]
fn what_endangers_data_or_secrecy_is_exit_9() {
    let bed = bed();
    let before = std::fs::read(bed.path("disk.raw")).unwrap();
    check(
        &bed,
        &[
            (
                &["copy", "disk.raw", "small.raw"],
                9,
                "small.raw",
                "--overwrite",
            ),
            (
                &["copy", "disk.raw", "disk.raw", "--overwrite"],
                9,
                "same disk",
                "another target",
            ),
            (
                &["copy", "disk.raw", "link.raw", "--overwrite"],
                9,
                "same disk",
                "another target",
            ),
            (
                &["copy", "disk.raw", "nbd://192.0.2.1/x"],
                9,
                "192.0.2.1",
                "mk://",
            ),
            (
                &["copy", "nbd://disk.example/x", "t"],
                9,
                "disk.example",
                "mk://",
            ),
            (
                &["info", "nbd://[2001:db8::1]/x"],
                9,
                "2001:db8::1",
                "mk://",
            ),
        ],
    );
    assert_eq!(std::fs::read(bed.path("disk.raw")).unwrap(), before);
}

#[test]
fn wrong_words_are_exit_2() {
    check(
        &bed(),
        &[
            (&["copy", "", "t"], 2, "empty", "give a path"),
            (&["copy", "null:", "t"], 2, "null:", "null:10G"),
            (&["copy", "null:1KB", "t"], 2, "null:1KB", "null:10G"),
            (&["copy", "http://h/x", "t"], 2, "http", "nbds:"),
            (
                &["copy", "disk.raw", "mk://h/x?speed=1"],
                2,
                "speed",
                "tls-certificates",
            ),
            (
                &["copy", "disk.raw", "mk://h/x"],
                2,
                "mk://h/x",
                "--tls-dir",
            ),
            (&["copy", "disk.raw", "mk://[::1/x"], 2, "[::1", "brackets"),
            (&["copy", "--", "-x", "t"], 2, "-x", "./-x"),
            (
                &["copy", "disk.vhdx", "t"],
                2,
                "disk.vhdx",
                "--source-format",
            ),
            (
                &["copy", "null:1M", "t", "--source-format", "qcow2"],
                2,
                "null:",
                "leave",
            ),
            (
                &["copy", "disk.raw", "t", "--set", "speed=1"],
                2,
                "speed",
                "request_bytes",
            ),
            (
                &["copy", "disk.raw", "t", "--set", "aead=rot13"],
                2,
                "rot13",
                "aes-128-gcm",
            ),
            (
                &["copy", "disk.raw", "t", "--set", "pin"],
                2,
                "pin",
                "NAME=VALUE",
            ),
            (
                &["copy", "disk.raw", "t", "--request-size", "1KB"],
                2,
                "KB",
                "K, M, G",
            ),
            (&["copy", "disk.raw"], 2, "required arguments", ""),
            (&["info", "disk.raw", "--list"], 2, "disk.raw", "--list"),
            (&["info", "null:1M"], 2, "null:", "path"),
        ],
    );
}

#[test]
fn extents_name_their_file_and_line() {
    let copy = |list| ["copy", "disk.raw", "t", "--extents", list];
    check(
        &bed(),
        &[
            (&copy("misaligned"), 2, "misaligned, line 2", "round"),
            (&copy("garbage"), 2, "garbage, line 4", "OFFSET LENGTH"),
            (&copy("beyond"), 2, "beyond, line 1", "belong"),
            (&copy("binary"), 2, "binary, line 1", "OFFSET LENGTH"),
            (&copy("none"), 2, "none", "--extents"),
        ],
    );
}

#[test]
fn no_target_is_made_when_the_input_is_bad() {
    let bed = bed();
    for args in [
        &["copy", "disk.raw", "t", "--extents", "misaligned"][..],
        &["copy", "none.raw", "t"],
        &["copy", "disk.raw", "t", "--set", "speed=1"],
    ] {
        assert_ne!(bed.run(args).code, 0);
        assert!(!bed.path("t").exists(), "{args:?}");
    }
}

#[test]
fn certificates_that_are_missing_or_garbage_are_exit_3() {
    let bed = bed();
    std::fs::write(bed.path("folder/ca-cert.pem"), "garbage").unwrap();
    check(
        &bed,
        &[
            (
                &["info", "mk://127.0.0.1:1/x", "--tls-dir", "none"],
                3,
                "none/ca-cert.pem",
                "pki init",
            ),
            (
                &["info", "mk://127.0.0.1:1/x", "--tls-dir", "folder"],
                3,
                "folder",
                "",
            ),
        ],
    );
}

#[test]
fn an_error_is_an_object_too_when_objects_are_asked_for() {
    let bed = bed();
    let run = bed.run(&["copy", "none.raw", "t", "--output", "json"]);
    assert!(run.refused(4).contains("none.raw"));
    let object = run.object();
    assert_eq!(object["schema"], 1);
    assert_eq!(object["outcome"], "failed");
    assert_eq!(object["error"]["kind"], "source");
    assert_eq!(object["error"]["exit_code"], 4);
    assert!(object["error"]["on"].as_str().unwrap().contains("none.raw"));
}

#[test]
fn wrong_usage_is_an_object_too_when_objects_are_asked_for() {
    let bed = bed();
    let cases: [(&[&str], &str, &str); 4] = [
        (&["copy", "--output", "json"], "copy", "<TARGET>"),
        (
            &["copy", "a", "b", "--wrong", "--output=json"],
            "copy",
            "--wrong",
        ),
        (&["info", "--output", "json", "a", "b"], "info", "'b'"),
        (
            &["probe", "--output", "json", "--output", "json"],
            "probe",
            "--output",
        ),
    ];
    for (args, verb, thing) in cases {
        let run = bed.run(args);
        assert!(run.refused(2).starts_with("error: "), "{run:?}");
        let object = run.object();
        assert_eq!(object["command"], verb, "{object}");
        assert_eq!(object["outcome"], "failed", "{object}");
        assert_eq!(object["error"]["kind"], "usage", "{object}");
        assert_eq!(object["error"]["exit_code"], 2, "{object}");
        let what = object["error"]["what"].as_str().unwrap();
        assert!(what.contains(thing), "{args:?}: {what}");
    }
    let run = bed.run(&["copy", "--wrong", "--output", "text"]);
    assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{run:?}");
}

#[test]
fn an_image_that_names_other_files_is_refused_until_it_is_trusted() {
    if !have("qemu-img") || !have("qemu-nbd") {
        return;
    }
    let bed = bed();
    let base = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "disk.raw",
        "-F",
        "raw",
        "over.qcow2",
    ];
    bed.tool("qemu-img", &base);
    bed.tool(
        "qemu-img",
        &[
            "convert",
            "-O",
            "vmdk",
            "-o",
            "subformat=monolithicFlat",
            "disk.raw",
            "flat.vmdk",
        ],
    );
    let data = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "data_file=disk.data",
        "data.qcow2",
        "1M",
    ];
    bed.tool("qemu-img", &data);
    check(
        &bed,
        &[
            (
                &["copy", "over.qcow2", "t"],
                9,
                "disk.raw",
                "--allow-backing",
            ),
            (
                &["copy", "flat.vmdk", "t"],
                9,
                "flat-flat.vmdk",
                "--allow-backing",
            ),
            (
                &["copy", "data.qcow2", "t"],
                9,
                "disk.data",
                "--allow-backing",
            ),
        ],
    );
    assert!(!bed.path("t").exists());
    bed.run(&["copy", "over.qcow2", "t", "--allow-backing"])
        .done();
    common::assert_same(&bed.path("disk.raw"), &bed.path("t"));
}

#[test]
fn a_file_that_is_no_image_is_told_and_nothing_is_left_running() {
    if !have("qemu-img") {
        return;
    }
    let bed = bed();
    std::fs::write(bed.path("junk.qcow2"), "not an image").unwrap();
    check(
        &bed,
        &[(
            &["copy", "junk.qcow2", "t"],
            4,
            "junk.qcow2",
            "--source-format",
        )],
    );
}

#[test]
fn a_missing_qemu_is_told_with_its_package() {
    let bed = bed();
    std::fs::write(bed.path("x.qcow2"), "whatever").unwrap();
    let run = common::finish(
        bed.command(common::BINARY)
            .env("PATH", bed.dir())
            .args(["copy", "x.qcow2", "t"]),
    );
    let line = run.refused(4);
    assert!(
        line.contains("qemu-img") && line.contains("qemu-utils"),
        "{line}"
    );
}

#[test]
fn an_unknown_export_is_told_by_both_ends_of_a_copy() {
    if !have("nbdkit") {
        return;
    }
    let bed = bed();
    let strict = [
        "--filter=exportname",
        "memory",
        "1M",
        "exportname-strict=true",
        "exportname=real",
    ];
    let place = r#"socket=$(echo "$uri" | sed 's/.*socket=//')"#;
    for (code, words) in [
        (4, "copy \"$other\" t"),
        (5, "copy disk.raw \"$other\""),
        (4, "info \"$other\""),
    ] {
        let script =
            format!("{place}; other=\"nbd+unix:///none?socket=$socket\"; \"$BIN\" {words}");
        let run = bed.under_nbdkit(&strict, &script);
        let line = run.refused(code);
        assert!(line.contains("export none"), "{line}");
        assert!(line.contains("check the export's name"), "{line}");
    }
}

#[test]
fn a_read_only_export_is_no_target() {
    if !have("nbdkit") {
        return;
    }
    let bed = bed();
    let run = bed.under_nbdkit(&["-r", "memory", "1M"], r#""$BIN" copy disk.raw "$uri""#);
    let line = run.refused(5);
    assert!(
        line.contains("read-only") && line.contains("nbdkit"),
        "{line}"
    );
    assert!(line.contains("export it for writing"), "{line}");
}

#[test]
fn an_export_that_is_too_small_is_no_target() {
    if !have("nbdkit") {
        return;
    }
    let bed = bed();
    let run = bed.under_nbdkit(&["memory", "64K"], r#""$BIN" copy disk.raw "$uri""#);
    let line = run.refused(5).to_owned();
    assert!(line.contains("65536") && line.contains("small"), "{line}");
    assert!(line.contains("at least the source's size"), "{line}");
}
