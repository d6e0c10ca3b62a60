//! Sessions of applications behind links: links that are cut at any point, late acknowledgements,
//! drains and moves.

mod application;
mod members;

use seawall::config::file::{Backend, File, HandlerName, Route};
use seawall::driver::sim::{Faults, Peer};
use seawall::session::SeawallV1;
use seawall::session::protocol::Protocols;

use crate::client::frame;
use crate::numbers::{CLOSE, REQUEST};
use crate::seeds;
use crate::world::World;
use application::Application;
use seawall::hub::{HistoryBudget, MemoryLog};
use std::sync::Arc;

/// A client: it sends numbered texts, and reads what the application sends.
struct Talker {
    peer: Peer,
    /// Whether the 101 was read.
    is_open: bool,
    input: Vec<u8>,
    sent: u32,
    received: Vec<String>,
    close_code: Option<u16>,
}

impl Talker {
    fn connect(world: &World) -> Self {
        let shard = world.network.random_below(world.directory().len() as u64) as u16;
        let peer = world.network.connect(shard, 0, Some(([127, 0, 0, 1], 40_000).into()));
        peer.write(REQUEST);
        let (input, received) = (Vec::new(), Vec::new());
        Self { peer, is_open: false, input, sent: 0, received, close_code: None }
    }

    fn send(&mut self, world: &World) {
        self.sent += 1;
        let padding = world.network.random_below(900) as usize;
        let text = format!("{}:{}", self.sent, "x".repeat(padding));
        self.peer.write(&frame(&world.network, 0x81, text.as_bytes()));
    }

    fn read(&mut self) {
        self.input.extend(self.peer.read(usize::MAX));
        if !self.is_open {
            let end = self.input.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            let Some(end) = end else { return };
            assert!(self.input.starts_with(b"HTTP/1.1 101 "), "{:?}", str::from_utf8(&self.input));
            self.input.drain(..end + 4);
            self.is_open = true;
        }
        while let [first, len, rest @ ..] = &self.input[..] {
            let (len, rest, header) = match (*len, rest) {
                (126, [high, low, rest @ ..]) => {
                    (usize::from(u16::from_be_bytes([*high, *low])), rest, 4)
                }
                (126, _) => return,
                (len, rest) => (usize::from(len), rest, 2),
            };
            let Some(payload) = rest.get(..len) else { return };
            match first {
                0x81 => self.received.push(String::from_utf8(payload.to_vec()).unwrap()),
                0x88 => {
                    self.close_code = Some(u16::from_be_bytes([payload[0], payload[1]]));
                }
                0x89 | 0x8A => {}
                other => panic!("{other:#x}"),
            }
            self.input.drain(..header + len);
        }
    }
}

fn gateway_world(seed: u64, shards: u16, change: impl FnOnce(&mut Backend)) -> World {
    gateway_world_with(seed, shards, |file| change(&mut file.backends[0]))
}

/// The same with any change of the configuration.
fn gateway_world_with(seed: u64, shards: u16, change: impl FnOnce(&mut File)) -> World {
    let make_log = Arc::new(|_, _| -> Box<dyn seawall::hub::Log> {
        Box::new(MemoryLog::new(HistoryBudget::new(1 << 20)))
    });
    let protocols = (make_log as _, Protocols::new(&SeawallV1));
    World::with_protocols(seed, shards, Faults::harmless(), protocols, 8, |file: &mut File| {
        file.engine.park_after_ms = [0, 1, 100, 1000][(seed % 4) as usize];
        file.timeouts.handshake_timeout_ms = 600_000;
        file.routes = vec![Route { handler: HandlerName::Gateway, ..Route::default() }];
        file.routes[0].ping_interval_ms = 0;
        file.backends = vec![Backend {
            links: vec!["ws://127.0.0.1:1/".into()],
            unacked_messages_max: 4,
            unacked_bytes_max: 2000,
            hold_ms: 600_000,
            drain_ms: 600_000,
            ..Backend::default()
        }];
        change(file);
    })
}

