//! The parameters of one call, checked against the table.

use crate::refusal::Refusal;
use crate::table::Row;
use std::collections::BTreeMap;

/// Parameters that belong to the transport and not to a command (contract 1, 2).
const TRANSPORT: [&str; 6] = [
    "command",
    "apikey",
    "signature",
    "signatureversion",
    "expires",
    "response",
];

type Entries = BTreeMap<u32, BTreeMap<String, String>>;

/// What a call said.
#[derive(Clone, Debug)]
pub(crate) struct Params {
    pub(crate) row: &'static Row,
    values: BTreeMap<String, String>,
    maps: BTreeMap<String, Entries>,
}

impl Params {
    /// Sorts `pairs` into values and maps. With `strict`, what CloudStack would only log and ignore is an error too.
    pub(crate) fn new(
        row: &'static Row,
        pairs: &[(String, String)],
        strict: bool,
    ) -> Result<Params, Refusal> {
        let mut params = Params {
            row,
            values: BTreeMap::new(),
            maps: BTreeMap::new(),
        };
        for (name, value) in pairs {
            // Contract 1: control characters other than LF and CR are refused with 431, a tab included.
            if value
                .chars()
                .any(|c| c.is_ascii_control() && c != '\n' && c != '\r')
            {
                let text = format!(
                    "Received value for parameter {name} is invalid, contains illegal ASCII non-printable characters"
                );
                return Err(Refusal::parameter(text));
            }
            params.take(name, value, strict)?;
        }
        for (name, parameter) in &row.parameters {
            let given = params.values.get(*name).is_some_and(|v| !v.is_empty())
                || params.maps.contains_key(*name);
            if parameter.required && !given {
                let text = format!(
                    "Unable to execute API command {} due to missing parameter {name}",
                    row.name.to_lowercase()
                );
                return Err(Refusal::parameter(text));
            }
        }
        params.check_types()?;
        Ok(params)
    }

    fn take(&mut self, name: &str, value: &str, strict: bool) -> Result<(), Refusal> {
        let plain = name.split('[').next().unwrap_or(name).to_lowercase();
        if TRANSPORT.contains(&plain.as_str()) {
            return Ok(());
        }
        match self.row.parameters.get(plain.as_str()) {
            None if !strict => return Ok(()),
            None => {
                let text = format!(
                    "the contract knows no parameter {name} of {}; CloudStack would ignore it (contract 1)",
                    self.row.name
                );
                return Err(Refusal::parameter(text));
            }
            Some(parameter) if !parameter.played => {
                let text = format!(
                    "the lab does not play parameter {name} of {}",
                    self.row.name
                );
                return Err(Refusal::parameter(text));
            }
            Some(_) => {}
        }
        if !name.contains('[') {
            self.values.insert(plain, value.to_owned());
            return Ok(());
        }
        let (index, key) = map_entry(name)
            .ok_or_else(|| Refusal::malformed(format!("Unable to parse map parameter {name}")))?;
        let entries = self.maps.entry(plain).or_default();
        entries
            .entry(index)
            .or_default()
            .insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    fn check_types(&self) -> Result<(), Refusal> {
        for (name, value) in &self.values {
            let kind = self
                .row
                .parameters
                .get(name.as_str())
                .map_or("string", |parameter| parameter.kind);
            let number = matches!(kind, "long" | "integer" | "short") && !value.is_empty();
            if number && value.parse::<i64>().is_err() {
                return Err(Refusal::parameter(format!(
                    "Unable to parse value {value} of parameter {name} as a number"
                )));
            }
        }
        Ok(())
    }

    /// A value; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }

    pub(crate) fn need(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| {
            Refusal::parameter(format!(
                "Unable to execute API command {} due to missing parameter {name}",
                self.row.name.to_lowercase()
            ))
        })
    }

    /// Contract 1: anything but `true` counts as false.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name)
            .map(|value| value.eq_ignore_ascii_case("true"))
    }

    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(|value| value.parse().ok())
    }

    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        self.get(name)
            .map(|value| value.split(',').map(str::trim).collect())
            .unwrap_or_default()
    }

    /// The entries of a map in the order of their indexes.
    pub(crate) fn map(&self, name: &str) -> impl Iterator<Item = &BTreeMap<String, String>> {
        self.maps.get(name).into_iter().flat_map(BTreeMap::values)
    }

    /// `tags[i].key` and `tags[i].value` as pairs.
    pub(crate) fn tags(&self) -> Vec<(String, String)> {
        let text = |entry: &BTreeMap<String, String>, key: &str| {
            entry.get(key).cloned().unwrap_or_default()
        };
        self.map("tags")
            .map(|entry| (text(entry, "key"), text(entry, "value")))
            .collect()
    }
}

/// Contract 9: `name[i].key`, one bracket pair, an integer, a dot; the key keeps its case.
fn map_entry(name: &str) -> Option<(u32, &str)> {
    let (_, rest) = name.split_once('[')?;
    let (index, rest) = rest.split_once(']')?;
    let key = rest.strip_prefix('.')?;
    if key.is_empty() || key.contains('[') {
        return None;
    }
    Some((index.parse().ok()?, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table;

    fn parse(command: &str, pairs: &[(&str, &str)]) -> Result<Params, Refusal> {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Params::new(table::find(command).expect("played"), &pairs, true)
    }

    fn code(command: &str, pairs: &[(&str, &str)]) -> u16 {
        parse(command, pairs).expect_err("must be refused").code
    }

    #[test]
    fn each_wrong_parameter_is_cloudstacks_own_error() {
        assert_eq!(code("attachVolume", &[("id", "a")]), 431);
        assert_eq!(code("listZones", &[("colour", "red")]), 431);
        assert_eq!(code("listZones", &[("name", "a\tb")]), 431);
        assert_eq!(code("listVolumes", &[("page", "first")]), 431);
        assert_eq!(code("listVolumes", &[("hostid", "x")]), 431);
        for name in ["tags[0]", "tags[0]key", "tags[x].key", "tags[0][1].key"] {
            let pairs = [
                (name, "v"),
                ("resourcetype", "Volume"),
                ("resourceids", "x"),
            ];
            assert_eq!(code("createTags", &pairs), 430, "{name}");
        }
    }

    #[test]
    fn maps_keep_the_case_of_their_keys_and_the_order_of_their_indexes() {
        let pairs = [
            ("serviceofferingid", "s"),
            ("zoneid", "z"),
            ("details[10].cpuNumber", "4"),
            ("DETAILS[2].memory", "8"),
        ];
        let params = parse("deployVirtualMachine", &pairs).expect("well formed");
        let keys: Vec<_> = params.map("details").flat_map(BTreeMap::keys).collect();
        assert_eq!(keys, ["memory", "cpuNumber"]);
    }
}
