//! Which format a source file has, and which other files it names.
//!
//! The format comes from the name or from `--source-format`, never from the content: whoever can write the
//! first sector of a raw disk could otherwise make it a qcow2 image that names any file of this host.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use engine::Blame;
use serde::{Deserialize, de::DeserializeOwned};

use crate::cli::SourceFormat;
use crate::exit::{Exit, Failure};

/// Extensions of containers we do not read. Taking them for raw would copy the container.
const FOREIGN: [&str; 12] = [
    "qcow", "qed", "vdi", "vhd", "vhdx", "ova", "gz", "bz2", "xz", "zst", "zip", "lz4",
];

/// The format of a source file.
pub(crate) fn format_of(path: &Path, asked: Option<SourceFormat>) -> Result<SourceFormat, Failure> {
    if let Some(format) = asked {
        return Ok(format);
    }
    let extension = path
        .extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase());
    match extension.as_deref() {
        Some("qcow2") => Ok(SourceFormat::Qcow2),
        Some("vmdk") => Ok(SourceFormat::Vmdk),
        Some(other) if FOREIGN.contains(&other) => Err(Failure::usage(
            format!(".{other} files are not read"),
            path.display().to_string(),
            "convert it to raw or qcow2 with qemu-img, or pass --source-format raw to copy its bytes",
        )),
        _ => Ok(SourceFormat::Raw),
    }
}

/// True when a target's name promises a format that is not going to be in it.
pub(crate) fn looks_like_image(path: &Path) -> bool {
    let extension = path
        .extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|e| e == "qcow2" || e == "vmdk" || FOREIGN.contains(&e.as_str()))
}

/// What we read of `qemu-img info --output=json`; it has more, and may have yet more.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct ImageInfo {
    backing_filename: Option<String>,
    full_backing_filename: Option<String>,
    format_specific: Option<FormatSpecific>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct FormatSpecific {
    data: FormatData,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct FormatData {
    /// qcow2: guest data lives in another file.
    data_file: Option<String>,
    data_file_raw: Option<bool>,
    /// vmdk: the parts, usually the file itself.
    extents: Vec<VmdkExtent>,
    /// vmdk: content id of the parent; all ones without one.
    #[serde(rename = "parent-cid")]
    parent_cid: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct VmdkExtent {
    filename: Option<String>,
}

/// VMDK's "no parent" (Virtual Disk Format 5.0, "CID and parentCID").
const NO_PARENT_CID: u64 = 0xffff_ffff;

/// Refuses an image that names other files, unless the operator trusts them. Of trusted ones gives what is no file of
/// this machine: nobody can tell whether it changes.
pub(crate) fn check_references(
    path: &Path,
    format: SourceFormat,
    allow_backing: bool,
) -> Result<Option<String>, Failure> {
    if allow_backing {
        let chain: Vec<ImageInfo> = read_info(path, format, &["--backing-chain"])?;
        let mut named = chain.iter().flat_map(|info| references(path, info));
        return Ok(named.find(|name| !is_file_name(path, name)));
    }
    let foreign = references(path, &read_info(path, format, &[])?);
    match foreign.first() {
        None => Ok(None),
        Some(other) => Err(Failure::refused(
            format!("the {} image names another file, {other:?}", format.name()),
            path.display().to_string(),
            "pass --allow-backing if you trust the image and every file it names",
        )),
    }
}

/// A name of something that exists, seen from the folder of the image.
fn is_file_name(image: &Path, name: &str) -> bool {
    image
        .parent()
        .is_some_and(|folder| folder.join(name).exists())
}

/// Files that `info` names beside the image itself.
fn references(path: &Path, info: &ImageInfo) -> Vec<String> {
    // The full name is the other one, seen from where we are.
    let backing = info
        .full_backing_filename
        .as_ref()
        .or(info.backing_filename.as_ref());
    let mut found: Vec<String> = backing.into_iter().cloned().collect();
    if let Some(FormatSpecific { data }) = &info.format_specific {
        found.extend(data.data_file.clone());
        if data.data_file.is_none() && data.data_file_raw == Some(true) {
            found.push("an external data file".to_owned());
        }
        found.extend(
            data.extents
                .iter()
                .filter_map(|extent| extent.filename.clone())
                .filter(|name| Path::new(name) != path),
        );
        if found.is_empty() && data.parent_cid.is_some_and(|cid| cid != NO_PARENT_CID) {
            found.push("a parent disk".to_owned());
        }
    }
    found
}

fn read_info<T: DeserializeOwned>(
    path: &Path,
    format: SourceFormat,
    more: &[&str],
) -> Result<T, Failure> {
    let output = Command::new("qemu-img")
        .args(["info", "--output=json", "-f", format.name()])
        .args(more)
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| tool_missing("qemu-img", path, &error))?;
    if !output.status.success() {
        let said = first_line(&output.stderr);
        return Err(Failure::new(
            Exit::Source,
            Blame::Operator,
            format!("qemu-img cannot read it as {}: {said}", format.name()),
            path.display().to_string(),
            "check the file, or name its format with --source-format",
        ));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| {
        Failure::new(
            Exit::Source,
            Blame::Environment,
            "qemu-img answered something else than it should",
            path.display().to_string(),
            "use qemu-utils 7.2 or later",
        )
        .caused_by(&error)
    })
}

/// An absolute path without links: no tool takes it for an option or for `protocol:...`.
pub(crate) fn plain_path(path: &Path) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(path).map_err(|error| {
        Failure::new(
            Exit::Source,
            Blame::Operator,
            "the source cannot be opened",
            path.display().to_string(),
            "check the path",
        )
        .caused_by(&error)
    })
}

