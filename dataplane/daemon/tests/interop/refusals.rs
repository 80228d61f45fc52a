//! Who must not get in, and what they are told.

use std::process::Command;

use crate::common::Run;
use crate::matrix::{Cell, Good, Matrix, Place};
use crate::ours::Site;
use crate::process::{run, run_until};

/// What the server greets with, once TLS and certificates are fine.
const GREETING: &str = "NBDMAGIC";

/// One handshake: what it is, whose certificates, whose authority, further arguments, what must be seen.
struct Case {
    name: &'static str,
    certificates: Option<&'static str>,
    authority: &'static str,
    openssl: &'static [&'static str],
    gnutls: &'static [&'static str],
    /// Seen by openssl, by gnutls.
    seen: [&'static str; 2],
}

const USUAL: Case = Case {
    name: "ALPN nbd",
    certificates: Some("site"),
    authority: "site",
    openssl: &["-alpn", "nbd"],
    gnutls: &["--alpn", "nbd"],
    seen: [GREETING, GREETING],
};

const CASES: [Case; 7] = [
    USUAL,
    Case {
        name: "no ALPN",
        openssl: &[],
        gnutls: &[],
        ..USUAL
    },
    Case {
        name: "unknown ALPN",
        openssl: &["-alpn", "h2"],
        gnutls: &["--alpn", "h2"],
        seen: ["alert number 120", "alert [120]"],
        ..USUAL
    },
    Case {
        name: "TLS 1.2 only",
        openssl: &["-tls1_2"],
        gnutls: &["--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.2"],
        seen: ["alert number 70", "alert [70]"],
        ..USUAL
    },
    Case {
        name: "no certificate",
        certificates: None,
        seen: ["alert number 116", "alert [116]"],
        ..USUAL
    },
    Case {
        name: "foreign certificate",
        certificates: Some("foreign"),
        seen: ["alert number 48", "alert [48]"],
        ..USUAL
    },
    Case {
        name: "trusts another CA",
        authority: "foreign",
        seen: ["certificate verify failed", "certificate issuer is unknown"],
        ..USUAL
    },
];

/// All cells of this kind.
pub(crate) fn cells(matrix: &mut Matrix, site: &Site<'_>) {
    for case in &CASES {
        let place = |peer| Place {
            peer,
            direction: case.name,
            tls: "first",
            block: 0,
        };
        matrix.cell(place("openssl s_client"), || {
            let run = run_until(&mut openssl(site, case), Some(GREETING))?;
            judge(&run, case.seen[0])
        });
        matrix.cell(place("gnutls-cli"), || {
            let run = run_until(&mut gnutls(site, case), Some(GREETING))?;
            judge(&run, case.seen[1])
        });
    }
    let port = site.nbds_port;
    let plain = format!("nbd://127.0.0.1:{port}/file");
    let cases = [
        ("without TLS", plain, "server replied with error to opt_go"),
        (
            "no certificate",
            site.starttls_uri("file", "bare"),
            "TLS fatal alert",
        ),
        (
            "foreign certificate",
            site.starttls_uri("file", "mixed"),
            "TLS fatal alert",
        ),
        (
            "trusts another CA",
            site.starttls_uri("file", "foreign"),
            "certificate verification",
        ),
    ];
    for (direction, uri, seen) in cases {
        let place = Place {
            peer: "nbdinfo",
            direction,
            tls: "starttls",
            block: 0,
        };
        matrix.cell(place, || {
            let run = run(site.bed.command("nbdinfo").arg(&uri))?;
            if run.code == 0 {
                return Err(format!("let in: {run:?}"));
            }
            judge(&run, seen)
        });
    }
}

fn judge(run: &Run, seen: &str) -> Cell {
    let all = format!("{}{}", run.stdout, run.stderr);
    if !all.contains(seen) || (seen != GREETING && all.contains(GREETING)) {
        return Err(format!("{seen} was expected: {run:?}"));
    }
    match seen {
        GREETING => Ok(Good::Reason("let in, greeted by NBD".into())),
        _ => Ok(Good::Reason(format!("refused: {seen}"))),
    }
}

fn openssl(site: &Site<'_>, case: &Case) -> Command {
    let mut command = site.bed.command("openssl");
    let place = format!("127.0.0.1:{}", site.mk_port);
    command.args(["s_client", "-connect", &place, "-verify_return_error"]);
    command.args(["-CAfile", &format!("{}/ca-cert.pem", case.authority)]);
    command.args(case.openssl);
    if let Some(dir) = case.certificates {
        command.args(["-cert", &format!("{dir}/client-cert.pem")]);
        command.args(["-key", &format!("{dir}/client-key.pem")]);
    }
    command
}

fn gnutls(site: &Site<'_>, case: &Case) -> Command {
    let mut command = site.bed.command("gnutls-cli");
    command.args(["--port", &site.mk_port.to_string()]);
    command.args(["--x509cafile", &format!("{}/ca-cert.pem", case.authority)]);
    command.args(case.gnutls);
    if let Some(dir) = case.certificates {
        command.args(["--x509certfile", &format!("{dir}/client-cert.pem")]);
        command.args(["--x509keyfile", &format!("{dir}/client-key.pem")]);
    }
    command.arg("127.0.0.1");
    command
}
