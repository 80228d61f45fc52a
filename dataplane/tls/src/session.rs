//! One established connection: keys, sequence numbers, key updates, alerts.
//!
//! ```text
//! socket -> frame -> open -> caller's memory          caller's memory -> seal -> socket
//!                     |                                        ^
//!                     '-- KeyUpdate, alert, ticket --> poll_control (answers go first)
//! ```
//!
//! Methods by role: `open` takes what came; `queue_*` are wishes; `seal` and `poll_control` make
//! what goes out; the rest asks. A turn is: `open` all, `poll_control` until 0, `seal`, and
//! `poll_control` again now and then while sealing much, so that KeyUpdates go out in time.
//! `open`, `seal` and `poll_control` allocate only to change keys and to join a handshake message
//! that was cut over records.

use std::time::Instant;

use crate::alert::Alert;
use crate::error::TlsError;
use crate::handoff::KeySchedule;
use crate::limits::{
    CONTROL_RECORD_MAX, CONTROL_RECORDS_RESERVED, KEY_UPDATES_PER_SECOND_DEFAULT,
    KEY_UPDATES_PER_SECOND_GNUTLS, RECORDS_PER_KEY_DEFAULT,
};
pub use crate::limits::{RECORD_OVERHEAD, RECORD_PLAINTEXT_MAX, RECORD_WIRE_MAX};
use crate::pace::UpdatePace;
use crate::post_handshake::{KeyUpdate, Messages, Patience, key_update_message};
pub use crate::record::RecordFrame;
use crate::record::{self, CONTENT_ALERT, CONTENT_DATA, CONTENT_HANDSHAKE, DirectionKeys, Suite};

/// When keys change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// Records we seal under one key before we send a KeyUpdate; 2^23 by default, 64 in tests.
    /// Values outside of 1 to the cipher's own limit are moved inside.
    pub records_per_key: u64,
    /// KeyUpdates of our own accord per second at most, evenly spaced: 8 by default, 6 towards
    /// gnutls, `u32::MAX` for no limit; 0 counts as 1. Answers to the peer's requests are not held
    /// back, because RFC 8446 section 4.6.3 wants them before our next data, but they take the
    /// place of our own.
    pub key_updates_per_second: u32,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            records_per_key: RECORDS_PER_KEY_DEFAULT,
            key_updates_per_second: KEY_UPDATES_PER_SECOND_DEFAULT,
        }
    }
}

impl SessionLimits {
    /// The defaults with the slower KeyUpdates that a gnutls peer can bear.
    pub fn for_gnutls() -> Self {
        Self {
            key_updates_per_second: KEY_UPDATES_PER_SECOND_GNUTLS,
            ..Self::default()
        }
    }
}

/// What a record was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// `len` bytes of application data stand at the start of `out`; 0 is legal.
    Data {
        /// Bytes of data.
        len: usize,
    },
    /// A record that carried no application data (ticket, KeyUpdate, part of a handshake message,
    /// warning); call [`Session::poll_control`] before the next `seal`.
    Control,
    /// close_notify came: no more data. What follows it is not opened (RFC 8446 section 6.1).
    Closed,
}

/// Why no application data may be sealed right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Open,
    /// A KeyUpdate answer has to go first.
    AnswerFirst,
    /// close_notify or a fatal alert is queued or gone.
    Closed,
}

/// Whether records are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiving {
    Open,
    /// close_notify came.
    Closed,
    /// The connection broke; an error must never look like its orderly end.
    Failed,
}

/// One established TLS 1.3 connection: the record layer of both directions.
pub struct Session {
    tx: DirectionKeys,
    rx: DirectionKeys,
    schedule: KeySchedule,
    suite: Suite,
    sending: Sending,
    receiving: Receiving,
    records_per_key: u64,
    pace: UpdatePace,
    /// A KeyUpdate somebody asked for by `queue_key_update`; the flag asks the peer to update, too.
    wish: Option<bool>,
    alert: Option<Alert>,
    /// An alert of ours was queued; it is the last thing we say.
    has_said_goodbye: bool,
    messages: Messages,
    patience: Patience,
    key_updates: KeyUpdates,
}

