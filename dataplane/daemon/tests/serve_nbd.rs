//! Other people's NBD clients and TLS libraries at our listeners.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod server;

use common::{Bed, assert_same, finish, have, tiers};
use server::{Server, pki, tool};

const SIZE_BYTES: u64 = 24 << 20;

/// A server with every kind of listener and one disk.
fn start(bed: &Bed, config: &str) -> Server {
    pki(bed, "pki");
    bed.disk("source", SIZE_BYTES);
    let target = std::fs::File::create(bed.path("target")).unwrap();
    target.set_len(SIZE_BYTES).unwrap();
    std::fs::write(bed.path("config.toml"), config).unwrap();
    let args = [
        "--config",
        "config.toml",
        "--listen",
        "127.0.0.1:0",
        "--tls-dir",
        "pki",
        "--nbds-listen",
        "127.0.0.1:0",
        "--nbd-unix",
        "nbd.sock",
        "--export",
        "disk=target",
        "--export",
        "source=ro:source",
    ];
    Server::start(bed, &args)
}

#[test]
fn nbdinfo_lists_and_describes_exports() {
    if !have("nbdinfo") {
        return;
    }
    let bed = Bed::new();
    let server = start(&bed, "");
    let uris = [
        server.unix_uri("disk"),
        server.nbds_uri("disk", &bed.path("pki")),
    ];
    for (uri, is_tls) in uris.iter().zip([false, true]) {
        let text = tool(&bed, "nbdinfo", &["--json", uri]);
        let info: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(info["TLS"], is_tls, "{text}");
        let export = &info["exports"][0];
        assert_eq!(export["export-size"], SIZE_BYTES, "{text}");
        assert_eq!(export["is_read_only"], false, "{text}");
        assert_eq!(export["can_multi_conn"], true, "{text}");
    }
    let uri = server.unix_uri("");
    let list = tool(&bed, "nbdinfo", &["--list", "--json", &uri]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let names: Vec<_> = list["exports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["export-name"])
        .collect();
    assert_eq!(names, ["disk", "source"]);
    let map = tool(
        &bed,
        "nbdinfo",
        &["--map", &server.nbds_uri("source", &bed.path("pki"))],
    );
    assert!(map.contains("hole,zero"), "{map}");
    server.stop();
}

#[test]
fn nbdcopy_writes_and_reads_over_every_listener_on_every_tier() {
    if !have("nbdcopy") {
        return;
    }
    for tier in tiers(&Bed::new()) {
        let bed = Bed::new();
        let server = start(&bed, &format!("runtime = \"{tier}\"\n"));
        assert_eq!(server.tier, tier);
        let uris = [
            server.unix_uri("disk"),
            server.nbds_uri("disk", &bed.path("pki")),
        ];
        for (index, uri) in uris.iter().enumerate() {
            let back = format!("back{index}");
            tool(&bed, "nbdcopy", &["--flush", "source", uri]);
            tool(&bed, "nbdcopy", &[uri, &back]);
            assert_same(&bed.path("source"), &bed.path("target"));
            assert_same(&bed.path("source"), &bed.path(&back));
            let target = std::fs::OpenOptions::new()
                .write(true)
                .open(bed.path("target"))
                .unwrap();
            target.set_len(0).unwrap();
            target.set_len(SIZE_BYTES).unwrap();
        }
        server.stop();
    }
}

#[test]
fn nbdcopy_bears_new_keys_every_64_records() {
    if !have("nbdcopy") {
        return;
    }
    let bed = Bed::new();
    let server = start(&bed, "records_per_key = 64\ncontrol_dir = \"ctl\"\n");
    let uri = server.nbds_uri("source", &bed.path("pki"));
    tool(&bed, "nbdcopy", &[&uri, "back"]);
    assert_same(&bed.path("source"), &bed.path("back"));
    let metrics = server::http(&bed.path("ctl/transfers.sock"), "GET", "/metrics", "").body;
    let sent: u64 = metrics
        .lines()
        .filter(|line| line.starts_with("migratekit_dataplane_key_updates_sent_total{"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert!(sent > 0, "{metrics}");
    server.stop();
}

#[test]
fn qemu_img_converts_over_starttls_on_every_tier() {
    if !have("qemu-img") {
        return;
    }
    for tier in tiers(&Bed::new()) {
        qemu_img_converts(tier);
    }
}

fn qemu_img_converts(tier: &str) {
    let bed = Bed::new();
    let server = start(&bed, &format!("runtime = \"{tier}\"\n"));
    let port = server.nbds.unwrap().port();
    let object = format!(
        "tls-creds-x509,id=tls0,endpoint=client,dir={}",
        bed.path("pki").display()
    );
    let image = format!(
        "driver=nbd,server.type=inet,server.host=localhost,server.port={port},export=disk,tls-creds=tls0"
    );
    tool(
        &bed,
        "qemu-img",
        &[
            "convert",
            "--object",
            &object,
            "-n",
            "-f",
            "raw",
            "source",
            "--target-image-opts",
            &image,
        ],
    );
    assert_same(&bed.path("source"), &bed.path("target"));
    let compared = tool(
        &bed,
        "qemu-img",
        &[
            "compare",
            "--object",
            &object,
            "--image-opts",
            "driver=raw,file.driver=file,file.filename=source",
            &format!(
                "driver=raw,file.{}",
                image
                    .replace(",server", ",file.server")
                    .replace(",export", ",file.export")
                    .replace(",tls-creds", ",file.tls-creds")
            ),
        ],
    );
    assert!(compared.contains("identical"), "{compared}");
    server.stop();
}

#[test]
fn openssl_and_gnutls_hear_why_they_are_refused() {
    let bed = Bed::new();
    // A client that is let in stays until the deadline, because it has nothing to say.
    let server = start(&bed, "handshake_deadline_s = 1\n");
    let address = server.tls.unwrap();
    let (port, connect) = (address.port().to_string(), address.to_string());
    let openssl = |extra: &[&str]| {
        let args = [
            "s_client",
            "-connect",
            &connect,
            "-CAfile",
            "pki/ca-cert.pem",
            "-tls1_3",
            "-ign_eof",
        ];
        let run = finish(bed.command("openssl").args(args).args(extra));
        format!("{}{}", run.stdout, run.stderr)
    };
    if have("openssl") {
        let said = openssl(&["-alpn", "h2"]);
        assert!(said.contains("no application protocol"), "{said}");
        let said = openssl(&["-alpn", "nbd"]);
        assert!(said.contains("certificate required"), "{said}");
        let own = ["-cert", "pki/client-cert.pem", "-key", "pki/client-key.pem"];
        let said = openssl(&[&own[..], &["-alpn", "nbd"]].concat());
        assert!(
            said.contains("ALPN protocol: nbd") && said.contains("Verify return code: 0"),
            "{said}"
        );
        let said = finish(
            bed.command("openssl")
                .args(["s_client", "-connect", &connect, "-tls1_2"]),
        );
        assert!(said.stderr.contains("protocol version"), "{said:?}");
    }
    if have("gnutls-cli") {
        let args = [
            "--x509cafile",
            "pki/ca-cert.pem",
            "--port",
            &port,
            "127.0.0.1",
        ];
        let run = finish(bed.command("gnutls-cli").args(["--alpn", "h2"]).args(args));
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(said.contains("application protocol"), "{said}");
        let run = finish(bed.command("gnutls-cli").args(["--alpn", "nbd"]).args(args));
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(said.contains("Certificate is required"), "{said}");
    }
    server.stop();
}
