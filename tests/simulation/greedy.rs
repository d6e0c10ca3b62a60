//! Greedy clients beside a modest one: what they cost is bounded in effort and turns, not in time.

use std::sync::Arc;

use flate2::{Compress, Compression, FlushCompress};
use seawall::driver::sim::{Faults, Peer};
use seawall::hub::{HistoryBudget, Log, MemoryLog};

use crate::client::frame;
use crate::world::World;

const GREEDY: usize = 10;
const STEPS: usize = 300;
/// Bytes kept ready for the server to receive from each greedy client.
const AHEAD_BYTES: usize = 256 * 1024;
/// Turns after which a modest client has its echo, whatever the others do: some of them begin with
/// bytes that were received before its own.
const TURNS_MAX: u32 = 12;

fn compressed(message: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(message.len() + 1000);
    compress.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
    out.truncate(out.len() - 4);
    out
}

pub(crate) fn connect(world: &World, path: &str, compression: bool) -> Peer {
    let peer = world.network.connect(0, 0, Some(([127, 0, 0, 1], 999).into()));
    let offer = if compression { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
    peer.write(
        format!(
            "GET {path} HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             {offer}\r\n"
        )
        .as_bytes(),
    );
    peer
}

/// Four megabytes of JSON, varied enough to be no bomb.
fn large_text() -> String {
    let line = |n: u32| {
        let (id, price) = (n.wrapping_mul(0x9E37_79B9), n.wrapping_mul(0x85EB_CA6B) % 10_000);
        format!(r#"{{"id":{id},"name":"some name","price":{price}}},"#)
    };
    (0..90_000).map(line).collect()
}

/// What a greedy client sends again and again.
fn demand(world: &World, kind: &str) -> (&'static str, Vec<u8>) {
    let network = &world.network;
    let echo = "/echo";
    match kind {
        "pings" => (echo, frame(network, 0x89, b"").repeat(1000)),
        "frames" => (echo, frame(network, 0x81, b"x").repeat(1000)),
        "fragments" => {
            let middle = frame(network, 0x00, b"x").repeat(5000);
            (echo, [frame(network, 0x01, b"x"), middle, frame(network, 0x80, b"x")].concat())
        }
        "inflate" => (echo, frame(network, 0xc2, &compressed(&vec![0; 1 << 20]))),
        "inflate-hub" => {
            // Beyond a megabyte it would be a bomb.
            let mut message = vec![b' '; (1 << 20) - 100];
            message.extend(br#"{"type":"ping"}"#);
            ("/ws", frame(network, 0xc1, &compressed(&message)))
        }
        "large" => (echo, frame(network, 0x82, &vec![7; 4 << 20])),
        "large-text" => (echo, frame(network, 0xc1, &compressed(large_text().as_bytes()))),
        "objects" => ("/ws", frame(network, 0x81, "{}".repeat(8000).as_bytes())),
        "blanks" => ("/ws", frame(network, 0x81, " ".repeat(1 << 20).as_bytes())),
        "history" => {
            let one = r#"{"type":"history","channel":"full"}"#;
            ("/ws", frame(network, 0x81, one.repeat(400).as_bytes()))
        }
        "publish" => {
            let content = "y".repeat(60_000);
            let one = format!(r#"{{"type":"publish","channel":"full","content":"{content}"}}"#);
            ("/ws", frame(network, 0x81, one.as_bytes()))
        }
        "tokens" => {
            let one = r#"{"type":"auth","token":"a.b.c"}"#;
            ("/ws", frame(network, 0x81, one.repeat(400).as_bytes()))
        }
        other => panic!("{other} is not a kind"),
    }
}

fn world() -> World {
    let budget = HistoryBudget::new(1 << 28);
    let make_log =
        Arc::new(move |_: u16, _| -> Box<dyn Log> { Box::new(MemoryLog::new(budget.clone())) });
    // An odd seed: buffers of 8 KiB.
    World::with_crowd(7, 1, Faults::default(), make_log, 4096, |file| {
        file.engine.buffer_bytes = 8192;
        file.channels = vec![seawall::config::file::Channel {
            pattern: "*".into(),
            history: 100,
            ..Default::default()
        }];
    })
}

fn run(kind: &str, reads: bool) {
    let mut world = world();
    let modest = connect(&world, "/echo", false);
    let (path, demand) = demand(&world, kind);
    let offers = matches!(kind, "inflate" | "inflate-hub" | "large-text");
    let greedy: Vec<_> = (0..GREEDY).map(|_| connect(&world, path, offers)).collect();
    if !reads {
        greedy.iter().for_each(|peer| peer.set_window(64 * 1024));
    }
    for _ in 0..20 {
        world.turn_shards();
        world.network.advance_clock(1_000_000);
    }
    for peer in &greedy {
        let answer = peer.read(usize::MAX);
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{kind}: {}", answer.escape_ascii());
    }
    modest.read(usize::MAX);
    let (mut waited, mut asked, mut answered, mut most) = (0, false, 0, 0);
    let mut unsent: Vec<Vec<u8>> = vec![Vec::new(); GREEDY];
    for _ in 0..STEPS {
        for (peer, unsent) in greedy.iter().zip(&mut unsent) {
            while peer.unreceived_bytes() < AHEAD_BYTES {
                if unsent.is_empty() {
                    unsent.clone_from(&demand);
                }
                let rest = unsent.split_off(unsent.len().min(AHEAD_BYTES));
                peer.write(&std::mem::replace(unsent, rest));
            }
            if reads {
                peer.read(usize::MAX);
            }
        }
        if !asked {
            modest.write(&frame(&world.network, 0x81, b"hello"));
            (asked, waited) = (true, 0);
        }
        world.turn_shards();
        let (effort, turn_max) = world.effort();
        most = most.max(effort * 10 / turn_max);
        waited += 1;
        if modest.read(usize::MAX).ends_with(b"hello") {
            answered += 1;
            asked = false;
        }
        assert!(waited <= TURNS_MAX, "{kind}: no echo within {TURNS_MAX} turns");
        world.network.advance_clock(1_000_000);
    }
    assert!(answered >= STEPS / TURNS_MAX as usize, "{kind}: {answered} echoes");
    let is_served = !reads || greedy.iter().all(|peer| !peer.is_ended());
    assert!(is_served, "{kind}: a greedy client that reads is served as well");
    assert!(most <= 30, "{kind}: a turn took {most} tenths of its effort");
    let totals = world.totals();
    let queued = totals.gauges.outbox_bytes;
    // Twelve times a largest message: each greedy client has an outbox and one reply at the most.
    let bound = GREEDY as u64 * ((1 << 20) + (5 << 20));
    assert!(queued <= bound, "{kind}: {queued} bytes are queued");
    greedy.iter().for_each(Peer::send_reset);
    modest.send_reset();
    world.drain();
    world.check_laws(true);
}

#[test]
fn greedy_clients_that_read_cost_others_a_bounded_number_of_turns() {
    for kind in ["pings", "frames", "fragments", "inflate", "inflate-hub", "large", "large-text"] {
        run(kind, true);
    }
}

#[test]
fn greedy_hub_clients_cost_others_a_bounded_number_of_turns() {
    for kind in ["objects", "blanks", "history", "publish", "tokens"] {
        run(kind, true);
    }
}

#[test]
fn greedy_clients_that_do_not_read_are_owed_a_bounded_number_of_bytes() {
    for kind in ["frames", "large", "inflate", "objects", "history", "publish"] {
        run(kind, false);
    }
}

/// Where work is left over from earlier turns, a reply to what a turn has received does not wait
/// for it, but leaves in the same turn.
#[test]
fn a_short_reply_leaves_ahead_of_unfinished_work() {
    let mut world = world();
    let modest = connect(&world, "/echo", false);
    let (path, demand) = demand(&world, "inflate");
    let greedy = connect(&world, path, true);
    let turns = |world: &mut World, count: u32| {
        for _ in 0..count {
            world.turn_shards();
            world.network.advance_clock(1_000_000);
        }
    };
    turns(&mut world, 20);
    let hello = frame(&world.network, 0x81, b"hello");
    modest.write(&hello);
    greedy.write(&demand);
    turns(&mut world, 10);
    assert!(modest.read(usize::MAX).ends_with(b"hello"));
    let continued = |world: &World| world.totals().counters.inputs_continued;
    let mut ahead = 0;
    for _ in 0..100 {
        if greedy.unreceived_bytes() == 0 {
            greedy.write(&demand);
        }
        greedy.read(usize::MAX);
        let before = continued(&world);
        modest.write(&hello);
        turns(&mut world, 1);
        if continued(&world) > before {
            assert!(modest.read(usize::MAX).ends_with(b"hello"), "in the same turn");
            ahead += 1;
        }
        turns(&mut world, 1);
        modest.read(usize::MAX);
    }
    assert!(ahead > 10, "{ahead} turns had unfinished work");
    [&greedy, &modest].into_iter().for_each(Peer::send_reset);
    world.drain();
    world.check_laws(true);
}
