//! How a transfer gets to know its target, and what it compares.

use super::{
    Integrity,
    ends::Opened,
    keeper::Keeper,
    run::Job,
    service::{TargetFacts, TargetSession, VerifiedBy, local::LocalTarget, readback::Readback},
    watcher::Watcher,
};
use crate::{
    Endpoint, EngineError, ExtentSet,
    error::{Blame, ErrorKind},
};
use std::sync::Arc;
use wire::TransmissionFlags;

impl Job<'_> {
    /// Finds out what can be compared, and makes ready for it.
    pub(super) fn choose_integrity(&mut self) -> Result<(), EngineError> {
        if !self.target.end.has_flag(TransmissionFlags::SEND_FLUSH) {
            return self.without_flush();
        }
        let mut session = self.meet_target()?;
        let asked = self.spec.integrity;
        let (integrity, session) = match (asked, session.take()) {
            (None, None) => (Integrity::None, None),
            // It may still prove what an earlier run left, or what need not be sent.
            (Some(Integrity::None), session) => (Integrity::None, session),
            (None, Some(session)) if is_far(&self.target.end) => (Integrity::Stream, Some(session)),
            (None, Some(session)) => (Integrity::None, Some(session)),
            (Some(integrity), Some(session)) => (integrity, Some(session)),
            (Some(_), None) => (Integrity::Media, self.read_back()?),
        };
        let integrity = match (integrity, &self.target.end) {
            (Integrity::None, _) | (_, Opened::Null) => Integrity::None,
            // Nothing travels to a local target: what can be compared is the medium.
            (_, Opened::Device(_)) => Integrity::Media,
            (integrity, Opened::Nbd { .. }) => integrity,
        };
        self.set_integrity(integrity, session)
    }

    /// Nothing is durable at a target that cannot flush, so nothing can be compared or written down.
    fn without_flush(&mut self) -> Result<(), EngineError> {
        let compares = self.spec.integrity.is_some_and(|i| i != Integrity::None);
        if compares || self.spec.checksum_diff || self.spec.journal.is_some() {
            let what =
                "a target that cannot flush has nothing that could be compared or written down";
            let on = self.spec.target.name();
            return Err(
                EngineError::new(ErrorKind::Config, Blame::Operator, what, on).remedy(
                    "leave integrity, checksum-diff and the journal out, or serve it with flush",
                ),
            );
        }
        self.set_integrity(Integrity::None, None)
    }

    fn set_integrity(
        &mut self,
        integrity: Integrity,
        mut session: Option<Box<dyn TargetSession>>,
    ) -> Result<(), EngineError> {
        if integrity == Integrity::Stream
            && let Some(session) = &mut session
        {
            session.start_stream()?;
        }
        self.integrity = integrity;
        self.hashes = integrity != Integrity::None;
        let (stream, compares) = (integrity == Integrity::Stream, self.hashes);
        let keeper = self.keeper_mut();
        (keeper.session, keeper.stream, keeper.compares) = (session, stream, compares);
        if !compares && self.spec.journal.is_none() && !self.spec.checksum_diff {
            self.keeper = None;
        }
        Ok(())
    }

    /// The keeper; made when there is none.
    pub(super) fn keeper_mut(&mut self) -> &mut Keeper {
        let (table, source_bytes) = (&self.table, self.source.size_bytes);
        self.keeper
            .get_or_insert_with(|| Keeper::new(Arc::clone(table), source_bytes))
    }

    /// A session with whoever can tell about the target, and who it is; none when nobody can.
    fn meet_target(&mut self) -> Result<Option<Box<dyn TargetSession>>, EngineError> {
        let session: Option<Box<dyn TargetSession>> = match (&self.target.end, &self.spec.service) {
            (Opened::Null, _) | (Opened::Nbd { .. }, None) => None,
            // Asking behind a tunnel would only disturb the server at its other end.
            (
                Opened::Nbd {
                    is_tunnel: true, ..
                },
                Some(_),
            ) => {
                self.warn_without_service();
                None
            }
            (Opened::Device(device), _) => Some(Box::new(LocalTarget::new(Arc::clone(device)))),
            (Opened::Nbd { .. }, Some(service)) => match service.connect() {
                Ok(session) => Some(session),
                Err(error) if error.kind == ErrorKind::Unsupported => {
                    self.warn_without_service();
                    None
                }
                Err(error) => return Err(error),
            },
        };
        let Some(mut session) = session else {
            return Ok(None);
        };
        let facts = session.facts()?;
        if facts.discarded {
            return Ok(None);
        }
        self.recognise(facts)?;
        Ok(Some(session))
    }

    /// Notes who the target is, or compares with who it was.
    fn recognise(&mut self, facts: TargetFacts) -> Result<(), EngineError> {
        let Some(before) = self.facts.clone() else {
            self.facts = Some(facts);
            return Ok(());
        };
        let who = |facts: &TargetFacts| {
            let file = facts.is_file.then_some((facts.dev, facts.inode));
            let disk = (facts.serial.clone(), facts.wwid.clone());
            (facts.size_bytes, facts.logical_block, file, disk)
        };
        let was_made_anew = match (before.born_ns, facts.born_ns) {
            (Some(then), Some(now)) => then != now,
            _ => false,
        };
        if who(&before) != who(&facts) || was_made_anew {
            let what = "another device stands behind the same name after the connection was lost";
            let on = self.spec.target.name();
            return Err(
                EngineError::new(ErrorKind::Refused, Blame::Environment, what, on)
                    .remedy("check what was attached to the target; then start the copy again"),
            );
        }
        let number = if facts.is_file {
            facts.born_ns.is_some()
        } else {
            facts.diskseq.is_some()
        };
        let is_unnumbered = !number;
        if (&before.boot_id, before.diskseq) != (&facts.boot_id, facts.diskseq) || is_unnumbered {
            // Durable means durable, but is it the same disk? That takes a look at its content.
            self.must_look_again = true;
        }
        self.facts = Some(facts);
        Ok(())
    }

    /// Asks once more who the target is: the connections that copy were made after the first time.
    pub(super) fn confirm_target(&mut self) -> Result<(), EngineError> {
        let Some(session) = self
            .keeper
            .as_mut()
            .and_then(|keeper| keeper.session.as_mut())
        else {
            return Ok(());
        };
        let facts = match session.facts() {
            Ok(facts) => facts,
            // Reading back needs no name.
            Err(error) if error.kind == ErrorKind::Unsupported => return Ok(()),
            Err(error) => return Err(error),
        };
        let before = self.facts.clone();
        self.recognise(facts)?;
        let same = |facts: &Option<TargetFacts>| {
            let facts = facts.as_ref();
            facts.map(|facts| (facts.boot_id.clone(), facts.diskseq))
        };
        if same(&before) == same(&self.facts) {
            return Ok(());
        }
        let what = "the target was restarted or attached anew meanwhile";
        let on = self.spec.target.name();
        Err(EngineError::new(
            ErrorKind::ConnectionLost,
            Blame::Environment,
            what,
            on,
        ))
    }

    /// The same when all is done: a session that fell asleep meanwhile is made anew before it costs a finished copy.
    pub(super) fn confirm_target_at_end(&mut self) -> Result<(), EngineError> {
        match self.confirm_target() {
            Err(error) if error.kind.may_pass() && !self.must_look_again => {
                self.meet_target()?;
                if self.must_look_again {
                    return Err(error);
                }
                Ok(())
            }
            confirmed => confirmed,
        }
    }

    /// After a reconnect: is what was durable still there?
    pub(super) fn meet_target_again(
        &mut self,
        watcher: &mut Watcher<'_>,
    ) -> Result<(), EngineError> {
        let session = self.meet_target()?;
        let is_stranger = session.is_none();
        let session = match (session, self.integrity) {
            (None, Integrity::Stream | Integrity::Media) => self.read_back()?,
            (session, _) => session,
        };
        self.set_integrity(self.integrity, session)?;
        if is_stranger {
            self.start_over()?;
        } else if self.must_look_again {
            // Until this has succeeded every reconnect comes here again.
            self.look_again(watcher)?;
            let present = self.present()?;
            self.note_session(&present)?;
            self.must_look_again = false;
        }
        Ok(())
    }

    /// Without an identity nobody can tell whether it is the same target, and one that came back empty would
    /// make a false success.
    fn start_over(&mut self) -> Result<(), EngineError> {
        // Should it show a name later, what it has by then is looked at first.
        self.must_look_again = true;
        self.zeroes_hold = false;
        if self.book.ledger.durable().total_bytes() > 0 || !self.equal.is_empty() {
            let durable = self.book.ledger.durable().clone();
            self.book.start_over();
            self.equal = ExtentSet::new();
            self.warn_once(
                "the connection was lost and the target cannot prove that it is the same: the copy began again",
            );
            self.void(&durable, "the target cannot prove that it is the same")?;
        }
        Ok(())
    }

    /// The keeper would need a connection where there is only one.
    pub(super) fn settles_late(&self) -> bool {
        let session = self
            .keeper
            .as_ref()
            .and_then(|keeper| keeper.session.as_ref());
        let reads_back = session.is_some_and(|session| session.name() == VerifiedBy::Readback);
        (reads_back && !self.target.end.allows_many()) || !self.source.end.allows_many()
    }

    fn read_back(&self) -> Result<Option<Box<dyn TargetSession>>, EngineError> {
        match &self.spec.target {
            Endpoint::Nbd(endpoint) => Ok(Some(Box::new(Readback::new(endpoint)))),
            Endpoint::Path(_) | Endpoint::Null { .. } => Ok(None),
        }
    }

    /// What an operator should know who relies on digests.
    fn warn_without_service(&mut self) {
        match self.spec.integrity {
            Some(Integrity::None) => {}
            None => self
                .warn_once("the target has no service for digests: what arrives is not compared"),
            Some(Integrity::Stream | Integrity::Media) => {
                self.warn_once("the target has no service for digests: it is read back");
            }
        }
    }

    pub(super) fn warn_once(&mut self, warning: &str) {
        if !self.warnings.iter().any(|known| known == warning) {
            self.warnings.push(warning.to_owned());
        }
    }
}

fn is_far(end: &Opened) -> bool {
    matches!(end, Opened::Nbd { .. })
}
