//! Paths of tunables.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use control::{ErrorBody, TunableList, TunablePatch, TunableValue, TunableView};
use engine::Tunables;
use engine::tunables::{TunableState, Unit};

use super::answer::{Body, respond};
use crate::serve::config::set_tunable;
use crate::serve::context::Context;
use crate::serve::problem;

pub(super) async fn list(State(context): State<Arc<Context>>) -> Response {
    respond(&context, Ok((StatusCode::OK, view(&context.tunables))))
}

pub(super) async fn patch(
    State(context): State<Arc<Context>>,
    Body(patch): Body<TunablePatch>,
) -> Response {
    let outcome = apply(&context.tunables, &patch);
    respond(
        &context,
        outcome.map(|()| (StatusCode::OK, view(&context.tunables))),
    )
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

fn view(tunables: &Tunables) -> TunableList {
    TunableList {
        tunables: tunables.states().into_iter().map(one).collect(),
    }
}

fn one(state: TunableState) -> TunableView {
    let row = state.tunable;
    let value = |number: u64| match (row.unit, row.choice_name(number)) {
        (Unit::Choice, Some(word)) => TunableValue::Text(word.to_owned()),
        _ => TunableValue::Number(number),
    };
    TunableView {
        name: row.name.to_owned(),
        unit: row.unit.name().to_owned(),
        value: value(state.value),
        default: value(row.default),
        min: row.min,
        max: row.max,
        choices: row.choices.iter().map(ToString::to_string).collect(),
        applies: row.applies.name().to_owned(),
        effect: row.effect.to_owned(),
        clamped: state.clamped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_with_one_mistake_changes_nothing() {
        let tunables = Tunables::new();
        let before = tunables.request_bytes();
        let patch = TunablePatch::from([
            (
                "request_bytes".to_owned(),
                TunableValue::Text("512K".into()),
            ),
            ("speed".to_owned(), TunableValue::Number(1)),
        ]);
        assert!(apply(&tunables, &patch).is_err());
        assert_eq!(tunables.request_bytes(), before);
        let patch = TunablePatch::from([(
            "request_bytes".to_owned(),
            TunableValue::Text("512K".into()),
        )]);
        apply(&tunables, &patch).unwrap();
        assert_eq!(tunables.request_bytes(), 512 << 10);
    }

    #[test]
    fn a_choice_shows_its_word_and_a_number_its_value() {
        let list = view(&Tunables::new());
        let find = |name| list.tunables.iter().find(|one| one.name == name).unwrap();
        assert!(matches!(&find("runtime").value, TunableValue::Text(word) if word == "auto"));
        assert!(matches!(
            find("request_bytes").value,
            TunableValue::Number(_)
        ));
    }
}
