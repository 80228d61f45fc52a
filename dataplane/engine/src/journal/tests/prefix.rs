//! Whatever happens to the bytes: what is read is a prefix of what was appended, or an error.

use super::*;

/// The lines of a file and where each ends; the first two are magic and header.
fn line_ends(bytes: &[u8]) -> Vec<usize> {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1).collect()
}

/// A file with these records, and what must be read back after each of its lines from the header's on.
fn written(records: &[Record]) -> (Vec<u8>, Vec<Model>) {
    let mut chain = Chain::new();
    let mut bytes = MAGIC.to_vec();
    frame::encode_header(&mut chain, &header(), &mut bytes).expect("short");
    let mut models = vec![Model::default()];
    for record in records {
        let mut model = models.last().expect("never empty").clone();
        model.apply(record);
        let bodies = record.bodies();
        for body in &bodies {
            chain.encode(body, &mut bytes).expect("short");
            models.push(model.clone());
        }
    }
    (bytes, models)
}

/// Records that take one line each, so that each line has its own state.
fn single_lines() -> impl Strategy<Value = Vec<Record>> {
    let one_line = |record: &Record| record.bodies().len() == 1;
    prop::collection::vec(record().prop_filter("one line", one_line), 1..10)
}

#[track_caller]
fn check_prefix(bytes: &[u8], whole_lines: usize, models: &[Model]) {
    match replay_bytes(bytes) {
        Ok(replayed) => {
            assert!(whole_lines >= 2, "a header that was not there");
            assert_eq!(Model::of(&replayed), models[whole_lines - 2]);
            assert_eq!(replayed.header, header());
            assert_eq!(
                replayed.valid_bytes + replayed.torn_bytes,
                bytes.len() as u64
            );
        }
        Err(error) => {
            assert!(whole_lines < 2, "{error:?}");
            assert_eq!(error.kind, ErrorKind::Refused);
            assert!(!error.remedy.is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_was_appended_is_read_back(records in prop::collection::vec(record(), 0..12)) {
        let (bytes, models) = written(&records);
        let replayed = replay_bytes(&bytes).expect("whole");
        prop_assert_eq!(&Model::of(&replayed), models.last().expect("never empty"));
        prop_assert_eq!(replayed.torn_bytes, 0);
        prop_assert_eq!(replayed.valid_bytes, bytes.len() as u64);
    }

    #[test]
    fn a_cut_anywhere_leaves_a_prefix(records in single_lines(), at: prop::sample::Index) {
        let (mut bytes, models) = written(&records);
        let cut = at.index(bytes.len() + 1);
        let whole = line_ends(&bytes).iter().filter(|end| **end <= cut).count();
        bytes.truncate(cut);
        check_prefix(&bytes, whole, &models);
    }

    #[test]
    fn a_changed_byte_ends_the_file_before_its_line(
        records in single_lines(),
        at: prop::sample::Index,
        change in 1..=255u8,
    ) {
        let (mut bytes, models) = written(&records);
        let at = at.index(bytes.len());
        let whole = line_ends(&bytes).iter().filter(|end| **end <= at).count();
        bytes[at] ^= change;
        check_prefix(&bytes, whole, &models);
    }

    #[test]
    fn a_line_moved_lost_or_doubled_ends_the_file_there(
        records in single_lines(),
        from: prop::sample::Index,
        to: prop::sample::Index,
        how in 0..3u8,
    ) {
        let (bytes, models) = written(&records);
        let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        let (from, to) = (from.index(lines.len()), to.index(lines.len()));
        let intact = match how {
            0 => {
                lines.swap(from, to);
                if from == to { lines.len() } else { from.min(to) }
            }
            1 => {
                lines.remove(from);
                from
            }
            _ => {
                lines.insert(from, lines[from]);
                from + 1
            }
        };
        check_prefix(&lines.concat(), intact, &models);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        with_magic: bool,
    ) {
        let mut file = if with_magic { MAGIC.to_vec() } else { Vec::new() };
        file.extend(bytes);
        prop_assert!(replay_bytes(&file).is_err());
    }

    /// The checksum is right here: somebody wrote it on purpose.
    #[test]
    fn no_numbers_make_it_panic(
        pieces in prop::collection::vec((any::<u64>(), any::<u64>()), 0..4),
        near in prop::collection::vec((0..BLOCKS * BLOCK + 9, 0..BLOCKS * BLOCK), 0..4),
        field in 0..5usize,
    ) {
        let pieces: Vec<(u64, u64)> = pieces.into_iter().chain(near).collect();
        let digests: Vec<(u64, Digest)> =
            pieces.iter().map(|(at, _)| (*at, Digest([3; 32]))).collect();
        let json = [
            serde_json::json!({"durable": {"ranges": pieces}}),
            serde_json::json!({"durable": {"zero_chunks": pieces}}),
            serde_json::json!({"durable": {"digests": digests}}),
            serde_json::json!({"verified": {"ranges": pieces}}),
            serde_json::json!({"void": {"ranges": pieces, "reason": "x"}}),
        ];
        let mut chain = Chain::new();
        let mut bytes = MAGIC.to_vec();
        frame::encode_header(&mut chain, &header(), &mut bytes).expect("short");
        chain.encode(&json[field], &mut bytes).expect("short");
        if let Ok(replayed) = replay_bytes(&bytes) {
            prop_assert!(replayed.durable.end() <= BLOCKS * BLOCK);
            prop_assert!(replayed.verified.end() <= BLOCKS * BLOCK);
            prop_assert!(replayed.digests.zero_chunks().end() <= CHUNKS);
        }
    }

    #[test]
    fn the_digest_map_knows_what_a_naive_map_knows(
        ops in prop::collection::vec((0..300u64, 0..90u64, 0..4u8), 0..40),
    ) {
        let mut map = DigestMap::new();
        let mut naive = BTreeMap::new();
        for (chunk, len, op) in ops {
            match op {
                0 => {
                    map.insert_zero(chunk..chunk + len);
                    let zero = crate::digest::zero_chunk_digest();
                    naive.extend((chunk..chunk + len).map(|chunk| (chunk, zero)));
                }
                1 => {
                    map.remove(chunk..chunk + len);
                    naive.retain(|other, _| !(chunk..chunk + len).contains(other));
                }
                _ => {
                    let digest = Digest([op + 7; 32]);
                    map.insert(chunk, digest);
                    naive.insert(chunk, digest);
                }
            }
            prop_assert_eq!(map.len(), naive.len() as u64);
            prop_assert_eq!(map.is_empty(), naive.is_empty());
        }
        for chunk in 0..400 {
            prop_assert_eq!(map.get(chunk), naive.get(&chunk).copied());
        }
        let data: Vec<u64> = map.iter_data().map(|(chunk, _)| chunk).collect();
        let zero = crate::digest::zero_chunk_digest();
        naive.retain(|_, digest| *digest != zero);
        prop_assert_eq!(data, naive.into_keys().collect::<Vec<_>>());
    }
}

#[test]
fn long_lists_are_split_and_every_line_is_short() {
    let ranges: ExtentSet = (0..5_000).map(|n| n << 40 | 1..n << 40 | 7).collect();
    let mut digests = DigestMap::new();
    for chunk in 0..2_000 {
        digests.insert(u64::MAX / CHUNK_BYTES - 4_000 + 2 * chunk, Digest([9; 32]));
    }
    let record = Record::Durable { ranges, digests };
    let void = Record::Void {
        ranges: ExtentSet::full(1),
        reason: "\u{1}".repeat(9_000),
    };
    let mut chain = Chain::new();
    let mut bytes = Vec::new();
    for body in record.bodies().iter().chain(&void.bodies()) {
        chain.encode(body, &mut bytes).expect("short enough");
    }
    let longest = bytes.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
    assert!(longest.expect("not empty") < RECORD_BYTES_MAX);
    assert_eq!(line_ends(&bytes).len(), 5 + 4 + 1);
}

#[test]
fn fields_and_records_that_we_do_not_know_are_refused() {
    for json in [
        serde_json::json!({"durable": {"ranges": [], "more": 1}}),
        serde_json::json!({"other": {}}),
        serde_json::json!({"header": header()}),
        serde_json::json!([1]),
        serde_json::json!({"durable": {"ranges": [[BLOCKS * BLOCK, 1]]}}),
        serde_json::json!({"durable": {"ranges": [[0, 0]]}}),
        serde_json::json!({"durable": {"digests": [[CHUNKS, Digest([1; 32])]]}}),
        serde_json::json!({"durable": {"digests": [[0, "AB"]]}}),
    ] {
        let mut chain = Chain::new();
        let mut bytes = MAGIC.to_vec();
        frame::encode_header(&mut chain, &header(), &mut bytes).expect("short");
        chain.encode(&json, &mut bytes).expect("short");
        let error = replay_bytes(&bytes).expect_err("not understood");
        assert_eq!(error.kind, ErrorKind::Refused, "{json}");
        assert!(error.what.contains("record 2"), "{error}");
    }
}

#[test]
fn only_the_last_sessions_are_kept() {
    let records: Vec<Record> = (0..200).map(session).collect();
    let (bytes, _) = written(&records);
    let sessions = replay_bytes(&bytes).expect("whole").sessions;
    assert_eq!(sessions.len(), SESSIONS_MAX);
    assert_eq!(sessions.last().map(|last| last.pid), Some(199));
}

#[test]
fn the_sample_of_the_documentation_is_a_journal() {
    let page = include_str!("../../../../../docs/interfaces/journal.md");
    let sample = page
        .split("```text\n")
        .find(|part| part.as_bytes().starts_with(MAGIC));
    let sample = sample.and_then(|part| part.split("```").next());
    let replayed = replay_bytes(sample.expect("it has one").as_bytes()).expect("whole");
    assert_eq!(replayed.torn_bytes, 0);
    assert_eq!(replayed.sessions.len(), 2);
    assert!(replayed.done.is_some() && replayed.digests.len() == 2);
    assert_eq!(replayed.durable.total_bytes(), replayed.header.total_bytes);
}
