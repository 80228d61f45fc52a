//! One transfer: its numbers, its events, its end.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control::{
    ErrorBody, ErrorKind, TransferEvent, TransferId, TransferProgress, TransferReport,
    TransferRequest, TransferState, TransferView,
};
use engine::{Cancel, Engine, EngineError, Progress, TransferSpec};
use tokio::sync::watch;

use super::events::EventLog;
use crate::serve::limits::PROGRESS_EVENT_INTERVAL;
use crate::serve::problem;

/// A transfer, shared by its thread and whoever asks about it.
pub(in crate::serve) struct Transfer {
    request: TransferRequest,
    cancel: Cancel,
    live: Mutex<Live>,
    over: Condvar,
    /// Id of the newest event, for streams that wait.
    newest: watch::Sender<u64>,
}

struct Live {
    state: TransferState,
    progress: TransferProgress,
    report: Option<TransferReport>,
    error: Option<ErrorBody>,
    events: EventLog,
    progress_told_at: Instant,
}

impl Transfer {
    pub(super) fn new(request: TransferRequest) -> Self {
        let transfer = Self {
            request,
            cancel: Cancel::default(),
            live: Mutex::new(Live {
                state: TransferState::Running,
                progress: TransferProgress::default(),
                report: None,
                error: None,
                events: EventLog::default(),
                progress_told_at: Instant::now(),
            }),
            over: Condvar::new(),
            newest: watch::Sender::new(0),
        };
        transfer.tell_state(&mut transfer.lock());
        transfer
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self) -> &TransferId {
        &self.request.id
    }

    /// Runs it to its end on the calling thread.
    pub(super) fn run(&self, engine: &Engine, spec: &TransferSpec) {
        let id = self.request.id.as_str();
        tracing::info!(
            id,
            source = self.request.source,
            target = self.request.target,
            "transfer starts"
        );
        let outcome = engine::transfer::run(engine, spec, &self.cancel, &mut |progress| {
            self.observe(progress);
        });
        match &outcome {
            Ok(_) => tracing::info!(id, "transfer succeeded"),
            Err(error) => {
                tracing::warn!(id, "transfer ended: {}", crate::serve::log::chain(error));
            }
        }
        self.finish(outcome);
    }

    fn observe(&self, progress: &Progress) {
        let mut live = self.lock();
        live.progress = convert(progress);
        if live.progress_told_at.elapsed() >= PROGRESS_EVENT_INTERVAL {
            live.progress_told_at = Instant::now();
            let event = TransferEvent::Progress {
                at_ms: now_ms(),
                progress: live.progress,
            };
            self.tell(&mut live, event);
        }
    }

    fn finish(&self, outcome: Result<engine::TransferReport, EngineError>) {
        match outcome {
            Ok(report) => {
                let mut live = self.lock();
                live.progress = convert(&report.progress);
                live.report = Some(report_of(report));
                self.end(&mut live, TransferState::Succeeded);
            }
            Err(error) => self.fail(problem::engine(&error)),
        }
    }

    /// Ends it without success.
    pub(super) fn fail(&self, error: ErrorBody) {
        let state = match error.kind {
            ErrorKind::Cancelled => TransferState::Cancelled,
            _ => TransferState::Failed,
        };
        let mut live = self.lock();
        live.error = Some(error);
        self.end(&mut live, state);
    }

    fn end(&self, live: &mut Live, state: TransferState) {
        live.state = state;
        self.tell_state(live);
        self.over.notify_all();
    }

    /// Asks it to end.
    pub(in crate::serve) fn cancel(&self) {
        let mut live = self.lock();
        if live.state == TransferState::Running {
            live.state = TransferState::Cancelling;
            self.cancel.cancel();
            self.tell_state(&mut live);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().state.is_final()
    }

    /// Blocks until it is over; false when it is not after `timeout`.
    pub(in crate::serve) fn wait(&self, timeout: Duration) -> bool {
        let waited = self
            .over
            .wait_timeout_while(self.lock(), timeout, |live| !live.state.is_final())
            .unwrap_or_else(PoisonError::into_inner);
        waited.0.state.is_final()
    }

    pub(in crate::serve) fn view(&self) -> TransferView {
        self.view_of(&self.lock())
    }

    /// Its view, when `request` asks for the very same.
    pub(super) fn view_if_same(
        &self,
        request: &TransferRequest,
    ) -> Result<TransferView, ErrorBody> {
        if *request == self.request {
            return Ok(self.view());
        }
        Err(problem::refuse(
            ErrorKind::Conflict,
            format!(
                "transfer {} exists and is not what was asked for",
                request.id
            ),
            "choose another id for another transfer",
        ))
    }

    fn view_of(&self, live: &Live) -> TransferView {
        TransferView {
            id: self.request.id.clone(),
            state: live.state,
            source: self.request.source.clone(),
            target: self.request.target.clone(),
            progress: live.progress,
            report: live.report.clone(),
            error: live.error.clone(),
        }
    }

    fn tell_state(&self, live: &mut Live) {
        let transfer = Box::new(self.view_of(live));
        self.tell(
            live,
            TransferEvent::State {
                at_ms: now_ms(),
                transfer,
            },
        );
    }

    fn tell(&self, live: &mut Live, event: TransferEvent) {
        live.events.push(event);
        self.newest.send_replace(live.events.last_id());
    }

    /// The event that follows `seen`; waits for it. `None` when the last one was seen.
    ///
    /// Safe to cancel: nothing is taken out of anything.
    pub(in crate::serve) async fn next_event(&self, seen: u64) -> Option<(u64, TransferEvent)> {
        let mut newest = self.newest.subscribe();
        loop {
            newest.mark_unchanged();
            {
                let live = self.lock();
                if let Some(event) = live.events.after(seen) {
                    return Some(event);
                }
                if live.state.is_final() {
                    return None;
                }
            }
            // The sender lives as long as we are borrowed.
            newest.changed().await.ok()?;
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    ms(since)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn convert(progress: &Progress) -> TransferProgress {
    TransferProgress {
        total_bytes: progress.total_bytes,
        data_bytes: progress.data_bytes,
        zero_bytes: progress.zero_bytes,
        skipped_bytes: progress.skipped_bytes,
        resumed_bytes: progress.resumed_bytes,
        void_bytes: progress.void_bytes,
        durable_bytes: progress.durable_bytes,
        verified_bytes: progress.verified_bytes,
        comparing_bytes: progress.comparing_bytes,
        compared_bytes: progress.compared_bytes,
        in_flight_bytes: progress.in_flight_bytes,
        elapsed_ms: ms(progress.elapsed),
        stalled_ms: ms(progress.stalled_for),
    }
}

fn report_of(report: engine::TransferReport) -> TransferReport {
    TransferReport {
        time_to_durable_ms: ms(report.time_to_durable),
        connections: report.connections as u64,
        request_bytes: u64::from(report.request_bytes),
        suite: report.suite,
        durable: report.durable,
        discarded: report.discarded,
        integrity: report.integrity.name().to_owned(),
        verified_by: report.verified_by.map(|by| by.to_string()),
        reconnects: report.reconnects,
        plaintext_copied_bytes: report.plaintext_copied_bytes,
        cpu_seconds: report.cpu_seconds,
        warnings: report.warnings,
    }
}
