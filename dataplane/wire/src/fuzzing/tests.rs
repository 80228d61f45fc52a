//! Replays the corpus, and drives the fuzz bodies with random input.

use std::path::PathBuf;

use proptest::prelude::*;

use super::disk::Wish;
use super::pair::{Script, run};
use super::seeds::seeds;
use super::*;
use crate::proto::OPTION_MAGIC;

type Body = fn(&[u8]);

const TARGETS: [(&str, Body); 5] = [
    ("server_handshake", server_handshake),
    ("server_transmission", server_transmission),
    ("client_handshake", client_handshake),
    ("client_transmission", client_transmission),
    ("pair", pair),
];

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The fuzzers' inputs, findings included, are regression tests for ever.
#[test]
fn every_input_of_the_corpus_is_survived() {
    for (target, body) in TARGETS {
        let mut count = 0;
        for entry in std::fs::read_dir(corpus().join(target)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            body(&std::fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 0, "no corpus for {target}");
    }
}

/// With WIRE_WRITE_SEEDS=1 in the environment the files are written instead.
#[test]
fn the_seed_files_are_those_the_code_makes() {
    let is_writing = std::env::var_os("WIRE_WRITE_SEEDS").is_some();
    for (target, name, bytes) in seeds() {
        let folder = corpus().join(target);
        let path = folder.join(&name);
        if is_writing {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let found = std::fs::read(&path).unwrap_or_default();
        assert!(
            found == bytes,
            "{target}/{name} is stale: run with WIRE_WRITE_SEEDS=1"
        );
    }
}

/// A seed that is refused at its first byte explores nothing.
#[test]
fn the_transmission_seeds_are_understood_to_their_end() {
    for (target, name, bytes) in seeds() {
        if target != "client_transmission" {
            continue;
        }
        let mode = mode_of(bytes[0]);
        let contexts = if mode == Mode::Simple {
            vec![]
        } else {
            vec![(1, "a".to_owned())]
        };
        let params = ClientParams {
            info: export_info(),
            mode,
            contexts,
            block_sizes_stated: true,
        };
        let mut conn = ClientConn::new(&params, 8);
        for (command, flags, offset, len) in CLIENT_REQUESTS {
            let is_status = command == Command::BlockStatus && mode == Mode::Simple;
            let command = if is_status { Command::Flush } else { command };
            conn.start(command, flags, offset, len, &mut HeaderBuf::new())
                .unwrap();
        }
        let mut rest = &bytes[2..];
        while !rest.is_empty() {
            let used = match conn.want() {
                ClientWant::Header { .. } => conn.handle_header(rest).expect(&name).0,
                ClientWant::Payload { len, .. } => {
                    conn.handle_payload(len);
                    len as usize
                }
                ClientWant::Closed => panic!("{name}: closed"),
            };
            rest = &rest[used..];
        }
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    let flags = prop_oneof![
        4 => Just(0_u16),
        2 => prop::sample::select(vec![1, 2, 4, 8, 16, 17]),
        1 => any::<u16>(),
    ];
    let range = prop_oneof![
        6 => (0_u64..20_000, 0_u64..9000),
        1 => (0_u64..20_000, Just(u64::from(u32::MAX))),
        1 => (0_u64..20_000, Just(1 << 32)),
        1 => (any::<u64>(), any::<u64>()),
    ];
    (0_u16..8, flags, range, any::<u8>()).prop_map(|(command, flags, (offset, len), fill)| Wish {
        command: Command::from_code(command),
        flags: CommandFlags(flags),
        offset,
        len,
        fill,
    })
}

fn script() -> impl Strategy<Value = Script> {
    let wishes = prop::collection::vec(wish(), 0..40);
    (0_u8..3, 1_usize..20_000, any::<u64>(), wishes).prop_map(|(mode, size_bytes, seed, wishes)| {
        // A third of the requests end one byte before, at, or one byte behind the end of the disk.
        let move_to_end = |mut wish: Wish| {
            if wish.fill.is_multiple_of(3) && wish.len < size_bytes as u64 {
                wish.offset = size_bytes as u64 - wish.len - 1 + u64::from(wish.fill / 3 % 3);
            }
            wish
        };
        let wishes = wishes.into_iter().map(move_to_end).collect();
        Script {
            mode: mode_of(mode),
            size_bytes,
            seed,
            wishes,
        }
    })
}

/// Bytes with the magic numbers in them, so that random input gets past the first check.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just(OPTION_MAGIC.to_be_bytes().to_vec()),
        Just(b"NBDMAGIC".to_vec()),
        Just(0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec()),
        Just(0x2560_9513_u32.to_be_bytes().to_vec()),
        Just(0x21e4_1c71_u32.to_be_bytes().to_vec()),
        Just(0x6744_6698_u32.to_be_bytes().to_vec()),
        Just(0x668e_33ef_u32.to_be_bytes().to_vec()),
        Just(0x6e8a_278c_u32.to_be_bytes().to_vec()),
        (0_u64..12).prop_map(|slot| (1_u64 << 32 | slot).to_be_bytes().to_vec()),
        (0_u32..20).prop_map(|small| small.to_be_bytes().to_vec()),
        (0_u16..20).prop_map(|small| small.to_be_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..20),
    ];
    prop::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

/// A seed with a few bytes changed, taken out or put in: garbage at every state of the protocol.
fn spoilt_seed() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let change = (any::<prop::sample::Index>(), 0_u8..3, any::<u8>());
    (0..seeds().len(), prop::collection::vec(change, 1..5)).prop_map(|(index, changes)| {
        let (target, _, mut bytes) = seeds().swap_remove(index);
        for (place, kind, value) in changes {
            let place = place.index(bytes.len());
            match kind {
                0 => bytes[place] = value,
                1 => drop(bytes.remove(place)),
                _ => bytes.insert(place, value),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let position = TARGETS
            .iter()
            .position(|(name, _)| *name == target)
            .unwrap();
        (position, bytes)
    })
}

/// Failing cases print themselves and their seed; nothing is stored beside the source.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn client_and_server_agree_with_a_naive_disk(script in script()) {
        run(&script);
    }
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn garbage_never_panics_and_always_ends_bounded(noise in noise()) {
        for (_, body) in TARGETS {
            body(&noise);
        }
    }

    #[test]
    fn spoilt_conversations_never_panic((position, bytes) in spoilt_seed()) {
        (TARGETS[position].1)(&bytes);
    }
}
