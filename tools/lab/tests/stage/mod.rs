//! What the tests with devices share.

use lab::{Backing, CloudStack, Options};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// Whether this machine can have devices; says so if not.
pub(crate) fn able() -> bool {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("SKIP: needs root");
        return false;
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(device).exists() {
            eprintln!("SKIP: kernel has no {device}");
            return false;
        }
    }
    true
}

/// A lab with devices and a clock that the test moves, in a folder that must outlive it.
pub(crate) fn lab() -> (TempDir, CloudStack) {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path());
    options.backing = Backing::Devices;
    options.manual_clock = true;
    let lab = CloudStack::start(&options).unwrap();
    (folder, lab)
}

/// Submits, lets twenty seconds pass, and answers the job.
pub(crate) fn run(lab: &CloudStack, pairs: &[(&str, &str)]) -> serde_json::Value {
    let (status, answer) = lab.control().call(pairs);
    assert_eq!(status, 200, "{answer}");
    let job = answer.as_object().unwrap().values().next().unwrap()["jobid"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(lab.control().advance(Duration::from_secs(20)));
    let (_, answer) = lab
        .control()
        .call(&[("command", "queryAsyncJobResult"), ("jobid", &job)]);
    answer["queryasyncjobresultresponse"].clone()
}

/// The text at the end of a path of keys and places.
pub(crate) fn text(answer: &serde_json::Value, path: &str) -> String {
    let found = answer.pointer(path).and_then(serde_json::Value::as_str);
    found
        .unwrap_or_else(|| panic!("no {path} in {answer}"))
        .to_owned()
}
