use super::*;
use crate::files::Nothing;
use crate::site::id_text;

/// A world without disks, whose time the test moves.
struct Bench {
    world: World,
    now: u64,
}

impl Bench {
    fn new() -> Bench {
        let now = 1_796_000_000_000;
        Bench {
            world: World::new(1, Identifiers::Text, Settings::default(), now),
            now,
        }
    }

    fn call(&mut self, pairs: &[(&str, &str)]) -> (u16, Value) {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        match self.world.call(self.now, &pairs, &mut Nothing) {
            Reply::Json { status, body } => {
                let (_, answer) = body
                    .as_object()
                    .and_then(|held| held.iter().next())
                    .expect("one key");
                (status, answer.clone())
            }
            Reply::Proxy { status } => (status, Value::Null),
            Reply::Lost => (0, Value::Null),
        }
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(due) = self.world.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.world.tick(self.now, &mut Nothing);
        }
        self.now = end;
        self.world.tick(end, &mut Nothing);
    }

    fn query(&mut self, job: &Value) -> Value {
        let (status, answer) =
            self.call(&[("command", "queryAsyncJobResult"), ("jobid", &id_text(job))]);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Submits, waits, and answers the job.
    fn run(&mut self, pairs: &[(&str, &str)]) -> Value {
        let (status, answer) = self.call(pairs);
        assert_eq!(status, 200, "{answer}");
        self.pass(60_000);
        self.query(&answer["jobid"])
    }

    fn volume(&mut self, name: &str) -> String {
        let site = self.world.site();
        let (zone, offering) = (
            id_text(&site.zones[0]["id"]),
            id_text(&site.disk_offerings[0]["id"]),
        );
        let job = self.run(&[
            ("command", "createVolume"),
            ("name", name),
            ("zoneid", &zone),
            ("diskofferingid", &offering),
            ("size", "1"),
        ]);
        assert_eq!(job["jobstatus"], 1, "{job}");
        assert_eq!(
            job["jobresult"]["volume"]["state"], "Allocated",
            "a record only"
        );
        id_text(&job["jobresult"]["volume"]["id"])
    }

    fn attach(&mut self, volume: &str, slot: &str) -> Value {
        let machine = self.world.appliance().to_owned();
        self.run(&[
            ("command", "attachVolume"),
            ("id", volume),
            ("virtualmachineid", &machine),
            ("deviceid", slot),
        ])
    }

    fn detach(&mut self, volume: &str) -> Value {
        self.run(&[("command", "detachVolume"), ("id", volume)])
    }

    fn shown(&mut self, volume: &str) -> Value {
        let (_, answer) = self.call(&[("command", "listVolumes"), ("id", volume)]);
        answer["volume"][0].clone()
    }

    fn deploy(&mut self, extra: &[(&str, &str)]) -> (u16, Value) {
        let site = self.world.site();
        let ids = [&site.zones, &site.service_offerings, &site.templates]
            .map(|rows| id_text(&rows[0]["id"]));
        let mut pairs = vec![
            ("command", "deployVirtualMachine"),
            ("zoneid", ids[0].as_str()),
            ("serviceofferingid", &ids[1]),
            ("templateid", &ids[2]),
        ];
        pairs.extend_from_slice(extra);
        self.call(&pairs)
    }
}

fn failed(job: &Value, code: u16, fragment: &str) {
    assert_eq!(job["jobstatus"], 2, "{job}");
    assert_eq!(job["jobresult"]["errorcode"], code, "{job}");
    let text = job["jobresult"]["errortext"].as_str().expect("a text");
    assert!(text.contains(fragment), "{text}");
}

#[test]
fn a_volume_lives_from_record_to_device_to_nothing() {
    let mut bench = Bench::new();
    let id = bench.volume("one");
    let job = bench.attach(&id, "4");
    assert_eq!(job["jobresult"]["volume"]["deviceid"], 4);
    assert_eq!(bench.shown(&id)["state"], "Ready");
    let (status, refusal) = bench.call(&[("command", "deleteVolume"), ("id", &id)]);
    assert_eq!((status, refusal["cserrorcode"].as_u64()), (431, Some(4350)));
    assert_eq!(bench.detach(&id)["jobstatus"], 1);
    assert_eq!(bench.shown(&id).get("deviceid"), None);
    assert_eq!(
        bench.call(&[("command", "deleteVolume"), ("id", &id)]).1["success"],
        true
    );
    assert_eq!(
        bench.call(&[("command", "listVolumes"), ("id", &id)]).1,
        json!({}),
        "an empty list has no count"
    );
}

