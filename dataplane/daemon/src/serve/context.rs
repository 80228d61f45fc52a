//! What every part of a running server shares.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use control::{Connections, Listener, Status};
use engine::{Engine, Tunables};
use tls::SessionLimits;
use tokio::sync::{Notify, watch};

use super::certificates::ServerTls;
use super::config::{Config, SharedConfig};
use super::data::{DataPlaces, HashJobs};
use super::door::{DoorCounters, Preauth};
use super::exports::Registry;
use super::transfers::Transfers;
use super::trials::Trials;

/// The server.
pub(super) struct Context {
    pub(super) engine: Engine,
    pub(super) tunables: Arc<Tunables>,
    /// Values that fall back when their lease ends.
    pub(super) trials: Trials,
    pub(super) registry: Registry,
    pub(super) transfers: Transfers,
    /// There whenever a listener needs it.
    pub(super) tls: Option<ServerTls>,
    config: RwLock<SharedConfig>,
    pub(super) preauth: Mutex<Preauth>,
    /// Told when a place before authentication becomes free.
    pub(super) preauth_freed: Notify,
    /// Connections that have authenticated and are not served yet.
    pub(super) negotiating: AtomicUsize,
    /// Connections of `mk-data/1`.
    pub(super) data_places: Arc<DataPlaces>,
    /// Media that are being read for hashes.
    pub(super) hash_jobs: HashJobs,
    pub(super) door: DoorCounters,
    /// Changes with every start.
    pub(super) boot_id: String,
    /// Changes with every boot of the machine.
    pub(super) machine_boot_id: String,
    started: Instant,
    /// Set once, when everything listens.
    pub(super) listeners: OnceLock<Vec<Listener>>,
    is_draining: watch::Sender<bool>,
    /// How often certificates and configuration were read.
    generation: AtomicU64,
    /// Why the last reading was refused.
    config_error: Mutex<Option<String>>,
}

impl Context {
    pub(super) fn new(
        engine: Engine,
        tunables: Arc<Tunables>,
        tls: Option<ServerTls>,
        config: Config,
    ) -> std::io::Result<Self> {
        Ok(Self {
            engine,
            tunables,
            trials: Trials::default(),
            registry: Registry::default(),
            transfers: Transfers::default(),
            tls,
            preauth: Mutex::new(Preauth::new(config.preauth_connections_max)),
            preauth_freed: Notify::new(),
            config: RwLock::new(Arc::new(config)),
            negotiating: AtomicUsize::new(0),
            data_places: Arc::default(),
            hash_jobs: HashJobs::default(),
            door: DoorCounters::new(),
            boot_id: kernel_id("uuid")?,
            machine_boot_id: kernel_id("boot_id")?,
            started: Instant::now(),
            listeners: OnceLock::new(),
            is_draining: watch::Sender::new(false),
            generation: AtomicU64::new(1),
            config_error: Mutex::new(None),
        })
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> SharedConfig {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the configuration. Listeners and threads stay as they are.
    pub(super) fn replace_config(&self, config: Config) {
        let max = config.preauth_connections_max;
        self.preauth
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set_max(max);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes whether the last reading of the configuration was good.
    pub(super) fn note_config_error(&self, error: Option<String>) {
        *self
            .config_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// When keys change. Who is at the other end is not known before its records come, so the pace is the
    /// one that every TLS library bears.
    pub(super) fn session_limits(&self) -> SessionLimits {
        let mut limits = SessionLimits::for_gnutls();
        if let Some(records) = self.config().records_per_key {
            limits.records_per_key = records;
        }
        limits
    }

    /// From now on the process takes no new work.
    pub(super) fn set_draining(&self) {
        self.is_draining.send_replace(true);
    }

    pub(super) fn is_draining(&self) -> bool {
        *self.is_draining.borrow()
    }

    /// Becomes true when the process begins to end.
    pub(super) fn drain_begun(&self) -> watch::Receiver<bool> {
        self.is_draining.subscribe()
    }

    pub(super) fn uptime_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// The last reading of certificates and configuration was refused.
    pub(super) fn has_config_error(&self) -> bool {
        self.config_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    pub(super) fn connections(&self) -> Connections {
        let served: usize = self
            .registry
            .exports()
            .iter()
            .map(|export| export.connections())
            .sum();
        Connections {
            preauth: self
                .preauth
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .len() as u64,
            negotiating: self.negotiating.load(Ordering::Relaxed) as u64,
            served: served as u64,
            data: self.data_places.taken() as u64,
        }
    }

    pub(super) fn status(&self) -> Status {
        let runtime = self.engine.runtime();
        let (exports, holds) = self.registry.counts();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.uptime_s(),
            tier: runtime.tier.name().to_owned(),
            tier_reason: runtime.reason.clone(),
            registered_buffers: runtime.registered_buffers,
            shards: self.engine.shard_count() as u64,
            listeners: self.listeners.get().cloned().unwrap_or_default(),
            connections: self.connections(),
            exports: exports as u64,
            holds: holds as u64,
            transfers_running: self.transfers.running() as u64,
            draining: self.is_draining(),
            server_fingerprint: self.tls.as_ref().map(|tls| tls.fingerprint().to_string()),
            config_generation: self.generation(),
            config_error: self
                .config_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

/// An id from the kernel: `uuid` is another one each time, `boot_id` the same until the machine boots again.
fn kernel_id(kind: &str) -> std::io::Result<String> {
    std::fs::read_to_string(format!("/proc/sys/kernel/random/{kind}"))
        .map(|id| id.trim().to_owned())
}
