//! A blocking NBD client, one request at a time: `info`, block status, the odd ends of a copy.

use super::{Conn, NbdEndpoint, Role, open};
use crate::{
    error::{Blame, EngineError, ErrorKind},
    limits::FLUSH_SECONDS_MAX,
};
use std::time::Duration;
use wire::{
    ClientConn, ClientEvent, ClientGoal, ClientHandshakeEvent, ClientParams, ClientWant, Command,
    CommandFlags, Extent, HeaderBuf, NbdError,
};

/// Bytes of one READ; servers may take less.
const READ_BYTES_MAX: u32 = 1024 * 1024;

/// A connection for questions and small transfers.
pub struct NbdClient {
    conn: Conn,
    machine: ClientConn,
    params: ClientParams,
}

impl NbdClient {
    /// Connects and opens the export.
    ///
    /// # Errors
    /// Whatever stands in the way, with its remedy.
    pub fn connect(endpoint: &NbdEndpoint) -> Result<Self, EngineError> {
        Self::connect_as(endpoint, Role::Source)
    }

    pub(crate) fn connect_as(endpoint: &NbdEndpoint, role: Role) -> Result<Self, EngineError> {
        let (conn, event) = open(endpoint, role, ClientGoal::Go)?;
        match event {
            ClientHandshakeEvent::Done(params) => Ok(Self {
                conn,
                machine: ClientConn::new(&params, 1),
                params,
            }),
            _ => Err(conn.protocol("the server did not open the export")),
        }
    }

    /// Names and descriptions of the server's exports.
    ///
    /// # Errors
    /// As `connect`; servers may refuse to list.
    pub fn list(endpoint: &NbdEndpoint) -> Result<Vec<(String, String)>, EngineError> {
        let (mut conn, event) = open(endpoint, Role::Source, ClientGoal::List)?;
        conn.close();
        match event {
            ClientHandshakeEvent::Exports(exports) => Ok(exports),
            _ => Err(conn.protocol("the server did not list its exports")),
        }
    }

    /// What was negotiated.
    #[must_use]
    pub fn params(&self) -> &ClientParams {
        &self.params
    }

    /// The server chose an application protocol in its TLS handshake; a tunnel in front of another server does not.
    #[must_use]
    pub fn chose_protocol(&self) -> bool {
        self.conn.chose_protocol()
    }

