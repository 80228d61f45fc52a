//! Signatures as the server computes them: names sorted as sent, values percent-encoded, the text lower-cased, HMAC-SHA1.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

/// What is written as `%XX`.
const CODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'*')
    .remove(b'_');

/// `value` as the server's signing code encodes it: only `A-Z a-z 0-9 . - * _` stay (so `~` does not), a space is `%20`.
#[must_use]
pub fn encode(value: &str) -> String {
    utf8_percent_encode(value, CODED).to_string()
}

/// The signature over `pairs` (all parameters but `signature` itself), in Base64 and not yet percent-encoded.
#[must_use]
pub fn signature(secret: &str, pairs: &[(String, String)]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    STANDARD.encode(hmac::sign(&key, signed_text(pairs).as_bytes()))
}

fn signed_text(pairs: &[(String, String)]) -> String {
    let mut sorted: Vec<_> = pairs.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let parts: Vec<_> = sorted
        .iter()
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    parts.join("&").to_lowercase()
}

/// The `expires` of a request that is sent at `now` and must arrive within `within`.
#[must_use]
pub fn expires(now: SystemTime, within: Duration) -> String {
    let at = OffsetDateTime::from(now + within);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}+0000",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Vector {
        name: String,
        secret: String,
        parameters: std::collections::BTreeMap<String, String>,
        signature: String,
    }

    #[test]
    fn every_vector_of_the_contract_is_met() {
        let vectors: Vec<Vector> =
            serde_json::from_str(include_str!("../../tests/data/signatures.json")).unwrap();
        assert_eq!(vectors.len(), 12);
        for vector in vectors {
            let pairs: Vec<_> = vector.parameters.into_iter().rev().collect();
            assert_eq!(
                signature(&vector.secret, &pairs),
                vector.signature,
                "{}",
                vector.name
            );
        }
    }

    #[test]
    fn a_tilde_is_encoded_and_a_star_is_not() {
        assert_eq!(encode("a~b *+ä"), "a%7Eb%20*%2B%C3%A4");
    }

    #[test]
    fn an_expiry_has_an_offset_without_colon() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_553_445);
        assert_eq!(
            expires(now, Duration::from_secs(0)),
            "2030-01-02T03:04:05+0000"
        );
    }
}
