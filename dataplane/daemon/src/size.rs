//! Sizes and rates as people write them: bytes, or K/M/G/T with an optional `iB`, powers of 1024.

/// Units from large to small.
const UNITS: [(&str, u64); 4] = [
    ("T", 1 << 40),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
];

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    /// No digits in front.
    #[error("{text:?} is not a size; write bytes or a number with K, M, G or T, like 256K or 2GiB")]
    NotANumber {
        /// As given.
        text: String,
    },
    /// A number with something else behind it.
    #[error("unknown unit {unit:?}; use K, M, G or T (or KiB, MiB, GiB, TiB), powers of 1024")]
    UnknownUnit {
        /// What stands behind the digits.
        unit: String,
    },
    /// More than fits.
    #[error("{text:?} is larger than 2^64 - 1 bytes")]
    TooLarge {
        /// As given.
        text: String,
    },
}

/// Bytes of a text like `4096`, `256K`, `64KiB`, `2G`.
pub(crate) fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::NotANumber {
            text: text.to_owned(),
        });
    }
    let factor = unit_factor(unit).ok_or_else(|| SizeError::UnknownUnit {
        unit: unit.to_owned(),
    })?;
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| SizeError::TooLarge {
            text: text.to_owned(),
        })
}

/// Bytes per second of a text like `100M` or `1GiB/s`; 0 means no limit.
pub(crate) fn parse_rate(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    parse_size(text.strip_suffix("/s").unwrap_or(text))
}

/// `KB` and the like are refused: half of the world reads them as powers of 1000.
fn unit_factor(unit: &str) -> Option<u64> {
    if unit.is_empty() || unit == "B" {
        return Some(1);
    }
    UNITS.iter().find_map(|(name, factor)| {
        let rest = unit.strip_prefix(name).or_else(|| {
            let first = unit.get(..1)?;
            first.eq_ignore_ascii_case(name).then(|| &unit[1..])
        })?;
        (rest.is_empty() || rest.eq_ignore_ascii_case("ib")).then_some(*factor)
    })
}

/// Short text for people: `512 B`, `1.50 GiB`.
pub(crate) fn format_size(bytes: u64) -> String {
    for (name, factor) in UNITS {
        if bytes >= factor {
            return format!("{} {name}iB", three_digits(bytes, factor));
        }
    }
    format!("{bytes} B")
}

/// `bytes / factor` with three significant digits, cut and not rounded up: 99.99 % is not 100 %.
fn three_digits(bytes: u64, factor: u64) -> String {
    let whole = bytes / factor;
    let rest = u128::from(bytes % factor);
    let hundredths = rest * 100 / u128::from(factor);
    match whole {
        0..=9 => format!("{whole}.{hundredths:02}"),
        10..=99 => format!("{whole}.{}", hundredths / 10),
        _ => whole.to_string(),
    }
}

/// Short text for a rate; `seconds` of zero gives `-`.
pub(crate) fn format_rate(bytes: u64, seconds: f64) -> String {
    match rate(bytes, seconds) {
        Some(rate) => format!("{}/s", format_size(rate)),
        None => "-".to_owned(),
    }
}

/// Bytes per second; `None` when no time has passed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate for people and reports; the cast saturates"
)]
pub(crate) fn rate(bytes: u64, seconds: f64) -> Option<u64> {
    (seconds > 0.0).then(|| (bytes as f64 / seconds) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("512B", 512),
            ("1K", 1024),
            ("64k", 65_536),
            ("256KiB", 262_144),
            ("8M", 8 << 20),
            ("3GiB", 3 << 30),
            ("2T", 2 << 40),
            (" 5M ", 5 << 20),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for text in [
            "", "K", "-1", "+1", "1.5G", "1KB", "1 K", "1Ki", "1P", "0x10", "1e3", "1é",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_size("18446744073709551616").is_err());
        assert!(parse_size("16777216T").is_err());
        assert_eq!(parse_size("16777215T"), Ok(16_777_215 << 40));
    }

    #[test]
    fn rates_may_say_per_second() {
        assert_eq!(parse_rate("100M/s"), Ok(100 << 20));
        assert_eq!(parse_rate("0"), Ok(0));
        assert!(parse_rate("100M/h").is_err());
    }

    #[test]
    fn formatted_sizes_are_short_and_never_rounded_up() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_048_575, "1023 KiB"),
            (1_610_612_736, "1.50 GiB"),
            (u64::MAX, "16777215 TiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(format_size(bytes), text);
        }
        assert_eq!(format_rate(10, 0.0), "-");
        assert_eq!(format_rate(3 << 30, 1.5), "2.00 GiB/s");
    }

    proptest! {
        #[test]
        fn any_text_is_a_size_or_an_error(text in "\\PC{0,12}") {
            let _ = parse_size(&text);
        }

        #[test]
        fn plain_bytes_come_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
            let _ = format_size(bytes);
        }
    }
}
