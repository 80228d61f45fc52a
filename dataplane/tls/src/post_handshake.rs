//! What may come after the handshake besides data (RFC 8446 section 4.6): messages that may be cut
//! over records, and the counters that end a connection which brings nothing else.

use std::mem;
use std::time::{Duration, Instant};

use crate::error::TlsError;
use crate::limits::{
    EARLY_KEY_UPDATES_PER_SECOND_MAX, KEY_UPDATES_WITHOUT_DATA_MAX, POST_HANDSHAKE_MESSAGE_MAX,
    RECORDS_BETWEEN_KEY_UPDATES_MIN, RECORDS_WITHOUT_DATA_MAX, WARNINGS_MAX,
};

use crate::record::CONTENT_HANDSHAKE;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const MESSAGE_HEADER_LEN: usize = 4;

/// The KeyUpdate message of section 4.6.3.
pub(crate) const fn key_update_message(request: bool) -> [u8; 5] {
    [KEY_UPDATE, 0, 0, 1, request as u8]
}

/// What a received KeyUpdate asks of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyUpdate {
    NotRequested,
    Requested,
}

/// Joins the fragments of handshake messages and parses them.
#[derive(Default)]
pub(crate) struct Messages {
    /// The start of an incomplete message; empty, without memory, between messages.
    pending: Vec<u8>,
}

impl Messages {
    /// True while a message is incomplete: nothing else may come between (section 5.1).
    #[inline]
    pub(crate) fn is_fragmented(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes the content of one handshake record. A KeyUpdate ends its record, so there is at most one.
    pub(crate) fn handle_fragment(
        &mut self,
        fragment: &[u8],
        is_client: bool,
    ) -> Result<Option<KeyUpdate>, TlsError> {
        if fragment.is_empty() {
            return Err(TlsError::UnexpectedContent {
                content_type: CONTENT_HANDSHAKE,
            });
        }
        if self.pending.is_empty() {
            return self.parse(fragment, is_client);
        }
        let mut joined = mem::take(&mut self.pending);
        joined.extend_from_slice(fragment);
        self.parse(&joined, is_client)
    }

    /// Parses whole messages and keeps the start of an incomplete one.
    fn parse(&mut self, mut bytes: &[u8], is_client: bool) -> Result<Option<KeyUpdate>, TlsError> {
        while let Some((&[message_type, a, b, c], rest)) =
            bytes.split_first_chunk::<MESSAGE_HEADER_LEN>()
        {
            let len_bytes = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
            check_message(message_type, len_bytes, is_client)?;
            let Some((body, behind)) = rest.split_at_checked(len_bytes) else {
                break;
            };
            if message_type == KEY_UPDATE {
                return parse_key_update(body, behind).map(Some);
            }
            bytes = behind;
        }
        self.pending = bytes.to_vec();
        Ok(None)
    }
}

/// Refuses by header alone, before anything is kept.
fn check_message(message_type: u8, len_bytes: usize, is_client: bool) -> Result<(), TlsError> {
    match message_type {
        KEY_UPDATE if len_bytes != 1 => Err(TlsError::MalformedMessage { what: "key update" }),
        KEY_UPDATE => Ok(()),
        NEW_SESSION_TICKET if is_client => {
            if len_bytes > POST_HANDSHAKE_MESSAGE_MAX {
                return Err(TlsError::MessageTooLong { len_bytes });
            }
            Ok(())
        }
        _ => Err(TlsError::UnexpectedMessage { message_type }),
    }
}

fn parse_key_update(body: &[u8], behind: &[u8]) -> Result<KeyUpdate, TlsError> {
    if !behind.is_empty() {
        return Err(TlsError::KeyUpdateNotLast);
    }
    match body {
        [0] => Ok(KeyUpdate::NotRequested),
        [1] => Ok(KeyUpdate::Requested),
        _ => Err(TlsError::IllegalKeyUpdate),
    }
}

/// Counts what costs us work and brings no data.
///
/// A peer that moves data never meets these bounds, whatever its record limit: every data record
/// clears the runs, and a KeyUpdate that comes after [`RECORDS_BETWEEN_KEY_UPDATES_MIN`] data
/// records or more is not counted per second. What is left for an attacker is 32 KeyUpdates in a
/// row, or 128 a second with a few data records between them.
#[derive(Default)]
pub(crate) struct Patience {
    records_without_data: u16,
    key_updates_without_data: u16,
    data_records_since_key_update: u64,
    early_key_updates: u32,
    early_since: Option<Instant>,
    warnings: u8,
}

impl Patience {
    #[inline]
    pub(crate) fn handle_data(&mut self) {
        self.records_without_data = 0;
        self.key_updates_without_data = 0;
        self.data_records_since_key_update = self.data_records_since_key_update.saturating_add(1);
    }

    pub(crate) fn handle_record_without_data(&mut self) -> Result<(), TlsError> {
        self.records_without_data += 1;
        if self.records_without_data > RECORDS_WITHOUT_DATA_MAX {
            return Err(TlsError::TooManyRecordsWithoutData);
        }
        Ok(())
    }

    pub(crate) fn handle_warning(&mut self) -> Result<(), TlsError> {
        self.warnings += 1;
        if self.warnings > WARNINGS_MAX {
            return Err(TlsError::TooManyRecordsWithoutData);
        }
        Ok(())
    }

