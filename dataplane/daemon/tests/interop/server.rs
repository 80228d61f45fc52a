//! Foreign clients against our server.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::matrix::{Cell, Good, Matrix, Place};
use crate::ours::{Export, Site, Way};
use crate::peers::{binary, same, same_bytes};
use crate::process::{good, run};

/// Copied before sealing or after opening; joined before opening; all payload.
const MOVED: [&str; 3] = [
    "migratekit_dataplane_plaintext_copied_bytes_total",
    "migratekit_dataplane_ciphertext_joined_bytes_total",
    "migratekit_dataplane_shard_payload_bytes_total",
];
const KIB: usize = 1 << 10;

/// All cells of this side.
pub(crate) fn cells(matrix: &mut Matrix, site: &Site<'_>) {
    for way in Way::ALL {
        for export in &site.exports {
            let at = |peer, direction| Place {
                peer,
                direction,
                tls: way.name(),
                block: export.block,
            };
            matrix.cell(at("our client", "to our server"), || {
                ours_to(site, way, export)
            });
            matrix.cell(at("our client", "from our server"), || {
                ours_from(site, way, export)
            });
            matrix.cell(at("nbdcopy", "to our server"), || {
                nbdcopy_to(site, way, export)
            });
            matrix.cell(at("nbdcopy", "from our server"), || {
                nbdcopy_from(site, way, export)
            });
            matrix.cell(at("nbdinfo", "asks our server"), || {
                restore(export);
                nbdinfo(site, way, export.name, export.block, &export.backing)
            });
            matrix.cell(at("qemu-img convert", "to our server"), || {
                convert_to(site, way, export)
            });
            matrix.cell(at("qemu-img convert", "from our server"), || {
                convert_from(site, way, export)
            });
            matrix.cell(at("qemu-io", "both ways"), || qemu_io(site, way, export));
            matrix.cell(at("fio nbd engine", "both ways"), || fio(site, way, export));
        }
        let place = |direction| Place {
            peer: "nbdcopy",
            direction,
            tls: way.name(),
            block: 1,
        };
        matrix.cell(place("from read-only"), || view_from(site, way));
        matrix.cell(place("to read-only"), || view_to(site, way));
        let ask = |peer| Place {
            peer,
            ..place("asks our server")
        };
        matrix.cell(ask("nbdinfo, sparse"), || {
            nbdinfo(site, way, "view", 1, &site.exports[0].source)
        });
        matrix.cell(ask("nbdinfo --list"), || list(site, way));
    }
}

/// Runs `work`, and shows which bytes our server moved besides. With STARTTLS not one byte of payload may be copied,
/// and next to no record may have to be joined. stunnel cuts the stream anew, so there is no such promise.
fn counted(site: &Site<'_>, way: Way, work: impl FnOnce() -> Result<(), String>) -> Cell {
    let before = site.counters(MOVED);
    work()?;
    let after = site.counters(MOVED);
    let [copied, joined, payload] = std::array::from_fn(|at| after[at] - before[at]);
    let shown = format!("plaintext copied {copied} B, joined {joined} B");
    match way {
        Way::Plain => Ok(Good::Same(String::new())),
        Way::Starttls if copied > 0 => Err(format!("{copied} bytes of payload were copied")),
        Way::Starttls if too_much_joined(joined, payload) => Err(shown),
        Way::Starttls | Way::Stunnel => Ok(Good::Same(shown)),
    }
}

/// Above 2 % of the payload.
pub(crate) fn too_much_joined(joined: u64, payload: u64) -> bool {
    joined * 50 > payload
}

fn our_copy(site: &Site<'_>, source: &str, target: &str) -> Result<(), String> {
    let mut command = site.bed.command(binary());
    command.args(["copy", source, target, "--overwrite", "--progress", "none"]);
    command.args(["--runtime", site.runtime, "--output", "json"]);
    let run = good(&mut command)?;
    let result: Value = serde_json::from_str(&run.stdout).map_err(|error| error.to_string())?;
    let number = |key: &str| result[key].as_u64().unwrap_or(u64::MAX);
    let joined = number("ciphertext_joined_bytes");
    if number("plaintext_copied_bytes") != 0 || too_much_joined(joined, number("data_bytes")) {
        return Err(format!("our client copied or joined: {result}"));
    }
    Ok(())
}

fn ours_to(site: &Site<'_>, way: Way, export: &Export) -> Cell {
    export.reset();
    // Our own client cuts its records itself, whoever is first.
    let strict = if way == Way::Plain {
        way
    } else {
        Way::Starttls
    };
    counted(site, strict, || {
        let source = export.source.display().to_string();
        our_copy(site, &source, &site.our_uri(way, export.name))?;
        same(&export.source, &export.backing)
    })
}

fn ours_from(site: &Site<'_>, way: Way, export: &Export) -> Cell {
    restore(export);
    let out = site.bed.path("out");
    let _ = std::fs::remove_file(&out);
    let strict = if way == Way::Plain {
        way
    } else {
        Way::Starttls
    };
    counted(site, strict, || {
        let target = out.display().to_string();
        our_copy(site, &site.our_uri(way, export.name), &target)?;
        same(&export.source, &out)
    })
}

