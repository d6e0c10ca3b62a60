//! The numbers are true: known delays in virtual time give exactly the histograms that recording
//! those delays gives, and what is switched off or read in between changes nothing else.

use hdrhistogram::Histogram;
use seawall::config::file::{File, Route};
use seawall::driver::sim::{Faults, Network, Peer};
use seawall::metrics::Recorder;

use crate::client::{Behaviour, Client};
use crate::world::World;

pub(crate) const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// A masked text of two bytes and its echo.
const TEXT: [u8; 8] = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
const ECHO: [u8; 4] = [0x81, 2, b'h', b'i'];
/// A masked Close 1000.
pub(crate) const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 3, 0xE8];

fn recorded(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
    let mut recorder = Recorder::default();
    values.into_iter().for_each(|value| recorder.record(value));
    recorder.histogram()
}

/// A connection that acts on command.
pub(crate) fn connect(network: &Network) -> Peer {
    network.connect(0, 0, Some(([127, 0, 0, 1], 40_000).into()))
}

/// Connected and upgraded, with the 101 read.
pub(crate) fn open(world: &mut World) -> Peer {
    let peer = connect(&world.network);
    peer.write(REQUEST);
    (0..3).for_each(|_| world.turn_shards());
    assert!(peer.read(usize::MAX).starts_with(b"HTTP/1.1 101 "));
    peer
}

/// No connection is watched before it is received from: each byte is dealt with in its turn.
fn never_park(file: &mut File) {
    file.engine.park_after_ms = 0;
}

pub(crate) fn leave(world: &mut World, peer: &Peer) {
    peer.write(&CLOSE);
    (0..3).for_each(|_| world.turn_shards());
    peer.read(usize::MAX);
    peer.send_fin();
}

#[test]
fn delays_of_sends_are_the_turnarounds() {
    let by_default: fn(&mut File) = |_| {};
    for (configure, turns_of_first) in [(never_park as fn(&mut File), 1), (by_default, 2)] {
        let mut world = World::new(12, 1, Faults::default(), configure);
        let peer = open(&mut world);
        let delays_ns = [3_000_000, 20_000, 20_000, 1, 999, 70_000_000, 1_234_567, 3_000_000];
        // A connection that is watched when its first message comes receives it a turn later.
        let turns = std::iter::once(turns_of_first).chain(std::iter::repeat(1));
        for (delay_ns, turns) in delays_ns.into_iter().zip(turns) {
            peer.write(&TEXT);
            (0..turns).for_each(|_| world.turn_shards());
            world.network.advance_clock(delay_ns);
            world.turn_shards();
            assert_eq!(peer.read(usize::MAX), ECHO);
        }
        let found = world.totals().histograms.turnaround.histogram();
        assert_eq!(found, recorded(delays_ns));
        leave(&mut world, &peer);
        world.drain();
        world.check_laws(false);
    }
}

/// Several messages of one turn leave with one send, and each counts.
#[test]
fn each_message_of_a_turn_has_its_turnaround() {
    let mut world = World::new(14, 1, Faults::default(), never_park);
    let peer = open(&mut world);
    peer.write(&TEXT.repeat(5));
    world.turn_shards();
    world.network.advance_clock(40_000);
    world.turn_shards();
    assert_eq!(peer.read(usize::MAX), ECHO.repeat(5));
    let found = world.totals().histograms.turnaround.histogram();
    assert_eq!(found, recorded([40_000; 5]));
    leave(&mut world, &peer);
    world.drain();
    world.check_laws(false);
}

/// A send that has no room rests with its message, however long, and so does what a short one
/// leaves behind.
#[test]
fn a_slow_reader_is_in_the_turnaround() {
    let mut world = World::new(16, 1, Faults::default(), never_park);
    let peer = open(&mut world);
    peer.set_window(3);
    peer.write(&TEXT);
    world.turn_shards();
    world.network.advance_clock(50_000_000);
    world.turn_shards();
    assert_eq!(peer.read(usize::MAX), ECHO[..3], "three of four bytes have room");
    assert_eq!(world.totals().histograms.turnaround.histogram().len(), 0);
    world.network.advance_clock(25_000_000);
    (0..2).for_each(|_| world.turn_shards());
    assert_eq!(peer.read(usize::MAX), ECHO[3..]);
    let found = world.totals().histograms.turnaround.histogram();
    assert_eq!(found, recorded([75_000_000]));
    peer.set_window(usize::MAX);
    leave(&mut world, &peer);
    world.drain();
    world.check_laws(false);
}

