//! Regular files as sources and targets.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    error::Error as _,
    fs,
    io::Write as _,
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::PathBuf,
};

use sys::{DeviceFile, DeviceKind, OpenIntent, OpenOptions, SetupError, SetupErrorKind};

struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        // Next to the build, not in /tmp: that may be a tmpfs, where direct I/O differs.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn create(size: u64) -> OpenOptions {
    OpenOptions {
        create_size_bytes: Some(size),
        ..OpenOptions::default()
    }
}

fn target_error(path: &std::path::Path, options: &OpenOptions) -> SetupError {
    DeviceFile::open(path, OpenIntent::Target, options).unwrap_err()
}

#[test]
fn a_missing_target_is_created_private_with_its_size_and_refused_the_second_time() {
    let folder = Folder::new();
    let path = folder.path("disk.raw");
    let file = DeviceFile::open(&path, OpenIntent::Target, &create(1 << 20)).unwrap();
    assert_eq!(
        (file.kind(), file.size_bytes()),
        (DeviceKind::Regular, 1 << 20)
    );
    assert!(!file.is_read_only());
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(file.identity().inode, metadata.ino());
    drop(file);

    let error = target_error(&path, &create(1 << 20));
    assert_eq!(error.kind(), SetupErrorKind::Refused);
    assert!(error.to_string().contains("exists already"), "{error}");
    let overwrite = OpenOptions {
        overwrite: true,
        ..create(1 << 20)
    };
    DeviceFile::open(&path, OpenIntent::Target, &overwrite).unwrap();
}

#[test]
fn a_larger_target_is_not_cut_and_a_smaller_one_is_refused_with_both_sizes() {
    let folder = Folder::new();
    let path = folder.file("disk.raw", &[7; 8192]);
    let options = |size| OpenOptions {
        overwrite: true,
        ..create(size)
    };
    let file = DeviceFile::open(&path, OpenIntent::Target, &options(4096)).unwrap();
    assert_eq!(file.size_bytes(), 8192);
    drop(file);
    let error = target_error(&path, &options(12_288));
    assert_eq!(error.kind(), SetupErrorKind::TooSmall);
    assert!(
        error.to_string().contains("8192") && error.to_string().contains("12288"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), [7; 8192]);
}

#[test]
fn a_second_target_is_refused_while_the_first_is_open() {
    let folder = Folder::new();
    let path = folder.file("disk.raw", &[0; 4096]);
    let options = OpenOptions {
        overwrite: true,
        ..OpenOptions::default()
    };
    let first = DeviceFile::open(&path, OpenIntent::Target, &options).unwrap();
    assert_eq!(target_error(&path, &options).kind(), SetupErrorKind::Busy);
    let error = DeviceFile::open(&path, OpenIntent::Source, &options).unwrap_err();
    assert_eq!(
        error.kind(),
        SetupErrorKind::Busy,
        "a source under a writer"
    );
    drop(first);
    let _one = DeviceFile::open(&path, OpenIntent::Source, &options).unwrap();
    let _two = DeviceFile::open(&path, OpenIntent::Source, &options).unwrap();
    assert_eq!(target_error(&path, &options).kind(), SetupErrorKind::Busy);
}

