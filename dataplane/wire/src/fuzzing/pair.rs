//! Our client against our server over byte streams that are cut anywhere, checked by a naive disk.

use arbitrary::{Result as Drawn, Unstructured};

use super::dice::Dice;
use super::disk::{Disk, Wish};
use super::rounds::shake_hands;
use super::{export_info, mode_of};
use crate::{
    BlockSizes, ClientConn, ClientEvent, ClientGoal, ClientHandshakeConfig, ClientParams,
    ClientWant, Command, CommandFlags, Cookie, ExportInfo, Extent, HeaderBuf, Incoming, Mode,
    NbdError, Request, ServerConn, ServerHandshakeConfig, ServerParams, ServerWant, TlsPolicy,
};

/// Capacity of the client's table; small, so that it fills up and slots are reused.
const IN_FLIGHT: usize = 5;
const OPERATIONS_MAX: usize = 48;

/// What to do: a mode, a size, requests, and a seed for cuts, orders and injected faults.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) mode: Mode,
    pub(super) size_bytes: usize,
    pub(super) seed: u64,
    pub(super) wishes: Vec<Wish>,
}

/// Target `pair`: a script drawn from any bytes.
pub fn pair(data: &[u8]) {
    // A script that ends early is still one.
    if let Ok(script) = draw_script(&mut Unstructured::new(data)) {
        run(&script);
    }
}

fn draw_script(bytes: &mut Unstructured<'_>) -> Drawn<Script> {
    let mode = mode_of(bytes.arbitrary()?);
    let size_bytes = bytes.int_in_range(1..=40_000)?;
    let seed = bytes.arbitrary()?;
    let mut wishes = Vec::new();
    while !bytes.is_empty() && wishes.len() < OPERATIONS_MAX {
        wishes.push(draw_wish(bytes, size_bytes as u64)?);
    }
    Ok(Script {
        mode,
        size_bytes,
        seed,
        wishes,
    })
}

fn draw_wish(bytes: &mut Unstructured<'_>, size_bytes: u64) -> Drawn<Wish> {
    let command = Command::from_code(bytes.int_in_range(0..=7)?);
    let flags = if bytes.ratio(1_u8, 4_u8)? {
        bytes.arbitrary()?
    } else {
        0_u16
    };
    let (offset, len) = if bytes.ratio(1_u8, 6_u8)? {
        (bytes.arbitrary()?, bytes.arbitrary()?)
    } else {
        let offset = bytes.int_in_range(0..=size_bytes)?;
        (offset, bytes.int_in_range(0..=size_bytes - offset)?)
    };
    Ok(Wish {
        command,
        flags: CommandFlags(flags),
        offset,
        len,
        fill: bytes.arbitrary()?,
    })
}

/// Runs a script to its end.
pub(super) fn run(script: &Script) {
    let mut dice = Dice::new(script.seed);
    let (server, client) = negotiate(script, &mut dice);
    let disk = Disk::new(script.size_bytes, script.mode, &mut dice);
    let mut near = Near::new(ClientConn::new(&client, IN_FLIGHT), disk.clone());
    let mut far = Far::new(ServerConn::new(&server), disk);
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut wishes = script.wishes.iter();
    let mut next = wishes.next();
    while next.is_some() || near.conn.in_flight() > 0 {
        if let Some(wish) = next
            && dice.below(2) == 0
            && near.start(wish, &mut to_server)
        {
            next = wishes.next();
        }
        let count = dice.below(200).min(to_server.len());
        far.receive(&to_server.drain(..count).collect::<Vec<u8>>());
        if dice.below(2) == 0 {
            far.answer_one(&mut dice, &mut to_client, &mut near.injected);
        }
        let count = dice.below(200).min(to_client.len());
        near.receive(&to_client.drain(..count).collect::<Vec<u8>>());
    }
    assert_eq!(near.model.bytes, far.disk.bytes, "both sides did the same");
    let mut header = HeaderBuf::new();
    near.conn.encode_disconnect(&mut header);
    far.receive(&to_server);
    far.receive(header.as_bytes());
    assert!(far.is_disconnected && far.conn.want() == ServerWant::Closed);
    assert!(to_client.is_empty() && near.conn.want() == ClientWant::Closed);
}