/// KeyUpdates of one session so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyUpdates {
    /// Sent by us.
    pub sent: u64,
    /// Received from the peer.
    pub received: u64,
}

/// What the handshake hands over.
pub(crate) struct Keys {
    pub(crate) suite: Suite,
    pub(crate) tx: DirectionKeys,
    pub(crate) rx: DirectionKeys,
    pub(crate) schedule: KeySchedule,
}

impl Session {
    pub(crate) fn new(keys: Keys, limits: SessionLimits) -> Self {
        let hard_max = keys.suite.records_hard_max();
        Self {
            tx: keys.tx,
            rx: keys.rx,
            schedule: keys.schedule,
            suite: keys.suite,
            sending: Sending::Open,
            receiving: Receiving::Open,
            records_per_key: limits.records_per_key.clamp(1, hard_max),
            pace: UpdatePace::new(limits.key_updates_per_second),
            wish: None,
            alert: None,
            has_said_goodbye: false,
            messages: Messages::default(),
            patience: Patience::default(),
            key_updates: KeyUpdates::default(),
        }
    }

    /// The record at the front of `bytes`; `None` when fewer than 5 bytes are there. Checks type,
    /// version and length (RFC 8446 sections 5.1, 5.2, 5.4).
    #[inline]
    pub fn frame(bytes: &[u8]) -> Result<Option<RecordFrame>, TlsError> {
        record::frame(bytes)
    }

    /// Opens one whole record into `out`, which holds at least `frame.inner_len` bytes.
    ///
    /// The type byte and padding are left in `out` behind the data, to be overwritten by the next
    /// record. On `Err` `out` may hold unauthenticated bytes, and the connection is over: send
    /// [`queue_alert`](Self::queue_alert), then close.
    #[inline]
    pub fn open(
        &mut self,
        now: Instant,
        record: &[u8],
        out: &mut [u8],
    ) -> Result<Opened, TlsError> {
        let inner_len = match record::frame(record)? {
            Some(frame) if frame.wire_len == record.len() => frame.inner_len,
            _ => {
                return Err(TlsError::NotOneRecord {
                    len_bytes: record.len(),
                });
            }
        };
        let len_bytes = out.len();
        let Some(inner) = out.get_mut(..inner_len) else {
            return Err(TlsError::BufferTooSmall {
                len_bytes,
                needed_bytes: inner_len,
            });
        };
        if self.receiving != Receiving::Open {
            return self.open_after_end();
        }
        if let Err(error) = self.rx.open(record, inner) {
            return Err(self.fail(error));
        }
        // Nearly every record is data without padding or a message to be joined.
        match inner {
            [data @ .., CONTENT_DATA] if !data.is_empty() && !self.messages.is_fragmented() => {
                self.patience.handle_data();
                Ok(Opened::Data { len: data.len() })
            }
            _ => self.open_slowly(now, inner),
        }
    }

    /// Everything that is not plain data: padding, control content, and what is forbidden.
    #[cold]
    fn open_slowly(&mut self, now: Instant, inner: &[u8]) -> Result<Opened, TlsError> {
        self.handle_content(now, inner)
            .map_err(|error| self.fail(error))
    }

    #[cold]
    fn open_after_end(&self) -> Result<Opened, TlsError> {
        match self.receiving {
            Receiving::Closed => Ok(Opened::Closed),
            Receiving::Open | Receiving::Failed => Err(TlsError::UsedAfterEnd),
        }
    }

    /// After a failure only an alert may go out.
    #[cold]
    fn fail(&mut self, error: TlsError) -> TlsError {
        self.receiving = Receiving::Failed;
        self.sending = Sending::Closed;
        error
    }

