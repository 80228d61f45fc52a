//! The side door of a lab: faults, the clock, restarts, and a look at what is really there. The same in process
//! ([`Control`]) and over HTTP with JSON.

use crate::faults::Armed;
use crate::hardware::{Digests, Fault, Hardware};
use crate::settings::Settings;
use crate::signature::Keys;
use crate::time::{self, Clock};
use crate::world::{Reply, Restart, World};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a lab consists of.
pub(crate) struct Shared {
    pub(crate) core: Mutex<Core>,
    pub(crate) clock: Clock,
    pub(crate) changed: tokio::sync::Notify,
    pub(crate) keys: Keys,
    pub(crate) by_id: PathBuf,
}

pub(crate) struct Core {
    pub(crate) world: World,
    pub(crate) hardware: Box<dyn Hardware>,
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act` on the world as it is now, and lets what follows at once happen.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut World, u64, &mut dyn Hardware) -> T) -> T {
        let result = {
            let mut core = self.core();
            let Core { world, hardware } = &mut *core;
            let now = self.clock.now_ms();
            let result = act(world, now, hardware.as_mut());
            world.tick(now, hardware.as_mut());
            result
        };
        self.changed.notify_one();
        result
    }

    pub(crate) fn tick_and_next(&self) -> Option<u64> {
        let mut core = self.core();
        let Core { world, hardware } = &mut *core;
        world.tick(self.clock.now_ms(), hardware.as_mut());
        world.next_due()
    }

    /// Whether the rules of POST and expiry are enforced, and the time by which the server judges `expires`.
    pub(crate) fn rules(&self) -> (bool, u64) {
        let core = self.core();
        let settings = &core.world.settings;
        let now = time::system_ms().saturating_add_signed(settings.skew_ms);
        (settings.enforce, now)
    }
}

/// The side door, in process. Cheap to clone; works from any thread.
#[derive(Clone)]
pub struct Control(pub(crate) Arc<Shared>);

impl Control {
    /// Arms a fault.
    pub fn arm(&self, fault: Armed) {
        self.0.with(|world, _, _| world.faults.push(fault));
    }

    /// Takes all faults back.
    pub fn disarm(&self) {
        self.0.with(|world, _, _| world.faults.clear());
    }

    /// The settings as they are.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.0.with(|world, _, _| world.settings.clone())
    }

    /// Changes settings.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        self.0.with(|world, _, _| change(&mut world.settings));
    }

    /// Moves a manual clock, event by event; false where the clock is the machine's.
    pub fn advance(&self, by: Duration) -> bool {
        let Clock::Manual(clock) = &self.0.clock else {
            return false;
        };
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        let end = clock.load(Ordering::SeqCst).saturating_add(by);
        while let Some(due) = self.0.tick_and_next().filter(|due| *due <= end) {
            clock.fetch_max(due, Ordering::SeqCst);
        }
        clock.fetch_max(end, Ordering::SeqCst);
        self.0.tick_and_next();
        true
    }

    /// Restarts the management server; answers how many jobs were unfinished.
    pub fn restart(&self, restart: Restart) -> usize {
        self.0.with(|world, now, _| world.restart(now, restart))
    }

    /// Forgets finished jobs, or only this one; answers how many.
    pub fn expire_jobs(&self, only: Option<&str>) -> usize {
        self.0.with(|world, _, _| world.expire_jobs(only))
    }

    /// Lets stuck jobs end; answers how many.
    pub fn release_jobs(&self) -> usize {
        self.0.with(|world, now, _| world.release_jobs(now))
    }

    /// Cuts the power of the storage: a seeded random subset of what was not flushed is lost. Answers how many writes.
    ///
    /// # Errors
    /// Where disks have no cache, or the machine fails.
    pub fn power_cut(&self, seed: u64) -> Result<u64, LabFault> {
        self.0
            .with(|_, _, hardware| hardware.power_cut(seed))
            .map_err(LabFault)
    }

    /// Digests of a volume's disk.
    ///
    /// # Errors
    /// Where there is no such disk.
    pub fn digests(&self, volume: &str) -> Result<Digests, LabFault> {
        self.0
            .with(|world, _, hardware| world.digests(volume, hardware))
            .map_err(LabFault)
    }

    /// Writes an image from the beginning of a volume's disk: something that a machine can boot.
    ///
    /// # Errors
    /// Where there is no such volume or image.
    pub fn load(&self, volume: &str, image: &std::path::Path) -> Result<(), LabFault> {
        self.0
            .with(|world, _, hardware| world.load(volume, image, hardware))
            .map_err(LabFault)
    }

    /// What is there, whatever lists show.
    #[must_use]
    pub fn state(&self) -> Value {
        self.0.with(|world, _, _| world.state())
    }

    /// A call by somebody else with full rights: no signature, no faults of the wire. Answers status and body.
    pub fn call(&self, parameters: &[(&str, &str)]) -> (u16, Value) {
        let pairs: Vec<_> = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        match self
            .0
            .with(|world, now, hardware| world.call(now, &pairs, hardware))
        {
            Reply::Json { status, body } => (status, body),
            Reply::Proxy { status } => (status, Value::Null),
            Reply::Lost => (0, Value::Null),
        }
    }

    /// What a client needs to know: keys, folder, the appliance, ids of offerings, networks and templates.
    #[must_use]
    pub fn facts(&self) -> Value {
        let shared = &self.0;
        shared.with(|world, _, _| {
            let site = world.site();
            json!({"api_key": shared.keys.api, "secret_key": shared.keys.secret, "by_id": shared.by_id, "appliance": world.appliance(),
                "zones": site.zones, "disk_offerings": site.disk_offerings, "service_offerings": site.service_offerings,
                "networks": site.networks, "templates": site.templates, "pools": site.pools})
        })
    }
}

/// What the machine below the lab could not do.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LabFault(Fault);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_ms: u64,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Expire {
    job: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cut {
    seed: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    volume: String,
    path: PathBuf,
}

/// One request to the control endpoint: status and body.
pub(crate) fn answer(control: &Control, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    route(control, method, path, body)
        .unwrap_or_else(|(status, error)| (status, json!({ "error": error })))
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, (u16, String)> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| (400, error.to_string()))
}

fn route(
    control: &Control,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<(u16, Value), (u16, String)> {
    let machine = |fault: LabFault| (500, fault.to_string());
    let done = |value: Value| Ok((200, value));
    match (method, path) {
        ("GET", "/lab") => done(control.facts()),
        ("GET", "/state") => done(control.state()),
        ("GET", "/settings") => done(json!(control.settings())),
        ("PUT", "/settings") => {
            let settings: Settings = read(body)?;
            control.set(|held| *held = settings);
            done(json!(control.settings()))
        }
        ("POST", "/faults") => {
            control.arm(read(body)?);
            done(control.state()["faults"].clone())
        }
        ("DELETE", "/faults") => {
            control.disarm();
            done(json!({}))
        }
        ("POST", "/clock") => {
            let advance: Advance = read(body)?;
            if control.advance(Duration::from_millis(advance.advance_ms)) {
                return done(json!({}));
            }
            Err((
                409,
                "the clock is the machine's: start the lab with a manual clock".to_owned(),
            ))
        }
        ("POST", "/restart") => done(json!({"failed_jobs": control.restart(read(body)?)})),
        ("POST", "/jobs/expire") => {
            let expire: Expire = read(body)?;
            done(json!({"expired": control.expire_jobs(expire.job.as_deref())}))
        }
        ("POST", "/jobs/release") => done(json!({"released": control.release_jobs()})),
        ("POST", "/power-cut") => {
            let cut: Cut = read(body)?;
            control
                .power_cut(cut.seed)
                .map(|lost| (200, json!({"lost_writes": lost})))
                .map_err(machine)
        }
        ("POST", "/image") => {
            let image: Image = read(body)?;
            control
                .load(&image.volume, &image.path)
                .map(|()| (200, json!({})))
                .map_err(machine)
        }
        ("POST", "/call") => {
            let parameters: std::collections::BTreeMap<String, String> = read(body)?;
            let pairs: Vec<_> = parameters
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            Ok(control.call(&pairs))
        }
        ("GET", path) if path.starts_with("/digests/") => control
            .digests(&path["/digests/".len()..])
            .map(|digests| (200, json!(digests)))
            .map_err(machine),
        _ => Err((404, format!("the control endpoint has no {method} {path}"))),
    }
}
