//! The bare pipeline: seal records, blocking TCP, open them, and perhaps write them; no NBD, no engine.

use super::{
    ciphers::{open_all, seal_all},
    device::Device,
    memory::{Aligned, Memory},
    meter::{Run, timed},
    sockets::{BATCHES, CONNECTIONS, join, tcp_pair},
};
use anyhow::{Context, Result, bail};
use benches::machine;
use serde::Serialize;
use std::{
    fmt,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    thread,
    time::SystemTime,
};
use tls::{LoopbackPair, LoopbackSite, Session};

/// One combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Cell {
    pub connections: usize,
    pub batch_bytes: usize,
}

impl Cell {
    pub(crate) const DEFAULT: Self = Self {
        connections: 2,
        batch_bytes: 512 << 10,
    };

    /// All that are tried.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        CONNECTIONS.into_iter().flat_map(|connections| {
            BATCHES.map(|batch_bytes| Self {
                connections,
                batch_bytes,
            })
        })
    }

    /// What a run of `bytes` really moves: whole batches, the same number on each connection.
    pub(crate) fn bytes_of(self, bytes: usize) -> usize {
        let turn = self.connections * self.batch_bytes;
        bytes / turn * turn
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} KiB", self.connections, self.batch_bytes >> 10)
    }
}

/// A pipeline that can be run again and again.
pub(crate) struct Pump {
    memory: Memory,
    site: LoopbackSite,
    device: Option<Device>,
    bytes: usize,
}

impl Pump {
    /// `target` is overwritten; `None`: bytes are thrown away.
    pub(crate) fn new(bytes: u64, target: Option<&Path>) -> Result<Self> {
        let memory = Memory::larger_than(machine::describe()?.last_level_cache_bytes)?;
        let device = target
            .map(|path| Device::open(path, bytes, true))
            .transpose()?;
        Ok(Self {
            memory,
            site: LoopbackSite::make(SystemTime::now())?,
            device,
            bytes: usize::try_from(bytes).context("more than the address space")?,
        })
    }

    /// Moves all bytes once; the flush is inside the time, the handshakes are not.
    pub(crate) fn run(&self, cell: Cell) -> Result<Run> {
        run(
            &self.site,
            &self.memory,
            self.device.as_ref(),
            self.bytes,
            cell,
        )
    }
}

/// See [`Pump::run`].
pub(super) fn run(
    site: &LoopbackSite,
    memory: &Memory,
    device: Option<&Device>,
    bytes: usize,
    cell: Cell,
) -> Result<Run> {
    let streams = (0..cell.connections)
        .map(|_| Ok((site.connect(None)?, tcp_pair()?)))
        .collect::<Result<Vec<_>>>()?;
    let share = bytes / cell.connections / cell.batch_bytes;
    pump(streams, cell.batch_bytes, share, memory, device)
}

type Stream = (LoopbackPair, (TcpStream, TcpStream));

fn pump(
    streams: Vec<Stream>,
    batch: usize,
    share: usize,
    memory: &Memory,
    device: Option<&Device>,
) -> Result<Run> {
    let count = streams.len();
    timed(|| {
        thread::scope(|scope| {
            let mut ends = Vec::new();
            for (index, (pair, (near, far))) in streams.into_iter().enumerate() {
                let places = move |turn: usize| index + turn * count;
                ends.push(scope.spawn(move || {
                    send(pair.client, near, share, |turn| {
                        memory.batch(places(turn), batch)
                    })
                }));
                ends.push(scope.spawn(move || {
                    receive(pair.server, far, batch, share, |turn, bytes| match device {
                        Some(device) => device.write(bytes, places(turn) * batch),
                        None => Ok(()),
                    })
                }));
            }
            join(ends)
        })?;
        device.map_or(Ok(()), Device::flush)
    })
}

fn send<'m>(
    mut session: Session,
    mut stream: TcpStream,
    share: usize,
    plain: impl Fn(usize) -> &'m [u8],
) -> Result<()> {
    let mut wire = Vec::new();
    for turn in 0..share {
        let plain = plain(turn);
        wire.resize(Session::sealed_len(plain.len()), 0);
        let len = seal_all(&mut session, plain, &mut wire)?;
        stream.write_all(&wire[..len])?;
    }
    Ok(())
}

fn receive(
    mut session: Session,
    mut stream: TcpStream,
    batch: usize,
    share: usize,
    keep: impl Fn(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut wire = vec![0; Session::sealed_len(batch)];
    // The last record leaves its type byte behind the data.
    let mut plain = Aligned::zeroed(batch + 1);
    for turn in 0..share {
        stream.read_exact(&mut wire)?;
        let len = open_all(&mut session, &wire, plain.as_mut_slice())?;
        if len != batch {
            bail!("{len} bytes arrived where {batch} were sent");
        }
        keep(turn, &plain.as_slice()[..batch])?;
    }
    Ok(())
}