    fn handle_content(&mut self, now: Instant, inner: &[u8]) -> Result<Opened, TlsError> {
        let end = inner
            .iter()
            .rposition(|byte| *byte != 0)
            .ok_or(TlsError::MissingContentType)?;
        let (content, content_type) = (&inner[..end], inner[end]);
        if self.messages.is_fragmented() && content_type == CONTENT_DATA {
            return Err(TlsError::InterleavedHandshake { content_type });
        }
        match content_type {
            CONTENT_DATA if content.is_empty() => {
                self.patience.handle_record_without_data()?;
                Ok(Opened::Data { len: 0 })
            }
            CONTENT_DATA => {
                self.patience.handle_data();
                Ok(Opened::Data { len: content.len() })
            }
            CONTENT_HANDSHAKE => {
                self.patience.handle_record_without_data()?;
                let is_client = self.schedule.is_client();
                if let Some(update) = self.messages.handle_fragment(content, is_client)? {
                    self.handle_key_update(now, update)?;
                }
                Ok(Opened::Control)
            }
            CONTENT_ALERT => self.handle_alert(content),
            _ => Err(TlsError::UnexpectedContent { content_type }),
        }
    }

    /// The peer's next record is sealed under its next key (RFC 8446 section 4.6.3).
    fn handle_key_update(&mut self, now: Instant, update: KeyUpdate) -> Result<(), TlsError> {
        self.patience.handle_key_update(now)?;
        self.rx = self.schedule.next_rx(self.suite)?;
        self.key_updates.received += 1;
        if update == KeyUpdate::Requested && self.sending == Sending::Open {
            self.sending = Sending::AnswerFirst;
        }
        Ok(())
    }

    /// RFC 8446 section 6: an alert is one record of two bytes, and its level means nothing.
    fn handle_alert(&mut self, content: &[u8]) -> Result<Opened, TlsError> {
        let &[_level, description] = content else {
            return Err(TlsError::MalformedMessage { what: "alert" });
        };
        match Alert(description) {
            Alert::CLOSE_NOTIFY | Alert::USER_CANCELED if self.messages.is_fragmented() => {
                Err(TlsError::InterleavedHandshake {
                    content_type: CONTENT_ALERT,
                })
            }
            Alert::CLOSE_NOTIFY => {
                self.receiving = Receiving::Closed;
                Ok(Opened::Closed)
            }
            Alert::USER_CANCELED => {
                self.patience.handle_warning()?;
                Ok(Opened::Control)
            }
            alert => Err(TlsError::AlertReceived { alert }),
        }
    }

