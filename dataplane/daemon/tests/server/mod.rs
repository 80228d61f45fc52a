//! A running server and those who talk to it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Address, NbdClient, NbdEndpoint, TlsMode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::{BINARY, Bed, finish};

/// Nothing in these tests takes longer, whatever the machine does besides.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server, killed when the test ends.
pub struct Server {
    child: Child,
    pub tls: Option<SocketAddr>,
    pub nbds: Option<SocketAddr>,
    pub unix: Option<PathBuf>,
    pub control: Option<PathBuf>,
    pub tier: String,
    log: PathBuf,
    notify: UnixDatagram,
}

/// Makes a folder of certificates.
pub fn pki(bed: &Bed, name: &str) -> PathBuf {
    bed.run(&[
        "pki",
        "init",
        name,
        "--host",
        "localhost",
        "--host",
        "127.0.0.1",
    ])
    .done();
    bed.path(name)
}

impl Server {
    /// Starts one and waits until it says where it listens.
    pub fn start(bed: &Bed, args: &[&str]) -> Self {
        Self::start_by(bed, bed.command(BINARY).arg("serve").args(args))
    }

    /// The same, with a command of the caller's.
    pub fn start_by(bed: &Bed, command: &mut Command) -> Self {
        let notify_path = bed.path("notify");
        let _ = std::fs::remove_file(&notify_path);
        let notify = UnixDatagram::bind(&notify_path).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server may run as somebody else.
        std::fs::set_permissions(&notify_path, Permissions::from_mode(0o777)).unwrap();
        let log = bed.path("log");
        let mut child = command
            .env("NOTIFY_SOCKET", &notify_path)
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self {
            child,
            tls: None,
            nbds: None,
            unix: None,
            control: None,
            tier: String::new(),
            log,
            notify,
        };
        // All lines are written at once, and nothing after them.
        let mut line = String::new();
        while server.tier.is_empty() || !server.knows_enough(command) {
            line.clear();
            let len = out.read_line(&mut line).unwrap();
            assert_ne!(len, 0, "no server: {}", server.log());
            server.read_line(bed, line.trim_end());
        }
        server.wait_for_notice("READY=1");
        server
    }

    fn knows_enough(&self, command: &Command) -> bool {
        let has = |flag: &str| command.get_args().any(|arg| arg == flag);
        (!has("--control-dir") || self.control.is_some())
            && (!has("--nbds-listen") || self.nbds.is_some())
            && (!has("--nbd-unix") || self.unix.is_some())
            && (!has("--listen") || self.tls.is_some())
    }

    fn read_line(&mut self, bed: &Bed, line: &str) {
        match *line.split(' ').collect::<Vec<_>>() {
            ["tier", tier, ..] => tier.trim_end_matches(':').clone_into(&mut self.tier),
            ["listening", "nbds", address] => self.nbds = Some(address.parse().unwrap()),
            ["listening", "nbd-unix", path] => self.unix = Some(bed.path(path)),
            ["listening", "control", path] => self.control = Some(bed.path(path)),
            ["listening", address] => self.tls = Some(address.parse().unwrap()),
            _ => panic!("unknown line {line:?}"),
        }
    }