#[test]
fn slots_are_refused_as_the_contract_says() {
    let mut bench = Bench::new();
    let (one, two) = (bench.volume("one"), bench.volume("two"));
    failed(&bench.attach(&one, "3"), 530, "deviceId should be 0,1,2,4-");
    failed(
        &bench.attach(&one, "34"),
        530,
        "deviceId should be 0,1,2,4-",
    );
    failed(&bench.attach(&one, "0"), 431, "already has root volume");
    assert_eq!(bench.attach(&one, "1")["jobstatus"], 1);
    failed(&bench.attach(&two, "1"), 530, "is used by");
    failed(&bench.attach(&one, "2"), 431, "not attached to any VM");
    bench.world.settings.data_volumes_max = 1;
    failed(
        &bench.attach(&two, "2"),
        431,
        "maximum number of data disks",
    );
    failed(&bench.detach(&two), 431, "not attached");
}

#[test]
fn jobs_of_one_machine_run_one_after_another() {
    let mut bench = Bench::new();
    let (one, two) = (bench.volume("one"), bench.volume("two"));
    let machine = bench.world.appliance().to_owned();
    let submit = |bench: &mut Bench, id: &str| {
        bench
            .call(&[
                ("command", "attachVolume"),
                ("id", id),
                ("virtualmachineid", &machine),
            ])
            .1
    };
    bench
        .world
        .faults
        .push(Armed::once(Fault::SlowJob { ms: 5_000 }, "attachVolume"));
    let first = submit(&mut bench, &one);
    let second = submit(&mut bench, &two);
    bench.pass(4_000);
    assert_eq!(bench.shown(&one)["state"], "Attaching");
    assert_eq!(
        bench.shown(&two)["state"],
        "Allocated",
        "it waits behind the first"
    );
    bench.pass(10_000);
    assert_eq!(bench.query(&first["jobid"])["jobstatus"], 1);
    assert_eq!(
        bench.query(&second["jobid"])["jobresult"]["volume"]["deviceid"],
        2
    );
}

#[test]
fn a_chosen_job_id_is_refused_twice_and_the_row_of_a_creating_command_is_left_behind() {
    let mut bench = Bench::new();
    let site = bench.world.site();
    let (zone, offering) = (
        id_text(&site.zones[0]["id"]),
        id_text(&site.disk_offerings[1]["id"]),
    );
    let job = "7d0b0d0e-1111-4222-8333-444455556666";
    let create = [
        ("command", "createVolume"),
        ("name", "x"),
        ("zoneid", &zone),
        ("diskofferingid", &offering),
        ("customjobid", job),
    ];
    assert_eq!(bench.call(&create).1["jobid"], job);
    let (status, refusal) = bench.call(&create);
    assert_eq!(status, 431);
    assert!(
        refusal["errortext"]
            .as_str()
            .is_some_and(|text| text.contains("already exists so"))
    );
    bench.pass(1_000);
    assert_eq!(bench.call(&create).0, 530);
    let (_, list) = bench.call(&[("command", "listVolumes"), ("name", "x")]);
    assert_eq!(
        list["count"], 3,
        "contract 8: the row is made before the duplicate is noticed"
    );
}

#[test]
fn a_chosen_object_id_is_taken_for_ever() {
    let mut bench = Bench::new();
    let site = bench.world.site();
    let (zone, offering) = (
        id_text(&site.zones[0]["id"]),
        id_text(&site.disk_offerings[1]["id"]),
    );
    let id = "7d0b0d0e-1111-4222-8333-444455556667";
    let create = [
        ("command", "createVolume"),
        ("zoneid", &zone),
        ("diskofferingid", &offering),
        ("customid", id),
    ];
    assert_eq!(bench.run(&create)["jobresult"]["volume"]["id"], id);
    assert_eq!(bench.call(&create).0, 431);
    assert_eq!(
        bench.call(&[("command", "deleteVolume"), ("id", id)]).0,
        200
    );
    assert_eq!(bench.call(&create).0, 530);
}

