//! Rights end on time: those of a connection's current token, and those of channel tokens, at the
//! token's `exp` with the tolerance for clocks, and at most one step of the timers later.

use std::io::Cursor;
use std::sync::Arc;

use seawall::auth::SigningKey;
use seawall::config::file::{Channel, HandlerName, Key, Route};
use seawall::driver::sim::{Faults, Peer};
use seawall::hub::{HistoryBudget, Log, MemoryLog};
use serde_json::{Value, json};
use tungstenite::protocol::frame::FrameHeader;

use super::crowd::connect;
use crate::client::frame;
use crate::seeds;
use crate::world::World;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Two ticks of the timers, and what a message takes.
const STEP_MS: u64 = 200;

/// A world whose clients need tokens, and in which no heartbeat wakes a connection.
fn world(seed: u64, leeway_s: u32) -> World {
    let budget = HistoryBudget::new(1 << 20);
    let make_log =
        Arc::new(move |_: u16, _| -> Box<dyn Log> { Box::new(MemoryLog::new(budget.clone())) });
    World::with_hub(seed, 1, Faults::default(), make_log, |file| {
        file.auth.leeway_s = leeway_s;
        file.keys = vec![Key { secret: SECRET.into(), ..Key::default() }];
        file.channels = vec![Channel { pattern: "news".into(), ..Channel::default() }];
        file.routes = vec![Route {
            path: "/ws".into(),
            handler: HandlerName::Hub,
            ping_interval_ms: 0,
            ..Route::default()
        }];
    })
}

fn sign(claims: &Value) -> String {
    SigningKey::from_secret("", SECRET.as_bytes()).sign(claims).unwrap()
}

/// A client with its unread objects.
struct Client {
    peer: Peer,
    bytes: Vec<u8>,
    upgraded: bool,
}

impl Client {
    fn open(world: &World, says: &Value) -> Self {
        Self { peer: connect(world, 0, &[says]), bytes: Vec::new(), upgraded: false }
    }

    fn say(&self, world: &World, object: &Value) {
        self.peer.write(&frame(&world.network, 0x81, object.to_string().as_bytes()));
    }

    /// The next object that has come.
    fn next(&mut self) -> Option<Value> {
        self.bytes.extend(self.peer.read(usize::MAX));
        if !self.upgraded {
            let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
            self.bytes.drain(..end + 4);
            self.upgraded = true;
        }
        let mut cursor = Cursor::new(&self.bytes);
        let (_, len) = FrameHeader::parse(&mut cursor).unwrap()?;
        let start = cursor.position() as usize;
        if self.bytes.len() < start + len as usize {
            return None;
        }
        let frame: Vec<u8> = self.bytes.drain(..start + len as usize).collect();
        Some(serde_json::from_slice(&frame[start..]).expect("no Close comes before a goodbye"))
    }

    /// The next object of this kind, within some turns.
    fn expect(&mut self, world: &mut World, kind: &str) -> Value {
        for _ in 0..1000 {
            world.turn_shards();
            while let Some(object) = self.next() {
                if object["type"] == kind {
                    return object;
                }
            }
        }
        panic!("seed {}: no {kind} came", world.seed);
    }

    /// Lets time pass until an object of this kind comes, which must be at this time (Unix, ms);
    /// `until_ms`: no longer than that. Returns whether it came.
    fn ends(&mut self, world: &mut World, kind: &str, end_ms: u64, until_ms: u64) -> bool {
        let seed = world.seed;
        while world.network.unix_ms() < until_ms {
            world.network.advance_clock(1_000_000 * (1 + world.network.random_below(70)));
            (0..3).for_each(|_| world.turn_shards());
            let now_ms = world.network.unix_ms();
            while let Some(object) = self.next() {
                if object["type"] == kind {
                    assert!(now_ms >= end_ms, "seed {seed}: {} ms early", end_ms - now_ms);
                    return true;
                }
            }
            assert!(now_ms <= end_ms + STEP_MS, "seed {seed}: late: {now_ms} after {end_ms}");
        }
        false
    }
}

fn now_s(world: &World) -> u64 {
    world.network.unix_ms() / 1000
}