/// Steps the world, the application and the clients.
fn step(world: &mut World, application: &mut Application, talkers: &mut [Talker]) {
    world.step();
    application.act();
    talkers.iter_mut().for_each(Talker::read);
}

/// Runs until this holds.
#[track_caller]
fn run_until(
    world: &mut World,
    application: &mut Application,
    talkers: &mut [Talker],
    what: &str,
    holds: impl Fn(&Application, &[Talker]) -> bool,
) {
    for _ in 0..20_000 {
        if holds(application, talkers) {
            return;
        }
        world.step();
        application.settle();
        application.retire_drained();
        talkers.iter_mut().for_each(Talker::read);
    }
    panic!("seed {}: {what} did not come", world.seed);
}

fn open_talkers(world: &mut World, application: &mut Application, count: usize) -> Vec<Talker> {
    let mut talkers: Vec<Talker> = (0..count).map(|_| Talker::connect(world)).collect();
    run_until(world, application, &mut talkers, "the 101", |_, talkers| {
        talkers.iter().all(|one| one.is_open)
    });
    talkers
}

/// Whether everything that was sent has arrived, in both directions, and is acknowledged.
fn is_settled(application: &Application, talkers: &[Talker]) -> bool {
    let known = || application.known.values();
    let handled: usize = known().map(|one| one.messages.len()).sum();
    let greeted: u32 = known().map(|one| one.sent).sum();
    let sent: u32 = talkers.iter().map(|one| one.sent).sum();
    let received: usize = talkers.iter().map(|one| one.received.len()).sum();
    handled == sent as usize && received == greeted as usize && application.counts().1 == 0
}

/// Each client has received what the application has sent it: numbers, in order.
fn check_received(talkers: &[Talker], seed: u64) {
    for talker in talkers {
        let numbers = (1..=talker.received.len()).map(|number| number.to_string());
        assert!(numbers.eq(talker.received.iter().cloned()), "seed {seed}: in order, whole");
    }
}

/// Everything that clients have sent was handled, each message once, in order.
fn check_handled(application: &Application, talkers: &[Talker], seed: u64) {
    let mut sent: Vec<u32> = talkers.iter().map(|one| one.sent).collect();
    let known = application.known.values();
    let mut handled: Vec<u32> = known.clone().map(|one| one.messages.len() as u32).collect();
    sent.sort_unstable();
    handled.sort_unstable();
    assert_eq!(sent, handled, "seed {seed}: every message was handled");
    for messages in known.map(|one| &one.messages) {
        for (at, message) in messages.iter().enumerate() {
            let prefix = format!("{}:", at + 1);
            assert!(message.starts_with(prefix.as_bytes()), "seed {seed}: in order");
        }
    }
}

/// Has clients answer the close that they were sent, and drains.
fn hang_up(mut world: World, talkers: &[Talker]) {
    for talker in talkers {
        talker.peer.write(&CLOSE);
        talker.peer.send_fin();
    }
    world.drain();
    world.check_accounts();
}

fn end(mut world: World, application: &mut Application, talkers: &mut [Talker]) {
    for talker in talkers.iter() {
        talker.peer.write(&CLOSE);
        talker.peer.send_fin();
    }
    run_until(&mut world, application, talkers, "the end of each client", |application, _| {
        application.session_count() == 0
            && application.counts() == (0, 0)
            && application.known.values().all(|one| one.closed == Some(1000))
    });
    world.drain();
    world.check_accounts();
}

