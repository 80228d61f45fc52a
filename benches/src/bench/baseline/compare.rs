//! Two results side by side.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{fmt::Write as _, path::Path};

/// Medians of both, and their ratio, for everything that both have.
pub(super) fn compare(before: &Path, after: &Path) -> Result<String> {
    let (a, b) = (read(before)?, read(after)?);
    let mut text = String::new();
    for (name, document) in [("A", &a), ("B", &b)] {
        let machine = &document["machine"];
        let word = |key: &str| machine[key].as_str().unwrap_or("?").to_owned();
        let _infallible = writeln!(
            text,
            "{name}: {}, {} CPUs, Linux {}, commit {}",
            word("cpu"),
            machine["cpus"],
            word("kernel"),
            word("commit")
        );
    }
    if a["machine"]["cpu"] != b["machine"]["cpu"] || a["machine"]["cpus"] != b["machine"]["cpus"] {
        text += "These are different machines: only ratios within one of them can be compared.\n";
    }
    let _infallible = writeln!(
        text,
        "\n{:<12} {:<34} {:>8} {:>8} {:>7} {:>10} {:>10}",
        "scenario", "contestant", "A GiB/s", "B GiB/s", "B / A", "A CPU s", "B CPU s"
    );
    let mut rows = 0;
    for (scenario, name, then) in contestants(&a) {
        let Some((_, _, now)) = contestants(&b)
            .into_iter()
            .find(|(s, n, _)| (*s, *n) == (scenario, name))
        else {
            continue;
        };
        rows += 1;
        let median = |side: &Value| side["gib_per_s"]["median"].as_f64().unwrap_or(f64::NAN);
        let cpu = |side: &Value| {
            let of = |key: &str| side[key].as_f64().unwrap_or(f64::NAN);
            of("sender_cpu_s_per_gib") + of("target_cpu_s_per_gib")
        };
        let _infallible = writeln!(
            text,
            "{scenario:<12} {name:<34} {:>8.2} {:>8.2} {:>7.2} {:>10.2} {:>10.2}",
            median(then),
            median(now),
            median(now) / median(then),
            cpu(then),
            cpu(now)
        );
    }
    if rows == 0 {
        bail!("the two have no scenario in common");
    }
    Ok(text)
}

fn read(path: &Path) -> Result<Value> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(name)?;
    let document: Value = serde_json::from_str(&text).with_context(name)?;
    if document["schema"] != 1 || !document["scenarios"].is_array() {
        bail!(
            "{} is no result of migratekit-bench baseline --json",
            name()
        );
    }
    Ok(document)
}

fn contestants(document: &Value) -> Vec<(&str, &str, &Value)> {
    let scenarios = document["scenarios"].as_array().into_iter().flatten();
    scenarios
        .flat_map(|scenario| {
            let name = scenario["scenario"].as_str().unwrap_or_default();
            let sides = scenario["contestants"].as_array().into_iter().flatten();
            sides.map(move |side| (name, side["name"].as_str().unwrap_or_default(), side))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::report::tests::measured;
    use serde_json::json;

    fn write(dir: &Path, name: &str, document: &Value) -> std::path::PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, document.to_string()).unwrap();
        path
    }

    #[test]
    fn what_both_have_is_compared_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let machine = json!({"cpu": "x", "cpus": 2, "kernel": "6", "commit": "c"});
        let document = json!({"schema": 1, "machine": machine, "scenarios": [measured()]});
        let mut faster = document.clone();
        faster["scenarios"][0]["contestants"][0]["gib_per_s"]["median"] = json!(3.0);
        let (a, b) = (
            write(dir.path(), "a", &document),
            write(dir.path(), "b", &faster),
        );
        let text = compare(&a, &b).unwrap();
        let line = text.lines().find(|line| line.contains(" ours ")).unwrap();
        assert!(line.contains("1.50"), "{text}");
        assert!(!text.contains("different machines"));
        faster["machine"]["cpu"] = json!("y");
        let b = write(dir.path(), "b", &faster);
        assert!(compare(&a, &b).unwrap().contains("different machines"));
        let other = write(dir.path(), "c", &json!({"schema": 2}));
        assert!(
            compare(&a, &other)
                .unwrap_err()
                .to_string()
                .contains("is no result")
        );
        let empty = write(dir.path(), "d", &json!({"schema": 1, "scenarios": []}));
        assert!(compare(&a, &empty).is_err());
    }
}
