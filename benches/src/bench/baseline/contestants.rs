//! Who takes part: a server that is started once, and a client that is started for each run.

use super::{
    ground::Ground,
    has,
    scenario::{Place, Scenario},
};
use anyhow::{Context, Result};
use benches::{
    machine::first_line_of,
    nbdkit::{self, Nbdkit, free_port, nbdcopy, version},
    ours::{Copying, Ours},
    process::{Run, Server, timed},
};
use serde::Serialize;
use std::{
    fmt, fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// Ours, and the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    OursStream,
    NbdcopyTls,
    NbdcopyPlain,
    QemuImg,
    Stunnel,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::Ours,
        Self::OursStream,
        Self::NbdcopyTls,
        Self::NbdcopyPlain,
        Self::QemuImg,
        Self::Stunnel,
    ];

    /// A discarded target has nothing that could be compared.
    pub(super) fn can(self, scenario: Scenario) -> bool {
        self != Self::OursStream || !scenario.is_read() && scenario.place() != Place::Null
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursStream => "ours, integrity stream",
            Self::NbdcopyTls => "nbdcopy -> nbdkit, TLS",
            Self::NbdcopyPlain => "nbdcopy -> nbdkit, plain",
            Self::QemuImg => "qemu-img -> nbdkit, TLS",
            Self::Stunnel => "nbdcopy -> stunnel x 2 -> nbdkit",
        }
    }

    /// For names of files.
    pub(super) const fn short(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursStream => "stream",
            Self::NbdcopyTls => "tls",
            Self::NbdcopyPlain => "plain",
            Self::QemuImg => "qemu",
            Self::Stunnel => "stunnel",
        }
    }
}

/// Versions of everything that takes part.
#[derive(Debug, Serialize)]
pub(super) struct Versions {
    pub ours: String,
    pub tier: String,
    pub nbdkit: String,
    pub nbdcopy: String,
    pub qemu_img: String,
    pub stunnel: String,
}

/// Asks each program.
pub(super) fn versions(binary: &Path) -> Result<Versions> {
    let probe = Command::new(binary)
        .args(["probe", "--output", "json"])
        .output()?;
    let probe: serde_json::Value = serde_json::from_slice(&probe.stdout).unwrap_or_default();
    // It tells its version where others tell errors.
    let stunnel = Command::new("stunnel4").arg("-version").output()?;
    let stunnel = String::from_utf8_lossy(&stunnel.stderr);
    let stunnel = stunnel.lines().find(|line| line.contains("stunnel"));
    Ok(Versions {
        ours: first_line_of(Command::new(binary).arg("--version")),
        tier: probe["tier"].as_str().unwrap_or_default().to_owned(),
        nbdkit: version("nbdkit")?,
        nbdcopy: version("nbdcopy")?,
        qemu_img: version("qemu-img")?,
        stunnel: stunnel.unwrap_or_default().to_owned(),
    })
}

/// The first tool that is not there.
pub(super) fn missing_tool() -> Option<&'static str> {
    let tools = ["nbdkit", "nbdcopy", "qemu-img", "stunnel4"];
    tools.into_iter().find(|tool| !has(tool))
}

/// How a client is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settings {
    /// Its own defaults.
    Default,
    Nbdcopy(nbdkit::Settings),
    /// Coroutines of qemu-img; it has one connection.
    QemuImg {
        coroutines: u32,
    },
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("defaults"),
            Self::Nbdcopy(settings) => settings.fmt(f),
            Self::QemuImg { coroutines } => write!(f, "{coroutines} coroutines"),
        }
    }
}

/// A server that runs, and how to reach it.
pub(super) struct Contestant {
    kind: Kind,
    end: End,
}

enum End {
    Ours(Ours),
    Foreign {
        uri: String,
        port: u16,
        near: Vec<Server>,
        far: Vec<Server>,
    },
}

