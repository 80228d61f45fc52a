//! Copies by the real binary, compared by somebody else.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::{Bed, assert_same, have, tiers};
use std::path::Path;

#[test]
fn files_of_every_odd_size_are_copied_on_every_tier() {
    let bed = Bed::new();
    for tier in tiers(&bed) {
        for size in [
            0,
            1,
            511,
            512,
            513,
            4095,
            4097,
            65_537,
            (1 << 20) + 512,
            (3 << 20) + 7,
        ] {
            let (from, to) = (format!("{tier}-{size}"), format!("{tier}-{size}.copy"));
            bed.disk(&from, size);
            bed.run(&["copy", &from, &to, "--runtime", tier]).done();
            assert_same(&bed.path(&from), &bed.path(&to));
        }
    }
}

#[test]
fn a_result_tells_kinds_of_bytes_apart_and_where_they_went() {
    let bed = Bed::new();
    bed.disk("a", 12 << 20);
    let run = bed
        .run(&["copy", "a", "b", "--output", "json", "--connections", "2"])
        .done();
    let result = run.object();
    assert_eq!(result["schema"], 1);
    assert_eq!(result["command"], "copy");
    assert_eq!(result["outcome"], "done");
    assert_eq!(result["durable"], true);
    assert_eq!(result["discarded"], false);
    assert_eq!(result["source_bytes"], 12 << 20);
    assert_eq!(result["connections"], 2);
    assert_eq!(result["plaintext_copied_bytes"], 0);
    let bytes = |key: &str| {
        result[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key}: {result}"))
    };
    let sum = bytes("data_bytes") + bytes("zero_bytes") + bytes("skipped_bytes");
    assert_eq!(sum, bytes("total_bytes"));
    assert_eq!(bytes("durable_bytes"), bytes("total_bytes"));
    assert_eq!(bytes("data_bytes"), 8 << 20);
    // The hole stays a hole: no more is allocated than was data, give or take a page or two.
    assert!(
        bytes("target_allocated_bytes") <= (8 << 20) + 65_536,
        "{result}"
    );
}

#[test]
fn the_text_of_a_result_goes_to_standard_output_alone() {
    let bed = Bed::new();
    bed.disk("a", 1 << 20);
    let run = bed.run(&["copy", "a", "b"]).done();
    for name in [
        "copied", "data", "zeroes", "skipped", "durable", "cpu", "path",
    ] {
        assert!(
            run.stdout.lines().any(|line| line.starts_with(name)),
            "{name}: {run:?}"
        );
    }
    assert!(!run.stderr.contains("durable"), "{run:?}");
}

#[test]
fn progress_is_one_object_a_line_and_ends_complete() {
    let bed = Bed::new();
    bed.disk("a", 3 << 20);
    let run = bed.run(&["copy", "a", "b", "--progress", "json"]).done();
    let objects: Vec<serde_json::Value> = run
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = objects.last().unwrap();
    assert!(
        objects
            .iter()
            .all(|object| object["schema"] == 1 && object["event"] == "progress")
    );
    assert_eq!(last["total_bytes"], 3 << 20);
    assert_eq!(last["durable_bytes"], 3 << 20);
    let mut done = 0;
    for object in &objects {
        let now = object["data_bytes"].as_u64().unwrap();
        assert!(now >= done, "{objects:?}");
        done = now;
    }
}

#[test]
fn nothing_is_said_when_nothing_is_to_be_said() {
    let bed = Bed::new();
    bed.disk("a", 1 << 20);
    let run = bed.run(&["copy", "a", "b", "--progress", "none"]).done();
    let noise: Vec<&str> = run
        .stderr
        .lines()
        .filter(|l| !l.starts_with("warning: "))
        .collect();
    assert!(noise.is_empty(), "{noise:?}");
}

#[test]
fn only_the_extents_are_touched_and_zeroes_inside_are_written_on_every_tier() {
    let bed = Bed::new();
    bed.disk("a", 3 << 20);
    let old = vec![0xee; 4 << 20];
    // The second range lies in the hole of the source.
    std::fs::write(
        bed.path("list"),
        "1310720 4096 # hole\n0 512\n512 512\n3145216 512\n",
    )
    .unwrap();
    let from = std::fs::read(bed.path("a")).unwrap();
    let mut expected = old.clone();
    for range in [0..1024, 1_310_720..1_314_816, 3_145_216..3_145_728] {
        expected[range.clone()].copy_from_slice(&from[range]);
    }
    for tier in tiers(&bed) {
        std::fs::write(bed.path("b"), &old).unwrap();
        let what = ["copy", "a", "b", "--overwrite", "--extents", "list"];
        let how = ["--output", "json", "--runtime", tier];
        let result = bed.run(&[&what[..], &how].concat()).done().object();
        assert_eq!(result["total_bytes"], 1024 + 4096 + 512);
        assert!(
            expected == std::fs::read(bed.path("b")).unwrap(),
            "bytes outside of the extents changed, or inside did not"
        );
    }
}

