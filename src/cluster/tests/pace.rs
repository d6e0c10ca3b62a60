//! New epochs of many channels are reported at a limited rate.

use super::linger::{Bench, START_MS};
use crate::hub::{Done, Log};

const CHANNELS: u32 = 50;

fn count_epochs(done: &[Done]) -> usize {
    done.iter().filter(|one| matches!(one, Done::EpochChanged { .. })).count()
}

#[test]
fn new_epochs_are_reported_at_a_limited_rate() {
    let mut bench = Bench::new(CHANNELS);
    (0..CHANNELS).for_each(|channel| bench.log.set_watched(channel, true));
    bench.finish();
    bench.engine.fail_over();
    let mut reported = count_epochs(&bench.finish());
    assert_eq!(reported, 1, "the first one at once");
    for second in 1..=10_u64 {
        let until_ms = START_MS + second * 1_000;
        let before = reported;
        while let Some(due_ms) = bench.log.next_expiry_ms().filter(|due_ms| *due_ms <= until_ms) {
            bench.log.expire_messages(due_ms, 10);
            reported += count_epochs(&bench.finish());
        }
        assert!(reported - before <= 20, "{reported} by second {second}");
    }
    assert_eq!(reported, CHANNELS as usize, "each once");
    assert_eq!(bench.log.stats().epochs_reported, u64::from(CHANNELS));
    // Members continue in the new epoch.
    for channel in 0..CHANNELS {
        assert_eq!(bench.publish(channel).len(), 2, "it is acknowledged and delivered");
    }
}

#[test]
fn channels_that_wait_lose_no_later_message() {
    let mut bench = Bench::new(3);
    (0..3).for_each(|channel| bench.log.set_watched(channel, true));
    bench.finish();
    bench.engine.fail_over();
    let done = bench.finish();
    // The channels are read in any order; the first one has its turn at once.
    let first = done.iter().find_map(|one| match one {
        Done::EpochChanged { key, .. } => Some(*key),
        _ => None,
    });
    let waiting = (0..3).find(|channel| Some(*channel) != first).expect("there are three");
    assert_eq!(bench.publish(waiting), ["appended 1"], "its turn has not come");
    // Another failover begins the wait again.
    bench.engine.fail_over();
    bench.finish();
    assert_eq!(bench.publish(waiting), ["appended 1"]);
    bench.log.expire_messages(START_MS + 1_000, 10);
    let done = bench.finish();
    let last = done.iter().filter_map(|one| match one {
        Done::EpochChanged { key, position } if *key == waiting => Some(position.offset),
        Done::Delivered { key, .. } if *key == waiting => {
            panic!("it is before the new position")
        }
        _ => None,
    });
    assert_eq!(last.collect::<Vec<_>>(), [1]);
    assert_eq!(bench.publish(waiting), ["appended 2", "delivered 2"]);
}
