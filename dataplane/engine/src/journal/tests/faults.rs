//! A disk that is full, tears, writes short or fails to sync.

use std::sync::{Arc, Mutex};

use super::*;

#[derive(Debug, Default)]
struct Medium {
    bytes: Vec<u8>,
    /// What a crash cannot take.
    synced: usize,
    calls: usize,
    /// The call that fails, counted over writes and syncs.
    fails_at: Option<usize>,
    /// Bytes of a failing write that get through.
    torn: usize,
    /// Longest write.
    write_max: usize,
}

#[derive(Debug, Clone, Default)]
struct FaultDisk(Arc<Mutex<Medium>>);

impl FaultDisk {
    fn with<T>(&self, work: impl FnOnce(&mut Medium) -> T) -> T {
        work(&mut self.0.lock().expect("no test panics with it"))
    }
}

impl Medium {
    /// True when this call fails.
    fn call(&mut self) -> bool {
        self.calls += 1;
        self.fails_at == Some(self.calls)
    }
}

impl Disk for FaultDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|medium| {
            if medium.call() {
                let torn = medium.torn.min(bytes.len());
                medium.bytes.extend_from_slice(&bytes[..torn]);
                return Err(io::ErrorKind::StorageFull.into());
            }
            if medium.calls.is_multiple_of(5) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = bytes.len().min(medium.write_max.max(1));
            medium.bytes.extend_from_slice(&bytes[..len]);
            Ok(len)
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.with(|medium| {
            if medium.call() {
                return Err(io::Error::other("lost"));
            }
            medium.synced = medium.bytes.len();
            Ok(())
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_append_promised_survives_a_crash_and_nothing_is_promised_after_a_failure(
        appends in appends(),
        fails_after in 1..40usize,
        torn in 0..300usize,
        write_max in 1..2_000usize,
        crash: prop::sample::Index,
    ) {
        let disk = FaultDisk::default();
        disk.with(|medium| medium.write_max = 1 << 20);
        let mut journal =
            Journal::begin(somewhere(), Box::new(disk.clone()), &header()).expect("no fault yet");
        disk.with(|medium| {
            (medium.torn, medium.write_max) = (torn, write_max);
            medium.fails_at = Some(medium.calls + fails_after);
        });
        // What may be read back: everything that was promised, then each line of the append that failed.
        let mut promised = Model::default();
        let mut possible = vec![promised.clone()];
        let mut failed = false;
        for records in &appends {
            let done = journal.append(records);
            prop_assert!(!failed || done.is_err(), "success after a failure");
            if failed {
                continue;
            }
            let mut after = promised.clone();
            let mut between = vec![promised.clone()];
            for record in records {
                after.apply(record);
                between.push(after.clone());
            }
            let single = records.iter().all(|record| record.bodies().len() <= 1);
            match done {
                Ok(()) => {
                    promised = after;
                    possible = vec![promised.clone()];
                }
                Err(error) => {
                    failed = true;
                    prop_assert_eq!(error.kind, ErrorKind::Journal);
                    prop_assert!(error.remedy.contains("--resume"));
                    // A record of several lines may be there in part; its states are those of other tests.
                    possible = if single { between } else { Vec::new() };
                }
            }
        }
        let bytes = disk.with(|medium| {
            let unsynced = medium.bytes.len() - medium.synced;
            let kept = medium.synced + crash.index(unsynced + 1);
            medium.bytes[..kept].to_vec()
        });
        let replayed = replay_bytes(&bytes).expect("the header was synced");
        let found = Model::of(&replayed);
        prop_assert!(possible.is_empty() || possible.contains(&found), "{found:?}");
    }
}

#[test]
fn a_full_disk_is_named_with_what_to_do() {
    let disk = FaultDisk::default();
    disk.with(|medium| medium.write_max = 1 << 20);
    let mut journal =
        Journal::begin(somewhere(), Box::new(disk.clone()), &header()).expect("no fault yet");
    journal
        .append(&[durable(ExtentSet::full(BLOCK))])
        .expect("no fault yet");
    disk.with(|medium| (medium.fails_at, medium.torn) = (Some(medium.calls + 1), 20));
    let error = journal.append(&[session(1)]).expect_err("full");
    assert_eq!(error.kind, ErrorKind::Journal);
    assert_eq!(
        error.to_string(),
        "the disk of the journal is full: a.journal"
    );
    assert_eq!(
        error.remedy,
        "what it records so far is valid: make room there and start again with --resume"
    );
    // There is room again, but nobody knows what became of the bytes in between.
    assert!(journal.append(&[session(1)]).is_err());
    let replayed = disk
        .with(|medium| replay_bytes(&medium.bytes))
        .expect("valid");
    assert_eq!(
        (replayed.durable.total_bytes(), replayed.torn_bytes),
        (BLOCK, 20)
    );
}

#[test]
fn a_failed_sync_is_not_asked_again() {
    let disk = FaultDisk::default();
    disk.with(|medium| medium.write_max = 1 << 20);
    let mut journal =
        Journal::begin(somewhere(), Box::new(disk.clone()), &header()).expect("no fault yet");
    disk.with(|medium| medium.fails_at = Some(medium.calls + 2));
    assert!(journal.append(&[session(1)]).is_err());
    let calls = disk.with(|medium| medium.calls);
    assert!(journal.append(&[]).is_err());
    assert_eq!(disk.with(|medium| medium.calls), calls);
}

#[test]
fn a_record_that_could_not_be_read_again_is_not_written() {
    let disk = FaultDisk::default();
    disk.with(|medium| medium.write_max = 1 << 20);
    let header = Header {
        total_bytes: CHUNK_BYTES + 512,
        ..header()
    };
    let mut journal =
        Journal::begin(somewhere(), Box::new(disk.clone()), &header).expect("no fault");
    let of = |fill: &dyn Fn(&mut DigestMap)| {
        let mut digests = DigestMap::new();
        fill(&mut digests);
        Record::Durable {
            ranges: ExtentSet::new(),
            digests,
        }
    };
    for wrong in [
        durable(ExtentSet::full(CHUNK_BYTES + 513)),
        of(&|digests| digests.insert(2, Digest([1; 32]))),
        // The last chunk is shorter, so it is no chunk of 4 MiB of zeroes.
        of(&|digests| digests.insert_zero(0..2)),
    ] {
        let error = journal.append(&[wrong]).expect_err("not of this disk");
        assert_eq!(error.kind, ErrorKind::Bug);
    }
    let right = of(&|digests| {
        digests.insert_zero(0..1);
        digests.insert(1, Digest([1; 32]));
    });
    journal.append(&[right]).expect("not poisoned");
    let replayed = disk.with(|medium| replay_bytes(&medium.bytes));
    assert_eq!(replayed.expect("whole").digests.len(), 2);
}
