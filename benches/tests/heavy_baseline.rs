//! The harness itself, on so few bytes that its figures mean nothing: everybody takes part, and ratios decide.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "a skip is told on stdout")]

use benches::ours::{Ours, make_certificates};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

const BENCH: &str = env!("CARGO_BIN_EXE_migratekit-bench");

/// The program that is measured; else a skip is told.
fn ours() -> Option<PathBuf> {
    let beside = Path::new(BENCH).with_file_name("migratekit-dataplane");
    let ours: PathBuf = std::env::var_os("MIGRATEKIT_DATAPLANE").map_or(beside, Into::into);
    if !ours.is_file() {
        println!("SKIP: missing program {}", ours.display());
        return None;
    }
    Some(ours)
}

/// True when everything that takes part is there; else a skip is told.
fn all_are_there() -> bool {
    if ours().is_none() {
        return false;
    }
    for tool in ["nbdkit", "nbdcopy", "qemu-img", "stunnel4"] {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("SKIP: missing tool {tool}");
            return false;
        }
    }
    true
}

fn baseline(folder: &Path, more: &[&str]) -> Output {
    let few = ["baseline", "--quick", "--mib", "16", "--rounds", "1"];
    Command::new(BENCH)
        .current_dir(folder)
        .args(few)
        .args(more)
        .output()
        .unwrap()
}

fn assertions(at_least: f64) -> String {
    format!(
        "[[ratio]]\nscenario = 'write-null'\nof = 'ours'\nto = 'bare pipeline'\nat_least = {at_least}\n"
    )
}

#[test]
fn everybody_takes_part_and_ratios_decide() {
    if !all_are_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("low"), assertions(0.000_001)).unwrap();
    std::fs::write(dir.path().join("high"), assertions(1e9)).unwrap();
    let only = ["--only", "write-null", "--json", "a.json", "--assert"];
    let run = baseline(dir.path(), &[&only[..], &["low"]].concat());
    assert!(run.status.success(), "{run:#?}");
    let text = std::fs::read_to_string(dir.path().join("a.json")).unwrap();
    let result: Value = serde_json::from_str(&text).unwrap();
    let sides = result["scenarios"][0]["contestants"].as_array().unwrap();
    let names: Vec<_> = sides.iter().map(|side| &side["name"]).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    for side in sides {
        let median = side["gib_per_s"]["median"].as_f64().unwrap();
        assert!(median > 0.0, "{side}");
    }
    let run = baseline(dir.path(), &[&only[..], &["high"]].concat());
    assert_eq!(run.status.code(), Some(10), "{run:#?}");
    let compared = Command::new(BENCH)
        .current_dir(dir.path())
        .args(["baseline", "--compare", "a.json", "a.json"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert!(compared.status.success(), "{compared:#?}");
    assert!(text.contains("1.00"), "{text}");
}

#[test]
fn bytes_out_of_a_device_and_into_a_disk_are_measured_too() {
    if !all_are_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let only = [
        "--only",
        "read-loop",
        "--only",
        "write-loop",
        "--only",
        "write-disk",
        "--disk",
        ".",
    ];
    let run = baseline(dir.path(), &only);
    assert!(run.status.success(), "{run:#?}");
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    // Without loop devices that is said, and the disk is measured all the same.
    for line in text.lines().filter(|line| line.starts_with("SKIP: ")) {
        println!("{line}");
    }
    assert!(text.contains("write-disk"), "{text}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_long_line_is_measured_beside_a_short_one() {
    if !all_are_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = baseline(dir.path(), &["--only", "delay", "--json", "a.json"]);
    assert!(run.status.success(), "{run:#?}");
    let text = std::fs::read_to_string(dir.path().join("a.json")).unwrap();
    let result: Value = serde_json::from_str(&text).unwrap();
    let sides = result["scenarios"][0]["contestants"].as_array().unwrap();
    let names: Vec<_> = sides
        .iter()
        .map(|side| side["name"].as_str().unwrap())
        .collect();
    let others = [
        "nbdcopy -> nbdkit, TLS, 0 ms",
        "nbdcopy -> nbdkit, TLS, 50 ms",
    ];
    assert_eq!(
        names,
        [&["ours, 0 ms", "ours, 50 ms"][..], &others[..]].concat()
    );
    let median = |side: &Value| side["gib_per_s"]["median"].as_f64().unwrap();
    // 16 MiB over 50 ms cannot come near what they are without.
    assert!(median(&sides[1]) < median(&sides[0]), "{text}");
}

#[test]
fn what_cannot_be_measured_is_told_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    for (args, word) in [
        (["--only", "write-disk"], "--disk"),
        (["--assert", "missing"], "missing"),
    ] {
        let run = baseline(dir.path(), &args);
        assert_eq!(run.status.code(), Some(2), "{run:#?}");
        let told = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(told.contains(word), "{told}");
    }
}

#[test]
fn another_machine_is_measured_by_what_it_must_reach_and_never_overwritten() {
    let Some(ours) = ours() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    make_certificates(&ours, &at("pki")).unwrap();
    let disk = vec![0x5a; 64 << 20];
    std::fs::write(at("disk"), &disk).unwrap();
    let run = |export: &str, need: &str| {
        let control = tempfile::tempdir().unwrap();
        let server = Ours::start(&ours, &at("pki"), control.path(), export).unwrap();
        let args = ["--target", server.uri(), "--tls-dir", "pki", "--need", need];
        baseline(dir.path(), &args)
    };
    let passed = run("null:64M", "0.000001GiB/s");
    assert!(passed.status.success(), "{passed:#?}");
    let told = String::from_utf8_lossy(&passed.stdout).into_owned();
    assert!(told.contains("PASS: "), "{told}");
    assert_eq!(run("null:64M", "1000000").status.code(), Some(10));
    let name = at("disk").display().to_string();
    let compared = run(&format!("scratch:{name}"), "0.000001");
    let told = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert!(told.contains("integrity stream"), "{compared:#?}");
    std::fs::write(at("disk"), &disk).unwrap();
    let refused = run(&name, "0.000001");
    assert_eq!(refused.status.code(), Some(9), "{refused:#?}");
    assert!(std::fs::read(at("disk")).unwrap() == disk);
}
