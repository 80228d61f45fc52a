//! What must be true of a run.

use super::case::Shape;
use crate::{EngineError, ExtentSet, error::ErrorKind};

/// Shards look at everything twice a second; what goes on only then was forgotten before.
const PROMPT_NS: u64 = 450_000_000;
/// In a world without anything slow the longest wait is for memory or for a wire.
const SLEEP_NS_MAX: u64 = 150_000_000;

/// How a run ended.
pub(super) struct Ending {
    /// The transfer's own word.
    pub result: Result<(), EngineError>,
    /// What the disks held when the flush was answered: (volatile, durable).
    pub at_flush: Option<(Vec<u8>, Vec<u8>)>,
    /// The target in the end.
    pub image: Vec<u8>,
    /// What the transfer called durable.
    pub durable: ExtentSet,
    /// What progress did that it must not.
    pub misconduct: Option<String>,
    /// Leases that did not come back.
    pub leases_missing: usize,
    /// Operations that did not come back.
    pub held: usize,
    /// The run did not come to an end.
    pub hung: bool,
    /// The fault must not stop the transfer.
    pub must_succeed: bool,
    /// No part of the world is slow.
    pub must_be_prompt: bool,
    /// Operations do less than they were asked for, so there are many of them.
    pub in_crumbs: bool,
    /// The longest time in which nothing happened anywhere.
    pub longest_sleep_ns: u64,
    /// Somebody asked for the end: what was not begun then is not there.
    pub cancelled: bool,
    pub turns: u64,
    /// How long it took on the clock of this world.
    pub took_ns: u64,
    pub trace: u64,
    /// The last events.
    pub story: String,
}

/// The first thing that is wrong with a run.
pub(super) fn verdict(shape: &Shape, ending: &Ending) -> Result<(), String> {
    if ending.hung {
        return Err(format!("no end after {} turns", ending.turns));
    }
    if ending.must_be_prompt && ending.longest_sleep_ns > SLEEP_NS_MAX {
        let slept = ending.longest_sleep_ns;
        return Err(format!(
            "nothing happened for {slept} ns: somebody slept too long"
        ));
    }
    // Short reads and writes may add up to more without anybody sleeping.
    if ending.must_be_prompt && !ending.in_crumbs && ending.took_ns > PROMPT_NS {
        let took = ending.took_ns;
        return Err(format!("took {took} ns: somebody slept too long"));
    }
    if ending.leases_missing > 0 {
        return Err(format!("{} leases are missing", ending.leases_missing));
    }
    if ending.held > 0 {
        return Err(format!("{} operations are still held", ending.held));
    }
    if let Some(what) = &ending.misconduct {
        return Err(what.clone());
    }
    untouched_outside(shape, &ending.image)?;
    durable_is_there(shape, ending)?;
    durable_once_flushed(shape, ending)?;
    match &ending.result {
        Ok(()) => succeeded(shape, ending),
        Err(error) if ending.must_succeed => Err(format!("failed without a reason: {error:?}")),
        Err(error) if ending.cancelled && error.kind != ErrorKind::Cancelled => {
            Err(format!("failed instead of being interrupted: {error:?}"))
        }
        Err(error) if error.kind == ErrorKind::Bug => Err(format!("blames itself: {error:?}")),
        Err(error) if error.what.is_empty() => Err("an error without words".into()),
        Err(_) => old_or_new(shape, &ending.image),
    }
}

/// Whatever happened after a checkpoint: what it covered is there.
fn durable_is_there(shape: &Shape, ending: &Ending) -> Result<(), String> {
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    let lost = ending.durable.iter().find(|range| {
        let range = at(range.start)..at(range.end);
        ending.image[range.clone()] != shape.source[range]
    });
    lost.map_or(Ok(()), |range| {
        Err(format!(
            "{range:?} is called durable and is not on the medium"
        ))
    })
}

pub(super) fn expected(shape: &Shape) -> Vec<u8> {
    let mut bytes = shape.target.clone();
    for (start, end) in spans(shape) {
        bytes[start..end].copy_from_slice(&shape.source[start..end]);
    }
    bytes
}

fn spans(shape: &Shape) -> impl Iterator<Item = (usize, usize)> + '_ {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    shape
        .ranges
        .iter()
        .map(move |range| (place(range.start), place(range.end)))
}

fn first_difference(found: &[u8], wanted: &[u8]) -> Option<usize> {
    if found == wanted {
        return None;
    }
    found.iter().zip(wanted).position(|(a, b)| a != b)
}

fn succeeded(shape: &Shape, ending: &Ending) -> Result<(), String> {
    if ending.at_flush.is_none() {
        return Err("success without a flush".into());
    }
    let wanted = expected(shape);
    match first_difference(&ending.image, &wanted) {
        None => Ok(()),
        Some(at) => Err(format!("the target at the end differs from byte {at} on")),
    }
}

/// An answered flush is a promise, whatever comes after it.
fn durable_once_flushed(shape: &Shape, ending: &Ending) -> Result<(), String> {
    let Some((image, durable)) = &ending.at_flush else {
        return Ok(());
    };
    let wanted = expected(shape);
    let whole = if ending.cancelled { image } else { &wanted };
    for (what, found) in [
        ("the target at the end", &ending.image),
        ("the durable target when the flush was answered", durable),
    ] {
        if let Some(at) = first_difference(found, whole) {
            return Err(format!(
                "{what} differs from byte {at} on: {:#04x} instead of {:#04x}",
                found[at], whole[at]
            ));
        }
    }
    Ok(())
}

fn untouched_outside(shape: &Shape, image: &[u8]) -> Result<(), String> {
    let mut at = 0;
    for (start, end) in spans(shape).chain(std::iter::once((image.len(), image.len()))) {
        if let Some(place) = first_difference(&image[at..start], &shape.target[at..start]) {
            return Err(format!("byte {} outside of the ranges changed", at + place));
        }
        at = end;
    }
    Ok(())
}

/// After a failure each byte is what it was or what it was to become.
fn old_or_new(shape: &Shape, image: &[u8]) -> Result<(), String> {
    let strange = (0..image.len())
        .find(|at| image[*at] != shape.target[*at] && image[*at] != shape.source[*at]);
    strange.map_or(Ok(()), |at| {
        Err(format!("byte {at} is neither old nor new"))
    })
}
