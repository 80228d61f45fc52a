//! A session of ours on a socket: the smallest caller of this crate there can be.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use tls::{
    ClientHandshake, Established, HandshakeStep, Opened, RECORD_PLAINTEXT_MAX, RECORD_WIRE_MAX,
    ServerHandshake, Session, SessionLimits, TlsError,
};

use crate::tools::PATIENCE;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Data(Vec<u8>),
    Control,
    Closed,
}

pub struct Link {
    stream: TcpStream,
    session: Session,
    buffer: Vec<u8>,
    pub alpn: Option<Vec<u8>>,
    /// Control records sent, KeyUpdates mostly.
    pub control_sent: usize,
}

impl Link {
    pub fn connect(
        port: u16,
        config: Arc<rustls::ClientConfig>,
        limits: SessionLimits,
    ) -> Result<Self, TlsError> {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut handshake = ClientHandshake::new(config, "127.0.0.1", limits)?;
        Self::establish(stream, |bytes| {
            (handshake.handle_input(bytes), handshake.take_output())
        })
    }

    pub fn accept(
        listener: &TcpListener,
        config: Arc<rustls::ServerConfig>,
        limits: SessionLimits,
    ) -> Result<Self, TlsError> {
        let (stream, _) = listener.accept().unwrap();
        let mut handshake = ServerHandshake::new(config, limits)?;
        Self::establish(stream, |bytes| {
            (handshake.handle_input(bytes), handshake.take_output())
        })
    }

    fn establish(
        mut stream: TcpStream,
        mut handle_input: impl FnMut(&[u8]) -> (Result<HandshakeStep, TlsError>, Vec<u8>),
    ) -> Result<Self, TlsError> {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut received = Vec::new();
        loop {
            let (step, output) = handle_input(&received);
            stream.write_all(&output).unwrap();
            match step? {
                HandshakeStep::Done(established) => {
                    let Established {
                        session,
                        leftover,
                        alpn,
                        ..
                    } = *established;
                    return Ok(Self {
                        stream,
                        session,
                        buffer: leftover,
                        alpn,
                        control_sent: 0,
                    });
                }
                HandshakeStep::NeedInput => received = read_some(&mut stream),
            }
        }
    }

    /// Sends `data` in records of at most `piece` bytes, KeyUpdates between them as they fall due.
    pub fn send(&mut self, data: &[u8], piece: usize) {
        let mut record = [0; RECORD_WIRE_MAX];
        for piece in data.chunks(piece.min(RECORD_PLAINTEXT_MAX)) {
            self.flush_control();
            let len = self.session.seal(piece, &mut record).unwrap();
            self.stream.write_all(&record[..len]).unwrap();
        }
    }

    pub fn flush_control(&mut self) {
        let mut record = [0; 64];
        loop {
            match self
                .session
                .poll_control(Instant::now(), &mut record)
                .unwrap()
            {
                0 => return,
                len => self.stream.write_all(&record[..len]).unwrap(),
            }
            self.control_sent += 1;
        }
    }

    pub fn control_pending(&self) -> bool {
        self.session.control_pending(Instant::now())
    }

    pub fn close(&mut self) {
        self.session.queue_close();
        self.flush_control();
    }

    /// Opens the next record, waiting for it.
    pub fn receive(&mut self) -> Result<Event, TlsError> {
        loop {
            if let Some(frame) = Session::frame(&self.buffer)?
                && self.buffer.len() >= frame.wire_len
            {
                let record: Vec<u8> = self.buffer.drain(..frame.wire_len).collect();
                let mut out = vec![0; frame.inner_len];
                return Ok(
                    match self.session.open(Instant::now(), &record, &mut out)? {
                        Opened::Data { len } => {
                            out.truncate(len);
                            Event::Data(out)
                        }
                        Opened::Control => Event::Control,
                        Opened::Closed => Event::Closed,
                    },
                );
            }
            let more = read_some(&mut self.stream);
            assert!(!more.is_empty(), "the peer hung up without close_notify");
            self.buffer.extend(more);
        }
    }

    /// Receives until `len` bytes of data have come; answers KeyUpdates on the way.
    pub fn receive_data(&mut self, len: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < len {
            match self.receive().unwrap() {
                Event::Data(more) => data.extend(more),
                Event::Control => self.flush_control(),
                Event::Closed => panic!("closed after {} bytes of {len}", data.len()),
            }
        }
        data
    }
}

fn read_some(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    let len = stream.read(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}
