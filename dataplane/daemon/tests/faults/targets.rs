//! A server that is not ours and fails for a while.

use super::assert_told;
use crate::common::{Bed, assert_same, have};
use crate::crash::foreign::{Nbdkit, foreign_args};
use crate::crash::link::{Link, Upstream};
use crate::crash::plan::Plan;
use crate::crash::{Copy, SIZE_BYTES};

#[test]
fn a_target_that_fails_for_a_while_is_exit_5_and_the_copy_goes_on_when_it_is_well() {
    if !have("nbdkit") {
        return;
    }
    let bed = Bed::new();
    bed.disk("source", SIZE_BYTES);
    let file = std::fs::File::create_new(bed.path("backing")).unwrap();
    file.set_len(SIZE_BYTES).unwrap();
    let trigger = format!("error-file={}", bed.path("trigger").display());
    let rate = "error-rate=100%";
    let server = Nbdkit::start(&bed, &["--filter=error", "file", "backing", rate, &trigger]);
    let link = Link::new();
    link.point(Upstream::Unix(server.socket.clone()));
    link.arm(Plan::late(2).at_bytes, true);
    let copy = Copy::start(&bed, &foreign_args(&link, &["--rate-limit", "32M"]));
    assert!(link.wait(), "not that far: {}", copy.told());
    std::fs::write(bed.path("trigger"), "").unwrap();
    link.release();
    let run = copy.wait();
    assert_told(&run, 5, &[&format!("nbd://127.0.0.1:{}", link.port())]);
    std::fs::remove_file(bed.path("trigger")).unwrap();
    let run = Copy::start(&bed, &foreign_args(&link, &["--resume"])).wait();
    run.done();
    server.kill();
    assert_same(&bed.path("source"), &bed.path("backing"));
}