#[test]
fn no_message_is_lost_wherever_links_are_cut() {
    let (mut moved, mut redelivered) = (0, 0);
    for seed in seeds(7000, 150) {
        let mut world = gateway_world(seed, 1 + (seed % 2) as u16, |_| {});
        let network = world.network.clone();
        let mut application = Application::new(world.directory().clone(), network.clone(), seed);
        application.connect();
        let mut talkers = open_talkers(&mut world, &mut application, 6);
        for _ in 0..400 {
            let links = application.link_count();
            match network.random_below(100) {
                0..5 if links > 0 => application.cut(network.random_below(links as u64) as usize),
                5..9 if links > 1 => application.drain(network.random_below(links as u64) as usize),
                9..20 if links < 4 => application.connect(),
                20..70 => {
                    let at = network.random_below(talkers.len() as u64) as usize;
                    if talkers[at].sent < 60 {
                        talkers[at].send(&world);
                    }
                }
                _ => {}
            }
            step(&mut world, &mut application, &mut talkers);
            application.retire_drained();
        }
        application.connect();
        run_until(&mut world, &mut application, &mut talkers, "every message", is_settled);
        check_handled(&application, &talkers, seed);
        // What had arrived before a link was cut is not lost with it.
        check_received(&talkers, seed);
        assert!(talkers.iter().all(|one| one.close_code.is_none()), "seed {seed}: none is closed");
        (moved, redelivered) = (moved + application.moved, redelivered + application.redelivered);
        end(world, &mut application, &mut talkers);
    }
    assert!(moved > 100 && redelivered > 100, "{moved} moves, {redelivered} repeats");
}

#[test]
fn a_rolling_deployment_loses_nothing_in_either_direction() {
    for seed in seeds(7200, 60) {
        let mut world = gateway_world(seed, 1 + (seed % 2) as u16, |_| {});
        let network = world.network.clone();
        let mut application = Application::new(world.directory().clone(), network.clone(), seed);
        application.connect();
        let mut talkers = open_talkers(&mut world, &mut application, 6);
        for round in 0..3 {
            application.connect();
            application.drain(0);
            while application.link_count() > 1 {
                let at = network.random_below(talkers.len() as u64) as usize;
                if talkers[at].sent < 50 * (round + 1) {
                    talkers[at].send(&world);
                }
                step(&mut world, &mut application, &mut talkers);
                application.retire_drained();
            }
        }
        run_until(&mut world, &mut application, &mut talkers, "every message", is_settled);
        check_handled(&application, &talkers, seed);
        assert_eq!(application.redelivered, 0, "seed {seed}: no message is repeated");
        assert!(application.moved >= 6, "seed {seed}: {} moves", application.moved);
        check_received(&talkers, seed);
        assert_eq!(world.totals().counters.gateway_fenced, 0, "seed {seed}");
        end(world, &mut application, &mut talkers);
    }
}

#[test]
fn a_message_before_a_close_is_handled_though_the_link_is_cut() {
    for seed in seeds(7300, 40) {
        let mut world = gateway_world(seed, 1, |_| {});
        let network = world.network.clone();
        let mut application = Application::new(world.directory().clone(), network, seed);
        application.connect();
        let mut talkers = open_talkers(&mut world, &mut application, 3);
        for talker in &mut talkers {
            (0..2).for_each(|_| talker.send(&world));
            talker.peer.write(&CLOSE);
            talker.peer.send_fin();
        }
        (0..20).for_each(|_| world.step());
        application.cut(0);
        (0..20).for_each(|_| world.step());
        application.connect();
        run_until(&mut world, &mut application, &mut talkers, "the messages", |app, _| {
            app.known.values().all(|one| one.messages.len() == 2 && one.closed == Some(1000))
        });
        check_handled(&application, &talkers, seed);
        end(world, &mut application, &mut talkers);
    }
}

