//! Flushes and synchronous writes that overlap: the kernel tells the first of them of a loss, and only that one.
//!
//! Two shards serve one client each. What the kernel tells the first shard is withheld, so that the second one, which is
//! told that all is well, hears it first. No dice decide here who is told what.

use super::{
    case::{Case, Fault},
    core::Sim,
    disk::Role,
    side::PLENTY,
    wiring::{Agreed, add_disk, connect, export_of},
    world::World,
};
use crate::{Export, command::Command as ShardCommand};
use std::{os::fd::OwnedFd, sync::Arc, thread};
use wire::{ClientConn, ClientEvent, ClientWant, Command, CommandFlags, HeaderBuf, Mode, NbdError};

const DISK_BYTES: usize = 1 << 20;
const DEPTH: usize = 16;
const BLOCK_BYTES: usize = 4096;
/// Longer than anything takes that nobody withholds.
const LONG_NS: u64 = 40_000_000;
const SIDES: [&str; 2] = ["server", "server2"];

type Answer = Result<(), NbdError>;

const DURABLE: Answer = Ok(());
const LOST: Answer = Err(NbdError::Io);

/// A client that keeps its answers in the order in which they came.
struct Asker {
    conn: ClientConn,
    up: usize,
    received: Vec<u8>,
    answers: Vec<Answer>,
    is_gone: bool,
    _socket: OwnedFd,
}

impl Asker {
    fn ask(&mut self, sim: &mut Sim, (command, flags): (Command, CommandFlags), block: u64) {
        let (offset, len) = match command {
            Command::Flush => (0, 0),
            _ => (block * BLOCK_BYTES as u64, BLOCK_BYTES as u64),
        };
        let mut header = HeaderBuf::new();
        let started = self.conn.start(command, flags, offset, len, &mut header);
        assert!(started.is_some(), "there is room for a question");
        let mut bytes = header.as_bytes().to_vec();
        if command == Command::Write {
            bytes.resize(bytes.len() + BLOCK_BYTES, 0x5a);
        }
        while !bytes.is_empty() {
            let sent = sim.pipes[self.up].send(&bytes, sim.now_ns, &mut sim.dice);
            let sent = sent.expect("the wire holds");
            assert!(sent > 0, "the wire has room");
            bytes.drain(..sent);
        }
    }

    fn listen(&mut self, sim: &mut Sim) {
        let mut bytes = [0; 4096];
        while let Ok(Some(len)) = sim.pipes[self.up + 1].receive(&mut bytes, sim.now_ns) {
            if len == 0 {
                self.is_gone = true;
                break;
            }
            self.received.extend_from_slice(&bytes[..len]);
        }
        while let ClientWant::Header { len } = self.conn.want() {
            if self.received.is_empty() {
                return;
            }
            let len = len.min(self.received.len());
            let fed = self.conn.handle_header(&self.received[..len]);
            let (used, event) = fed.expect("a reply");
            self.received.drain(..used);
            if let Some(ClientEvent::Completed { result, .. }) = event {
                self.answers.push(result);
            }
        }
    }
}

struct Overlap {
    world: World,
    export: Arc<Export>,
    askers: Vec<Asker>,
}

/// The one whose completions are withheld, and the one who is told first.
const SLOW: usize = 0;
const QUICK: usize = 1;

const FLUSH: (Command, CommandFlags) = (Command::Flush, CommandFlags::NONE);
const WRITE: (Command, CommandFlags) = (Command::Write, CommandFlags::NONE);
const FUA_WRITE: (Command, CommandFlags) = (Command::Write, CommandFlags::FUA);
const FUA_ZEROES: (Command, CommandFlags) = (Command::WriteZeroes, CommandFlags::FUA);

impl Overlap {
    /// A shard each, of one export or of two of one device.
    fn new(seed: u64, exports: usize) -> Self {
        let world = World::new(Case::new(seed, Fault::None), &SIDES, PLENTY);
        let disk = add_disk(
            &mut world.sim.borrow_mut(),
            Role::Target,
            1,
            vec![0; DISK_BYTES],
        );
        let exports: Vec<_> = (0..exports).map(|_| export_of(Arc::clone(&disk))).collect();
        let mut overlap = Self {
            world,
            export: Arc::clone(&exports[0]),
            askers: Vec::new(),
        };
        for side in [SLOW, QUICK] {
            overlap.connect(side, &exports[side % exports.len()]);
        }
        overlap
    }

    fn connect(&mut self, side: usize, export: &Arc<Export>) {
        let agreed = Agreed {
            mode: Mode::Simple,
            tls: None,
        };
        let wired = connect(&mut self.world.sim.borrow_mut(), export, agreed);
        self.askers.push(Asker {
            conn: ClientConn::new(&wired.client.params, DEPTH),
            up: wired.up,
            received: Vec::new(),
            answers: Vec::new(),
            is_gone: false,
            _socket: wired.client.socket,
        });
        self.tell(side, ShardCommand::Serve(Box::new(wired.server)));
    }

    fn tell(&self, side: usize, command: ShardCommand) {
        self.world.side(side).expect("it runs").tell(command);
    }

