//! The shard under a simulated kernel: seeds, faults and virtual time, and the laws that must hold
//! whatever happens. No test here opens a socket or reads a clock. A failure prints its seed.
//!
//! `SEAWALL_SEEDS=100` runs a hundred times as many seeds: for a night, or after a change of the
//! shard.

mod asking;
mod client;
mod codec;
mod compression;
mod events;
mod gateway;
mod greedy;
mod hub;
mod numbers;
mod parting;
mod reload;
#[path = "../support/secrets.rs"]
mod secrets;
mod world;

use client::{Behaviour, Client};
use seawall::config::{Config, file::File};
use seawall::driver::Wait;
use seawall::driver::sim::{Faults, Network};
use seawall::shard::mail::{Directory, Mail};
use seawall::shard::{Life, Shard};
use world::World;

/// As many seeds from one on, or a multiple of that.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let times = std::env::var("SEAWALL_SEEDS").map_or(1, |times| times.parse().unwrap());
    first..first + count * times
}

/// Runs clients of all kinds to their end, drains, and checks the laws.
fn run(seed: u64, shards: u16, clients: usize, faults: Faults) -> World {
    let mut world = World::new(seed, shards, faults, |file| {
        file.engine.handover_connections = 2;
        file.limits.message_bytes_max = 64 * 1024;
        file.limits.outbox_bytes_max = 16 * 1024;
        // Never, so often that most messages find their connection parked, and now and then.
        file.engine.park_after_ms = [0, 1, 100, 1000][(seed % 4) as usize];
        compression::vary(seed, file);
    });
    for _ in 0..clients {
        let behaviour = Behaviour::draw(&world.network);
        let shard = world.network.random_below(u64::from(shards)) as u16;
        let client = Client::connect(&world.network, shard, behaviour);
        world.clients.push(client);
    }
    let early = world.network.random_below(4) == 0;
    if early {
        for _ in 0..world.network.random_below(200) {
            world.step();
        }
    } else {
        world.run_clients();
    }
    world.drain();
    world.check_laws(early);
    world
}

#[test]
fn every_law_holds_over_many_seeds() {
    for seed in seeds(0, 300) {
        let shards = 1 + (seed % 3) as u16;
        let world = run(seed, shards, 12, Faults::harmless());
        assert!(world.totals().counters.accepted >= 12, "seed {seed}: clients were accepted");
    }
}

#[test]
fn every_law_holds_when_sends_fail() {
    for seed in seeds(1000, 100) {
        run(seed, 2, 8, Faults { send_fails: 3, ..Faults::harmless() });
    }
}

/// The end of a client's input may come while its last reply leaves in place, and in part only.
#[test]
fn a_reply_in_place_is_sent_whole_though_the_client_has_ended_its_side() {
    for seed in seeds(4000, 100) {
        let faults = Faults { short_send: 90, ..Faults::default() };
        let mut world = World::new(seed, 1, faults, |_| {});
        let peer = greedy::connect(&world, "/echo", false);
        world.rest();
        assert!(peer.read(usize::MAX).starts_with(b"HTTP/1.1 101 "), "seed {seed}");
        // A connection that talks has a continuous receive, which brings the end as well.
        peer.write(&client::frame(&world.network, 0x82, b"first"));
        world.rest();
        assert_eq!(peer.read(usize::MAX).len(), 2 + 5, "seed {seed}");
        peer.write(&client::frame(&world.network, 0x82, &[7; 1000]));
        peer.send_fin();
        let mut received = Vec::new();
        while !peer.is_ended() {
            world.step();
            received.extend(peer.read(usize::MAX));
        }
        assert_eq!(received.len(), 4 + 1000, "seed {seed}: the whole reply");
        world.drain();
    }
}

/// Several buffers of one turn may each hold a message whose reply could leave from there; only one
/// may be under way, and none may overtake another.
#[test]
fn replies_to_messages_of_a_buffer_each_leave_in_order() {
    for (seed, size) in (4500..).zip([511, 512, 600, 2000]) {
        let mut world = World::new(seed, 1, Faults::default(), |_| {});
        let peer = greedy::connect(&world, "/echo", false);
        world.rest();
        assert!(peer.read(usize::MAX).starts_with(b"HTTP/1.1 101 "), "seed {seed}");
        peer.write(&client::frame(&world.network, 0x82, b"first"));
        world.rest();
        assert_eq!(peer.read(usize::MAX).len(), 2 + 5, "seed {seed}");
        let frames = (0..5).map(|n| client::frame(&world.network, 0x82, &vec![n; size]));
        let frames: Vec<_> = frames.collect();
        peer.set_segment(frames[0].len());
        peer.write(&frames.concat());
        world.rest();
        let received = peer.read(usize::MAX);
        let numbers: Vec<_> = received.chunks(4 + size).map(|frame| frame[4]).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4], "{size} bytes");
        peer.send_fin();
        world.drain();
        world.check_laws(false);
    }
}

