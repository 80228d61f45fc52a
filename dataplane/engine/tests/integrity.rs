//! What a transfer compares, what it survives, and what it must not believe.

mod common;

use common::{Site, file_export, noise, spec, start_engine, tls_door, unix_door};
use engine::{
    Cancel, Checkpoint, CloseHow, Endpoint, EngineError, ErrorKind, ExtentSet,
    digest::{Cv, Digest},
    transfer::{
        self, Integrity, TargetFacts, TargetService, TargetSession, TransferReport, VerifiedBy,
    },
};
use std::{
    fs,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use sys::RuntimeChoice;
use tls::SessionLimits;

/// Data, a long run of zeroes, and a tail that is no multiple of any block; three chunks and a bit.
fn disk(seed: u64) -> Vec<u8> {
    let mut bytes = noise(seed, 13 * 1024 * 1024 + 4_321);
    bytes[4_500_000..8_900_000].fill(0);
    bytes
}

fn count(len: u64) -> usize {
    usize::try_from(len).expect("it fits")
}

struct Place {
    _dir: tempfile::TempDir,
    source: PathBuf,
    target: PathBuf,
    bytes: Vec<u8>,
    diff: bool,
}

fn place(seed: u64) -> Place {
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let bytes = disk(seed);
    fs::write(&source, &bytes).expect("written");
    fs::write(&target, vec![0xaa; bytes.len()]).expect("written");
    Place {
        _dir: dir,
        source,
        target,
        bytes,
        diff: false,
    }
}

/// Small pieces, and a flush for every few of them.
fn eager(mut spec: engine::TransferSpec) -> engine::TransferSpec {
    spec.window_bytes = 1 << 20;
    spec.checkpoint = Checkpoint {
        bytes: 2 << 20,
        every: Duration::from_secs(60),
    };
    spec
}

/// A target that is asked like the real thing, and may be a liar.
#[derive(Clone)]
struct Witness(Arc<Mutex<WitnessState>>);

struct WitnessState {
    target: PathBuf,
    /// Chunks whose digests it gets wrong.
    lies: Vec<u64>,
    /// What it claims to have hashed on arrival.
    hot: bool,
    boot_id: String,
    asked_medium: u64,
    /// How often it hangs up when it is asked for the medium.
    refusals: u64,
    /// How often it was asked who it is, and which of these questions finds it asleep.
    asked_facts: u64,
    asleep_at: u64,
}

impl Witness {
    fn new(target: &Path) -> Self {
        Self(Arc::new(Mutex::new(WitnessState {
            target: target.to_owned(),
            lies: Vec::new(),
            hot: true,
            boot_id: "boot".into(),
            asked_medium: 0,
            refusals: 0,
            asked_facts: 0,
            asleep_at: 0,
        })))
    }

    fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let state = self.0.lock().expect("no panic");
        let file = fs::File::open(&state.target).expect("opens");
        let size = file.metadata().expect("stat").len();
        let mut bytes = vec![0; count(range.end.min(size) - range.start)];
        file.read_exact_at(&mut bytes, range.start).expect("reads");
        bytes
    }

    fn digest(&self, range: Range<u64>) -> Digest {
        let mut digest = Digest::of(&self.bytes(range.clone()));
        let chunk = range.start / engine::digest::CHUNK_BYTES;
        if self.0.lock().expect("no panic").lies.contains(&chunk) {
            digest.0[0] ^= 1;
        }
        digest
    }
}

impl TargetService for Witness {
    fn connect(&self) -> Result<Box<dyn TargetSession>, EngineError> {
        Ok(Box::new(self.clone()))
    }
}

impl TargetSession for Witness {
    fn facts(&mut self) -> Result<TargetFacts, EngineError> {
        let mut state = self.0.lock().expect("no panic");
        state.asked_facts += 1;
        if state.asked_facts == state.asleep_at {
            let (kind, blame) = (ErrorKind::ConnectionLost, engine::Blame::Environment);
            return Err(EngineError::new(kind, blame, "asleep", "witness"));
        }
        Ok(TargetFacts {
            is_file: true,
            size_bytes: fs::metadata(&state.target).expect("stat").len(),
            logical_block: 512,
            serial: None,
            wwid: None,
            diskseq: None,
            dev: 1,
            inode: 2,
            born_ns: Some(3),
            boot_id: state.boot_id.clone(),
            discarded: false,
        })
    }

