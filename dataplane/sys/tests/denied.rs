//! Where io_uring is forbidden or missing: the messages, and the fallback.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{path::PathBuf, process::Command};

use sys::{RuntimeChoice, SetupErrorKind, Tier, runtime};

/// Set by the outer test for the inner one, which runs under the filter.
const EXPECTED: &str = "EXPECTED_ERRNO";

/// Examples are built next to the tests.
fn deny_io_uring() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/deny_io_uring")
}

/// Runs one of the ignored tests below under a filter that answers `errno`.
fn under_filter(errno: &str, test: &str) {
    let output = Command::new(deny_io_uring())
        .args([errno, "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(EXPECTED, errno)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn eperm_and_enosys_are_told_apart_and_auto_falls_back() {
    for errno in ["EPERM", "ENOSYS"] {
        under_filter(errno, "inner_choices");
    }
}

#[test]
#[ignore = "runs under a filter, started by the test above"]
fn inner_choices() {
    let expected = std::env::var(EXPECTED).unwrap();
    let (kind, text) = match expected.as_str() {
        "EPERM" => (SetupErrorKind::Permission, "kernel.io_uring_disabled"),
        _ => (
            SetupErrorKind::Unsupported,
            "not in this kernel, or a seccomp filter",
        ),
    };
    for choice in [RuntimeChoice::Rich, RuntimeChoice::Plain] {
        let error = runtime::select(choice).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.to_string().contains("seccomp"), "{error}");
    }
    let report = runtime::select(RuntimeChoice::Auto).unwrap();
    assert_eq!(report.tier, Tier::Epoll);
    assert!(report.reason.contains(text), "{}", report.reason);
    assert!(!report.registered_buffers);
}
