//! Whatever becomes of outboxes, the counts of their bytes agree.

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { bytes_max: 4096, segments_max: 8 };

/// One change of one of several outboxes.
fn step(outboxes: &mut [Box<Outbox>], pools: &mut Pools, (what, which, len): (u8, usize, usize)) {
    let outbox = &mut outboxes[which];
    let bytes = vec![7; len];
    match what {
        0 => outbox.queue_copy(pools, [&bytes, b"x"]),
        1 => outbox.queue_small(pools, &bytes),
        2 => outbox.queue_frame(pools, b"head", Payload::Owned(bytes)),
        3 => outbox.queue_shared(pools, bytes.into()),
        4 => outbox.queue_uncompressed(pools, DataKind::Text, Payload::Owned(bytes)),
        5 => outbox.skip_compression(pools),
        6 => outbox.drop_unsent(pools),
        7 => outbox.queue_first(pools, &bytes, 1),
        8 => outbox.clear(pools),
        9 if !outbox.has_uncompressed() => {
            let mut builder = PieceBuilder::default();
            builder.push(&bytes, Some(5));
            builder.push(b"more", Some(6));
            let piece = builder.build().expect("it has two");
            outbox.queue_piece(pools, &piece, true, false);
        }
        _ => {
            if let Some(mut batch) = outbox.take_batch(BOUNDS) {
                batch.limit_offer(BOUNDS.bytes_max);
                let taken = batch.offered_bytes().min(len);
                let taken = Taken { wire_bytes: taken, queued_bytes: taken };
                outbox.complete_send(batch, taken, pools, |_, _, _| {});
            }
        }
    }
}

proptest! {
    /// Whatever becomes of outboxes, the pools count what is in all of them.
    #[test]
    fn pools_count_the_bytes_of_all_outboxes(
        steps in prop::collection::vec((0..13u8, 0..3usize, 1..5000usize), 1..100),
    ) {
        let mut pools = Pools::new(16 * 1024, 1 << 20);
        let mut outboxes: Vec<_> = (0..3).map(|_| pools.take_outbox(0)).collect();
        for change in steps {
            step(&mut outboxes, &mut pools, change);
            let sum: usize = outboxes.iter().map(|outbox| outbox.bytes()).sum();
            prop_assert_eq!(pools.queued_bytes(), sum as u64);
        }
    }
}