    fn ask(&mut self, who: usize, what: (Command, CommandFlags), block: u64) {
        self.askers[who].ask(&mut self.world.sim.borrow_mut(), what, block);
    }

    /// A block is written and answered, and stands in the cache of the disk.
    fn write(&mut self, who: usize, block: u64) {
        let answered = self.askers[who].answers.len();
        self.ask(who, WRITE, block);
        self.run(LONG_NS);
        assert_eq!(self.askers[who].answers[answered..], [DURABLE]);
        self.askers[who].answers.clear();
    }

    /// What the cache holds is lost; the next sync is told.
    fn lose(&self) {
        let disk = &mut self.world.sim.borrow_mut().disks[0];
        disk.lose();
        assert!(disk.untold_loss, "there was something to lose");
    }

    fn withhold(&self) {
        self.world.sim.borrow_mut().withheld_from = Some(SIDES[SLOW]);
    }

    fn deliver(&mut self) {
        self.world.sim.borrow_mut().withheld_from = None;
        self.run(LONG_NS);
    }

    fn run(&mut self, for_ns: u64) {
        let end = self.world.now_ns() + for_ns;
        while self.world.now_ns() < end {
            for asker in &mut self.askers {
                asker.listen(&mut self.world.sim.borrow_mut());
            }
            if !self.world.turn_one() {
                let arrivals = {
                    let sim = self.world.sim.borrow();
                    let of = |asker: &Asker| sim.pipes[asker.up + 1].arrival_ns();
                    let listening = self.askers.iter().filter(|asker| !asker.is_gone);
                    listening.filter_map(of).min()
                };
                let next = arrivals.into_iter().chain(self.world.next_ns()).min();
                let soon = next.map_or(end, |next| next.max(self.world.now_ns() + 1));
                self.world.sleep_until(soon.min(end));
            }
        }
    }

    fn answers(&self, who: usize) -> &[Answer] {
        &self.askers[who].answers
    }

    /// Both clients go; nothing may be left of them.
    fn end(mut self) {
        for who in [SLOW, QUICK] {
            self.hang_up(who);
        }
        // Longer than a shard waits before it looks after its connections.
        self.run(1_000_000_000);
        self.nothing_is_left();
    }

    fn hang_up(&mut self, who: usize) {
        let sim = &mut *self.world.sim.borrow_mut();
        let up = self.askers[who].up;
        self.askers[who].is_gone = true;
        sim.pipes[up + 1].close_reader();
        sim.pipes[up].close_writer();
    }

    /// The connection is lost, and its answers with it.
    fn cut(&mut self, who: usize) {
        let sim = &mut *self.world.sim.borrow_mut();
        let up = self.askers[who].up;
        self.askers[who].is_gone = true;
        sim.pipes[up].break_off();
        sim.pipes[up + 1].break_off();
    }

    fn nothing_is_left(&self) {
        assert_eq!(self.export.connections(), 0);
        assert_eq!(self.world.leases_missing() + self.world.held(), 0);
    }
}

/// The slow one's sync is told of a loss, or of none; meanwhile the quick one asks, and the kernel says yes.
fn check(seed: u64, exports: usize, slow: (Command, CommandFlags), quick: (Command, CommandFlags)) {
    for (is_lost, answer) in [(true, LOST), (false, DURABLE)] {
        let mut overlap = Overlap::new(seed, exports);
        overlap.write(QUICK, 3);
        if is_lost {
            overlap.lose();
        }
        overlap.withhold();
        overlap.ask(SLOW, slow, 5);
        overlap.run(LONG_NS);
        assert!(
            !overlap.world.sim.borrow().disks[0].untold_loss,
            "it is told"
        );
        overlap.ask(QUICK, quick, 7);
        overlap.run(LONG_NS);
        let told = (overlap.answers(SLOW), overlap.answers(QUICK));
        assert_eq!(told, (&[][..], &[][..]), "seed {seed}: nobody knows yet");
        overlap.deliver();
        assert_eq!(overlap.answers(SLOW), [answer], "seed {seed}");
        assert_eq!(overlap.answers(QUICK), [answer], "seed {seed}");
        assert_eq!(overlap.export.has_failed(), is_lost);
        overlap.end();
    }
}

const SEEDS: u64 = 8;

#[test]
fn a_flush_is_answered_only_when_the_flushes_it_overlapped_are() {
    (0..SEEDS).for_each(|seed| check(seed, 1, FLUSH, FLUSH));
}

#[test]
fn a_flush_is_answered_only_when_the_fua_writes_it_overlapped_are() {
    (0..SEEDS).for_each(|seed| check(seed, 1, FUA_WRITE, FLUSH));
}

#[test]
fn a_fua_write_is_answered_only_when_the_flushes_it_overlapped_are() {
    (0..SEEDS).for_each(|seed| check(seed, 1, FLUSH, FUA_WRITE));
    (0..SEEDS).for_each(|seed| check(seed, 1, FUA_WRITE, FUA_WRITE));
}

