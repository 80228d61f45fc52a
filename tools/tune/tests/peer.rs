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