/// The tool is not installed, or cannot be started.
pub(crate) fn tool_missing(tool: &str, path: &Path, error: &std::io::Error) -> Failure {
    let what = if error.kind() == std::io::ErrorKind::NotFound {
        format!("{tool} is needed to read this image and is not installed")
    } else {
        format!("{tool} is needed to read this image and cannot be started")
    };
    Failure::new(
        Exit::Source,
        Blame::Environment,
        what,
        path.display().to_string(),
        "install qemu-utils (Debian, Ubuntu) or qemu-img (Fedora, RHEL), or convert the image to raw",
    )
    .caused_by(error)
}

/// The first line that says something, shortened.
pub(crate) fn first_line(text: &[u8]) -> String {
    const SHOWN_CHARS_MAX: usize = 300;
    let text = String::from_utf8_lossy(text);
    let line = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("nothing");
    line.trim().chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(json: &str) -> ImageInfo {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_name_decides_and_the_flag_overrides() {
        let cases = [
            ("disk.qcow2", None, Some(SourceFormat::Qcow2)),
            ("DISK.VMDK", None, Some(SourceFormat::Vmdk)),
            ("disk.img", None, Some(SourceFormat::Raw)),
            ("/dev/vdb", None, Some(SourceFormat::Raw)),
            ("disk.vhdx", None, None),
            ("disk.raw.gz", None, None),
            (
                "disk.vhdx",
                Some(SourceFormat::Raw),
                Some(SourceFormat::Raw),
            ),
            (
                "disk.qcow2",
                Some(SourceFormat::Raw),
                Some(SourceFormat::Raw),
            ),
        ];
        for (name, asked, format) in cases {
            assert_eq!(format_of(Path::new(name), asked).ok(), format, "{name}");
        }
    }

    #[test]
    fn an_image_of_one_file_names_no_other() {
        let path = Path::new("/d/a.vmdk");
        let one = r#"{"format":"vmdk","format-specific":{"type":"vmdk","data":{
            "cid":1,"parent-cid":4294967295,"extents":[{"filename":"/d/a.vmdk","format":"SPARSE"}]}}}"#;
        assert!(references(path, &info(one)).is_empty());
        let qcow2 =
            r#"{"format":"qcow2","format-specific":{"type":"qcow2","data":{"compat":"1.1"}}}"#;
        assert!(references(path, &info(qcow2)).is_empty());
        assert!(references(path, &info("{}")).is_empty());
    }

    #[test]
    fn every_way_to_name_another_file_is_seen() {
        let path = Path::new("/d/a.vmdk");
        let cases = [
            r#"{"backing-filename":"b"}"#,
            r#"{"full-backing-filename":"json:{}"}"#,
            r#"{"format-specific":{"data":{"data-file":"/etc/shadow"}}}"#,
            r#"{"format-specific":{"data":{"data-file-raw":true}}}"#,
            r#"{"format-specific":{"data":{"extents":[{"filename":"/d/a-flat.vmdk"}]}}}"#,
            r#"{"format-specific":{"data":{"parent-cid":7}}}"#,
        ];
        for json in cases {
            assert!(!references(path, &info(json)).is_empty(), "{json}");
        }
    }

    #[test]
    fn what_is_no_file_is_told_from_what_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let (image, base) = (dir.path().join("a.qcow2"), dir.path().join("b"));
        std::fs::write(&base, "").unwrap();
        for name in ["b", "./b", &base.display().to_string()] {
            assert!(is_file_name(&image, name), "{name}");
        }
        for name in [
            "c",
            "nbd://host/x",
            r#"json:{"driver":"nbd"}"#,
            "a parent disk",
        ] {
            assert!(!is_file_name(&image, name), "{name}");
        }
    }

    #[test]
    fn what_a_tool_says_is_cut_to_its_first_line() {
        assert_eq!(first_line(b"\n  qemu-img: no\nmore"), "qemu-img: no");
        assert_eq!(first_line(b""), "nothing");
        assert_eq!(first_line(&[b'x'; 1000]).len(), 300);
    }
}
