//! A machine that really boots its root volume, writes to it, and gives it back. Needs root and QEMU.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use lab::{Backing, Bus, CloudStack, Options};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const GREETING: &str = "the lab's disk boots\n";

/// A boot sector that copies itself to the second sector of its disk and then greets on the first serial port.
fn boot_sector() -> [u8; 512] {
    let code = [
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0x8e, 0xc0, // mov es, ax
        0xb8, 0x01, 0x03, // mov ax, 0x0301: write one sector
        0xb9, 0x02, 0x00, // mov cx, 2: the second one
        0xb6, 0x00, // mov dh, 0; dl is the disk that booted
        0xbb, 0x00, 0x7c, // mov bx, 0x7c00: these bytes
        0xcd, 0x13, // int 0x13
        0xbe, 0x24, 0x7c, // mov si, greeting
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x06, // jz halt
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xee, // out dx, al
        0xeb, 0xf5, // jmp next
        0xf4, // halt: hlt
        0xeb, 0xfd, // jmp halt
    ];
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(&code);
    sector[code.len()..code.len() + GREETING.len()].copy_from_slice(GREETING.as_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn run(lab: &CloudStack, pairs: &[(&str, &str)]) -> serde_json::Value {
    let (status, answer) = lab.control().call(pairs);
    assert_eq!(status, 200, "{answer}");
    let job = answer.as_object().unwrap().values().next().unwrap()["jobid"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(lab.control().advance(Duration::from_secs(20)));
    let (_, answer) = lab
        .control()
        .call(&[("command", "queryAsyncJobResult"), ("jobid", &job)]);
    let result = answer["queryasyncjobresultresponse"].clone();
    assert_eq!(result["jobstatus"], 1, "{result}");
    result["jobresult"].clone()
}

/// Waits until the console has said `line`; the tail that is asked ends by itself after a minute.
fn console_says(console: &Path, line: &str) -> bool {
    let mut tail = Command::new("timeout")
        .args(["60", "tail", "-q", "-n", "+1", "-F"])
        .arg(console)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = BufReader::new(tail.stdout.take().unwrap())
        .split(b'\n')
        .any(|held| {
            let held = held.unwrap();
            held.ends_with(line.trim_end().as_bytes())
        });
    tail.kill().unwrap();
    tail.wait().unwrap();
    said
}

/// Whether this machine can boot another on devices; says so if not.
fn able() -> bool {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("SKIP: needs root");
        return false;
    }
    if Command::new("qemu-system-x86_64")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("SKIP: missing tool qemu-system-x86_64");
        return false;
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(device).exists() {
            eprintln!("SKIP: kernel has no {device}");
            return false;
        }
    }
    true
}

#[test]
fn a_machine_boots_its_root_volume_and_what_it_wrote_is_on_it() {
    if !able() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path());
    options.backing = Backing::Devices;
    options.manual_clock = true;
    let lab = CloudStack::start(&options).unwrap();
    let (offering, template, network) = lab.machine_needs();
    let zone = lab.zone();
    let deploy = [
        ("command", "deployVirtualMachine"),
        ("name", "guest"),
        ("zoneid", zone.as_str()),
        ("serviceofferingid", &offering),
        ("templateid", &template),
        ("networkids", &network),
        ("startvm", "false"),
    ];
    let guest = run(&lab, &deploy)["virtualmachine"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let (_, list) = lab
        .control()
        .call(&[("command", "listVolumes"), ("virtualmachineid", &guest)]);
    let root = list["listvolumesresponse"]["volume"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let image = folder.path().join("image");
    std::fs::write(&image, boot_sector()).unwrap();
    lab.control().load(&root, &image).unwrap();

    assert_eq!(
        run(&lab, &[("command", "startVirtualMachine"), ("id", &guest)])["virtualmachine"]["state"],
        "Running"
    );
    let machines = folder.path().join("machines");
    assert!(
        console_says(&machines.join(format!("{guest}.console")), GREETING),
        "{:?}",
        std::fs::read_to_string(machines.join(format!("{guest}.log")))
    );

    assert_eq!(
        run(&lab, &[("command", "stopVirtualMachine"), ("id", &guest)])["virtualmachine"]["state"],
        "Stopped"
    );
    run(&lab, &[("command", "detachVolume"), ("id", &root)]);
    run(
        &lab,
        &[
            ("command", "attachVolume"),
            ("id", &root),
            ("virtualmachineid", &lab.appliance()),
        ],
    );
    let device = std::fs::File::open(lab.by_id().join(Bus::Virtio.name(&root))).unwrap();
    let mut sector = [0; 512];
    device.read_exact_at(&mut sector, 512).unwrap();
    assert_eq!(sector, boot_sector(), "what the guest wrote");
}