/// Counted in whole microseconds, at least one.
#[test]
fn delays_of_requests_are_the_times_to_open() {
    let mut world = World::new(18, 1, Faults::default(), |_| {});
    let delays_ns = [1_000, 250_000, 250_000, 9_000_000, 4_000_000_000, 0];
    let mut peers = Vec::new();
    for delay_ns in delays_ns {
        let peer = connect(&world.network);
        world.turn_shards();
        world.network.advance_clock(delay_ns);
        peer.write(REQUEST);
        world.turn_shards();
        peers.push(peer);
    }
    let found = world.totals().histograms.accept_to_open.histogram();
    assert_eq!(found, recorded(delays_ns.map(|delay_ns| delay_ns.max(1_000))));
    peers.iter().for_each(|peer| leave(&mut world, peer));
    world.drain();
    world.check_laws(false);
}

#[test]
fn delays_of_pongs_are_the_round_trips() {
    let mut world = World::new(20, 1, Faults::default(), |file| {
        never_park(file);
        file.routes = vec![Route { ping_interval_ms: 1000, ..Route::default() }];
    });
    let peer = open(&mut world);
    let delays_ns = [500_000, 80_000_000, 500_000, 12_345, 900_000_000];
    for delay_ns in delays_ns {
        let ping = loop {
            world.network.advance_clock(50_000_000);
            world.turn_shards();
            // A turn for the timer, one for its send: no time passes between them.
            world.turn_shards();
            let bytes = peer.read(usize::MAX);
            if !bytes.is_empty() {
                break bytes;
            }
        };
        assert_eq!(ping[..2], [0x89, 16], "a ping of sixteen bytes");
        world.network.advance_clock(delay_ns);
        peer.write(&[&[0x8A, 0x80 | 16, 0, 0, 0, 0], &ping[2..]].concat());
        world.turn_shards();
    }
    assert_eq!(world.totals().histograms.rtt.histogram(), recorded(delays_ns));
    leave(&mut world, &peer);
    world.drain();
    world.check_laws(false);
}

#[test]
fn what_readings_take_out_adds_up_to_the_whole() {
    let run = |read: bool| {
        let mut world = World::new(22, 2, Faults::harmless(), |_| {});
        for shard in 0..8 {
            let client = Client::connect(&world.network, shard % 2, Behaviour::echo(30));
            world.clients.push(client);
        }
        let mut parts = Vec::new();
        for _ in 0..300 {
            world.step();
            if read {
                parts.extend(world.exchange());
            }
        }
        world.run_clients();
        world.drain();
        let mut whole = world.totals();
        parts.iter().for_each(|part| whole.histograms.add(&part.histograms));
        whole
    };
    let (read, unread) = (run(true), run(false));
    assert_eq!(read.counters, unread.counters);
    assert!(unread.histograms.turnaround.histogram().len() > 100);
    for (read, unread) in read.histograms.all().zip(unread.histograms.all()) {
        assert_eq!(read, unread);
    }
}

#[test]
fn without_histograms_all_else_is_the_same() {
    let run = |histograms: bool| {
        let mut world = World::new(24, 2, Faults::harmless(), |file| {
            file.metrics.histograms = histograms;
        });
        for shard in 0..8 {
            let client = Client::connect(&world.network, shard % 2, Behaviour::echo(30));
            world.clients.push(client);
        }
        world.run_clients();
        world.drain();
        world.check_laws(false);
        world.totals()
    };
    let (on, off) = (run(true), run(false));
    assert_eq!(on.counters, off.counters);
    assert!(on.counters.messages_sent > 100 && !off.histograms.is_on());
}
