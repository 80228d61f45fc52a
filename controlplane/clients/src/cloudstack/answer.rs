//! Tolerant reading of answers: identifiers and numbers come as number or text, fields may be missing.

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::{Map, Value};
use std::fmt;

/// An identifier: a UUID today, a number on old servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub String);

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::String(text) => Ok(Self(text)),
            Value::Number(number) => Ok(Self(number.to_string())),
            other => Err(D::Error::custom(format!("{other} is no identifier"))),
        }
    }
}

/// A whole number, also when the server writes it as text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Number(pub i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let number = match &value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_i64(),
        };
        number
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("{value} is no whole number")))
    }
}

/// Takes the wrapper off: the one value under the one top-level key.
pub(super) fn unwrap(text: &[u8]) -> Option<Map<String, Value>> {
    let Value::Object(top) = serde_json::from_slice(text).ok()? else {
        return None;
    };
    let mut values = top.into_iter();
    match (values.next(), values.next()) {
        (Some((_, Value::Object(body))), None) => Some(body),
        _ => None,
    }
}

/// The value under `key`, whose case varies between commands.
pub(super) fn field(body: &mut Map<String, Value>, key: &str) -> Option<Value> {
    let name = body
        .keys()
        .find(|name| name.eq_ignore_ascii_case(key))?
        .clone();
    body.remove(&name)
}

/// A number that may be written as text.
pub(super) fn number(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_i64(),
    }
}
