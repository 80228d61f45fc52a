//! What sockets of this machine carry from one thread to another.

use super::{
    Plan,
    memory::Memory,
    meter::{Figures, interleaved, timed},
};
use anyhow::{Context, Result};
use serde::Serialize;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    thread,
};

/// Connections side by side.
pub(super) const CONNECTIONS: [usize; 3] = [1, 2, 4];
/// Bytes of a write and of a read.
pub(super) const BATCHES: [usize; 3] = [256 << 10, 512 << 10, 1 << 20];

/// Which sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Tcp,
    Unix,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP, loopback",
            Self::Unix => "Unix",
        }
    }
}

/// One combination.
#[derive(Debug, Serialize)]
pub(super) struct Socket {
    pub kind: Kind,
    pub connections: usize,
    pub batch_bytes: usize,
    #[serde(flatten)]
    pub figures: Figures,
}

/// Every combination, round by round.
pub(super) fn measure(plan: &Plan, memory: &Memory) -> Result<Vec<Socket>> {
    let mut cells = Vec::new();
    for kind in [Kind::Tcp, Kind::Unix] {
        for connections in CONNECTIONS {
            cells.extend(BATCHES.map(|batch| (kind, connections, batch)));
        }
    }
    let runs = interleaved(plan.rounds, &cells, |&(kind, connections, batch)| {
        let share = plan.bytes / connections / batch;
        match kind {
            Kind::Tcp => carry(connections, tcp_pair, memory, batch, share),
            Kind::Unix => carry(
                connections,
                || Ok(UnixStream::pair()?),
                memory,
                batch,
                share,
            ),
        }
    })?;
    let sockets = cells
        .iter()
        .zip(&runs)
        .map(|(&(kind, connections, batch), runs)| Socket {
            kind,
            connections,
            batch_bytes: batch,
            figures: Figures::of(plan.bytes / connections / batch * batch * connections, runs),
        });
    Ok(sockets.collect())
}

/// Two ends of a TCP connection over loopback.
pub(super) fn tcp_pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
    }
    Ok((near, far))
}

fn carry<S: Read + Write + Send>(
    connections: usize,
    pair: impl Fn() -> Result<(S, S)>,
    memory: &Memory,
    batch: usize,
    share: usize,
) -> Result<super::meter::Run> {
    let pairs: Vec<(S, S)> = (0..connections).map(|_| pair()).collect::<Result<_>>()?;
    timed(|| {
        thread::scope(|scope| {
            let mut ends = Vec::new();
            for (index, (mut near, mut far)) in pairs.into_iter().enumerate() {
                ends.push(scope.spawn(move || -> Result<()> {
                    for turn in 0..share {
                        near.write_all(memory.batch(index + turn * connections, batch))?;
                    }
                    Ok(())
                }));
                ends.push(scope.spawn(move || -> Result<()> {
                    let mut bytes = vec![0; batch];
                    for _ in 0..share {
                        far.read_exact(&mut bytes)?;
                    }
                    Ok(())
                }));
            }
            join(ends)
        })
    })
}

/// Waits for all; the first error counts.
pub(super) fn join(ends: Vec<thread::ScopedJoinHandle<'_, Result<()>>>) -> Result<()> {
    ends.into_iter()
        .try_for_each(|end| end.join().ok().context("a thread panicked")?)
}