impl Contestant {
    /// Starts the server; `place`: what is behind it, `None`: nothing.
    pub(super) fn start(kind: Kind, ground: &Ground, place: Option<&Path>) -> Result<Self> {
        let name = |suffix: &str| ground.at(&format!("{}.{suffix}", kind.short()));
        let plugin = match place {
            None => vec!["null".to_owned(), format!("size={}", ground.bytes)],
            Some(path) => vec!["file".to_owned(), path.display().to_string()],
        };
        let end = match kind {
            Kind::Ours | Kind::OursStream => {
                let export = match place {
                    None => format!("null:{}", ground.bytes),
                    Some(path) => path.display().to_string(),
                };
                fs::create_dir(name("control"))?;
                End::Ours(Ours::start(
                    &ground.binary,
                    &ground.pki(),
                    &name("control"),
                    &export,
                )?)
            }
            Kind::NbdcopyTls | Kind::QemuImg => {
                Self::alone(Nbdkit::start(Some(&ground.pki()), &name("pid"), &plugin)?)?
            }
            Kind::NbdcopyPlain => Self::alone(Nbdkit::start(None, &name("pid"), &plugin)?)?,
            Kind::Stunnel => {
                let nbdkit = Nbdkit::start(None, &name("pid"), &plugin)?;
                Self::behind_stunnel(ground, nbdkit)?
            }
        };
        Ok(Self { kind, end })
    }

    fn alone(nbdkit: Nbdkit) -> Result<End> {
        Ok(End::Foreign {
            uri: nbdkit.uri().to_owned(),
            port: port_of(nbdkit.uri())?,
            near: Vec::new(),
            far: vec![nbdkit.into_server()],
        })
    }

    /// A tunnel of two stunnels before a plain server, as the predecessor had it.
    fn behind_stunnel(ground: &Ground, nbdkit: Nbdkit) -> Result<End> {
        let (middle, front) = (free_port()?, free_port()?);
        let plain = port_of(nbdkit.uri())?;
        let far = stunnel(
            ground,
            "server",
            &format!("accept = 127.0.0.1:{middle}\nconnect = 127.0.0.1:{plain}\n"),
            middle,
        )?;
        let near = stunnel(
            ground,
            "client",
            &format!("client = yes\naccept = 127.0.0.1:{front}\nconnect = 127.0.0.1:{middle}\n"),
            front,
        )?;
        Ok(End::Foreign {
            uri: format!("nbd://127.0.0.1:{front}/"),
            port: front,
            near: vec![near],
            far: vec![far, nbdkit.into_server()],
        })
    }

    pub(super) fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Of all its servers together; 0 where nothing was told.
    pub(super) fn peak_memory_bytes(&self) -> Result<u64> {
        match &self.end {
            End::Ours(ours) => ours.peak_memory_bytes(),
            End::Foreign { far, .. } => far.iter().map(Server::peak_memory_bytes).sum(),
        }
    }

    /// The fastest settings, by the better of two runs each, in a quick measurement by one.
    pub(super) fn best_settings(&self, ground: &Ground, quick: bool) -> Result<Settings> {
        let sweep = self.sweep(quick);
        let mut best = (f64::INFINITY, sweep[0]);
        for settings in sweep {
            for _ in 0..if quick { 1 } else { 2 } {
                let seconds = self.run(ground, settings)?.seconds;
                if seconds < best.0 {
                    best = (seconds, settings);
                }
            }
        }
        Ok(best.1)
    }

    fn sweep(&self, quick: bool) -> Vec<Settings> {
        match self.kind {
            // What an operator gets who sets nothing.
            Kind::Ours | Kind::OursStream => vec![Settings::Default],
            Kind::QemuImg => [8, 16]
                .map(|coroutines| Settings::QemuImg { coroutines })
                .to_vec(),
            Kind::NbdcopyTls | Kind::NbdcopyPlain | Kind::Stunnel => {
                let all = nbdkit::Settings::SWEEP.map(Settings::Nbdcopy);
                let step = if quick { 3 } else { 1 };
                all.into_iter().step_by(step).collect()
            }
        }
    }

    /// Copies once.
    pub(super) fn run(&self, ground: &Ground, settings: Settings) -> Result<Run> {
        match &self.end {
            End::Ours(ours) => {
                let how = Copying {
                    // The others compare nothing.
                    integrity: match self.kind {
                        Kind::OursStream => "stream",
                        _ => "none",
                    },
                    connections: None,
                    request_kib: None,
                };
                if ground.reads {
                    ours.read(&how)
                } else {
                    ours.write(&ground.source(), &how)
                }
            }
            End::Foreign { near, far, .. } => {
                timed(&mut self.foreign_command(ground, settings)?, near, far)
            }
        }
    }