    pub(crate) fn handle_key_update(&mut self, now: Instant) -> Result<(), TlsError> {
        self.key_updates_without_data += 1;
        if self.key_updates_without_data > KEY_UPDATES_WITHOUT_DATA_MAX {
            return Err(TlsError::TooManyKeyUpdates);
        }
        let records = mem::take(&mut self.data_records_since_key_update);
        if records >= RECORDS_BETWEEN_KEY_UPDATES_MIN {
            return Ok(());
        }
        let since = *self.early_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= Duration::from_secs(1) {
            self.early_since = Some(now);
            self.early_key_updates = 0;
        }
        self.early_key_updates += 1;
        if self.early_key_updates > EARLY_KEY_UPDATES_PER_SECOND_MAX {
            return Err(TlsError::TooManyKeyUpdates);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKET: [u8; 9] = [NEW_SESSION_TICKET, 0, 0, 5, 1, 2, 3, 4, 5];

    #[test]
    fn a_key_update_alone_in_its_record_is_understood() {
        let mut messages = Messages::default();
        let plain = messages
            .handle_fragment(&key_update_message(false), false)
            .unwrap();
        assert_eq!(plain, Some(KeyUpdate::NotRequested));
        let asks = messages
            .handle_fragment(&key_update_message(true), true)
            .unwrap();
        assert_eq!(asks, Some(KeyUpdate::Requested));
        assert!(!messages.is_fragmented());
    }

    #[test]
    fn messages_may_be_cut_anywhere() {
        let mut all = TICKET.to_vec();
        all.extend(TICKET);
        all.extend(key_update_message(true));
        for cut in 1..all.len() {
            let mut messages = Messages::default();
            let first = messages.handle_fragment(&all[..cut], true).unwrap();
            assert_eq!(first, None, "cut at {cut}");
            let second = messages.handle_fragment(&all[cut..], true).unwrap();
            assert_eq!(second, Some(KeyUpdate::Requested), "cut at {cut}");
        }
        let mut messages = Messages::default();
        let (last, front) = all.split_last().unwrap();
        for byte in front {
            assert_eq!(messages.handle_fragment(&[*byte], true).unwrap(), None);
        }
        assert_eq!(
            messages.handle_fragment(&[*last], true).unwrap(),
            Some(KeyUpdate::Requested)
        );
    }

    #[test]
    fn nothing_may_follow_a_key_update_in_its_record() {
        for tail in [&TICKET[..], &[0], &key_update_message(false)] {
            let mut bytes = key_update_message(false).to_vec();
            bytes.extend(tail);
            let outcome = Messages::default().handle_fragment(&bytes, true);
            assert!(matches!(outcome, Err(TlsError::KeyUpdateNotLast)));
        }
    }

    #[test]
    fn a_key_update_has_one_byte_that_is_zero_or_one() {
        let outcome = Messages::default().handle_fragment(&[KEY_UPDATE, 0, 0, 1, 2], false);
        assert!(matches!(outcome, Err(TlsError::IllegalKeyUpdate)));
        for header in [
            [KEY_UPDATE, 0, 0, 0],
            [KEY_UPDATE, 0, 0, 2],
            [KEY_UPDATE, 1, 0, 1],
        ] {
            let outcome = Messages::default().handle_fragment(&header, false);
            assert!(matches!(outcome, Err(TlsError::MalformedMessage { .. })));
        }
    }

    #[test]
    fn a_server_accepts_no_ticket_and_nobody_accepts_other_messages() {
        let outcome = Messages::default().handle_fragment(&TICKET, false);
        assert!(matches!(
            outcome,
            Err(TlsError::UnexpectedMessage { message_type: 4 })
        ));
        for message_type in (0..=u8::MAX).filter(|kind| ![4, KEY_UPDATE].contains(kind)) {
            let outcome = Messages::default().handle_fragment(&[message_type, 0, 0, 0], true);
            assert!(matches!(outcome, Err(TlsError::UnexpectedMessage { .. })));
        }
    }

    #[test]
    fn a_message_that_declares_too_much_is_refused_by_its_header() {
        let outcome = Messages::default().handle_fragment(&[NEW_SESSION_TICKET, 1, 0, 1], true);
        assert!(matches!(
            outcome,
            Err(TlsError::MessageTooLong { len_bytes: 65_537 })
        ));
    }

    #[test]
    fn thirty_two_key_updates_in_a_row_pass_and_one_more_does_not() {
        let now = Instant::now();
        let mut patience = Patience::default();
        for _ in 0..KEY_UPDATES_WITHOUT_DATA_MAX {
            patience.handle_key_update(now).unwrap();
        }
        assert!(matches!(
            patience.handle_key_update(now),
            Err(TlsError::TooManyKeyUpdates)
        ));
    }

    #[test]
    fn key_updates_by_record_count_are_never_too_many() {
        let now = Instant::now();
        let mut patience = Patience::default();
        for _ in 0..10_000 {
            for _ in 0..64 {
                patience.handle_data();
            }
            patience.handle_key_update(now).unwrap();
        }
    }

    #[test]
    fn early_key_updates_are_counted_per_second() {
        let start = Instant::now();
        let mut patience = Patience::default();
        let early = |patience: &mut Patience, now| {
            patience.handle_data();
            patience.handle_key_update(now)
        };
        for second in 0..3 {
            let now = start + Duration::from_secs(second);
            for _ in 0..EARLY_KEY_UPDATES_PER_SECOND_MAX {
                early(&mut patience, now).unwrap();
            }
        }
        let now = start + Duration::from_millis(2_999);
        assert!(matches!(
            early(&mut patience, now),
            Err(TlsError::TooManyKeyUpdates)
        ));
    }

    #[test]
    fn a_run_of_records_without_data_ends_the_connection() {
        let mut patience = Patience::default();
        for _ in 0..RECORDS_WITHOUT_DATA_MAX {
            patience.handle_record_without_data().unwrap();
        }
        patience.handle_data();
        for _ in 0..RECORDS_WITHOUT_DATA_MAX {
            patience.handle_record_without_data().unwrap();
        }
        assert!(patience.handle_record_without_data().is_err());
    }
}
