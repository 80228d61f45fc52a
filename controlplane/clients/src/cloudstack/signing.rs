//! Signatures as the server computes them: names sorted as sent, values percent-encoded, the text lower-cased, HMAC-SHA1.

use aws_lc_rs::hmac;
use std::fmt::Write;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

/// `value` as the server's signing code encodes it: only `A-Z a-z 0-9 . - * _` stay (so `~` does not), a space is `%20`.
#[must_use]
pub fn encode(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b".-*_".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The signature over `pairs` (all parameters but `signature` itself), in Base64 and not yet percent-encoded.
#[must_use]
pub fn signature(secret: &str, pairs: &[(String, String)]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    base64(hmac::sign(&key, signed_text(pairs).as_bytes()).as_ref())
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

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |place: usize| usize::from(group.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            text.push(if digit <= group.len() {
                char::from(DIGITS[bits >> (18 - 6 * digit) & 0x3f])
            } else {
                '='
            });
        }
    }
    text
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
