//! The network between sender and target: it counts, stops at a byte that was chosen before, and can be cut.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use crate::server::PATIENCE;

/// Where a connection goes on.
#[derive(Debug, Clone)]
pub enum Upstream {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// Nobody is there: who comes is turned away.
    Nowhere,
}

/// A listener whose connections go to wherever it is pointed.
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    upstream: Upstream,
    /// Ends of all that are connected.
    ends: Vec<End>,
    /// Grows with every cut; what belongs to an older one is over.
    cuts: u64,
    /// Bytes that went to the target.
    sent_bytes: u64,
    /// Bytes of `mk-data/1`, both ways.
    asked_bytes: u64,
    /// Once so many bytes were sent, somebody is told.
    trip_at_bytes: u64,
    /// And nothing goes on until then.
    holds: bool,
    tripped: bool,
    ended: bool,
    /// A bit of what passes next is turned.
    damages: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            upstream: Upstream::Nowhere,
            ends: Vec::new(),
            cuts: 0,
            sent_bytes: 0,
            asked_bytes: 0,
            trip_at_bytes: u64::MAX,
            holds: false,
            tripped: false,
            ended: false,
            damages: false,
        }
    }
}

/// One end of a connection.
enum End {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl End {
    fn connect(upstream: &Upstream) -> Option<Self> {
        match upstream {
            Upstream::Tcp(address) => TcpStream::connect(address).ok().map(Self::Tcp),
            Upstream::Unix(path) => UnixStream::connect(path).ok().map(Self::Unix),
            Upstream::Nowhere => None,
        }
    }

    fn again(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().unwrap()),
            Self::Unix(stream) => Self::Unix(stream.try_clone().unwrap()),
        }
    }

    fn shut(&self) {
        // It may be over already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let len = match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        };
        len.unwrap_or(0)
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        let done = match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        };
        done.is_ok()
    }
}

impl Link {
    pub fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if theirs.lock().ended {
                    return;
                }
                theirs.join(stream.unwrap());
            }
        });
        Self { address, shared }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where connections go from now on.
    pub fn point(&self, upstream: Upstream) {
        self.shared.lock().upstream = upstream;
    }

    /// Tells when `after_bytes` more have gone to the target; with `holds` nothing goes any further then.
    pub fn arm(&self, after_bytes: u64, holds: bool) {
        let mut state = self.shared.lock();
        state.trip_at_bytes = state.sent_bytes + after_bytes;
        (state.holds, state.tripped) = (holds, false);
    }

    /// Waits for that; false when it does not come.
    pub fn wait(&self) -> bool {
        let state = self.shared.lock();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !state.tripped);
        waited.unwrap().0.tripped
    }

    /// What was held goes on.
    pub fn release(&self) {
        let mut state = self.shared.lock();
        (state.holds, state.trip_at_bytes) = (false, u64::MAX);
        self.shared.changed.notify_all();
    }

    /// Ends all connections at once; new ones are let through.
    pub fn cut(&self) {
        let mut state = self.shared.lock();
        state.cuts += 1;
        (state.holds, state.trip_at_bytes) = (false, u64::MAX);
        state.ends.drain(..).for_each(|end| end.shut());
        self.shared.changed.notify_all();
    }

    /// Turns one bit of what goes to the target next, as a network card does whose checksum fits all the same.
    pub fn damage(&self) {
        self.shared.lock().damages = true;
    }

    /// Bytes of `mk-data/1` so far, both ways.
    pub fn asked_bytes(&self) -> u64 {
        self.shared.lock().asked_bytes
    }

    /// Bytes that went to the target so far.
    pub fn sent_bytes(&self) -> u64 {
        self.shared.lock().sent_bytes
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.cut();
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn join(self: &Arc<Self>, client: TcpStream) {
        let mut state = self.lock();
        let client = End::Tcp(client);
        let Some(server) = End::connect(&state.upstream) else {
            return client.shut();
        };
        let cuts = state.cuts;
        state.ends.extend([client.again(), server.again()]);
        let (up, down) = (
            (client.again(), server.again()),
            (server.again(), client.again()),
        );
        drop(state);
        let asks = Arc::new(AtomicBool::new(false));
        let (ours, theirs, asked) = (Arc::clone(self), Arc::clone(self), Arc::clone(&asks));
        thread::spawn(move || ours.carry_all_up(up, cuts, &asks));
        thread::spawn(move || theirs.carry_all_down(down, &asked));
    }

    fn carry_all_up(&self, (mut from, mut to): (End, End), cuts: u64, asks: &AtomicBool) {
        let mut bytes = vec![0; 65_536];
        let mut is_first = true;
        loop {
            let len = from.read(&mut bytes);
            // The application protocol stands in the first record as it is.
            if is_first && bytes[..len].windows(9).any(|word| word == b"mk-data/1") {
                asks.store(true, Ordering::Relaxed);
            }
            is_first = false;
            let asks = asks.load(Ordering::Relaxed);
            if len > 0 && !asks && std::mem::take(&mut self.lock().damages) {
                bytes[len / 2] ^= 1;
            }
            if len == 0 || !self.carry_up(&mut to, &bytes[..len], cuts, asks) {
                break;
            }
        }
        from.shut();
        to.shut();
    }

    fn carry_all_down(&self, (mut from, mut to): (End, End), asks: &AtomicBool) {
        let mut bytes = vec![0; 65_536];
        loop {
            let len = from.read(&mut bytes);
            if len == 0 || !to.write(&bytes[..len]) {
                break;
            }
            if asks.load(Ordering::Relaxed) {
                self.lock().asked_bytes += len as u64;
            }
        }
        from.shut();
        to.shut();
    }

    /// Carries up to the byte where to stop, waits there, and carries on; false when it is over.
    fn carry_up(&self, to: &mut End, bytes: &[u8], cuts: u64, asks: bool) -> bool {
        let mut state = self.lock();
        let room = state.trip_at_bytes.saturating_sub(state.sent_bytes);
        let (now, later) = bytes.split_at(usize::try_from(room).unwrap().min(bytes.len()));
        state.sent_bytes += bytes.len() as u64;
        if asks {
            state.asked_bytes += bytes.len() as u64;
        }
        let trips = state.sent_bytes >= state.trip_at_bytes;
        drop(state);
        if !to.write(now) {
            return false;
        }
        let mut state = self.lock();
        if trips && !state.tripped {
            state.tripped = true;
            self.changed.notify_all();
        }
        while trips && state.holds && state.cuts == cuts {
            state = self.changed.wait(state).unwrap();
        }
        let is_over = state.cuts != cuts;
        drop(state);
        !is_over && to.write(later)
    }
}