#[test]
fn clients_are_held_without_a_link_and_closed_after_a_while() {
    let mut world = gateway_world(7400, 2, |backend| backend.hold_ms = 5_000);
    let network = world.network.clone();
    let mut application = Application::new(world.directory().clone(), network, 7400);
    application.connect();
    let mut talkers = open_talkers(&mut world, &mut application, 4);
    application.cut(0);
    for _ in 0..10 {
        talkers.iter_mut().for_each(|one| one.send(&world));
        step(&mut world, &mut application, &mut talkers);
    }
    assert!(talkers.iter().all(|one| one.close_code.is_none()), "they wait");
    let late = Talker::connect(&world);
    (0..20).for_each(|_| world.step());
    let answer = late.peer.read(usize::MAX);
    assert!(answer.starts_with(b"HTTP/1.1 503 "), "{:?}", str::from_utf8(&answer));
    late.peer.send_fin();
    world.network.advance_clock(6_000_000_000);
    run_until(&mut world, &mut application, &mut talkers, "the close", |_, talkers| {
        talkers.iter().all(|one| one.close_code == Some(1013))
    });
    assert_eq!(world.totals().counters.gateway_hold_timeouts, 4);
    hang_up(world, &talkers);
}

#[test]
fn one_record_reaches_many_clients_and_a_close_ends_them() {
    let mut world = gateway_world(7500, 2, |_| {});
    let network = world.network.clone();
    let mut application = Application::new(world.directory().clone(), network, 7500);
    application.connect();
    let mut talkers = open_talkers(&mut world, &mut application, 5);
    application.broadcast(0, "all");
    run_until(&mut world, &mut application, &mut talkers, "the text", |_, talkers| {
        talkers.iter().all(|one| one.received.iter().any(|text| text == "all"))
    });
    application.close_all(4000);
    run_until(&mut world, &mut application, &mut talkers, "the close", |_, talkers| {
        talkers.iter().all(|one| one.close_code == Some(4000))
    });
    assert_eq!(application.counts(), (0, 0));
    hang_up(world, &talkers);
}

#[test]
fn idle_sessions_move_to_a_new_link() {
    let mut world = gateway_world(7600, 2, |backend| backend.rebalance_per_s = 100);
    let network = world.network.clone();
    let mut application = Application::new(world.directory().clone(), network, 7600);
    application.connect();
    let mut talkers = open_talkers(&mut world, &mut application, 20);
    application.connect();
    run_until(&mut world, &mut application, &mut talkers, "the balance", |application, _| {
        let counts = application.sessions_by_link();
        counts.iter().sum::<usize>() == 20 && counts.iter().all(|count| *count >= 7)
    });
    assert_eq!(application.redelivered, 0);
    assert!(talkers.iter().all(|one| one.close_code.is_none()));
    end(world, &mut application, &mut talkers);
}

#[test]
fn a_session_stays_on_a_link_that_drains_while_there_is_no_other() {
    let mut world = gateway_world(7700, 1, |backend| {
        (backend.drain_ms, backend.hold_ms) = (1_000, 1_000);
    });
    let network = world.network.clone();
    let mut application = Application::new(world.directory().clone(), network, 7700);
    application.connect();
    let mut talkers = open_talkers(&mut world, &mut application, 3);
    talkers.iter_mut().for_each(|one| one.send(&world));
    (0..20).for_each(|_| world.step());
    application.drain(0);
    (0..20).for_each(|_| world.step());
    world.network.advance_clock(5_000_000_000);
    (0..20).for_each(|_| world.step());
    talkers.iter_mut().for_each(|one| one.send(&world));
    run_until(&mut world, &mut application, &mut talkers, "every message", is_settled);
    assert_eq!((application.session_count(), application.moved), (3, 0), "on the same link");
    application.connect();
    run_until(&mut world, &mut application, &mut talkers, "the moves", |application, _| {
        application.moved == 3
    });
    end(world, &mut application, &mut talkers);
}

