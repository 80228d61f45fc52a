//! What a file or block device is.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sys::{DeviceFile, DeviceKind, OpenIntent, OpenOptions, SetupError};

use super::map::{self, MapBuilder, MapEntry};
use crate::cli::OutputFormat;
use crate::exit::{Failure, Side};
use crate::report::{self, SCHEMA};
use crate::size::format_size;

/// The object of `info --output json` for a path.
#[derive(Debug, Serialize)]
struct DeviceResult {
    schema: u32,
    command: &'static str,
    path: PathBuf,
    resolved_path: PathBuf,
    kind: &'static str,
    size_bytes: u64,
    logical_block_bytes: u32,
    physical_block_bytes: u32,
    preferred_io_bytes: u32,
    serial: Option<String>,
    wwid: Option<String>,
    diskseq: Option<u64>,
    rotational: bool,
    direct: bool,
    direct_align_bytes: u32,
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<Vec<MapEntry>>,
}

/// Shows one file or device; it is opened for reading only.
pub(super) fn show(path: &Path, map: bool, output: OutputFormat) -> Result<(), Failure> {
    let failed = |error: SetupError| Failure::setup(Side::Source, &error);
    let device =
        DeviceFile::open(path, OpenIntent::Source, &OpenOptions::default()).map_err(failed)?;
    let map = if map {
        Some(read_map(&device).map_err(failed)?)
    } else {
        None
    };
    let identity = device.identity();
    let result = DeviceResult {
        schema: SCHEMA,
        command: "info",
        path: device.path().to_owned(),
        resolved_path: device.resolved_path().to_owned(),
        kind: match device.kind() {
            DeviceKind::Block => "block",
            DeviceKind::Regular => "file",
        },
        size_bytes: device.size_bytes(),
        logical_block_bytes: device.logical_block(),
        physical_block_bytes: device.physical_block(),
        preferred_io_bytes: device.preferred_io(),
        serial: identity.serial.clone(),
        wwid: identity.wwid.clone(),
        diskseq: identity.diskseq,
        rotational: device.rotational(),
        direct: device.is_direct(),
        direct_align_bytes: device.direct_align(),
        notes: device.notes().to_vec(),
        map,
    };
    match output {
        OutputFormat::Json => report::object(&result),
        OutputFormat::Text => report::text(&to_text(&result)),
    }
}

/// Data and holes as the file system tells them; its holes read as zeroes.
fn read_map(device: &DeviceFile) -> Result<Vec<MapEntry>, SetupError> {
    let size_bytes = device.size_bytes();
    let mut map = MapBuilder::default();
    while map.end_bytes() < size_bytes {
        let offset = map.end_bytes();
        match device.next_data(offset)? {
            Some((start, end)) if start >= offset && end > start => {
                map.push(start - offset, true, true);
                map.push(end.min(size_bytes).saturating_sub(start), false, false);
            }
            _ => map.push(size_bytes - offset, true, true),
        }
    }
    Ok(map.finish())
}

fn to_text(result: &DeviceResult) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<9} {value}");
    };
    line("path", &result.path.display().to_string());
    if result.resolved_path != result.path {
        line("resolved", &result.resolved_path.display().to_string());
    }
    line("kind", result.kind);
    line(
        "size",
        &format!(
            "{} ({} bytes)",
            format_size(result.size_bytes),
            result.size_bytes
        ),
    );
    line(
        "blocks",
        &format!(
            "logical {}, physical {}, preferred {}",
            result.logical_block_bytes, result.physical_block_bytes, result.preferred_io_bytes
        ),
    );
    for (name, value) in [("serial", &result.serial), ("wwid", &result.wwid)] {
        line(name, value.as_deref().unwrap_or("-"));
    }
    line(
        "diskseq",
        &result
            .diskseq
            .map_or_else(|| "-".to_owned(), |seq| seq.to_string()),
    );
    let direct = match result.direct {
        true => format!("yes, aligned to {}", result.direct_align_bytes),
        false => "no: through the page cache".to_owned(),
    };
    line("direct", &direct);
    line("rotates", if result.rotational { "yes" } else { "no" });
    for note in &result.notes {
        line("note", note);
    }
    if let Some(map) = &result.map {
        text.push_str(&map::to_text(map));
    }
    text
}
