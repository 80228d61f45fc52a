//! A lab that runs: a thread with the servers, and what its owner needs to know.

use crate::control::{Control, Core, Shared};
use crate::devices::Devices;
use crate::files::{Bus, Files, Nothing};
use crate::hardware::Hardware;
use crate::seeded::Seeded;
use crate::server::{self, Door};
use crate::settings::{Identifiers, Settings};
use crate::signature::Keys;
use crate::site::id_text;
use crate::time::{self, Clock};
use crate::world::World;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

/// What disks are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Backing {
    /// Records only: no disk exists and nothing appears under by-id.
    Records,
    /// Plain files, linked under by-id.
    #[default]
    Files,
    /// Block devices over a disk with a volatile cache, linked under by-id. Needs root.
    Devices,
}

/// How a lab is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its files live.
    pub folder: PathBuf,
    /// From which ids, delays and the content of disks follow.
    pub seed: u64,
    /// What disks are made of.
    pub backing: Backing,
    /// How the appliance's devices are named.
    pub bus: Bus,
    /// How ids are written.
    pub identifiers: Identifiers,
    /// Whether time stands still until [`Control::advance`].
    pub manual_clock: bool,
    /// Whether the API is served over TLS, with a certificate made at the start.
    pub tls: bool,
    /// Where the API listens; port 0 for any.
    pub listen: SocketAddr,
    /// Where the control endpoint listens.
    pub control: SocketAddr,
    /// What can be changed later, too.
    pub settings: Settings,
}

impl Options {
    /// A lab on files in `folder`, on free ports of loopback, by the machine's clock.
    pub fn new(folder: impl Into<PathBuf>) -> Options {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Options {
            folder: folder.into(),
            seed: 1,
            backing: Backing::default(),
            bus: Bus::default(),
            identifiers: Identifiers::default(),
            manual_clock: false,
            tls: false,
            listen: loopback,
            control: loopback,
            settings: Settings::default(),
        }
    }
}

