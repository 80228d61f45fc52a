//! A machine that really boots its root volume, writes to it, and gives it back. Needs root and QEMU.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod stage;

use lab::{Bus, CloudStack};
use stage::{able, lab, run, text};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

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

/// The result of a command that must succeed.
fn done(lab: &CloudStack, pairs: &[(&str, &str)]) -> serde_json::Value {
    let job = run(lab, pairs);
    assert_eq!(job["jobstatus"], 1, "{job}");
    job["jobresult"].clone()
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
fn bootable() -> bool {
    let mut qemu = Command::new("qemu-system-x86_64");
    if qemu
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("SKIP: missing tool qemu-system-x86_64");
        return false;
    }
    able()
}

#[test]
fn a_machine_boots_its_root_volume_and_what_it_wrote_is_on_it() {
    if !bootable() {
        return;
    }
    let (folder, lab) = lab();
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
    let guest = text(&done(&lab, &deploy), "/virtualmachine/id");
    let (_, list) = lab
        .control()
        .call(&[("command", "listVolumes"), ("virtualmachineid", &guest)]);
    let root = text(&list, "/listvolumesresponse/volume/0/id");
    let image = folder.path().join("image");
    std::fs::write(&image, boot_sector()).unwrap();
    lab.control().load(&root, &image).unwrap();

    assert_eq!(
        done(&lab, &[("command", "startVirtualMachine"), ("id", &guest)])["virtualmachine"]["state"],
        "Running"
    );
    let machines = folder.path().join("machines");
    assert!(
        console_says(&machines.join(format!("{guest}.console")), GREETING),
        "{:?}",
        std::fs::read_to_string(machines.join(format!("{guest}.log")))
    );

    assert_eq!(
        done(&lab, &[("command", "stopVirtualMachine"), ("id", &guest)])["virtualmachine"]["state"],
        "Stopped"
    );
    done(&lab, &[("command", "detachVolume"), ("id", &root)]);
    done(
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
