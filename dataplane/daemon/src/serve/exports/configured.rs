//! Exports of the configuration: made at the start, compared again at each reload.

use control::{ErrorBody, ErrorKind, ExportMode, ExportState};
use engine::{Engine, Export, ExportSpec, Store};

use super::change::{begin_close, close};
use super::open::{Expected, Opened};
use super::{Asked, DrainTimeout, Entry, Registry};
use crate::serve::config::{ExportRule, StoreRule};
use crate::serve::problem;

/// What a reload has to do about one name.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// Close what is there.
    Remove(String),
    /// Let other clients in; connections stay.
    Admit(&'a ExportRule),
    /// Make it.
    Make(&'a ExportRule),
}

/// The steps from the rules in force to the `wanted` ones: removals first, because a device may move from
/// one name to another.
fn plan<'a>(present: &[ExportRule], wanted: &'a [ExportRule]) -> Vec<Step<'a>> {
    let (mut removals, mut rest) = (Vec::new(), Vec::new());
    for old in present {
        match wanted.iter().find(|rule| rule.name == old.name) {
            Some(rule) if rule == old => {}
            Some(rule)
                if (ExportRule {
                    clients: old.clients.clone(),
                    ..rule.clone()
                }) == *old =>
            {
                rest.push(Step::Admit(rule));
            }
            Some(rule) => {
                removals.push(Step::Remove(old.name.clone()));
                rest.push(Step::Make(rule));
            }
            None => removals.push(Step::Remove(old.name.clone())),
        }
    }
    let is_new = |rule: &&ExportRule| present.iter().all(|old| old.name != rule.name);
    rest.extend(wanted.iter().filter(is_new).map(Step::Make));
    removals.extend(rest);
    removals
}

impl Registry {
    /// Brings the exports of the configuration to `wanted`. What cannot be done is returned, the rest is done.
    pub(in crate::serve) fn apply_rules(
        &self,
        engine: &Engine,
        wanted: &[ExportRule],
        drain: DrainTimeout,
    ) -> Vec<(String, ErrorBody)> {
        let present = self.rules();
        let mut problems = Vec::new();
        for step in plan(&present, wanted) {
            let (name, outcome) = match &step {
                Step::Remove(name) => (name, self.remove_rule(engine, name, drain)),
                Step::Admit(rule) => (&rule.name, self.replace_clients(rule)),
                Step::Make(rule) => (&rule.name, self.make_rule(rule)),
            };
            if let Err(error) = outcome {
                problems.push((name.clone(), error));
            }
        }
        problems
    }

    fn rules(&self) -> Vec<ExportRule> {
        let inner = self.lock();
        let rules = inner
            .exports
            .values()
            .filter_map(|entry| match &entry.asked {
                Asked::Rule(rule) => Some(rule.clone()),
                Asked::Put(_) => None,
            });
        rules.collect()
    }

    fn make_rule(&self, rule: &ExportRule) -> Result<(), ErrorBody> {
        let _claim = self.claim("export", &rule.name)?;
        if self.lock().exports.contains_key(&rule.name) {
            let what = format!("there is an export {} already", rule.name);
            return Err(problem::refuse(
                ErrorKind::Conflict,
                what,
                "choose another name",
            ));
        }
        let (store, hold) = match &rule.store {
            StoreRule::Null { size_bytes } => (
                Store::Null {
                    size_bytes: *size_bytes,
                },
                None,
            ),
            StoreRule::Path(path) => {
                let Opened { file, hold } =
                    self.open_or_share(path, rule.mode, Expected::default())?;
                (Store::Device(file), hold)
            }
        };
        let export = Export::new(ExportSpec {
            name: rule.name.clone(),
            store,
            read_only: rule.mode == ExportMode::Ro,
            scratch: rule.scratch,
        });
        let asked = Asked::Rule(rule.clone());
        self.insert(
            &rule.name,
            Entry {
                export,
                asked,
                state: ExportState::Open,
                hold,
            },
        )
    }

    fn remove_rule(
        &self,
        engine: &Engine,
        name: &str,
        drain: DrainTimeout,
    ) -> Result<(), ErrorBody> {
        let _claim = self.claim("export", name)?;
        let Some((export, was_failed)) = begin_close(&mut self.lock(), name) else {
            return Ok(());
        };
        close(engine, &export, drain)?;
        self.flush_last(name, &export, was_failed)?;
        self.forget(name, &export);
        Ok(())
    }

    fn replace_clients(&self, rule: &ExportRule) -> Result<(), ErrorBody> {
        let _claim = self.claim("export", &rule.name)?;
        if let Some(entry) = self.lock().exports.get_mut(&rule.name) {
            entry.asked = Asked::Rule(rule.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::ClientRule;

    fn rule(name: &str, path: &str) -> ExportRule {
        ExportRule {
            name: name.into(),
            store: StoreRule::Path(path.into()),
            mode: ExportMode::Rw,
            scratch: false,
            clients: ClientRule::Any,
        }
    }

    #[test]
    fn unchanged_exports_are_left_alone() {
        let rules = [rule("a", "/a"), rule("b", "/b")];
        assert_eq!(plan(&rules, &rules), []);
    }

    #[test]
    fn removals_come_first_because_devices_may_change_names() {
        let wanted = [rule("b", "/a")];
        assert_eq!(
            plan(&[rule("a", "/a")], &wanted),
            [Step::Remove("a".into()), Step::Make(&wanted[0])]
        );
        let swapped = [rule("a", "/b"), rule("b", "/a")];
        let steps = plan(&[rule("a", "/a"), rule("b", "/b")], &swapped);
        assert!(matches!(
            steps[..],
            [
                Step::Remove(_),
                Step::Remove(_),
                Step::Make(_),
                Step::Make(_)
            ]
        ));
    }

    #[test]
    fn other_clients_alone_close_nothing() {
        let mut wanted = [rule("a", "/a")];
        wanted[0].clients = ClientRule::Only(vec![]);
        assert_eq!(plan(&[rule("a", "/a")], &wanted), [Step::Admit(&wanted[0])]);
        wanted[0].mode = ExportMode::Ro;
        assert!(matches!(
            plan(&[rule("a", "/a")], &wanted)[..],
            [Step::Remove(_), Step::Make(_)]
        ));
    }
}