fn nbdcopy_to(site: &Site<'_>, way: Way, export: &Export) -> Cell {
    export.reset();
    counted(site, way, || {
        let mut command = site.bed.command("nbdcopy");
        good(
            command
                .arg("--flush")
                .arg(&export.source)
                .arg(site.uri(way, export.name)),
        )?;
        same(&export.source, &export.backing)
    })
}

fn nbdcopy_from(site: &Site<'_>, way: Way, export: &Export) -> Cell {
    restore(export);
    let out = site.bed.path("out");
    let _ = std::fs::remove_file(&out);
    counted(site, way, || {
        let mut command = site.bed.command("nbdcopy");
        good(command.arg(site.uri(way, export.name)).arg(&out))?;
        same(&export.source, &out)
    })
}

/// Puts the source below the export, past the server.
fn restore(export: &Export) {
    use std::os::unix::fs::FileExt;
    let bytes = std::fs::read(&export.source).unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&export.backing)
        .unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
}

fn qemu(site: &Site<'_>, program: &str, verb: &[&str], way: Way) -> Command {
    let mut command = site.bed.command(program);
    command.args(verb);
    if way == Way::Starttls {
        let dir = site.bed.path("site");
        let object = format!(
            "tls-creds-x509,endpoint=client,dir={},id=tls0",
            dir.display()
        );
        command.args(["--object", &object]);
    }
    command
}

fn convert_to(site: &Site<'_>, way: Way, export: &Export) -> Cell {
    export.reset();
    counted(site, way, || {
        let mut command = qemu(site, "qemu-img", &["convert", "-n", "-f", "raw"], way);
        command.args(["--target-image-opts".as_ref(), export.source.as_os_str()]);
        good(command.arg(site.image(way, export.name)))?;
        same(&export.source, &export.backing)
    })
}

fn convert_from(site: &Site<'_>, way: Way, export: &Export) -> Cell {
    restore(export);
    let out = site.bed.path("out");
    let _ = std::fs::remove_file(&out);
    counted(site, way, || {
        let mut command = qemu(site, "qemu-img", &["convert", "--image-opts"], way);
        command
            .arg(site.image(way, export.name))
            .args(["-O", "raw"]);
        good(command.arg(&out))?;
        same(&export.source, &out)
    })
}

/// Writes, FUA, zeroes and trims, read back by qemu-io and compared below the server.
fn qemu_io(site: &Site<'_>, way: Way, export: &Export) -> Cell {
    export.reset();
    let mut command = qemu(site, "qemu-io", &["--image-opts"], way);
    let mut expected = vec![0xee; usize::try_from(export.len).unwrap()];
    // What it runs, and the range that holds this byte afterwards.
    let steps: [(&str, usize, usize, u8); 6] = [
        ("write -P 0x5a", 1024 * KIB, 256 * KIB, 0x5a),
        ("write -f -P 0xa5", 2048 * KIB, 64 * KIB, 0xa5),
        ("write -z", 1088 * KIB, 64 * KIB, 0),
        ("write -z -u", 3072 * KIB, 512 * KIB, 0),
        ("write -z -f", 3584 * KIB, 4 * KIB, 0),
        ("write -P 0x77", 8 * KIB, 4 * KIB, 0x77),
    ];
    for (verb, offset, len, byte) in steps {
        command.args(["-c", &format!("{verb} {offset} {len}")]);
        expected[offset..offset + len].fill(byte);
    }
    let trimmed = 5 * 1024 * KIB..6 * 1024 * KIB;
    command.args([
        "-c",
        &format!("discard {} {}", trimmed.start, trimmed.len()),
    ]);
    command.args([
        "-c",
        "flush",
        "-c",
        "read -P 0x5a 1M 64k",
        "-c",
        "read -P 0 1088k 64k",
    ]);
    command.args(["-c", "read -P 0x5a 1152k 128k", "-c", "read -P 0xa5 2M 64k"]);
    command.args(["-c", "read -P 0x77 8k 4k", "-c", "read -P 0 3M 516k"]);
    let run = good(command.arg(site.image(way, export.name)))?;
    if run.stdout.contains("verification failed") {
        return Err(run.stdout);
    }
    // A trim may do nothing or anything between; afterwards it is what it was, or zero.
    let found = std::fs::read(&export.backing).unwrap();
    expected[trimmed.clone()].copy_from_slice(&found[trimmed.clone()]);
    let is_trimmed = found[trimmed.clone()].iter().all(|byte| *byte == 0);
    if !is_trimmed && found[trimmed].iter().any(|byte| *byte != 0xee) {
        return Err("discard left something else".into());
    }
    same_bytes(&expected, &export.backing)?;
    Ok(Good::Same(format!(
        "write, FUA, zeroes, flush, discard (became zero: {is_trimmed})"
    )))
}

