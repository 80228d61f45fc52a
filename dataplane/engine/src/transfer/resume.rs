//! The journal of a transfer: written while it runs, believed as far as the target proves it.

use super::{
    compare::{Claims, Comparison, ReadSource},
    ends::Opened,
    reader::SourceReader,
    run::Job,
    service::{TargetFacts, local::boot_id},
    watcher::{Comparing, Watcher},
};
use crate::{
    EngineError, ExtentSet,
    digest::{Cv, Digest, GRAINS_PER_CHUNK},
    error::{Blame, ErrorKind},
    journal::{
        BlockSource, DigestMap, Done, ExportTarget, Header, Journal, Medium, Record, Replayed,
        SCHEMA, Session, Source, Target,
        binding::{Binding, Present, bind},
        ranges_digest,
    },
};
use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

/// Where a transfer writes down what is durable.
#[derive(Debug, Clone)]
pub struct JournalSpec {
    /// The file.
    pub path: PathBuf,
    /// Go on behind what an existing journal calls durable; else a journal that exists is refused.
    pub resume: bool,
    /// What the source is, where somebody else reads it for us (an image).
    pub source: Option<Source>,
    /// The operator's name for the present state of a source that cannot tell it (an NBD server).
    pub source_id: Option<String>,
    /// Version of the program, for the journal's header.
    pub version: &'static str,
}

fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Digests an earlier run wrote down; what it did not know is read from the source once more.
struct WrittenClaims<'a> {
    digests: &'a DigestMap,
    read: &'a mut ReadSource<'a>,
}

impl Claims for WrittenClaims<'_> {
    fn digest(&self, chunk: u64) -> Option<Digest> {
        self.digests.get(chunk)
    }

    fn grains(&self, _: u64) -> Option<(u64, [Cv; GRAINS_PER_CHUNK])> {
        None
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), EngineError> {
        (self.read)(offset, buf)
    }
}

