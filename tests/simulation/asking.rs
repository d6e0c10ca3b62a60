//! Upgrades that wait for a backend: decided late, never, or after the client has gone.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use seawall::auth::Identity;
use seawall::backend::hook_line::{HookLine, HookOrder, HookOrders};
use seawall::config::Config;
use seawall::config::file::{Backend, ConnectRule, File, Route};
use seawall::driver::sim::{Faults, Peer};
use seawall::hooks::HookTicket;
use seawall::hub::{HistoryBudget, MemoryLog};
use seawall::proto::http::Refusal;
use seawall::shard::decisions::ConnectReply;
use seawall::shard::mail::{Filter, HubMail, Mail};

use crate::client::{Behaviour, Client, frame};
use crate::numbers::{REQUEST, connect, leave};
use crate::secrets::webhook_secret_file;
use crate::seeds;
use crate::world::World;

/// A question about an upgrade.
struct Question {
    ticket: HookTicket,
    head: Box<[u8]>,
    client: Option<IpAddr>,
}

/// An application that keeps the questions until the test replies.
struct Desk {
    orders: RefCell<HookOrders>,
    open: RefCell<Vec<Question>>,
    cancelled: Cell<u64>,
}

impl Desk {
    fn serve(world: &World) -> Self {
        let (line, orders) = HookLine::new();
        world.set_hooks(line);
        Self { orders: orders.into(), open: RefCell::default(), cancelled: Cell::new(0) }
    }

