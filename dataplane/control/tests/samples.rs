//! The samples of `control-socket.md` and `mk-data.md` in `docs/interfaces` are what the types say.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;

use control::{
    Answer, ErrorAnswer, ExportFacts, ExportPut, ExportRemoved, ExportView, Flushed, HoldPut,
    HoldRemoved, HoldView, Status, StreamState, TransferEvent, TransferRequest, TransferView,
    TunableList, TunablePatch, TunableTrial,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const CONTROL: &str = include_str!("../../../docs/interfaces/control-socket.md");
const DATA: &str = include_str!("../../../docs/interfaces/mk-data.md");

/// The page's blocks of JSON, by the type that they name.
fn samples(page: &'static str) -> BTreeMap<&'static str, &'static str> {
    let mut samples = BTreeMap::new();
    for block in page.split("```json ").skip(1) {
        let (name, rest) = block.split_once('\n').unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        assert!(
            samples.insert(name, text).is_none(),
            "two samples of {name}"
        );
    }
    samples
}

/// A sample is read as the type, and what the type writes is the sample: no key is missing or unknown.
fn check<T: Serialize + DeserializeOwned>(name: &str, text: &str) {
    let sample: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let read: T =
        serde_json::from_value(sample.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(serde_json::to_value(read).unwrap(), sample, "{name}");
}

#[test]
fn every_sample_of_the_page_is_exactly_what_its_type_writes() {
    let mut samples = samples(CONTROL);
    let mut take = |name: &'static str, check: fn(&str, &str)| {
        let text = samples
            .remove(name)
            .unwrap_or_else(|| panic!("no sample of {name}"));
        check(name, text);
    };
    take("ErrorAnswer", check::<Answer<ErrorAnswer>>);
    take("Status", check::<Answer<Status>>);
    take("ExportPut", check::<ExportPut>);
    take("ExportView", check::<Answer<ExportView>>);
    take("ExportRemoved", check::<Answer<ExportRemoved>>);
    take("Flushed", check::<Answer<Flushed>>);
    take("HoldPut", check::<HoldPut>);
    take("HoldView", check::<Answer<HoldView>>);
    take("HoldRemoved", check::<Answer<HoldRemoved>>);
    take("TransferRequest", check::<TransferRequest>);
    take("TransferView", check::<Answer<TransferView>>);
    take("TransferEvent", check::<Answer<TransferEvent>>);
    take("TunableList", check::<Answer<TunableList>>);
    take("TunablePatch", check::<TunablePatch>);
    assert!(
        samples.is_empty(),
        "samples of unknown types: {:?}",
        samples.keys()
    );
}

#[test]
fn every_sample_of_mk_data_is_exactly_what_its_type_writes() {
    let samples = samples(DATA);
    check::<Answer<ExportFacts>>("ExportFacts", samples["ExportFacts"]);
    check::<TunableTrial>("TunableTrial", samples["TunableTrial"]);
    check::<Answer<StreamState>>("StreamState", samples["StreamState"]);
    assert_eq!(samples.len(), 3, "samples of unknown types");
}

#[test]
fn requests_of_the_page_pass_their_checks() {
    let samples = samples(CONTROL);
    let put: ExportPut = serde_json::from_str(samples["ExportPut"]).unwrap();
    put.validate().unwrap();
    let hold: HoldPut = serde_json::from_str(samples["HoldPut"]).unwrap();
    hold.validate().unwrap();
    let transfer: TransferRequest = serde_json::from_str(samples["TransferRequest"]).unwrap();
    transfer.validate().unwrap();
}
