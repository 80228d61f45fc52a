//! Rows of results, printed at the end.
#![allow(clippy::print_stdout, reason = "the matrix is a result in itself")]

use std::fmt::Write;
use std::time::{Duration, Instant};

/// What a cell came to, when it is not wrong.
#[derive(Debug)]
pub(crate) enum Good {
    /// Content was compared; more about it.
    Same(String),
    /// Nothing was to be compared: what was seen instead, or why there is nothing.
    Reason(String),
}

/// A cell, or what is wrong with it.
pub(crate) type Cell = Result<Good, String>;

/// Where a cell stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) peer: &'a str,
    pub(crate) direction: &'a str,
    pub(crate) tls: &'a str,
    pub(crate) block: u32,
}

#[derive(Debug)]
struct Row {
    place: String,
    result: Cell,
    took: Duration,
}

/// All cells so far.
#[derive(Debug)]
pub(crate) struct Matrix {
    runtime: &'static str,
    rows: Vec<Row>,
}

impl Matrix {
    /// An empty one, for our side on this `--runtime`.
    pub(crate) fn new(runtime: &'static str) -> Self {
        let rows = Vec::new();
        Self { runtime, rows }
    }

    /// Works a cell out.
    pub(crate) fn cell(&mut self, place: Place<'_>, work: impl FnOnce() -> Cell) {
        let start = Instant::now();
        let result = work();
        let block = match place.block {
            0 => "-".to_owned(),
            bytes => bytes.to_string(),
        };
        self.rows.push(Row {
            place: format!(
                "{:<22} {:<22} {:<9} {block:>5}",
                place.peer, place.direction, place.tls
            ),
            result,
            took: start.elapsed(),
        });
    }

    /// Prints the matrix, and fails for wrong cells.
    pub(crate) fn finish(self) {
        println!("{}", self.text());
        let wrong: Vec<_> = self.rows.iter().filter(|row| row.result.is_err()).collect();
        assert!(wrong.is_empty(), "wrong cells: {wrong:#?}");
    }

    fn text(&self) -> String {
        let mut text = format!(
            "our side: --runtime {}\n{:<22} {:<22} {:<9} {:>5}  {:>5}  result\n",
            self.runtime, "peer", "direction", "tls", "block", "ms"
        );
        let (mut same, mut other, mut took) = (0, 0, Duration::ZERO);
        for row in &self.rows {
            let result = match &row.result {
                Ok(Good::Same(more)) => {
                    same += 1;
                    format!("same   {more}")
                }
                Ok(Good::Reason(why)) => {
                    other += 1;
                    format!("reason {why}")
                }
                Err(what) => format!("WRONG  {what}"),
            };
            took += row.took;
            let ms = row.took.as_millis();
            writeln!(text, "{}  {ms:>5}  {}", row.place, result.trim_end()).unwrap();
        }
        let (all, wrong) = (self.rows.len(), self.rows.len() - same - other);
        let seconds = took.as_secs_f64();
        write!(
            text,
            "{all} cells in {seconds:.1} s: {same} compared and the same, {other} with a reason, {wrong} wrong"
        )
        .unwrap();
        text
    }
}
