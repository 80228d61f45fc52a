//! What can go wrong, whose fault it is, and which alert the peer is told.

use rustls::{CertificateError, Error as RustlsError, InvalidMessage};

use crate::alert::Alert;

/// Whose turn it is to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The other end broke the protocol, or is not what we take it for.
    Peer,
    /// A person has to change a file, a name or a clock. Trying again does not help.
    Operator,
    /// The machine: no random bytes, no time.
    Environment,
    /// Our own fault.
    Bug,
}

/// Every failure of this crate. The message tells this level only; the cause is the `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The peer's certificate is past its end.
    #[error("the peer's certificate has expired; issue a new one, or set the clocks right")]
    PeerCertificateExpired(#[source] Box<RustlsError>),
    /// The peer's certificate is not valid yet.
    #[error("the peer's certificate is not valid yet; set the clocks of both machines right")]
    PeerCertificateNotYetValid(#[source] Box<RustlsError>),
    /// The peer's certificate does not come from our authority.
    #[error(
        "the peer's certificate comes from an authority we do not trust; give both sides the same ca-cert.pem"
    )]
    PeerCertificateUntrusted(#[source] Box<RustlsError>),
    /// The peer's certificate is for other names.
    #[error(
        "the peer's certificate is not for the name we connected to; connect by a name it carries, or issue it for this one"
    )]
    PeerCertificateWrongName(#[source] Box<RustlsError>),
    /// A server certificate used by a client, or the other way round.
    #[error(
        "the peer's certificate is not for this purpose; servers need serverAuth and clients clientAuth"
    )]
    PeerCertificateWrongPurpose(#[source] Box<RustlsError>),
    /// The client sent no certificate although one is required.
    #[error(
        "the peer sent no certificate; configure client-cert.pem and client-key.pem on its side"
    )]
    PeerCertificateMissing,
    /// The peer's certificate is damaged or refused for another reason.
    #[error("the peer's certificate is not acceptable")]
    PeerCertificateInvalid(#[source] Box<RustlsError>),
    /// The peer told us why it ends the connection.
    #[error("the peer ended the connection with alert {alert}: {}", alert.advice())]
    AlertReceived {
        /// What it sent.
        alert: Alert,
    },
    /// The client offers application protocols, and we serve none of them.
    #[error("the peer offers none of the application protocols we serve")]
    NoApplicationProtocol,
    /// No version, suite, group or signature scheme in common.
    #[error("the peer offers no parameters we accept; tls 1.3 with an aead suite is needed")]
    NoCommonParameters(#[source] Box<RustlsError>),
    /// The first bytes are not TLS at all.
    #[error("the peer does not speak tls; check the port and that tls is on at its side")]
    NotTls,
    /// The handshake broke the protocol.
    #[error("the tls handshake failed")]
    Handshake(#[source] Box<RustlsError>),
    /// The handshake took more bytes than any honest one.
    #[error("the peer sent more than {limit_bytes} bytes of handshake")]
    HandshakeTooLong {
        /// The bound it hit.
        limit_bytes: usize,
    },
    /// close_notify in the middle of the handshake.
    #[error("the peer closed the connection during the handshake")]
    ClosedInHandshake,
    /// An unprotected record, or one of an unknown type, on an established connection.
    #[error("unexpected record of type {content_type} on an established connection")]
    UnexpectedRecord {
        /// The first byte of the record.
        content_type: u8,
    },
    /// The legacy version of a protected record is always 0x0303.
    #[error("record with legacy version {version:#06x} instead of 0x0303")]
    BadRecordVersion {
        /// What the header says.
        version: u16,
    },
    /// A record longer than RFC 8446 sections 5.2 and 5.4 allow.
    #[error("record of {len_bytes} bytes is longer than allowed")]
    RecordOverflow {
        /// The length field.
        len_bytes: usize,
    },
    /// A record with no room for a content type and a tag.
    #[error("record of {len_bytes} bytes is too short to be protected")]
    RecordTooShort {
        /// The length field.
        len_bytes: usize,
    },
    /// The record does not authenticate: damaged, forged, out of order or under another key.
    #[error("record does not authenticate")]
    BadRecordMac,
    /// A record of nothing but padding.
    #[error("record carries no content type")]
    MissingContentType,
    /// Content of a type that has no place here.
    #[error("unexpected content of type {content_type} in a protected record")]
    UnexpectedContent {
        /// The inner content type.
        content_type: u8,
    },
    /// Other content came while a handshake message was incomplete.
    #[error("content of type {content_type} inside a fragmented handshake message")]
    InterleavedHandshake {
        /// The inner content type.
        content_type: u8,
    },
    /// A handshake message that may not come after the handshake.
    #[error("unexpected handshake message of type {message_type} after the handshake")]
    UnexpectedMessage {
        /// The handshake type.
        message_type: u8,
    },
    /// A message of the right type with wrong contents.
    #[error("malformed {what}")]
    MalformedMessage {
        /// Name of the message.
        what: &'static str,
    },
    /// A KeyUpdate whose request is neither 0 nor 1 (RFC 8446 section 4.6.3).
    #[error("key update with an unknown request")]
    IllegalKeyUpdate,
    /// A handshake message longer than we keep.
    #[error("handshake message of {len_bytes} bytes is longer than allowed")]
    MessageTooLong {
        /// The length it declares.
        len_bytes: usize,
    },
    /// Something followed a KeyUpdate in its record (RFC 8446 section 5.1).
    #[error("key update is not the last message of its record")]
    KeyUpdateNotLast,
    /// More KeyUpdates than an honest peer sends.
    #[error("the peer updates its keys too often")]
    TooManyKeyUpdates,
    /// A long run of records without data, or of warnings.
    #[error("the peer sends records without data without end")]
    TooManyRecordsWithoutData,
    /// The key has sealed all the records it may, and no KeyUpdate went out.
    #[error("the sending key is used up and no key update could be sent in time")]
    KeyExhausted,
    /// `seal` was called although a KeyUpdate has to go first.
    #[error("a pending key update must be sent before more data")]
    ControlPending,
    /// `seal` was called after close_notify or an alert went out.
    #[error("the sending side of the connection is closed")]
    WriteClosed,
    /// The connection or handshake failed before, or is over.
    #[error("the connection was used after its end")]
    UsedAfterEnd,
    /// A buffer of the caller is too small.
    #[error("buffer of {len_bytes} bytes is too small, {needed_bytes} are needed")]
    BufferTooSmall {
        /// What was given.
        len_bytes: usize,
        /// What is needed.
        needed_bytes: usize,
    },
    /// The slice given to `open` is not exactly one record.
    #[error("{len_bytes} bytes were given as one record")]
    NotOneRecord {
        /// What was given.
        len_bytes: usize,
    },
    /// More plaintext than fits a record.
    #[error("{len_bytes} bytes do not fit one record")]
    PlaintextTooLong {
        /// What was given.
        len_bytes: usize,
    },
    /// An operation of the crypto library failed that cannot fail.
    #[error("{what} failed in the crypto library")]
    Crypto {
        /// The operation.
        what: &'static str,
    },
    /// rustls refused something it never refuses.
    #[error("{what} failed in the tls library")]
    Library {
        /// The operation.
        what: &'static str,
        /// What it said.
        #[source]
        source: Box<RustlsError>,
    },
    /// The operating system gave no random bytes or no time.
    #[error("the operating system gave no random bytes or no time")]
    NoEntropyOrTime(#[source] Box<RustlsError>),
    /// A PEM text does not hold what it should.
    #[error("{what} holds no usable pem section")]
    BadPem {
        /// Which text.
        what: &'static str,
        /// What the parser said, when it said something.
        #[source]
        source: Option<rustls_pki_types::pem::Error>,
    },
    /// A configuration lacks a part.
    #[error("{what} is missing")]
    Missing {
        /// Which text.
        what: &'static str,
    },
    /// Certificate and key do not fit, or rustls refuses them.
    #[error("{what} cannot be used; check that certificate and key belong together")]
    BadCredentials {
        /// Which side.
        what: &'static str,
        /// What rustls said.
        #[source]
        source: Box<RustlsError>,
    },
    /// The authorities in a CA text cannot be used as such.
    #[error("the certificates of the authority cannot be used to check clients")]
    BadAuthority(#[source] rustls::server::VerifierBuilderError),
    /// A suite name we do not know.
    #[error("unknown cipher suite {name}")]
    UnknownSuite {
        /// As configured.
        name: String,
    },
    /// Neither a DNS name nor an IP address.
    #[error("{name:?} is neither a dns name nor an ip address")]
    BadName {
        /// As given.
        name: String,
    },
    /// A validity out of range.
    #[error("{days} days of validity are out of range; 1 to 36500 are possible")]
    BadValidity {
        /// As given.
        days: u32,
    },
    /// A certificate could not be made.
    #[error("{what} could not be issued")]
    Issue {
        /// Which one.
        what: &'static str,
        /// What rcgen said.
        #[source]
        source: rcgen::Error,
    },
}

impl TlsError {
    /// Bytes of an established connection were not what was sent, or so it seems to one of both sides: TCP's checksum
    /// lets one of some ten thousand damaged segments pass, and what makes them makes many. A new connection begins
    /// with right ones.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::BadRecordMac
            | Self::UnexpectedRecord { .. }
            | Self::BadRecordVersion { .. }
            | Self::RecordOverflow { .. }
            | Self::RecordTooShort { .. } => true,
            Self::AlertReceived { alert } => [
                Alert::BAD_RECORD_MAC,
                Alert::RECORD_OVERFLOW,
                Alert::UNEXPECTED_MESSAGE,
            ]
            .contains(alert),
            _ => false,
        }
    }

    /// Whose turn it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::PeerCertificateExpired(_)
            | Self::PeerCertificateNotYetValid(_)
            | Self::PeerCertificateUntrusted(_)
            | Self::PeerCertificateWrongName(_)
            | Self::PeerCertificateWrongPurpose(_)
            | Self::PeerCertificateMissing
            | Self::PeerCertificateInvalid(_)
            | Self::NoApplicationProtocol
            | Self::NoCommonParameters(_)
            | Self::NotTls
            | Self::BadPem { .. }
            | Self::Missing { .. }
            | Self::BadCredentials { .. }
            | Self::BadAuthority(_)
            | Self::UnknownSuite { .. }
            | Self::BadName { .. }
            | Self::BadValidity { .. }
            | Self::Issue { .. } => Blame::Operator,
            Self::AlertReceived { alert } if alert.is_about_certificate() => Blame::Operator,
            Self::NoEntropyOrTime(_) => Blame::Environment,
            Self::KeyExhausted
            | Self::ControlPending
            | Self::WriteClosed
            | Self::UsedAfterEnd
            | Self::BufferTooSmall { .. }
            | Self::NotOneRecord { .. }
            | Self::PlaintextTooLong { .. }
            | Self::Crypto { .. }
            | Self::Library { .. } => Blame::Bug,
            _ => Blame::Peer,
        }
    }

    /// The fatal alert that tells the peer of this error; `None` when it needs none because it
    /// ended the connection itself, or because nothing is wrong on the wire.
    pub fn alert(&self) -> Option<Alert> {
        match self {
            Self::AlertReceived { .. } | Self::ClosedInHandshake => None,
            Self::ControlPending
            | Self::WriteClosed
            | Self::UsedAfterEnd
            | Self::BufferTooSmall { .. }
            | Self::NotOneRecord { .. }
            | Self::PlaintextTooLong { .. } => None,
            Self::PeerCertificateExpired(_) | Self::PeerCertificateNotYetValid(_) => {
                Some(Alert::CERTIFICATE_EXPIRED)
            }
            Self::PeerCertificateUntrusted(_) => Some(Alert::UNKNOWN_CA),
            Self::PeerCertificateWrongName(_) | Self::PeerCertificateInvalid(_) => {
                Some(Alert::BAD_CERTIFICATE)
            }
            Self::PeerCertificateWrongPurpose(_) => Some(Alert::UNSUPPORTED_CERTIFICATE),
            Self::PeerCertificateMissing => Some(Alert::CERTIFICATE_REQUIRED),
            Self::NoApplicationProtocol => Some(Alert::NO_APPLICATION_PROTOCOL),
            Self::NoCommonParameters(_) => Some(Alert::HANDSHAKE_FAILURE),
            Self::RecordOverflow { .. } => Some(Alert::RECORD_OVERFLOW),
            Self::RecordTooShort { .. } | Self::BadRecordMac => Some(Alert::BAD_RECORD_MAC),
            Self::BadRecordVersion { .. }
            | Self::NotTls
            | Self::Handshake(_)
            | Self::HandshakeTooLong { .. }
            | Self::MessageTooLong { .. }
            | Self::MalformedMessage { .. } => Some(Alert::DECODE_ERROR),
            Self::IllegalKeyUpdate => Some(Alert::ILLEGAL_PARAMETER),
            Self::UnexpectedRecord { .. }
            | Self::MissingContentType
            | Self::UnexpectedContent { .. }
            | Self::InterleavedHandshake { .. }
            | Self::UnexpectedMessage { .. }
            | Self::KeyUpdateNotLast
            | Self::TooManyKeyUpdates
            | Self::TooManyRecordsWithoutData => Some(Alert::UNEXPECTED_MESSAGE),
            _ => Some(Alert::INTERNAL_ERROR),
        }
    }

    /// Sorts what rustls says about a handshake.
    pub(crate) fn from_handshake(error: RustlsError) -> Self {
        match error {
            RustlsError::InvalidCertificate(ref reason) => {
                let kind = certificate_kind(reason);
                kind(Box::new(error))
            }
            RustlsError::NoCertificatesPresented => Self::PeerCertificateMissing,
            RustlsError::NoApplicationProtocol => Self::NoApplicationProtocol,
            RustlsError::PeerIncompatible(_) => Self::NoCommonParameters(Box::new(error)),
            RustlsError::AlertReceived(alert) => Self::AlertReceived {
                alert: Alert(u8::from(alert)),
            },
            RustlsError::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            RustlsError::FailedToGetCurrentTime | RustlsError::FailedToGetRandomBytes => {
                Self::NoEntropyOrTime(Box::new(error))
            }
            _ => Self::Handshake(Box::new(error)),
        }
    }
}

