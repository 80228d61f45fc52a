//! Progress on standard error: a bar, objects, lines, or nothing.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use engine::Progress;
use serde::Serialize;

use super::SCHEMA;
use super::meter::{Meter, Reading};
use crate::cli::ProgressChoice;
use crate::size::format_size;

/// Between two objects.
const OBJECT_EVERY: Duration = Duration::from_secs(1);
/// Between two lines of a log file.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// When the terminal does not tell its width.
const COLUMNS_DEFAULT: usize = 80;
/// The bar itself; what is left of the line belongs to the numbers.
const BAR_CELLS: usize = 20;

/// Shows the progress of one copy.
pub(crate) struct ProgressView {
    style: Style,
    meter: Meter,
    next: Duration,
    drawn: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Bar,
    Objects,
    Lines,
    Nothing,
}

impl ProgressView {
    /// `auto` is a bar on a terminal and lines elsewhere.
    pub(crate) fn new(choice: ProgressChoice) -> Self {
        let style = match choice {
            ProgressChoice::Bar => Style::Bar,
            ProgressChoice::Json => Style::Objects,
            ProgressChoice::None => Style::Nothing,
            ProgressChoice::Auto if io::stderr().is_terminal() => Style::Bar,
            ProgressChoice::Auto => Style::Lines,
        };
        let next = match style {
            Style::Lines => LINE_EVERY,
            _ => Duration::ZERO,
        };
        Self {
            style,
            meter: Meter::default(),
            next,
            drawn: false,
        }
    }

    /// Called several times a second; draws when it is time.
    pub(crate) fn observe(&mut self, progress: &Progress) {
        let reading = self.meter.read(progress);
        if progress.elapsed < self.next {
            return;
        }
        let every = match self.style {
            Style::Nothing => return,
            Style::Bar => Duration::ZERO,
            Style::Objects => OBJECT_EVERY,
            Style::Lines => LINE_EVERY,
        };
        self.next = progress.elapsed + every;
        self.draw(&reading);
    }

    /// The last numbers, so that a short copy shows any; then a free line for what follows.
    pub(crate) fn finish(&mut self, progress: &Progress) {
        let reading = self.meter.read(progress);
        match self.style {
            Style::Objects => self.draw(&reading),
            Style::Bar if self.drawn => {
                self.draw(&reading);
                write_stderr("\n");
            }
            _ => {}
        }
    }

    fn draw(&mut self, reading: &Reading) {
        self.drawn = true;
        match self.style {
            Style::Bar => {
                let columns = terminal_size::terminal_size_of(io::stderr())
                    .map_or(COLUMNS_DEFAULT, |(width, _)| usize::from(width.0));
                // Carriage return, the line, erase to its end (ECMA-48 EL).
                write_stderr(&format!("\r{}\x1b[K", bar_line(reading, columns)));
            }
            Style::Objects => {
                if let Ok(mut line) = serde_json::to_string(&ProgressObject::of(reading)) {
                    line.push('\n');
                    write_stderr(&line);
                }
            }
            Style::Lines => write_stderr(&format!("{}\n", numbers(reading).join(", "))),
            Style::Nothing => {}
        }
    }
}

/// Progress that nobody can read is no reason to end a copy.
fn write_stderr(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}

/// One line of `--progress json`.
#[derive(Debug, Serialize)]
struct ProgressObject {
    schema: u32,
    event: &'static str,
    elapsed_s: f64,
    total_bytes: u64,
    data_bytes: u64,
    zero_bytes: u64,
    skipped_bytes: u64,
    resumed_bytes: u64,
    durable_bytes: u64,
    verified_bytes: u64,
    comparing_bytes: u64,
    compared_bytes: u64,
    data_rate_bytes_per_s: u64,
    eta_s: Option<u64>,
    stalled_s: f64,
}

impl ProgressObject {
    fn of(reading: &Reading) -> Self {
        let progress = &reading.progress;
        Self {
            schema: SCHEMA,
            event: "progress",
            elapsed_s: seconds(progress.elapsed),
            total_bytes: progress.total_bytes,
            data_bytes: progress.data_bytes,
            zero_bytes: progress.zero_bytes,
            skipped_bytes: progress.skipped_bytes,
            resumed_bytes: progress.resumed_bytes,
            durable_bytes: progress.durable_bytes,
            verified_bytes: progress.verified_bytes,
            comparing_bytes: progress.comparing_bytes,
            compared_bytes: progress.compared_bytes,
            data_rate_bytes_per_s: reading.data_rate_bytes_per_s,
            eta_s: reading.eta.map(|eta| eta.as_secs()),
            stalled_s: seconds(progress.stalled_for),
        }
    }
}

/// Seconds with three digits behind the point.
pub(crate) fn seconds(time: Duration) -> f64 {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).as_secs_f64()
}

/// The most important number first: what does not fit the line is left out from the end.
fn numbers(reading: &Reading) -> Vec<String> {
    let progress = &reading.progress;
    let mut parts = vec![format!(
        "{:>3}%",
        percent(progress.done_bytes(), progress.total_bytes)
    )];
    if progress.comparing_bytes > 0 {
        let done = percent(progress.compared_bytes, progress.comparing_bytes);
        let all = format_size(progress.comparing_bytes);
        parts.push(format!("comparing both sides first, {done}% of {all}"));
        return parts;
    }
    match (reading.stalled, reading.eta) {
        (Some(time), _) => parts.push(format!("no byte acknowledged for {} s", time.as_secs())),
        (None, Some(Duration::ZERO)) if progress.durable_bytes >= progress.done_bytes() => {
            parts.push("done".to_owned());
        }
        (None, Some(Duration::ZERO)) => parts.push("finishing".to_owned()),
        (None, Some(eta)) => {
            parts.push(format!("{}/s", format_size(reading.data_rate_bytes_per_s)));
            parts.push(format!("ETA {}", clock(eta)));
        }
        (None, None) => parts.push(format!("{}/s", format_size(reading.data_rate_bytes_per_s))),
    }
    parts.push(format!("data {}", format_size(progress.data_bytes)));
    parts.push(format!("zeroes {}", format_size(progress.zero_bytes)));
    parts.push(format!("skipped {}", format_size(progress.skipped_bytes)));
    parts.push(format!("durable {}", format_size(progress.durable_bytes)));
    parts
}