    fn foreign_command(&self, ground: &Ground, settings: Settings) -> Result<Command> {
        let End::Foreign { uri, port, .. } = &self.end else {
            anyhow::bail!("ours is no foreign contestant");
        };
        Ok(match settings {
            Settings::QemuImg { coroutines } => qemu_img(ground, *port, coroutines),
            Settings::Nbdcopy(settings) => {
                let mut command = nbdcopy(settings);
                if ground.reads {
                    command.arg(uri).arg("null:");
                } else {
                    command.arg(ground.source()).arg(uri);
                }
                command
            }
            Settings::Default => anyhow::bail!("{} has no defaults of ours", self.name()),
        })
    }
}

fn port_of(uri: &str) -> Result<u16> {
    let port = uri
        .split_once("127.0.0.1:")
        .and_then(|(_, rest)| rest.split_once('/')?.0.parse().ok());
    port.with_context(|| format!("no port in {uri}"))
}

/// A running stunnel; `port` is where it accepts.
fn stunnel(ground: &Ground, side: &str, more: &str, port: u16) -> Result<Server> {
    let pki = ground.pki();
    let pki = pki.display();
    let text = format!(
        "foreground = yes\npid =\ndebug = 3\n[disk]\n{more}\
         cert = {pki}/{side}-cert.pem\nkey = {pki}/{side}-key.pem\nCAfile = {pki}/ca-cert.pem\n\
         verifyChain = yes\nrequireCert = yes\nsslVersion = TLSv1.3\nTIMEOUTclose = 0\n"
    );
    let file = ground.at(&format!("stunnel-{side}.conf"));
    fs::write(&file, text)?;
    let child = Command::new("stunnel4")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("stunnel4")?;
    let mut server = Server::adopt(child);
    // It tells nobody when it listens, and a connection to try it would go on to the server behind.
    while !listens(&fs::read_to_string("/proc/net/tcp")?, port) {
        server.still_runs()?;
        std::thread::park_timeout(Duration::from_millis(5));
    }
    Ok(server)
}

/// Somebody accepts on that port of 127.0.0.1, by `/proc/net/tcp`.
fn listens(table: &str, port: u16) -> bool {
    // Address and port as the kernel writes them, and the state TCP_LISTEN.
    let wanted = format!("0100007F:{port:04X}");
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(&wanted) && words.nth(1) == Some("0A")
    })
}

/// qemu-img with certificates and, when it writes, a flush at the end.
fn qemu_img(ground: &Ground, port: u16, coroutines: u32) -> Command {
    let export = format!(
        "driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=127.0.0.1,\
         file.server.port={port},file.tls-creds=tls"
    );
    let mut command = Command::new("qemu-img");
    command
        .arg("convert")
        .arg("--object")
        .arg(format!(
            "tls-creds-x509,id=tls,endpoint=client,dir={}",
            ground.pki().display()
        ))
        // The target is there; writes may come in any order; a flush counts.
        .args(["-n", "-W", "-t", "writeback", "-m", &coroutines.to_string()]);
    if ground.reads {
        command
            .args(["--image-opts", &export, "--target-image-opts"])
            .arg(format!("driver=null-co,size={}", ground.bytes));
    } else {
        command
            .args(["--image-opts", "--target-image-opts"])
            .arg(format!(
                "driver=raw,file.driver=file,file.filename={}",
                ground.source().display()
            ))
            .arg(&export);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_accepts_on_is_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let table = || fs::read_to_string("/proc/net/tcp").unwrap();
        assert!(listens(&table(), port));
        drop(listener);
        assert!(!listens(&table(), port));
    }

    #[test]
    fn ports_are_found_in_uris() {
        assert_eq!(port_of("nbd://127.0.0.1:77/").unwrap(), 77);
        assert!(port_of("nbd://x/").is_err());
    }
}
