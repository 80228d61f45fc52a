//! TLS sessions for both ends, shaken in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::SystemTime,
};
use tls::{Credentials, HandshakeStep, Session, SessionLimits, TlsPolicy};

/// A client's and a server's session, and what already lies on the wire towards the client.
pub(super) struct Secured {
    pub client: Session,
    pub server: Session,
    pub to_client: Vec<u8>,
}

struct Site {
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
}

/// One set of certificates for all runs: making them takes longer than a run.
fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| {
        let hosts = ["localhost".to_owned()];
        let files: BTreeMap<_, _> = tls::pki::new_site(&hosts, 1, SystemTime::now())
            .expect("certificates")
            .into_iter()
            .map(|(name, pem, _)| (name, pem.into_bytes()))
            .collect();
        let credentials = |role: &str| Credentials {
            ca_pem: files["ca-cert.pem"].clone(),
            cert_pem: Some(files[format!("{role}-cert.pem").as_str()].clone()),
            key_pem: Some(files[format!("{role}-key.pem").as_str()].clone()),
        };
        let policy = TlsPolicy {
            alpn: vec![b"nbd".to_vec()],
            client_certificate_required: true,
            suites: None,
        };
        Site {
            client: tls::client_config(&credentials("client"), &policy).expect("client config"),
            server: tls::server_config(&credentials("server"), &policy).expect("server config"),
        }
    })
}

/// Shakes hands without a socket.
pub(super) fn shake(limits: SessionLimits) -> Secured {
    let site = site();
    let mut client =
        tls::ClientHandshake::new(Arc::clone(&site.client), "localhost", limits).expect("a client");
    let mut server = tls::ServerHandshake::new(Arc::clone(&site.server), limits).expect("a server");
    let (mut client_done, mut server_done) = (None, None);
    let mut to_client = Vec::new();
    for _ in 0..8 {
        if client_done.is_none()
            && let HandshakeStep::Done(done) =
                client.handle_input(&to_client).expect("the client agrees")
        {
            client_done = Some(done);
        }
        let to_server = client.take_output();
        if server_done.is_none()
            && let HandshakeStep::Done(done) =
                server.handle_input(&to_server).expect("the server agrees")
        {
            server_done = Some(done);
        }
        to_client = server.take_output();
        if client_done.is_some() && server_done.is_some() {
            break;
        }
    }
    let (client, server) = client_done.zip(server_done).expect("both are done");
    let mut surplus = client.leftover;
    surplus.append(&mut to_client);
    Secured {
        client: client.session,
        server: server.session,
        to_client: surplus,
    }
}
