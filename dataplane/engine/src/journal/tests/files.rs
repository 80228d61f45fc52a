//! On real files: names, modes, locks, torn tails, compaction.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use tempfile::TempDir;

use super::{
    compact::{Point, compact},
    *,
};

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.journal");
    (folder, path)
}

fn reopen(path: &Path) -> Replayed {
    Journal::open(path).expect("a journal").1
}

#[test]
fn a_journal_is_created_once_for_its_owner_alone_and_read_back() {
    let (_folder, path) = folder();
    let mut journal = Journal::create(&path, &header()).expect("created");
    journal
        .append(&[session(4), durable(ExtentSet::full(BLOCK))])
        .expect("appended");
    drop(journal);
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = Journal::create(&path, &header()).expect_err("there already");
    assert_eq!(again.kind, ErrorKind::Refused);
    assert!(again.remedy.contains("--resume"));

    let (mut journal, replayed) = Journal::open(&path).expect("a journal");
    assert_eq!(replayed.header, header());
    assert_eq!(replayed.durable, ExtentSet::full(BLOCK));
    journal
        .append(&[durable(ExtentSet::full(2 * BLOCK))])
        .expect("appended");
    drop(journal);
    assert_eq!(reopen(&path).durable, ExtentSet::full(2 * BLOCK));
}

#[test]
fn a_journal_in_use_is_refused_and_its_process_named() {
    let (_folder, path) = folder();
    let mut journal = Journal::create(&path, &header()).expect("created");
    let unnamed = Journal::open(&path).expect_err("in use");
    assert_eq!(unnamed.what, "the journal is in use by another process");
    journal.append(&[session(4_711)]).expect("appended");
    let named = Journal::open(&path).expect_err("in use");
    assert_eq!(named.kind, ErrorKind::Refused);
    assert_eq!(named.what, "the journal is in use by process 4711");
    drop(journal);
    reopen(&path);
}

#[test]
fn a_torn_tail_is_cut_off_and_told() {
    let (_folder, path) = folder();
    let mut journal = Journal::create(&path, &header()).expect("created");
    journal.append(&[session(1)]).expect("appended");
    drop(journal);
    let mut bytes = fs::read(&path).expect("there");
    let whole = bytes.len();
    bytes.extend_from_slice(b"0123456789abcdef half a reco");
    fs::write(&path, &bytes).expect("written");

    let (mut journal, replayed) = Journal::open(&path).expect("a journal");
    assert_eq!(replayed.torn_bytes, 28);
    assert_eq!(fs::metadata(&path).expect("there").len(), whole as u64);
    journal.append(&[session(2)]).expect("appended");
    drop(journal);
    let replayed = reopen(&path);
    assert_eq!((replayed.torn_bytes, replayed.sessions.len()), (0, 2));
}

/// Rot in the middle cuts off what was taken back behind it: whatever is left is not believed unseen, now and later.
#[test]
fn a_journal_that_is_damaged_in_the_middle_is_of_no_session() {
    let (folder, path) = folder();
    let mut journal = Journal::create(&path, &header()).expect("created");
    journal
        .append(&[session(1), durable(ExtentSet::full(BLOCK))])
        .expect("appended");
    let rotten = fs::metadata(&path).expect("there").len();
    for pid in [2, 3] {
        journal.append(&[session(pid)]).expect("appended");
    }
    let void = Record::Void {
        ranges: ExtentSet::full(BLOCK),
        reason: "differs".into(),
    };
    journal.append(&[void]).expect("appended");
    drop(journal);
    let mut bytes = fs::read(&path).expect("there");
    bytes[usize::try_from(rotten).expect("short")] ^= 1;
    // Where no second file can be made, the first one is cut and goes on.
    for blocked in [false, true] {
        fs::write(&path, &bytes).expect("written");
        let beside = folder.path().join("a.journal.compact");
        if blocked {
            fs::write(&beside, "somebody else's").expect("written");
        }
        let (journal, replayed) = Journal::open(&path).expect("a journal");
        assert!(replayed.damaged && replayed.torn_bytes > 0);
        drop(journal);
        for replayed in [replayed, reopen(&path)] {
            let last = replayed.sessions.last().expect("a session");
            assert_eq!((&last.boot_id, last.diskseq), (&None, None), "{blocked}");
            assert_eq!(replayed.durable, ExtentSet::full(BLOCK));
        }
        assert!(!reopen(&path).damaged, "said once");
    }
}