    fn hashes(&mut self, range: Range<u64>, chunk: u64) -> Result<Vec<Digest>, EngineError> {
        {
            let mut state = self.0.lock().expect("no panic");
            state.asked_medium += 1;
            if state.refusals > 0 {
                state.refusals -= 1;
                let (kind, blame) = (ErrorKind::ConnectionLost, engine::Blame::Environment);
                return Err(EngineError::new(kind, blame, "hung up", "witness"));
            }
        }
        let starts = (range.start..range.end).step_by(count(chunk));
        Ok(starts
            .map(|at| self.digest(at..range.end.min(at + chunk)))
            .collect())
    }

    fn start_stream(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn stream(&mut self, first: u64, count: u64) -> Result<Vec<Option<Digest>>, EngineError> {
        let hot = self.0.lock().expect("no panic").hot;
        let chunk = engine::digest::CHUNK_BYTES;
        Ok((first..first + count)
            .map(|index| hot.then(|| self.digest(index * chunk..(index + 1) * chunk)))
            .collect())
    }

    fn grains(&mut self, range: Range<u64>) -> Result<Vec<Cv>, EngineError> {
        let grain = engine::digest::GRAIN_BYTES;
        Ok((range.start..range.end)
            .step_by(count(grain))
            .map(|at| {
                let position = count(at % engine::digest::CHUNK_BYTES / grain);
                let bytes = self.bytes(at..at + grain);
                engine::digest::grain_cv(position, std::iter::once(bytes.as_slice()))
            })
            .collect())
    }

    fn name(&self) -> VerifiedBy {
        VerifiedBy::Target
    }
}

fn copy(
    place: &Place,
    integrity: Integrity,
    witness: Option<Witness>,
    extents: Option<ExtentSet>,
) -> Result<TransferReport, EngineError> {
    let engine = start_engine(RuntimeChoice::Auto, 2);
    let site = Site::new();
    let export = file_export("disk", &place.target, false);
    let door = tls_door(&engine, &site, vec![export], SessionLimits::default());
    let source = Endpoint::Path(place.source.clone());
    let mut spec = eager(spec(source, Endpoint::Nbd(door.endpoint.clone())));
    spec.integrity = Some(integrity);
    spec.checksum_diff = place.diff;
    spec.reconnect_for = Duration::from_secs(30);
    spec.service = witness.map(|witness| Arc::new(witness) as Arc<dyn TargetService>);
    spec.extents = extents;
    transfer::run(&engine, &spec, &Cancel::default(), &mut |_| {})
}

#[test]
fn every_byte_is_verified_by_the_target() {
    for integrity in [Integrity::Stream, Integrity::Media] {
        let place = place(3);
        let witness = Witness::new(&place.target);
        let report = copy(&place, integrity, Some(witness.clone()), None).expect("copied");
        assert_eq!(report.integrity, integrity);
        assert_eq!(report.verified_by, Some(VerifiedBy::Target));
        assert_eq!(report.progress.verified_bytes, place.bytes.len() as u64);
        let asked = witness.0.lock().expect("no panic").asked_medium;
        assert_eq!(
            asked == 0,
            integrity == Integrity::Stream,
            "{asked} questions about the medium"
        );
    }
}

#[test]
fn what_was_not_hashed_on_arrival_is_read_from_the_medium() {
    let place = place(4);
    let witness = Witness::new(&place.target);
    witness.0.lock().expect("no panic").hot = false;
    let report = copy(&place, Integrity::Stream, Some(witness.clone()), None).expect("copied");
    assert_eq!(report.progress.verified_bytes, place.bytes.len() as u64);
    assert!(witness.0.lock().expect("no panic").asked_medium > 0);
}

#[test]
fn a_target_without_a_service_is_read_back() {
    let place = place(5);
    let report = copy(&place, Integrity::Media, None, None).expect("copied");
    assert_eq!(report.verified_by, Some(VerifiedBy::Readback));
    assert_eq!(report.progress.verified_bytes, place.bytes.len() as u64);
}

#[test]
fn odd_extents_are_verified_to_the_byte() {
    for asked in [true, false] {
        let place = place(6);
        let ranges = [
            512..70_000 / 512 * 512,
            1_048_576..1_310_720,
            4_000_256..4_500_480,
            12 * 1024 * 1024..place.bytes.len() as u64,
        ];
        let extents: ExtentSet = ranges.iter().cloned().collect();
        let total = extents.total_bytes();
        let witness = asked.then(|| Witness::new(&place.target));
        let report = copy(&place, Integrity::Media, witness, Some(extents));
        assert_eq!(report.expect("copied").progress.verified_bytes, total);
    }
}

#[test]
fn a_local_target_is_read_by_ourselves() {
    let place = place(7);
    let engine = start_engine(RuntimeChoice::Auto, 1);
    let ends = (
        Endpoint::Path(place.source.clone()),
        Endpoint::Path(place.target.clone()),
    );
    let mut spec = eager(spec(ends.0, ends.1));
    spec.integrity = Some(Integrity::Media);
    let report = transfer::run(&engine, &spec, &Cancel::default(), &mut |_| {}).expect("copied");
    assert_eq!(report.verified_by, Some(VerifiedBy::Local));
    assert_eq!(report.progress.verified_bytes, place.bytes.len() as u64);
}

#[test]
fn a_wrong_chunk_ends_the_copy_and_is_named() {
    for integrity in [Integrity::Stream, Integrity::Media] {
        let place = place(8);
        let witness = Witness::new(&place.target);
        witness.0.lock().expect("no panic").lies = vec![1];
        let error = copy(&place, integrity, Some(witness), None).expect_err("a difference");
        assert_eq!(error.kind, ErrorKind::Verify, "{error}");
        assert!(error.what.contains("byte 4194304"), "{error}");
    }
}

#[test]
fn a_source_that_changes_is_told() {
    let place = place(9);
    let engine = start_engine(RuntimeChoice::Auto, 1);
    let ends = (
        Endpoint::Path(place.source.clone()),
        Endpoint::Path(place.target.clone()),
    );
    let spec = spec(ends.0, ends.1);
    let mut touched = false;
    let error = transfer::run(&engine, &spec, &Cancel::default(), &mut |_| {
        if !std::mem::replace(&mut touched, true) {
            let file = fs::OpenOptions::new().write(true).open(&place.source);
            file.expect("opens")
                .write_all_at(b"new", 77)
                .expect("writes");
        }
    })
    .expect_err("it changed");
    assert_eq!(error.kind, ErrorKind::SourceIo, "{error}");
    assert!(error.what.contains("changed"), "{error}");
}

/// The connections of the export are cut once, in the middle; the copy goes on by itself.
fn interrupted(how: CloseHow, witness: Option<fn(&Path) -> Witness>) -> (TransferReport, Place) {
    let place = place(10);
    let engine = start_engine(RuntimeChoice::Auto, 2);
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let export = file_export("disk", &place.target, false);
    let door = unix_door(&engine, dir.path(), vec![Arc::clone(&export)]);
    let source = Endpoint::Path(place.source.clone());
    let mut spec = eager(spec(source, Endpoint::Nbd(door.endpoint.clone())));
    spec.reconnect_for = Duration::from_secs(30);
    spec.rate_bytes_per_s = Some(16 << 20);
    spec.service = witness.map(|make| Arc::new(make(&place.target)) as Arc<dyn TargetService>);
    let (mut cut, mut last) = (false, 0);
    let report = transfer::run(&engine, &spec, &Cancel::default(), &mut |progress| {
        assert!(progress.done_bytes() >= last, "progress goes back");
        assert!(progress.done_bytes() <= progress.total_bytes);
        last = progress.done_bytes();
        if progress.durable_bytes > 0 && !std::mem::replace(&mut cut, true) {
            engine.close_export(&export, how);
        }
    })
    .expect("copied in the end");
    assert!(cut, "the cut came before the end");
    (report, place)
}

#[test]
fn a_lost_connection_is_made_anew_and_what_was_durable_is_not_sent_again() {
    for how in [CloseHow::Now, CloseHow::Drain] {
        let (report, place) = interrupted(how, Some(Witness::new));
        assert!(report.reconnects >= 1, "{how:?}");
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
        assert!(fs::read(&place.target).expect("reads") == place.bytes);
        assert_eq!(report.progress.done_bytes(), place.bytes.len() as u64);
        assert!(report.durable);
    }
}

#[test]
fn a_target_without_identity_is_copied_from_the_beginning_after_a_reconnect() {
    let (report, place) = interrupted(CloseHow::Now, None);
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.contains("began again")),
        "{:?}",
        report.warnings
    );
    assert!(report.progress.void_bytes > 0);
    assert!(fs::read(&place.target).expect("reads") == place.bytes);
}

