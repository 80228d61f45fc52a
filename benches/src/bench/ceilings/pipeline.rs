//! The bare pipeline: seal records, blocking TCP, open them, and perhaps write them; no NBD, no engine. Its best
//! combination is the ceiling that a copy is measured by.

use super::{
    Plan,
    ciphers::{Pair, Site, open_all, seal_all},
    device::Device,
    memory::{Aligned, Memory},
    meter::{Figures, Run, interleaved, timed},
    sockets::{BATCHES, CONNECTIONS, join, tcp_pair},
};
use anyhow::{Result, bail};
use serde::Serialize;
use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
};
use tls::Session;

/// Where the bytes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum End {
    /// They are thrown away.
    Null,
    /// They are written with direct I/O and flushed.
    Device,
}

impl End {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Null => "into null",
            Self::Device => "into the device",
        }
    }
}

/// One combination.
#[derive(Debug, Serialize)]
pub(super) struct Pipeline {
    pub end: End,
    pub connections: usize,
    pub batch_bytes: usize,
    pub suite: &'static str,
    #[serde(flatten)]
    pub figures: Figures,
}

/// Every combination, round by round.
pub(super) fn measure(
    plan: &Plan,
    memory: &Memory,
    device: Option<&Device>,
) -> Result<Vec<Pipeline>> {
    let site = Site::make()?;
    let suite = site.pair(None)?.client.suite_name();
    let mut cells = Vec::new();
    for end in [Some(End::Null), device.map(|_| End::Device)]
        .into_iter()
        .flatten()
    {
        for connections in CONNECTIONS {
            cells.extend(BATCHES.map(|batch| (end, connections, batch)));
        }
    }
    let runs = interleaved(plan.rounds, &cells, |&(end, connections, batch)| {
        let device = device.filter(|_| end == End::Device);
        let streams = (0..connections)
            .map(|_| Ok((site.pair(None)?, tcp_pair()?)))
            .collect::<Result<Vec<_>>>()?;
        pump(
            streams,
            batch,
            plan.bytes / connections / batch,
            memory,
            device,
        )
    })?;
    let cells = cells
        .iter()
        .zip(&runs)
        .map(|(&(end, connections, batch), runs)| Pipeline {
            end,
            connections,
            batch_bytes: batch,
            suite,
            figures: Figures::of(plan.bytes / connections / batch * batch * connections, runs),
        });
    Ok(cells.collect())
}

type Stream = (Pair, (TcpStream, TcpStream));

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_goes_through_and_arrives_at_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("target");
        let plan = Plan {
            bytes: 8 << 20,
            rounds: 1,
        };
        let memory = Memory::larger_than(0).unwrap();
        let device = Device::open(&path, plan.bytes as u64, false).unwrap();
        let cells = measure(&plan, &memory, Some(&device)).unwrap();
        assert_eq!(cells.len(), 2 * CONNECTIONS.len() * BATCHES.len());
        assert!(cells.iter().all(|cell| cell.figures.gib_per_s.median > 0.0));
        // Whatever the combination, the target is the beginning of the source.
        assert!(std::fs::read(path).unwrap() == memory.batch(0, plan.bytes));
    }
}