/// A token is shown again and again, with an earlier, the same or a later end, and within the
/// tolerance too.
#[test]
fn a_connection_ends_with_its_current_token() {
    for seed in seeds(0, 40) {
        let leeway_s = world_random(seed) % 8;
        let mut world = world(seed, leeway_s as u32);
        let auth = |exp: u64| {
            let token = sign(&json!({"sub": "ann", "exp": exp}));
            (json!({"type": "auth", "token": token}), (exp + leeway_s) * 1000)
        };
        let mut exp = now_s(&world) + 20;
        let (first, mut end_ms) = auth(exp);
        let mut client = Client::open(&world, &first);
        client.expect(&mut world, "authenticated");
        loop {
            let until_ms = world.network.unix_ms() + world.network.random_below(20_000);
            if client.ends(&mut world, "goodbye", end_ms, until_ms) {
                break;
            }
            let now_s = now_s(&world);
            exp = match world.network.random_below(4) {
                0 => exp,
                1 => now_s + 1 + world.network.random_below(60),
                2 => now_s + 3 + world.network.random_below(4) - leeway_s,
                _ => now_s + 100_000,
            };
            if exp + leeway_s <= now_s + 1 {
                exp = now_s + 3;
            }
            let (next, next_end_ms) = auth(exp);
            client.say(&world, &next);
            let answer = client.expect(&mut world, "authenticated");
            assert_eq!(answer["expires_in"], exp.saturating_sub(now_s), "seed {seed}");
            end_ms = next_end_ms;
            if exp > now_s + 1000 {
                // What lasts long is not waited for.
                let until_ms = world.network.unix_ms() + 30_000;
                assert!(!client.ends(&mut world, "goodbye", end_ms, until_ms));
                break;
            }
        }
        world.stop();
        world.check_accounts();
    }
}

fn world_random(seed: u64) -> u64 {
    seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40
}

/// A channel token counts as long past its end as a connection's token does.
#[test]
fn a_subscription_ends_with_its_channel_token() {
    for seed in seeds(100, 20) {
        let leeway_s = world_random(seed) % 8;
        let mut world = world(seed, leeway_s as u32);
        let own = sign(&json!({"sub": "ann", "exp": now_s(&world) + 3600}));
        let mut client = Client::open(&world, &json!({"type": "auth", "token": own}));
        client.expect(&mut world, "authenticated");
        let mut since = Value::Null;
        let mut end_ms = u64::MAX;
        for round in 0..6 {
            // The first ones may have ended already, within the tolerance.
            let exp = now_s(&world) + 1 + world.network.random_below(30);
            let exp = if round == 0 { exp.saturating_sub(leeway_s) } else { exp };
            if exp + leeway_s <= now_s(&world) + 1 {
                continue;
            }
            let token = sign(&json!({"channel": "private", "exp": exp}));
            let object =
                json!({"type": "subscribe", "channel": "private", "token": token, "since": since});
            client.say(&world, &object);
            let answer = client.expect(&mut world, "subscribed");
            assert!(answer["grant"].is_string(), "seed {seed}: {answer}");
            since = json!({"epoch": answer["epoch"], "offset": answer["offset"]});
            end_ms = (exp + leeway_s) * 1000;
            let until_ms = world.network.unix_ms() + world.network.random_below(20_000);
            if client.ends(&mut world, "unsubscribed", end_ms, until_ms) {
                end_ms = u64::MAX;
                since = Value::Null;
            }
        }
        if end_ms < u64::MAX {
            assert!(client.ends(&mut world, "unsubscribed", end_ms, u64::MAX));
        }
        world.stop();
        world.check_accounts();
    }
}

/// A machine that was suspended: its wall clock is ahead, and nothing else has moved. A shard at
/// rest notices that by itself.
#[test]
fn a_wall_clock_that_is_set_forward_ends_what_has_ended_by_it() {
    let mut world = world(2, 5);
    let exp = now_s(&world) + 3600;
    let token = sign(&json!({"sub": "ann", "exp": exp}));
    let mut client = Client::open(&world, &json!({"type": "auth", "token": token}));
    client.expect(&mut world, "authenticated");
    world.network.step_wall_clock(2 * 3600 * 1000);
    let end_ms = world.network.unix_ms();
    assert!(client.ends(&mut world, "goodbye", end_ms, u64::MAX));
    world.stop();
    world.check_accounts();
}