#[test]
fn sizes_and_offerings_must_agree() {
    let mut bench = Bench::new();
    let site = bench.world.site();
    let zone = id_text(&site.zones[0]["id"]);
    let [custom, fixed] = [0, 1].map(|at| id_text(&site.disk_offerings[at]["id"]));
    let mut code = |offering: &str, size: Option<&str>| {
        let mut pairs = vec![
            ("command", "createVolume"),
            ("zoneid", zone.as_str()),
            ("diskofferingid", offering),
        ];
        pairs.extend(size.map(|size| ("size", size)));
        bench.call(&pairs).0
    };
    assert_eq!(code(&custom, None), 431);
    assert_eq!(code(&custom, Some("0")), 431);
    assert_eq!(code(&custom, Some("1025")), 431);
    assert_eq!(code(&fixed, Some("2")), 431);
    assert_eq!(code(&fixed, None), 200);
    assert_eq!(code("nothing", None), 431);
}

#[test]
fn a_restart_fails_jobs_without_a_result_and_their_work_may_go_on() {
    for goes_on in [false, true] {
        let mut bench = Bench::new();
        let id = bench.volume("one");
        let machine = bench.world.appliance().to_owned();
        let (_, answer) = bench.call(&[
            ("command", "attachVolume"),
            ("id", &id),
            ("virtualmachineid", &machine),
        ]);
        assert_eq!(
            bench.world.restart(
                bench.now,
                Restart {
                    work_goes_on: goes_on
                }
            ),
            1
        );
        let job = bench.query(&answer["jobid"]);
        assert_eq!(
            (
                job["jobstatus"].as_u64(),
                job["jobresultcode"].as_u64(),
                job.get("jobresult")
            ),
            (Some(2), Some(530), None)
        );
        bench.pass(60_000);
        let attached = bench.shown(&id).get("virtualmachineid").is_some();
        assert_eq!(attached, goes_on);
    }
}

#[test]
fn a_late_detach_fails_first_and_happens_later() {
    let mut bench = Bench::new();
    let id = bench.volume("one");
    bench.attach(&id, "1");
    bench.world.faults.push(Armed::once(
        Fault::LateDetach { ms: 300_000 },
        "detachVolume",
    ));
    failed(&bench.detach(&id), 530, "timed out");
    assert_eq!(bench.shown(&id)["deviceid"], 1, "not yet");
    bench.pass(300_000);
    assert_eq!(bench.shown(&id).get("deviceid"), None);
}

#[test]
fn a_double_attach_is_visible_behind_the_scenes() {
    let mut bench = Bench::new();
    let id = bench.volume("one");
    bench.attach(&id, "1");
    let (_, shell) = bench.deploy(&[("startvm", "false"), ("name", "shell")]);
    bench.pass(1_000);
    let shell = id_text(&shell["id"]);
    bench
        .world
        .faults
        .push(Armed::once(Fault::DoubleAttach, "attachVolume"));
    let job = bench.run(&[
        ("command", "attachVolume"),
        ("id", &id),
        ("virtualmachineid", &shell),
    ]);
    assert_eq!(job["jobstatus"], 1);
    let state = bench.world.state();
    let volumes = state["volumes"].as_array().expect("a list");
    let row = volumes
        .iter()
        .find(|row| row["id"] == id.as_str())
        .expect("listed");
    assert_eq!(row["writers"].as_array().map(Vec::len), Some(2));
}

#[test]
fn calls_are_lost_before_or_after_they_are_carried_out() {
    let mut bench = Bench::new();
    let site = bench.world.site();
    let (zone, offering) = (
        id_text(&site.zones[0]["id"]),
        id_text(&site.disk_offerings[1]["id"]),
    );
    let create = |name| {
        [
            ("command", "createVolume"),
            ("name", name),
            ("zoneid", zone.as_str()),
            ("diskofferingid", offering.as_str()),
        ]
    };
    bench
        .world
        .faults
        .push(Armed::once(Fault::LostRequest, "createVolume"));
    bench
        .world
        .faults
        .push(Armed::once(Fault::LostReply, "createVolume"));
    assert_eq!(bench.call(&create("before")).0, 0);
    assert_eq!(bench.call(&create("after")).0, 0);
    let count = |bench: &mut Bench, name| {
        bench.call(&[("command", "listVolumes"), ("name", name)]).1["count"].as_u64()
    };
    assert_eq!(count(&mut bench, "before"), None);
    assert_eq!(count(&mut bench, "after"), Some(1));
    for code in [401, 429, 503, 530, 502] {
        bench
            .world
            .faults
            .push(Armed::once(Fault::Status { code }, "listVolumes"));
        assert_eq!(bench.call(&[("command", "listVolumes")]).0, code);
    }
}