#[test]
fn very_many_sessions_of_one_record_cost_others_a_bounded_effort() {
    let mut world = gateway_world(7800, 1, |_| {});
    let network = world.network.clone();
    let mut application = Application::new(world.directory().clone(), network, 7800);
    application.connect();
    let mut talkers = open_talkers(&mut world, &mut application, 2);
    // The same two clients, thousands of times: short messages, then one that is shared.
    for (text, times) in [("all".to_owned(), 5_000), ("x".repeat(700), 1_000)] {
        application.broadcast_again(0, &text, times);
        let sent = talkers[0].received.len() + times;
        let mut most = 0;
        while talkers.iter().any(|one| one.received.len() < sent) {
            world.step();
            talkers.iter_mut().for_each(Talker::read);
            let (spent, turn_max) = world.effort();
            most = most.max(spent);
            assert!(spent < 3 * turn_max, "{spent} of {turn_max}");
        }
        let is_whole = |one: &Talker| one.received.iter().rev().take(times).all(|got| *got == text);
        assert!(most > 0 && talkers.iter().all(is_whole));
    }
    end(world, &mut application, &mut talkers);
}

#[test]
fn an_idle_timeout_begins_when_the_client_is_read_from() {
    let mut world = gateway_world_with(7900, 1, |file| {
        file.routes[0].idle_timeout_ms = 3_000;
    });
    let network = world.network.clone();
    let mut application = Application::new(world.directory().clone(), network, 7900);
    application.connect();
    let mut talkers = open_talkers(&mut world, &mut application, 2);
    application.cut(0);
    (0..20).for_each(|_| world.step());
    world.network.advance_clock(4_000_000_000);
    (0..20).for_each(|_| world.step());
    talkers.iter_mut().for_each(Talker::read);
    assert!(talkers.iter().all(|one| one.close_code.is_none()), "they are held, not idle");
    application.connect();
    run_until(&mut world, &mut application, &mut talkers, "the moves", |application, _| {
        application.moved == 2
    });
    world.network.advance_clock(4_000_000_000);
    run_until(&mut world, &mut application, &mut talkers, "the close", |_, talkers| {
        talkers.iter().all(|one| one.close_code == Some(1001))
    });
    hang_up(world, &talkers);
}

/// A world with one link, whose clients have sent a message that is not acknowledged.
fn unacknowledged_world(seed: u64) -> (World, Application, Vec<Talker>) {
    let mut world = gateway_world(seed, 1, |_| {});
    let network = world.network.clone();
    let mut application = Application::new(world.directory().clone(), network, seed);
    application.connect();
    let mut talkers = open_talkers(&mut world, &mut application, 3);
    application.acknowledges = false;
    talkers.iter_mut().for_each(|one| one.send(&world));
    let all_have_arrived = |application: &Application, _: &[Talker]| {
        application.known.values().all(|one| one.messages.len() == 1)
    };
    run_until(&mut world, &mut application, &mut talkers, "the messages", all_have_arrived);
    assert_ne!(application.counts().1, 0);
    (world, application, talkers)
}

#[test]
fn an_application_that_closes_a_client_that_has_left_is_done_with_it() {
    let (mut world, mut application, mut talkers) = unacknowledged_world(8000);
    for talker in &talkers {
        talker.peer.write(&CLOSE);
        talker.peer.send_fin();
    }
    (0..20).for_each(|_| world.step());
    // Its closes pass those of the clients.
    application.close_all(4000);
    run_until(&mut world, &mut application, &mut talkers, "the counts", |application, _| {
        application.counts() == (0, 0)
    });
    assert_eq!(world.totals().counters.gateway_messages_lost, 0);
    world.drain();
    world.check_accounts();
}

#[test]
fn messages_of_a_client_that_has_left_are_given_up_in_the_end() {
    let (mut world, mut application, mut talkers) = unacknowledged_world(8001);
    for talker in &talkers {
        talker.peer.write(&CLOSE);
        talker.peer.send_fin();
    }
    (0..20).for_each(|_| world.step());
    assert_eq!(application.counts().0, 3, "they are still awaited");
    world.network.advance_clock(301_000_000_000);
    run_until(&mut world, &mut application, &mut talkers, "the counts", |application, _| {
        application.counts() == (0, 0)
    });
    assert_eq!(world.totals().counters.gateway_messages_lost, 3);
    world.drain();
    world.check_accounts();
}

