//! Transfers that never end, to load shards with.

use super::wiring::Wired;
use crate::{
    command::Command,
    mover::{MoverSeed, SeedEnd},
    transfer::shared::{MoveSettings, TransferShared, Work, WorkKind},
};
use crossbeam::channel::Sender;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Which way the bytes go, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    FromServer,
}

/// One endless transfer over one connection; what it does not send, it makes of zeroes, and what it gets it drops.
pub(crate) struct Load {
    pub shared: Arc<TransferShared>,
    size: u64,
    next: u64,
}

impl Load {
    /// Hands both ends to their shards.
    pub(crate) fn start(
        wired: Wired,
        way: Way,
        (request_bytes, window_bytes): (usize, usize),
        (client, server): (&Sender<Command>, &Sender<Command>),
    ) -> Self {
        let settings = MoveSettings {
            request_bytes,
            window_bytes,
            zero_scan_bytes: 0,
            skip_zeroes: false,
            can_zero: false,
            zero_request_bytes: 1 << 20,
            in_flight_deadline: Duration::from_secs(60),
            flush: true,
            hash_up_to: None,
        };
        let load = Self {
            shared: Arc::new(TransferShared::new(settings, None, 1)),
            size: wired.client.params.info.size_bytes,
            next: 0,
        };
        let connection = SeedEnd::Nbd(Box::new(wired.client));
        let (source, target) = match way {
            Way::ToServer => (SeedEnd::Null, connection),
            Way::FromServer => (connection, SeedEnd::Null),
        };
        let seed = MoverSeed {
            shared: Arc::clone(&load.shared),
            index: 0,
            source,
            target,
        };
        let served = server.try_send(Command::Serve(Box::new(wired.server)));
        let moved = client.try_send(Command::Move(Box::new(seed)));
        assert!(served.is_ok() && moved.is_ok(), "the queues have room");
        load
    }

    /// Keeps the queue of work full. Allocates nothing.
    pub(crate) fn refill(&mut self) {
        self.shared.take_acks(|_| {});
        let len = (self.shared.settings.request_bytes as u64 * 16).min(self.size);
        loop {
            let offset = if self.next + len > self.size {
                0
            } else {
                self.next
            };
            let work = Work {
                offset,
                len,
                kind: WorkKind::Data,
            };
            if self.shared.work.push(work).is_err() {
                return;
            }
            self.next = offset + len;
        }
    }

    /// Bytes that were answered.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.data_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }
}
