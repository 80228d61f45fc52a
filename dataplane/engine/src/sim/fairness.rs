//! Transfers that share an export get equal parts of it.

use super::{
    case::{Case, Fault},
    core::Dice,
    disk::Role,
    load::{Load, Way},
    side::PLENTY,
    wiring::{Agreed, add_disk, connect, export_of},
    world::World,
};
use tls::SessionLimits;
use wire::Mode;

const TRANSFERS: usize = 8;
const SEEDS: u64 = 11;
/// Bytes of all transfers before anybody looks, and when the shares are measured.
const WARM_BYTES: u64 = 4 << 20;
const LONG_BYTES: u64 = 68 << 20;

/// Bytes each transfer moved in a long run.
fn shares(seed: u64, way: Way, shards: usize) -> Vec<u64> {
    let dice = &mut Dice::new(seed);
    let names = ["client", "server", "server2"];
    let mut world = World::new(Case::new(seed, Fault::None), &names[..=shards], PLENTY);
    let image = vec![0; 1 << 20];
    let disk = add_disk(&mut world.sim.borrow_mut(), Role::Target, 1, image);
    let export = export_of(disk);
    let agreed = Agreed {
        mode: dice.one_of(&[Mode::Simple, Mode::Structured, Mode::Extended]),
        tls: dice.once_in(2).then(SessionLimits::default),
    };
    let sizes = (16_384 << dice.between(0, 3), 1 << 20);
    let mut loads: Vec<_> = (0..TRANSFERS)
        .map(|index| {
            let wired = connect(&mut world.sim.borrow_mut(), &export, agreed);
            let queue = |side: usize| world.side(side).expect("it runs").commands();
            Load::start(wired, way, sizes, (queue(0), queue(1 + index % shards)))
        })
        .collect();
    world.wake(0..=shards);
    let mut warm = vec![0; TRANSFERS];
    loop {
        loads.iter_mut().for_each(Load::refill);
        let total: u64 = loads.iter().map(Load::bytes).sum();
        if total < WARM_BYTES {
            warm = loads.iter().map(Load::bytes).collect();
        }
        if total >= LONG_BYTES {
            break;
        }
        if !world.turn_one() {
            world.sleep_until(world.next_ns().expect("there is always work"));
        }
    }
    assert!(
        !loads.iter().any(Load::has_failed),
        "seed {seed}: a transfer failed"
    );
    let moved = loads.iter().map(Load::bytes);
    moved.zip(warm).map(|(now, before)| now - before).collect()
}

fn check(way: Way, shards: usize) {
    for seed in 0..SEEDS {
        let shares = shares(seed, way, shards);
        let fair = shares.iter().sum::<u64>() / TRANSFERS as u64;
        let least = shares.iter().min().copied().unwrap_or(0);
        assert!(least * 2 >= fair, "seed {seed}: {shares:?}");
    }
}

#[test]
fn eight_writers_of_an_export_get_equal_shares() {
    check(Way::ToServer, 1);
}

#[test]
fn eight_readers_of_an_export_get_equal_shares() {
    check(Way::FromServer, 1);
}

#[test]
fn writers_on_two_shards_get_equal_shares() {
    check(Way::ToServer, 2);
}
