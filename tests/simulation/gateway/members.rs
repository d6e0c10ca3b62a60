//! Clients as members of channels: publications reach them while links are cut, drain and come.

use seawall::hub::{ApiReply, ChannelName, Draft, Origin, Request, Retention, Verb};
use seawall::shard::mail::{HubMail, Mail};

use super::application::Application;
use super::{Talker, end, gateway_world, open_talkers, run_until, step};
use crate::numbers::CLOSE;
use crate::seeds;
use crate::world::World;

/// Publishes a text as a backend does.
fn publish(world: &World, channel: &str, text: &str) {
    let hub = world.directory().hub().expect("gateways use the hub's state");
    let draft = Draft {
        content: format!("\"{text}\"").into(),
        from: None,
        exclude: None,
        time_ms: world.network.unix_ms(),
        accepted_ns: world.network.now_ns(),
        storing: hub.realm.protocols.storing(),
    };
    let request = Request {
        from: Origin::Api(ApiReply(Box::new(|_| ()))),
        channel: ChannelName::new(channel),
        retention: Retention { messages_max: 0, ttl_ms: 0 },
        verb: Verb::Publish { draft: Box::new(draft), key: None },
    };
    let home = hub.home_of(channel, world.directory().len());
    world.post(home, Mail::Hub(Box::new(HubMail::Ask(request))));
}

/// The numbers that a client has got by publications of a channel.
fn numbers_of(talker: &Talker, channel: &str) -> Vec<u32> {
    let own = talker.received.iter().filter_map(|text| text.strip_prefix(channel));
    own.map(|number| number.parse().unwrap()).collect()
}

fn joined(world: &mut World, application: &mut Application, talkers: &mut [Talker], all: &[&str]) {
    for channel in all {
        application.change_members(channel, true, 100);
    }
    run_until(world, application, talkers, "the memberships", |application, _| {
        application.are_all_in(all)
    });
}

#[test]
fn members_miss_no_publication_wherever_links_are_cut() {
    let mut moved = 0;
    for seed in seeds(8100, 80) {
        let mut world = gateway_world(seed, 1 + (seed % 3) as u16, |_| {});
        let network = world.network.clone();
        let mut application = Application::new(world.directory().clone(), network.clone(), seed);
        application.connect();
        let mut talkers = open_talkers(&mut world, &mut application, 6);
        joined(&mut world, &mut application, &mut talkers, &["all:"]);
        let mut published = 0;
        for _ in 0..300 {
            let links = application.link_count();
            match network.random_below(100) {
                0..5 if links > 0 => application.cut(network.random_below(links as u64) as usize),
                5..9 if links > 1 => application.drain(network.random_below(links as u64) as usize),
                9..20 if links < 4 => application.connect(),
                20..60 => {
                    published += 1;
                    publish(&world, "all:", &format!("all:{published}"));
                }
                60..80 => {
                    let is_joining = network.random_below(2) == 0;
                    application.change_members("some:", is_joining, 30);
                    publish(&world, "some:", &format!("some:{published}"));
                }
                80..90 => application.change_members("all:", true, 30),
                _ => {}
            }
            step(&mut world, &mut application, &mut talkers);
            application.retire_drained();
        }
        application.connect();
        let expected: Vec<u32> = (1..=published).collect();
        let have_all = |_: &Application, talkers: &[Talker]| {
            talkers.iter().all(|one| numbers_of(one, "all:").len() >= expected.len())
        };
        run_until(&mut world, &mut application, &mut talkers, "every publication", have_all);
        for talker in &talkers {
            assert_eq!(numbers_of(talker, "all:"), expected, "seed {seed}: in order, each once");
            assert!(numbers_of(talker, "some:").is_sorted(), "seed {seed}");
        }
        // All that was asked for is known, on whichever link the sessions are.
        run_until(&mut world, &mut application, &mut talkers, "the moves", |application, _| {
            application.session_count() == 6
        });
        application.change_members("some:", false, 100);
        joined(&mut world, &mut application, &mut talkers, &["all:"]);
        moved += application.moved;
        end(world, &mut application, &mut talkers);
    }
    assert!(moved > 100, "{moved} moves");
}

#[test]
fn no_membership_outlives_its_client() {
    for seed in seeds(8200, 60) {
        let mut world = gateway_world(seed, 1 + (seed % 3) as u16, |_| {});
        let network = world.network.clone();
        let mut application = Application::new(world.directory().clone(), network.clone(), seed);
        application.connect();
        let mut talkers = open_talkers(&mut world, &mut application, 6);
        let members = |world: &World| world.totals().gauges.channel_members;
        for _ in 0..30 {
            application.change_members("a:", network.random_below(2) == 0, 50);
            publish(&world, "a:", "a:1");
            world.step();
        }
        joined(&mut world, &mut application, &mut talkers, &["a:", "b:"]);
        assert_eq!(members(&world), 12, "seed {seed}");
        // Some leave, some are closed, in the middle of publications and of what is asked for.
        publish(&world, "a:", "a:1");
        application.change_members("a:", false, 50);
        application.change_members("c:", true, 50);
        talkers[0].peer.send_reset();
        talkers[1].peer.write(&CLOSE);
        talkers[1].peer.send_fin();
        (0..network.random_below(20)).for_each(|_| world.step());
        publish(&world, "b:", "b:1");
        application.close_all(4000);
        run_until(&mut world, &mut application, &mut talkers, "the close", |_, talkers| {
            talkers[2..].iter().all(|one| one.close_code == Some(4000))
        });
        for talker in &talkers[2..] {
            talker.peer.write(&CLOSE);
            talker.peer.send_fin();
        }
        run_until(&mut world, &mut application, &mut talkers, "the counts", |application, _| {
            application.counts() == (0, 0)
        });
        world.drain();
        assert_eq!(members(&world), 0, "seed {seed}: no membership is left");
        world.check_accounts();
    }
}
