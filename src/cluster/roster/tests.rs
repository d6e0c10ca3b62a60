//! Changes survive clocks that are set back, commands that fail, and engines that stall.

use super::*;
use crate::cluster::layout::Layout;

/// Keeps the commands that are submitted.
#[derive(Default)]
struct Recorder(VecDeque<EngineCommand>);

impl EnginePort for Recorder {
    fn submit(&mut self, command: EngineCommand) -> bool {
        self.0.push_back(command);
        true
    }

    fn next_event(&mut self) -> Option<EngineEvent> {
        None
    }
}

#[derive(Default)]
struct World {
    roster: ClusterRoster,
    port: Recorder,
}

fn make_id(serial: u32) -> ConnectionId {
    ConnectionId { node: 1, shard: 0, session: 0, serial }
}

impl World {
    fn channel(name: &str) -> (ChannelName, Place) {
        let layout = Layout::new("seawall", &["engine".to_owned()]);
        (ChannelName::new(name), layout.place_of(name))
    }

    fn list(&mut self, channel: &str, user: &str) {
        let (name, place) = Self::channel(channel);
        let key = MemberKey::User(user.into());
        let member = Arc::new(MemberInfo { key, connection: make_id(1), info: None });
        self.roster.change(&name, place, list_change(&member, None));
    }

    fn unlist(&mut self, channel: &str, user: &str) {
        let (name, place) = Self::channel(channel);
        let key = MemberKey::User(user.into());
        self.roster.change(&name, place, RosterChange::Unlist { key });
    }

    fn take_seat(&mut self, channel: &str, serial: u32) {
        let seat = (make_id(serial), None, 1);
        self.roster.take_seat(&mut self.port, Self::channel(channel), 7, seat);
    }

    /// Sends what is ready, and returns the next command.
    fn next_command(&mut self) -> Option<EngineCommand> {
        self.roster.flush(&mut self.port);
        self.port.0.pop_front()
    }

    /// Sends what is ready, and answers all commands in flight.
    fn settle(&mut self) {
        while let Some(EngineCommand { token, .. }) = self.next_command() {
            assert!(self.roster.complete(&EngineEvent::Changed { token }).is_none());
        }
    }

    fn fail(&mut self, command: &EngineCommand) {
        let event = EngineEvent::Failed { token: command.token, retry_after_ms: None };
        drop(self.roster.complete(&event));
    }

    fn is_empty(&self) -> bool {
        let ClusterRoster { entries, names, purposes, subject_bytes, .. } = &self.roster;
        entries.is_empty() && names.is_empty() && purposes.is_empty() && *subject_bytes == 0
    }
}

fn changes_of(command: &EngineCommand) -> usize {
    let Action::Change { changes } = &command.action else { panic!("{command:?}") };
    changes.len()
}

#[test]
fn a_change_that_fails_is_repeated_with_what_has_changed_since() {
    let mut world = World::default();
    world.roster.set_time(10_000);
    world.list("a", "ann");
    let first = world.next_command().unwrap();
    world.fail(&first);
    world.list("a", "bob");
    world.unlist("a", "ann");
    assert!(world.next_command().is_none(), "it waits");
    assert_eq!(world.roster.next_retry_ms(), Some(10_500));
    world.roster.set_time(10_500);
    world.roster.repeat();
    let second = world.next_command().unwrap();
    assert_eq!(changes_of(&second), 2);
    world.fail(&second);
    assert_eq!(world.roster.next_retry_ms(), Some(11_500), "the delay doubles");
    world.roster.set_time(11_500);
    world.roster.repeat();
    world.settle();
    world.unlist("a", "bob");
    world.settle();
    assert!(world.is_empty());
}

#[test]
fn a_clock_that_is_set_back_delays_only_what_waits() {
    let mut world = World::default();
    world.roster.set_time(3_600_000);
    world.list("a", "ann");
    let first = world.next_command().unwrap();
    world.fail(&first);
    world.roster.set_time(3_600_500);
    world.roster.repeat();
    // The repetition is in flight when the clock is set.
    let second = world.next_command().unwrap();
    world.roster.set_time(1_000);
    assert_eq!(world.roster.next_retry_ms(), None);
    assert!(world.roster.complete(&EngineEvent::Changed { token: second.token }).is_none());
    world.unlist("a", "ann");
    world.settle();
    assert!(world.is_empty());
    world.roster.set_time(60_000);
    world.roster.repeat();
    world.list("b", "ann");
    let third = world.next_command().unwrap();
    world.fail(&third);
    world.roster.set_time(2_000);
    assert_eq!(world.roster.next_retry_ms(), Some(2_500));
}

#[test]
fn a_seat_that_is_refused_while_the_engine_stalls_leaves_nothing() {
    let mut world = World::default();
    // All commands that may be in flight are.
    (0..COMMANDS_MAX).for_each(|n| world.list(&n.to_string(), "ann"));
    world.roster.flush(&mut world.port);
    assert_eq!(world.port.0.len(), COMMANDS_MAX);
    let blocking: Vec<_> = world.port.0.drain(..).collect();
    world.take_seat("few", 1);
    let taking = world.next_command().unwrap();
    world.fail(&taking);
    // That it is to be given up cannot be sent, and is outdated by another attempt.
    world.take_seat("few", 1);
    let taking = world.next_command().unwrap();
    let done = world.roster.complete(&EngineEvent::Seated { token: taking.token, has_seat: false });
    assert!(matches!(done, Some(Done::Seated { has_seat: false, .. })));
    for command in blocking {
        world.roster.complete(&EngineEvent::Changed { token: command.token });
    }
    assert!(world.next_command().is_none(), "nothing is to be sent");
    (0..COMMANDS_MAX).for_each(|n| world.unlist(&n.to_string(), "ann"));
    world.settle();
    assert!(world.is_empty());
}

#[test]
fn all_is_listed_again_some_channels_at_a_time() {
    let mut world = World::default();
    (0..10).for_each(|n| world.list(&n.to_string(), "ann"));
    world.settle();
    world.roster.list_again(None);
    world.roster.list_again(Some(0));
    // A channel that has ended meanwhile is none of them.
    world.unlist("0", "ann");
    world.settle();
    let mut listed = 0;
    while world.roster.is_listing_again() {
        world.roster.continue_listing(3);
        let before = listed;
        while let Some(command) = world.next_command() {
            listed += changes_of(&command);
            world.roster.complete(&EngineEvent::Changed { token: command.token });
        }
        assert!(listed - before <= 3);
    }
    assert_eq!(listed, 9);
}
