//! The end of a connection by its client: nothing queued is lost, and nothing needless is asked of
//! the kernel.

use seawall::driver::sim::Faults;

use crate::numbers::{CLOSE, REQUEST, connect, leave, open};
use crate::world::World;

#[test]
fn a_pong_after_the_close_resets_nothing_while_a_slow_reader_takes_the_rest() {
    for park_after_ms in [0, 60_000] {
        let mut world = World::new(24, 1, Faults::default(), |file| {
            file.engine.park_after_ms = park_after_ms;
        });
        let peer = connect(&world.network);
        peer.set_window(3);
        let text = [b'x'; 100];
        let message = [&[0x81, 0xE4, 0, 0, 0, 0][..], &text].concat();
        // With its first words, so that a connection that is opened watched is watched still.
        peer.write(&[REQUEST, &message.repeat(4)].concat());
        (0..5).for_each(|_| world.turn_shards());
        peer.write(&CLOSE);
        (0..5).for_each(|_| world.turn_shards());
        // The answer to a ping that crossed the Close.
        peer.write(&[0x8A, 0x80, 0, 0, 0, 0]);
        (0..5).for_each(|_| world.turn_shards());
        let mut read = peer.read(usize::MAX);
        peer.set_window(usize::MAX);
        for _ in 0..50 {
            world.turn_shards();
            read.extend(peer.read(usize::MAX));
        }
        let echo = [&[0x81, 100][..], &text].concat();
        let close = [0x88, 2, 3, 0xE8];
        assert!(read.ends_with(&[echo.repeat(4), close.to_vec()].concat()), "{read:?}");
        assert!(peer.was_closed() && !peer.was_reset(), "parking after {park_after_ms} ms");
        peer.send_fin();
        world.drain();
        world.check_laws(false);
    }
}

#[test]
fn who_opens_and_closes_costs_no_cancellation() {
    let mut world = World::new(26, 1, Faults::default(), |_| {});
    for _ in 0..10 {
        let peer = open(&mut world);
        leave(&mut world, &peer);
        (0..3).for_each(|_| world.turn_shards());
        assert!(peer.was_closed());
    }
    assert_eq!(world.network.traffic().cancellations, 0);
    world.drain();
    world.check_laws(false);
}
