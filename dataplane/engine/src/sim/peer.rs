//! A client that is no shard: it asks what the dice say and knows what the answers must be.

use super::{
    core::{Dice, Sim},
    model::{Asked, Model},
    wiring::Wired,
};
use std::collections::BTreeMap;
use tls::{Opened, Session};
use wire::{
    ClientConn, ClientEvent, ClientWant, Command, CommandFlags, Cookie, HeaderBuf, Mode, NbdError,
};

/// Longest request: longer than a piece, so that simple replies are streamed.
const LEN_MAX: usize = 600 * 1024;
/// Requests in flight at most.
const DEPTH_MAX: usize = 24;

/// What a server must be able to send in one part.
const WHOLE_BYTES: usize = 65_536;

/// One connection of the scripted client.
pub(super) struct Peer {
    conn: ClientConn,
    session: Option<Session>,
    incoming: usize,
    outgoing: usize,
    /// Received and not opened (TLS), opened and not used.
    sealed: Vec<u8>,
    plain: Vec<u8>,
    out: Vec<u8>,
    asked: BTreeMap<usize, (Cookie, Asked)>,
    /// Requests still to be made.
    left: usize,
    depth: usize,
    said_good_bye: bool,
    /// The server ended the stream.
    pub ended: bool,
    /// It ended while answers were missing.
    pub broken: bool,
    /// Answers that were errors though the request was valid.
    pub failures: usize,
    /// Keeps what `wired.client` held open.
    _socket: std::os::fd::OwnedFd,
}

impl Peer {
    pub(super) fn new(wired: Wired, requests: usize, dice: &mut Dice) -> (Self, crate::ServerSeed) {
        let client = wired.client;
        let peer = Self {
            conn: ClientConn::new(&client.params, DEPTH_MAX),
            session: client.session,
            incoming: wired.up + 1,
            outgoing: wired.up,
            sealed: client.leftover,
            plain: Vec::new(),
            out: Vec::new(),
            asked: BTreeMap::new(),
            left: requests,
            depth: dice.part_of(DEPTH_MAX),
            said_good_bye: false,
            ended: false,
            broken: false,
            failures: 0,
            _socket: client.socket,
        };
        (peer, wired.server)
    }

    /// When it can do something; `None`: it waits for the server's turn.
    pub(super) fn next_ns(&self, sim: &Sim) -> Option<u64> {
        if self.ended {
            return None;
        }
        let room = sim.pipes[self.outgoing].room_ns();
        let room = room.filter(|_| !self.out.is_empty());
        let arrival = sim.pipes[self.incoming].arrival_ns();
        let starts = self.can_ask().then_some(0);
        room.into_iter().chain(arrival).chain(starts).min()
    }

    fn can_ask(&self) -> bool {
        self.left > 0 && self.asked.len() < self.depth && self.out.is_empty()
    }

    /// Receives, understands, asks, sends.
    pub(super) fn step(&mut self, sim: &mut Sim, model: &mut Model) -> Result<(), String> {
        if self.ended {
            return Ok(());
        }
        self.receive(sim);
        self.open(sim)?;
        self.understand(sim, model)?;
        while self.can_ask() && !sim.dice.once_in(4) {
            self.ask(&mut sim.dice, model);
        }
        if self.left == 0 && self.asked.is_empty() && !self.said_good_bye {
            self.say_good_bye(sim);
        }
        self.send(sim);
        if self.ended {
            self.broken = !self.asked.is_empty() || self.left > 0;
            for (_, asked) in self.asked.values() {
                model.forget(asked);
            }
            self.asked.clear();
            sim.pipes[self.incoming].close_reader();
            sim.pipes[self.outgoing].close_writer();
        }
        Ok(())
    }

    fn receive(&mut self, sim: &mut Sim) {
        let mut bytes = [0; 16_384];
        loop {
            match sim.pipes[self.incoming].receive(&mut bytes, sim.now_ns) {
                Ok(None) => return,
                Ok(Some(len)) if len > 0 => match self.session {
                    Some(_) => self.sealed.extend_from_slice(&bytes[..len]),
                    None => self.plain.extend_from_slice(&bytes[..len]),
                },
                Ok(Some(_)) | Err(_) => {
                    self.ended = true;
                    return;
                }
            }
        }
    }