#[test]
fn what_a_crash_inside_create_left_is_begun_anew() {
    let (_folder, path) = folder();
    assert!(!Journal::is_begun(&path));
    drop(Journal::create(&path, &header()).expect("created"));
    let whole = fs::read(&path).expect("there");
    for len in 0..=whole.len() {
        fs::write(&path, &whole[..len]).expect("written");
        assert_eq!(Journal::is_begun(&path), len == whole.len(), "{len} bytes");
        let made = Journal::create(&path, &header());
        assert_eq!(made.is_ok(), len < whole.len(), "{len} bytes");
        if made.is_ok() {
            let error = Journal::create(&path, &header()).expect_err("in use");
            assert_eq!(error.kind, ErrorKind::Refused);
        }
        drop(made);
        assert_eq!(fs::read(&path).expect("there"), whole);
    }
    for other in [&b"0 512 # extents\n"[..], &[0; 4_096]] {
        fs::write(&path, other).expect("written");
        assert!(Journal::is_begun(&path));
        Journal::create(&path, &header()).expect_err("somebody else's");
        assert_eq!(fs::read(&path).expect("there"), other);
    }
}

#[test]
fn what_is_no_journal_is_refused_and_not_touched() {
    let (folder, path) = folder();
    let newer = Header {
        schema: SCHEMA + 1,
        ..header()
    };
    let line = |json: &serde_json::Value| {
        let mut bytes = MAGIC.to_vec();
        let json = &serde_json::json!({ "header": json });
        Chain::new().encode(json, &mut bytes).expect("short");
        bytes
    };
    let mut with_field = serde_json::to_value(&newer).expect("a header");
    with_field["of_the_future"] = serde_json::json!(1);
    let older = serde_json::json!({"schema": 0});
    for (bytes, what) in [
        (b"0 512 # extents\n".to_vec(), "no journal"),
        (vec![0; 4_096], "no journal"),
        (Vec::new(), "no whole header"),
        (b"migratekit-j".to_vec(), "no whole header"),
        (MAGIC.to_vec(), "no whole header"),
        (line(&with_field), "schema 2"),
        (line(&older), "cannot be understood"),
    ] {
        fs::write(&path, &bytes).expect("written");
        let error = Journal::open(&path).expect_err("refused");
        assert_eq!(error.kind, ErrorKind::Refused, "{error}");
        assert!(error.what.contains(what), "{error}");
        assert!(!error.on.is_empty() && !error.remedy.is_empty());
        assert_eq!(fs::read(&path).expect("there"), bytes);
    }
    fs::remove_file(&path).expect("removed");
    for missing in [path.as_path(), folder.path()] {
        let error = Journal::open(missing).expect_err("no file");
        assert_eq!(error.kind, ErrorKind::Config);
    }
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    assert_eq!(
        Journal::open(&path).expect_err("a fifo").kind,
        ErrorKind::Config
    );
}

/// A file that says the same many times over, and what it says.
fn wordy(path: &Path, times: u64) -> Replayed {
    let mut journal = Journal::create(path, &header()).expect("created");
    let mut digests = DigestMap::new();
    digests.insert(0, Digest([5; 32]));
    digests.insert_zero(2..4);
    let records: Vec<Record> = (0..times)
        .map(|n| match n % 2 {
            0 => Record::Durable {
                ranges: ExtentSet::full(BLOCKS * BLOCK),
                digests: digests.clone(),
            },
            _ => Record::Void {
                ranges: std::iter::once((n % BLOCKS) * BLOCK..(n % BLOCKS + 1) * BLOCK).collect(),
                reason: "x".repeat(100),
            },
        })
        .chain([
            Record::Verified {
                ranges: ExtentSet::full(5 * BLOCK),
            },
            session(6),
            Record::Done(Done { unix_s: 3 }),
        ])
        .collect();
    journal.append(&records).expect("appended");
    drop(journal);
    says(path)
}

/// What the file says, lengths apart.
fn says(path: &Path) -> Replayed {
    let file = disk::open_existing(path).expect("there");
    let (replayed, _) = replay::replay(&file, path).expect("a journal");
    without_lengths(replayed)
}

fn without_lengths(replayed: Replayed) -> Replayed {
    Replayed {
        valid_bytes: 0,
        ..replayed
    }
}

fn replayed(path: &Path) -> Replayed {
    let file = disk::open_existing(path).expect("there");
    replay::replay(&file, path).expect("a journal").0
}