fn negotiate(script: &Script, dice: &mut Dice) -> (ServerParams, ClientParams) {
    let is_forced = dice.below(2) == 0;
    let server = ServerHandshakeConfig {
        tls: if is_forced {
            TlsPolicy::Forced
        } else {
            TlsPolicy::NotOffered
        },
        list: false,
        extended_headers: script.mode == Mode::Extended,
    };
    let client = ClientHandshakeConfig {
        export_name: "disk".to_owned(),
        goal: ClientGoal::Go,
        starttls: is_forced,
        // Asked for in structured mode too, so that the refusal is exercised.
        extended_headers: script.mode != Mode::Simple,
        structured_replies: script.mode != Mode::Simple,
        contexts: vec!["base:allocation".to_owned()],
    };
    let block = BlockSizes {
        min: 1,
        preferred: 512,
        payload_max: u32::MAX,
    };
    let info = ExportInfo {
        size_bytes: script.size_bytes as u64,
        block,
        ..export_info()
    };
    let round = shake_hands(server, client, &info, dice);
    let (server, client) = (round.server.expect("opened"), round.client.expect("opened"));
    assert_eq!((server.mode, client.mode), (script.mode, script.mode));
    assert_eq!(server.info, client.info);
    (server, client)
}

/// A request in flight, and what the model says about it.
#[derive(Debug)]
struct Expected {
    cookie: Cookie,
    wish: Wish,
    outcome: Result<(), NbdError>,
    content: Vec<u8>,
    extents: Vec<Extent>,
    /// What has been received of a READ; other than zeroes and data before.
    received: Vec<u8>,
    has_extents: bool,
}

/// The client's side with its model.
struct Near {
    conn: ClientConn,
    model: Disk,
    in_flight: Vec<Option<Expected>>,
    /// Faults that the server threw in.
    injected: Vec<Cookie>,
}

impl Near {
    fn new(conn: ClientConn, model: Disk) -> Self {
        let in_flight = std::iter::repeat_with(|| None).take(IN_FLIGHT).collect();
        Self {
            conn,
            model,
            in_flight,
            injected: Vec::new(),
        }
    }

    /// `false` when the table is full.
    fn start(&mut self, wish: &Wish, to_server: &mut Vec<u8>) -> bool {
        let mut wish = *wish;
        let is_status = wish.command == Command::BlockStatus;
        let cannot = wish.command == Command::Disconnect || self.conn.mode() == Mode::Simple;
        if wish.command == Command::Disconnect || (is_status && cannot) {
            wish.command = Command::Cache;
        }
        wish.flags = wish.flags.without(CommandFlags::PAYLOAD_LEN);
        wish.len = wish.len.min(self.conn.len_max(wish.command));
        if wish.command == Command::Write {
            wish.len = wish.len.min(1 << 16);
        }
        let mut header = HeaderBuf::new();
        let started = self
            .conn
            .start(wish.command, wish.flags, wish.offset, wish.len, &mut header);
        let Some(cookie) = started else {
            assert_eq!(self.conn.in_flight(), IN_FLIGHT);
            return false;
        };
        to_server.extend_from_slice(header.as_bytes());
        let payload = if wish.command == Command::Write {
            wish.payload()
        } else {
            Vec::new()
        };
        to_server.extend_from_slice(&payload);
        let outcome = self.model.expected(&wish);
        let (mut content, mut extents) = (Vec::new(), Vec::new());
        if outcome.is_ok() {
            content = self.model.apply(&wish, &payload);
            extents = self.model.extents(wish.offset);
        }
        let received = vec![0x5a; content.len()];
        let slot = &mut self.in_flight[ClientConn::slot_of(cookie)];
        assert!(slot.is_none(), "a slot in use was given out");
        let has_extents = false;
        *slot = Some(Expected {
            cookie,
            wish,
            outcome,
            content,
            extents,
            received,
            has_extents,
        });
        true
    }

    fn expected(&mut self, cookie: Cookie) -> &mut Expected {
        let slot = self.in_flight[ClientConn::slot_of(cookie)].as_mut();
        let expected = slot.expect("events are about requests in flight");
        assert_eq!(expected.cookie, cookie);
        expected
    }

