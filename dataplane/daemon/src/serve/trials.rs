//! Trials of tunables: values with a lease, that fall back when it ends or when whoever asked for them is gone.
//!
//! One trial at a time: two that change the same machine would measure each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::{ErrorBody, ErrorKind, TunablePatch};
use engine::Tunables;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::set_tunable;
use super::context::Context;
use super::problem;

/// The trial that runs, if one does.
#[derive(Default)]
pub(super) struct Trials {
    running: Mutex<Option<Trial>>,
    /// Told when a trial begins or its lease changes.
    changed: Notify,
}

struct Trial {
    /// Connection that asked for it.
    owner: u64,
    until: Instant,
    /// What was asked for before, by name.
    before: BTreeMap<String, u64>,
}

impl Trials {
    fn lock(&self) -> MutexGuard<'_, Option<Trial>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets values for good. What a trial has changed as well does not fall back any more.
    pub(super) fn set(&self, tunables: &Tunables, patch: &TunablePatch) -> Result<(), ErrorBody> {
        let mut running = self.lock();
        apply(tunables, patch)?;
        if let Some(trial) = running.as_mut() {
            trial.before.retain(|name, _| !patch.contains_key(name));
        }
        Ok(())
    }

    /// These were set for good by somebody else; they do not fall back.
    pub(super) fn keep(&self, names: &[&str]) {
        if let Some(trial) = self.lock().as_mut() {
            trial
                .before
                .retain(|known, _| !names.contains(&known.as_str()));
        }
    }

    /// Sets values until the lease ends; the same owner may add to its trial and renew it.
    pub(super) fn begin(
        &self,
        tunables: &Tunables,
        owner: u64,
        patch: &TunablePatch,
        lease: Duration,
    ) -> Result<(), ErrorBody> {
        let mut running = self.lock();
        if running.as_ref().is_some_and(|trial| trial.owner != owner) {
            return Err(problem::later(
                ErrorKind::Busy,
                "another connection has a trial of tunables",
                "ask again when its lease has ended",
            ));
        }
        let states = tunables.states();
        apply(tunables, patch)?;
        let until = Instant::now() + lease;
        let trial = running.get_or_insert_with(|| Trial {
            owner,
            until,
            before: BTreeMap::new(),
        });
        trial.until = until;
        for state in states {
            let name = state.tunable.name;
            if patch.contains_key(name) {
                trial
                    .before
                    .entry(name.to_owned())
                    .or_insert(state.requested);
            }
        }
        drop(running);
        self.changed.notify_one();
        Ok(())
    }

    /// The connection has ended, and its trial with it.
    pub(super) fn release(&self, tunables: &Tunables, owner: u64) {
        self.end_if(tunables, |trial| trial.owner == owner);
    }

    fn end_if(&self, tunables: &Tunables, is_over: impl FnOnce(&Trial) -> bool) {
        let mut running = self.lock();
        let Some(trial) = running.take_if(|trial| is_over(trial)) else {
            return;
        };
        for (name, value) in trial.before {
            tracing::info!(name, value, "the trial has ended, the tunable falls back");
            if let Err(error) = tunables.set(&name, value) {
                tracing::error!(name, %error, "the tunable does not fall back");
            }
        }
    }

    fn until(&self) -> Option<Instant> {
        self.lock().as_ref().map(|trial| trial.until)
    }
}

/// Ends leases, for ever.
pub(super) async fn end_leases(context: Arc<Context>) {
    let trials = &context.trials;
    loop {
        let changed = trials.changed.notified();
        let Some(until) = trials.until() else {
            changed.await;
            continue;
        };
        if tokio::time::timeout_at(until, changed).await.is_err() {
            let now = Instant::now();
            trials.end_if(&context.tunables, |trial| trial.until <= now);
        }
    }
}

/// Sets all of them, or none: what cannot be right is found on a copy first.
fn apply(tunables: &Tunables, patch: &TunablePatch) -> Result<(), ErrorBody> {
    let trial = Tunables::new();
    for target in [&*trial, tunables] {
        for (name, value) in patch {
            set_tunable(target, name, value).map_err(|error| problem::engine(&error))?;
        }
    }
    for (name, value) in patch {
        tracing::info!(name, ?value, "tunable is set");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::TunableValue;

    fn patch(values: &[(&str, &str)]) -> TunablePatch {
        let value = |text: &str| TunableValue::Text(text.to_owned());
        let pairs = values
            .iter()
            .map(|(name, text)| ((*name).to_owned(), value(text)));
        pairs.collect()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_patch_with_one_mistake_changes_nothing() {
        let (trials, tunables) = (Trials::default(), Tunables::new());
        let before = tunables.request_bytes();
        let wrong = patch(&[("request_bytes", "512K"), ("speed", "1")]);
        assert!(trials.set(&tunables, &wrong).is_err());
        assert!(trials.begin(&tunables, 1, &wrong, MINUTE).is_err());
        assert_eq!(tunables.request_bytes(), before);
        assert_eq!(trials.until(), None, "no trial began");
        trials
            .set(&tunables, &patch(&[("request_bytes", "512K")]))
            .unwrap();
        assert_eq!(tunables.request_bytes(), 512 << 10);
    }

    #[test]
    fn a_trial_falls_back_to_what_was_before_its_first_change() {
        let (trials, tunables) = (Trials::default(), Tunables::new());
        trials
            .set(&tunables, &patch(&[("request_bytes", "512K")]))
            .unwrap();
        let depth = tunables.device_depth();
        trials
            .begin(&tunables, 1, &patch(&[("request_bytes", "1M")]), MINUTE)
            .unwrap();
        let more = patch(&[("request_bytes", "256K"), ("device_depth", "17")]);
        trials.begin(&tunables, 1, &more, MINUTE).unwrap();
        assert_eq!(
            (tunables.request_bytes(), tunables.device_depth()),
            (256 << 10, 17)
        );
        trials.release(&tunables, 2);
        assert_eq!(tunables.device_depth(), 17, "not the owner");
        trials.release(&tunables, 1);
        assert_eq!(
            (tunables.request_bytes(), tunables.device_depth()),
            (512 << 10, depth)
        );
    }

    #[test]
    fn what_is_set_for_good_meanwhile_stays() {
        let (trials, tunables) = (Trials::default(), Tunables::new());
        trials
            .begin(&tunables, 1, &patch(&[("request_bytes", "1M")]), MINUTE)
            .unwrap();
        trials
            .set(&tunables, &patch(&[("request_bytes", "512K")]))
            .unwrap();
        trials.release(&tunables, 1);
        assert_eq!(tunables.request_bytes(), 512 << 10);
    }

    #[test]
    fn there_is_one_trial_at_a_time() {
        let (trials, tunables) = (Trials::default(), Tunables::new());
        trials
            .begin(&tunables, 1, &patch(&[("request_bytes", "1M")]), MINUTE)
            .unwrap();
        let error = trials.begin(&tunables, 2, &patch(&[]), MINUTE).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Busy);
        trials.release(&tunables, 1);
        trials.begin(&tunables, 2, &patch(&[]), MINUTE).unwrap();
    }
}
