//! Opening devices, and proving that they are the right ones.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use control::{ErrorBody, ErrorKind, ExportMode, Serial};
use sys::{DeviceFile, DeviceKind, OpenIntent, OpenOptions, SetupError};

use crate::serve::problem;

/// What the owner knows about the device.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Expected<'a> {
    pub(super) size_bytes: Option<u64>,
    pub(super) serial: Option<&'a Serial>,
}

/// Opens `path`, exclusively for writing or shared for reading. What is on the device is the owner's
/// business: an export exists to be overwritten.
pub(super) fn device(path: &Path, mode: ExportMode) -> Result<DeviceFile, SetupError> {
    let intent = match mode {
        ExportMode::Rw => OpenIntent::Target,
        ExportMode::Ro => OpenIntent::Source,
    };
    let options = OpenOptions {
        skip_signature_check: true,
        ..OpenOptions::default()
    };
    let file = DeviceFile::open(path, intent, &options)?;
    for note in file.notes() {
        tracing::warn!(device = %path.display(), "{note}");
    }
    Ok(file)
}

/// Compares the device with what its owner expects.
pub(super) fn check(file: &DeviceFile, expected: Expected<'_>) -> Result<(), ErrorBody> {
    let mismatch = |what: String| {
        let remedy = "check which volume is attached under this path; nothing was written";
        Err(problem::refuse(ErrorKind::IdentityMismatch, what, remedy))
    };
    let path = file.path().display();
    let found = file.identity();
    if let Some(size_bytes) = expected.size_bytes
        && size_bytes != found.size_bytes
    {
        let found = found.size_bytes;
        return mismatch(format!(
            "{path} has {found} bytes, {size_bytes} were expected"
        ));
    }
    if let Some(serial) = expected.serial
        && Some(serial.as_str()) != found.serial.as_deref()
    {
        let found = found.serial.as_deref().map_or_else(
            || "no serial number".to_owned(),
            |serial| format!("the serial number {serial:?}"),
        );
        return mismatch(format!(
            "{path} has {found}, {:?} was expected",
            serial.as_str()
        ));
    }
    Ok(())
}

/// True when `path` leads to what `file` has open.
pub(super) fn is_same_device(path: &Path, file: &DeviceFile) -> bool {
    let identity = file.identity();
    fs::metadata(path).is_ok_and(|found| numbers(&found) == (identity.dev, identity.inode))
}

/// The numbers by which `DeviceIdentity` tells devices and files apart.
fn numbers(metadata: &Metadata) -> (u64, u64) {
    if metadata.file_type().is_block_device() {
        (metadata.rdev(), 0)
    } else {
        (metadata.dev(), metadata.ino())
    }
}

/// A hold is for whole devices: a partition says nothing about who writes beside it.
pub(super) fn refuse_partition(file: &DeviceFile) -> Result<(), ErrorBody> {
    if file.kind() != DeviceKind::Block {
        return Ok(());
    }
    let dev = file.identity().dev;
    let (major, minor) = (nix::sys::stat::major(dev), nix::sys::stat::minor(dev));
    if !Path::new(&format!("/sys/dev/block/{major}:{minor}/partition")).exists() {
        return Ok(());
    }
    Err(problem::refuse(
        ErrorKind::Refused,
        format!("{} is a partition", file.path().display()),
        "hold the whole device",
    ))
}

/// The file of an export, shared with the hold of its device when there is one.
pub(super) struct Opened {
    pub(super) file: Arc<DeviceFile>,
    pub(super) hold: Option<String>,
}
