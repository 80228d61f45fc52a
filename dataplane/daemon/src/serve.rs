//! `serve`: exports for NBD clients over TLS, and the sockets by which they are controlled.
//!
//! ```text
//! main thread: async runtime ── door (accept, TLS, negotiation) ──► Engine::serve ──► shards
//!                            ├─ control sockets (HTTP) ──► registry, transfers, tunables
//!                            └─ signals: reload, drain
//! ```
//! The runtime runs on the main thread alone and no payload passes it. What may block (devices, files,
//! waiting for connections to end) runs on its blocking threads; each transfer has a thread of its own.
//!
//! Absent on purpose: a listener for plain NBD on a network address, exports that outlive the process,
//! resumption of TLS sessions.

mod args;
mod certificates;
mod config;
mod context;
mod data;
mod door;
mod exports;
mod http;
mod life;
mod limits;
pub(crate) mod log;
mod notify;
mod problem;
mod signals;
mod transfers;
mod trials;

use std::sync::Arc;

use control::{ErrorBody, ErrorKind, Listener, ListenerKind};
use engine::engine::ARENA_BYTES;
use engine::{Engine, EngineConfig, Tunables};
use nix::sys::resource::{Resource, getrlimit};
use tokio::runtime::Runtime;

use crate::exit::{Exit, Failure, Side};
use crate::report;
use crate::size::format_size;

pub(crate) use args::ServeArgs;
use certificates::ServerTls;
use config::{Address, Config};
use context::Context;
use door::Listening;
use exports::DrainTimeout;

/// Scheduler ticks between looks at the sockets. The default of 61 is meant for tasks that do work; here
/// a look must come before more connections are accepted than may wait.
const EVENT_INTERVAL: u32 = 16;
/// Threads for what may block: opening devices, flushing, waiting.
const BLOCKING_THREADS_MAX: usize = 64;

/// Runs the verb.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = Config::load(args)?;
    if args.print_config {
        return report::text(&config.to_toml()?);
    }
    // Before anything is open: from here on no signal ends the process behind our back.
    let orders = signals::watch()?;
    let context = start(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("mk-blocking")
        .build()
        .map_err(|error| {
            let remedy = "check the limits on descriptors and threads";
            Failure::usage("the async runtime cannot start", "serve", remedy).caused_by(&error)
        })?;
    open_exports(&context)?;
    listen(&runtime, &context)?;
    let outcome = runtime.block_on(life::live(&context, args, orders));
    // Ends the door and the control sockets, and with them their hold on the context.
    runtime.shutdown_timeout(limits::CLOSE_TIMEOUT);
    stop_engine(context);
    outcome
}

/// Everything that is needed before anybody may connect.
fn start(config: Config) -> Result<Arc<Context>, Failure> {
    let tunables = Tunables::new();
    for note in config.apply_tunables(&tunables)? {
        tracing::warn!("{note}");
    }
    let suite = tunables.aead();
    let tls = config
        .tls_dir
        .as_deref()
        .map(|dir| ServerTls::load(dir, suite))
        .transpose()?;
    let engine = start_engine(&tunables)?;
    Context::new(engine, tunables, tls, config)
        .map(Arc::new)
        .map_err(|error| {
            let on = "/proc/sys/kernel/random/uuid";
            Failure::usage("the kernel gives no random id", on, "mount /proc").caused_by(&error)
        })
}

fn start_engine(tunables: &Arc<Tunables>) -> Result<Engine, Failure> {
    let runtime = sys::runtime::select(tunables.runtime())
        .map_err(|error| Failure::setup(Side::Local, &error))?;
    for note in &runtime.notes {
        tracing::info!("{note}");
    }
    let config = EngineConfig {
        shards: tunables.shards().unwrap_or_else(sys::cpu::available),
        runtime,
        arena_bytes: ARENA_BYTES,
        pin: tunables.pin(),
        tunables: Arc::clone(tunables),
    };
    Engine::start(config).map_err(|error| Failure::engine(Side::Local, &error))
}

