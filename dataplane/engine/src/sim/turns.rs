//! A turn allocates nothing: not on the simulated kernel, not on a real one.
//!
//! Both shards are under load in both directions, over TLS and plain: two transfers write and two read, all from and
//! into a device.

use super::{
    case::{Case, Fault},
    core::Sim,
    disk::Role,
    load::{Load, Way},
    side::{PLENTY, Seat},
    wiring::{Agreed, add_disk, connect, export_of},
    world::World,
};
use crate::{Tunables, command::Command};
use crossbeam::channel::{Receiver, Sender, bounded};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use sys::{
    Arena, ArenaConfig, Backend, DeviceFile, Tier,
    alloc_count::count,
    poll::{Poll, PollConfig},
    ring::{Ring, RingConfig},
};
use tls::SessionLimits;
use wire::Mode;

#[global_allocator]
static ALLOCATOR: sys::alloc_count::CountingAllocator = sys::alloc_count::CountingAllocator;

const TURNS: usize = 10_000;
/// Queues, tables and caches find their size first.
const WARM_TURNS: usize = 1_000;
const DEVICE_BYTES: u64 = 4 << 20;
/// What each transfer moves at least.
const LOAD_BYTES: u64 = 32 << 20;
const SIZES: (usize, usize) = (64 * 1024, 512 * 1024);
const WAYS: [Way; 4] = [
    Way::ToServer,
    Way::FromServer,
    Way::ToServer,
    Way::FromServer,
];

fn agreed(tls: bool) -> Agreed {
    Agreed {
        mode: Mode::Structured,
        tls: tls.then(SessionLimits::default),
    }
}

/// It was a load.
fn check(loads: &[Load]) {
    for load in loads {
        let moved = load.bytes();
        assert!(!load.has_failed() && moved > LOAD_BYTES, "{moved} bytes");
    }
}

/// Allocations in turns on the simulated kernel.
fn simulated(tls: bool) -> u64 {
    let mut world = World::new(Case::new(1, Fault::None), &["client", "server"], PLENTY);
    let image = vec![7; usize::try_from(DEVICE_BYTES).expect("small")];
    let disk = add_disk(&mut world.sim.borrow_mut(), Role::Target, 1, image);
    let export = export_of(disk);
    let mut loads = WAYS.map(|way| {
        let wired = connect(&mut world.sim.borrow_mut(), &export, agreed(tls));
        let queue = |side: usize| world.side(side).expect("it runs").commands();
        Load::start(wired, way, SIZES, (queue(0), queue(1)))
    });
    world.wake(0..2);
    let allocations = |world: &World| -> u64 {
        let of = |side: usize| world.side(side).map_or(0, |side| side.allocations);
        of(0) + of(1)
    };
    let mut before = 0;
    while world.turns < (2 * (WARM_TURNS + TURNS)) as u64 {
        if world.turns < (2 * WARM_TURNS) as u64 {
            before = allocations(&world);
        }
        loads.iter_mut().for_each(Load::refill);
        if !world.turn_one() {
            world.sleep_until(world.next_ns().expect("there is always work"));
        }
    }
    check(&loads);
    allocations(&world) - before
}

/// One machine of a real run, on its own thread: turns until both have had enough; says how often it allocated.
fn run_seat<B: Backend>(
    mut seat: Seat<B>,
    commands: &Sender<Sender<Command>>,
    loads: &Receiver<Vec<Load>>,
    enough: &AtomicUsize,
) -> u64 {
    commands
        .send(seat.commands.clone())
        .expect("somebody waits");
    let mut loads = loads.recv().expect("somebody sends");
    let mut turn = || {
        loads.iter_mut().for_each(Load::refill);
        seat.shard.turn().expect("the kernel lets us wait");
    };
    (0..WARM_TURNS).for_each(|_| turn());
    let ((), allocations) = count(|| (0..TURNS).for_each(|_| turn()));
    enough.fetch_add(1, Ordering::AcqRel);
    while enough.load(Ordering::Acquire) < 2 {
        turn();
    }
    check(&loads);
    // Nobody hangs up before both have looked.
    enough.fetch_add(1, Ordering::AcqRel);
    while enough.load(Ordering::Acquire) < 4 {
        thread::yield_now();
    }
    allocations
}

/// Allocations of a client's and of a server's turns on one of the kernel's backends.
fn real<B: Backend>(tls: bool, backend: impl Fn(&Arc<Arena>) -> B + Sync) -> [u64; 2] {
    let (small_count, large_count) = PLENTY;
    let config = ArenaConfig {
        small_count,
        large_count,
        huge_pages: false,
    };
    let device = DeviceFile::in_memory(DEVICE_BYTES).expect("a file in memory");
    let export = export_of(Arc::new(device));
    let enough = AtomicUsize::new(0);
    let (enough, backend) = (&enough, &backend);
    thread::scope(|scope| {
        let machines = [(); 2].map(|()| {
            let (tell_commands, commands) = bounded(1);
            let (tell_loads, loads) = bounded(1);
            let thread = scope.spawn(move || {
                let arena = Arena::new(&config).expect("an arena");
                let seat = Seat::new(backend(&arena), arena, Tunables::new());
                run_seat(seat, &tell_commands, &loads, enough)
            });
            let commands: Sender<Command> = commands.recv().expect("the thread runs");
            (commands, tell_loads, thread)
        });
        let [client, server] = &machines;
        // Only the descriptors of its connections are used.
        let mut sim = Sim::new(Case::new(1, Fault::None));
        let loads = WAYS.map(|way| {
            let wired = connect(&mut sim, &export, agreed(tls));
            Load::start(wired, way, SIZES, (&client.0, &server.0))
        });
        let sent = (client.1.send(loads.into()), server.1.send(Vec::new()));
        assert!(sent.0.is_ok() && sent.1.is_ok());
        machines.map(|(_, _, thread)| thread.join().expect("the thread ends well"))
    })
}

fn ring(tier: Tier) -> impl Fn(&Arc<Arena>) -> Ring + Sync {
    move |arena| {
        Ring::new(&RingConfig {
            tier,
            entries: 256,
            files_max: 8,
            sockets_max: 8,
            arena: Arc::clone(arena),
        })
        .expect("a ring")
    }
}

fn poll(_: &Arc<Arena>) -> Poll {
    Poll::new(&PollConfig {
        entries: 256,
        files_max: 8,
        sockets_max: 8,
        threads: 2,
    })
    .expect("a poller")
}

#[test]
fn turns_on_the_simulated_kernel_allocate_nothing() {
    assert_eq!([simulated(true), simulated(false)], [0, 0], "TLS, plain");
}

#[test]
fn turns_on_the_rich_ring_allocate_nothing() {
    assert_eq!(real(true, ring(Tier::Rich)), [0, 0], "TLS: client, server");
    assert_eq!(
        real(false, ring(Tier::Rich)),
        [0, 0],
        "plain: client, server"
    );
}

#[test]
fn turns_on_the_plain_ring_allocate_nothing() {
    assert_eq!(real(true, ring(Tier::Plain)), [0, 0], "TLS: client, server");
    assert_eq!(
        real(false, ring(Tier::Plain)),
        [0, 0],
        "plain: client, server"
    );
}

#[test]
fn turns_on_epoll_allocate_nothing() {
    assert_eq!(real(true, poll), [0, 0], "TLS: client, server");
    assert_eq!(real(false, poll), [0, 0], "plain: client, server");
}

/// Somebody does count.
#[test]
fn an_allocation_in_a_turn_would_be_seen() {
    let (_, allocations) = count(|| Box::new(1));
    assert_eq!(allocations, 1);
}