#[test]
fn stuck_jobs_wait_and_expired_rows_are_gone() {
    let mut bench = Bench::new();
    let id = bench.volume("one");
    let machine = bench.world.appliance().to_owned();
    bench
        .world
        .faults
        .push(Armed::once(Fault::StuckJob, "attachVolume"));
    let (_, answer) = bench.call(&[
        ("command", "attachVolume"),
        ("id", &id),
        ("virtualmachineid", &machine),
    ]);
    bench.pass(3_600_000);
    assert_eq!(bench.query(&answer["jobid"])["jobstatus"], 0);
    assert_eq!(bench.world.release_jobs(bench.now), 1);
    bench.pass(1_000);
    assert_eq!(bench.query(&answer["jobid"])["jobstatus"], 1);
    assert!(bench.world.expire_jobs(None) > 0);
    assert_eq!(
        bench
            .call(&[
                ("command", "queryAsyncJobResult"),
                ("jobid", &id_text(&answer["jobid"]))
            ])
            .0,
        431
    );
}

#[test]
fn lists_are_as_stale_as_asked_and_no_longer() {
    let mut bench = Bench::new();
    bench.world.settings.stale_lists_ms = 30_000;
    bench.pass(60_000);
    let site = bench.world.site();
    let (zone, offering) = (
        id_text(&site.zones[0]["id"]),
        id_text(&site.disk_offerings[1]["id"]),
    );
    bench.call(&[
        ("command", "createVolume"),
        ("name", "new"),
        ("zoneid", &zone),
        ("diskofferingid", &offering),
    ]);
    bench.pass(20_000);
    assert_eq!(
        bench.call(&[("command", "listVolumes"), ("name", "new")]).1,
        json!({})
    );
    bench.pass(20_000);
    assert_eq!(
        bench.call(&[("command", "listVolumes"), ("name", "new")]).1["count"],
        1
    );
}

#[test]
fn roots_are_swapped_on_stopped_machines_only() {
    let mut bench = Bench::new();
    let (_, shell) = bench.deploy(&[("name", "shell")]);
    bench.pass(60_000);
    let shell = id_text(&shell["id"]);
    let (_, list) = bench.call(&[("command", "listVolumes"), ("virtualmachineid", &shell)]);
    let old = id_text(&list["volume"][0]["id"]);
    failed(&bench.detach(&old), 431, "only when vm is in states");
    assert_eq!(
        bench.run(&[("command", "stopVirtualMachine"), ("id", &shell)])["jobstatus"],
        1
    );
    assert_eq!(
        bench.run(&[("command", "stopVirtualMachine"), ("id", &shell)])["jobstatus"],
        1,
        "stop on Stopped succeeds"
    );
    bench.world.settings.managed_pool = true;
    failed(&bench.detach(&old), 431, "Managed DataStores");
    bench.world.settings.managed_pool = false;
    assert_eq!(
        bench.detach(&old)["jobresult"]["volume"]["type"],
        "DATADISK"
    );
    failed(
        &bench.run(&[("command", "startVirtualMachine"), ("id", &shell)]),
        530,
        "ROOT volume is missing",
    );
    let new = bench.volume("new");
    let job = bench.run(&[
        ("command", "attachVolume"),
        ("id", &new),
        ("virtualmachineid", &shell),
        ("deviceid", "0"),
    ]);
    assert_eq!(job["jobresult"]["volume"]["type"], "ROOT");
    assert_eq!(
        bench.run(&[("command", "startVirtualMachine"), ("id", &shell)])["jobstatus"],
        1
    );
    failed(
        &bench.run(&[("command", "startVirtualMachine"), ("id", &shell)]),
        431,
        "already running",
    );
    let data = bench.volume("data");
    bench.run(&[
        ("command", "attachVolume"),
        ("id", &data),
        ("virtualmachineid", &shell),
    ]);
    bench.run(&[
        ("command", "destroyVirtualMachine"),
        ("id", &shell),
        ("expunge", "true"),
    ]);
    assert_eq!(
        bench.shown(&new),
        Value::Null,
        "the root goes with its machine"
    );
    assert_eq!(bench.shown(&data)["state"], "Ready", "data volumes survive");
}

