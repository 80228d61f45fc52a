//! The source of a copy, opened far enough to know its size.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use engine::transfer::SourceFiles;
use engine::{Cancel, Endpoint, NbdClient};
use sys::{DeviceFile, OpenIntent, OpenOptions};

use super::image;
use super::qemu::{ImageOptions, ImageServer};
use super::settings::Settings;
use crate::cli::{CopyArgs, SourceFormat};
use crate::endpoint::{ConnectOptions, endpoint};
use crate::exit::{Failure, Side};
use crate::uri::Uri;

/// The source, opened far enough to know its size.
pub(super) enum SourceEnd {
    /// What the engine reads itself.
    Direct {
        endpoint: Endpoint,
        size_bytes: u64,
        format: Option<SourceFormat>,
    },
    /// An image behind qemu-nbd.
    Image {
        server: Box<ImageServer>,
        format: SourceFormat,
    },
}

impl SourceEnd {
    pub(super) fn open(
        uri: &Uri,
        args: &CopyArgs,
        settings: &Settings,
        connect: &ConnectOptions,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        let Uri::Path(path) = uri else {
            if args
                .source_format
                .is_some_and(|format| format != SourceFormat::Raw)
            {
                return Err(Failure::usage(
                    "--source-format is for files",
                    uri.to_string(),
                    "an nbd server gives the disk itself: leave the flag out",
                ));
            }
            let endpoint = endpoint(uri, connect)?;
            let size_bytes = size_of(uri, &endpoint)?;
            return Ok(Self::Direct {
                endpoint,
                size_bytes,
                format: None,
            });
        };
        match image::format_of(path, args.source_format)? {
            SourceFormat::Raw => {
                let size_bytes = file_size(path)?;
                let endpoint = Endpoint::Path(path.clone());
                Ok(Self::Direct {
                    endpoint,
                    size_bytes,
                    format: Some(SourceFormat::Raw),
                })
            }
            format => {
                let options = ImageOptions {
                    allow_backing: args.allow_backing,
                    connections: settings.connections,
                    connect_timeout: connect.connect_timeout,
                    cancel,
                };
                let server = Box::new(ImageServer::start(path, format, &options)?);
                Ok(Self::Image { server, format })
            }
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Direct { endpoint, .. } => endpoint.clone(),
            Self::Image { server, .. } => server.endpoint(),
        }
    }

    /// Files that somebody else reads for us.
    pub(super) fn files(&self) -> Option<SourceFiles> {
        match self {
            Self::Direct { .. } => None,
            Self::Image { server, .. } => Some(server.files().clone()),
        }
    }

    /// A journal can be bound to it without the operator's word.
    pub(super) fn tells_its_state(&self) -> bool {
        match self {
            Self::Direct { endpoint, .. } => !matches!(endpoint, Endpoint::Nbd(_)),
            Self::Image { server, .. } => server.unseen().is_none(),
        }
    }

    /// What of it may change unseen, in words for the operator.
    pub(super) fn warning(&self) -> Option<String> {
        let Self::Image { server, .. } = self else {
            return None;
        };
        let name = server.unseen()?;
        Some(format!(
            "the image stands on {name:?}, of which nobody can tell whether it changes while it is read"
        ))
    }

    pub(super) fn size_bytes(&self) -> u64 {
        match self {
            Self::Direct { size_bytes, .. } => *size_bytes,
            Self::Image { server, .. } => server.size_bytes(),
        }
    }

    pub(super) fn format(&self) -> Option<SourceFormat> {
        match self {
            Self::Direct { format, .. } => *format,
            Self::Image { format, .. } => Some(*format),
        }
    }
}

fn size_of(uri: &Uri, endpoint: &Endpoint) -> Result<u64, Failure> {
    match endpoint {
        Endpoint::Path(path) => file_size(path),
        Endpoint::Null {
            size_bytes: Some(size),
        } => Ok(*size),
        Endpoint::Null { size_bytes: None } => Err(Failure::usage(
            "a null source needs a size",
            uri.to_string(),
            "write null:10G",
        )),
        Endpoint::Nbd(nbd) => {
            let client =
                NbdClient::connect(nbd).map_err(|error| Failure::engine(Side::Source, &error))?;
            let size_bytes = client.params().info.size_bytes;
            client.disconnect();
            Ok(size_bytes)
        }
    }
}

fn file_size(path: &Path) -> Result<u64, Failure> {
    DeviceFile::open(path, OpenIntent::Source, &OpenOptions::default())
        .map(|file| file.size_bytes())
        .map_err(|error| Failure::setup(Side::Source, &error))
}

/// Refuses a copy of a disk onto itself. Two links to one file, or two nodes of one device, are the same disk.
pub(super) fn refuse_same_disk(source: &Uri, target: &Uri) -> Result<(), Failure> {
    let (Uri::Path(source), Uri::Path(target)) = (source, target) else {
        return Ok(());
    };
    match (disk_id(source), disk_id(target)) {
        (Some(from), Some(to)) if from == to => Err(Failure::refused(
            "source and target are the same disk",
            target.display().to_string(),
            "name another target",
        )),
        _ => Ok(()),
    }
}

/// What tells one disk from another: the device it is, or where the file lies. `None` when it does not
/// exist, or is neither.
fn disk_id(path: &Path) -> Option<(bool, u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    if metadata.file_type().is_block_device() {
        return Some((true, metadata.rdev(), 0));
    }
    metadata
        .is_file()
        .then(|| (false, metadata.dev(), metadata.ino()))
}