    fn receive(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            let (used, event) = match self.conn.want() {
                ClientWant::Header { .. } => self
                    .conn
                    .handle_header(input)
                    .expect("our server speaks well"),
                ClientWant::Payload {
                    cookie,
                    offset,
                    len,
                } => {
                    let taken = input.len().min(len as usize);
                    let start = offset as usize;
                    let room = &mut self.expected(cookie).received[start..start + taken];
                    room.copy_from_slice(&input[..taken]);
                    (
                        taken,
                        self.conn
                            .handle_payload(u32::try_from(taken).expect("at most len")),
                    )
                }
                ClientWant::Closed => panic!("closed before the script ended"),
            };
            input = &input[used..];
            if let Some(event) = event {
                self.handle_event(event);
            }
        }
    }

    fn handle_event(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Hole {
                cookie,
                offset,
                len,
                done,
            } => {
                let start = offset as usize;
                self.expected(cookie).received[start..start + len as usize].fill(0);
                if done {
                    self.complete(cookie, Ok(()));
                }
            }
            ClientEvent::Extents {
                cookie,
                context,
                extents,
                done,
            } => {
                assert_eq!(context, 1);
                let expected = self.expected(cookie);
                check_extents(&expected.wish, &extents, &expected.extents);
                expected.has_extents = true;
                if done {
                    self.complete(cookie, Ok(()));
                }
            }
            ClientEvent::Completed { cookie, result } => self.complete(cookie, result),
        }
    }

    fn complete(&mut self, cookie: Cookie, result: Result<(), NbdError>) {
        let slot = self.in_flight[ClientConn::slot_of(cookie)].take();
        let expected = slot.expect("completed once");
        let is_injected = self.injected.contains(&cookie);
        let outcome = if is_injected {
            Err(NbdError::Io)
        } else {
            expected.outcome
        };
        assert_eq!(result, outcome, "{:?}", expected.wish);
        if result.is_ok() {
            assert_eq!(expected.received, expected.content, "{:?}", expected.wish);
            assert_eq!(
                expected.has_extents,
                expected.wish.command == Command::BlockStatus
            );
        }
    }
}

/// Extents must agree with the model byte by byte, and cover the request.
fn check_extents(wish: &Wish, found: &[Extent], model: &[Extent]) {
    let is_one = wish.flags.contains(CommandFlags::REQ_ONE);
    let sum: u64 = found.iter().map(|extent| extent.len).sum();
    assert!(if is_one {
        found.len() == 1 && sum <= wish.len
    } else {
        sum >= wish.len
    });
    let spread = |extents: &[Extent]| -> Vec<u64> {
        let runs = extents.iter().map(|extent| {
            vec![extent.flags; usize::try_from(extent.len).expect("inside of the disk")]
        });
        runs.flatten().collect()
    };
    let (found, model) = (spread(found), spread(model));
    assert_eq!(found, model[..found.len()]);
}

/// A reply that the server owes.
#[derive(Debug)]
struct Owed {
    request: Request,
    outcome: Result<(), NbdError>,
    /// What a READ reads, and the pieces (relative) that have not been sent.
    content: Vec<u8>,
    pieces: Vec<(usize, usize)>,
    extents: Vec<Extent>,
}

/// The server's side with its disk.
struct Far {
    conn: ServerConn,
    disk: Disk,
    /// A WRITE whose payload is coming.
    writing: Option<(Request, Vec<u8>)>,
    owed: Vec<Owed>,
    is_disconnected: bool,
}

impl Far {
    fn new(conn: ServerConn, disk: Disk) -> Self {
        Self {
            conn,
            disk,
            writing: None,
            owed: Vec::new(),
            is_disconnected: false,
        }
    }