#[test]
fn replies_leave_from_where_their_message_came_in() {
    let mut in_place = 0;
    for seed in seeds(3000, 20) {
        let mut world = World::new(seed, 1, Faults::harmless(), |_| {});
        world.clients.push(Client::connect(&world.network, 0, Behaviour::hold()));
        world.rest();
        for round in 0..40 {
            world.clients[0].send_text(&"in place ".repeat(100 + round));
            (0..world.network.random_below(12)).for_each(|_| world.step());
        }
        world.rest();
        in_place += world.totals().counters.replies_in_place;
        world.clients[0].leave();
        world.run_clients();
        world.drain();
        world.check_laws(false);
    }
    assert!(in_place > 100, "only {in_place} did");
}

#[test]
fn a_quiet_connection_is_parked_and_a_busy_one_is_not() {
    let mut world = World::new(13, 1, Faults::harmless(), |file| {
        file.engine.park_after_ms = 500;
        file.routes = vec![seawall::config::file::Route {
            ping_interval_ms: 3000,
            pong_timeout_ms: 2000,
            ..Default::default()
        }];
    });
    for _ in 0..20 {
        world.clients.push(Client::connect(&world.network, 0, Behaviour::hold()));
    }
    let seconds = |world: &mut World, seconds: u64| {
        let until = world.network.now_ns() + seconds * 1_000_000_000;
        while world.network.now_ns() < until {
            world.step();
        }
    };
    while world.totals().gauges.open < 20 {
        world.step();
    }
    assert_eq!(world.totals().gauges.parked, 20, "silent connections are watched from the start");
    seconds(&mut world, 30);
    let totals = world.totals();
    assert_eq!(totals.gauges.open, 20);
    // A pong that comes in pieces wakes its connection for half a second.
    assert!(totals.gauges.parked >= 17, "{} are parked", totals.gauges.parked);
    assert!(totals.counters.pongs_received > 20, "parked connections answer pings");
    let (woken, pongs) = (totals.counters.unparked, totals.counters.pongs_received);
    assert!(woken < pongs, "and mostly stay so: {woken} of {pongs} pongs woke one");
    for _ in 0..10 {
        world.clients.iter_mut().take(5).for_each(|client| client.send_text("are you there?"));
        (0..20).for_each(|_| world.step());
    }
    let totals = world.totals();
    assert!((12..=15).contains(&totals.gauges.parked), "{} are parked", totals.gauges.parked);
    let quiet = (0..10).any(|_| {
        seconds(&mut world, 1);
        world.totals().gauges.parked >= 17
    });
    assert!(quiet, "those that talked are quiet again");
    world.clients.iter_mut().for_each(Client::leave);
    world.run_clients();
    world.drain();
    world.check_laws(false);
}

