//! Lanes get their place on a shard: sockets and files are registered, leases reserved.

use super::{
    Arc, Ctx, DeviceFile, End, Entry, FileId, Hold, Instant, Kind, Lane, LeaseClass, Mover,
    MoverSeed, RxMode, SeedEnd, ServerConn, ServerLane, ServerParts, ServerSeed, Shard, SharedFile,
    Side, Store, Tag,
};
use crate::{
    client::ClientLane,
    dial::Dialled,
    error::{Blame, EngineError, ErrorKind},
    link::Tx,
};
use sys::{Backend, SetupError};

/// Why a lane found no place.
enum NoPlace {
    /// The table or the arena is full.
    Full,
    Setup(SetupError),
}

impl<B: Backend> Shard<B> {
    /// Registers a device once for all lanes of the shard.
    fn use_file(&mut self, device: &Arc<DeviceFile>) -> Result<FileId, NoPlace> {
        if let Some(known) = self
            .files
            .iter_mut()
            .find(|known| Arc::ptr_eq(&known.device, device))
        {
            known.users += 1;
            return Ok(known.file);
        }
        let file = self
            .backend
            .add_file(Arc::clone(device))
            .map_err(NoPlace::Setup)?;
        self.files.push(SharedFile {
            device: Arc::clone(device),
            file,
            users: 1,
        });
        Ok(file)
    }

    pub(super) fn release_file(&mut self, file: FileId) {
        let Some(at) = self.files.iter().position(|known| known.file == file) else {
            return;
        };
        self.files[at].users -= 1;
        if self.files[at].users == 0 {
            self.files.swap_remove(at);
            self.backend.remove_file(file);
        }
    }

    pub(super) fn serve(&mut self, now: Instant, seed: ServerSeed) {
        let (export, peer) = (Arc::clone(&seed.export), seed.peer.clone());
        if self.place_server(now, seed).is_err() {
            // The door sees the connection end; the log says why.
            self.outside
                .ended(&peer, export.name(), Some(crate::error::LaneFault::NoRoom));
            export.leave();
        }
    }

    fn place_server(&mut self, now: Instant, seed: ServerSeed) -> Result<(), NoPlace> {
        if self.lanes.is_full() || self.stopping {
            return Err(NoPlace::Full);
        }
        let file = match seed.export.store() {
            Store::Device(device) => Some(self.use_file(device)?),
            Store::Null { .. } => None,
        };
        let placed = self.place_server_lane(now, seed, file);
        if let (Err(_), Some(file)) = (&placed, file) {
            self.release_file(file);
        }
        placed
    }

    fn place_server_lane(
        &mut self,
        now: Instant,
        seed: ServerSeed,
        file: Option<FileId>,
    ) -> Result<(), NoPlace> {
        // The slot a lane gets is known only by inserting; the tag is made for that slot first.
        let index = self.lanes.next_index().ok_or(NoPlace::Full)?;
        let tag = self.next_tag(index);
        let mode = self.rx_mode(seed.session.is_some());
        let token = tag.with(Kind::Rx, 0, 0).token();
        let remote = sys::net::is_remote(&seed.socket);
        let socket = self
            .backend
            .add_socket(seed.socket, mode, token, &seed.leftover)
            .map_err(NoPlace::Setup)?;
        let parts = ServerParts {
            conn: ServerConn::new(&seed.params),
            export: seed.export,
            file,
            socket,
            session: seed.session.map(Box::new),
            remote,
            peer: seed.peer,
        };
        let (_, mut ctx) = self.split(now);
        let Some(lane) = ServerLane::new(&mut ctx, tag, parts) else {
            self.backend.remove_socket(socket);
            return Err(NoPlace::Full);
        };
        self.insert(tag, Lane::Server(Box::new(lane)));
        Ok(())
    }

    fn insert(&mut self, tag: Tag, lane: Lane) {
        let moves = matches!(lane, Lane::Mover(_));
        let entry = Entry {
            lane,
            generation: tag.generation,
            queued: false,
        };
        if let Ok(index) = self.lanes.insert(entry) {
            self.local.connections += 1;
            if moves {
                self.movers.push(index);
            }
            self.mark(index);
        }
    }

