//! The tool against a real server.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "what is skipped is said aloud")]

mod site;

use serde_json::Value;
use site::Site;

#[test]
fn check_sees_the_clock_and_the_device_of_a_peer() {
    let Some(site) = Site::start(&["--export", "n=null:1G"]) else {
        return;
    };
    let told = site.tune(&["check", "--output", "json", "--peer", &site.uri("n")]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let report: Value = serde_json::from_slice(&told.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let find = |fact: &str| findings.iter().find(|one| one["fact"] == fact).unwrap();
    assert_eq!(find("clock skew")["verdict"], "good", "{report}");
    assert_eq!(find("direct i/o")["verdict"], "good", "{report}");
    assert!(find("tier")["verdict"] != "unseen", "{report}");
}

#[test]
fn a_peer_that_is_not_there_is_told() {
    let Some(site) = Site::start(&["--export", "n=null:1G"]) else {
        return;
    };
    let told = site.tune(&["check", "--peer", &site.uri("other")]);
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(5), "{text}");
    assert!(text.contains("there is no export other"), "{text}");
}

#[test]
fn run_measures_against_a_null_export_and_leaves_the_target_as_it_was() {
    let Some(site) = Site::start(&["--export", "n=null:1G"]) else {
        return;
    };
    let before = site.device_depth();
    let target = site.uri("n");
    let args = [
        "run",
        "--mib",
        "4",
        "--budget",
        "3s",
        "--knobs",
        "connections,device_depth",
    ];
    let start = [
        "--start",
        "connections=1",
        "--start",
        "device_depth=8",
        "--beside-live",
    ];
    let told = site.tune(
        &[
            &args[..],
            &start,
            &["--output", "json", "--target", &target],
        ]
        .concat(),
    );
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let report: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(report["start"]["device_depth"], 8, "{report}");
    for one in report["tried"].as_array().unwrap() {
        assert!(one["pairs"].as_u64() >= Some(5), "{report}");
        assert!(one["rate_to"].as_f64() > Some(0.0), "{report}");
    }
    // The trial ends with its connection.
    site.until_device_depth(before);
}

#[test]
fn what_was_applied_can_be_reverted() {
    let Some(site) = Site::start(&["--export", "n=null:1G"]) else {
        return;
    };
    let before = site.device_depth();
    let target = site.uri("n");
    let args = [
        "run",
        "--mib",
        "1",
        "--budget",
        "1s",
        "--knobs",
        "device_depth",
        "--beside-live",
    ];
    let told = site.tune(
        &[
            &args[..],
            &["--apply", "--output", "json", "--target", &target],
        ]
        .concat(),
    );
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let report: Value = serde_json::from_slice(&told.stdout).unwrap();
    let found = report["best"]["device_depth"].as_u64().unwrap();
    site.until_device_depth(found);
    let changed = found != before;
    let told = site.tune(&["run", "--revert", "--target", &target]);
    assert_eq!(told.status.success(), changed, "{told:?}");
    assert_eq!(site.device_depth(), before);
}

#[test]
fn run_refuses_an_export_that_holds_data() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let export = format!("d={}", disk.path().display());
    let Some(site) = Site::start(&["--export", &export]) else {
        return;
    };
    let told = site.tune(&["run", "--target", &site.uri("d")]);
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(9), "{text}");
    assert!(text.contains("overwrite"), "{text}");
}