fn fio(site: &Site<'_>, way: Way, export: &Export) -> Cell {
    let mut command = site.bed.command("fio");
    command.args([
        "--name=cell",
        "--ioengine=nbd",
        "--rw=randwrite",
        "--bs=16k",
        "--size=12M",
    ]);
    command.args([
        "--iodepth=8",
        "--verify=crc32c",
        "--do_verify=1",
        "--randseed=7",
    ]);
    command.arg(format!("--uri={}", site.uri(way, export.name)));
    let run = run(&mut command)?;
    if run.stderr.contains("nbd_set_uri_allow_local_file") {
        return Ok(Good::Reason(
            "this fio may not name certificates in a URI".into(),
        ));
    }
    if run.stdout.contains("not loadable") || run.stderr.contains("not loadable") {
        return Ok(Good::Reason("this fio has no nbd engine".into()));
    }
    if run.code != 0 || run.stdout.contains("verify:") || run.stderr.contains("verify:") {
        return Err(format!("{run:?}"));
    }
    Ok(Good::Same("checksums of fio".into()))
}

fn view_from(site: &Site<'_>, way: Way) -> Cell {
    let out = site.bed.path("out");
    let _ = std::fs::remove_file(&out);
    let uri = site.uri(way, "view");
    good(site.bed.command("nbdcopy").arg(uri).arg(&out))?;
    same(&site.exports[0].source, &out)?;
    Ok(Good::Same(String::new()))
}

fn view_to(site: &Site<'_>, way: Way) -> Cell {
    let source = &site.exports[0].source;
    let before = std::fs::read(source).unwrap();
    let other = site.bed.path("other");
    std::fs::write(&other, vec![0xdd; before.len()]).unwrap();
    let run = run(site
        .bed
        .command("nbdcopy")
        .arg(&other)
        .arg(site.uri(way, "view")))?;
    if run.code == 0 {
        return Err("a read-only export was written".into());
    }
    same_bytes(&before, source)?;
    Ok(Good::Same("refused, nothing written".into()))
}

fn list(site: &Site<'_>, way: Way) -> Cell {
    let found = json(site, &["--list", "--json", &site.uri(way, "")])?;
    let names = found["exports"].as_array().into_iter().flatten();
    let mut names: Vec<_> = names
        .filter_map(|export| export["export-name"].as_str())
        .collect();
    names.sort_unstable();
    let mut expected: Vec<_> = site.exports.iter().map(|export| export.name).collect();
    expected.push("view");
    expected.sort_unstable();
    match names == expected {
        true => Ok(Good::Reason(names.join(" "))),
        false => Err(format!("{names:?} instead of {expected:?}")),
    }
}

fn json(site: &Site<'_>, args: &[&str]) -> Result<Value, String> {
    let run = good(site.bed.command("nbdinfo").args(args))?;
    serde_json::from_str(&run.stdout).map_err(|error| format!("{error}: {run:?}"))
}

/// Size, blocks and TLS as they are; what the map calls zero is zero below.
fn nbdinfo(site: &Site<'_>, way: Way, name: &str, block: u32, disk: &Path) -> Cell {
    let uri = site.uri(way, name);
    let len = std::fs::metadata(disk).unwrap().len();
    let info = json(site, &["--json", &uri])?;
    let one = &info["exports"][0];
    let expected = (len.into(), block.into(), (way == Way::Starttls).into());
    let found = (
        &one["export-size"],
        &one["block_size_minimum"],
        &info["TLS"],
    );
    if found != (&expected.0, &expected.1, &expected.2) {
        return Err(format!("{found:?} instead of {expected:?}"));
    }
    let map = json(site, &["--map", "--json", &uri])?;
    let extents = check_map(&map, "offset", "length", disk, |extent| {
        extent["type"].as_u64().is_some_and(|kind| kind & 2 != 0)
    })?;
    let size = good(site.bed.command("nbdinfo").args(["--size", &uri]))?;
    if size.stdout.trim() != len.to_string() {
        return Err(format!("--size {size:?}"));
    }
    Ok(Good::Same(format!(
        "size, blocks, map of {extents} extents"
    )))
}

/// Checks that a map covers a disk and calls nothing zero that is not; the number of extents.
pub(crate) fn check_map(
    map: &Value,
    offset: &str,
    length: &str,
    disk: &Path,
    is_zero: impl Fn(&Value) -> bool,
) -> Result<usize, String> {
    let bytes = std::fs::read(disk).unwrap();
    let extents = map.as_array().ok_or_else(|| format!("no map: {map}"))?;
    let mut at = 0;
    for extent in extents {
        let number = |key: &str| {
            extent[key]
                .as_u64()
                .map(|value| usize::try_from(value).unwrap())
        };
        let (Some(start), Some(len)) = (number(offset), number(length)) else {
            return Err(format!("bad extent {extent}"));
        };
        let range = bytes.get(start..start + len).unwrap_or(&[]);
        if start != at || range.is_empty() {
            return Err(format!("extent {extent} where {at} was expected"));
        }
        if is_zero(extent) && range.iter().any(|byte| *byte != 0) {
            return Err(format!("extent {extent} is not zero"));
        }
        at += len;
    }
    match at == bytes.len() {
        true => Ok(extents.len()),
        false => Err(format!("the map ends at {at}")),
    }
}