#[test]
fn open_compacts_a_long_file_and_goes_on_in_it() {
    let (folder, path) = folder();
    let expected = wordy(&path, 8_000);
    let before = fs::metadata(&path).expect("there");
    assert!(before.len() > COMPACT_ABOVE_BYTES);
    let (mut journal, replayed) = Journal::open(&path).expect("a journal");
    assert_eq!(without_lengths(replayed), expected);
    let after = fs::metadata(&path).expect("there");
    assert!(after.len() < 4_096 && after.ino() != before.ino());
    assert_eq!(after.permissions().mode() & 0o777, 0o600);
    // The lock came along.
    assert_eq!(
        Journal::open(&path).expect_err("in use").kind,
        ErrorKind::Refused
    );
    journal.append(&[session(7)]).expect("appended");
    drop(journal);
    let replayed = reopen(&path);
    assert_eq!(replayed.torn_bytes, 0);
    assert_eq!(replayed.sessions.len(), expected.sessions.len() + 1);
    assert_eq!(replayed.durable, expected.durable);
    assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1);
}

#[test]
fn a_crash_at_any_point_of_compaction_leaves_one_whole_journal() {
    let (folder, path) = folder();
    let expected = wordy(&path, 60);
    let old = fs::read(&path).expect("there");
    let beside = folder.path().join("a.journal.compact");
    let mut points = Vec::new();
    let mut crashed = Vec::new();
    let done = compact(&path, &replayed(&path), &mut |point| {
        points.push(point);
        let at_path = fs::read(&path)?;
        let leftover = fs::read(&beside).unwrap_or_default();
        // Unsynced bytes may be there in part, and a rename is on the medium when the folder is.
        for len in [0, 1, leftover.len() / 2, leftover.len()] {
            crashed.push((
                at_path.clone(),
                leftover[..len.min(leftover.len())].to_vec(),
            ));
        }
        if point == Point::Renamed {
            crashed.push((old.clone(), at_path));
        }
        Ok(())
    });
    assert!(done.expect("no fault").is_some());
    let all = [
        Point::Created,
        Point::Written,
        Point::Synced,
        Point::Renamed,
        Point::FolderSynced,
    ];
    assert_eq!(points, all);
    for (at_path, leftover) in crashed {
        let (folder, path) = super::files::folder();
        fs::write(&path, at_path).expect("written");
        fs::write(folder.path().join("a.journal.compact"), leftover).expect("written");
        assert_eq!(without_lengths(reopen(&path)), expected);
        // And the leftover stands in nobody's way.
        let shorter = compact(&path, &replayed(&path), &mut |_| Ok(())).expect("no fault");
        drop(shorter);
        assert_eq!(says(&path), expected);
    }
}

#[test]
fn a_fault_before_the_rename_keeps_the_old_file_and_one_behind_it_is_an_error() {
    for (fails, kept) in [
        (Point::Created, true),
        (Point::Written, true),
        (Point::Synced, true),
        (Point::Renamed, false),
        (Point::FolderSynced, false),
    ] {
        let (folder, path) = folder();
        let expected = wordy(&path, 60);
        let inode = fs::metadata(&path).expect("there").ino();
        let done = compact(&path, &replayed(&path), &mut |point| {
            if point == fails {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        });
        assert_eq!(done.is_ok(), kept, "{fails:?}");
        assert!(done.is_err() || done.is_ok_and(|done| done.is_none()));
        assert_eq!(says(&path), expected);
        let same = fs::metadata(&path).expect("there").ino() == inode;
        assert_eq!(same, kept);
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1);
    }
}

#[test]
fn compaction_leaves_a_file_of_somebody_else_alone() {
    let (folder, path) = folder();
    wordy(&path, 60);
    let beside = folder.path().join("a.journal.compact");
    fs::write(&beside, "mine").expect("written");
    let done = compact(&path, &replayed(&path), &mut |_| Ok(()));
    assert!(done.expect("no fault").is_none());
    assert_eq!(fs::read(&beside).expect("there"), b"mine");
}

#[test]
fn a_short_file_is_not_compacted() {
    let (_folder, path) = folder();
    wordy(&path, 1);
    let done = compact(&path, &replayed(&path), &mut |_| Ok(()));
    assert!(done.expect("no fault").is_none());
}

#[test]
fn a_journal_that_cannot_be_created_leaves_nothing() {
    let (folder, path) = folder();
    let long = Header {
        version: "x".repeat(RECORD_BYTES_MAX),
        ..header()
    };
    assert_eq!(
        Journal::create(&path, &long).expect_err("too long").kind,
        ErrorKind::Config
    );
    assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
    let nowhere = folder.path().join("no/such/folder/a.journal");
    assert_eq!(
        Journal::create(&nowhere, &header())
            .expect_err("no folder")
            .kind,
        ErrorKind::Config
    );
}
