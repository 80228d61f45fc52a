//! TLS alerts (RFC 8446 section 6) as names and bytes.

use std::fmt;

use crate::limits::RECORD_HEADER_LEN;

/// An alert description. Prints as the name the RFC gives it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Alert(pub u8);

impl Alert {
    /// The sender will write no more (section 6.1).
    pub const CLOSE_NOTIFY: Self = Self(0);
    /// A message that has no place here.
    pub const UNEXPECTED_MESSAGE: Self = Self(10);
    /// A record that does not authenticate.
    pub const BAD_RECORD_MAC: Self = Self(20);
    /// A record longer than allowed.
    pub const RECORD_OVERFLOW: Self = Self(22);
    /// No acceptable set of parameters.
    pub const HANDSHAKE_FAILURE: Self = Self(40);
    /// A certificate that is corrupt or carries the wrong name.
    pub const BAD_CERTIFICATE: Self = Self(42);
    /// A certificate of a type or for a purpose that is not supported.
    pub const UNSUPPORTED_CERTIFICATE: Self = Self(43);
    /// A certificate its authority took back.
    pub const CERTIFICATE_REVOKED: Self = Self(44);
    /// A certificate past its end, or not valid yet.
    pub const CERTIFICATE_EXPIRED: Self = Self(45);
    /// A certificate refused for another reason.
    pub const CERTIFICATE_UNKNOWN: Self = Self(46);
    /// A field out of range or inconsistent with others.
    pub const ILLEGAL_PARAMETER: Self = Self(47);
    /// A certificate of an authority the peer does not trust.
    pub const UNKNOWN_CA: Self = Self(48);
    /// A valid certificate that may not do this.
    pub const ACCESS_DENIED: Self = Self(49);
    /// A message that does not parse.
    pub const DECODE_ERROR: Self = Self(50);
    /// A signature or a Finished that does not verify.
    pub const DECRYPT_ERROR: Self = Self(51);
    /// A protocol version that is known but not spoken.
    pub const PROTOCOL_VERSION: Self = Self(70);
    /// Parameters weaker than the peer wants.
    pub const INSUFFICIENT_SECURITY: Self = Self(71);
    /// A fault of the sender, unrelated to the protocol.
    pub const INTERNAL_ERROR: Self = Self(80);
    /// The sender gives up for a reason of its own; a warning (section 6.1).
    pub const USER_CANCELED: Self = Self(90);
    /// A server name that is not served.
    pub const UNRECOGNIZED_NAME: Self = Self(112);
    /// A client certificate was wanted and none came.
    pub const CERTIFICATE_REQUIRED: Self = Self(116);
    /// None of the client's application protocols is served (RFC 7301).
    pub const NO_APPLICATION_PROTOCOL: Self = Self(120);

    /// The RFC's name, or `unknown`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            21 => "decryption_failed",
            22 => "record_overflow",
            30 => "decompression_failure",
            40 => "handshake_failure",
            41 => "no_certificate",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            60 => "export_restriction",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            86 => "inappropriate_fallback",
            90 => "user_canceled",
            100 => "no_renegotiation",
            109 => "missing_extension",
            110 => "unsupported_extension",
            111 => "certificate_unobtainable",
            112 => "unrecognized_name",
            113 => "bad_certificate_status_response",
            114 => "bad_certificate_hash_value",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            120 => "no_application_protocol",
            121 => "ech_required",
            _ => "unknown",
        }
    }

    /// What the reader of a log can do about an alert that the peer sent us.
    pub(crate) const fn advice(self) -> &'static str {
        match self {
            Self::CERTIFICATE_EXPIRED => {
                "it holds our certificate for expired: issue a new one, or set the clocks right"
            }
            Self::CERTIFICATE_REVOKED => "our certificate was revoked: enrol again",
            Self::UNKNOWN_CA => {
                "it does not trust the authority of our certificate: give both sides the same ca-cert.pem"
            }
            Self::CERTIFICATE_REQUIRED => {
                "it wants a client certificate: configure client-cert.pem and client-key.pem"
            }
            Self::BAD_CERTIFICATE => {
                "our certificate does not carry the name it expects, or is damaged: issue it for the name in use"
            }
            Self::UNSUPPORTED_CERTIFICATE => {
                "our certificate is not for this purpose: server and client certificates are different files"
            }
            Self::CERTIFICATE_UNKNOWN => "it refused our certificate: its log says why",
            Self::ACCESS_DENIED => "our certificate may not open this: allow its fingerprint there",
            Self::DECRYPT_ERROR => {
                "a signature did not verify: certificate and key may not belong together"
            }
            Self::NO_APPLICATION_PROTOCOL => "it serves none of the application protocols we offer",
            Self::PROTOCOL_VERSION => "it does not speak tls 1.3",
            Self::HANDSHAKE_FAILURE | Self::INSUFFICIENT_SECURITY => {
                "no cipher suite, group or signature scheme in common"
            }
            Self::UNRECOGNIZED_NAME => "it does not serve the host name we asked for",
            _ => "its log says why",
        }
    }

    /// True for the alerts by which a peer refuses our certificate or our access.
    pub(crate) const fn is_about_certificate(self) -> bool {
        matches!(
            self,
            Self::BAD_CERTIFICATE
                | Self::UNSUPPORTED_CERTIFICATE
                | Self::CERTIFICATE_REVOKED
                | Self::CERTIFICATE_EXPIRED
                | Self::CERTIFICATE_UNKNOWN
                | Self::UNKNOWN_CA
                | Self::ACCESS_DENIED
                | Self::CERTIFICATE_REQUIRED
        )
    }

    /// The level byte. TLS 1.3 ignores it; warnings are the two of section 6.1.
    const fn level(self) -> u8 {
        match self {
            Self::CLOSE_NOTIFY | Self::USER_CANCELED => 1,
            _ => 2,
        }
    }

    /// The two bytes of the alert message.
    pub(crate) const fn message(self) -> [u8; 2] {
        [self.level(), self.0]
    }

    /// An unprotected record with this alert, for a peer with whom no keys exist yet.
    pub const fn plaintext_record(self) -> [u8; RECORD_HEADER_LEN + 2] {
        let [level, description] = self.message();
        [21, 3, 3, 0, 2, level, description]
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "unknown" => write!(f, "unknown alert {}", self.0),
            name => f.write_str(name),
        }
    }
}

impl fmt::Debug for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Alert({}: {})", self.0, self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Alert;

    #[test]
    fn an_alert_prints_as_its_name_and_an_unknown_one_as_its_number() {
        assert_eq!(Alert::UNKNOWN_CA.to_string(), "unknown_ca");
        assert_eq!(Alert(200).to_string(), "unknown alert 200");
        assert_eq!(format!("{:?}", Alert(48)), "Alert(48: unknown_ca)");
    }

    #[test]
    fn only_the_two_closure_alerts_are_warnings() {
        assert_eq!(Alert::CLOSE_NOTIFY.message(), [1, 0]);
        assert_eq!(Alert::USER_CANCELED.message(), [1, 90]);
        assert_eq!(
            Alert::NO_APPLICATION_PROTOCOL.plaintext_record(),
            [21, 3, 3, 0, 2, 2, 120]
        );
    }
}