    fn open(&mut self, sim: &Sim) -> Result<(), String> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let wrong = |error| format!("the server's records: {error}");
        while let Some(frame) = Session::frame(&self.sealed).map_err(wrong)? {
            if frame.wire_len > self.sealed.len() {
                break;
            }
            let record: Vec<u8> = self.sealed.drain(..frame.wire_len).collect();
            let mut out = vec![0; frame.inner_len];
            match session.open(sim.now(), &record, &mut out).map_err(wrong)? {
                Opened::Data { len } => self.plain.extend_from_slice(&out[..len]),
                Opened::Control => {}
                Opened::Closed => self.ended = true,
            }
        }
        Ok(())
    }

    fn understand(&mut self, sim: &Sim, model: &mut Model) -> Result<(), String> {
        let mut used = 0;
        while used < self.plain.len() {
            let bytes = &self.plain[used..];
            let event = match self.conn.want() {
                ClientWant::Closed => return Err("bytes after the last answer".into()),
                ClientWant::Header { len } => {
                    let fed = self.conn.handle_header(&bytes[..len.min(bytes.len())]);
                    let (taken, event) = fed.map_err(|error| format!("a reply: {error}"))?;
                    used += taken;
                    event
                }
                ClientWant::Payload {
                    cookie,
                    offset,
                    len,
                } => {
                    let (at, len) = (offset as usize, (len as usize).min(bytes.len()));
                    let entry = self.asked.get_mut(&ClientConn::slot_of(cookie));
                    let (_, asked) = entry.ok_or("payload of nothing")?;
                    asked.bytes[at..at + len].copy_from_slice(&bytes[..len]);
                    used += len;
                    self.conn.handle_payload(u32::try_from(len).unwrap_or(0))
                }
            };
            if let Some(event) = event {
                self.event(&event, sim, model)?;
            }
        }
        self.plain.drain(..used);
        Ok(())
    }

    fn event(&mut self, event: &ClientEvent, sim: &Sim, model: &mut Model) -> Result<(), String> {
        let (cookie, result) = match *event {
            ClientEvent::Completed { cookie, result } => (cookie, result),
            ClientEvent::Extents { cookie, done, .. } if done => (cookie, Ok(())),
            ClientEvent::Extents { .. } => return Ok(()),
            ClientEvent::Hole {
                cookie,
                offset,
                len,
                done,
            } => {
                let entry = self.asked.get_mut(&ClientConn::slot_of(cookie));
                let (_, asked) = entry.ok_or("a hole in nothing")?;
                asked.bytes[offset as usize..][..len as usize].fill(0);
                if !done {
                    return Ok(());
                }
                (cookie, Ok(()))
            }
        };
        let (known, asked) = self
            .asked
            .remove(&ClientConn::slot_of(cookie))
            .ok_or("an answer to nothing")?;
        if known != cookie {
            return Err("an answer with the wrong cookie".into());
        }
        let may_refuse = match result {
            Err(NbdError::NotSup) => asked.flags.contains(CommandFlags::FAST_ZERO),
            Err(NbdError::Overflow) => {
                asked.flags.contains(CommandFlags::DF) && asked.len > WHOLE_BYTES
            }
            _ => false,
        };
        if asked.valid && result.is_err() && !may_refuse {
            self.failures += 1;
        }
        let told = model.answer(&asked, result, &sim.disks[0]);
        told.map_err(|problem| {
            let Asked {
                number,
                command,
                flags,
                offset,
                len,
                ..
            } = asked;
            format!("request {number}, {command} {flags:?} of {len} bytes at {offset}: {problem}")
        })
    }

    /// A request of the dice's choice.
    fn ask(&mut self, dice: &mut Dice, model: &mut Model) {
        let command = self.any_command(dice);
        let (mut offset, mut len) = any_range(model.len(), dice);
        let valid = !dice.once_in(30);
        if command == Command::Flush {
            (offset, len) = (0, 0);
        } else if !valid {
            offset = model.len() - len / 2;
        } else if command != Command::Read && !model.is_calm(offset, len) {
            return;
        }
        let valid = valid || command == Command::Flush;
        let flags = self.any_flags(command, dice);
        let mut bytes = vec![0; if command == Command::Read { len } else { 0 }];
        if command == Command::Write {
            bytes.resize(len, 0);
            dice.fill(&mut bytes);
        }
        let mut header = HeaderBuf::new();
        let started = self
            .conn
            .start(command, flags, offset as u64, len as u64, &mut header);
        let Some(cookie) = started else { return };
        let number = model.ask(command, offset, if valid { len } else { 0 });
        self.left -= 1;
        let payload: &[u8] = match command {
            Command::Write => &bytes,
            _ => &[],
        };
        self.say(header.as_bytes(), payload, dice);
        let asked = Asked {
            number,
            command,
            flags,
            offset,
            len,
            bytes,
            valid,
        };
        self.asked
            .insert(ClientConn::slot_of(cookie), (cookie, asked));
    }

    fn any_command(&self, dice: &mut Dice) -> Command {
        match dice.between(0, 15) {
            0..=4 => Command::Read,
            5..=9 => Command::Write,
            10 | 11 => Command::WriteZeroes,
            12 => Command::Trim,
            13 if self.conn.mode() != Mode::Simple => Command::BlockStatus,
            _ => Command::Flush,
        }
    }

    fn any_flags(&self, command: Command, dice: &mut Dice) -> CommandFlags {
        let mut flags = CommandFlags::NONE;
        let changes = matches!(
            command,
            Command::Write | Command::WriteZeroes | Command::Trim
        );
        if changes && dice.once_in(3) {
            flags = flags.union(CommandFlags::FUA);
        }
        if command == Command::WriteZeroes && dice.once_in(3) {
            let zero = [CommandFlags::NO_HOLE, CommandFlags::FAST_ZERO];
            flags = flags.union(dice.one_of(&zero));
        }
        let can_be_whole = command == Command::Read && self.conn.mode() != Mode::Simple;
        if can_be_whole && dice.once_in(4) {
            flags = flags.union(CommandFlags::DF);
        }
        flags
    }

    /// Puts a message on its way: in records cut anywhere, or plain.
    fn say(&mut self, header: &[u8], payload: &[u8], dice: &mut Dice) {
        let Some(session) = &mut self.session else {
            self.out.extend_from_slice(header);
            self.out.extend_from_slice(payload);
            return;
        };
        // Half of the messages as our own clients frame them, half with the header in the payload's record.
        let message = [header, payload].concat();
        let mut rest = &message[..];
        let mut first = dice.once_in(2).then_some(header.len());
        while !rest.is_empty() {
            let most = rest.len().min(16_384);
            let cut = if dice.once_in(4) {
                dice.part_of(most)
            } else {
                most
            };
            let (record, tail) = rest.split_at(first.take().unwrap_or(cut).min(most));
            let mut out = vec![0; record.len() + 64];
            let len = session.seal(record, &mut out).expect("a record is sealed");
            self.out.extend_from_slice(&out[..len]);
            rest = tail;
        }
    }

    fn say_good_bye(&mut self, sim: &mut Sim) {
        self.said_good_bye = true;
        let mut header = HeaderBuf::new();
        self.conn.encode_disconnect(&mut header);
        self.say(header.as_bytes(), &[], &mut sim.dice);
        if let Some(session) = &mut self.session {
            session.queue_close();
        }
    }

    fn send(&mut self, sim: &mut Sim) {
        if let Some(session) = &mut self.session {
            let mut control = [0; 64];
            while session.control_pending(sim.now()) {
                let wrote = session.poll_control(sim.now(), &mut control);
                match wrote.expect("room for a control record") {
                    0 => break,
                    len => self.out.extend_from_slice(&control[..len]),
                }
            }
        }
        if self.out.is_empty() {
            return;
        }
        let (dice, now) = (&mut sim.dice, sim.now_ns);
        match sim.pipes[self.outgoing].send(&self.out, now, dice) {
            Ok(len) => drop(self.out.drain(..len)),
            Err(_) => self.ended = true,
        }
        sim.share_fate(self.outgoing, self.incoming);
    }
}

/// Small and odd, middling and aligned, or long.
fn any_range(size: usize, dice: &mut Dice) -> (usize, usize) {
    let (unit, units) = match dice.between(0, 19) {
        0..=8 => (1, 9_000),
        9..=12 => (512, 40),
        13..=18 => (4096, 32),
        _ => (1, LEN_MAX),
    };
    let len = (dice.part_of(units) * unit).min(size);
    let places = (size - len) / unit + 1;
    ((dice.part_of(places) - 1) * unit, len)
}
