//! What fails, one file for each kind of thing.

mod disks;
mod images;
mod journal;
mod targets;

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::common::{Bed, Run};
use crate::crash::{COPY_FLAGS, Copy, SIZE_BYTES};

/// A copy between two places of this machine, with a journal.
fn copy(bed: &Bed, source: &str, target: &str, more: &[&str]) -> Run {
    let args = [&["copy", source, target], &COPY_FLAGS[..], more].concat();
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    Copy::start(bed, &args).wait()
}

/// Asserts that a run failed with `code`, and that one line names the thing and what to do.
#[track_caller]
fn assert_told(run: &Run, code: i32, words: &[&str]) {
    let line = run.refused(code);
    let lines = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "));
    assert_eq!(lines.count(), 1, "{run:#?}");
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line}");
    }
    let (_, remedy) = line.split_once("(fault: ").unwrap();
    assert!(remedy.contains("); "), "no remedy: {line}");
    assert!(!run.stdout.contains(r#""outcome":"done""#), "{run:#?}");
}

/// Changes a byte of a file, and with it the time of its last change.
fn touch_content(path: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0x55], SIZE_BYTES / 2).unwrap();
    file.sync_all().unwrap();
}