#[test]
fn without_patience_a_lost_connection_ends_the_copy() {
    let place = place(11);
    let engine = start_engine(RuntimeChoice::Auto, 2);
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let export = file_export("disk", &place.target, false);
    let door = unix_door(&engine, dir.path(), vec![Arc::clone(&export)]);
    let source = Endpoint::Path(place.source.clone());
    let mut spec = eager(spec(source, Endpoint::Nbd(door.endpoint.clone())));
    spec.rate_bytes_per_s = Some(16 << 20);
    let mut cut = false;
    let error = transfer::run(&engine, &spec, &Cancel::default(), &mut |progress| {
        if progress.done_bytes() > 0 && !std::mem::replace(&mut cut, true) {
            engine.close_export(&export, CloseHow::Now);
        }
    })
    .expect_err("cut");
    assert_eq!(error.kind, ErrorKind::ConnectionLost, "{error}");
}

#[test]
fn checksum_diff_sends_only_chunks_that_differ() {
    let mut place = place(12);
    place.diff = true;
    let mut old = place.bytes.clone();
    old[9_000_000] ^= 1;
    fs::write(&place.target, &old).expect("written");
    let witness = Witness::new(&place.target);
    let report = copy(&place, Integrity::Media, Some(witness), None).expect("copied");
    let chunk = engine::digest::CHUNK_BYTES;
    assert_eq!(
        report.progress.data_bytes + report.progress.zero_bytes,
        chunk
    );
    assert_eq!(
        report.progress.skipped_bytes,
        place.bytes.len() as u64 - chunk
    );
    assert_eq!(report.progress.verified_bytes, place.bytes.len() as u64);
    assert!(fs::read(&place.target).expect("reads") == place.bytes);
}

