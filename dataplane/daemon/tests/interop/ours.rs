//! Our server with all its listeners, and the ways to it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crate::common::Bed;
use crate::peers::{self, Loop, binary};
use crate::process::{Daemon, PATIENCE};

/// How a client comes in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// The plain Unix socket.
    Plain,
    /// STARTTLS.
    Starttls,
    /// TLS first: stunnel in front of a plain client.
    Stunnel,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Starttls, Self::Stunnel];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Starttls => "starttls",
            Self::Stunnel => "first",
        }
    }
}

/// A disk that is served.
pub(crate) struct Export {
    pub(crate) name: &'static str,
    /// Smallest block a client may ask for.
    pub(crate) block: u32,
    pub(crate) len: u64,
    /// What is below, read back past the server.
    pub(crate) backing: PathBuf,
    /// What is copied there, of the same size.
    pub(crate) source: PathBuf,
    device: Option<Loop>,
}

/// Everything that foreign clients need.
pub(crate) struct Site<'a> {
    pub(crate) bed: &'a Bed,
    /// On which our side runs.
    pub(crate) runtime: &'static str,
    pub(crate) mk_port: u16,
    pub(crate) nbds_port: u16,
    _stunnel: Daemon,
    _server: Daemon,
    /// Last, because the server has to let go of the devices first.
    pub(crate) exports: Vec<Export>,
}

const MIB: u64 = 1 << 20;

impl<'a> Site<'a> {
    pub(crate) fn start(bed: &'a Bed, runtime: &'static str) -> Self {
        // The tail of a file may be any length; QEMU wants whole sectors.
        let exports: Vec<Export> = [
            ("file", 1, 12 * MIB + 512),
            ("loop512", 512, 12 * MIB + 512),
            ("loop4096", 4096, 12 * MIB + 4096),
        ]
        .into_iter()
        .filter_map(|(name, block, len)| Export::make(bed, name, block, len))
        .collect();
        let mut command = bed.command(binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--tls-dir", "site"]);
        command.args(["--nbds-listen", "127.0.0.1:0", "--nbd-unix", "plain.sock"]);
        command.args(["--control-dir", "ctl", "--runtime", runtime]);
        for export in &exports {
            let place = export.device.as_ref().map_or_else(
                || export.backing.display().to_string(),
                |device| device.device.clone(),
            );
            command
                .arg("--export")
                .arg(format!("{}={place}", export.name));
        }
        let view = exports[0].source.display();
        command.arg("--export").arg(format!("view=ro:{view}"));
        let starts = [
            "listening 127",
            "listening nbds ",
            "listening nbd-unix ",
            "listening control ",
        ];
        let server = Daemon::start(&mut command, &bed.path("serve.out"), |out| {
            starts.iter().all(|start| line(out, start).is_some())
        })
        .unwrap();
        let out = server.output();
        let port = |start| {
            line(&out, start)
                .unwrap()
                .rsplit(':')
                .next()
                .unwrap()
                .parse()
                .unwrap()
        };
        let mk_port = port("listening 127");
        let accept = bed.path("stunnel.sock").display().to_string();
        let connect = format!("127.0.0.1:{mk_port}");
        Self {
            bed,
            runtime,
            mk_port,
            nbds_port: port("listening nbds "),
            _stunnel: peers::stunnel(bed, "mk", true, &accept, &connect).unwrap(),
            _server: server,
            exports,
        }
    }

    /// For libnbd's programs.
    pub(crate) fn uri(&self, way: Way, export: &str) -> String {
        let socket = |name| {
            format!(
                "nbd+unix:///{export}?socket={}",
                self.bed.path(name).display()
            )
        };
        match way {
            Way::Plain => socket("plain.sock"),
            Way::Stunnel => socket("stunnel.sock"),
            Way::Starttls => self.starttls_uri(export, "site"),
        }
    }

    /// For our own client, which needs nobody to put TLS first.
    pub(crate) fn our_uri(&self, way: Way, export: &str) -> String {
        let dir = self.bed.path("site");
        let port = self.mk_port;
        match way {
            Way::Plain | Way::Starttls => self.uri(way, export),
            Way::Stunnel => format!(
                "mk://127.0.0.1:{port}/{export}?tls-certificates={}",
                dir.display()
            ),
        }
    }

    /// STARTTLS with the certificates of any folder.
    pub(crate) fn starttls_uri(&self, export: &str, certificates: &str) -> String {
        let dir = self.bed.path(certificates);
        let port = self.nbds_port;
        format!(
            "nbds://localhost:{port}/{export}?tls-certificates={}",
            dir.display()
        )
    }

    /// For QEMU's programs: image options.
    pub(crate) fn image(&self, way: Way, export: &str) -> String {
        let socket = |name| {
            let path = self.bed.path(name);
            format!(
                "driver=nbd,server.type=unix,server.path={},export={export}",
                path.display()
            )
        };
        let port = self.nbds_port;
        match way {
            Way::Plain => socket("plain.sock"),
            Way::Stunnel => socket("stunnel.sock"),
            Way::Starttls => format!(
                "driver=nbd,server.type=inet,server.host=localhost,server.port={port},export={export},tls-creds=tls0"
            ),
        }
    }

    /// Sums of counters over the shards, as of one moment.
    pub(crate) fn counters<const N: usize>(&self, names: [&str; N]) -> [u64; N] {
        let mut stream = UnixStream::connect(self.bed.path("ctl/transfers.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        names.map(|name| {
            let values: Vec<u64> = text
                .lines()
                .filter(|line| line.starts_with(name))
                .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
                .collect();
            assert!(!values.is_empty(), "no {name} in {text}");
            values.iter().sum()
        })
    }
}

impl Export {
    /// `None` where a loop device is needed and there are none.
    fn make(bed: &Bed, name: &'static str, block: u32, len: u64) -> Option<Self> {
        let backing = bed.path(name);
        peers::fill(&backing, len);
        let device = match block {
            1 => None,
            sector => Some(Loop::make(&backing, sector)?),
        };
        Some(Self {
            name,
            block,
            len,
            backing,
            source: bed.disk(&format!("{name}.source"), len),
            device,
        })
    }

    /// Fills the disk with something that no source has.
    pub(crate) fn reset(&self) {
        peers::fill(&self.backing, self.len);
    }
}

fn line<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    // The last line may be half written.
    let whole = &text[..text.rfind('\n')?];
    whole.lines().find(|line| line.starts_with(start))
}
