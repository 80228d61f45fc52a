//! Tests of the table itself, of clamping, and of the generated page.

use std::path::Path;

use proptest::prelude::*;

use super::*;

fn any_row() -> impl Strategy<Value = &'static Tunable> {
    (0..TABLE.len()).prop_map(|index| &TABLE[index])
}

#[test]
fn every_row_is_complete_and_its_values_are_its_own() {
    for row in &TABLE {
        assert!(
            !row.effect.is_empty() && row.effect.ends_with('.'),
            "{}",
            row.name
        );
        for value in [row.min, row.max, row.default] {
            assert_eq!(row.clamp(value), (value, None), "{}", row.name);
        }
        let is_choice = row.unit == Unit::Choice;
        assert_eq!(row.choices.is_empty(), !is_choice, "{}", row.name);
        assert_eq!(row.min_reason.is_empty(), is_choice, "{}", row.name);
        assert_eq!(row.max_reason.is_empty(), is_choice, "{}", row.name);
        let is_read_whole = row.unit == Unit::BytesPerSecond || row.name == "checkpoint_bytes";
        assert!(row.max <= u64::from(u32::MAX) || is_read_whole);
    }
}

#[test]
fn names_are_unique_and_stand_in_the_order_of_the_knobs() {
    let pairs = [
        (Knob::Connections, "connections"),
        (Knob::RequestBytes, "request_bytes"),
        (Knob::WindowBytesMax, "window_bytes_max"),
        (Knob::SendBatchBytes, "send_batch_bytes"),
        (Knob::SendZc, "send_zc"),
        (Knob::RecvBufferBytes, "recv_buffer_bytes"),
        (Knob::DeviceDepth, "device_depth"),
        (Knob::RateBytesPerS, "rate_bytes_per_s"),
        (Knob::ZeroScanBytes, "zero_scan_bytes"),
        (Knob::CheckpointBytes, "checkpoint_bytes"),
        (Knob::CheckpointS, "checkpoint_s"),
        (Knob::Integrity, "integrity"),
        (Knob::HugePages, "huge_pages"),
        (Knob::Aead, "aead"),
        (Knob::Shards, "shards"),
        (Knob::Pin, "pin"),
        (Knob::Runtime, "runtime"),
    ];
    assert_eq!(pairs.len(), TABLE.len());
    for (knob, name) in pairs {
        assert_eq!(TABLE[knob as usize].name, name);
        assert_eq!(index_of(name), Some(knob as usize));
    }
}

#[test]
fn a_new_set_has_the_defaults() {
    let tunables = Tunables::new();
    assert_eq!(tunables.connections(), 4);
    assert_eq!(tunables.request_bytes(), 262_144);
    assert_eq!(tunables.window_bytes_max(), 16 << 20);
    assert_eq!(tunables.send_batch_bytes(), 1 << 20);
    assert_eq!(tunables.send_zc(), SendZc::Off);
    assert_eq!(tunables.recv_buffer_bytes(), 512 << 10);
    assert_eq!(tunables.device_depth(), 64);
    assert_eq!(tunables.rate_bytes_per_s(), None);
    assert_eq!(tunables.zero_scan_bytes(), 65_536);
    assert!(!tunables.huge_pages() && !tunables.pin());
    assert_eq!(tunables.aead(), None);
    assert_eq!(tunables.shards(), None);
    assert_eq!(tunables.runtime(), sys::RuntimeChoice::Auto);
    assert!(
        tunables
            .states()
            .iter()
            .all(|state| state.clamped.is_none())
    );
}

#[test]
fn a_value_out_of_range_is_clamped_and_the_reason_is_kept() {
    let cases = [
        ("connections", 0, 1, "at least 1"),
        ("connections", 1000, 64, "at most 64"),
        ("request_bytes", 1, 65_536, "at least 64K"),
        ("request_bytes", 70_000, 69_632, "multiples of 4096"),
        ("recv_buffer_bytes", 600_000, 524_288, "powers of two"),
        ("rate_bytes_per_s", 1, 65_536, "at least 64K"),
        ("zero_scan_bytes", u64::MAX, 1 << 20, "at most 1M"),
    ];
    for (name, asked, given, reason) in cases {
        let tunables = Tunables::new();
        let told = tunables.set(name, asked).unwrap().unwrap();
        assert!(told.contains(reason), "{name}: {told}");
        assert_eq!(tunables.value(name), Some(given));
        let state = tunables
            .states()
            .into_iter()
            .find(|s| s.tunable.name == name)
            .unwrap();
        assert_eq!((state.value, state.requested), (given, asked));
        assert_eq!(state.clamped, Some(told));
    }
}