#[test]
fn other_kinds_are_refused_by_name() {
    let folder = Folder::new();
    let fifo = folder.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let link = folder.path("loop");
    symlink(&link, &link).unwrap();
    for (path, kind, text) in [
        (folder.path("."), SetupErrorKind::Invalid, "a directory"),
        (
            PathBuf::from("/dev/null"),
            SetupErrorKind::Invalid,
            "a character device",
        ),
        (fifo, SetupErrorKind::Invalid, "a FIFO"),
        (
            folder.path("none"),
            SetupErrorKind::NotFound,
            "cannot be found",
        ),
        (link, SetupErrorKind::Invalid, "cannot be found"),
    ] {
        let options = OpenOptions::default();
        let error = DeviceFile::open(&path, OpenIntent::Source, &options).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn an_error_keeps_the_systems_answer_as_its_source() {
    let error = DeviceFile::open(
        "/nowhere/x".as_ref(),
        OpenIntent::Source,
        &OpenOptions::default(),
    )
    .unwrap_err();
    assert_eq!(error.errno(), Some(2));
    assert!(error.source().is_some());
    assert!(
        !error.to_string().contains("os error"),
        "the source is not retold: {error}"
    );
}

#[test]
fn links_are_resolved_once_and_a_redirected_path_is_noticed() {
    let folder = Folder::new();
    let (first, second) = (
        folder.file("first", &[1; 4096]),
        folder.file("second", &[2; 4096]),
    );
    let link = folder.path("link");
    symlink(&first, &link).unwrap();
    let file = DeviceFile::open(&link, OpenIntent::Source, &OpenOptions::default()).unwrap();
    assert_eq!(file.path(), link);
    assert_eq!(file.resolved_path(), first.canonicalize().unwrap());
    file.revalidate().unwrap();

    fs::remove_file(&link).unwrap();
    symlink(&second, &link).unwrap();
    assert_eq!(
        file.revalidate().unwrap_err().kind(),
        SetupErrorKind::Refused
    );
    let mut byte = [0];
    file.read_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [1], "the descriptor stays with the first");
}

#[test]
fn a_file_that_was_made_anew_has_another_birth() {
    let folder = Folder::new();
    let identity = |path: &std::path::Path| {
        let opened = DeviceFile::open(path, OpenIntent::Source, &OpenOptions::default());
        opened.unwrap().identity().clone()
    };
    let path = folder.file("disk.raw", &[1; 4096]);
    let first = identity(&path);
    let Some(born_ns) = first.born_ns else {
        return eprintln!("SKIP: this file system does not know when a file was made");
    };
    fs::write(&path, [2; 4096]).unwrap();
    assert_eq!(identity(&path), first, "writing makes no other file");
    fs::remove_file(&path).unwrap();
    // A file system may tell times by its tick; the inode is free for the new file all the while.
    let reborn = (0..).find_map(|_| {
        let reborn = identity(&folder.file("disk.raw", &[1; 4096]));
        fs::remove_file(&path).unwrap();
        (reborn.born_ns != Some(born_ns)).then_some(reborn)
    });
    assert!(reborn.unwrap().born_ns > Some(born_ns));
}

#[test]
fn a_changed_size_is_noticed() {
    let folder = Folder::new();
    let path = folder.file("disk.raw", &[0; 4096]);
    let file = DeviceFile::open(&path, OpenIntent::Source, &OpenOptions::default()).unwrap();
    fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b"x")
        .unwrap();
    let error = file.revalidate().unwrap_err();
    assert!(error.to_string().contains("4097"), "{error}");
}

#[test]
fn data_and_holes_are_told_apart() {
    let folder = Folder::new();
    let path = folder.path("sparse");
    let raw = fs::File::create(&path).unwrap();
    raw.set_len(4 << 20).unwrap();
    raw.write_all_at(&[1; 4096], 1 << 20).unwrap();
    let file = DeviceFile::open(&path, OpenIntent::Source, &OpenOptions::default()).unwrap();
    let (start, end) = file.next_data(0).unwrap().unwrap();
    assert!(
        start <= 1 << 20 && ((1 << 20) + 4096..4 << 20).contains(&end),
        "{start}..{end}"
    );
    assert_eq!(file.next_data(end).unwrap(), None);
    assert_eq!(file.next_data(u64::MAX).unwrap(), None);
}

#[test]
fn reads_are_short_at_the_end_only() {
    let folder = Folder::new();
    let path = folder.file("odd", &[5; 5000]);
    let file = DeviceFile::open(&path, OpenIntent::Source, &OpenOptions::default()).unwrap();
    let mut buf = [0; 4096];
    assert_eq!(file.read_at(&mut buf, 4096).unwrap(), 904);
    assert_eq!(file.read_at(&mut buf, 5000).unwrap(), 0);
    assert!(file.is_read_only());
}

#[test]
fn slow_paths_write_flush_and_forget() {
    let folder = Folder::new();
    let path = folder.path("disk.raw");
    let file = DeviceFile::open(&path, OpenIntent::Target, &create(8192)).unwrap();
    file.write_all_at(&[3; 100], 1234).unwrap();
    file.flush_blocking().unwrap();
    file.drop_page_cache().unwrap();
    let mut buf = [0; 102];
    assert_eq!(file.read_at(&mut buf, 1233).unwrap(), 102);
    assert_eq!((buf[0], buf[1], buf[100], buf[101]), (0, 3, 3, 0));
}

#[test]
fn buffered_only_needs_no_alignment() {
    let folder = Folder::new();
    let options = OpenOptions {
        buffered_only: true,
        ..create(4096)
    };
    let file = DeviceFile::open(&folder.path("b"), OpenIntent::Target, &options).unwrap();
    assert!(!file.is_direct());
    assert_eq!(file.direct_align(), 1);
    file.flush_blocking().unwrap();
}
