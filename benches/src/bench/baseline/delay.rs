//! A long line: both of ours and of the strongest other over TLS, each through a proxy that delays and one that does
//! not. What it measures is how much an end dares to have in flight; see [`crate::proxy`] for what it does not.

use super::{
    Plan,
    ground::Ground,
    scenario::{Measured, Outcome, Scenario, Side},
};
use anyhow::{Context, Result};
use benches::{
    nbdkit::{Nbdkit, Settings, nbdcopy},
    ours::{Copying, Ours},
    process::{Run, Server, timed},
    spread::GIB,
};
use std::{fs, net::SocketAddr, process::Command};

/// Milliseconds there and back: between continents it is more, within a country less.
const ROUND_TRIP_MS: u64 = 50;
/// Connections of everybody.
const CONNECTIONS: u32 = 8;
/// What the other is tried with: requests in flight on each connection, and their size.
const FOREIGN: [Settings; 4] = [
    settings(16, 256),
    settings(64, 256),
    settings(16, 1024),
    settings(8, 4096),
];

const fn settings(requests: u32, request_kib: u32) -> Settings {
    Settings {
        connections: CONNECTIONS,
        requests,
        request_kib,
    }
}

/// Rounds of all four.
pub(super) fn measure(plan: &Plan) -> Result<Outcome> {
    let ground = Ground::new(plan, Scenario::Delay)?;
    let mut ways = vec![
        Way::ours("ours, 0 ms", &ground, 0)?,
        Way::ours("ours, 50 ms", &ground, ROUND_TRIP_MS)?,
        Way::foreign("nbdcopy -> nbdkit, TLS, 0 ms", &ground, 0)?,
        Way::foreign("nbdcopy -> nbdkit, TLS, 50 ms", &ground, ROUND_TRIP_MS)?,
    ];
    for way in &mut ways {
        way.find_settings(&ground, plan.quick)?;
    }
    let count = ways.len();
    for round in 0..plan.rounds as usize {
        for step in 0..count {
            let way = &mut ways[(round + step) % count];
            let run = way.run(&ground)?;
            way.runs.push(run);
        }
    }
    let sides = ways.into_iter().map(|way| way.into_side(plan.bytes));
    Ok(Outcome::Measured(Measured {
        scenario: Scenario::Delay,
        bytes: plan.bytes,
        sides: sides.collect::<Result<_>>()?,
    }))
}

/// A server, the proxy before it, and what they cost.
struct Way {
    name: &'static str,
    client: Client,
    servers: Vec<Server>,
    proxy: Server,
    proxy_cpu_before: f64,
    runs: Vec<Run>,
}

enum Client {
    /// To this URI.
    Ours(Ours),
    Nbdcopy {
        uri: String,
        settings: Settings,
    },
}

impl Way {
    fn ours(name: &'static str, ground: &Ground, round_trip_ms: u64) -> Result<Self> {
        let control = ground.at(&format!("control-{round_trip_ms}"));
        fs::create_dir(&control)?;
        let export = format!("null:{}", ground.bytes);
        let mut ours = Ours::start(&ground.binary, &ground.pki(), &control, &export)?;
        let (proxy, port) = proxy(ours.uri(), round_trip_ms)?;
        ours.reach_through(port);
        Ok(Self::new(name, Client::Ours(ours), Vec::new(), proxy))
    }

    fn foreign(name: &'static str, ground: &Ground, round_trip_ms: u64) -> Result<Self> {
        let pid_file = ground.at(&format!("nbdkit-{round_trip_ms}.pid"));
        let plugin = ["null".to_owned(), format!("size={}", ground.bytes)];
        let nbdkit = Nbdkit::start(Some(&ground.pki()), &pid_file, &plugin)?;
        let (proxy, port) = proxy(nbdkit.uri(), round_trip_ms)?;
        let uri = format!(
            "nbds://127.0.0.1:{port}/?tls-certificates={}",
            ground.pki().display()
        );
        let client = Client::Nbdcopy {
            uri,
            settings: FOREIGN[0],
        };
        Ok(Self::new(name, client, vec![nbdkit.into_server()], proxy))
    }

    fn new(name: &'static str, client: Client, servers: Vec<Server>, proxy: Server) -> Self {
        Self {
            name,
            client,
            servers,
            proxy,
            proxy_cpu_before: 0.0,
            runs: Vec::new(),
        }
    }

    /// Ours runs with its defaults; the other with its best. Both have run once before the rounds.
    fn find_settings(&mut self, ground: &Ground, quick: bool) -> Result<()> {
        let step = if quick { 2 } else { 1 };
        let mut best = (self.run(ground)?.seconds, FOREIGN[0]);
        for candidate in FOREIGN.into_iter().step_by(step).skip(1) {
            let Client::Nbdcopy { settings, .. } = &mut self.client else {
                break;
            };
            *settings = candidate;
            let seconds = self.run(ground)?.seconds;
            if seconds < best.0 {
                best = (seconds, candidate);
            }
        }
        if let Client::Nbdcopy { settings, .. } = &mut self.client {
            *settings = best.1;
        }
        self.proxy_cpu_before = self.proxy.cpu_seconds()?;
        Ok(())
    }

    fn run(&self, ground: &Ground) -> Result<Run> {
        match &self.client {
            Client::Ours(ours) => ours.write(
                &ground.source(),
                &Copying {
                    integrity: "none",
                    connections: Some(CONNECTIONS),
                    request_kib: None,
                },
            ),
            Client::Nbdcopy { uri, settings } => {
                let mut command = nbdcopy(*settings);
                command.arg(ground.source()).arg(uri);
                timed(&mut command, &[], &self.servers)
            }
        }
    }

    fn into_side(self, bytes: u64) -> Result<Side> {
        let gib = bytes as f64 / GIB * self.runs.len() as f64;
        let proxy = (self.proxy.cpu_seconds()? - self.proxy_cpu_before) / gib;
        let (how, peak_memory_bytes) = match &self.client {
            Client::Ours(ours) => (
                format!("{CONNECTIONS} connections"),
                ours.peak_memory_bytes()?,
            ),
            Client::Nbdcopy { settings, .. } => (
                settings.to_string(),
                self.servers
                    .iter()
                    .map(Server::peak_memory_bytes)
                    .sum::<Result<_>>()?,
            ),
        };
        Ok(Side {
            name: self.name,
            settings: format!("{how}; the proxy took {proxy:.2} CPU s per GiB"),
            runs: self.runs,
            peak_memory_bytes,
        })
    }
}

/// A proxy before the server of that URI, and its port.
fn proxy(uri: &str, round_trip_ms: u64) -> Result<(Server, u16)> {
    let to = uri
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('/'))
        .and_then(|(address, _)| address.parse::<SocketAddr>().ok())
        .with_context(|| format!("no address in {uri}"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("proxy")
        .args(["--to", &to.to_string()])
        .args(["--round-trip-ms", &round_trip_ms.to_string()]);
    let (server, line) = Server::start_until(command, |line| line.starts_with("listening on "))?;
    let port = line.rsplit(':').next().and_then(|port| port.parse().ok());
    Ok((server, port.with_context(|| format!("no port in {line}"))?))
}