impl Job<'_> {
    /// Opens or creates the journal and takes over what it proves.
    pub(super) fn open_journal(&mut self, watcher: &mut Watcher<'_>) -> Result<(), EngineError> {
        let Some(spec) = &self.spec.journal else {
            return Ok(());
        };
        let present = self.present()?;
        let (journal, replayed) = if spec.resume && Journal::is_begun(&spec.path) {
            let (journal, replayed) = Journal::open(&spec.path)?;
            (journal, Some(replayed))
        } else {
            let header = header_of(&present, spec.version);
            (Journal::create(&spec.path, &header)?, None)
        };
        self.keeper_mut().journal = Some(journal);
        match replayed {
            Some(replayed) => self.take_over(&present, replayed, watcher)?,
            None if spec.resume => {
                self.warn_once("there is no journal to resume from: the copy begins now");
            }
            None => {}
        }
        self.note_session(&present)
    }

    fn take_over(
        &mut self,
        present: &Present,
        replayed: Replayed,
        watcher: &mut Watcher<'_>,
    ) -> Result<(), EngineError> {
        if self.target.is_new {
            // It may have the inode of the one before.
            let why = "the target file was made just now";
            self.warn_once(&format!("{why}: the copy began again"));
            return self.void(&replayed.durable, why);
        }
        if replayed.done.is_some() && !proves_its_state(&present.source) {
            let what = "the copy of this journal has ended, and the source cannot tell whether it changed since";
            let on = self.journal_path();
            return Err(EngineError::new(ErrorKind::Refused, Blame::Operator, what, on)
                .remedy("remove the journal to copy again, or name the state of the source with --source-id"));
        }
        if !proves_its_state(&present.source) {
            self.warn_once(
                "a device cannot tell whether it was written since: that the source is in the same state is believed",
            );
        }
        if replayed.torn_bytes > 0 {
            self.warn_once(&format!(
                "the last {} bytes of the journal are no record: what they told is copied again",
                replayed.torn_bytes
            ));
        }
        match bind(&replayed.header, replayed.sessions.last(), present) {
            Binding::Trust => {
                self.book.restore(&replayed.durable, &replayed.verified);
                self.keeper_mut().digests = replayed.digests;
                if self.hashes {
                    self.book.unsettle_unverified();
                }
                Ok(())
            }
            Binding::TrustAfterHashes { why } => {
                self.warn_once(&format!("{why}: what is durable was compared first"));
                self.take_over_compared(replayed, watcher)
            }
            Binding::StartOver { why } => {
                self.warn_once(&format!("{why}: the copy began again"));
                self.void(&replayed.durable, why)
            }
            Binding::Refuse { what } => {
                let on = self.journal_path();
                let what = format!("the journal belongs to another copy: {what}");
                Err(
                    EngineError::new(ErrorKind::Refused, Blame::Operator, what, on).remedy(
                        "name the journal of this copy, or another file to begin a new one",
                    ),
                )
            }
        }
    }

    fn journal_path(&self) -> String {
        let journal = self.spec.journal.as_ref();
        journal.map_or_else(String::new, |journal| journal.path.display().to_string())
    }

    /// Believes the ranges whose digests are those of the target.
    fn take_over_compared(
        &mut self,
        replayed: Replayed,
        watcher: &mut Watcher<'_>,
    ) -> Result<(), EngineError> {
        let (equal, different) =
            self.compare_durable(&replayed.durable, &replayed.digests, watcher)?;
        self.book.restore(&equal, &equal);
        let keeper = self.keeper_mut();
        keeper.digests = replayed.digests;
        if different.is_empty() {
            return Ok(());
        }
        self.warn_once(&format!(
            "{} bytes that the journal calls durable are not at the target: they are copied again",
            different.total_bytes()
        ));
        self.void(&different, "not at the target")
    }

    /// After a reconnect to a target that was restarted: what is durable counts when it is there.
    pub(super) fn look_again(&mut self, watcher: &mut Watcher<'_>) -> Result<(), EngineError> {
        // Zeroes that were skipped were believed of the target as it was.
        self.zeroes_hold = false;
        let durable = self.book.ledger.durable().clone();
        if durable.is_empty() && self.equal.is_empty() {
            return Ok(());
        }
        let digests = std::mem::take(&mut self.keeper_mut().digests);
        let compared = self.compare_durable(&durable, &digests, watcher);
        self.keeper_mut().digests = digests;
        let (_, different) = compared?;
        self.equal = ExtentSet::new();
        self.book.distrust(&different);
        if different.is_empty() {
            return Ok(());
        }
        self.warn_once("the target came back without some of what was durable: it is copied again");
        self.void(&different, "not at the target after a reconnect")
    }

    /// What of `durable` the target has, and what it has not.
    fn compare_durable(
        &mut self,
        durable: &ExtentSet,
        digests: &DigestMap,
        watcher: &mut Watcher<'_>,
    ) -> Result<(ExtentSet, ExtentSet), EngineError> {
        let source_bytes = self.source.size_bytes;
        let comparing = Comparing::new(self.progress(), durable.total_bytes());
        let mut on_step = |compared| comparing.step(compared, watcher);
        let mut reader = SourceReader::open(&self.spec.source, &self.source.end)?;
        let Some(session) = self
            .keeper
            .as_mut()
            .and_then(|keeper| keeper.session.as_mut())
        else {
            return Ok((ExtentSet::new(), durable.clone()));
        };
        let mut comparison = Comparison {
            session: session.as_mut(),
            stream: false,
            source_bytes,
            on_step: Some(&mut on_step),
        };
        let mut read = |offset: u64, buf: &mut [u8]| reader.read(offset, buf);
        let mut claims = WrittenClaims {
            digests,
            read: &mut read,
        };
        let compared = comparison.compare(durable, &mut claims)?;
        reader.end();
        Ok((compared.equal(), compared.different()))
    }

    /// Writes down that ranges do not count any more.
    pub(super) fn void(&mut self, ranges: &ExtentSet, reason: &str) -> Result<(), EngineError> {
        if ranges.is_empty() {
            return Ok(());
        }
        self.write_down(Record::Void {
            ranges: ranges.clone(),
            reason: reason.to_owned(),
        })
    }

    /// Writes down which run of the target's machine the next records belong to.
    pub(super) fn note_session(&mut self, present: &Present) -> Result<(), EngineError> {
        self.write_down(Record::Session(Session {
            boot_id: present.boot_id.clone(),
            diskseq: present.diskseq,
            pid: std::process::id(),
            unix_s: unix_s(),
        }))
    }

    /// Nothing is left to do.
    pub(super) fn note_done(&mut self) -> Result<(), EngineError> {
        self.write_down(Record::Done(Done { unix_s: unix_s() }))
    }

    /// Appends to the journal, when there is one.
    fn write_down(&mut self, record: Record) -> Result<(), EngineError> {
        let keeper = self.keeper.as_mut();
        match keeper.and_then(|keeper| keeper.journal.as_mut()) {
            Some(journal) => journal.append(&[record]),
            None => Ok(()),
        }
    }

    /// Both ends as they are now.
    pub(super) fn present(&self) -> Result<Present, EngineError> {
        let facts = self.facts.as_ref();
        let target = match &self.target.end {
            Opened::Device(device) => Target::Local(Medium::from(device.identity())),
            Opened::Nbd {
                endpoint, params, ..
            } => Target::Export(ExportTarget {
                name: endpoint.export.clone(),
                size_bytes: params.info.size_bytes,
                medium: facts.map(medium_of),
            }),
            Opened::Null => {
                let what = "a null target keeps nothing that could be resumed";
                let on = self.spec.target.name();
                return Err(
                    EngineError::new(ErrorKind::Config, Blame::Operator, what, on)
                        .remedy("leave the journal out"),
                );
            }
        };
        let session = self
            .keeper
            .as_ref()
            .and_then(|keeper| keeper.session.as_ref());
        Ok(Present {
            target,
            boot_id: facts.map(|facts| facts.boot_id.clone()),
            diskseq: facts.and_then(|facts| facts.diskseq),
            // What travels back over NBD costs as much as sending it again.
            hashes: facts.is_some() && session.is_some(),
            source: self.journal_source()?,
            ranges: ranges_digest(self.book.ledger.wanted()),
            total_bytes: self.source.size_bytes,
        })
    }

    fn journal_source(&self) -> Result<Source, EngineError> {
        if let Some(source) = self.spec.journal.as_ref().and_then(|j| j.source.clone()) {
            return Ok(source);
        }
        let size_bytes = self.source.size_bytes;
        let source_id = self.spec.journal.as_ref().and_then(|j| j.source_id.clone());
        match &self.source.end {
            Opened::Nbd { .. } | Opened::Device(_) if source_id.is_some() => Ok(Source::Nbd {
                source_id: source_id.unwrap_or_default(),
                size_bytes,
            }),
            Opened::Device(device) if device.kind() == sys::DeviceKind::Block => {
                let identity = device.identity();
                Ok(Source::Block(BlockSource {
                    serial: identity.serial.clone(),
                    wwid: identity.wwid.clone(),
                    size_bytes,
                    boot_id: boot_id()?,
                    diskseq: identity.diskseq,
                }))
            }
            Opened::Device(device) => {
                let stamp = self.source.end.stamp()?;
                Ok(Source::File {
                    dev: device.identity().dev,
                    inode: device.identity().inode,
                    size_bytes,
                    mtime_ns: stamp.and_then(|stamp| stamp.mtime_ns()).unwrap_or(0),
                })
            }
            Opened::Null => Ok(Source::Nbd {
                source_id: "null".into(),
                size_bytes,
            }),
            Opened::Nbd { endpoint, .. } => {
                let what = "an NBD server cannot tell which disk it serves in which state";
                Err(
                    EngineError::new(ErrorKind::Config, Blame::Operator, what, &endpoint.uri)
                        .remedy(
                            "give the source a name with --source-id, another one when it changes",
                        ),
                )
            }
        }
    }
}

/// Whether a later look tells that it is in the same state. A device has no time of its last change.
fn proves_its_state(source: &Source) -> bool {
    !matches!(source, Source::Block(_))
}

fn header_of(present: &Present, version: &str) -> Header {
    Header {
        schema: SCHEMA,
        target: present.target.clone(),
        source: present.source.clone(),
        ranges: present.ranges,
        total_bytes: present.total_bytes,
        created_unix_s: unix_s(),
        version: version.to_owned(),
    }
}

fn medium_of(facts: &TargetFacts) -> Medium {
    if facts.is_file {
        Medium::File {
            dev: facts.dev,
            inode: facts.inode,
            size_bytes: facts.size_bytes,
            born_ns: facts.born_ns,
        }
    } else {
        Medium::Block {
            serial: facts.serial.clone(),
            wwid: facts.wwid.clone(),
            size_bytes: facts.size_bytes,
            logical_block: facts.logical_block,
        }
    }
}