    /// Waits until the server tells its service manager `what`.
    pub fn wait_for_notice(&self, what: &str) {
        let mut buffer = [0; 512];
        loop {
            let len = self
                .notify
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("{what}: {error}: {}", self.log()));
            let text = std::str::from_utf8(&buffer[..len]).unwrap();
            if text.lines().any(|line| line == what) {
                return;
            }
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for its end; the exit code.
    pub fn wait(mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.log());
            // There is no event for the end of a child with a time-out.
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Ends it in order.
    pub fn stop(self) {
        self.signal(Signal::SIGTERM);
        let log = self.log.clone();
        let code = self.wait();
        assert_eq!(
            code,
            0,
            "{}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
    }

    pub fn tls_uri(&self, export: &str, pki: &Path) -> String {
        let (address, pki) = (self.tls.unwrap(), pki.display());
        format!("mk://{address}/{export}?tls-certificates={pki}")
    }

    pub fn nbds_uri(&self, export: &str, pki: &Path) -> String {
        let (port, pki) = (self.nbds.unwrap().port(), pki.display());
        format!("nbds://localhost:{port}/{export}?tls-certificates={pki}")
    }

    pub fn unix_uri(&self, export: &str) -> String {
        format!(
            "nbd+unix:///{export}?socket={}",
            self.unix.as_ref().unwrap().display()
        )
    }

    /// Our own client of the TLS listener.
    pub fn connect_tls(&self, export: &str, pki: &Path) -> Result<NbdClient, engine::EngineError> {
        NbdClient::connect(&NbdEndpoint {
            address: Address::Tcp {
                host: "127.0.0.1".into(),
                port: self.tls.unwrap().port(),
            },
            tls: TlsMode::First {
                config: client_config(pki, &[b"nbd"]),
                server_name: "localhost".into(),
            },
            export: export.into(),
            connect_timeout: PATIENCE,
            uri: format!("mk://{export}"),
        })
    }

    /// Our own client of the plain Unix socket.
    pub fn connect_unix(&self, export: &str) -> Result<NbdClient, engine::EngineError> {
        NbdClient::connect(&NbdEndpoint {
            address: Address::Unix(self.unix.clone().unwrap()),
            tls: TlsMode::None,
            export: export.into(),
            connect_timeout: PATIENCE,
            uri: format!("nbd+unix:///{export}"),
        })
    }

    /// A request to `exports.sock`.
    pub fn exports(&self, method: &str, path: &str, body: &str) -> Answer {
        http(
            &self.control.as_ref().unwrap().join("exports.sock"),
            method,
            path,
            body,
        )
    }

    /// The sums of metrics over their labels, as of one moment.
    pub fn metrics<const N: usize>(&self, names: [&str; N]) -> [u64; N] {
        let text = self.transfers("GET", "/metrics", "").body;
        names.map(|name| samples(&text, name).iter().sum())
    }

    /// The samples of a metric, in the order of its labels.
    pub fn metric(&self, name: &str) -> Vec<u64> {
        samples(&self.transfers("GET", "/metrics", "").body, name)
    }

    /// Sets tunables under way.
    #[track_caller]
    pub fn tune(&self, values: &Value) {
        let answer = self.transfers("PATCH", "/v1/tunables", &values.to_string());
        answer.json(200);
    }

    /// A request to `transfers.sock`.
    pub fn transfers(&self, method: &str, path: &str, body: &str) -> Answer {
        http(
            &self.control.as_ref().unwrap().join("transfers.sock"),
            method,
            path,
            body,
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The samples of a metric in a page of metrics.
fn samples(page: &str, name: &str) -> Vec<u64> {
    let is_sample = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{']))
    };
    let samples: Vec<u64> = page
        .lines()
        .filter(is_sample)
        .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        .collect();
    assert!(!samples.is_empty(), "no {name} in {page}");
    samples
}

/// What HTTP answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body, after asserting status and the keys of every answer.
    #[track_caller]
    pub fn json(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let value: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(value["api"], 1);
        assert!(value["boot_id"].is_string());
        value
    }
}

/// One request over a Unix socket, one connection.
pub fn http(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let len = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        body: body.to_owned(),
    }
}

/// TLS of a client with the certificate of `pki`.
pub fn client_config(pki: &Path, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    let read = |name: &str| std::fs::read(pki.join(name)).ok();
    let credentials = tls::Credentials {
        ca_pem: read("ca-cert.pem").unwrap(),
        cert_pem: read("client-cert.pem"),
        key_pem: read("client-key.pem"),
    };
    let policy = tls::TlsPolicy {
        alpn: alpn.iter().map(|name| name.to_vec()).collect(),
        ..tls::TlsPolicy::default()
    };
    tls::client_config(&credentials, &policy).unwrap()
}

/// SHA-256 of the client certificate in `pki`, as exports name it.
pub fn client_fingerprint(pki: &Path) -> String {
    let pem = std::fs::read(pki.join("client-cert.pem")).unwrap();
    let bytes = tls::pki::fingerprint(&pem).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A socket that does not wait for ever.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything until the server closes; a reset is an end as well.
pub fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return all,
            Ok(len) => all.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("the server does not close: {error}"),
        }
    }
}

/// Runs a tool in `bed`, which must succeed; its standard output.
pub fn tool(bed: &Bed, program: &str, args: &[&str]) -> String {
    finish(bed.command(program).args(args)).done().stdout
}