fn journaled(place: &Place, witness: &Witness, resume: bool) -> engine::TransferSpec {
    let source = Endpoint::Path(place.source.clone());
    let mut spec = eager(spec(source, Endpoint::Null { size_bytes: None }));
    spec.integrity = Some(Integrity::Stream);
    spec.service = Some(Arc::new(witness.clone()));
    spec.rate_bytes_per_s = Some(16 << 20);
    spec.journal = Some(transfer::JournalSpec {
        path: place.source.with_extension("journal"),
        resume,
        source: None,
        source_id: None,
        version: "test",
    });
    spec
}

/// Copies until something is in the journal, then dies; copies again and gives the report of that.
fn resumed(
    place: &Place,
    witness: &Witness,
    between: impl FnOnce(),
) -> Result<TransferReport, EngineError> {
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let engine = start_engine(RuntimeChoice::Auto, 2);
    let export = file_export("disk", &place.target, false);
    let door = unix_door(&engine, dir.path(), vec![export]);
    let run = |resume: bool, stop: bool| {
        let mut spec = journaled(place, witness, resume);
        spec.target = Endpoint::Nbd(door.endpoint.clone());
        let cancel = Cancel::default();
        transfer::run(&engine, &spec, &cancel, &mut |progress| {
            if stop && progress.verified_bytes > 0 {
                cancel.cancel();
            }
        })
    };
    let error = run(false, true).expect_err("stopped");
    assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
    between();
    run(true, false)
}

#[test]
fn a_journal_saves_what_was_durable() {
    let place = place(13);
    let witness = Witness::new(&place.target);
    let report = resumed(&place, &witness, || {}).expect("resumed");
    let progress = report.progress;
    assert!(progress.resumed_bytes > 0, "{progress:?}");
    assert!(progress.data_bytes + progress.zero_bytes < place.bytes.len() as u64);
    assert_eq!(progress.done_bytes(), place.bytes.len() as u64);
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    assert!(fs::read(&place.target).expect("reads") == place.bytes);
}

