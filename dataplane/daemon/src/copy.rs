//! `copy SOURCE TARGET`: from flags to a transfer, and from its outcome to a result.

mod extents_file;
mod image;
mod qemu;
mod settings;
mod source;

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use engine::engine::ARENA_BYTES;
use engine::transfer::JournalSpec;
use engine::{Cancel, Engine, EngineConfig, ExtentSet, Progress, TransferSpec, transfer};
use nix::sys::resource::{UsageWho, getrusage};

use crate::cli::{CopyArgs, OutputFormat, SourceFormat};
use crate::endpoint::{ConnectOptions, endpoint};
use crate::exit::{Exit, Failure, Side};
use crate::report::{self, copied::CopyFacts, copied::CopyResult, progress::ProgressView};
use crate::signals;
use crate::uri::{Uri, UriError};
use settings::Settings;
use source::SourceEnd;

/// Time the connections get to say good-bye. The transfer is over, so nothing else is left to drain.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the verb.
pub(crate) fn run(args: &CopyArgs) -> Result<(), Failure> {
    let source_uri = read_uri(&args.source)?;
    let target_uri = read_uri(&args.target)?;
    source::refuse_same_disk(&source_uri, &target_uri)?;
    let mut settings = Settings::of(args)?;
    let connect = ConnectOptions {
        tls_dir: args.tls_dir.clone(),
        suite: settings.tunables.aead(),
        connect_timeout: Duration::from_secs(args.connect_timeout),
    };
    let cancel = Cancel::default();
    signals::watch(&cancel)?;
    let source = SourceEnd::open(&source_uri, args, &settings, &connect, &cancel)?;
    settings.warnings.extend(source.warning());
    let journal = journal(args, &source)?;
    let target = endpoint(&target_uri, &connect)?;
    let extents = read_extents(args, &source)?;
    let mut spec = settings.spec(args, source.endpoint(), target, extents);
    spec.source_files = source.files();
    spec.journal = journal;
    let copy = Copy {
        args,
        source_uri,
        target_uri,
        settings,
        source,
    };
    copy.transfer(&spec, &cancel)
}

/// Everything a copy is made of, beside its transfer.
struct Copy<'a> {
    args: &'a CopyArgs,
    source_uri: Uri,
    target_uri: Uri,
    settings: Settings,
    source: SourceEnd,
}

