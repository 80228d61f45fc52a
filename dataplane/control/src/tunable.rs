//! Tunables.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A value: a number, or a word of a choice, or a size like `256K`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TunableValue {
    /// In the unit of the tunable.
    Number(u64),
    /// A word or a size.
    Text(String),
}

/// `PATCH /v1/tunables`: names and values. All of them are set, or none.
pub type TunablePatch = BTreeMap<String, TunableValue>;

/// One tunable as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunableView {
    /// Its name, unit last.
    pub name: String,
    /// `count`, `bytes`, `bytes/s` or `choice`.
    pub unit: String,
    /// In force.
    pub value: TunableValue,
    /// When nobody says otherwise.
    pub default: TunableValue,
    /// Least number.
    pub min: u64,
    /// Largest number.
    pub max: u64,
    /// The words of a choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// When a change takes effect: `live`, `next connection`, `next transfer` or `start`.
    pub applies: String,
    /// What it does.
    pub effect: String,
    /// What was asked for and why it is not in force, when it was moved into its range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamped: Option<String>,
}

/// `GET /v1/tunables`, and the answer to PATCH.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunableList {
    /// In the order of the documentation.
    pub tunables: Vec<TunableView>,
}
