//! The check of a request's signature: the lab's own reading of contract 2, shared with no client.

use crate::refusal::Refusal;
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::fmt::Write as _;

/// Contract 1: `expires` at most 15 minutes ahead once enforcement is on.
const AHEAD_MAX_MS: u64 = 15 * 60 * 1000;

/// The keys of the lab's one user.
#[derive(Clone, Debug)]
pub struct Keys {
    /// `apiKey`.
    pub api: String,
    /// The secret that signs.
    pub secret: String,
}

/// The text that is signed (contract 2, steps 1 to 5).
fn signed_text(pairs: &[(String, String)]) -> String {
    let mut sorted: Vec<_> = pairs
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("signature"))
        .collect();
    // Step 2: by code unit, as sent, before anything is lower-cased.
    sorted.sort_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
    let mut text = String::new();
    for (name, value) in sorted {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'*' | b'_' => {
                    text.push(char::from(byte));
                }
                _ => {
                    let _ = write!(text, "%{byte:02X}");
                }
            }
        }
    }
    text.to_lowercase()
}

/// The signature that `pairs` must carry.
pub(crate) fn expected(secret: &str, pairs: &[(String, String)]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    STANDARD.encode(hmac::sign(&key, signed_text(pairs).as_bytes()))
}

/// Answers 401 unless the call is signed by `keys` and not expired at `now_ms`. With `enforced`, version 3 and an expiry
/// are mandatory (contract 1).
pub(crate) fn check(
    keys: &Keys,
    pairs: &[(String, String)],
    now_ms: u64,
    enforced: bool,
) -> Result<(), Refusal> {
    let get = |wanted: &str| {
        pairs
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.as_str())
    };
    let (Some(api), Some(signature)) = (get("apikey"), get("signature")) else {
        return Err(Refusal::unauthorized());
    };
    if api != keys.api || signature != expected(&keys.secret, pairs) {
        return Err(Refusal::unauthorized());
    }
    // Contract 2: a version other than 3 means no expiry check.
    if get("signatureversion") != Some("3") {
        return if enforced {
            Err(Refusal::unauthorized())
        } else {
            Ok(())
        };
    }
    let expires = get("expires")
        .and_then(crate::time::parse)
        .ok_or_else(Refusal::unauthorized)?;
    if expires < now_ms || (enforced && expires > now_ms + AHEAD_MAX_MS) {
        return Err(Refusal::unauthorized());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "FakeSecretKey-B2";

    fn sign(pairs: &[(&str, &str)]) -> String {
        let mut all = vec![("apiKey", "FakeApiKey-A1"), ("response", "json")];
        all.extend_from_slice(pairs);
        let pairs: Vec<_> = all
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        expected(SECRET, &pairs)
    }

    #[test]
    fn the_vectors_of_the_contract_come_out() {
        const U: &str = "11111111-2222-4333-8444-555555555555";
        let list = [("command", "listZones"), ("available", "true")];
        assert_eq!(sign(&list), "kRpJ82Aef5umeWmVprdr57j1/ZM=");
        let name = |name| {
            [
                ("command", "createVolume"),
                ("name", name),
                ("diskofferingid", U),
                ("zoneid", U),
            ]
        };
        let mut punctuation = name("disk a+b*c/d=e&f:g,(1)_-.").to_vec();
        punctuation.push(("size", "20"));
        assert_eq!(sign(&punctuation), "59myHA3oyqWVLBwFb4nX2ZgqZrw=");
        assert_eq!(
            sign(&name("Müller ÄÖ 数据")),
            "xaiWAN0BjWXf+pNmX15UWuvluz4="
        );
        assert_eq!(sign(&name("a~b")), "KCXGVuOLJOOO5VcEIkv6OMMB1PA=");
        let deploy = [
            ("command", "deployVirtualMachine"),
            ("serviceofferingid", U),
            ("templateid", U),
            ("zoneid", U),
            ("startvm", "false"),
            ("details[0].cpuNumber", "4"),
            ("details[0].memory", "8192"),
            ("details[0].UEFI", "LEGACY"),
            ("details[0].rootdisksize", "40"),
        ];
        assert_eq!(sign(&deploy), "qPbLB2fhJ1VyQ38xYQbNBL9JsKc=");
        let attach = [
            ("command", "attachVolume"),
            ("id", U),
            ("virtualmachineid", U),
            ("deviceid", "0"),
            ("signatureVersion", "3"),
            ("expires", "2030-01-02T03:04:05+0000"),
        ];
        assert_eq!(sign(&attach), "4Zz1lgpopXObdUWw8Phy/ySiVPw=");
    }

    #[test]
    fn expiry_is_checked_at_both_ends() {
        let keys = Keys {
            api: "FakeApiKey-A1".to_owned(),
            secret: SECRET.to_owned(),
        };
        let signed = |expires: Option<&str>| {
            let mut pairs = vec![
                ("apiKey".to_owned(), keys.api.clone()),
                ("command".to_owned(), "listZones".to_owned()),
            ];
            if let Some(expires) = expires {
                pairs.push(("signatureVersion".to_owned(), "3".to_owned()));
                pairs.push(("expires".to_owned(), expires.to_owned()));
            }
            let signature = expected(SECRET, &pairs);
            pairs.push(("signature".to_owned(), signature));
            pairs
        };
        let now = crate::time::parse("2030-01-02T03:04:05+0000").expect("a time");
        let check = |expires, enforced| check(&keys, &signed(expires), now, enforced).is_ok();
        assert!(check(Some("2030-01-02T03:05:05+0000"), true));
        assert!(check(Some("2030-01-02T05:05:05+0200"), true));
        assert!(!check(Some("2030-01-02T03:04:04Z"), false), "past");
        assert!(!check(Some("2030-01-02T03:25:05+0000"), true), "too far");
        assert!(check(Some("2030-01-02T03:25:05+0000"), false));
        assert!(!check(Some("soon"), false));
        assert!(!check(None, true));
        assert!(check(None, false));
    }
}
