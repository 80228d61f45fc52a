//! Knobs as text: values read and written, the help of `--set`, and the page of the documentation.

use std::fmt::Write as _;

use super::table::{Granule, TABLE, Tunable, Unit};

/// Units of 1024 from large to small.
const BYTE_UNITS: [(char, u64); 4] = [
    ('T', 1 << 40),
    ('G', 1 << 30),
    ('M', 1 << 20),
    ('K', 1 << 10),
];

impl Tunable {
    /// A number, a size with K, M, G or T (and `iB`), or a word of a choice; not yet clamped.
    #[must_use]
    pub fn parse(&self, text: &str) -> Option<u64> {
        if self.zero == Some(text) {
            return Some(0);
        }
        match self.unit {
            Unit::Choice => {
                let index = self.choices.iter().position(|choice| *choice == text)?;
                u64::try_from(index).ok()
            }
            Unit::Count => parse_number(text),
            Unit::Seconds => parse_number(text.strip_suffix('s').unwrap_or(text)),
            Unit::Bytes => parse_bytes(text),
            Unit::BytesPerSecond => parse_bytes(text.strip_suffix("/s").unwrap_or(text)),
        }
    }

    /// The shortest text that [`Tunable::parse`] reads back to `value`.
    #[must_use]
    pub fn format(&self, value: u64) -> String {
        match (self.unit, self.zero) {
            (_, Some(word)) if value == 0 => word.to_owned(),
            (Unit::Choice, _) => self.choice_name(value).unwrap_or("?").to_owned(),
            (Unit::Count | Unit::Seconds, _) => value.to_string(),
            (Unit::Bytes | Unit::BytesPerSecond, _) => {
                let unit = BYTE_UNITS
                    .iter()
                    .find(|(_, unit)| value != 0 && value.is_multiple_of(*unit));
                match unit {
                    Some((letter, unit)) => format!("{}{letter}", value / unit),
                    None => value.to_string(),
                }
            }
        }
    }

    /// `64K..4M, multiple of 4096`, or the words of a choice.
    #[must_use]
    pub fn range_text(&self) -> String {
        if self.unit == Unit::Choice {
            return self.choices.join(", ");
        }
        let mut text = format!("{}..{}", self.format(self.min), self.format(self.max));
        match self.granule {
            Granule::One => {}
            Granule::MultipleOf(step) => {
                let _ = write!(text, ", multiple of {step}");
            }
            Granule::PowerOfTwo => text.push_str(", power of two"),
        }
        if let Some(word) = self.zero {
            let _ = write!(text, "; 0 = {word}");
        }
        text
    }
}

fn parse_number(text: &str) -> Option<u64> {
    text.parse()
        .ok()
        .filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.strip_suffix("iB").unwrap_or(text);
    let last = text.chars().last()?;
    let unit = BYTE_UNITS
        .iter()
        .find(|(letter, _)| last.eq_ignore_ascii_case(letter));
    match unit {
        Some((_, unit)) => parse_number(&text[..text.len() - 1])?.checked_mul(*unit),
        None => parse_number(text),
    }
}

/// The knobs for a help text: one paragraph each.
#[must_use]
pub fn help() -> String {
    let mut text = String::from("Tunables of --set NAME=VALUE:\n");
    for row in &TABLE {
        let _ = writeln!(
            text,
            "\n  {} ({}, default {}; applies: {})\n      {}",
            row.name,
            row.range_text(),
            row.format(row.default),
            row.applies.name(),
            wrapped(row.effect, 88, "\n      "),
        );
    }
    text.truncate(text.trim_end().len());
    text
}

/// Breaks at blanks so that no line is longer than `width`, where words allow it.
fn wrapped(text: &str, width: usize, line_end: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        if column > 0 && column + 1 + word.len() > width {
            out.push_str(line_end);
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out
}

const PAGE_TOP: &str = "\
# Tunables

This page is generated from the table in `dataplane/control/src/knob/table.rs`, and a test keeps the two
equal. To write it anew: `UPDATE_DOCS=1 cargo test -p engine tunables`.

A tunable changes how fast bytes move, never which bytes. A value out of range is moved to the nearest
allowed one and the reason is told; an unknown name or word is an error.

* `migratekit-dataplane copy --set NAME=VALUE` and `serve --set NAME=VALUE` set one for a process.
* `GET /v1/tunables` on the control socket `transfers.sock` shows all of them with value, default, range and
  the reason of a clamp; `PATCH /v1/tunables` with `{\"NAME\": VALUE}` changes them.

`applies` says when a change is seen: `live` under load, within a turn or two of each shard; `next connection`
and `next transfer` leave running ones as they are; `start` needs a new process.

| name | unit | default | range | applies |
|------|------|---------|-------|---------|
";

/// The page `docs/interfaces/tunables.md`.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(PAGE_TOP);
    for row in &TABLE {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            row.name,
            row.unit.name(),
            row.format(row.default),
            row.range_text(),
            row.applies.name()
        );
    }
    page.push_str("\n## What each one does\n");
    for row in &TABLE {
        let _ = write!(page, "\n**`{}`**: {}", row.name, row.effect);
        if !row.min_reason.is_empty() {
            let _ = write!(
                page,
                " Not below {} because {}; not above {} because {}.",
                row.format(row.min),
                row.min_reason,
                row.format(row.max),
                row.max_reason
            );
        }
        page.push('\n');
    }
    page
}