#[test]
fn after_a_reboot_of_the_target_what_is_durable_is_compared_first() {
    let place = place(14);
    let witness = Witness::new(&place.target);
    let state = Arc::clone(&witness.0);
    let report = resumed(&place, &witness, || {
        let mut state = state.lock().expect("no panic");
        state.boot_id = "another".into();
        state.asked_medium = 0;
        // The reboot lost the first chunk in spite of all promises.
        let file = fs::OpenOptions::new().write(true).open(&place.target);
        file.expect("opens")
            .write_all_at(&[7; 4096], 0)
            .expect("writes");
    })
    .expect("resumed");
    assert!(witness.0.lock().expect("no panic").asked_medium > 0);
    assert!(
        report
            .warnings
            .iter()
            .any(|w| w.contains("4194304 bytes that the journal calls durable")),
        "{:?}",
        report.warnings
    );
    assert!(fs::read(&place.target).expect("reads") == place.bytes);
}

#[test]
fn a_journal_of_another_source_is_refused() {
    let place = place(15);
    let witness = Witness::new(&place.target);
    let error = resumed(&place, &witness, || {
        let file = fs::OpenOptions::new().write(true).open(&place.source);
        file.expect("opens")
            .write_all_at(b"changed", 0)
            .expect("writes");
    })
    .expect_err("another source");
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    assert!(error.what.contains("modified"), "{error}");
}

#[test]
fn a_target_that_was_removed_and_made_again_is_copied_from_the_beginning() {
    let place = place(16);
    let engine = start_engine(RuntimeChoice::Auto, 1);
    let run = |stop: bool| {
        let ends = (
            Endpoint::Path(place.source.clone()),
            Endpoint::Path(place.target.clone()),
        );
        let mut spec = eager(spec(ends.0, ends.1));
        spec.rate_bytes_per_s = stop.then_some(16 << 20);
        spec.journal = Some(transfer::JournalSpec {
            path: place.source.with_extension("journal"),
            resume: true,
            source: None,
            source_id: None,
            version: "test",
        });
        let cancel = Cancel::default();
        transfer::run(&engine, &spec, &cancel, &mut |progress| {
            if stop && progress.durable_bytes > 0 {
                cancel.cancel();
            }
        })
    };
    assert_eq!(run(true).expect_err("stopped").kind, ErrorKind::Cancelled);
    // The new file often gets the inode of the old one.
    fs::remove_file(&place.target).expect("removed");
    let report = run(false).expect("copied");
    assert_eq!(report.progress.resumed_bytes, 0);
    assert!(
        report.warnings.iter().any(|w| w.contains("made just now")),
        "{:?}",
        report.warnings
    );
    assert!(fs::read(&place.target).expect("reads") == place.bytes);
}

#[test]
fn what_an_earlier_run_did_not_verify_is_verified_when_asked() {
    let place = place(17);
    let witness = Witness::new(&place.target);
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let engine = start_engine(RuntimeChoice::Auto, 2);
    let export = file_export("disk", &place.target, false);
    let door = unix_door(&engine, dir.path(), vec![export]);
    let run = |integrity: Integrity, stop: bool| {
        let mut spec = journaled(&place, &witness, true);
        spec.target = Endpoint::Nbd(door.endpoint.clone());
        spec.integrity = Some(integrity);
        let cancel = Cancel::default();
        transfer::run(&engine, &spec, &cancel, &mut |progress| {
            // Two movers have two open chunks at most, so one is whole.
            if stop && progress.durable_bytes >= 2 * engine::digest::CHUNK_BYTES {
                cancel.cancel();
            }
        })
    };
    run(Integrity::None, true).expect_err("stopped");
    let report = run(Integrity::Media, false).expect("copied");
    assert!(report.progress.resumed_bytes > 0, "{:?}", report.progress);
    assert_eq!(report.progress.verified_bytes, place.bytes.len() as u64);
    // Damage in what was resumed is found.
    fs::remove_file(place.source.with_extension("journal")).expect("removed");
    run(Integrity::None, true).expect_err("stopped");
    let file = fs::OpenOptions::new().write(true).open(&place.target);
    file.expect("opens")
        .write_all_at(b"damage", 100)
        .expect("writes");
    let error = run(Integrity::Media, false).expect_err("damaged");
    assert_eq!(error.kind, ErrorKind::Verify, "{error}");
}

