//! The commands that the lab plays, read from `data/commands.tsv`, which was made from the contract.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// How a command is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dispatch {
    Sync,
    Async,
    /// The object's row is made before the job is: the answer carries `id` and `jobid`.
    AsyncCreate,
}

/// A parameter that CloudStack knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    pub(crate) kind: &'static str,
    pub(crate) required: bool,
    /// Known to CloudStack, and not played here: an error, so that no test believes that it had an effect.
    pub(crate) played: bool,
}

/// One command.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) dispatch: Dispatch,
    pub(crate) wrapper: &'static str,
    pub(crate) key: &'static str,
    pub(crate) instance: &'static str,
    pub(crate) parameters: BTreeMap<&'static str, Parameter>,
}

static ROWS: LazyLock<BTreeMap<&'static str, Row>> = LazyLock::new(|| {
    include_str!("../data/commands.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let row = row(line);
            (row.name, row)
        })
        .collect()
});

fn row(line: &'static str) -> Row {
    let mut fields = line.split('\t');
    let mut next = || fields.next().unwrap_or_default();
    let name = next();
    let dispatch = match next() {
        "sync" => Dispatch::Sync,
        "async" => Dispatch::Async,
        _ => Dispatch::AsyncCreate,
    };
    let (wrapper, key, instance) = (next(), next(), next());
    let parameters = next()
        .split_ascii_whitespace()
        .filter_map(|field| field.split_once(':'))
        .map(|(name, kind)| {
            let played = !name.starts_with('-');
            let required = kind.ends_with('!');
            let parameter = Parameter {
                kind: kind.trim_end_matches('!'),
                required,
                played,
            };
            (name.trim_start_matches('-'), parameter)
        })
        .collect();
    Row {
        name,
        dispatch,
        wrapper,
        key,
        instance,
        parameters,
    }
}

/// The row of a command; names are case-sensitive.
pub(crate) fn find(command: &str) -> Option<&'static Row> {
    ROWS.get(command)
}

/// All commands, by name.
pub(crate) fn all() -> impl Iterator<Item = &'static Row> {
    ROWS.values()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_as_it_was_written() {
        let attach = find("attachVolume").expect("the lab plays attachVolume");
        assert_eq!(attach.dispatch, Dispatch::Async);
        assert_eq!(attach.wrapper, "attachvolumeresponse");
        assert!(attach.parameters["virtualmachineid"].required);
        assert_eq!(attach.parameters["deviceid"].kind, "long");
        assert!(!attach.parameters["starteventid"].played);
        assert_eq!(all().count(), 45);
    }
}
