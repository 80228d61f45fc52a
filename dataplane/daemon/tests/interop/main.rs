//! The interop matrix: foreign clients against our server, our client against foreign servers.
//!
//! Each cell compares content, or names the reason why there is none to compare. One wrong cell fails the test.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../common/mod.rs"]
mod common;

mod client;
mod matrix;
mod ours;
mod peers;
mod process;
mod refusals;
mod server;

use common::Bed;
use matrix::Matrix;

/// What the cells need; the TLS libraries come with the tools.
const TOOLS: [&str; 11] = [
    "nbdkit",
    "nbdcopy",
    "nbdinfo",
    "qemu-img",
    "qemu-io",
    "qemu-nbd",
    "fio",
    "stunnel",
    "openssl",
    "gnutls-cli",
    "losetup",
];

#[test]
fn every_cell_of_the_interop_matrix_holds() {
    all_cells("auto");
}

#[test]
fn every_cell_of_the_interop_matrix_holds_on_the_plain_tier() {
    all_cells("plain");
}

#[test]
fn every_cell_of_the_interop_matrix_holds_on_the_epoll_tier() {
    all_cells("epoll");
}

/// The whole matrix with this `--runtime` on our side, be it server or client.
fn all_cells(runtime: &'static str) {
    // Each missing tool is told.
    let missing = TOOLS.iter().filter(|tool| !common::have(tool)).count();
    if missing > 0 {
        return;
    }
    let bed = Bed::new();
    let trial = ["copy", "null:1M", "null:", "--runtime", runtime];
    if bed.run(&trial).code != 0 {
        return common::skip(&format!("kernel has no {runtime} tier"));
    }
    peers::make_certificates(&bed);
    let mut matrix = Matrix::new(runtime);
    {
        let site = ours::Site::start(&bed, runtime);
        server::cells(&mut matrix, &site);
        refusals::cells(&mut matrix, &site);
    }
    client::cells(&mut matrix, &bed, runtime);
    matrix.finish();
}
