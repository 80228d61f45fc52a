//! The parameters of one call, in the order in which they were given.

/// Parameters of a command: names in lower case outside map keys, values as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `name`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.push((name.into(), value.into()));
        self
    }

    /// Adds `name` when there is a value.
    #[must_use]
    pub fn maybe(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds entry `index` of map `name`: `name[index].key`. The server is particular about the case of `key`.
    #[must_use]
    pub fn entry(self, name: &str, index: usize, key: &str, value: impl Into<String>) -> Self {
        self.with(&format!("{name}[{index}].{key}"), value)
    }

    /// The pairs.
    #[must_use]
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    pub(super) fn into_pairs(self) -> Vec<(String, String)> {
        self.0
    }
}
