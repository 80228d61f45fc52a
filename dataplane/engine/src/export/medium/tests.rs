use super::*;
use crate::{digest::ChunkTree, export::ExportSpec};
use proptest::prelude::*;
use std::{fs, path::Path, sync::Arc};
use sys::{OpenIntent, OpenOptions};

fn content(len: usize) -> Vec<u8> {
    let byte = |at: usize| {
        (at as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_le_bytes()[6]
    };
    (0..len).map(byte).collect()
}

fn export(path: &Path, buffered_only: bool) -> Arc<Export> {
    let options = OpenOptions {
        buffered_only,
        overwrite: true,
        ..OpenOptions::default()
    };
    let file = DeviceFile::open(path, OpenIntent::Target, &options).expect("the file opens");
    Export::new(ExportSpec {
        name: "disk".into(),
        store: Store::Device(Arc::new(file)),
        read_only: false,
        scratch: false,
    })
}

/// A file of this content in a file system on a disk: in memory, direct I/O may not be possible.
fn disk(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let path = dir.path().join("disk");
    fs::write(&path, bytes).expect("the file is written");
    (dir, path)
}

fn expected(bytes: &[u8], chunk: usize) -> Vec<Digest> {
    bytes.chunks(chunk).map(Digest::of).collect()
}

#[test]
fn digests_are_those_of_the_same_bytes_hashed_at_once() {
    let bytes = content(9 * 1024 * 1024 + 4_321);
    let (_dir, path) = disk(&bytes);
    for buffered in [false, true] {
        let export = export(&path, buffered);
        let all = 0..bytes.len() as u64;
        for chunk in [4096, 65_536, 4 << 20] {
            let digests = export
                .hash_medium(all.clone(), chunk as u64)
                .expect("hashed");
            assert!(digests == expected(&bytes, chunk), "chunks of {chunk}");
        }
        let part = export.hash_medium(512..5_000_001, 65_536).expect("hashed");
        assert_eq!(part, expected(&bytes[512..5_000_001], 65_536));
    }
}

#[test]
fn grains_of_the_medium_make_the_digests_of_its_chunks() {
    let bytes = content(9 * 1024 * 1024 + 4_321);
    let size = bytes.len() as u64;
    let (_dir, path) = disk(&bytes);
    let export = export(&path, false);
    let first = 5 * GRAIN_BYTES;
    let mut grains = export.grains_medium(0..first).expect("hashed");
    grains.extend(export.grains_medium(first..size).expect("hashed"));
    for (index, chunk) in bytes.chunks(4 << 20).enumerate() {
        let mut tree = ChunkTree::new(chunk.len() as u64);
        for position in 0..tree.grains() {
            tree.insert(position, grains[index * 64 + position]);
        }
        assert_eq!(tree.root(), Some(Digest::of(chunk)), "chunk {index}");
    }
    for bad in [0..100, 512..GRAIN_BYTES, 0..size - 1] {
        let asked = export.grains_medium(bad);
        assert!(
            matches!(asked, Err(MediumError::Bounds { .. })),
            "{asked:?}"
        );
    }
}

#[test]
fn a_null_export_is_zeroes() {
    let export = Export::new(ExportSpec {
        name: "null".into(),
        store: Store::Null {
            size_bytes: 1 << 40,
        },
        read_only: false,
        scratch: true,
    });
    let digests = export
        .hash_medium(1 << 39..(1 << 39) + 5000, 4096)
        .expect("hashed");
    assert_eq!(digests, expected(&[0; 5000], 4096));
}

#[test]
fn a_write_in_flight_makes_the_range_busy_and_only_that() {
    let bytes = content(16 << 20);
    let (_dir, path) = disk(&bytes);
    let export = export(&path, false);
    let write = (4 << 20)..(4 << 20) + 512;
    export.watch.writes.begin(&write);
    let asked = export.hash_medium(0..5 << 20, 65_536);
    assert!(matches!(asked, Err(MediumError::Busy)), "{asked:?}");
    export
        .hash_medium(8 << 20..16 << 20, 65_536)
        .expect("far from the write");
    export.watch.writes.end(&write);
    export
        .hash_medium(0..5 << 20, 65_536)
        .expect("the write has ended");
}

#[test]
fn a_write_that_begins_and_ends_while_the_medium_is_read_is_noticed() {
    let bytes = content(16 << 20);
    let (_dir, path) = disk(&bytes);
    let export = export(&path, false);
    let mut pieces = 0;
    let outcome = export.read_medium(0..16 << 20, |_, _| {
        pieces += 1;
        if pieces == 2 {
            export.watch.writes.begin(&(0..512));
            export.watch.writes.end(&(0..512));
        }
    });
    assert!(matches!(outcome, Err(MediumError::Busy)), "{outcome:?}");
    assert_eq!(pieces, 2, "it stops there");
}

#[test]
fn a_closing_export_stops_reading() {
    let (_dir, path) = disk(&content(1 << 20));
    let export = export(&path, false);
    export.begin_closing();
    let asked = export.hash_medium(0..1 << 20, 65_536);
    assert!(matches!(asked, Err(MediumError::Closing)), "{asked:?}");
}

#[test]
fn a_file_that_shrank_is_an_error_and_no_digest() {
    let (_dir, path) = disk(&content(1 << 20));
    let export = export(&path, false);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("opens");
    file.set_len(4096).expect("shrinks");
    let asked = export.hash_medium(0..1 << 20, 65_536);
    assert!(
        matches!(asked, Err(MediumError::Short { at_bytes: 4096 })),
        "{asked:?}"
    );
}

#[test]
fn what_no_export_can_answer_is_refused_with_the_limit() {
    let export = Export::new(ExportSpec {
        name: "null".into(),
        store: Store::Null {
            size_bytes: 1 << 40,
        },
        read_only: false,
        scratch: true,
    });
    let gib = 1 << 30;
    for (range, chunk, word) in [
        (1..4097, 4096, "multiple of 512"),
        (0..0, 4096, "1 to 1073741824"),
        (0..gib + 1, 4 << 20, "1 to 1073741824"),
        (1 << 40..(1 << 40) + 1, 4096, "1099511627776 bytes"),
        (0..4096, 2048, "4096 to 4194304"),
        (0..4096, 5000, "powers of two"),
        (0..4096, 8 << 20, "4096 to 4194304"),
        (0..4096, 0, "powers of two"),
        (0..gib, 4096, "65536 fit one answer"),
    ] {
        let error = export
            .hash_medium(range.clone(), chunk)
            .expect_err("refused");
        assert!(
            error.to_string().contains(word),
            "{range:?} {chunk}: {error}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any range of a file with any tail, direct or not.
    #[test]
    fn every_allowed_range_has_the_digests_of_its_bytes(
        len in 1usize..300_000,
        start in 0usize..600,
        cut in any::<prop::sample::Index>(),
        power in 12u32..=22,
        buffered in any::<bool>(),
    ) {
        let bytes = content(len);
        let start = start * 512;
        prop_assume!(start < len);
        let end = start + 1 + cut.index(len - start);
        let (_dir, path) = disk(&bytes);
        let export = export(&path, buffered);
        let digests = export
            .hash_medium(start as u64..end as u64, 1 << power)
            .expect("hashed");
        prop_assert_eq!(digests, expected(&bytes[start..end], 1 << power));
    }
}