/// Why a lab did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something of the machine.
    #[error("the lab cannot use {what}: check rights and whether another lab runs there")]
    Machine {
        /// What it was.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The lab would be reachable from elsewhere.
    #[error("the lab listens on loopback only, and {0} is not: it has no rights to guard")]
    NotLoopback(SocketAddr),
    /// The certificate could not be made.
    #[error("the lab could not make its certificate")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A running lab; it ends when this is dropped.
pub struct CloudStack {
    shared: Arc<Shared>,
    address: SocketAddr,
    control: SocketAddr,
    certificate: Option<String>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl CloudStack {
    /// Starts a lab. Returns when it listens.
    ///
    /// # Errors
    /// Where ports, folders or threads are not to be had.
    pub fn start(options: &Options) -> Result<CloudStack, StartError> {
        let machine = |what: &str| {
            let what = what.to_owned();
            move |source| StartError::Machine { what, source }
        };
        let folder = options.folder.display().to_string();
        let hardware: Box<dyn Hardware> = match options.backing {
            Backing::Records => Box::new(Nothing),
            Backing::Files => Box::new(
                Files::new(&options.folder, options.bus, options.seed).map_err(machine(&folder))?,
            ),
            Backing::Devices => Box::new(
                Devices::new(&options.folder, options.bus, options.seed)
                    .map_err(machine(&folder))?,
            ),
        };
        let clock = if options.manual_clock {
            Clock::Manual(AtomicU64::new(time::system_ms()))
        } else {
            Clock::System
        };
        let mut rng = Seeded::new(options.seed ^ 0x006b_6579);
        let keys = Keys {
            api: format!("LabApiKey-{:016x}", rng.next()),
            secret: format!("LabSecretKey-{:016x}{:016x}", rng.next(), rng.next()),
        };
        let world = World::new(
            options.seed,
            options.identifiers,
            options.settings.clone(),
            clock.now_ms(),
        );
        let shared = Arc::new(Shared {
            core: Mutex::new(Core { world, hardware }),
            clock,
            changed: tokio::sync::Notify::new(),
            keys,
            by_id: options.folder.join("by-id"),
        });
        let (api, address) = listen(options.listen)?;
        let (side, control) = listen(options.control)?;
        let (tls, certificate) = if options.tls {
            certificate()?
        } else {
            (None, None)
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(machine("a runtime"))?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let served = shared.clone();
        let thread = std::thread::Builder::new()
            .name("lab".to_owned())
            .spawn(move || runtime.block_on(run(served, [api, side], tls, stopped)))
            .map_err(machine("a thread"))?;
        Ok(CloudStack {
            shared,
            address,
            control,
            certificate,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where the API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API's endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}/client/api", self.address)
    }

    /// The certificate that the API shows, in PEM; absent without TLS.
    #[must_use]
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// Where the control endpoint listens.
    #[must_use]
    pub fn control_address(&self) -> SocketAddr {
        self.control
    }

    /// The side door.
    #[must_use]
    pub fn control(&self) -> Control {
        Control(self.shared.clone())
    }

    /// The keys of the lab's user.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    /// Where the appliance's devices appear.
    #[must_use]
    pub fn by_id(&self) -> &Path {
        &self.shared.by_id
    }

    /// The appliance's VM.
    #[must_use]
    pub fn appliance(&self) -> String {
        self.shared.with(|world, _, _| world.appliance().to_owned())
    }

    /// The zone.
    #[must_use]
    pub fn zone(&self) -> String {
        self.shared
            .with(|world, _, _| id_text(&world.site().zones[0]["id"]))
    }

    /// The disk offering of custom size.
    #[must_use]
    pub fn disk_offering(&self) -> String {
        self.shared
            .with(|world, _, _| id_text(&world.site().disk_offerings[0]["id"]))
    }

    /// A service offering of fixed size, a template and a network: what a machine needs.
    #[must_use]
    pub fn machine_needs(&self) -> (String, String, String) {
        self.shared.with(|world, _, _| {
            let site = world.site();
            let first = |rows: &[serde_json::Value]| id_text(&rows[0]["id"]);
            (
                first(&site.service_offerings),
                first(&site.templates),
                first(&site.networks),
            )
        })
    }
}

impl Drop for CloudStack {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(at: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    if !at.ip().is_loopback() {
        return Err(StartError::NotLoopback(at));
    }
    let bind = || {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bind().map_err(|source| StartError::Machine {
        what: at.to_string(),
        source,
    })
}

fn certificate() -> Result<(Option<TlsAcceptor>, Option<String>), StartError> {
    let make = || -> Result<(TlsAcceptor, String), Box<dyn std::error::Error + Send + Sync>> {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names)?;
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        Ok((TlsAcceptor::from(Arc::new(config)), made.cert.pem()))
    };
    let (acceptor, pem) = make().map_err(StartError::Certificate)?;
    Ok((Some(acceptor), Some(pem)))
}

async fn run(
    shared: Arc<Shared>,
    listeners: [TcpListener; 2],
    tls: Option<TlsAcceptor>,
    stopped: tokio::sync::oneshot::Receiver<()>,
) {
    let [api, side] = listeners.map(tokio::net::TcpListener::from_std);
    let (Ok(api), Ok(side)) = (api, side) else {
        return;
    };
    tokio::spawn(server::accept(api, shared.clone(), Door::Api, tls));
    tokio::spawn(server::accept(side, shared.clone(), Door::Control, None));
    if matches!(shared.clock, Clock::System) {
        tokio::spawn(keep_time(shared));
    }
    let _ = stopped.await;
}

/// Ends jobs when their time has come, without anybody asking.
async fn keep_time(shared: Arc<Shared>) {
    loop {
        let held = shared.clone();
        let Ok(due) = tokio::task::spawn_blocking(move || held.tick_and_next()).await else {
            return;
        };
        let wait = due.map_or(Duration::from_secs(3600), |due| {
            Duration::from_millis(due.saturating_sub(time::system_ms()).max(1))
        });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.changed.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests;
