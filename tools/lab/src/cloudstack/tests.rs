use super::*;
use crate::faults::{Armed, Fault};
use crate::signature;
use std::io::{Read, Write};
use std::net::TcpStream;

/// One request over a connection of its own: the whole answer, or nothing.
fn exchange(at: SocketAddr, method: &str, target: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(at).expect("the lab listens");
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn signed(lab: &CloudStack, method: &str, pairs: &[(&str, &str)]) -> String {
    let expires = time::text(time::system_ms() + 60_000);
    let mut all: Vec<(String, String)> = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    for (name, value) in [
        ("response", "json"),
        ("apiKey", &lab.keys().api),
        ("signatureVersion", "3"),
        ("expires", &expires),
    ] {
        all.push((name.to_owned(), value.to_owned()));
    }
    let signature = signature::expected(&lab.keys().secret, &all);
    all.push(("signature".to_owned(), signature));
    let form: Vec<String> = all
        .iter()
        .map(|(name, value)| {
            format!(
                "{name}={}",
                value
                    .replace('%', "%25")
                    .replace('+', "%2B")
                    .replace('=', "%3D")
            )
        })
        .collect();
    let form = form.join("&");
    if method == "GET" {
        exchange(lab.address(), "GET", &format!("/client/api?{form}"), "")
    } else {
        exchange(lab.address(), "POST", "/client/api", &form)
    }
}

fn lab(change: impl FnOnce(&mut Options)) -> (tempfile::TempDir, CloudStack) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = Options::new(folder.path());
    options.manual_clock = true;
    change(&mut options);
    let lab = CloudStack::start(&options).expect("started");
    (folder, lab)
}

/// A volume that is attached to the appliance.
fn attached(lab: &CloudStack) -> String {
    let control = lab.control();
    let (zone, offering) = (lab.zone(), lab.disk_offering());
    let (_, answer) = control.call(&[
        ("command", "createVolume"),
        ("name", "d"),
        ("zoneid", &zone),
        ("diskofferingid", &offering),
        ("size", "1"),
    ]);
    let id = answer["createvolumeresponse"]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let (status, answer) = control.call(&[
        ("command", "attachVolume"),
        ("id", &id),
        ("virtualmachineid", &lab.appliance()),
    ]);
    assert_eq!(status, 200, "{answer}");
    assert!(control.advance(Duration::from_secs(2)));
    id
}

#[test]
fn signed_calls_are_answered_and_others_are_not() {
    let (_folder, lab) = lab(|_| ());
    assert!(signed(&lab, "GET", &[("command", "listZones")]).contains("\"lab-zone\""));
    assert!(signed(&lab, "POST", &[("command", "listZones")]).starts_with("HTTP/1.1 200"));
    let refused = exchange(
        lab.address(),
        "GET",
        "/client/api?command=listZones&response=json&apiKey=x&signature=y",
        "",
    );
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert!(
        refused
            .to_lowercase()
            .contains("x-description: unable to verify"),
        "{refused}"
    );
    assert!(
        signed(
            &lab,
            "GET",
            &[("command", "stopVirtualMachine"), ("id", "x")]
        )
        .starts_with("HTTP/1.1 400")
    );
    lab.control().set(|settings| settings.skew_ms = 3_600_000);
    assert!(
        signed(&lab, "POST", &[("command", "listZones")]).starts_with("HTTP/1.1 401"),
        "a skewed clock looks like a bad key"
    );
}

#[test]
fn a_lost_reply_ends_the_connection_and_the_work_is_done() {
    let (_folder, lab) = lab(|_| ());
    let (zone, offering) = (lab.zone(), lab.disk_offering());
    lab.control()
        .arm(Armed::once(Fault::LostReply, "createVolume"));
    let create = [
        ("command", "createVolume"),
        ("name", "x"),
        ("zoneid", zone.as_str()),
        ("diskofferingid", &offering),
        ("size", "1"),
    ];
    assert_eq!(signed(&lab, "POST", &create), "");
    assert_eq!(
        lab.control()
            .call(&[("command", "listVolumes"), ("name", "x")])
            .1["listvolumesresponse"]["count"],
        1
    );
}

