//! Compression under the simulated kernel: all of it happens, and nothing of it stays behind.

use seawall::config::file::{CompressionMode, File, Route};
use seawall::driver::sim::Faults;

use crate::client::{Behaviour, Client};
use crate::world::World;

/// Lets every seed have a mode and bounds of its own.
pub(crate) fn vary(seed: u64, file: &mut File) {
    let modes = [CompressionMode::Shared, CompressionMode::Takeover, CompressionMode::Off];
    file.routes = vec![Route {
        compression: modes[(seed % 3) as usize],
        compression_level: 1 + (seed % 9) as u32,
        compression_window_bits: 9 + (seed % 7) as u32,
        compression_bytes_min: [1, 64, 256][(seed / 3 % 3) as usize],
        ..Route::default()
    }];
    file.engine.inflaters_max = (seed % 4) as u32;
    file.engine.turn_codec_bytes_max = 10_000;
    file.limits.compression_bytes_max = [1 << 30, 0, 200_000][(seed / 2 % 3) as usize];
}

fn world(seed: u64, mode: CompressionMode, change: impl FnOnce(&mut File)) -> World {
    World::new(seed, 1, Faults::harmless(), |file| {
        file.routes = vec![Route { compression: mode, ..Route::default() }];
        change(file);
    })
}

fn run(world: &mut World, clients: usize) {
    for _ in 0..clients {
        world.clients.push(Client::connect(&world.network, 0, Behaviour::compress(10)));
    }
    world.run_clients();
    world.drain();
    world.check_laws(false);
}

#[test]
fn shared_compression_keeps_nothing_for_a_connection() {
    let mut world = world(31, CompressionMode::Shared, |_| {});
    run(&mut world, 20);
    let counters = world.totals().counters;
    assert_eq!((counters.compression_shared, counters.compression_takeover), (20, 0));
    assert!(counters.inflated_messages > 80 && counters.deflated_messages > 80);
    assert!(counters.deflated_bytes_after < counters.deflated_bytes_before);
    assert!(counters.inflated_bytes_before < counters.inflated_bytes_after);
}

#[test]
fn contexts_past_their_budget_are_not_opened() {
    // One context takes about 50 KB.
    let mut world = world(32, CompressionMode::Takeover, |file| {
        file.limits.compression_bytes_max = 220_000;
    });
    run(&mut world, 20);
    let counters = world.totals().counters;
    assert!(counters.compression_takeover >= 4, "{counters:?}");
    assert!(counters.compression_lowered > 0, "{counters:?}");
    assert_eq!(counters.compression_lowered, counters.compression_shared);
    assert!(counters.deflated_messages > 80, "both modes compress");
}

#[test]
fn messages_that_find_no_inflater_wait_and_arrive() {
    let mut world = world(33, CompressionMode::Shared, |file| file.engine.inflaters_max = 1);
    run(&mut world, 30);
    assert!(world.totals().counters.inflater_waits > 10);
}

#[test]
fn a_turn_that_inflates_much_is_cut() {
    let cut = |codec_bytes_max| {
        let mut world = world(34, CompressionMode::Shared, |file| {
            file.engine.turn_codec_bytes_max = codec_bytes_max;
        });
        run(&mut world, 20);
        world.totals().counters.turns_cut
    };
    assert!(cut(1000) > cut(1 << 30) + 50);
}

#[test]
fn what_was_not_agreed_on_is_not_done() {
    let mut world = world(35, CompressionMode::Off, |_| {});
    run(&mut world, 5);
    let counters = world.totals().counters;
    let done = (counters.inflated_messages, counters.deflated_messages);
    assert_eq!((counters.opened, done), (5, (0, 0)));
}