impl Copy<'_> {
    fn transfer(mut self, spec: &TransferSpec, cancel: &Cancel) -> Result<(), Failure> {
        if cancel.is_cancelled() {
            return Err(qemu::interrupted(self.source_uri.to_string()));
        }
        let engine = self.start_engine()?;
        self.tell_tier(engine.runtime());
        let mut view = ProgressView::new(self.args.progress);
        let mut last = Progress::default();
        // A null target answers a flush as well, and keeps nothing.
        let keeps = !matches!(self.target_uri, Uri::Null { .. });
        let outcome = transfer::run(&engine, spec, cancel, &mut |progress| {
            last = Progress {
                durable_bytes: if keeps { progress.durable_bytes } else { 0 },
                ..*progress
            };
            view.observe(&last);
        });
        view.finish(&last);
        let shards = engine.shard_count();
        let stopped = engine.stop(STOP_TIMEOUT);
        let report = match outcome {
            Ok(report) => report,
            Err(error) => {
                let failure = name_the_flag(Failure::engine(self.guilty_side(&error.on), &error));
                return Err(match self.source {
                    SourceEnd::Image { server, .. } => server.explain(failure),
                    SourceEnd::Direct { .. } => failure,
                });
            }
        };
        // The bytes are durable, so a shard that did not end in time is no failure of the copy.
        if let Err(error) = stopped {
            report::warning(&format!("a shard did not end: {error}"));
        }
        self.tell(shards, report)
    }

    fn start_engine(&self) -> Result<Engine, Failure> {
        let runtime = sys::runtime::select(self.settings.tunables.runtime())
            .map_err(|error| Failure::setup(Side::Local, &error))?;
        let config = EngineConfig {
            shards: self.settings.shards,
            runtime,
            arena_bytes: ARENA_BYTES,
            pin: self.settings.tunables.pin(),
            tunables: std::sync::Arc::clone(&self.settings.tunables),
        };
        Engine::start(config).map_err(|error| Failure::engine(Side::Local, &error))
    }

    /// A copy without io_uring is slower, and whoever runs it can change that.
    fn tell_tier(&mut self, runtime: &sys::RuntimeReport) {
        let is_free = self.settings.tunables.runtime() == sys::RuntimeChoice::Auto;
        if is_free && runtime.tier == sys::Tier::Epoll {
            let warning = format!("io_uring is not used: {}", runtime.reason);
            report::warning(&warning);
            self.settings.warnings.push(warning);
        }
    }

    /// Whose protocol was broken: the end that `on` names, else the only one that speaks any.
    fn guilty_side(&self, on: &str) -> Side {
        let (source, target) = (self.source_uri.to_string(), self.target_uri.to_string());
        let target_speaks = matches!(self.target_uri, Uri::Nbd(_));
        if on.contains(&source) && !on.contains(&target) || !target_speaks {
            Side::Source
        } else {
            Side::Target
        }
    }

    fn tell(self, shards: usize, report: transfer::TransferReport) -> Result<(), Failure> {
        let mut facts = CopyFacts {
            source: self.args.source.to_string_lossy().into_owned(),
            target: self.args.target.to_string_lossy().into_owned(),
            source_format: self.source.format().map(SourceFormat::name),
            shards,
            source_bytes: self.source.size_bytes(),
            source_allocated_bytes: allocated_bytes(&self.source_uri),
            target_allocated_bytes: allocated_bytes(&self.target_uri),
            helper_cpu_seconds: None,
            warnings: self.settings.warnings,
        };
        if let Uri::Path(path) = &self.target_uri
            && image::looks_like_image(path)
        {
            let warning = "the target is written raw in spite of the extension of its name";
            facts
                .warnings
                .push(format!("{warning}: {}", path.display()));
        }
        if let SourceEnd::Image { server, .. } = self.source {
            // Its CPU time counts for us once it has ended.
            drop(server);
            facts.helper_cpu_seconds = children_cpu_seconds();
        }
        let result = CopyResult::new(facts, report);
        match self.args.output {
            OutputFormat::Json => report::object(&result),
            OutputFormat::Text => {
                result
                    .warnings()
                    .iter()
                    .for_each(|warning| report::warning(warning));
                report::text(&result.to_text())
            }
        }
    }
}

/// The floors below speak of overwriting; here it is a flag.
fn name_the_flag(failure: Failure) -> Failure {
    if failure.exit() == Exit::Refused && failure.remedy().contains("overwriting") {
        return failure.with_remedy("pass --overwrite if its content may be lost");
    }
    failure
}

/// Where the copy writes down what is durable, and what its source is.
fn journal(args: &CopyArgs, source: &SourceEnd) -> Result<Option<JournalSpec>, Failure> {
    let Some(path) = &args.journal else {
        return Ok(None);
    };
    // The engine would say it as well, but has opened the target then, or made it.
    if args.source_id.is_none() && !source.tells_its_state() {
        return Err(Failure::usage(
            "nobody can tell in which state the source is, and a journal is good for one state only",
            args.source.to_string_lossy(),
            "give the source a name with --source-id, another one when it changes",
        ));
    }
    Ok(Some(JournalSpec {
        path: path.clone(),
        resume: args.resume,
        source: match source {
            SourceEnd::Image { server, .. } => server.journal_source(),
            SourceEnd::Direct { .. } => None,
        },
        source_id: args.source_id.clone(),
        version: env!("CARGO_PKG_VERSION"),
    }))
}

fn read_uri(text: &std::ffi::OsStr) -> Result<Uri, Failure> {
    Uri::from_os(text).map_err(|error: UriError| error.into_failure(&text.to_string_lossy()))
}

fn read_extents(args: &CopyArgs, source: &SourceEnd) -> Result<Option<ExtentSet>, Failure> {
    args.extents
        .as_ref()
        .map(|path| extents_file::read(path, source.size_bytes()))
        .transpose()
}

/// What a regular file takes on its file system; `None` for everything else.
fn allocated_bytes(uri: &Uri) -> Option<u64> {
    /// Unit of `st_blocks`, whatever the file system's own.
    const STAT_BLOCK_BYTES: u64 = 512;
    let Uri::Path(path) = uri else { return None };
    let metadata = std::fs::metadata(path).ok()?;
    metadata
        .is_file()
        .then(|| metadata.blocks() * STAT_BLOCK_BYTES)
}

fn children_cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok()?;
    let seconds = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    Some((seconds(usage.user_time()) + seconds(usage.system_time())).as_secs_f64())
}
