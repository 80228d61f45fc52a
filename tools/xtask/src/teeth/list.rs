//! The list of defects, and whether it still fits the code.

use anyhow::{Context as _, Result, bail, ensure};
use toml::{Table, Value};

/// One text that is replaced in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) file: String,
    pub(super) find: String,
    pub(super) replace: String,
}

/// A defect, and the test that has to find it.
#[derive(Debug)]
pub(super) struct Mutant {
    pub(super) name: String,
    pub(super) edits: Vec<Edit>,
    pub(super) package: String,
    /// "lib", or an integration test.
    pub(super) target: String,
    pub(super) test: String,
}

const KEYS: [&str; 8] = [
    "name", "required", "file", "find", "replace", "also", "package", "target",
];

pub(super) fn parse(text: &str) -> Result<Vec<Mutant>> {
    let table: Table = text.parse().context("not TOML")?;
    let entries = table
        .get("mutant")
        .and_then(Value::as_array)
        .context("there is no [[mutant]]")?;
    entries
        .iter()
        .map(|entry| {
            let entry = entry.as_table().context("an entry is no table")?;
            let name = text_of(entry, "name")?;
            mutant(entry).with_context(|| format!("mutant \"{name}\""))
        })
        .collect()
}

fn mutant(entry: &Table) -> Result<Mutant> {
    let unknown = entry
        .keys()
        .find(|key| *key != "test" && !KEYS.contains(&key.as_str()));
    if let Some(key) = unknown {
        bail!("unknown key \"{key}\"");
    }
    let mut edits = vec![edit(entry)?];
    let also = entry.get("also").and_then(Value::as_array);
    for more in also.into_iter().flatten() {
        edits.push(edit(more.as_table().context("`also` is no table")?)?);
    }
    Ok(Mutant {
        name: text_of(entry, "name")?,
        edits,
        package: text_of(entry, "package")?,
        target: text_of(entry, "target")?,
        test: text_of(entry, "test")?,
    })
}

fn edit(entry: &Table) -> Result<Edit> {
    let edit = Edit {
        file: text_of(entry, "file")?,
        find: text_of(entry, "find")?,
        replace: text_of(entry, "replace")?,
    };
    ensure!(!edit.find.is_empty(), "`find` is empty");
    ensure!(edit.find != edit.replace, "it changes nothing");
    Ok(edit)
}

fn text_of(entry: &Table, key: &str) -> Result<String> {
    let value = entry.get(key).and_then(Value::as_str);
    Ok(value
        .with_context(|| format!("the text `{key}` is missing"))?
        .to_owned())
}

impl Mutant {
    /// The name or the package contains `word`.
    pub(super) fn matches(&self, word: &str) -> bool {
        self.name.contains(word) || self.package == word
    }

    /// Each text to be replaced stands exactly once in its file.
    pub(super) fn check(&self, text: impl Fn(&str) -> Option<String>) -> Result<()> {
        for edit in &self.edits {
            let (name, file) = (&self.name, &edit.file);
            let text = text(file).with_context(|| format!("\"{name}\" is stale: no {file}"))?;
            let count = text.matches(&edit.find).count();
            ensure!(
                count == 1,
                "\"{name}\" is stale: {count} times instead of once in {file}: {}",
                edit.find
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"
        [[mutant]]
        name = "one"
        file = "a.rs"
        find = "x"
        replace = "y"
        package = "p"
        target = "lib"
        test = "t"
    "#;

    #[test]
    fn an_entry_is_read_whole() {
        let mutants = parse(ENTRY).unwrap();
        assert_eq!(mutants.len(), 1);
        assert!(mutants[0].matches("on") && mutants[0].matches("p") && !mutants[0].matches("t"));
        assert_eq!(mutants[0].edits.len(), 1);
    }

    #[test]
    fn more_edits_may_follow() {
        let also = "[[mutant.also]]\nfile = \"b.rs\"\nfind = \"u\"\nreplace = \"v\"\n";
        let mutants = parse(&format!("{ENTRY}\n{also}")).unwrap();
        assert_eq!(mutants[0].edits[1].file, "b.rs");
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        for (from, to, what) in [
            ("test = \"t\"", "", "`test`"),
            ("find = \"x\"", "find = \"\"", "`find` is empty"),
            ("replace = \"y\"", "replace = \"x\"", "changes nothing"),
            ("target =", "targets =", "\"targets\""),
        ] {
            let error = format!("{:#}", parse(&ENTRY.replace(from, to)).unwrap_err());
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn the_ten_defects_that_were_ordered_are_on_the_list() {
        let text = include_str!("../../teeth.toml");
        assert!(parse(text).is_ok());
        for defect in [
            "flush skipped",
            "short write taken as full",
            "HOLE read as ZERO",
            "tail dropped",
            "write before the tag check",
            "nonce reused after KeyUpdate",
            "cookie confused",
            "off by one block",
            "lease freed before its CQE",
            "STARTTLS surplus kept",
        ] {
            let line = format!("required = \"{defect}\"\n");
            assert!(text.contains(&line), "{defect}");
        }
    }

    #[test]
    fn a_text_that_is_not_there_exactly_once_is_stale() {
        let mutant = &parse(ENTRY).unwrap()[0];
        let check = |text: &str| mutant.check(|_| Some(text.to_owned()));
        assert!(check("one x here").is_ok());
        for text in ["none", "x and x"] {
            let error = check(text).unwrap_err().to_string();
            assert!(error.contains("stale"), "{error}");
        }
        assert!(mutant.check(|_| None).is_err());
    }
}
