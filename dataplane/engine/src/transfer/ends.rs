//! Both ends of a transfer, opened and checked before the first byte moves.

use super::{TransferSpec, plan::SourceMap, stamp::Stamp};
use crate::{
    Endpoint, EngineError,
    dial::{NbdClient, NbdEndpoint, Role, dial},
    error::{Blame, ErrorKind},
    mover::SeedEnd,
};
use std::{path::Path, sync::Arc};
use sys::{DeviceFile, OpenIntent, OpenOptions, SetupErrorKind};
use wire::{ClientParams, TransmissionFlags};

/// An end that was opened.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "two of them exist per transfer")]
pub(super) enum Opened {
    Device(Arc<DeviceFile>),
    Nbd {
        endpoint: NbdEndpoint,
        params: ClientParams,
        suite: Option<&'static str>,
        /// Over TLS, and no application protocol was chosen: nothing but NBD is to be had there.
        is_tunnel: bool,
    },
    Null,
}

impl Opened {
    /// One stream's end.
    pub(super) fn seed(&self, role: Role) -> Result<SeedEnd, EngineError> {
        Ok(match self {
            Self::Device(device) => SeedEnd::File(Arc::clone(device)),
            Self::Nbd { endpoint, .. } => SeedEnd::Nbd(Box::new(dial(endpoint, role)?)),
            Self::Null => SeedEnd::Null,
        })
    }

    /// More than one connection is safe.
    pub(super) fn allows_many(&self) -> bool {
        match self {
            Self::Nbd { params, .. } => params
                .info
                .flags
                .contains(TransmissionFlags::CAN_MULTI_CONN),
            Self::Device(_) | Self::Null => true,
        }
    }

    pub(super) fn suite(&self) -> Option<&'static str> {
        match self {
            Self::Nbd { suite, .. } => *suite,
            Self::Device(_) | Self::Null => None,
        }
    }

    pub(super) fn is_direct(&self) -> Option<bool> {
        match self {
            Self::Device(device) => Some(device.is_direct()),
            Self::Nbd { .. } | Self::Null => None,
        }
    }

    /// What tells a local source from one that was changed or replaced; `None` where nobody can tell.
    pub(super) fn stamp(&self) -> Result<Option<Stamp>, EngineError> {
        let Self::Device(device) = self else {
            return Ok(None);
        };
        Stamp::of(device.resolved_path(), Some(device.size_bytes()))
            .map(Some)
            .map_err(|cause| {
                let on = device.path().display().to_string();
                let what = "the source cannot be examined any more";
                EngineError::new(ErrorKind::SourceIo, Blame::Environment, what, on).cause(cause)
            })
    }

    pub(super) fn has_flag(&self, flag: TransmissionFlags) -> bool {
        match self {
            Self::Nbd { params, .. } => params.info.flags.contains(flag),
            Self::Device(_) | Self::Null => true,
        }
    }
}

/// The source, its size and its map.
pub(super) struct Source {
    pub end: Opened,
    pub size_bytes: u64,
    pub map: SourceMap,
}

impl Source {
    /// Makes it ready for another attempt: the map of the last one is used up, and a far source may have gone.
    pub(super) fn reopen(&mut self, endpoint: &Endpoint) -> Result<(), EngineError> {
        match (endpoint, &self.end) {
            (Endpoint::Nbd(endpoint), _) => *self = open_nbd_source(endpoint)?,
            (_, Opened::Device(device)) => self.map = map_of(device),
            _ => self.map = SourceMap::Zeroes,
        }
        Ok(())
    }
}

fn map_of(device: &Arc<DeviceFile>) -> SourceMap {
    match device.kind() {
        sys::DeviceKind::Regular => SourceMap::File(Arc::clone(device)),
        sys::DeviceKind::Block => SourceMap::Opaque,
    }
}

/// Opens the source and learns what it can tell about zeroes.
pub(super) fn open_source(endpoint: &Endpoint) -> Result<Source, EngineError> {
    match endpoint {
        Endpoint::Null {
            size_bytes: Some(size_bytes),
        } => Ok(Source {
            end: Opened::Null,
            size_bytes: *size_bytes,
            map: SourceMap::Zeroes,
        }),
        Endpoint::Null { size_bytes: None } => Err(EngineError::new(
            ErrorKind::Config,
            Blame::Operator,
            "a null source needs a size",
            "null:",
        )
        .remedy("write it as null:SIZE, for example null:1GiB")),
        Endpoint::Path(path) => {
            let device = open_device(
                path,
                OpenIntent::Source,
                &OpenOptions::default(),
                Role::Source,
            )?;
            Ok(Source {
                size_bytes: device.size_bytes(),
                map: map_of(&device),
                end: Opened::Device(device),
            })
        }
        Endpoint::Nbd(endpoint) => open_nbd_source(endpoint),
    }
}

