//! A door for tests: negotiates on a blocking thread and hands connections to an engine.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]

use engine::{
    Address, Engine, EngineConfig, Export, ExportSpec, NbdEndpoint, ServerSeed, Store, TlsMode,
    TransferSpec, Tunables, dial::Endpoint,
};
use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};
use sys::{DeviceFile, OpenIntent, OpenOptions, RuntimeChoice};
use tls::{Credentials, Session, SessionLimits, TlsPolicy};
use wire::{
    ExportRefusal, ServerHandshake, ServerHandshakeConfig, ServerHandshakeEvent, ServerParams,
};

/// The tiers every test runs on.
pub const TIERS: [RuntimeChoice; 3] = [
    RuntimeChoice::Rich,
    RuntimeChoice::Plain,
    RuntimeChoice::Epoll,
];

pub fn start_engine(choice: RuntimeChoice, shards: usize) -> Arc<Engine> {
    let runtime = sys::runtime::select(choice).expect("the tier runs here");
    let config = EngineConfig {
        shards,
        runtime,
        arena_bytes: engine::engine::ARENA_BYTES,
        pin: false,
        tunables: Tunables::new(),
    };
    Arc::new(Engine::start(config).expect("the engine starts"))
}

pub fn null_export(name: &str, size_bytes: u64) -> Arc<Export> {
    Export::new(ExportSpec {
        name: name.into(),
        store: Store::Null { size_bytes },
        read_only: false,
        scratch: true,
    })
}

pub fn file_export(name: &str, path: &Path, read_only: bool) -> Arc<Export> {
    let intent = if read_only {
        OpenIntent::Source
    } else {
        OpenIntent::Target
    };
    let options = OpenOptions {
        overwrite: true,
        ..OpenOptions::default()
    };
    let device = DeviceFile::open(path, intent, &options).expect("the file opens");
    let store = Store::Device(Arc::new(device));
    Export::new(ExportSpec {
        name: name.into(),
        store,
        read_only,
        scratch: false,
    })
}

/// Certificates of one site, made once per test.
pub struct Site {
    files: HashMap<&'static str, String>,
}

impl Site {
    pub fn new() -> Self {
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let files = tls::pki::new_site(&hosts, 1, SystemTime::now()).expect("certificates");
        Self {
            files: files
                .into_iter()
                .map(|(name, pem, _)| (name, pem))
                .collect(),
        }
    }

    fn credentials(&self, role: &str) -> Credentials {
        let pem = |name: &str| self.files[name].clone().into_bytes();
        Credentials {
            ca_pem: pem("ca-cert.pem"),
            cert_pem: Some(pem(&format!("{role}-cert.pem"))),
            key_pem: Some(pem(&format!("{role}-key.pem"))),
        }
    }

    fn policy() -> TlsPolicy {
        TlsPolicy {
            alpn: vec![b"nbd".to_vec()],
            client_certificate_required: true,
            suites: None,
        }
    }

    pub fn server(&self) -> Arc<rustls::ServerConfig> {
        tls::server_config(&self.credentials("server"), &Self::policy()).expect("server config")
    }

    pub fn client(&self) -> Arc<rustls::ClientConfig> {
        tls::client_config(&self.credentials("client"), &Self::policy()).expect("client config")
    }
}

/// Bytes either way.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A blocking connection during negotiation.
struct Blocking<S> {
    stream: S,
    session: Option<Session>,
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

impl<S: Stream> Blocking<S> {
    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(session) = &mut self.session else {
            return self.stream.write_all(bytes);
        };
        for chunk in bytes.chunks(16_384) {
            let mut out = vec![0; chunk.len() + 64];
            let len = session.seal(chunk, &mut out).expect("seals");
            self.stream.write_all(&out[..len])?;
        }
        Ok(())
    }

    fn fill(&mut self) -> std::io::Result<()> {
        let before = self.plain.len();
        while self.plain.len() == before {
            if let Some(session) = &mut self.session {
                let frame = Session::frame(&self.sealed).expect("a frame");
                if let Some(frame) = frame.filter(|frame| frame.wire_len <= self.sealed.len()) {
                    let mut out = vec![0; frame.inner_len];
                    let record: Vec<u8> = self.sealed.drain(..frame.wire_len).collect();
                    match session
                        .open(Instant::now(), &record, &mut out)
                        .expect("opens")
                    {
                        tls::Opened::Data { len } => self.plain.extend_from_slice(&out[..len]),
                        tls::Opened::Closed => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                        tls::Opened::Control => {}
                    }
                    continue;
                }
            }
            let mut buf = [0; 4096];
            let len = self.stream.read(&mut buf)?;
            if len == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let inbox = if self.session.is_some() {
                &mut self.sealed
            } else {
                &mut self.plain
            };
            inbox.extend_from_slice(&buf[..len]);
        }
        Ok(())
    }

    fn secure(
        &mut self,
        config: &Arc<rustls::ServerConfig>,
        limits: SessionLimits,
    ) -> std::io::Result<()> {
        let mut handshake = tls::ServerHandshake::new(Arc::clone(config), limits).expect("config");
        loop {
            self.fill()?;
            let input = std::mem::take(&mut self.plain);
            let step = handshake
                .handle_input(&input)
                .map_err(std::io::Error::other)?;
            self.stream.write_all(&handshake.take_output())?;
            if let tls::HandshakeStep::Done(done) = step {
                self.session = Some(done.session);
                self.sealed = done.leftover;
                return Ok(());
            }
        }
    }