#[test]
fn a_quiet_network_loses_nothing() {
    for seed in seeds(2000, 50) {
        run(seed, 1, 10, Faults::default());
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let one = run(7, 3, 20, Faults::harmless()).totals();
    let two = run(7, 3, 20, Faults::harmless()).totals();
    assert_eq!(one.counters, two.counters);
}

#[test]
fn connections_spread_from_a_crowded_shard() {
    let mut world = World::new(5, 2, Faults::default(), |file| {
        file.engine.handover_connections = 4;
    });
    for _ in 0..40 {
        let client = Client::connect(&world.network, 0, Behaviour::echo(1));
        world.clients.push(client);
        world.step();
    }
    assert!(world.totals().counters.handed_over > 0, "shard 0 hands connections over");
    world.run_clients();
    world.drain();
    world.check_laws(false);
}

#[test]
fn a_mass_disconnect_delays_others_by_turns_and_not_by_all_of_it() {
    // All are received from, or are watched.
    for park_after_ms in [0, 60_000] {
        let mut world = World::new(14, 1, Faults::harmless(), |file| {
            file.engine.park_after_ms = park_after_ms;
        });
        for _ in 0..2000 {
            world.clients.push(Client::connect(&world.network, 0, Behaviour::hold()));
        }
        world.run_clients();
        world.clients[..1999].iter_mut().for_each(Client::vanish);
        // All of them are queued by then.
        world.step();
        world.clients[1999].send_text("still served?");
        let answered = (0..200).any(|_| {
            world.step();
            world.clients[1999].has_every_echo()
        });
        let open = world.totals().gauges.open;
        assert!(answered && open > 1500, "{open} of those who left were to be dealt with by then");
        (0..500).for_each(|_| world.step());
        assert_eq!(world.totals().gauges.open, 1);
        world.clients[1999].leave();
        world.run_clients();
        world.drain();
        world.check_laws(false);
    }
}

#[test]
fn a_full_shard_says_so_and_recovers() {
    let mut world = World::new(6, 1, Faults::default(), |file| {
        file.limits.connections_per_shard_max = 10;
    });
    for _ in 0..30 {
        let client = Client::connect(&world.network, 0, Behaviour::hold());
        world.clients.push(client);
    }
    world.rest();
    let totals = world.totals();
    assert_eq!(totals.gauges.open, 10, "as many are open as may be");
    let unavailable = totals.counters.refused().find(|(code, _)| *code == "unavailable");
    assert_eq!(unavailable.map(|(_, count)| count), Some(20), "the rest gets 503");
    world.clients.iter_mut().for_each(Client::leave);
    world.run_clients();
    let again = Client::connect(&world.network, 0, Behaviour::echo(3));
    world.clients.push(again);
    world.run_clients();
    world.drain();
    world.check_laws(false);
}

#[test]
fn a_reader_that_stops_is_closed_and_costs_no_more_than_its_bound() {
    let mut world = World::new(8, 1, Faults::default(), |file| {
        file.limits.message_bytes_max = 4096;
        file.limits.outbox_bytes_max = 16 * 1024;
    });
    world.clients.push(Client::connect(&world.network, 0, Behaviour::stall(500)));
    world.clients.push(Client::connect(&world.network, 0, Behaviour::echo(50)));
    let mut most = 0;
    for _ in 0..12_000 {
        world.step();
        most = most.max(world.totals().gauges.outbox_bytes);
    }
    let totals = world.totals();
    assert!(most > 0 && most <= 2 * 16 * 1024 + 4096 + 10 + 16 * 1024, "{most} bytes waited");
    assert_eq!(totals.counters.slow_reader_closes, 1);
    assert!(totals.counters.read_pauses >= 1);
    world.drain();
    world.check_laws(false);
}

#[test]
fn all_readers_that_stop_cost_no_more_than_the_shards_bound() {
    let mut world = World::new(18, 1, Faults::default(), |file| {
        file.limits.message_bytes_max = 4096;
        file.limits.outbox_shard_bytes_max = 1 << 20;
    });
    for _ in 0..100 {
        world.clients.push(Client::connect(&world.network, 0, Behaviour::stall(100)));
    }
    world.clients.push(Client::connect(&world.network, 0, Behaviour::echo(20)));
    let mut most = 0;
    for _ in 0..3_000 {
        world.step();
        most = most.max(world.totals().gauges.outbox_bytes);
    }
    assert!(most > 1 << 20 && most <= 3 << 20, "{most} bytes waited");
    assert!(world.clients[100].is_done(), "a good client is served among them");
    world.drain();
    world.check_laws(false);
}

#[test]
fn unfinished_messages_cost_no_more_than_the_shards_bound() {
    let mut world = World::new(22, 1, Faults::default(), |file| {
        file.limits.message_bytes_max = 64 * 1024;
        file.limits.partial_shard_bytes_max = 256 * 1024;
    });
    for _ in 0..40 {
        world.clients.push(Client::connect(&world.network, 0, Behaviour::hold()));
    }
    world.rest();
    world.clients.iter_mut().for_each(|client| client.send_part_of_a_message(40_000));
    world.rest();
    let totals = world.totals();
    let held = totals.gauges.partial_bytes;
    assert!(held > 0 && held <= 256 * 1024, "{held} bytes are held");
    let closed = totals.counters.partial_closes;
    assert!((20..40).contains(&closed), "{closed} were closed");
    world.stop();
    world.check_laws(true);
}

#[test]
fn a_stop_ends_whatever_is_going_on() {
    for steps in 0..120 {
        let mut world = World::new(19, 1, Faults::harmless(), |file| {
            file.limits.message_bytes_max = 4096;
            file.limits.outbox_bytes_max = 4096;
        });
        for _ in 0..4 {
            world.clients.push(Client::connect(&world.network, 0, Behaviour::stall(100)));
        }
        (0..steps).for_each(|_| world.step());
        world.stop();
        world.check_laws(true);
    }
}

#[test]
fn a_slow_line_gets_everything_before_the_close_of_a_drain() {
    let mut world = World::new(21, 1, Faults::default(), |_| {});
    world.clients.push(Client::connect(&world.network, 0, Behaviour::hold()));
    world.rest();
    world.clients[0].slow_down();
    (0..60).for_each(|_| world.clients[0].send_text(&"slowly ".repeat(140)));
    (0..3).for_each(|_| world.step());
    // 700 bytes in 105 ms: some ten seconds for what is queued, twice the time for a Close.
    world.drain_slowly(100_000_000);
    assert!(world.clients[0].has_all_until(1001), "{:?}", world.clients[0]);
    world.check_laws(false);
}

#[test]
fn slow_handshakes_end_with_408_and_hold_nothing() {
    let mut world = World::new(9, 1, Faults::default(), |_| {});
    for _ in 0..100 {
        world.clients.push(Client::connect(&world.network, 0, Behaviour::silent()));
    }
    world.run_clients();
    world.rest();
    let totals = world.totals();
    assert_eq!(totals.counters.handshake_timeouts, 100);
    assert_eq!(totals.gauges.slots, 0);
    world.drain();
    world.check_laws(false);
}

#[test]
fn heartbeats_measure_the_round_trip_and_find_the_dead() {
    let mut world = World::new(10, 1, Faults::default(), |file| {
        file.routes = vec![seawall::config::file::Route {
            ping_interval_ms: 1000,
            pong_timeout_ms: 500,
            ..Default::default()
        }];
    });
    world.clients.push(Client::connect(&world.network, 0, Behaviour::hold()));
    world.clients.push(Client::connect(&world.network, 0, Behaviour::hold()));
    world.rest();
    world.clients[1].go_deaf();
    for _ in 0..2000 {
        world.step();
    }
    let totals = world.totals();
    assert_eq!(totals.counters.pong_timeouts, 1, "the deaf client is dropped");
    assert_eq!(totals.gauges.open, 1, "the other one stays");
    assert!(totals.counters.pongs_received >= 5, "{}", totals.counters.pongs_received);
    assert_eq!(totals.histograms.rtt.histogram().len(), totals.counters.pongs_received);
    world.clients[0].leave();
    world.drain();
    world.check_laws(false);
}

#[test]
fn a_clock_that_jumps_fires_each_deadline_once() {
    let mut world = World::new(11, 1, Faults::default(), |_| {});
    for _ in 0..50 {
        world.clients.push(Client::connect(&world.network, 0, Behaviour::hold()));
    }
    world.rest();
    world.network.advance_clock(7_000_000_000_000);
    world.rest();
    let totals = world.totals();
    assert_eq!(totals.counters.pings_sent, 50, "one ping each, however long the gap");
    assert_eq!(totals.gauges.open, 50, "a jump is not the clients' fault");
    world.clients.iter_mut().for_each(Client::leave);
    world.drain();
    world.check_laws(false);
}

#[test]
fn nothing_of_http_follows_the_101() {
    // The deadline of the handshake passes, a request is pipelined as if the connection were
    // still HTTP, and the first frame is broken: each must be answered by WebSocket or nothing.
    for seed in 0..60 {
        let mut world = World::new(seed, 1, Faults::harmless(), |_| {});
        world.clients.push(Client::connect(&world.network, 0, Behaviour::hold()));
        world.rest();
        world.network.advance_clock(60_000_000_000);
        world.rest();
        world.clients[0].write_raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        world.run_clients();
        // The client's own parser has failed the test if anything but frames came.
        let totals = world.totals();
        assert_eq!(totals.counters.answered, 0, "seed {seed}");
        assert_eq!(totals.counters.protocol_errors().map(|(_, n)| n).sum::<u64>(), 1);
        world.drain();
        world.check_laws(false);
    }
}

/// The control thread may be faster than a shard that starts.
#[test]
fn mail_that_comes_before_there_is_a_bell_is_read_without_waiting() {
    let config = Config::validate(&File { shards: 1, ..File::default() }, 20_000, 1).unwrap();
    let (network, directory) = (Network::new(1, 1, Faults::default()), Directory::new(1));
    directory.post(0, Mail::Stop);
    let driver = network.new_driver(0, 8, 1024);
    let listeners = vec![world::listener()];
    let mut shard = Shard::new(driver, 0, config.into(), directory, listeners, 1).unwrap();
    let mut turn = || {
        let life = shard.run_turn().unwrap();
        assert_eq!(network.last_wait(0), Wait::No);
        life
    };
    assert!(turn() == Life::Finished || turn() == Life::Finished);
}
