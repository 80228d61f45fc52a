use clap::Parser;

use super::*;
use crate::cli::{Cli, Verb};

fn args(flags: &[&str]) -> ServeArgs {
    let words = ["migratekit-dataplane", "serve"].iter().chain(flags);
    match Cli::try_parse_from(words).unwrap().verb {
        Verb::Serve(args) => *args,
        _ => unreachable!(),
    }
}

fn config(file: &str, flags: &[&str]) -> Result<Config, Failure> {
    Config::try_from(RawConfig::parse(file)?.overlay(&args(flags))?)
}

/// Asserts that the configuration is refused with `code`, and returns what is said about it.
#[track_caller]
fn refused(file: &str, flags: &[&str], code: u8) -> String {
    let failure = config(file, flags).unwrap_err();
    assert_eq!(failure.exit().code(), code, "{failure}");
    failure.to_string()
}

const PKI: [&str; 2] = ["--tls-dir", "/pki"];

#[test]
fn a_folder_with_certificates_is_enough() {
    let config = config("", &PKI).unwrap();
    insta::assert_snapshot!(config.to_toml().unwrap(), @r#"
    listen = "[::]:443"
    tls_dir = "/pki"
    preauth_connections_max = 512
    handshake_deadline_s = 10
    drain_timeout_s = 30
    tuners = []
    "#);
}

#[test]
fn every_key_of_the_file_is_printed_back() {
    let file = r#"
        listen = "0.0.0.0:8443"
        tls_dir = "/pki"
        control_dir = "/run/mk"
        nbds_listen = "[::1]:10809"
        nbd_unix = "/run/mk/nbd.sock"
        runtime = "plain"
        shards = 3
        preauth_connections_max = 64
        handshake_deadline_s = 5
        drain_timeout_s = 7
        tuners = ["00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF"]
        records_per_key = 64

        [tunables]
        request_bytes = "512K"
        device_depth = 8

        [[export]]
        name = "a"
        path = "/dev/vdb"
        client_fingerprints = ["00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF"]

        [[export]]
        name = "b"
        null_bytes = "1G"
        mode = "ro"
    "#;
    let toml = config(file, &[]).unwrap().to_toml().unwrap();
    insta::assert_snapshot!(toml, @r#"
    listen = "0.0.0.0:8443"
    tls_dir = "/pki"
    control_dir = "/run/mk"
    nbds_listen = "[::1]:10809"
    nbd_unix = "/run/mk/nbd.sock"
    preauth_connections_max = 64
    handshake_deadline_s = 5
    drain_timeout_s = 7
    tuners = ["00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"]
    records_per_key = 64

    [tunables]
    device_depth = 8
    request_bytes = "512K"
    runtime = "plain"
    shards = 3

    [[export]]
    name = "a"
    path = "/dev/vdb"
    mode = "rw"
    scratch = false
    client_fingerprints = ["00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"]

    [[export]]
    name = "b"
    null_bytes = 1073741824
    mode = "ro"
    scratch = false
    client_fingerprints = ["any"]
    "#);
    let again = config(&toml, &[]).unwrap().to_toml().unwrap();
    assert_eq!(again, toml, "what is printed is a file that gives the same");
}

#[test]
fn flags_have_the_last_word() {
    let file = r#"
        listen = "0.0.0.0:8443"
        tls_dir = "/pki"
        drain_timeout_s = 7
        [[export]]
        name = "a"
        path = "/dev/vdb"
        [[export]]
        name = "b"
        path = "/dev/vdc"
    "#;
    let flags = [
        "--listen",
        "[::1]:1",
        "--export",
        "a=ro:/dev/vdz",
        "--set",
        "shards=2",
    ];
    let config = config(file, &flags).unwrap();
    assert_eq!(
        config.listen,
        Some(Address::Tcp("[::1]:1".parse().unwrap()))
    );
    assert_eq!(config.drain_timeout, Duration::from_secs(7));
    let stores: Vec<_> = config
        .exports
        .iter()
        .map(|rule| (rule.name.as_str(), &rule.store))
        .collect();
    assert_eq!(
        stores,
        [
            ("b", &StoreRule::Path("/dev/vdc".into())),
            ("a", &StoreRule::Path("/dev/vdz".into())),
        ]
    );
    assert_eq!(
        config.tunable("shards"),
        Some(&TunableValue::Text("2".into()))
    );
}

#[test]
fn an_unknown_key_is_an_error_that_names_key_and_line() {
    let text = refused("tls_dir = \"/pki\"\nlisten_on = \"x\"\n", &[], 2);
    assert!(
        text.contains("listen_on") && text.contains("line 2"),
        "{text}"
    );
    let text = refused(
        "[[export]]\nname = \"a\"\npath = \"/x\"\nserial = \"s\"\n",
        &PKI,
        2,
    );
    assert!(text.contains("serial"), "{text}");
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let export = |body: &str| format!("[[export]]\nname = \"a\"\n{body}");
    for (file, word) in [
        ("shards = 0", "shards"),
        ("preauth_connections_max = 0", "preauth_connections_max"),
        ("handshake_deadline_s = 301", "handshake_deadline_s"),
        ("drain_timeout_s = 3601", "drain_timeout_s"),
        ("runtime = \"fast\"", "runtime"),
        ("[tunables]\nspeed = 1", "speed"),
        (&export(""), "store"),
        (&export("path = \"/x\"\nnull_bytes = 1"), "store"),
        (&export("null_bytes = \"1Q\""), "null_bytes"),
        (
            &export("path = \"/x\"\nclient_fingerprints = [\"zz\"]"),
            "fingerprint",
        ),
        (&format!("{0}{0}", export("path = \"/x\"\n")), "two exports"),
        ("listen = \"example.org:443\"", "listen"),
    ] {
        let text = refused(file, &PKI, 2);
        assert!(text.contains(word), "{file}: {text}");
    }
}

#[test]
fn a_tls_listener_needs_certificates_and_plain_nbd_does_not() {
    assert!(refused("", &[], 2).contains("pki init"));
    assert!(refused("", &["--listen", "127.0.0.1:1"], 2).contains("--tls-dir"));
    assert!(refused("", &["--nbd-unix", "/s", "--nbds-listen", "[::1]:1"], 2).contains("nbds"));
    assert!(config("", &["--nbd-unix", "/s"]).unwrap().listen.is_none());
    let off = config(
        "",
        &["--nbd-unix", "/s", "--tls-dir", "/pki", "--listen", "none"],
    )
    .unwrap();
    assert!(off.listen.is_none());
    assert!(refused("", &["--tls-dir", "/pki", "--listen", "none"], 2).contains("listen"));
}

#[test]
fn starttls_on_a_network_is_a_refusal() {
    refused(
        "",
        &["--tls-dir", "/pki", "--nbds-listen", "0.0.0.0:10809"],
        9,
    );
}

#[test]
fn a_reload_tells_which_keys_need_a_restart() {
    let old = config("listen = \"127.0.0.1:1\"\nshards = 1", &PKI).unwrap();
    let new = config(
        "listen = \"127.0.0.1:2\"\nshards = 2\ndrain_timeout_s = 1",
        &PKI,
    )
    .unwrap();
    assert_eq!(new.fixed_keys_changed(&old), ["listen", "shards"]);
    let merged = new.with_fixed_keys_of(&old);
    assert_eq!(merged.listen, old.listen);
    assert_eq!(merged.drain_timeout, Duration::from_secs(1));
}