#[test]
fn a_client_whose_user_is_named_late_counts_for_it() {
    let mut world = gateway_world_with(8002, 1, |file| {
        file.limits.connections_per_user_max = 1;
        file.routes[0].accept = seawall::config::AcceptRule::AtOnce;
    });
    let network = world.network.clone();
    let mut application = Application::new(world.directory().clone(), network, 8002);
    application.connect();
    let mut talkers = vec![Talker::connect(&world), Talker::connect(&world)];
    // Until the application reads, the clients are nameless, and open.
    for _ in 0..100 {
        world.step();
        talkers.iter_mut().for_each(Talker::read);
    }
    assert!(talkers.iter().all(|one| one.is_open));
    run_until(&mut world, &mut application, &mut talkers, "the close", |_, talkers| {
        talkers.iter().filter(|one| one.close_code == Some(4429)).count() == 1
    });
    application.name_all("other");
    (0..20).for_each(|_| world.step());
    assert_eq!(talkers.iter().filter(|one| one.close_code.is_none()).count(), 1);
    for talker in &talkers {
        talker.peer.write(&CLOSE);
        talker.peer.send_fin();
    }
    run_until(&mut world, &mut application, &mut talkers, "the end", |application, _| {
        application.counts() == (0, 0)
    });
    world.drain();
    world.check_accounts();
}

#[test]
fn a_wrong_answer_to_a_handshake_costs_one_link_and_no_connected_client() {
    let mut world = gateway_world(8003, 1, |_| {});
    let network = world.network.clone();
    let mut application = Application::new(world.directory().clone(), network, 8003);
    (0..3).for_each(|_| application.connect());
    let mut talkers = open_talkers(&mut world, &mut application, 6);
    application.answers_wrongly = true;
    let late = Talker::connect(&world);
    for _ in 0..20 {
        world.step();
        application.settle();
    }
    let answer = late.peer.read(usize::MAX);
    assert!(answer.starts_with(b"HTTP/1.1 503 "), "{:?}", str::from_utf8(&answer));
    late.peer.send_fin();
    assert_eq!(application.faults(), 1, "no other link gets the same handshake");
    application.answers_wrongly = false;
    let at = application.faulty().unwrap();
    application.cut(at);
    talkers.iter_mut().for_each(|one| one.send(&world));
    run_until(&mut world, &mut application, &mut talkers, "every message", is_settled);
    assert!(talkers.iter().all(|one| one.close_code.is_none()));
    (0..20).for_each(|_| step(&mut world, &mut application, &mut talkers));
    hang_up(world, &talkers);
}

#[test]
fn a_client_that_vanishes_while_it_is_not_read_from_is_found() {
    let mut world = gateway_world_with(8004, 1, |file| {
        (file.routes[0].ping_interval_ms, file.routes[0].pong_timeout_ms) = (1_000, 1_000);
    });
    let network = world.network.clone();
    let mut application = Application::new(world.directory().clone(), network, 8004);
    application.connect();
    let mut talkers = open_talkers(&mut world, &mut application, 2);
    application.cut(0);
    (0..20).for_each(|_| world.step());
    for talker in &mut talkers {
        talker.send(&world);
        talker.send(&world);
    }
    // They vanish after a ping whose pong nothing reads.
    while world.totals().counters.pings_sent < 2 {
        world.step();
    }
    (0..20).for_each(|_| world.step());
    talkers.iter().for_each(|one| one.peer.send_reset());
    for _ in 0..2_000 {
        if world.totals().gauges.open == 0 {
            break;
        }
        world.step();
    }
    assert_eq!(world.totals().gauges.open, 0, "their connections are closed");
    application.connect();
    world.drain();
    world.check_accounts();
}