#[test]
fn zeroes_with_fua_are_answered_only_when_the_flushes_they_overlapped_are() {
    (0..SEEDS).for_each(|seed| check(seed, 1, FLUSH, FUA_ZEROES));
    (0..SEEDS).for_each(|seed| check(seed, 1, FUA_ZEROES, FLUSH));
}

#[test]
fn a_flush_waits_for_those_of_another_export_of_its_device() {
    (0..SEEDS).for_each(|seed| check(seed, 2, FLUSH, FLUSH));
}

#[test]
fn a_flush_off_the_shards_waits_for_the_one_it_overlapped() {
    for (is_lost, answer) in [(true, LOST), (false, DURABLE)] {
        let mut overlap = Overlap::new(1, 1);
        overlap.write(QUICK, 3);
        if is_lost {
            overlap.lose();
        }
        overlap.withhold();
        overlap.ask(SLOW, FLUSH, 0);
        overlap.run(LONG_NS);
        let export = Arc::clone(&overlap.export);
        let thread = thread::spawn(move || export.flush_blocking().is_ok());
        while overlap.export.watch.syncs.waiting() == 0 {
            assert!(!thread.is_finished(), "it did not wait");
            thread::yield_now();
        }
        overlap.deliver();
        assert_eq!(overlap.answers(SLOW), [answer]);
        assert_eq!(thread.join().expect("it returns"), !is_lost);
        overlap.end();
    }
}

/// Two streams of FUA writes on two shards, so that there is never a moment without one.
#[test]
fn a_stream_of_fua_writes_holds_no_flush_up() {
    for seed in 0..SEEDS {
        let mut overlap = Overlap::new(seed, 1);
        overlap.connect(QUICK, &Arc::clone(&overlap.export));
        let writers = [SLOW, 2];
        overlap.ask(QUICK, FLUSH, 0);
        let end = overlap.world.now_ns() + LONG_NS;
        let mut asked = [0; 2];
        while overlap.answers(QUICK).is_empty() {
            assert!(overlap.world.now_ns() < end, "seed {seed}: it starves");
            for (writer, asked) in writers.into_iter().zip(&mut asked) {
                while *asked < overlap.answers(writer).len() + DEPTH / 2 {
                    *asked += 1;
                    overlap.ask(writer, FUA_WRITE, *asked as u64 % 200);
                }
            }
            overlap.run(20_000);
        }
        assert_eq!(overlap.answers(QUICK), [DURABLE]);
        overlap.run(LONG_NS);
        let written = |writer: usize| overlap.answers(writer).len();
        assert_eq!(writers.map(written), asked, "all are answered in the end");
        overlap.hang_up(2);
        overlap.end();
    }
}

#[test]
fn a_connection_that_is_lost_while_its_answer_waits_leaves_nothing_behind() {
    let mut overlap = Overlap::new(1, 1);
    overlap.write(QUICK, 3);
    overlap.withhold();
    overlap.ask(SLOW, FLUSH, 0);
    overlap.run(LONG_NS);
    overlap.ask(QUICK, FLUSH, 0);
    overlap.ask(QUICK, FUA_WRITE, 9);
    overlap.run(LONG_NS);
    assert_eq!(overlap.export.connections(), 2);
    overlap.cut(QUICK);
    overlap.run(LONG_NS);
    assert_eq!(overlap.export.connections(), 1, "its place is free");
    // The one whose flush the kernel still has stays until it is back.
    overlap.cut(SLOW);
    overlap.run(LONG_NS);
    assert_eq!(overlap.export.connections(), 1);
    overlap.deliver();
    overlap.nothing_is_left();
}

#[test]
fn a_drain_waits_for_the_answers_and_ends() {
    let mut overlap = Overlap::new(1, 1);
    overlap.write(QUICK, 3);
    overlap.withhold();
    overlap.ask(SLOW, FLUSH, 0);
    overlap.run(LONG_NS);
    overlap.ask(QUICK, FLUSH, 0);
    overlap.run(LONG_NS);
    let close = |overlap: &Overlap, drain| {
        let export_id = overlap.export.id();
        for side in [SLOW, QUICK] {
            overlap.tell(side, ShardCommand::CloseExport { export_id, drain });
        }
    };
    close(&overlap, true);
    overlap.run(LONG_NS);
    overlap.deliver();
    assert_eq!(overlap.answers(SLOW), [DURABLE]);
    assert_eq!(overlap.answers(QUICK), [DURABLE]);
    close(&overlap, false);
    overlap.run(LONG_NS);
    overlap.nothing_is_left();
}

#[test]
fn a_connection_that_is_closed_while_its_answer_waits_ends_at_once() {
    let mut overlap = Overlap::new(1, 1);
    overlap.withhold();
    overlap.ask(SLOW, FLUSH, 0);
    overlap.run(LONG_NS);
    overlap.ask(QUICK, FLUSH, 0);
    overlap.run(LONG_NS);
    let export_id = overlap.export.id();
    let drain = false;
    overlap.tell(QUICK, ShardCommand::CloseExport { export_id, drain });
    overlap.run(LONG_NS);
    assert_eq!(overlap.export.connections(), 1);
    overlap.deliver();
    overlap.end();
}