    fn take_orders(&self) {
        while let Some(order) = self.orders.borrow_mut().take_order() {
            match order {
                HookOrder::Connect { backend: 0, ticket, head, address } => {
                    self.open.borrow_mut().push(Question { ticket, head, client: address });
                }
                HookOrder::Cancel { .. } => {
                    self.cancelled.set(self.cancelled.get() + 1);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn len(&self) -> usize {
        self.take_orders();
        self.open.borrow().len()
    }

    /// How many questions were cancelled. Those that were answered do not count.
    fn cancelled(&self) -> u64 {
        self.take_orders();
        self.cancelled.get()
    }

    /// The question that has waited longest.
    fn next(&self) -> Question {
        self.take_orders();
        self.open.borrow_mut().remove(0)
    }
}

fn reply(world: &World, question: &Question, reply: ConnectReply) {
    let mail = Mail::Decided { token: question.ticket.token, reply: Box::new(reply) };
    world.post(question.ticket.shard, mail);
}

fn accept() -> ConnectReply {
    ConnectReply::Accept { identity: Arc::default(), subscribe: Arc::default() }
}

fn reject(refusal: Refusal) -> ConnectReply {
    ConnectReply::Reject { refusal, message: "not you".into(), retry_after_s: None }
}

fn turns(world: &mut World) {
    (0..5).for_each(|_| world.turn_shards());
}

/// Connects and sends a request with bytes behind it; returns the question about it.
fn ask(world: &mut World, desk: &Desk, early: &[u8]) -> (Peer, Question) {
    ask_with(world, desk, &[REQUEST, early].concat())
}

fn ask_with(world: &mut World, desk: &Desk, request: &[u8]) -> (Peer, Question) {
    let peer = connect(&world.network);
    peer.write(request);
    turns(world);
    assert_eq!(desk.len(), 1, "the backend is asked once");
    assert!(peer.read(usize::MAX).is_empty(), "nothing is sent before the decision");
    (peer, desk.next())
}

#[track_caller]
fn expect_status(world: &mut World, peer: &Peer, status: u16) -> String {
    turns(world);
    let text = String::from_utf8(peer.read(usize::MAX)).unwrap();
    assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
    text
}

fn refused(world: &World, code: &str) -> u64 {
    world.totals().counters.refused().filter(|(name, _)| *name == code).map(|(_, n)| n).sum()
}

/// Whoever was answered hangs up; then nothing may be left.
fn end(mut world: World, peers: &[&Peer]) {
    peers.iter().for_each(|peer| peer.send_fin());
    turns(&mut world);
    world.drain();
    world.check_laws(false);
}

/// Lets the application decide on all connections.
fn ask_backend(file: &mut File) {
    file.backends = vec![Backend {
        hook_url: "http://127.0.0.1:1/hooks".into(),
        secret_files: vec![webhook_secret_file()],
        ..Backend::default()
    }];
    if file.routes.is_empty() {
        file.routes = vec![Route::default()];
    }
    file.routes.iter_mut().for_each(|route| route.connect = ConnectRule::Backend);
}

/// A world in which the application decides on all connections.
fn asking_world(seed: u64, faults: Faults, change: impl FnOnce(&mut File)) -> World {
    World::new(seed, 1, faults, |file| {
        change(file);
        ask_backend(file);
    })
}

fn world(seed: u64) -> World {
    asking_world(seed, Faults::default(), |_| {})
}

/// A world whose one route is the hub's.
fn hub_world(change: impl FnOnce(&mut File)) -> World {
    let make_log = Arc::new(|_, _| -> Box<dyn seawall::hub::Log> {
        Box::new(MemoryLog::new(HistoryBudget::new(1 << 20)))
    });
    World::with_hub(40, 1, Faults::default(), make_log, |file| {
        let handler = seawall::config::HandlerName::Hub;
        file.routes = vec![Route { handler, ..Default::default() }];
        change(file);
        ask_backend(file);
    })
}

#[test]
fn an_upgrade_is_accepted_later() {
    let mut world = world(40);
    let desk = Desk::serve(&world);
    let (peer, question) = ask(&mut world, &desk, b"");
    assert_eq!(&question.head[..], REQUEST, "the head goes along, whole");
    assert_eq!(question.client, Some([127, 0, 0, 1].into()));
    let gauges = world.totals().gauges;
    assert_eq!((gauges.handshakes, gauges.open), (1, 0), "it counts as a handshake until then");
    reply(&world, &question, accept());
    let answer = expect_status(&mut world, &peer, 101);
    assert!(answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    let gauges = world.totals().gauges;
    assert_eq!((gauges.handshakes, gauges.open), (0, 1));
    // Once is enough.
    reply(&world, &question, reject(Refusal::Forbidden));
    turns(&mut world);
    assert_eq!((world.late_replies(), world.totals().gauges.open), (1, 1));
    leave(&mut world, &peer);
    end(world, &[]);
}

#[test]
fn an_upgrade_is_rejected_later() {
    let mut world = world(40);
    let desk = Desk::serve(&world);
    let (peer, question) = ask(&mut world, &desk, b"early");
    reply(&world, &question, reject(Refusal::Forbidden));
    let answer = expect_status(&mut world, &peer, 403);
    assert!(answer.ends_with(r#"{"error":{"code":"forbidden","message":"not you"}}"#), "{answer}");
    assert_eq!((refused(&world, "forbidden"), world.totals().counters.opened), (1, 0));
    assert_eq!(world.totals().gauges.partial_bytes, 0, "what came early is dropped");
    end(world, &[&peer]);
}

/// A log in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_rejection_is_logged_with_the_path_of_its_request() {
    let (lines, mut world) = (Lines::default(), world(40));
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    tracing::subscriber::with_default(log.finish(), || {
        let desk = Desk::serve(&world);
        let (peer, question) = ask(&mut world, &desk, b"");
        reply(&world, &question, reject(Refusal::Forbidden));
        expect_status(&mut world, &peer, 403);
        peer.send_fin();
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let line = text.lines().find(|line| line.contains("rejected")).unwrap();
    for part in [r#"reason="forbidden""#, r#"path="/echo""#, "code=403", r#"detail="not you""#] {
        assert!(line.contains(part), "{part}: {line}");
    }
    end(world, &[]);
}

#[test]
fn an_upgrade_that_nobody_decides_ends_with_503_at_the_deadline() {
    let mut world = world(40);
    let desk = Desk::serve(&world);
    let (peer, question) = ask(&mut world, &desk, b"early");
    world.network.advance_clock(9_000_000_000);
    turns(&mut world);
    assert!(peer.read(usize::MAX).is_empty(), "the deadline is the handshake's");
    world.network.advance_clock(2_000_000_000);
    let answer = expect_status(&mut world, &peer, 503);
    assert!(answer.contains("\r\nRetry-After: 5\r\n"), "{answer}");
    assert_eq!(world.totals().counters.handshake_timeouts, 1);
    reply(&world, &question, accept());
    turns(&mut world);
    assert_eq!(world.late_replies(), 1, "the reply is too late");
    assert!(peer.read(usize::MAX).is_empty(), "nothing follows the answer");
    end(world, &[&peer]);
}

#[test]
fn a_reply_for_a_peer_that_left_is_ignored_and_counted() {
    for leave in [Peer::send_fin, Peer::send_reset] {
        let mut world = world(40);
        let desk = Desk::serve(&world);
        let (gone, old) = ask(&mut world, &desk, b"early");
        leave(&gone);
        turns(&mut world);
        let gauges = world.totals().gauges;
        assert_eq!((gauges.handshakes, gauges.slots, gauges.partial_bytes), (0, 0, 0));
        assert_eq!(world.totals().counters.handshakes_abandoned, 1);
        assert_eq!(desk.cancelled(), 1, "the application need not be asked any more");
        // Its slot is another's now.
        let (peer, question) = ask(&mut world, &desk, b"");
        assert_eq!(old.ticket.token.slot, question.ticket.token.slot);
        reply(&world, &old, accept());
        turns(&mut world);
        assert_eq!((world.late_replies(), world.totals().gauges.handshakes), (1, 1));
        assert!(peer.read(usize::MAX).is_empty(), "the reply was not for this one");
        reply(&world, &question, reject(Refusal::Unauthorized));
        expect_status(&mut world, &peer, 401);
        end(world, &[&peer]);
    }
}

#[test]
fn a_drain_answers_those_that_wait() {
    for is_accepted_first in [false, true] {
        let mut world = world(40);
        let desk = Desk::serve(&world);
        let (peer, question) = ask(&mut world, &desk, b"");
        if is_accepted_first {
            reply(&world, &question, accept());
        }
        world.post(0, Mail::Drain);
        if is_accepted_first {
            turns(&mut world);
            let received = peer.read(usize::MAX);
            assert!(received.starts_with(b"HTTP/1.1 101 "), "it was decided before the drain");
            assert_eq!(received.windows(2).filter(|two| *two == [3, 0xE9]).count(), 1, "then 1001");
        } else {
            let answer = expect_status(&mut world, &peer, 503);
            assert!(answer.contains("shutting down") && answer.contains("Retry-After: 1\r\n"));
            reply(&world, &question, accept());
            turns(&mut world);
            assert_eq!(world.late_replies(), 1);
        }
        end(world, &[&peer]);
    }
}

#[test]
fn a_stop_drops_those_that_wait() {
    let mut world = world(40);
    let desk = Desk::serve(&world);
    let (_peer, _) = ask(&mut world, &desk, b"early");
    world.stop();
    world.check_laws(true);
}

#[test]
fn frames_sent_before_the_101_arrive_intact_after_it() {
    for seed in seeds(41, 20) {
        let mut world = asking_world(seed, Faults::harmless(), |_| {});
        let desk = Desk::serve(&world);
        let messages: Vec<Vec<u8>> = (0..30).map(|n| vec![n; 50 * usize::from(n)]).collect();
        let frames = messages.iter().flat_map(|text| frame(&world.network, 0x82, text));
        let frames: Vec<u8> = frames.collect();
        let split = world.network.random_below(3000) as usize;
        let peer = connect(&world.network);
        peer.write(&[REQUEST, &frames[..split]].concat());
        peer.set_window(1 << 20);
        while desk.len() == 0 {
            world.step();
        }
        peer.write(&frames[split..]);
        world.rest();
        let held = world.totals().gauges.partial_bytes;
        assert!((1..=2 * (16 + 8) * 1024).contains(&held), "seed {seed}: {held} bytes are held");
        assert!(peer.unreceived_bytes() > 0, "seed {seed}: past the limit nothing is received");
        assert!(peer.read(usize::MAX).is_empty(), "seed {seed}");
        reply(&world, &desk.next(), accept());
        let mut echoes = Vec::new();
        for message in &messages {
            let len = message.len() as u16;
            let extended = [[0x82, 126].as_slice(), &len.to_be_bytes()].concat();
            let header = if len < 126 { vec![0x82, len as u8] } else { extended };
            echoes.extend([header, message.clone()].concat());
        }
        let mut received = Vec::new();
        while !received.ends_with(&echoes) {
            world.step();
            received.extend(peer.read(usize::MAX));
        }
        let head = &received[..received.len() - echoes.len()];
        assert!(head.starts_with(b"HTTP/1.1 101 ") && head.ends_with(b"\r\n\r\n"), "seed {seed}");
        peer.write(&crate::numbers::CLOSE);
        world.rest();
        peer.read(usize::MAX);
        end(world, &[&peer]);
    }
}

#[test]
fn limits_count_those_that_wait() {
    let mut world = asking_world(40, Faults::default(), |file| {
        file.limits.connections_per_address_max = 2;
        file.routes = vec![Route { connections_max: 1, ..Default::default() }];
    });
    let desk = Desk::serve(&world);
    let (one, first) = ask(&mut world, &desk, b"");
    let (two, second) = ask(&mut world, &desk, b"");
    let three = connect(&world.network);
    three.write(REQUEST);
    expect_status(&mut world, &three, 429);
    assert_eq!(desk.len(), 0, "an address over its limit asks no backend");
    reply(&world, &first, accept());
    reply(&world, &second, accept());
    expect_status(&mut world, &one, 101);
    expect_status(&mut world, &two, 503);
    leave(&mut world, &one);
    end(world, &[&two, &three]);
}

#[test]
fn handshakes_that_wait_count_towards_their_limit() {
    let mut world = asking_world(40, Faults::default(), |file| {
        file.limits.handshakes_per_shard_max = 1;
    });
    let desk = Desk::serve(&world);
    let (one, question) = ask(&mut world, &desk, b"");
    let two = connect(&world.network);
    two.write(REQUEST);
    expect_status(&mut world, &two, 503);
    reply(&world, &question, accept());
    expect_status(&mut world, &one, 101);
    leave(&mut world, &one);
    end(world, &[&two]);
}

#[test]
fn a_reload_during_the_question_sends_the_client_back() {
    let mut world = world(40);
    let desk = Desk::serve(&world);
    let (peer, question) = ask(&mut world, &desk, b"");
    let file = File { shards: 1, ..File::default() };
    let config = Config::validate(&file, 20_000, 1).unwrap();
    world.post(0, Mail::Renew(config.into()));
    reply(&world, &question, accept());
    let answer = expect_status(&mut world, &peer, 503);
    assert!(answer.contains("Retry-After: 1\r\n"), "{answer}");
    end(world, &[&peer]);
}

#[test]
fn the_reply_says_who_the_client_is() {
    let mut world = hub_world(|_| {});
    let desk = Desk::serve(&world);
    let (peer, question) = ask(&mut world, &desk, b"");
    let identity = Identity { user: Some("ada".into()), ..Identity::default() };
    let (identity, subscribe) = (identity.into(), Arc::default());
    reply(&world, &question, ConnectReply::Accept { identity, subscribe });
    turns(&mut world);
    assert!(peer.read(usize::MAX).starts_with(b"HTTP/1.1 101 "));
    let (sender, mut list) = tokio::sync::oneshot::channel();
    let filter = Box::new(Filter { user: Some("ada".into()), limit: 10, ..Filter::default() });
    world.post(0, Mail::Hub(Box::new(HubMail::List { filter, reply: sender })));
    turns(&mut world);
    assert_eq!(list.try_recv().unwrap().connections.len(), 1);
    leave(&mut world, &peer);
    end(world, &[]);
}

#[test]
fn what_comes_early_counts_towards_the_memory_of_unfinished_messages() {
    let mut world = asking_world(40, Faults::default(), |file| {
        file.limits.message_bytes_max = 512;
        file.limits.partial_shard_bytes_max = 1000;
    });
    let desk = Desk::serve(&world);
    let early = frame(&world.network, 0x82, &[7; 500]);
    let (one, first) = ask(&mut world, &desk, &early);
    let held = world.totals().gauges.partial_bytes;
    assert!((508..1000).contains(&held), "{held} bytes are held");
    let two = connect(&world.network);
    two.write(&[REQUEST, &early[..]].concat());
    let answer = expect_status(&mut world, &two, 503);
    assert!(answer.contains("too many unfinished messages"), "{answer}");
    assert!(answer.contains("\r\nRetry-After: 5\r\n"), "{answer}");
    assert_eq!(world.totals().gauges.partial_bytes, held, "the first one's are kept");
    reply(&world, &desk.next(), accept());
    reply(&world, &first, accept());
    turns(&mut world);
    assert_eq!((world.late_replies(), world.totals().counters.opened), (1, 1));
    let received = one.read(usize::MAX);
    assert!(received.starts_with(b"HTTP/1.1 101 ") && received.ends_with(&[7; 500]));
    leave(&mut world, &one);
    end(world, &[&two]);
}

/// Clients of all kinds, and a backend that replies late, twice, or never.
#[test]
fn every_law_holds_with_a_backend_that_decides() {
    for seed in seeds(5000, 60) {
        let mut world = World::new(seed, 2, Faults::harmless(), |file| {
            file.limits.message_bytes_max = 64 * 1024;
            file.limits.outbox_bytes_max = 16 * 1024;
            file.engine.handover_connections = 2;
            file.timeouts.handshake_timeout_ms = 2000;
        });
        let desk = Desk::serve(&world);
        for _ in 0..12 {
            // A FIN before the decision ends the connection without an answer.
            let behaviour = std::iter::repeat_with(|| Behaviour::draw(&world.network))
                .find(|behaviour| !behaviour.may_leave_first())
                .unwrap();
            let shard = world.network.random_below(2) as u16;
            world.clients.push(Client::connect(&world.network, shard, behaviour));
        }
        let early = world.network.random_below(4) == 0;
        let steps = if early { world.network.random_below(200) } else { 60_000 };
        for _ in 0..steps {
            if world.clients.iter().all(Client::is_done) {
                break;
            }
            world.step();
            if desk.len() == 0 || world.network.random_below(10) > 0 {
                continue;
            }
            let question = desk.next();
            match world.network.random_below(8) {
                0 => {}
                1 => reply(&world, &question, reject(Refusal::Unavailable)),
                2 => (0..2).for_each(|_| reply(&world, &question, accept())),
                _ => reply(&world, &question, accept()),
            }
        }
        assert!(early || world.clients.iter().all(Client::is_done), "seed {seed}: all end");
        world.drain();
        world.check_laws(early);
    }
}