/// The exports of the configuration. At the start all of them must be there: a server without the device
/// it was told to serve helps nobody.
fn open_exports(context: &Arc<Context>) -> Result<(), Failure> {
    let config = context.config();
    let drain = DrainTimeout(config.drain_timeout);
    let problems = context
        .registry
        .apply_rules(&context.engine, &config.exports, drain);
    match problems.into_iter().next() {
        None => Ok(()),
        Some((name, error)) => Err(export_failure(&name, &error)),
    }
}

fn export_failure(name: &str, error: &ErrorBody) -> Failure {
    let exit = match error.kind {
        ErrorKind::Busy | ErrorKind::Refused | ErrorKind::IdentityMismatch => Exit::Refused,
        ErrorKind::Device | ErrorKind::Target => Exit::Target,
        ErrorKind::Bug => Exit::Bug,
        _ => Exit::Usage,
    };
    let blame = match error.blame {
        control::Blame::Peer => engine::Blame::Peer,
        control::Blame::Operator => engine::Blame::Operator,
        control::Blame::Environment => engine::Blame::Environment,
        control::Blame::Bug => engine::Blame::Bug,
    };
    Failure::new(
        exit,
        blame,
        error.what.as_str(),
        format!("export {name}"),
        error.remedy.as_str(),
    )
}

/// Binds everything, then says where, then starts to accept: whoever reads the lines can connect.
fn listen(runtime: &Runtime, context: &Arc<Context>) -> Result<(), Failure> {
    let _inside = runtime.enter();
    let config = context.config();
    let mut doors = Vec::new();
    let unix = config.nbd_unix.clone().map(Address::Unix);
    for (kind, address) in [
        (ListenerKind::Tls, &config.listen),
        (ListenerKind::Nbds, &config.nbds_listen),
        (ListenerKind::NbdUnix, &unix),
    ] {
        if let Some(address) = address {
            doors.push((kind, Listening::bind(address)?));
        }
    }
    let sockets = match &config.control_dir {
        Some(dir) => http::bind(context, dir)?.into(),
        None => Vec::new(),
    };
    let listeners: Vec<Listener> = doors
        .iter()
        .map(|(kind, listening)| Listener {
            kind: *kind,
            address: listening.address(),
        })
        .collect();
    announce(context, &listeners)?;
    // Set once, here.
    let _ = context.listeners.set(listeners);
    for (kind, listening) in doors {
        runtime.spawn(door::run(Arc::clone(context), listening, kind));
    }
    for socket in sockets {
        runtime.spawn(socket.serve());
    }
    runtime.spawn(door::report_turned_away(Arc::clone(context)));
    runtime.spawn(trials::end_leases(Arc::clone(context)));
    Ok(())
}

/// The lines on standard output: the tier, where to connect, where to control.
fn announce(context: &Context, listeners: &[Listener]) -> Result<(), Failure> {
    let found = context.engine.runtime();
    let mut text = format!("tier {}: {}\n", found.tier, found.reason);
    for listener in listeners {
        let word = match listener.kind {
            ListenerKind::Tls => "",
            ListenerKind::Nbds => "nbds ",
            ListenerKind::NbdUnix => "nbd-unix ",
        };
        text.push_str(&format!("listening {word}{}\n", listener.address));
    }
    if let Some(dir) = &context.config().control_dir {
        text.push_str(&format!("listening control {}\n", dir.display()));
    }
    if !found.registered_buffers {
        tell_unregistered();
    }
    report::text(&text)
}

/// Works, with a little more processor time.
fn tell_unregistered() {
    let limit = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft != nix::sys::resource::RLIM_INFINITY => format_size(soft),
        _ => "unlimited".to_owned(),
    };
    tracing::warn!(
        limit,
        "payload memory is not registered with the kernel; with LimitMEMLOCK=infinity (or ulimit -l) it \
         may be"
    );
}

/// The shards end last: nobody is left to hand them work.
fn stop_engine(context: Arc<Context>) {
    let Some(context) = Arc::into_inner(context) else {
        // A thread hangs in a device. The end of the process is all that is left for it.
        tracing::warn!("some work did not end in time and is left to the kernel");
        return;
    };
    if let Err(error) = context.engine.stop(std::time::Duration::ZERO) {
        tracing::warn!("the shards did not end well: {}", log::chain(&error));
    }
}