fn open_nbd_source(endpoint: &NbdEndpoint) -> Result<Source, EngineError> {
    let client = NbdClient::connect_as(endpoint, Role::Source)?;
    let (params, suite) = (client.params().clone(), client.suite_name());
    let is_tunnel = suite.is_some() && !client.chose_protocol();
    let size_bytes = params.info.size_bytes;
    let end = Opened::Nbd {
        endpoint: endpoint.clone(),
        params,
        suite,
        is_tunnel,
    };
    let map = if end.allows_many() {
        SourceMap::Nbd {
            client: Box::new(client),
            ahead: std::collections::VecDeque::new(),
        }
    } else {
        SourceMap::read_whole(client, size_bytes)?
    };
    Ok(Source {
        end,
        size_bytes,
        map,
    })
}

fn open_device(
    path: &Path,
    intent: OpenIntent,
    options: &OpenOptions,
    role: Role,
) -> Result<Arc<DeviceFile>, EngineError> {
    DeviceFile::open(path, intent, options)
        .map(Arc::new)
        .map_err(|cause| {
            let kind = match cause.kind() {
                SetupErrorKind::Refused | SetupErrorKind::Busy => ErrorKind::Refused,
                _ => role.connect_kind(),
            };
            let blame = match cause.blame() {
                sys::fault::Blame::Operator => Blame::Operator,
                sys::fault::Blame::Peer => Blame::Peer,
                sys::fault::Blame::Environment => Blame::Environment,
                sys::fault::Blame::Bug => Blame::Bug,
            };
            let what = match role {
                Role::Source => "cannot open the source",
                Role::Target => "cannot open the target",
            };
            let remedy = cause.remedy().to_owned();
            EngineError::new(kind, blame, what, path.display().to_string())
                .remedy(remedy)
                .cause(cause)
        })
}

/// The target, ready to be written.
pub(super) struct Target {
    pub end: Opened,
    /// It was made just now and reads as zeroes.
    pub is_new: bool,
    /// Alignment its requests must keep, bytes.
    pub block: u64,
}

/// Opens the target and refuses what cannot hold the source or may not be written.
pub(super) fn open_target(spec: &TransferSpec, size_bytes: u64) -> Result<Target, EngineError> {
    match &spec.target {
        Endpoint::Null { .. } => Ok(Target {
            end: Opened::Null,
            is_new: false,
            block: 1,
        }),
        Endpoint::Path(path) => {
            let is_new = !path.exists();
            let options = OpenOptions {
                create_size_bytes: Some(size_bytes),
                overwrite: spec.overwrite,
                ..OpenOptions::default()
            };
            let device = open_device(path, OpenIntent::Target, &options, Role::Target)?;
            check_size(&path.display().to_string(), size_bytes, device.size_bytes())?;
            device.revalidate().map_err(|cause| {
                let on = path.display().to_string();
                let what = "the target changed while it was opened";
                EngineError::new(ErrorKind::Refused, Blame::Environment, what, on).cause(cause)
            })?;
            Ok(Target {
                end: Opened::Device(device),
                is_new,
                block: 1,
            })
        }
        Endpoint::Nbd(endpoint) => open_nbd_target(spec, endpoint, size_bytes),
    }
}

pub(super) fn open_nbd_target(
    spec: &TransferSpec,
    endpoint: &NbdEndpoint,
    size_bytes: u64,
) -> Result<Target, EngineError> {
    let client = NbdClient::connect_as(endpoint, Role::Target)?;
    let (params, suite) = (client.params().clone(), client.suite_name());
    let is_tunnel = suite.is_some() && !client.chose_protocol();
    client.disconnect();
    let flags = params.info.flags;
    let on = || endpoint.uri.clone();
    if flags.contains(TransmissionFlags::READ_ONLY) {
        let what = "the export is read-only";
        return Err(
            EngineError::new(ErrorKind::TargetConnect, Blame::Peer, what, on())
                .remedy("export it for writing"),
        );
    }
    check_size(&endpoint.uri, size_bytes, params.info.size_bytes)?;
    if !flags.contains(TransmissionFlags::SEND_FLUSH) && !spec.allow_no_flush {
        let what = "the server cannot flush, so nothing could be called durable";
        return Err(
            EngineError::new(ErrorKind::Refused, Blame::Peer, what, on())
                .remedy("use --allow-no-flush to copy all the same"),
        );
    }
    let block = u64::from(params.info.block.min.max(1));
    let end = Opened::Nbd {
        endpoint: endpoint.clone(),
        params,
        suite,
        is_tunnel,
    };
    Ok(Target {
        end,
        is_new: false,
        block,
    })
}

fn check_size(target: &str, source_bytes: u64, target_bytes: u64) -> Result<(), EngineError> {
    if target_bytes >= source_bytes {
        return Ok(());
    }
    Err(EngineError::new(
        ErrorKind::TargetConnect,
        Blame::Operator,
        format!("the target is too small: it has {target_bytes} bytes, the source {source_bytes}"),
        target,
    )
    .remedy("use a target of at least the source's size"))
}
