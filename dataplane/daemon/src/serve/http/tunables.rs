//! Paths of tunables.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use control::{TunableList, TunablePatch, TunableValue, TunableView};
use engine::Tunables;
use engine::tunables::{TunableState, Unit};

use super::answer::{Body, respond};
use crate::serve::context::Context;

pub(super) async fn list(State(context): State<Arc<Context>>) -> Response {
    respond(&context, Ok((StatusCode::OK, view(&context.tunables))))
}

pub(super) async fn patch(
    State(context): State<Arc<Context>>,
    Body(patch): Body<TunablePatch>,
) -> Response {
    let outcome = context.trials.set(&context.tunables, &patch);
    respond(
        &context,
        outcome.map(|()| (StatusCode::OK, view(&context.tunables))),
    )
}

/// Every tunable as it stands.
pub(in crate::serve) fn view(tunables: &Tunables) -> TunableList {
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
