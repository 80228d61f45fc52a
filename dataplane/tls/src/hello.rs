//! Reading a ClientHello before a configuration is chosen.

use std::mem;

use rustls::server::{Accepted, Acceptor};

use crate::error::TlsError;
use crate::handshake::record_len;
use crate::limits::CLIENT_HELLO_BYTES_MAX;

/// The application protocol of a client that offers none: unmodified stunnel with any NBD client.
pub const ALPN_NBD: &[u8] = b"nbd";

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// Application protocols in the client's order; empty when it offers none.
    pub alpn: Vec<Vec<u8>>,
    /// Host name the client asks for.
    pub server_name: Option<String>,
    /// All bytes received so far, to be fed to the handshake.
    pub bytes: Vec<u8>,
}

impl ClientHello {
    /// Picks one of `served` (our order decides) by the rule of the front door: no offer means
    /// `nbd`, and offers that are all unknown end with no_application_protocol (RFC 7301 section
    /// 3.2); [`TlsError::alert`] gives that alert, and [`Alert::plaintext_record`](crate::Alert::plaintext_record) its bytes.
    pub fn choose_alpn<'a>(&self, served: &[&'a [u8]]) -> Result<&'a [u8], TlsError> {
        let offers = |protocol: &&&[u8]| match self.alpn.as_slice() {
            [] => **protocol == ALPN_NBD,
            offered => offered.iter().any(|offer| offer == **protocol),
        };
        served
            .iter()
            .find(offers)
            .copied()
            .ok_or(TlsError::NoApplicationProtocol)
    }
}

/// Collects a ClientHello, which may span records and arrive in pieces of any size.
pub struct HelloReader {
    acceptor: Acceptor,
    bytes: Vec<u8>,
    /// How much of `bytes` the acceptor has: whole records only.
    shown: usize,
    is_over: bool,
    alert: Vec<u8>,
}

impl Default for HelloReader {
    fn default() -> Self {
        Self::new()
    }
}

impl HelloReader {
    /// An empty reader.
    pub fn new() -> Self {
        Self {
            acceptor: Acceptor::default(),
            bytes: Vec::new(),
            shown: 0,
            is_over: false,
            alert: Vec::new(),
        }
    }

    /// Takes any piece of what the client sent; `None` while the ClientHello is incomplete.
    ///
    /// After an error or a result the reader is used up.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, TlsError> {
        if self.is_over {
            return Err(TlsError::UsedAfterEnd);
        }
        if self.bytes.len() + bytes.len() > CLIENT_HELLO_BYTES_MAX {
            return Err(self.refuse_length());
        }
        self.bytes.extend_from_slice(bytes);
        while let Some(len) = record_len(&self.bytes[self.shown..]) {
            let end = self.shown + len;
            if let Some(accepted) = self.show(end)? {
                return Ok(Some(self.finish(&accepted)));
            }
        }
        Ok(None)
    }

    /// Alert bytes to send after an error.
    pub fn take_alert(&mut self) -> Vec<u8> {
        mem::take(&mut self.alert)
    }

    /// Shows the acceptor everything up to `end`.
    fn show(&mut self, end: usize) -> Result<Option<Accepted>, TlsError> {
        while self.shown < end {
            let mut unread = &self.bytes[self.shown..end];
            match self.acceptor.read_tls(&mut unread) {
                Ok(read) if read > 0 => self.shown += read,
                // The acceptor's own buffer is full: as long as a message may be, and incomplete.
                Ok(_) | Err(_) => return Err(self.refuse_length()),
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(accepted) => return Ok(accepted),
                Err((error, mut alert)) => {
                    self.is_over = true;
                    let error = TlsError::from_handshake(error);
                    // rustls has no alert for some errors, and writing to a Vec cannot fail.
                    if alert.write_all(&mut self.alert).is_err() || self.alert.is_empty() {
                        self.alert = plaintext_alert(&error);
                    }
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    fn finish(&mut self, accepted: &Accepted) -> ClientHello {
        self.is_over = true;
        let hello = accepted.client_hello();
        ClientHello {
            alpn: hello
                .alpn()
                .into_iter()
                .flatten()
                .map(<[u8]>::to_vec)
                .collect(),
            server_name: hello.server_name().map(str::to_owned),
            bytes: mem::take(&mut self.bytes),
        }
    }

    fn refuse_length(&mut self) -> TlsError {
        self.is_over = true;
        let error = TlsError::HandshakeTooLong {
            limit_bytes: CLIENT_HELLO_BYTES_MAX,
        };
        self.alert = plaintext_alert(&error);
        error
    }
}

/// The alert of `error` for a peer with whom no keys exist yet.
pub(crate) fn plaintext_alert(error: &TlsError) -> Vec<u8> {
    error
        .alert()
        .map(|alert| alert.plaintext_record().to_vec())
        .unwrap_or_default()
}
