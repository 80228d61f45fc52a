//! Disks and connections of a world.

use super::{
    core::Sim,
    disk::{Disk, Role},
    secure::shake,
};
use crate::{Export, ExportSpec, Store, dial::Dialled, engine::ServerSeed};
use std::{
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::Arc,
};
use sys::DeviceFile;
use tls::SessionLimits;
use wire::{ClientParams, Mode, ServerParams};

/// Id of base:allocation in every connection that has it.
pub(super) const BASE_ALLOCATION: u32 = 1;

/// Adds a disk with this content.
pub(super) fn add_disk(sim: &mut Sim, role: Role, align: u32, image: Vec<u8>) -> Arc<DeviceFile> {
    let size = image.len() as u64;
    let file = match align {
        1 => DeviceFile::in_memory(size),
        align => DeviceFile::in_memory_aligned(size, align),
    };
    let file = Arc::new(file.expect("a file in memory"));
    let disk = Disk::new(Arc::clone(&file), role, image, &sim.case);
    sim.disks.push(disk);
    file
}

pub(super) fn export_of(device: Arc<DeviceFile>) -> Arc<Export> {
    Export::new(ExportSpec {
        name: "disk".into(),
        store: Store::Device(device),
        read_only: false,
        scratch: false,
    })
}

/// How a connection was negotiated.
#[derive(Clone, Copy)]
pub(super) struct Agreed {
    pub mode: Mode,
    /// `None`: plain.
    pub tls: Option<SessionLimits>,
}

/// Both ends of a connection, and the pipe from client to server; the next pipe goes back.
pub(super) struct Wired {
    pub server: ServerSeed,
    pub client: Dialled,
    pub up: usize,
}

/// Connects a client to `export`.
pub(super) fn connect(sim: &mut Sim, export: &Arc<Export>, agreed: Agreed) -> Wired {
    let (client, server) = UnixStream::pair().expect("two descriptors");
    let up = sim.lay_pipes();
    sim.ends.insert(client.as_raw_fd(), (up + 1, up));
    sim.ends.insert(server.as_raw_fd(), (up, up + 1));
    let secured = agreed.tls.map(shake);
    let (ours, theirs, leftover) = match secured {
        Some(secured) => (
            Some(secured.client),
            Some(secured.server),
            secured.to_client,
        ),
        None => (None, None, Vec::new()),
    };
    let info = export.info();
    let with_status = agreed.mode != Mode::Simple;
    export.enter();
    let server = ServerSeed {
        socket: server.into(),
        session: theirs,
        leftover: Vec::new(),
        params: ServerParams {
            export_name: "disk".into(),
            info: info.clone(),
            mode: agreed.mode,
            base_allocation: with_status.then_some(BASE_ALLOCATION),
            block_sizes_negotiated: true,
        },
        export: Arc::clone(export),
        peer: "sim".into(),
        fingerprint: None,
    };
    let context = (BASE_ALLOCATION, "base:allocation".to_owned());
    let client = Dialled {
        socket: client.into(),
        session: ours,
        leftover,
        params: ClientParams {
            info,
            mode: agreed.mode,
            contexts: if with_status {
                vec![context]
            } else {
                Vec::new()
            },
            block_sizes_stated: true,
        },
    };
    Wired { server, client, up }
}
