//! What must be true after a crash: the journal does not lie, and nothing is lost or done twice.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use engine::{ExtentSet, Journal};
use serde_json::Value;

use super::{Copy, Rig, SIZE_BYTES, SLACK_BYTES, number};
use crate::common::{Bed, assert_same};

/// What a journal says, read from a copy of it: the journal itself stays as the crash left it.
pub fn read_journal(bed: &Bed) -> engine::journal::Replayed {
    let copy = bed.path("journal.copy");
    // An earlier copy may be there.
    let _ = std::fs::remove_file(&copy);
    std::fs::copy(bed.path("journal"), &copy).unwrap();
    Journal::open(&copy).unwrap().1
}

/// The ranges that a journal calls durable, when the target has them.
pub fn durable_of(bed: &Bed, target: &Path) -> Result<ExtentSet, String> {
    let durable = read_journal(bed).durable;
    let (source, target) = (
        File::open(bed.path("source")).unwrap(),
        File::open(target).unwrap(),
    );
    for range in durable.iter() {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(1 << 20);
            let read = |file: &File| {
                let mut bytes = vec![0; usize::try_from(len).unwrap()];
                file.read_exact_at(&mut bytes, at).unwrap();
                bytes
            };
            let (mine, theirs) = (read(&source), read(&target));
            if let Some(first) = mine.iter().zip(&theirs).position(|(x, y)| x != y) {
                let place = at + first as u64;
                return Err(format!("byte {place} is called durable and is not there"));
            }
            at += len;
        }
    }
    Ok(durable)
}

/// What was durable and how much had been written in the moment of a crash.
pub struct Mark {
    pub durable_bytes: u64,
    written_bytes: u64,
}

impl Rig {
    /// The ranges of the journal are there.
    #[track_caller]
    pub fn check_durable(&self) -> u64 {
        let durable = durable_of(&self.bed, &self.backing);
        durable
            .unwrap_or_else(|lie| panic!("{lie}: {:?}", self.plan))
            .total_bytes()
    }

    /// Checks what is durable now; from here on only the rest may be written.
    #[track_caller]
    pub fn mark(&self) -> Mark {
        Mark {
            durable_bytes: self.check_durable(),
            written_bytes: self.written_bytes(),
        }
    }

    /// The copy goes on and ends; all that was durable is left alone.
    #[track_caller]
    pub fn resume(&self, mark: &Mark) -> Value {
        let run = Copy::start(&self.bed, &self.copy_args(&["--resume"])).wait();
        let result = run.done().object();
        assert_eq!(
            number(&result, "resumed_bytes"),
            mark.durable_bytes,
            "{:?} {result}",
            self.plan
        );
        self.check_end(mark, &result);
        result
    }

    /// The copy has ended well, and it is true.
    #[track_caller]
    pub fn check_end(&self, mark: &Mark, result: &Value) {
        let again = self.written_bytes() - mark.written_bytes;
        let missing = SIZE_BYTES - mark.durable_bytes;
        let slack = SLACK_BYTES * self.plan.connections;
        println!("  {missing} bytes were missing, {again} were written");
        assert!(
            again <= missing + slack,
            "written again: {again} bytes, {missing} were missing: {:?}",
            self.plan
        );
        assert_eq!(result["durable"], true, "{result}");
        assert_same(&self.bed.path("source"), &self.backing);
        let journal = read_journal(&self.bed);
        assert!(journal.done.is_some());
        assert_eq!(journal.durable.total_bytes(), SIZE_BYTES);
    }
}