#[test]
fn a_larger_target_keeps_its_tail() {
    let bed = Bed::new();
    bed.disk("a", (1 << 20) + 512);
    std::fs::write(bed.path("b"), vec![0xee; 2 << 20]).unwrap();
    bed.run(&["copy", "a", "b", "--overwrite"]).done();
    let (from, to) = (
        std::fs::read(bed.path("a")).unwrap(),
        std::fs::read(bed.path("b")).unwrap(),
    );
    assert_eq!(to.len(), 2 << 20);
    assert!(to[..from.len()] == from[..]);
    assert!(to[from.len()..].iter().all(|byte| *byte == 0xee));
}

#[test]
fn a_null_target_discards_and_says_so() {
    let bed = Bed::new();
    bed.disk("a", 1 << 20);
    let run = bed
        .run(&[
            "copy",
            "a",
            "null:",
            "--output",
            "json",
            "--progress",
            "json",
        ])
        .done();
    let last: serde_json::Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(last["durable_bytes"], 0);
    let result = run.object();
    assert_eq!(result["discarded"], true);
    assert_eq!(result["durable"], false);
    assert!(result["time_to_durable_s"].is_null());
}

#[test]
fn a_null_source_gives_zeroes() {
    let bed = Bed::new();
    bed.run(&["copy", "null:1M", "b"]).done();
    assert!(std::fs::read(bed.path("b")).unwrap() == vec![0; 1 << 20]);
}

#[test]
fn a_clamped_tunable_is_a_warning_with_its_reason() {
    let bed = Bed::new();
    bed.disk("a", 4096);
    let run = bed
        .run(&["copy", "a", "b", "--request-size", "1", "--output", "json"])
        .done();
    let warnings = run.object()["warnings"].to_string();
    assert!(
        warnings.contains("request_bytes: at least 64K"),
        "{warnings}"
    );
}

#[test]
fn images_are_read_by_their_extension_and_equal_what_qemu_reads() {
    if !have("qemu-img") || !have("qemu-nbd") {
        return;
    }
    let bed = Bed::new();
    bed.disk("a", 6 << 20);
    for (image, format) in [
        ("i.qcow2", "qcow2"),
        ("i.vmdk", "vmdk"),
        ("stream.vmdk", "vmdk"),
    ] {
        let options: &[&str] = match image {
            "stream.vmdk" => &["-o", "subformat=streamOptimized"],
            _ => &[],
        };
        let convert = [&["convert", "-O", format][..], options, &["a", image]].concat();
        bed.tool("qemu-img", &convert);
        let out = format!("{image}.raw");
        let result = bed
            .run(&["copy", image, &out, "--output", "json"])
            .done()
            .object();
        assert_eq!(result["source_format"], format);
        assert!(result["helper_cpu_s"].as_f64().is_some());
        bed.tool(
            "qemu-img",
            &["compare", "-f", format, "-F", "raw", image, &out],
        );
        assert_same(&bed.path("a"), &bed.path(&out));
    }
    bed.assert_no_leftovers();
}

#[test]
fn a_raw_source_is_never_taken_for_an_image_by_its_content() {
    if !have("qemu-img") {
        return;
    }
    let bed = Bed::new();
    bed.disk("a", 1 << 20);
    bed.tool("qemu-img", &["convert", "-O", "qcow2", "a", "trap.raw"]);
    bed.run(&["copy", "trap.raw", "b"]).done();
    assert_same(&bed.path("trap.raw"), &bed.path("b"));
}

#[test]
fn an_odd_name_reaches_qemu_as_a_name() {
    if !have("qemu-img") || !have("qemu-nbd") {
        return;
    }
    let bed = Bed::new();
    bed.disk("a", 1 << 20);
    let odd = "x,file=y nbd:%s;$(id).qcow2";
    bed.tool("qemu-img", &["convert", "-O", "qcow2", "a", "plain"]);
    std::fs::rename(bed.path("plain"), bed.path(odd)).unwrap();
    bed.run(&["copy", &format!("./{odd}"), "b"]).done();
    assert_same(&bed.path("a"), &bed.path("b"));
}