    fn receive(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            let used = match self.conn.want() {
                ServerWant::Header { .. } => {
                    let taken = self
                        .conn
                        .handle_header(input)
                        .expect("our client speaks well");
                    if let (_, Some(incoming)) = taken {
                        self.handle_incoming(incoming);
                    }
                    taken.0
                }
                ServerWant::Payload { len, discard } => {
                    let taken = input.len().min(len as usize);
                    if let (Some((_, payload)), false) = (&mut self.writing, discard) {
                        payload.extend_from_slice(&input[..taken]);
                    }
                    self.conn
                        .handle_payload(u32::try_from(taken).expect("at most len"));
                    taken
                }
                ServerWant::Closed => panic!("closed before the script ended"),
            };
            input = &input[used..];
            if matches!(self.conn.want(), ServerWant::Header { .. })
                && let Some((request, payload)) = self.writing.take()
            {
                self.carry_out(request, &payload);
            }
        }
    }

    fn handle_incoming(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Disconnect => self.is_disconnected = true,
            Incoming::Invalid { request, error } => self.owe(request, Err(error), Vec::new()),
            Incoming::Request(request) if request.command == Command::Write => {
                self.writing = Some((request, Vec::new()));
            }
            Incoming::Request(request) => self.carry_out(request, &[]),
        }
    }

    fn carry_out(&mut self, request: Request, payload: &[u8]) {
        let Request {
            command,
            flags,
            offset,
            len,
            ..
        } = request;
        let content = self.disk.apply(
            &Wish {
                command,
                flags,
                offset,
                len,
                fill: 0,
            },
            payload,
        );
        self.owe(request, Ok(()), content);
    }

    fn owe(&mut self, request: Request, outcome: Result<(), NbdError>, content: Vec<u8>) {
        let is_status = request.command == Command::BlockStatus && outcome.is_ok();
        let extents = if is_status {
            self.disk.extents(request.offset)
        } else {
            Vec::new()
        };
        let pieces = vec![(0, content.len())];
        self.owed.push(Owed {
            request,
            outcome,
            content,
            pieces,
            extents,
        });
    }

    /// Sends one reply, or one chunk of one.
    fn answer_one(&mut self, dice: &mut Dice, out: &mut Vec<u8>, injected: &mut Vec<Cookie>) {
        if self.owed.is_empty() {
            return;
        }
        let index = dice.below(self.owed.len());
        let conn = &self.conn;
        let owed = &mut self.owed[index];
        let request = owed.request;
        let mut header = HeaderBuf::new();
        if owed.outcome.is_ok() && dice.below(16) == 0 {
            owed.outcome = Err(NbdError::Io);
            injected.push(request.cookie);
        }
        match (owed.outcome, request.command) {
            (Err(error), _) => conn.encode_error(&request, error, &mut header),
            (Ok(()), Command::Read) => {
                if !send_piece(conn, owed, dice, out) {
                    return;
                }
            }
            (Ok(()), Command::BlockStatus) => {
                let mut reply = vec![0; 40 + 16 * owed.extents.len()];
                let status = conn.encode_block_status(&request, &owed.extents, &mut reply);
                out.extend_from_slice(&reply[..status.expect("it fits").len_bytes]);
            }
            _ => conn.encode_done(&request, &mut header),
        }
        out.extend_from_slice(header.as_bytes());
        self.owed.swap_remove(index);
    }
}

/// Sends one piece of a READ, splitting it first where that is allowed; `true` when it was the last.
fn send_piece(conn: &ServerConn, owed: &mut Owed, dice: &mut Dice, out: &mut Vec<u8>) -> bool {
    let request = &owed.request;
    let mut header = HeaderBuf::new();
    if owed.pieces.is_empty() {
        conn.encode_done(request, &mut header);
        out.extend_from_slice(header.as_bytes());
        return true;
    }
    let can_split = conn.mode() != Mode::Simple && !request.flags.contains(CommandFlags::DF);
    let index = dice.below(owed.pieces.len());
    let (mut start, end) = owed.pieces.swap_remove(index);
    if can_split && end - start > 1 && dice.below(2) == 0 {
        let cut = start + 1 + dice.below(end - start - 1);
        owed.pieces.push((start, cut));
        start = cut;
    }
    let content = &owed.content[start..end];
    let done = owed.pieces.is_empty() && (conn.mode() == Mode::Simple || dice.below(2) == 0);
    let offset = request.offset + start as u64;
    let len = u32::try_from(content.len()).expect("payload is bounded");
    if conn.mode() != Mode::Simple && can_split && content.iter().all(|byte| *byte == 0) {
        conn.encode_hole(request, offset, len, done, &mut header);
        out.extend_from_slice(header.as_bytes());
    } else {
        conn.encode_data(request, offset, len, done, &mut header);
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
    }
    done
}