    /// Seals at most 16384 bytes as one application-data record at the front of `out`; returns its
    /// wire length.
    ///
    /// [`poll_control`](Self::poll_control) must have been drained before: while the answer to a
    /// KeyUpdate is pending this is [`TlsError::ControlPending`]. With our own KeyUpdate due, but
    /// held back by its rate, sealing goes on under the old key up to the cipher's limit and then
    /// ends with [`TlsError::KeyExhausted`].
    #[inline]
    pub fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        if self.sending != Sending::Open || self.tx.seq() >= self.suite.records_hard_max() {
            return Err(self.refuse_to_seal());
        }
        self.tx.seal(CONTENT_DATA, plaintext, out)
    }

    #[cold]
    fn refuse_to_seal(&self) -> TlsError {
        match self.sending {
            Sending::Open => TlsError::KeyExhausted,
            Sending::AnswerFirst => TlsError::ControlPending,
            Sending::Closed => TlsError::WriteClosed,
        }
    }

    /// Wire length of `len` plaintext bytes cut in full records.
    pub const fn sealed_len(len: usize) -> usize {
        len + len.div_ceil(RECORD_PLAINTEXT_MAX) * RECORD_OVERHEAD
    }

    /// Writes one pending control record (KeyUpdate answer, our own KeyUpdate when due, alert,
    /// close_notify) at the front of `out`, which holds at least 64 bytes; returns its length, 0
    /// when nothing is pending. Call until 0.
    pub fn poll_control(&mut self, now: Instant, out: &mut [u8]) -> Result<usize, TlsError> {
        if out.len() < CONTROL_RECORD_MAX {
            let needed_bytes = CONTROL_RECORD_MAX;
            return Err(TlsError::BufferTooSmall {
                len_bytes: out.len(),
                needed_bytes,
            });
        }
        if let Some(alert) = self.alert {
            let written = self.tx.seal(CONTENT_ALERT, &alert.message(), out)?;
            self.alert = None;
            return Ok(written);
        }
        match self.sending {
            Sending::Closed => Ok(0),
            Sending::AnswerFirst => {
                let written = self.send_key_update(now, false, out)?;
                self.sending = Sending::Open;
                Ok(written)
            }
            Sending::Open if self.own_update_due(now) => {
                let request = self.wish.take().unwrap_or(false);
                self.send_key_update(now, request, out)
            }
            Sending::Open => Ok(0),
        }
    }

    fn own_update_due(&self, now: Instant) -> bool {
        let due = self.wish.is_some() || self.tx.seq() >= self.records_per_key;
        due && self.pace.allows(now)
    }

    /// Seals the message under the old key, then leaves that key for good: the new one starts at
    /// record 0, and the old one is dropped before anything else can be sealed.
    fn send_key_update(
        &mut self,
        now: Instant,
        request: bool,
        out: &mut [u8],
    ) -> Result<usize, TlsError> {
        let written = self
            .tx
            .seal(CONTENT_HANDSHAKE, &key_update_message(request), out)?;
        match self.schedule.next_tx(self.suite) {
            Ok(keys) => self.tx = keys,
            Err(error) => return Err(self.fail(error)),
        }
        self.pace.handle_sent(now);
        self.key_updates.sent += 1;
        Ok(written)
    }

    /// Queues close_notify. Data may still come; `seal` is over.
    pub fn queue_close(&mut self) {
        self.queue(Alert::CLOSE_NOTIFY);
    }

    /// Queues the fatal alert that belongs to `error`, if it has one; `seal` is over either way.
    pub fn queue_alert(&mut self, error: &TlsError) {
        match error.alert() {
            Some(alert) => self.queue(alert),
            None => self.sending = Sending::Closed,
        }
    }

    /// The first alert wins, and nothing follows it.
    fn queue(&mut self, alert: Alert) {
        if !self.has_said_goodbye {
            self.has_said_goodbye = true;
            self.alert = Some(alert);
        }
        self.sending = Sending::Closed;
    }

    /// Queues a KeyUpdate; `request` asks the peer to update as well. It waits for the rate of
    /// [`SessionLimits::key_updates_per_second`].
    pub fn queue_key_update(&mut self, request: bool) {
        self.wish = Some(request || self.wish == Some(true));
    }

    /// True when [`poll_control`](Self::poll_control) would write something.
    #[inline]
    pub fn control_pending(&self, now: Instant) -> bool {
        match self.sending {
            Sending::Open => self.own_update_due(now),
            Sending::AnswerFirst => true,
            Sending::Closed => self.alert.is_some(),
        }
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn tx_for_tests(&mut self) -> &mut DirectionKeys {
        &mut self.tx
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn rekey_for_tests(&mut self) -> Result<(), TlsError> {
        self.tx = self.schedule.next_tx(self.suite)?;
        Ok(())
    }

    /// IANA name of the cipher suite.
    pub fn suite_name(&self) -> &'static str {
        self.suite.name()
    }

    /// KeyUpdates so far, for counters.
    pub fn key_updates(&self) -> KeyUpdates {
        self.key_updates
    }

    /// True after close_notify came.
    pub fn is_closed_by_peer(&self) -> bool {
        self.receiving == Receiving::Closed
    }
}

/// Without keys: counts of records and states only.
impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("suite", &self.suite.name())
            .field("sending", &self.sending)
            .field("receiving", &self.receiving)
            .field("records_sealed", &self.tx.seq())
            .field("records_opened", &self.rx.seq())
            .finish_non_exhaustive()
    }
}

const _: () = assert!(5 + RECORD_OVERHEAD <= CONTROL_RECORD_MAX);
// A KeyUpdate answer and one alert are all that is ever sealed beyond the data.
const _: () = assert!(CONTROL_RECORDS_RESERVED >= 2);

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