#[test]
fn zero_is_allowed_where_it_means_something() {
    let tunables = Tunables::new();
    tunables.set("rate_bytes_per_s", 1 << 20).unwrap();
    assert_eq!(tunables.rate_bytes_per_s(), Some(1 << 20));
    for name in ["rate_bytes_per_s", "zero_scan_bytes", "shards"] {
        assert_eq!(tunables.set(name, 0).unwrap(), None);
        assert_eq!(tunables.value(name), Some(0));
    }
}

#[test]
fn choices_are_set_by_their_words() {
    let tunables = Tunables::new();
    for (name, word) in [
        ("aead", "chacha20-poly1305"),
        ("runtime", "epoll"),
        ("pin", "on"),
        ("send_zc", "auto"),
    ] {
        assert_eq!(tunables.set_text(name, word).unwrap(), None);
    }
    assert_eq!(tunables.send_zc(), SendZc::Auto);
    tunables.set_text("send_zc", "on").unwrap();
    assert_eq!(tunables.send_zc(), SendZc::On);
    assert_eq!(tunables.aead(), Some("TLS_CHACHA20_POLY1305_SHA256"));
    assert_eq!(tunables.runtime(), sys::RuntimeChoice::Epoll);
    assert!(tunables.pin());
}

#[test]
fn every_runtime_and_cipher_word_means_what_it_says() {
    use sys::RuntimeChoice::{Auto, Epoll, Plain, Rich};
    let tunables = Tunables::new();
    for (word, choice) in [
        ("auto", Auto),
        ("rich", Rich),
        ("plain", Plain),
        ("epoll", Epoll),
    ] {
        tunables.set_text("runtime", word).unwrap();
        assert_eq!(tunables.runtime(), choice);
    }
    for word in ["aes-128-gcm", "aes-256-gcm", "chacha20-poly1305"] {
        tunables.set_text("aead", word).unwrap();
        let suite = tunables
            .aead()
            .unwrap()
            .to_ascii_lowercase()
            .replace('_', "-");
        assert!(suite.contains(word), "{suite}");
    }
}

#[test]
fn unknown_names_and_words_are_errors_that_list_what_there_is() {
    let tunables = Tunables::new();
    let error = tunables.set("speed", 1).unwrap_err();
    assert!(error.to_string().contains("speed") && error.remedy.contains("request_bytes"));
    let error = tunables.set_text("aead", "rot13").unwrap_err();
    assert!(error.remedy.contains("aes-128-gcm"), "{error}");
    assert!(tunables.set("aead", 4).is_err());
    for (name, text) in [
        ("connections", "4K"),
        ("connections", "-1"),
        ("request_bytes", "1.5M"),
    ] {
        assert!(tunables.set_text(name, text).is_err(), "{name} {text}");
    }
}

#[test]
fn texts_may_have_units_and_words_for_zero() {
    let tunables = Tunables::new();
    for (name, text, value) in [
        ("request_bytes", "1M", 1 << 20),
        ("request_bytes", "128KiB", 128 << 10),
        ("request_bytes", "131072", 128 << 10),
        ("rate_bytes_per_s", "100M/s", 100 << 20),
        ("rate_bytes_per_s", "unlimited", 0),
        ("zero_scan_bytes", "off", 0),
        ("shards", "auto", 0),
        ("shards", "3", 3),
    ] {
        assert_eq!(
            tunables.set_text(name, text).unwrap(),
            None,
            "{name} {text}"
        );
        assert_eq!(tunables.value(name), Some(value), "{name} {text}");
    }
}

#[test]
fn the_committed_page_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/interfaces/tunables.md");
    let page = markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page,
        "write it anew: UPDATE_DOCS=1 cargo test -p engine tunables"
    );
}

#[test]
fn the_help_names_every_knob_and_fits_a_screen() {
    let help = help();
    assert!(TABLE.iter().all(|row| help.contains(row.name)));
    assert!(help.lines().all(|line| line.len() <= 100), "{help}");
}

proptest! {
    #[test]
    fn a_clamped_value_is_allowed_and_said_only_when_changed(
        row in any_row(), value in any::<u64>(), shift in 0_u32..64,
    ) {
        let value = value >> shift;
        let (allowed, reason) = row.clamp(value);
        prop_assert_eq!(row.clamp(allowed), (allowed, None));
        prop_assert_eq!(reason.is_some(), allowed != value);
        prop_assert!(allowed == 0 || (row.min..=row.max).contains(&allowed));
    }

    #[test]
    fn every_allowed_value_is_read_back_from_its_text(row in any_row(), value in any::<u64>()) {
        let (allowed, _) = row.clamp(value);
        prop_assert_eq!(row.parse(&row.format(allowed)), Some(allowed));
    }

    #[test]
    fn any_text_is_a_value_or_an_error(row in any_row(), text in "\\PC{0,12}") {
        let _ = Tunables::new().set_text(row.name, &text);
    }
}