    /// The TLS cipher suite; `None` without TLS.
    #[must_use]
    pub fn suite_name(&self) -> Option<&'static str> {
        self.conn.suite_name()
    }

    /// base:allocation of the front of a range, at least one extent; empty when the server has none to tell.
    ///
    /// # Errors
    /// The server's error, or a broken connection.
    pub fn block_status(&mut self, offset: u64, len: u64) -> Result<Vec<Extent>, EngineError> {
        let id = self
            .params
            .contexts
            .iter()
            .find(|(_, name)| name == "base:allocation");
        let Some((id, _)) = id else {
            return Ok(Vec::new());
        };
        let id = *id;
        let mut found = Vec::new();
        self.request(
            Command::BlockStatus,
            offset,
            len,
            &[],
            &mut [],
            &mut |event| {
                if let ClientEvent::Extents {
                    context, extents, ..
                } = event
                    && context == id
                {
                    found = extents;
                }
            },
        )?;
        Ok(found)
    }

    /// Reads `buf.len()` bytes, in requests the server takes.
    ///
    /// # Errors
    /// The server's error, or a broken connection.
    pub fn read(&mut self, mut offset: u64, buf: &mut [u8]) -> Result<(), EngineError> {
        let block = self.params.info.block;
        // At least one block, by `BlockSizes::check`.
        let most = block.payload_max.min(READ_BYTES_MAX) / block.min.max(1) * block.min.max(1);
        for piece in buf.chunks_mut(most.max(1) as usize) {
            let len = piece.len() as u64;
            self.request(Command::Read, offset, len, &[], piece, &mut |_| {})?;
            offset += len;
        }
        Ok(())
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    /// The server's error, or a broken connection.
    pub fn write(&mut self, offset: u64, buf: &[u8]) -> Result<(), EngineError> {
        self.request(
            Command::Write,
            offset,
            buf.len() as u64,
            buf,
            &mut [],
            &mut |_| {},
        )
    }

    /// Flushes; a failure means that nothing since the last good flush may be trusted.
    ///
    /// # Errors
    /// The server's error, or a broken connection.
    pub fn flush(&mut self) -> Result<(), EngineError> {
        // A page cache is written out first; the limit of other answers is that of connecting.
        let time = Duration::from_secs(FLUSH_SECONDS_MAX);
        self.conn.allow(Some(time))?;
        let flushed = self.request(Command::Flush, 0, 0, &[], &mut [], &mut |_| {});
        self.conn.allow(None)?;
        flushed
    }

    /// Says good-bye. Nothing is in flight, so nothing can be lost any more.
    pub fn disconnect(mut self) {
        let mut header = HeaderBuf::new();
        self.machine.encode_disconnect(&mut header);
        if self.conn.send(header.as_bytes()).is_ok() {
            self.conn.close();
        }
    }

    fn request(
        &mut self,
        command: Command,
        offset: u64,
        len: u64,
        payload: &[u8],
        into: &mut [u8],
        observe: &mut dyn FnMut(ClientEvent),
    ) -> Result<(), EngineError> {
        let mut header = HeaderBuf::new();
        let flags = CommandFlags::NONE;
        if self
            .machine
            .start(command, flags, offset, len, &mut header)
            .is_none()
        {
            return Err(EngineError::bug(
                "a request found no room",
                self.conn.uri.clone(),
            ));
        }
        self.conn.send(header.as_bytes())?;
        self.conn.send(payload)?;
        loop {
            let Some(event) = self.receive(into)? else {
                continue;
            };
            match event {
                ClientEvent::Completed { result: Ok(()), .. } => return Ok(()),
                ClientEvent::Completed {
                    result: Err(error), ..
                } => return Err(self.answered(command, offset, error)),
                ClientEvent::Hole {
                    offset, len, done, ..
                } => {
                    let (from, len) = (offset as usize, len as usize);
                    if let Some(hole) = into.get_mut(from..from + len) {
                        hole.fill(0);
                    }
                    if done {
                        return Ok(());
                    }
                }
                event @ ClientEvent::Extents { done, .. } => {
                    observe(event);
                    if done {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn answered(&self, command: Command, offset: u64, error: NbdError) -> EngineError {
        let uri = self.conn.uri.clone();
        if error == NbdError::Shutdown {
            let what = format!("{command} at byte {offset}: the server is shutting down");
            return EngineError::new(ErrorKind::ConnectionLost, Blame::Peer, what, uri)
                .remedy("go on when the server is back");
        }
        let kind = match self.conn.role {
            Role::Source => ErrorKind::SourceIo,
            Role::Target => ErrorKind::TargetIo,
        };
        let what = format!("{command} at byte {offset} failed: the server answered {error}");
        EngineError::new(kind, Blame::Peer, what, uri)
            .remedy("look at the server's own log for the cause")
    }

    /// Takes one step of receiving.
    fn receive(&mut self, into: &mut [u8]) -> Result<Option<ClientEvent>, EngineError> {
        if self.conn.bytes().is_empty() {
            self.conn.fill()?;
        }
        let bytes = self.conn.bytes();
        match self.machine.want() {
            ClientWant::Header { len } => {
                let header = &bytes[..len.min(bytes.len())];
                let (used, event) = self
                    .machine
                    .handle_header(header)
                    .map_err(|fault| self.conn.wire(fault))?;
                self.conn.consume(used);
                Ok(event)
            }
            ClientWant::Payload { offset, len, .. } => {
                let (at, count) = (offset as usize, (len as usize).min(bytes.len()));
                if let Some(room) = into.get_mut(at..at + count) {
                    room.copy_from_slice(&bytes[..count]);
                }
                self.conn.consume(count);
                Ok(self
                    .machine
                    .handle_payload(u32::try_from(count).unwrap_or(len)))
            }
            ClientWant::Closed => Err(self.conn.protocol("the server's replies ended")),
        }
    }
}

#[cfg(test)]
mod tests;