#[test]
fn firmware_names_and_nics_follow_the_contract() {
    let mut bench = Bench::new();
    assert_eq!(bench.deploy(&[("boottype", "UEFI")]).0, 431);
    assert_eq!(
        bench.deploy(&[("boottype", "BIOS")]).0,
        530,
        "the crash of every release"
    );
    assert_eq!(bench.deploy(&[("name", "1st")]).0, 431);
    assert_eq!(bench.deploy(&[("details[0].cpuNumber", "2")]).0, 431);
    let networks = [0, 1].map(|at| id_text(&bench.world.site().networks[at]["id"]));
    let [first, second] = [networks[0].as_str(), networks[1].as_str()];
    assert_eq!(
        bench
            .deploy(&[
                ("iptonetworklist[0].networkid", first),
                ("iptonetworklist[0].mac", "01:00:00:00:00:01")
            ])
            .0,
        431
    );
    let twice = [
        ("startvm", "false"),
        ("iptonetworklist[0].networkid", first),
        ("iptonetworklist[1].networkid", first),
        ("iptonetworklist[1].ip", "10.1.1.77"),
    ];
    let (_, shell) = bench.deploy(&twice);
    bench.pass(1_000);
    let shell = id_text(&shell["id"]);
    let (_, list) = bench.call(&[("command", "listVirtualMachines"), ("id", &shell)]);
    let nics = list["virtualmachine"][0]["nic"]
        .as_array()
        .expect("nics")
        .clone();
    assert_eq!(
        (nics.len(), nics[0]["ipaddress"].as_str()),
        (1, Some("10.1.1.77")),
        "two on one network collapse"
    );
    let add = |network| {
        [
            ("command", "addNicToVirtualMachine"),
            ("virtualmachineid", shell.as_str()),
            ("networkid", network),
        ]
    };
    failed(&bench.run(&add(first)), 530, "A NIC already exists");
    assert_eq!(
        bench.run(&add(second))["jobresult"]["virtualmachine"]["nic"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
}

#[test]
fn snapshots_are_taken_reverted_and_made_into_volumes() {
    let mut bench = Bench::new();
    let id = bench.volume("one");
    failed(
        &bench.run(&[("command", "createSnapshot"), ("volumeid", &id)]),
        431,
        "not in Ready state",
    );
    bench.attach(&id, "1");
    let job = bench.run(&[
        ("command", "createSnapshot"),
        ("volumeid", &id),
        ("name", "s"),
    ]);
    assert_eq!(job["jobresult"]["snapshot"]["state"], "BackedUp");
    let snapshot = id_text(&job["jobresult"]["snapshot"]["id"]);
    failed(
        &bench.run(&[("command", "revertSnapshot"), ("id", &snapshot)]),
        431,
        "not in the shutdown state",
    );
    let job = bench.run(&[
        ("command", "createVolume"),
        ("name", "clone"),
        ("snapshotid", &snapshot),
    ]);
    assert_eq!(
        job["jobresult"]["volume"]["state"], "Ready",
        "really placed"
    );
    bench.detach(&id);
    assert_eq!(
        bench.run(&[("command", "revertSnapshot"), ("id", &snapshot)])["jobstatus"],
        1
    );
    bench.world.settings.kvm_snapshots = false;
    bench.attach(&id, "1");
    failed(
        &bench.run(&[("command", "createSnapshot"), ("volumeid", &id)]),
        530,
        "not supported for Running VMs",
    );
    assert_eq!(
        bench.run(&[("command", "deleteSnapshot"), ("id", &snapshot)])["jobresult"]["success"],
        true
    );
}

#[test]
fn pages_come_as_cloudstack_cuts_them() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        bench.volume("disk");
    }
    let mut list = |pairs: &[(&str, &str)]| {
        let mut all = vec![("command", "listVolumes"), ("name", "disk")];
        all.extend_from_slice(pairs);
        bench.call(&all)
    };
    assert_eq!(list(&[("page", "1")]).0, 431);
    assert_eq!(list(&[("page", "1"), ("pagesize", "501")]).0, 431);
    let (_, page) = list(&[("page", "2"), ("pagesize", "3")]);
    assert_eq!(
        (
            page["count"].as_u64(),
            page["volume"].as_array().map(Vec::len)
        ),
        (Some(5), Some(2))
    );
    assert_eq!(
        list(&[("page", "3"), ("pagesize", "3")]).1,
        json!({"count": 5})
    );
    assert_eq!(
        list(&[("pagesize", "-1")]).1["volume"]
            .as_array()
            .map(Vec::len),
        Some(5)
    );
    bench.world.settings.page_size_max = 2;
    let (_, first) = bench.call(&[("command", "listVolumes"), ("name", "disk")]);
    assert_eq!(
        (
            first["count"].as_u64(),
            first["volume"].as_array().map(Vec::len)
        ),
        (Some(5), Some(2)),
        "silently cut"
    );
}