#[test]
fn nbdkit_is_a_source_and_a_target_on_every_tier() {
    if !have("nbdkit") {
        return;
    }
    let bed = Bed::new();
    bed.disk("a", (5 << 20) + 512);
    for tier in tiers(&bed) {
        let from = format!("from-{tier}");
        let script = format!(r#""$BIN" copy "$uri" {from} --runtime {tier} --output json"#);
        let run = bed.under_nbdkit(&["file", "a"], &script).done();
        assert_eq!(run.object()["source_bytes"], (5 << 20) + 512);
        assert_eq!(run.object()["tier"], tier);
        assert_same(&bed.path("a"), &bed.path(&from));

        std::fs::write(bed.path("b"), vec![0xee; (5 << 20) + 512]).unwrap();
        let script = format!(r#""$BIN" copy a "$uri" --runtime {tier} --output json"#);
        let run = bed.under_nbdkit(&["file", "b"], &script).done();
        assert_eq!(run.object()["durable"], true);
        assert_same(&bed.path("a"), &bed.path("b"));
    }
}

#[test]
fn a_target_that_cannot_flush_is_refused_until_it_is_accepted() {
    if !have("nbdkit") {
        return;
    }
    let bed = Bed::new();
    bed.disk("a", 1 << 20);
    let kit = [
        "eval",
        "get_size=echo 1M",
        "pread=exit 1",
        "pwrite=cat >/dev/null",
        "can_write=exit 0",
        "can_flush=exit 3",
    ];
    let run = bed.under_nbdkit(&kit, r#""$BIN" copy a "$uri""#);
    assert!(run.refused(9).contains("--allow-no-flush"), "{run:?}");
    let accepted = r#""$BIN" copy a "$uri" --allow-no-flush --output json"#;
    let result = bed.under_nbdkit(&kit, accepted).done().object();
    assert_eq!(result["durable"], false);
    assert!(result["time_to_durable_s"].is_null());
}

#[test]
fn a_source_that_fails_in_the_middle_is_exit_4() {
    if !have("nbdkit") {
        return;
    }
    let bed = Bed::new();
    let kit = [
        "--filter=error",
        "pattern",
        "4M",
        "error-pread=EIO",
        "error-pread-rate=1",
    ];
    let run = bed.under_nbdkit(&kit, r#""$BIN" copy "$uri" b"#);
    run.refused(4);
}

#[test]
fn a_target_that_fails_in_the_middle_is_exit_5() {
    if !have("nbdkit") {
        return;
    }
    let bed = Bed::new();
    bed.disk("a", 4 << 20);
    for error in ["EIO", "ENOSPC"] {
        let setting = format!("error-pwrite={error}");
        let kit = [
            "--filter=error",
            "memory",
            "4M",
            &setting,
            "error-pwrite-rate=1",
        ];
        let run = bed.under_nbdkit(&kit, r#""$BIN" copy a "$uri""#);
        run.refused(5);
    }
}

#[test]
fn a_flush_that_fails_is_exit_5_although_every_write_was_answered() {
    if !have("nbdkit") {
        return;
    }
    let bed = Bed::new();
    bed.disk("a", 1 << 20);
    let kit = [
        "eval",
        "get_size=echo 1M",
        "can_write=exit 0",
        "pread=exit 1",
        "pwrite=cat >/dev/null",
        "can_flush=exit 0",
        "flush=echo EIO no >&2; exit 1",
    ];
    let run = bed.under_nbdkit(&kit, r#""$BIN" copy a "$uri" --output json"#);
    run.refused(5);
    assert_eq!(run.object()["outcome"], "failed");
}

#[test]
fn a_copy_of_a_copy_by_another_tool_is_still_the_same() {
    if !have("nbdkit") || !have("nbdcopy") {
        return;
    }
    let bed = Bed::new();
    bed.disk("a", 2 << 20);
    bed.under_nbdkit(
        &["file", "a"],
        r#"nbdcopy "$uri" reference && "$BIN" copy "$uri" ours"#,
    )
    .done();
    assert_same(&bed.path("reference"), &bed.path("ours"));
    assert!(Path::new(&bed.path("a")).exists());
}
