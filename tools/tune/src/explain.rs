//! `explain`: a tunable from the table that the data plane reads.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use control::knob::{TABLE, Tunable};

/// Which one.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of a tunable; without it, all of them in a line each
    knob: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<String> {
    let Some(name) = &args.knob else {
        return Ok(TABLE.iter().map(line).collect());
    };
    match Tunable::by_name(name) {
        Some(row) => Ok(page(row)),
        None => bail!("there is no tunable {name}; `migratekit-tune explain` lists them"),
    }
}

fn line(row: &Tunable) -> String {
    let first = row.effect.split_inclusive('.').next().unwrap_or_default();
    format!("{:<18} {:<10} {first}\n", row.name, row.format(row.default))
}

fn page(row: &Tunable) -> String {
    let mut page = format!("{}\n\n{}\n\n", row.name, row.effect);
    let mut put = |key: &str, value: &str| {
        let _ = writeln!(page, "{key:<9}{value}");
    };
    put("unit", row.unit.name());
    put("default", &row.format(row.default));
    put("range", &row.range_text());
    put("applies", row.applies.name());
    if !row.min_reason.is_empty() {
        put("not less", &format!("because {}", row.min_reason));
        put("not more", &format!("because {}", row.max_reason));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(knob: Option<&str>) -> Result<String> {
        let knob = knob.map(str::to_owned);
        run(&Args { knob })
    }

    #[test]
    fn every_row_of_the_table_has_a_page_and_a_line() {
        let all = explain(None).unwrap();
        assert_eq!(all.lines().count(), TABLE.len());
        for row in &TABLE {
            let page = explain(Some(row.name)).unwrap();
            assert!(
                page.contains(row.effect) && page.contains(&row.range_text()),
                "{page}"
            );
            assert!(all.contains(row.name), "{all}");
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_that_says_where_the_names_are() {
        let error = explain(Some("speed")).unwrap_err().to_string();
        assert!(
            error.contains("speed") && error.contains("explain"),
            "{error}"
        );
    }
}
