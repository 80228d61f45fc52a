//! What a check found: where, what, and what to do about it.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Warning,
    Error,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) path: String,
    /// One-based; absent when the finding is about the file as a whole.
    pub(crate) line: Option<usize>,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl Finding {
    pub(crate) fn error(
        path: &str,
        line: impl Into<Option<usize>>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            path: path.to_owned(),
            line: line.into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if self.severity == Severity::Warning {
            f.write_str(": warning")?;
        }
        write!(f, ": {}\n    remedy: {}", self.what, self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_prints_place_fault_and_remedy() {
        let found = Finding::error("a/b.rs", 7, "too long", "split it");
        assert_eq!(
            found.to_string(),
            "a/b.rs:7: too long\n    remedy: split it"
        );
        let whole = Finding::error("a/b.rs", None, "too long", "split it").warning();
        assert_eq!(
            whole.to_string(),
            "a/b.rs: warning: too long\n    remedy: split it"
        );
    }
}