/// A line shorter than `columns`: terminals wrap when the last column is written.
fn bar_line(reading: &Reading, columns: usize) -> String {
    let progress = &reading.progress;
    let room = columns.saturating_sub(1);
    let mut parts = numbers(reading).into_iter();
    let mut line = parts.next().unwrap_or_default();
    if room >= line.len() + BAR_CELLS + 25 {
        let filled = cells(progress.done_bytes(), progress.total_bytes);
        let _ = write!(
            line,
            " [{}{}]",
            "#".repeat(filled),
            ".".repeat(BAR_CELLS - filled)
        );
    }
    for part in parts {
        if line.len() + 2 + part.len() > room {
            break;
        }
        line.push_str("  ");
        line.push_str(&part);
    }
    line.truncate(room);
    line
}

/// Whole percent, and 100 only when all is done. An empty disk is done.
fn percent(done: u64, total: u64) -> u64 {
    scaled(done, total, 100)
}

fn cells(done: u64, total: u64) -> usize {
    usize::try_from(scaled(done, total, BAR_CELLS as u64)).unwrap_or(BAR_CELLS)
}

fn scaled(done: u64, total: u64, scale: u64) -> u64 {
    let scaled = u128::from(done.min(total)) * u128::from(scale);
    scaled
        .checked_div(u128::from(total))
        .map_or(scale, |part| u64::try_from(part).unwrap_or(scale))
}

/// `M:SS` or `H:MM:SS`.
fn clock(time: Duration) -> String {
    let (minutes, seconds) = (time.as_secs() / 60, time.as_secs() % 60);
    match minutes / 60 {
        0 => format!("{minutes}:{seconds:02}"),
        hours => format!("{hours}:{:02}:{seconds:02}", minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(data: u64, total: u64) -> Reading {
        Reading {
            progress: Progress {
                total_bytes: total,
                data_bytes: data,
                zero_bytes: 0,
                skipped_bytes: 0,
                resumed_bytes: 0,
                void_bytes: 0,
                durable_bytes: 0,
                in_flight_bytes: 0,
                verified_bytes: 0,
                comparing_bytes: 0,
                compared_bytes: 0,
                elapsed: Duration::from_secs(3),
                stalled_for: Duration::ZERO,
            },
            data_rate_bytes_per_s: 512 << 20,
            eta: Some(Duration::from_secs(75)),
            stalled: None,
        }
    }

    #[test]
    fn a_line_never_reaches_the_last_column() {
        for columns in 0..200 {
            for data in [0, 1, 5 << 30, 10 << 30] {
                let line = bar_line(&reading(data, 10 << 30), columns);
                assert!(line.len() < columns.max(1), "{columns}: {line}");
            }
        }
    }

    #[test]
    fn a_wide_terminal_shows_everything_apart() {
        let line = bar_line(&reading(5 << 30, 10 << 30), 160);
        assert_eq!(
            line,
            " 50% [##########..........]  512 MiB/s  ETA 1:15  data 5.00 GiB  zeroes 0 B  \
             skipped 0 B  durable 0 B"
        );
    }

    #[test]
    fn a_narrow_terminal_keeps_percent_and_rate() {
        assert_eq!(bar_line(&reading(5 << 30, 10 << 30), 20), " 50%  512 MiB/s");
    }

    #[test]
    fn a_stall_stands_in_the_first_place() {
        let mut reading = reading(1, 10);
        reading.stalled = Some(Duration::from_secs(12));
        assert!(bar_line(&reading, 60).contains("no byte acknowledged for 12 s"));
    }

    #[test]
    fn a_comparison_before_the_copy_is_seen_to_move() {
        let mut reading = reading(0, 10 << 30);
        reading.progress.comparing_bytes = 8 << 30;
        reading.progress.compared_bytes = 2 << 30;
        let line = bar_line(&reading, 100);
        assert!(
            line.ends_with("comparing both sides first, 25% of 8.00 GiB"),
            "{line}"
        );
    }

    #[test]
    fn a_hundred_percent_means_all() {
        assert_eq!(percent(999_999, 1_000_000), 99);
        assert_eq!(percent(10, 10), 100);
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
    }

    #[test]
    fn times_are_shown_as_a_clock() {
        for (seconds, text) in [(0, "0:00"), (59, "0:59"), (61, "1:01"), (3661, "1:01:01")] {
            assert_eq!(clock(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn an_object_has_every_field_of_the_schema() {
        let line = serde_json::to_string(&ProgressObject::of(&reading(1, 10))).unwrap();
        assert_eq!(
            line,
            r#"{"schema":1,"event":"progress","elapsed_s":3.0,"total_bytes":10,"data_bytes":1,"#
                .to_owned()
                + r#""zero_bytes":0,"skipped_bytes":0,"resumed_bytes":0,"durable_bytes":0,"verified_bytes":0,"#
                + r#""comparing_bytes":0,"compared_bytes":0,"#
                + r#""data_rate_bytes_per_s":536870912,"eta_s":75,"stalled_s":0.0}"#
        );
    }
}