#[test]
fn tags_are_all_or_nothing_and_never_written_over() {
    let mut bench = Bench::new();
    let id = bench.volume("one");
    let tag = |value| {
        [
            ("command", "createTags"),
            ("resourcetype", "Volume"),
            ("resourceids", id.as_str()),
            ("tags[0].key", "owner"),
            ("tags[0].value", value),
        ]
    };
    assert_eq!(bench.run(&tag("me"))["jobstatus"], 1);
    failed(&bench.run(&tag("you")), 530, "already on");
    failed(&bench.run(&tag("")), 431, "empty");
    assert_eq!(bench.shown(&id)["tags"][0]["value"], "me");
    let (_, list) = bench.call(&[
        ("command", "listVolumes"),
        ("tags[0].key", "owner"),
        ("tags[0].value", "me"),
    ]);
    assert_eq!(list["count"], 1);
}

#[test]
fn numbers_come_as_numbers_and_are_taken_as_text() {
    let mut world = World::new(1, Identifiers::Number, Settings::default(), 0);
    let pairs = [("command", "listZones"), ("id", "1")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let Reply::Json { body, .. } = world.call(0, &pairs, &mut Nothing) else {
        panic!("an answer");
    };
    assert!(
        body["listzonesresponse"]["zone"][0]["id"].is_number()
            || body["listzonesresponse"] == json!({})
    );
    let all = [("command".to_owned(), "listZones".to_owned())];
    let Reply::Json { body, .. } = world.call(0, &all, &mut Nothing) else {
        panic!("an answer");
    };
    assert!(
        body["listzonesresponse"]["zone"][0]["id"].is_number(),
        "{body}"
    );
}

#[test]
fn errors_stand_under_the_key_that_cloudstack_uses() {
    let key = |reply| match reply {
        Reply::Json { body, .. } => body
            .as_object()
            .and_then(|held| held.keys().next().cloned())
            .expect("a key"),
        _ => panic!("an answer"),
    };
    assert_eq!(
        key(refused("listZones", &Refusal::parameter("x"))),
        "listzonesresponse"
    );
    assert_eq!(
        key(refused("fly", &Refusal::unknown_command("fly"))),
        "errorresponse"
    );
    assert_eq!(key(refused("", &Refusal::unauthorized())), "null");
}

#[test]
fn snapshots_of_a_machine_block_its_disks_and_nics() {
    let mut bench = Bench::new();
    let (one, two) = (bench.volume("one"), bench.volume("two"));
    bench.attach(&one, "1");
    let machine = bench.world.appliance().to_owned();
    let take = [
        ("command", "createVMSnapshot"),
        ("virtualmachineid", machine.as_str()),
        ("name", "before"),
    ];
    let job = bench.run(&take);
    assert_eq!(job["jobresult"]["vmsnapshot"]["state"], "Ready", "{job}");
    assert_eq!(
        bench.call(&take).0,
        431,
        "names are unique within a machine"
    );
    failed(&bench.attach(&two, "2"), 431, "does not have");
    failed(&bench.detach(&one), 431, "does not have");
    let network = id_text(&bench.world.site().networks[1]["id"]);
    let add = [
        ("command", "addNicToVirtualMachine"),
        ("virtualmachineid", machine.as_str()),
        ("networkid", &network),
    ];
    failed(&bench.run(&add), 431, "does not have");
    let (_, list) = bench.call(&[
        ("command", "listVMSnapshot"),
        ("virtualmachineid", &machine),
    ]);
    let id = id_text(&list["vmSnapshot"][0]["id"]);
    assert_eq!(
        bench.run(&[("command", "deleteVMSnapshot"), ("vmsnapshotid", &id)])["jobresult"]["success"],
        true
    );
    assert_eq!(bench.detach(&one)["jobstatus"], 1);
    assert_eq!(
        bench.call(&[("command", "listDomains")]).1["domain"][0]["name"],
        "ROOT"
    );
}

fn pick<'a, T>(rng: &mut Seeded, from: &'a [T]) -> &'a T {
    let index = rng.below(from.len() as u64);
    from.iter()
        .zip(0..)
        .find(|(_, at)| *at == index)
        .expect("not empty")
        .0
}