    fn negotiate(
        &mut self,
        exports: &HashMap<String, Arc<Export>>,
    ) -> std::io::Result<Option<ServerParams>> {
        let mut handshake = ServerHandshake::new(ServerHandshakeConfig {
            tls: wire::TlsPolicy::NotOffered,
            list: true,
            extended_headers: true,
        });
        loop {
            let output = handshake.take_output();
            self.send(&output)?;
            match handshake.poll_event() {
                Some(ServerHandshakeEvent::ExportQuery { name, .. }) => {
                    let info = exports.get(&name).map(|export| export.info());
                    handshake.answer_export(info.ok_or(ExportRefusal::Unknown));
                }
                Some(ServerHandshakeEvent::ListQuery) => {
                    let list: Vec<_> = exports
                        .keys()
                        .map(|name| (name.clone(), String::new()))
                        .collect();
                    handshake.answer_list(Ok(&list));
                }
                Some(ServerHandshakeEvent::Done(params)) => {
                    let output = handshake.take_output();
                    self.send(&output)?;
                    return Ok(Some(params));
                }
                Some(_) => {
                    let output = handshake.take_output();
                    self.send(&output)?;
                    return Ok(None);
                }
                None => {
                    self.fill()?;
                    let used = handshake
                        .handle_input(&self.plain)
                        .map_err(std::io::Error::other)?;
                    self.plain.drain(..used);
                }
            }
        }
    }
}

/// A listening door. Its thread ends with the test process.
pub struct Door {
    pub endpoint: NbdEndpoint,
    pub exports: Vec<Arc<Export>>,
}

fn accept<S: Stream>(
    stream: S,
    secure: Option<(&Arc<rustls::ServerConfig>, SessionLimits)>,
    exports: &HashMap<String, Arc<Export>>,
    engine: &Engine,
) where
    std::os::fd::OwnedFd: From<S>,
{
    let mut conn = Blocking {
        stream,
        session: None,
        sealed: Vec::new(),
        plain: Vec::new(),
    };
    let secured = secure.map(|(config, limits)| conn.secure(config, limits));
    if matches!(secured, Some(Err(_))) {
        return;
    }
    let Ok(Some(params)) = conn.negotiate(exports) else {
        return;
    };
    let export = Arc::clone(&exports[&params.export_name]);
    let leftover = if conn.session.is_some() {
        conn.sealed
    } else {
        conn.plain
    };
    let seed = ServerSeed {
        socket: conn.stream.into(),
        session: conn.session,
        leftover,
        params,
        export,
        peer: "test".into(),
        fingerprint: None,
    };
    engine.serve(seed).expect("a shard takes it");
}

fn by_name(exports: &[Arc<Export>]) -> HashMap<String, Arc<Export>> {
    exports
        .iter()
        .map(|export| (export.name().to_owned(), Arc::clone(export)))
        .collect()
}

pub fn unix_door(engine: &Arc<Engine>, dir: &Path, exports: Vec<Arc<Export>>) -> Door {
    let path: PathBuf = dir.join("nbd.sock");
    let listener = UnixListener::bind(&path).expect("binds");
    let (names, engine) = (by_name(&exports), Arc::clone(engine));
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            accept::<UnixStream>(stream, None, &names, &engine);
        }
    });
    let uri = format!(
        "nbd+unix:///{}?socket={}",
        exports[0].name(),
        path.display()
    );
    let endpoint = NbdEndpoint {
        address: Address::Unix(path),
        tls: TlsMode::None,
        export: exports[0].name().into(),
        connect_timeout: Duration::from_secs(20),
        uri,
    };
    Door { endpoint, exports }
}

pub fn tls_door(
    engine: &Arc<Engine>,
    site: &Site,
    exports: Vec<Arc<Export>>,
    limits: SessionLimits,
) -> Door {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let (names, engine, config) = (by_name(&exports), Arc::clone(engine), site.server());
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let _slow = stream.set_nodelay(true);
            accept::<TcpStream>(stream, Some((&config, limits)), &names, &engine);
        }
    });
    let endpoint = NbdEndpoint {
        address: Address::Tcp {
            host: "127.0.0.1".into(),
            port,
        },
        tls: TlsMode::First {
            config: site.client(),
            server_name: "127.0.0.1".into(),
        },
        export: exports[0].name().into(),
        connect_timeout: Duration::from_secs(20),
        uri: format!("mk://127.0.0.1:{port}/{}", exports[0].name()),
    };
    Door { endpoint, exports }
}

/// Bytes that do not repeat and do not compress, from a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub fn spec(source: Endpoint, target: Endpoint) -> TransferSpec {
    TransferSpec {
        connections: 2,
        window_bytes: 8 * 1024 * 1024,
        overwrite: true,
        integrity: Some(engine::transfer::Integrity::None),
        ..TransferSpec::new(source, target)
    }
}
