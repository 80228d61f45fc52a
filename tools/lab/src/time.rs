//! Dates as CloudStack writes and reads them (contract 2 and 4), and the lab's clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_MS: i64 = 86_400_000;
/// Answers carry this offset, so that a client which takes dates for UTC or for RFC 3339 is found out.
const OFFSET_MS: i64 = 2 * 3_600_000;

/// Where the lab's time comes from.
#[derive(Debug)]
pub(crate) enum Clock {
    System,
    /// Stands still until it is advanced.
    Manual(AtomicU64),
}

impl Clock {
    pub(crate) fn now_ms(&self) -> u64 {
        match self {
            Clock::System => system_ms(),
            Clock::Manual(now) => now.load(Ordering::SeqCst),
        }
    }
}

/// Milliseconds since 1970 by the machine's clock.
pub(crate) fn system_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// `2026-05-11T08:00:00+0200`: an offset without colon (contract 4).
pub(crate) fn text(ms: u64) -> String {
    let local = i64::try_from(ms).unwrap_or(0) + OFFSET_MS;
    let (year, month, day) = civil(local.div_euclid(DAY_MS));
    let second = local.rem_euclid(DAY_MS) / 1000;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}+0200",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Reads `yyyy-MM-ddTHH:mm:ss` followed by `Z`, `+hhmm` or `+hh:mm`.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let (date, zone) = text.split_at_checked(19)?;
    let part = |range: std::ops::Range<usize>| date.get(range)?.parse::<i64>().ok();
    let marks: Vec<u8> = [4, 7, 10, 13, 16]
        .iter()
        .map(|at| date.as_bytes()[*at])
        .collect();
    if marks != b"--T::" {
        return None;
    }
    let days = days(part(0..4)?, part(5..7)?, part(8..10)?);
    let local = days * DAY_MS + ((part(11..13)? * 60 + part(14..16)?) * 60 + part(17..19)?) * 1000;
    let offset = if zone == "Z" {
        0
    } else {
        let sign = match zone.get(..1)? {
            "+" => 1,
            "-" => -1,
            _ => return None,
        };
        let digits = zone.get(1..)?.replace(':', "");
        if digits.len() != 4 {
            return None;
        }
        let number: i64 = digits.parse().ok()?;
        sign * (number / 100 * 60 + number % 100) * 60_000
    };
    u64::try_from(local - offset).ok()
}

/// Days since 1970-01-01 of a civil date: years begin in March, so that the leap day is the last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year
        - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_there_and_back() {
        for ms in [0, 951_782_400_000, 1_709_164_800_000, 1_796_083_199_000] {
            assert_eq!(parse(&text(ms)), Some(ms), "{}", text(ms));
        }
        assert_eq!(text(0), "1970-01-01T02:00:00+0200");
        assert_eq!(
            parse("2026-05-11T08:00:00+02:00"),
            parse("2026-05-11T06:00:00Z")
        );
        assert_eq!(parse("2026-05-11 08:00:00Z"), None);
    }
}
