//! Clients behind links: their applications make them members of channels and end that, in any
//! order, while the home replies late.

use proptest::prelude::*;

use super::*;
use crate::hub::Code;
use crate::session::hub::MemberStanding;

/// Channels that the client has no right to by itself, and one that cannot be.
const CHANNELS: [&str; 5] = ["token:a", "user:b", "asked:c", "other", "not one"];

#[derive(Clone, Copy, Debug)]
enum Step {
    Join(usize),
    Leave(usize),
    /// The home replies to the oldest request.
    Answer,
    Review,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..CHANNELS.len()).prop_map(Step::Join),
        4 => (0..CHANNELS.len()).prop_map(Step::Leave),
        5 => Just(Step::Answer),
        1 => Just(Step::Review),
    ]
}

/// A world whose client is behind a link and anonymous, although the server has keys.
fn linked_world() -> World {
    let mut world = World::new(true, false, true);
    world.session = HubSession::behind_link(world.session.id, None, &world.realm);
    (world.protocol, world.replies) = (ProtocolId::CONTENT, 0);
    world
}

fn join(world: &mut World, channel: &str, number: u32) {
    world.act(|session, call| session.subscribe_by_server(call, channel, u64::MAX, number));
}

fn leave(world: &mut World, channel: &str) {
    world.act(|session, call| {
        session.unsubscribe_by_server(call, channel);
    });
}

/// Returns what was reported of a channel last.
fn last_of<'w>(world: &'w World, channel: &str) -> Option<&'w MemberStanding> {
    let mut of_channel = world.reports.iter().rev().filter(|one| &*one.channel == channel);
    of_channel.next().map(|one| &one.standing)
}

proptest! {
    #[test]
    fn each_join_has_one_answer_and_what_was_reported_is_so(
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut world = linked_world();
        let mut joins = 0;
        // By channel: whether the last step that counted was a join.
        let mut wanted = [false; CHANNELS.len()];
        for step in steps {
            match step {
                Step::Join(at) => {
                    joins += 1;
                    join(&mut world, CHANNELS[at], joins);
                    let is_refused = |one: &MemberReport| {
                        one.number == joins && matches!(one.standing, MemberStanding::Refused(_))
                    };
                    if !world.reports.iter().any(is_refused) {
                        wanted[at] = true;
                    }
                }
                Step::Leave(at) => {
                    leave(&mut world, CHANNELS[at]);
                    wanted[at] = false;
                }
                Step::Answer => drop(world.answer(1)),
                Step::Review => world.review(),
            }
        }
        world.answer_all();
        let mut answered: Vec<u32> = world.reports.iter().map(|one| one.number).collect();
        answered.retain(|number| *number > 0);
        answered.sort_unstable();
        prop_assert!(answered.into_iter().eq(1..=joins), "one answer for each join");
        let mut live = 0;
        for (channel, is_wanted) in CHANNELS.into_iter().zip(wanted) {
            let is_member = world.session.find(channel).is_some();
            prop_assert_eq!(is_member, is_wanted, "{}", channel);
            live += u64::from(is_member);
            match last_of(&world, channel) {
                Some(MemberStanding::Joined) => prop_assert!(is_member),
                Some(MemberStanding::Ended(reason)) => {
                    prop_assert!(!is_member && *reason == "server");
                }
                // The client may have been a member before.
                Some(MemberStanding::Refused(refused)) => {
                    prop_assert!([Code::Limit, Code::BadRequest].contains(&refused.code));
                }
                None => prop_assert!(!is_member),
            }
        }
        let gauges = world.home.gauges();
        prop_assert_eq!((gauges.members, gauges.presence_bytes), (live, 0), "none is listed");
        prop_assert!(world.replies == 0 && world.outcomes.is_empty() && !world.closed);
        prop_assert_eq!(world.session.has_no_channels(), live == 0);
        world.act(HubSession::end_all);
        world.answer_all();
        prop_assert_eq!(world.home.gauges().members, 0);
    }
}

#[test]
fn joins_that_wait_are_bounded() {
    let mut world = linked_world();
    (1..=4).for_each(|number| join(&mut world, "other", number));
    let [MemberReport { number: 4, standing: MemberStanding::Refused(refused), .. }] =
        &world.reports[..]
    else {
        panic!("{:?}", world.reports)
    };
    assert_eq!(refused.code, Code::Limit);
    world.answer_all();
    let joined = world.reports.iter().filter(|one| one.standing == MemberStanding::Joined);
    assert!(joined.map(|one| one.number).eq(1..=3));
}
