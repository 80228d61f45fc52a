//! The floor table, one row per crate, also for crates that are still to come.
//!
//! `docs/architecture/README.md` explains the rows; the two change together.

/// What one crate may use and what it must never reach.
pub(super) struct Floor {
    /// Folder of the crate, relative to the workspace root.
    pub(super) folder: &'static str,
    /// Our crates, by folder, that it may name in its manifest.
    pub(super) uses: &'static [&'static str],
    /// Third-party crates that no path may lead to (tests apart).
    pub(super) never: &'static [&'static [&'static str]],
    /// Crates that may be below it but not in its own manifest.
    pub(super) never_direct: &'static [&'static str],
    /// Floor 0: its sources may not name sockets, files, clocks, threads or the environment.
    pub(super) pure: bool,
}

const ASYNC: &[&str] = &[
    "tokio",
    "tokio-uring",
    "mio",
    "async-std",
    "smol",
    "async-io",
];
const SOCKETS: &[&str] = &["socket2", "polling", "nix", "rustix", "io-uring"];
const SQL: &[&str] = &[
    "sqlx",
    "sqlx-core",
    "rusqlite",
    "libsqlite3-sys",
    "mysql_async",
];
const HTTP: &[&str] = &["axum", "hyper", "reqwest", "ureq"];
const OUTBOUND_HTTP: &[&str] = &["reqwest", "ureq"];
const CLOCKS: &[&str] = &["chrono", "jiff"];
const SERDE: &[&str] = &["serde", "serde_core"];
const RANDOM: &[&str] = &["rand", "getrandom"];

const WIRE: &str = "dataplane/wire";
const TLS: &str = "dataplane/tls";
const CONTROL: &str = "dataplane/control";
const SYS: &str = "dataplane/sys";
const ENGINE: &str = "dataplane/engine";
const DAEMON: &str = "dataplane/daemon";
const MODEL: &str = "controlplane/model";
const VOLUME_COMMANDS: &str = "controlplane/volume_commands";
const STORE: &str = "controlplane/store";
const CLIENTS: &str = "controlplane/clients";

pub(super) const FLOORS: &[Floor] = &[
    // Floor 0: facts in, decisions out.
    pure_floor(WIRE, &[ASYNC, SOCKETS, SQL, HTTP, CLOCKS, SERDE, RANDOM]),
    pure_floor(TLS, &[ASYNC, SOCKETS, SQL, HTTP, CLOCKS]),
    pure_floor(CONTROL, &[ASYNC, SOCKETS, SQL, HTTP, CLOCKS, RANDOM]),
    pure_floor(MODEL, &[ASYNC, SOCKETS, SQL, HTTP, CLOCKS, RANDOM]),
    // The data plane above it.
    floor(SYS, &[], &[ASYNC, SERDE, SQL, HTTP]),
    floor(ENGINE, &[WIRE, TLS, CONTROL, SYS], &[ASYNC, SQL, HTTP]),
    floor(
        DAEMON,
        &[WIRE, TLS, CONTROL, SYS, ENGINE],
        &[SQL, OUTBOUND_HTTP],
    ),
    // The control plane.
    floor(STORE, &[MODEL], &[&["axum"], OUTBOUND_HTTP]),
    floor(CLIENTS, &[MODEL, CONTROL], &[SQL, &["axum"]]),
    floor(VOLUME_COMMANDS, &[MODEL, CLIENTS], &[SQL, &["axum"]]),
    service("controlplane/oma", &[MODEL, STORE, CLIENTS, CONTROL]),
    service("controlplane/vma", &[MODEL, STORE, CLIENTS, CONTROL]),
    service(
        "controlplane/volumed",
        &[MODEL, STORE, CLIENTS, CONTROL, VOLUME_COMMANDS],
    ),
    // Measuring and tools.
    floor("benches", &[CONTROL, WIRE, TLS, SYS, ENGINE], &[SQL]),
    floor("tools/cli", &[CONTROL, CLIENTS], &[SQL, &["io-uring"]]),
    floor("tools/tune", &[CONTROL, CLIENTS], &[SQL, &["io-uring"]]),
    floor("tools/lab", &[MODEL], &[SQL, &["io-uring"]]),
    floor("tools/xtask", &[], &[ASYNC, SQL, HTTP]),
];

const fn floor(
    folder: &'static str,
    uses: &'static [&'static str],
    never: &'static [&'static [&'static str]],
) -> Floor {
    Floor {
        folder,
        uses,
        never,
        never_direct: &[],
        pure: false,
    }
}

const fn pure_floor(folder: &'static str, never: &'static [&'static [&'static str]]) -> Floor {
    Floor {
        folder,
        uses: &[],
        never,
        never_direct: &[],
        pure: true,
    }
}

/// A control-plane binary: SQL only through `store`, outbound calls only through `clients`.
const fn service(folder: &'static str, uses: &'static [&'static str]) -> Floor {
    let never_direct = &[
        "sqlx",
        "sqlx-core",
        "reqwest",
        "ureq",
        "io-uring",
        "tokio-uring",
    ];
    Floor {
        folder,
        uses,
        never: &[],
        never_direct,
        pure: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn row(folder: &str) -> &'static Floor {
        FLOORS
            .iter()
            .find(|floor| floor.folder == folder)
            .expect("every used crate has a row")
    }

    /// Everything of ours that a crate could reach if it used all it is allowed to.
    fn reach(folder: &'static str) -> BTreeSet<&'static str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![folder];
        while let Some(folder) = open.pop() {
            open.extend(
                row(folder)
                    .uses
                    .iter()
                    .filter(|used| reached.insert(**used)),
            );
        }
        reached
    }

    #[test]
    fn the_table_has_no_cycle_and_no_missing_row() {
        for floor in FLOORS {
            assert!(
                !reach(floor.folder).contains(floor.folder),
                "{} is in a cycle",
                floor.folder
            );
        }
    }

    #[test]
    fn each_crate_has_one_row() {
        let folders: BTreeSet<&str> = FLOORS.iter().map(|floor| floor.folder).collect();
        assert_eq!(folders.len(), FLOORS.len());
    }

    #[test]
    fn the_planes_stay_apart() {
        let never = |crates: &[&'static str], targets: &[&str]| {
            for from in crates {
                for target in targets {
                    assert!(!reach(from).contains(target), "{from} can reach {target}");
                }
            }
        };
        let services = [
            "controlplane/oma",
            "controlplane/vma",
            "controlplane/volumed",
        ];
        never(&services, &[SYS, ENGINE, "tools/lab"]);
        never(
            &["controlplane/oma", "controlplane/vma"],
            &[VOLUME_COMMANDS],
        );
        never(
            &[DAEMON, "benches"],
            &[MODEL, STORE, CLIENTS, VOLUME_COMMANDS],
        );
        never(&[CLIENTS, VOLUME_COMMANDS], &[STORE, SYS, ENGINE]);
        never(&["tools/cli", "tools/tune"], &[STORE, SYS, ENGINE]);
        never(&["tools/lab"], &[CLIENTS, STORE, SYS, ENGINE]);
        never(&[STORE], &[CLIENTS]);
    }

    #[test]
    fn only_the_volume_daemon_may_use_the_volume_commands() {
        let users: Vec<&str> = FLOORS
            .iter()
            .filter(|floor| floor.uses.contains(&VOLUME_COMMANDS))
            .map(|floor| floor.folder)
            .collect();
        assert_eq!(users, ["controlplane/volumed"]);
    }
}
