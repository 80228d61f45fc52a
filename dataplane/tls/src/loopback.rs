//! A connection with ourselves, in memory: for measuring ciphers and for self-tests.

use std::{sync::Arc, time::SystemTime};

use rustls::{ClientConfig, ServerConfig};

use crate::error::TlsError;
use crate::{
    ALPN_NBD, ClientHandshake, Credentials, HandshakeStep, ServerHandshake, Session, SessionLimits,
    TlsPolicy, client_config, pki, server_config,
};

/// Messages a handshake with ourselves takes at most, both ways.
const FLIGHTS_MAX: usize = 16;
/// The name in the certificate.
const NAME: &str = "localhost";

/// Certificates of both sides, good for a day and known to nobody else.
pub struct LoopbackSite {
    server: Credentials,
    client: Credentials,
}

/// Both ends before the handshake.
pub struct LoopbackEnds {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Both ends of a connection.
pub struct LoopbackPair {
    /// The side that connected.
    pub client: Session,
    /// The side that accepted.
    pub server: Session,
}

impl LoopbackSite {
    /// Makes the certificates.
    ///
    /// # Errors
    /// When there is no entropy or no time of day.
    pub fn make(now: SystemTime) -> Result<Self, TlsError> {
        let files = pki::new_site(&[NAME.to_owned()], 1, now)?;
        let pem = |wanted: &str| {
            let file = files.iter().find(|(name, ..)| *name == wanted);
            file.map(|(_, text, _)| text.clone().into_bytes())
        };
        let ca_pem = pem("ca-cert.pem").unwrap_or_default();
        Ok(Self {
            server: Credentials {
                ca_pem: ca_pem.clone(),
                cert_pem: pem("server-cert.pem"),
                key_pem: pem("server-key.pem"),
            },
            client: Credentials {
                ca_pem,
                cert_pem: pem("client-cert.pem"),
                key_pem: pem("client-key.pem"),
            },
        })
    }

    /// Loads the certificates for handshakes with `suite`; `None` lets the CPU choose.
    ///
    /// # Errors
    /// When the suite is unknown.
    pub fn prepare(&self, suite: Option<&'static str>) -> Result<LoopbackEnds, TlsError> {
        let policy = TlsPolicy {
            alpn: vec![ALPN_NBD.to_vec()],
            client_certificate_required: true,
            suites: suite.map(|suite| vec![suite]),
        };
        Ok(LoopbackEnds {
            client: client_config(&self.client, &policy)?,
            server: server_config(&self.server, &policy)?,
        })
    }

    /// Both in one.
    ///
    /// # Errors
    /// When the suite is unknown, or the handshake does not end.
    pub fn connect(&self, suite: Option<&'static str>) -> Result<LoopbackPair, TlsError> {
        self.prepare(suite)?.connect()
    }
}

impl LoopbackEnds {
    /// A whole handshake with certificates on both sides.
    ///
    /// # Errors
    /// When it does not end.
    pub fn connect(&self) -> Result<LoopbackPair, TlsError> {
        let limits = SessionLimits::default();
        let mut client = ClientHandshake::new(Arc::clone(&self.client), NAME, limits)?;
        let mut server = ServerHandshake::new(Arc::clone(&self.server), limits)?;
        let (mut client_done, mut server_done) = (None, None);
        // What comes behind the end of one side's handshake is none of ours: we send nothing there.
        for _ in 0..FLIGHTS_MAX {
            let to_server = client.take_output();
            if server_done.is_none()
                && let HandshakeStep::Done(done) = server.handle_input(&to_server)?
            {
                server_done = Some(done.session);
            }
            let to_client = server.take_output();
            if client_done.is_none()
                && let HandshakeStep::Done(done) = client.handle_input(&to_client)?
            {
                client_done = Some(done.session);
            }
            if server_done.is_some() && client_done.is_some() {
                break;
            }
        }
        match (client_done, server_done) {
            (Some(client), Some(server)) => Ok(LoopbackPair { client, server }),
            _ => Err(TlsError::ClosedInHandshake),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Opened;
    use std::time::Instant;

    #[test]
    fn both_ends_understand_each_other() {
        let site = LoopbackSite::make(SystemTime::now()).unwrap();
        let mut pair = site.connect(Some("TLS_CHACHA20_POLY1305_SHA256")).unwrap();
        assert_eq!(pair.server.suite_name(), "TLS_CHACHA20_POLY1305_SHA256");
        let mut wire = [0; 64];
        let len = pair.client.seal(b"hello", &mut wire).unwrap();
        let mut out = [0; 64];
        let opened = pair.server.open(Instant::now(), &wire[..len], &mut out);
        assert!(matches!(opened, Ok(Opened::Data { len: 5 })));
        assert_eq!(&out[..5], b"hello");
        assert!(site.connect(Some("TLS_NULL")).is_err());
    }
}
