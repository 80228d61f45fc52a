//! A site's certificates, and handshakes in memory, for the tests of this crate.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses another part"
)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tls::pki::Validity;
use tls::{
    ClientHandshake, Credentials, Established, HandshakeStep, ServerHandshake, SessionLimits,
    TlsError, TlsPolicy,
};

/// Re-key every 64 records, as fast as data flows.
pub const REKEY_OFTEN: SessionLimits = SessionLimits {
    records_per_key: 64,
    key_updates_per_second: u32::MAX,
};

/// The files of one site by name.
pub struct Site(pub Vec<(&'static str, String, bool)>);

impl Site {
    pub fn new() -> Self {
        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        Self(tls::pki::new_site(&hosts, 30, SystemTime::now()).expect("a site can be made"))
    }

    /// A site whose leaf certificates ended half a year ago.
    pub fn expired() -> Self {
        let now = SystemTime::now() - Duration::from_secs(200 * 86_400);
        Self::at(now)
    }

    /// A site whose leaf certificates begin in half a year.
    pub fn future() -> Self {
        Self::at(SystemTime::now() + Duration::from_secs(200 * 86_400))
    }

    fn at(now: SystemTime) -> Self {
        let hosts = ["localhost".to_owned()];
        let authority = tls::pki::new_authority(Validity {
            now: SystemTime::now(),
            days: 30,
        })
        .expect("authority");
        let validity = Validity { now, days: 10 };
        let server = tls::pki::issue_server(&authority, &hosts, validity).expect("server");
        let client =
            tls::pki::issue_client(&authority.cert_pem, &authority.key_pem, "late", 10, now)
                .expect("client");
        Self(vec![
            ("ca-cert.pem", authority.cert_pem, false),
            ("server-cert.pem", server.cert_pem, false),
            ("server-key.pem", server.key_pem, true),
            ("client-cert.pem", client.cert_pem, false),
            ("client-key.pem", client.key_pem, true),
        ])
    }

    pub fn pem(&self, name: &str) -> Vec<u8> {
        let file = self.0.iter().find(|(found, ..)| *found == name);
        file.expect("the site has this file").1.clone().into_bytes()
    }

    pub fn credentials(&self, role: &str) -> Credentials {
        Credentials {
            ca_pem: self.pem("ca-cert.pem"),
            cert_pem: Some(self.pem(&format!("{role}-cert.pem"))),
            key_pem: Some(self.pem(&format!("{role}-key.pem"))),
        }
    }

    pub fn server(&self, policy: &TlsPolicy) -> Arc<rustls::ServerConfig> {
        tls::server_config(&self.credentials("server"), policy).expect("server config")
    }

    pub fn client(&self, policy: &TlsPolicy) -> Arc<rustls::ClientConfig> {
        tls::client_config(&self.credentials("client"), policy).expect("client config")
    }
}

/// Mutual TLS for `nbd`, as the data plane does it.
pub fn nbd_policy() -> TlsPolicy {
    TlsPolicy {
        alpn: vec![b"nbd".to_vec()],
        client_certificate_required: true,
        suites: None,
    }
}

pub fn policy_with_suite(name: &'static str) -> TlsPolicy {
    TlsPolicy {
        suites: Some(vec![name]),
        ..nbd_policy()
    }
}

pub const SUITES: [&str; 3] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

/// Both ends' results; an end that failed keeps its error.
pub struct Outcome {
    pub server: Result<Box<Established>, TlsError>,
    pub client: Result<Box<Established>, TlsError>,
    /// What the server sent after it was done or had failed.
    pub server_last: Vec<u8>,
    /// What the client sent after it was done or had failed.
    pub client_last: Vec<u8>,
}

/// Our client against our server, `piece` bytes at a time.
pub fn handshake(
    server_config: Arc<rustls::ServerConfig>,
    client_config: Arc<rustls::ClientConfig>,
    name: &str,
    limits: SessionLimits,
    piece: usize,
) -> Outcome {
    let mut server = ServerHandshake::new(server_config, limits).expect("server");
    let mut client = ClientHandshake::new(client_config, name, limits).expect("client");
    let mut client_end = None;
    let mut server_end = None;
    let mut to_client = Vec::new();
    let mut to_server = Vec::new();
    let step = client.handle_input(&[]).expect("a client begins");
    assert!(matches!(step, HandshakeStep::NeedInput));
    for _ in 0..8 {
        to_server.extend(client.take_output());
        feed(&mut server_end, &mut to_server, piece, |bytes| {
            server.handle_input(bytes)
        });
        to_client.extend(server.take_output());
        feed(&mut client_end, &mut to_client, piece, |bytes| {
            client.handle_input(bytes)
        });
    }
    to_server.extend(client.take_output());
    Outcome {
        server: server_end.expect("the server came to an end"),
        client: client_end.expect("the client came to an end"),
        server_last: to_client,
        client_last: to_server,
    }
}

fn feed(
    end: &mut Option<Result<Box<Established>, TlsError>>,
    bytes: &mut Vec<u8>,
    piece: usize,
    mut handle_input: impl FnMut(&[u8]) -> Result<HandshakeStep, TlsError>,
) {
    while end.is_none() && !bytes.is_empty() {
        let rest = bytes.split_off(piece.min(bytes.len()));
        let step = handle_input(bytes);
        *bytes = rest;
        match step {
            Ok(HandshakeStep::NeedInput) => {}
            Ok(HandshakeStep::Done(established)) => *end = Some(Ok(established)),
            Err(error) => *end = Some(Err(error)),
        }
    }
}

/// An established pair of ours: server, client.
pub fn established(
    policy: &TlsPolicy,
    limits: SessionLimits,
) -> (Box<Established>, Box<Established>) {
    let site = Site::new();
    let outcome = handshake(
        site.server(policy),
        site.client(policy),
        "localhost",
        limits,
        usize::MAX,
    );
    (
        outcome.server.expect("server"),
        outcome.client.expect("client"),
    )
}