#[test]
fn a_look_that_failed_is_taken_again() {
    let place = place(18);
    let engine = start_engine(RuntimeChoice::Auto, 2);
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let export = file_export("disk", &place.target, false);
    let door = unix_door(&engine, dir.path(), vec![Arc::clone(&export)]);
    let witness = Witness::new(&place.target);
    let source = Endpoint::Path(place.source.clone());
    let mut spec = eager(spec(source, Endpoint::Nbd(door.endpoint.clone())));
    spec.reconnect_for = Duration::from_secs(30);
    spec.rate_bytes_per_s = Some(16 << 20);
    spec.service = Some(Arc::new(witness.clone()));
    let mut cut = false;
    let report = transfer::run(&engine, &spec, &Cancel::default(), &mut |progress| {
        if progress.durable_bytes >= 2 * engine::digest::CHUNK_BYTES
            && !std::mem::replace(&mut cut, true)
        {
            let mut state = witness.0.lock().expect("no panic");
            state.boot_id = "another".into();
            state.refusals = 1;
            let file = fs::OpenOptions::new().write(true).open(&place.target);
            file.expect("opens")
                .write_all_at(&[9; 512], 0)
                .expect("writes");
            drop(state);
            engine.close_export(&export, CloseHow::Now);
        }
    })
    .expect("copied in the end");
    assert!(report.reconnects >= 1);
    assert!(
        report.warnings.iter().any(|w| w.contains("without some")),
        "{:?}",
        report.warnings
    );
    assert!(fs::read(&place.target).expect("reads") == place.bytes);
}

#[test]
fn a_session_that_fell_asleep_does_not_cost_a_finished_copy() {
    let place = place(19);
    let witness = Witness::new(&place.target);
    // At the beginning, behind the connections of the movers, and at the end.
    witness.0.lock().expect("no panic").asleep_at = 3;
    let report = copy(&place, Integrity::Stream, Some(witness.clone()), None).expect("copied");
    assert_eq!(report.progress.verified_bytes, place.bytes.len() as u64);
    assert_eq!(witness.0.lock().expect("no panic").asked_facts, 4);
}

#[test]
fn a_connection_lost_while_both_sides_are_compared_is_made_anew() {
    let mut place = place(19);
    place.diff = true;
    fs::write(&place.target, &place.bytes).expect("written");
    let witness = Witness::new(&place.target);
    witness.0.lock().expect("no panic").refusals = 1;
    let report = copy(&place, Integrity::Media, Some(witness), None).expect("copied");
    assert_eq!(report.reconnects, 1);
    assert_eq!(report.progress.skipped_bytes, place.bytes.len() as u64);
}

#[test]
fn a_comparison_before_a_resume_is_seen_and_can_be_ended_and_begun_again() {
    let place = place(20);
    let witness = Witness::new(&place.target);
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let engine = start_engine(RuntimeChoice::Auto, 2);
    let export = file_export("disk", &place.target, false);
    let door = unix_door(&engine, dir.path(), vec![export]);
    let run = |stop: &dyn Fn(&engine::Progress) -> bool| {
        let mut spec = journaled(&place, &witness, true);
        spec.target = Endpoint::Nbd(door.endpoint.clone());
        let cancel = Cancel::default();
        let mut most = engine::Progress::default();
        let result = transfer::run(&engine, &spec, &cancel, &mut |progress| {
            assert!(progress.compared_bytes <= progress.comparing_bytes);
            if progress.comparing_bytes > 0 {
                most = *progress;
            }
            if stop(progress) {
                cancel.cancel();
            }
        });
        (result, most)
    };
    run(&|progress| progress.verified_bytes > 0)
        .0
        .expect_err("stopped");
    witness.0.lock().expect("no panic").boot_id = "another".into();
    let error = run(&|progress| progress.comparing_bytes > 0)
        .0
        .expect_err("stopped");
    assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
    assert!(error.what.contains("compared"), "{error}");
    // What was not looked at is not believed the next time either.
    let asked = witness.0.lock().expect("no panic").asked_medium;
    let (report, comparing) = run(&|_| false);
    let report = report.expect("copied");
    assert!(comparing.comparing_bytes > 0 && comparing.total_bytes > 0);
    assert!(witness.0.lock().expect("no panic").asked_medium > asked);
    assert_eq!(report.progress.resumed_bytes, comparing.comparing_bytes);
    assert_eq!(report.progress.comparing_bytes, 0);
    assert!(fs::read(&place.target).expect("reads") == place.bytes);
}
