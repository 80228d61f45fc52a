//! Tests of the files that `pki` makes.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn init_args(dir: &Path) -> PkiInitArgs {
    PkiInitArgs {
        dir: dir.to_owned(),
        hosts: vec!["disk.example".to_owned(), "127.0.0.1".to_owned()],
        days: 30,
        output: OutputFormat::Json,
    }
}

fn issue_args(dir: &Path, name: &str) -> PkiIssueArgs {
    PkiIssueArgs {
        dir: dir.to_owned(),
        name: name.to_owned(),
        days: 30,
        output: OutputFormat::Json,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_site_is_six_files_and_only_keys_are_secret() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("new/site");
    let result = init(&init_args(&site)).unwrap();
    assert_eq!(result.files.len(), 6);
    for path in &result.files {
        let secret = path.to_string_lossy().ends_with("-key.pem");
        assert_eq!(mode(path), if secret { 0o600 } else { 0o644 }, "{path:?}");
    }
    assert_eq!(result.fingerprints.len(), 3);
    assert!(result.fingerprints.iter().all(|f| f.sha256.len() == 64));
}

#[test]
fn both_sides_can_load_what_was_made() {
    use crate::credentials::{Role, load};
    let dir = tempfile::tempdir().unwrap();
    init(&init_args(dir.path())).unwrap();
    let issued = issue_client(&issue_args(dir.path(), "site-2")).unwrap();
    assert!(issued.dir.ends_with("clients/site-2"));
    for (folder, role) in [
        (dir.path(), Role::Server),
        (dir.path(), Role::Client),
        (issued.dir.as_path(), Role::Client),
    ] {
        assert!(load(folder, role).unwrap().key_pem.is_some());
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left_half_made() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("server-key.pem"), "precious").unwrap();
    let failure = init(&init_args(dir.path())).unwrap_err();
    assert_eq!(failure.exit(), Exit::Refused);
    assert!(failure.to_string().contains("server-key.pem"), "{failure}");
    assert_eq!(
        fs::read(dir.path().join("server-key.pem")).unwrap(),
        b"precious"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_dangling_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    let site = dir.path().join("site");
    fs::create_dir(&site).unwrap();
    std::os::unix::fs::symlink(&elsewhere, site.join("ca-cert.pem")).unwrap();
    assert_eq!(init(&init_args(&site)).unwrap_err().exit(), Exit::Refused);
    assert!(!elsewhere.exists());
}

#[test]
fn a_client_needs_an_authority_and_a_plain_name() {
    let dir = tempfile::tempdir().unwrap();
    let failure = issue_client(&issue_args(dir.path(), "a")).unwrap_err();
    assert_eq!(failure.exit(), Exit::Tls);
    assert!(failure.to_string().contains("pki init"), "{failure}");
    for name in [
        "",
        "..",
        "../x",
        "-x",
        ".x",
        "a/b",
        "a b",
        "é",
        &"x".repeat(65),
    ] {
        let failure = issue_client(&issue_args(dir.path(), name)).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage, "{name}");
    }
}

#[test]
fn wrong_hosts_and_days_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = init_args(dir.path());
    args.days = 0;
    assert_eq!(init(&args).unwrap_err().exit(), Exit::Usage);
    args.days = 30;
    args.hosts = vec!["not a name".to_owned()];
    assert_eq!(init(&args).unwrap_err().exit(), Exit::Usage);
}