fn certificate_kind(reason: &CertificateError) -> fn(Box<RustlsError>) -> TlsError {
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            TlsError::PeerCertificateExpired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsError::PeerCertificateNotYetValid
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            TlsError::PeerCertificateUntrusted
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsError::PeerCertificateWrongName
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            TlsError::PeerCertificateWrongPurpose
        }
        _ => TlsError::PeerCertificateInvalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lower_case_without_a_trailing_period() {
        let samples = [
            TlsError::PeerCertificateMissing,
            TlsError::AlertReceived {
                alert: Alert::UNKNOWN_CA,
            },
            TlsError::NoApplicationProtocol,
            TlsError::BadRecordMac,
            TlsError::BadName { name: "a b".into() },
        ];
        for sample in samples {
            let text = sample.to_string();
            assert!(!text.starts_with(char::is_uppercase), "{text}");
            assert!(!text.ends_with('.'), "{text}");
        }
    }

    #[test]
    fn an_error_stays_small_enough_to_return_per_record() {
        assert!(size_of::<TlsError>() <= 56, "{}", size_of::<TlsError>());
    }

    #[test]
    fn only_what_anybody_on_the_way_can_cause_is_damage() {
        let alert = |alert| TlsError::AlertReceived { alert };
        let damage = [
            TlsError::BadRecordMac,
            TlsError::RecordTooShort { len_bytes: 3 },
            alert(Alert::BAD_RECORD_MAC),
        ];
        assert!(damage.iter().all(TlsError::is_damage));
        let others = [
            TlsError::MissingContentType,
            TlsError::TooManyKeyUpdates,
            TlsError::PeerCertificateMissing,
            alert(Alert::CERTIFICATE_EXPIRED),
            alert(Alert::INTERNAL_ERROR),
        ];
        assert!(!others.iter().any(TlsError::is_damage));
    }

    #[test]
    fn a_refused_certificate_is_the_operators_turn_and_names_the_remedy() {
        let error = TlsError::AlertReceived {
            alert: Alert::CERTIFICATE_REQUIRED,
        };
        assert_eq!(error.blame(), Blame::Operator);
        assert!(error.to_string().contains("client-cert.pem"));
        assert_eq!(error.alert(), None);
        assert_eq!(
            TlsError::AlertReceived { alert: Alert(80) }.blame(),
            Blame::Peer
        );
    }
}