/// One random thing that a client, a fault or an operator does.
fn stir(bench: &mut Bench, rng: &mut Seeded, volumes: &[String], machines: &[String]) {
    let kinds = [
        Fault::LostReply,
        Fault::LostRequest,
        Fault::Status { code: 503 },
        Fault::SlowJob { ms: 3_000 },
        Fault::StuckJob,
        Fault::FailJob {
            code: 530,
            text: None,
        },
        Fault::FailedButDone,
        Fault::LateDetach { ms: 5_000 },
        Fault::LateDevice { ms: 700 },
    ];
    let volume = pick(rng, volumes);
    let machine = pick(rng, machines);
    if rng.below(4) == 0 {
        let fault = pick(rng, &kinds).clone();
        bench.world.faults.push(Armed {
            fault,
            command: None,
            after: 0,
            count: 1,
        });
    }
    let slot = (1 + rng.below(5)).to_string();
    match rng.below(9) {
        0..3 => drop(bench.call(&[
            ("command", "attachVolume"),
            ("id", volume),
            ("virtualmachineid", machine),
            ("deviceid", &slot),
        ])),
        3..6 => drop(bench.call(&[("command", "detachVolume"), ("id", volume)])),
        6 => drop(bench.call(&[("command", "createSnapshot"), ("volumeid", volume)])),
        7 => drop(bench.world.release_jobs(bench.now)),
        _ if rng.below(5) == 0 => {
            let restart = Restart {
                work_goes_on: rng.below(2) == 0,
            };
            bench.world.restart(bench.now, restart);
        }
        _ => {}
    }
    bench.pass(rng.below(400));
}

/// All faults but the double attach, and a restart now and then; answers the end and how often a volume was attached.
fn campaign(seed: u64, operations: u32) -> (String, usize) {
    let mut bench = Bench::new();
    bench.world = World::new(seed, Identifiers::Text, Settings::default(), bench.now);
    let mut rng = Seeded::new(seed);
    let volumes: Vec<String> = (0..6).map(|at| bench.volume(&format!("v{at}"))).collect();
    let appliance = bench.world.appliance().to_owned();
    let (_, shell) = bench.deploy(&[("startvm", "false"), ("name", "shell")]);
    bench.pass(1_000);
    let machines = [appliance, id_text(&shell["id"])];
    let mut attached = 0;
    for _ in 0..operations {
        stir(&mut bench, &mut rng, &volumes, &machines);
        attached += check(&bench.world.state());
    }
    bench.world.faults.clear();
    bench.world.release_jobs(bench.now);
    bench.pass(600_000);
    let state = bench.world.state();
    assert_eq!(
        (&state["open_jobs"], &state["errands"]),
        (&json!(0), &json!(0)),
        "seed {seed}: {state}"
    );
    for row in state["volumes"].as_array().expect("a list") {
        assert!(
            ["Ready", "Allocated"].contains(&row["state"].as_str().expect("a state")),
            "seed {seed}: {row}"
        );
    }
    (state.to_string(), attached)
}

/// Holds what must hold after every operation; answers how many data volumes are attached.
fn check(state: &Value) -> usize {
    let mut slots = std::collections::BTreeSet::new();
    for row in state["volumes"].as_array().expect("a list") {
        assert!(
            row["writers"].as_array().is_some_and(|held| held.len() < 2),
            "{row}"
        );
        if !row["virtualmachineid"].is_null() {
            let place = (
                row["virtualmachineid"].to_string(),
                row["deviceid"].to_string(),
            );
            assert!(slots.insert(place), "one slot, two volumes: {row}");
        }
    }
    slots.len() - 2
}

#[test]
fn no_order_of_faults_gives_a_volume_two_writers_or_leaves_work_behind() {
    for seed in 0..20 {
        let (end, attached) = campaign(seed, 150);
        assert!(
            attached > 50,
            "seed {seed} hardly attached anything: {attached}"
        );
        assert_eq!(campaign(seed, 150).0, end, "seed {seed} replays");
    }
}