#[test]
fn the_device_appears_under_its_serial_and_is_busy_while_it_is_held() {
    for bus in [Bus::Virtio, Bus::Scsi] {
        let (_folder, lab) = lab(|options| options.bus = bus);
        let id = attached(&lab);
        let device = lab.by_id().join(bus.name(&id));
        let bytes = std::fs::read(&device).expect("the device");
        assert_eq!(bytes.len(), 1 << 30);
        assert!(
            bytes[..4096].iter().any(|byte| *byte != 0)
                && bytes[(1 << 30) - 4096..].iter().any(|byte| *byte != 0)
        );
        drop(bytes);
        let held = std::fs::File::open(&device).expect("opened");
        let (_, answer) = lab
            .control()
            .call(&[("command", "detachVolume"), ("id", &id)]);
        let job = answer["detachvolumeresponse"]["jobid"]
            .as_str()
            .expect("a job")
            .to_owned();
        let query = || {
            lab.control()
                .call(&[("command", "queryAsyncJobResult"), ("jobid", &job)])
                .1["queryasyncjobresultresponse"]
                .clone()
        };
        lab.control().advance(Duration::from_secs(5));
        assert_eq!(query()["jobstatus"], 0, "the guest has ten seconds");
        lab.control().advance(Duration::from_secs(15));
        assert!(
            query()["jobresult"]["errortext"]
                .as_str()
                .is_some_and(|text| text.contains("device is busy")),
            "{}",
            query()
        );
        drop(held);
        lab.control()
            .call(&[("command", "detachVolume"), ("id", &id)]);
        lab.control().advance(Duration::from_secs(1));
        assert!(!device.exists());
    }
}

#[test]
fn the_control_endpoint_does_what_the_handle_does() {
    let (_folder, lab) = lab(|_| ());
    let id = attached(&lab);
    let ask =
        |method: &str, path: &str, body: &str| exchange(lab.control_address(), method, path, body);
    assert!(
        ask(
            "POST",
            "/faults",
            r#"{"fault":"status","code":503,"command":"listVolumes"}"#
        )
        .starts_with("HTTP/1.1 200")
    );
    assert!(signed(&lab, "POST", &[("command", "listVolumes")]).starts_with("HTTP/1.1 503"));
    assert!(ask("POST", "/faults", r#"{"fault":"meteor"}"#).starts_with("HTTP/1.1 400"));
    assert!(ask("POST", "/clock", r#"{"advance_ms":1000}"#).starts_with("HTTP/1.1 200"));
    assert!(ask("POST", "/restart", "").contains("failed_jobs"));
    assert!(ask("POST", "/jobs/expire", "").contains("\"expired\":2"));
    assert!(
        ask("POST", "/power-cut", r#"{"seed":1}"#).starts_with("HTTP/1.1 500"),
        "files have no cache"
    );
    assert!(ask("GET", "/lab", "").contains(&lab.keys().api));
    assert!(ask("PUT", "/settings", r#"{"stale_lists_ms":5}"#).contains("\"stale_lists_ms\":5"));
    assert!(ask("GET", &format!("/digests/{id}"), "").contains("visible"));
    assert!(ask("GET", "/nothing", "").starts_with("HTTP/1.1 404"));
}

#[test]
fn by_the_machines_clock_jobs_end_without_anybody_asking() {
    let (_folder, lab) = lab(|options| {
        options.manual_clock = false;
        options.backing = Backing::Records;
        options.settings.job_ms_min = 1;
        options.settings.job_ms_max = 5;
    });
    let (zone, offering) = (lab.zone(), lab.disk_offering());
    lab.control().call(&[
        ("command", "createVolume"),
        ("zoneid", &zone),
        ("diskofferingid", &offering),
        ("size", "1"),
    ]);
    let start = std::time::Instant::now();
    while lab.shared.core.lock().expect("unpoisoned").world.state()["open_jobs"] != 0 {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the job does not end"
        );
        std::thread::yield_now();
    }
}

#[test]
fn over_tls_the_lab_shows_its_certificate_and_elsewhere_it_does_not_listen() {
    let (_folder, tls) = lab(|options| options.tls = true);
    assert!(tls.url().starts_with("https://127.0.0.1:"));
    assert!(
        tls.certificate()
            .is_some_and(|pem| pem.contains("BEGIN CERTIFICATE"))
    );
    let mut options = Options::new("/nonexistent");
    options.backing = Backing::Records;
    options.listen = SocketAddr::from(([0, 0, 0, 0], 0));
    assert!(matches!(
        CloudStack::start(&options),
        Err(StartError::NotLoopback(_))
    ));
}
