//! A result as one page that needs nothing else: tables, and plots as inline SVG.

use serde_json::Value;
use std::fmt::Write as _;

const STYLE: &str = "body{font:15px sans-serif;margin:2em;max-width:60em}td,th{padding:.2em .8em;text-align:left}\
                     rect{fill:#8ab}rect.ours{fill:#284}line{stroke:#222}text{font:12px sans-serif}";
/// Pixels of a plot.
const WIDTH: f64 = 900.0;
/// Of them, what names take.
const NAMES: f64 = 260.0;
/// Height of a bar and its gap.
const ROW: f64 = 24.0;

/// The page of what `--json` keeps.
pub(super) fn page(result: &Value) -> String {
    let machine = &result["machine"];
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>migratekit-bench</title><style>{STYLE}</style>\n\
         <h1>migratekit-bench baseline</h1>\n<p>{}, {} CPUs, Linux {}, load {}, commit {}</p>\n",
        word(&machine["cpu"]),
        word(&machine["cpus"]),
        word(&machine["kernel"]),
        word(&machine["load_before"]),
        word(&machine["commit"]),
    );
    for scenario in list(&result["scenarios"]) {
        let _infallible = writeln!(html, "<h2>{}</h2>", word(&scenario["scenario"]));
        plot(&mut html, list(&scenario["contestants"]));
        table(&mut html, list(&scenario["contestants"]));
    }
    for reason in list(&result["skipped"]) {
        let _infallible = writeln!(html, "<p>Skipped: {}</p>", word(reason));
    }
    html + "</html>\n"
}

/// A bar up to the median of each, and a line from its least to its greatest rate.
fn plot(html: &mut String, sides: &[Value]) {
    let rate = |side: &Value, key: &str| side["gib_per_s"][key].as_f64().unwrap_or(0.0);
    let most = sides
        .iter()
        .map(|side| rate(side, "max"))
        .fold(1e-9, f64::max);
    let at = |rate: f64| rate / most * (WIDTH - NAMES - 80.0);
    let mut y = 0.0;
    let mut bars = String::new();
    for side in sides {
        let (min, median, max) = (rate(side, "min"), rate(side, "median"), rate(side, "max"));
        let class = if side["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("ours"))
        {
            "ours"
        } else {
            "other"
        };
        let (middle, low, high) = (y + ROW / 2.0, NAMES + at(min), NAMES + at(max));
        let _infallible = writeln!(
            bars,
            "<text x=\"0\" y=\"{:.0}\">{}</text><rect class=\"{class}\" x=\"{NAMES}\" y=\"{:.0}\" width=\"{:.1}\" height=\"{:.0}\"/>\
             <line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle}\" y2=\"{middle}\"/><text x=\"{:.1}\" y=\"{:.0}\">{median:.2} GiB/s</text>",
            middle + 4.0,
            word(&side["name"]),
            y + 3.0,
            at(median),
            ROW - 6.0,
            high + 6.0,
            middle + 4.0,
        );
        y += ROW;
    }
    let _infallible = writeln!(html, "<svg width=\"{WIDTH}\" height=\"{y}\">\n{bars}</svg>");
}

fn table(html: &mut String, sides: &[Value]) {
    *html += "<table><tr><th>contestant<th>settings<th>ours is times<th>of the ceiling<th>CPU s per GiB (sender, target)\n";
    for side in sides {
        let number = |key: &str| {
            let value = side[key].as_f64();
            value.map_or_else(String::new, |value| format!("{value:.2}"))
        };
        let _infallible = writeln!(
            html,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}, {}",
            word(&side["name"]),
            word(&side["settings"]),
            number("ours_is_times"),
            number("of_ceiling"),
            number("sender_cpu_s_per_gib"),
            number("target_cpu_s_per_gib"),
        );
    }
    *html += "</table>\n";
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Text that cannot be taken for markup.
fn word(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::report::tests::measured;
    use serde_json::json;

    #[test]
    fn everybody_has_a_bar_and_nothing_comes_from_elsewhere() {
        let machine = json!({"cpu": "a <b>", "cpus": 2});
        let html =
            page(&json!({"machine": machine, "scenarios": [measured()], "skipped": ["x & y"]}));
        assert_eq!(html.matches("<rect ").count(), 3, "{html}");
        assert_eq!(html.matches("class=\"ours\"").count(), 1, "{html}");
        assert!(html.contains("nbdcopy -&gt; nbdkit, TLS"), "{html}");
        assert!(
            html.contains("a &lt;b&gt;") && html.contains("x &amp; y"),
            "{html}"
        );
        assert!(
            !html.contains("http") && !html.contains("<script"),
            "{html}"
        );
    }
}
