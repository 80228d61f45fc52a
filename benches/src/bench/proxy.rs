//! A TCP proxy that makes a line longer: what arrives leaves half a round trip later, in each direction.
//!
//! It has no rate of its own and no loss. So it measures what the two ends allow to be in flight, and nothing of TCP:
//! both of its connections are short. It runs as a process of its own, so that its CPU time is nobody else's.

use anyhow::{Context, Result};
use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Bytes that one direction of a connection may hold: 25 ms of 1.2 GiB/s. What comes then waits in the socket.
const HELD_BYTES_MAX: usize = 32 << 20;
/// Bytes of one read.
const CHUNK_BYTES: usize = 256 << 10;
/// Buffers kept for reuse.
const SPARE_MAX: usize = HELD_BYTES_MAX / CHUNK_BYTES;

/// Where to, and how long the way is.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the connections go on
    #[arg(long)]
    to: SocketAddr,
    /// Milliseconds that both directions take together
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    round_trip_ms: u64,
}

/// Listens on a port of its own, says which, and serves until it is killed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("listening on {}", listener.local_addr()?);
    serve(
        &listener,
        args.to,
        Duration::from_millis(args.round_trip_ms) / 2,
    )
}

fn serve(listener: &TcpListener, to: SocketAddr, delay: Duration) -> Result<()> {
    loop {
        let (near, _) = listener.accept().context("accept")?;
        // A server that refuses closes the connection of the client, as it would without us.
        let Ok(far) = TcpStream::connect(to) else {
            continue;
        };
        for stream in [&near, &far] {
            stream.set_nodelay(true)?;
        }
        direction(near.try_clone()?, far.try_clone()?, delay);
        direction(far, near, delay);
    }
}

/// What is on its way in one direction.
#[derive(Default)]
struct Held {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    /// Nothing comes any more.
    ended: bool,
    /// Nobody takes it any more.
    broken: bool,
}

#[derive(Default)]
struct Line {
    held: Mutex<Held>,
    changed: Condvar,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, held: MutexGuard<'a, Held>) -> MutexGuard<'a, Held> {
        let woken = self.changed.wait(held);
        woken.unwrap_or_else(PoisonError::into_inner)
    }
}

fn direction(from: TcpStream, to: TcpStream, delay: Duration) {
    let line = Arc::new(Line::default());
    let reader = Arc::clone(&line);
    thread::spawn(move || {
        take_in(&reader, from, delay);
        reader.lock().ended = true;
        reader.changed.notify_all();
    });
    thread::spawn(move || {
        if give_out(&line, &to).is_err() {
            line.lock().broken = true;
            line.changed.notify_all();
        }
        let _already_closed = to.shutdown(Shutdown::Write);
    });
}

/// Until the sender ends, or the receiver is gone.
fn take_in(line: &Line, mut from: TcpStream, delay: Duration) {
    loop {
        let mut held = line.lock();
        while held.bytes >= HELD_BYTES_MAX && !held.broken {
            held = line.wait(held);
        }
        if held.broken {
            // So that the sender learns of it.
            let _already_closed = from.shutdown(Shutdown::Read);
            return;
        }
        let spare = held.spare.pop();
        drop(held);
        let mut chunk = spare.unwrap_or_default();
        chunk.resize(CHUNK_BYTES, 0);
        let Ok(len @ 1..) = from.read(&mut chunk) else {
            return;
        };
        chunk.truncate(len);
        let mut held = line.lock();
        held.bytes += len;
        held.chunks.push_back((Instant::now() + delay, chunk));
        line.changed.notify_all();
    }
}

fn give_out(line: &Line, mut to: &TcpStream) -> std::io::Result<()> {
    loop {
        let mut held = line.lock();
        let (due, chunk) = loop {
            match held.chunks.pop_front() {
                Some(next) => break next,
                None if held.ended => return Ok(()),
                None => held = line.wait(held),
            }
        };
        drop(held);
        // The way takes its time; nothing can end that wait early.
        thread::sleep(due.saturating_duration_since(Instant::now()));
        to.write_all(&chunk)?;
        let mut held = line.lock();
        held.bytes -= chunk.len();
        if held.spare.len() < SPARE_MAX {
            held.spare.push(chunk);
        }
        line.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_unchanged_and_late_in_both_directions() {
        let end = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = end.local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let delay = Duration::from_millis(20);
        thread::spawn(move || serve(&listener, to, delay));
        let echo = thread::spawn(move || {
            let (mut stream, _) = end.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let sent: Vec<u8> = (0..1_000_003_u32).flat_map(u32::to_le_bytes).collect();
        let began = Instant::now();
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        echo.join().unwrap();
        assert!(got == sent);
        assert!(began.elapsed() >= 2 * delay);
    }
}