    fn rx_mode(&self, tls: bool) -> RxMode {
        if tls {
            RxMode::Stream {
                ring_bytes: self.tunables.recv_buffer_bytes(),
            }
        } else {
            RxMode::Exact
        }
    }

    pub(super) fn add_mover(&mut self, now: Instant, seed: MoverSeed) {
        let shared = Arc::clone(&seed.shared);
        if let Err(no_place) = self.place_mover(now, seed) {
            let error = EngineError::new(
                ErrorKind::Config,
                Blame::Environment,
                "a stream of the transfer found no place",
                format!("shard {}", self.outside.shard),
            )
            .remedy("use fewer connections or transfers at a time");
            shared.fail(match no_place {
                NoPlace::Full => error,
                NoPlace::Setup(cause) => error.cause(cause),
            });
            shared
                .ended_movers
                .fetch_add(1, std::sync::atomic::Ordering::AcqRel);
            shared.notify();
        }
    }

    fn place_mover(&mut self, now: Instant, seed: MoverSeed) -> Result<(), NoPlace> {
        if self.stopping {
            return Err(NoPlace::Full);
        }
        let index = self.lanes.next_index().ok_or(NoPlace::Full)?;
        let tag = self.next_tag(index);
        let mut hold = Hold::default();
        let source = self.place_end(
            now,
            Tag {
                side: Side::Source,
                ..tag
            },
            seed.source,
            &mut hold,
        )?;
        let target = self.place_end(
            now,
            Tag {
                side: Side::Target,
                ..tag
            },
            seed.target,
            &mut hold,
        );
        let target = match target {
            Ok(target) => target,
            Err(no_place) => {
                self.unplace(now, source, &mut hold);
                return Err(no_place);
            }
        };
        let mover = Mover::new(tag, seed.shared, seed.index, source, target, hold);
        self.insert(tag, Lane::Mover(Box::new(mover)));
        Ok(())
    }

    fn place_end(
        &mut self,
        now: Instant,
        tag: Tag,
        end: SeedEnd,
        hold: &mut Hold,
    ) -> Result<End, NoPlace> {
        match end {
            SeedEnd::Null => Ok(End::Null),
            SeedEnd::File(device) => {
                let file = self.use_file(&device)?;
                Ok(End::File { file, device })
            }
            SeedEnd::Nbd(dialled) => self.place_client(now, tag, *dialled, hold),
        }
    }

    fn place_client(
        &mut self,
        now: Instant,
        tag: Tag,
        dialled: Dialled,
        hold: &mut Hold,
    ) -> Result<End, NoPlace> {
        let scratch = {
            let (_, mut ctx): (_, Ctx<'_, B>) = self.split(now);
            hold.take(&mut ctx, LeaseClass::Small)
                .ok_or(NoPlace::Full)?
        };
        let mode = self.rx_mode(dialled.session.is_some());
        let token = tag.with(Kind::Rx, 0, 0).token();
        let remote = sys::net::is_remote(&dialled.socket);
        let added = self
            .backend
            .add_socket(dialled.socket, mode, token, &dialled.leftover);
        match added {
            Ok(socket) => {
                let tx = Tx::new(socket, dialled.session.map(Box::new), remote);
                let lane = ClientLane::new(tag, &dialled.params, tx, scratch, now);
                Ok(End::Nbd(Box::new(lane)))
            }
            Err(cause) => {
                hold.give(scratch);
                Err(NoPlace::Setup(cause))
            }
        }
    }

    fn unplace(&mut self, now: Instant, end: End, hold: &mut Hold) {
        match end {
            End::File { file, .. } => self.release_file(file),
            End::Nbd(mut lane) => {
                let (_, mut ctx) = self.split(now);
                lane.go(&mut ctx, hold);
            }
            End::Null => {}
        }
    }
}
