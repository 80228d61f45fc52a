//! Leaving the found values in force, and putting back what was there before.

use std::path::Path;

use anyhow::{Context, Result, bail};
use control::{TunableList, TunablePatch, TunableTrial, TunableValue};
use serde::{Deserialize, Serialize};

use crate::peer::Peer;
use crate::plan::Settings;

/// What was in force before.
#[derive(Serialize, Deserialize)]
struct Undo {
    schema: u32,
    target: String,
    values: TunablePatch,
}

/// Sets `values` for good. What was there before is on the disk first.
pub(super) fn apply(
    peer: &mut Peer,
    target: &str,
    path: &Path,
    values: &Settings,
    before: &TunableList,
) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let was = before
        .tunables
        .iter()
        .filter(|one| values.contains_key(one.name.as_str()));
    let undo = Undo {
        schema: 1,
        target: target.to_owned(),
        values: was
            .map(|one| (one.name.clone(), one.value.clone()))
            .collect(),
    };
    let shown = path.display();
    let file = std::fs::File::create_new(path).with_context(|| {
        format!("{shown} cannot be made; when it is there, --revert first, or name another one by --undo")
    })?;
    serde_json::to_writer(&file, &undo)?;
    file.sync_all()?;
    let found = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), TunableValue::Number(*value)));
    set(peer, found.collect())
}

/// Puts back what [`apply`] found.
pub(super) fn revert(peer: &mut Peer, target: &str, path: &Path) -> Result<String> {
    let shown = path.display();
    let text = std::fs::read(path).with_context(|| {
        format!("{shown} cannot be read: nothing was applied, or --undo names another file")
    })?;
    let undo: Undo =
        serde_json::from_slice(&text).with_context(|| format!("{shown} is not ours"))?;
    if undo.target != target {
        bail!("{shown} belongs to {}, not to {target}", undo.target);
    }
    let names: Vec<String> = undo.values.keys().cloned().collect();
    set(peer, undo.values)?;
    std::fs::remove_file(path).with_context(|| format!("{shown} cannot be removed"))?;
    Ok(format!("as before: {}", names.join(", ")))
}

fn set(peer: &mut Peer, values: TunablePatch) -> Result<()> {
    let trial = TunableTrial {
        values,
        lease_s: None,
    };
    let body = serde_json::to_string(&trial)?;
    let _: TunableList = peer.ask("PATCH", "/v1/tunables", &body)?;
    Ok(())
}
