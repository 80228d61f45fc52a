//! The lab driven by `cs`, a CloudStack client from PyPI that signs by itself: two readings of the rules agree.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use lab::{Bus, CloudStack, Options};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a migration asks of CloudStack, through somebody else's client. Prints `done` when all of it held.
const DRIVER: &str = r#"
import sys, pathlib
from cs import CloudStack, CloudStackApiException
endpoint, key, secret, verify, by_id, device_prefix, appliance = sys.argv[1:]
cs = CloudStack(endpoint=endpoint, key=key, secret=secret, method='post', verify=verify, poll_interval=0.02, timeout=30)
zone = cs.listZones()['zone'][0]
offering = [o for o in cs.listDiskOfferings()['diskoffering'] if o['iscustomized']][0]
assert cs.listCapabilities()['capability']['cloudstackversion'].startswith('4.22')
name = 'disk a+b*c/d=e&f:g,(1)_-. Müller 数据'
volume = cs.createVolume(name=name, zoneid=zone['id'], diskofferingid=offering['id'], size=1, fetch_result=True)['volume']
assert volume['name'] == name and volume['state'] == 'Allocated', volume
tags = [{'key': 'migration/run', 'value': 'Run #7 50%'}]
assert cs.createTags(resourcetype='Volume', resourceids=volume['id'], tags=tags, fetch_result=True)['success'] is True
attached = cs.attachVolume(id=volume['id'], virtualmachineid=appliance, deviceid=5, fetch_result=True)['volume']
assert attached['deviceid'] == 5 and attached['size'] == 1 << 30, attached
device = pathlib.Path(by_id, device_prefix + volume['id'].replace('-', '')[:20])
assert device.exists(), device
snapshot = cs.createSnapshot(volumeid=volume['id'], fetch_result=True)['snapshot']
assert snapshot['state'] == 'BackedUp', snapshot
clone = cs.createVolume(name='clone', snapshotid=snapshot['id'], fetch_result=True)['volume']
assert clone['state'] == 'Ready', clone
found = cs.listVolumes(fetch_list=True, tags=tags)
assert [v['id'] for v in found] == [volume['id']], found
try:
    cs.deleteVolume(id=volume['id'])
    raise SystemExit('an attached volume was deleted')
except CloudStackApiException as error:
    assert error.error['errorcode'] == 431 and error.error['cserrorcode'] == 4350, error.error
try:
    cs.attachVolume(id=clone['id'], virtualmachineid=appliance, deviceid=3, fetch_result=True)
    raise SystemExit('the slot of the CD-ROM was given away')
except CloudStackApiException as error:
    assert 'deviceId should be' in str(error), error
cs.detachVolume(id=volume['id'], fetch_result=True)
assert not device.exists()
for one in (volume, clone):
    assert cs.deleteVolume(id=one['id'])['success'] is True
cs.deleteSnapshot(id=snapshot['id'], fetch_result=True)
bad = CloudStack(endpoint=endpoint, key=key, secret=secret + 'x', method='post', verify=verify)
try:
    bad.listZones()
    raise SystemExit('a wrong secret was believed')
except CloudStackApiException as error:
    assert error.error['errorcode'] == 401, error.error
print('done')
"#;

/// The Python of the folder in which `tools/setup` installs `cs`.
fn python() -> Option<PathBuf> {
    let folder = std::env::var_os("MIGRATEKIT_CS").map(PathBuf::from);
    let folder = folder
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/migratekit/cs")))?;
    let python = folder.join("bin/python3");
    let there = Command::new(&python).args(["-c", "import cs"]).output();
    there
        .is_ok_and(|done| done.status.success())
        .then_some(python)
}

fn drive(python: &Path, tls: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path());
    options.tls = tls;
    options.bus = if tls { Bus::Scsi } else { Bus::Virtio };
    options.settings.job_ms_max = 30;
    let lab = CloudStack::start(&options).unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, lab.certificate().unwrap_or_default()).unwrap();
    let keys = lab.keys();
    let prefix = options.bus.name("");
    let done = Command::new(python)
        .args(["-c", DRIVER, &lab.url(), &keys.api, &keys.secret])
        .arg(&ca)
        .arg(lab.by_id())
        .args([prefix, lab.appliance()])
        .env("PYTHONWARNINGS", "ignore")
        .env_remove("HTTPS_PROXY")
        .env_remove("HTTP_PROXY")
        .env("NO_PROXY", "*")
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("done"), "{said}");
}

#[test]
fn another_client_signs_and_works_over_http_and_tls() {
    let Some(python) = python() else {
        eprintln!("SKIP: missing tool cs (tools/setup installs it from PyPI)");
        return;
    };
    drive(&python, false);
    drive(&python, true);
}
