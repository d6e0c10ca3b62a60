//! What a position promises, whenever and however it was handed out: a client that comes back with
//! it gets every message published since, or an answer that it has to reload.

use super::*;
use crate::hub::{Epoch, Subscribed};

/// A position that was handed out, and what was published since.
#[derive(Clone, Debug)]
struct Handed {
    channel: u8,
    position: Position,
    at_ms: u64,
    since: Vec<u64>,
    /// It may be unknown by now: channels had to make room, or the clock was set back.
    is_lost: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Read,
    Trim,
    Publish,
    Join,
    Wait(u64),
    Expire,
    SetBack,
    Renew,
    /// Come back with one of the positions that were handed out.
    Return(usize),
}

fn step() -> impl Strategy<Value = (Step, u8)> {
    let step = prop_oneof![
        6 => Just(Step::Read),
        1 => Just(Step::Trim),
        6 => Just(Step::Publish),
        2 => Just(Step::Join),
        4 => (1..400_u64).prop_map(Step::Wait),
        1 => (400..3000_u64).prop_map(Step::Wait),
        3 => Just(Step::Expire),
        1 => Just(Step::SetBack),
        1 => Just(Step::Renew),
        12 => any::<usize>().prop_map(Step::Return),
    ];
    (step, 0..5_u8)
}

/// Five channels where four may be open.
const CHANNELS_MAX: usize = 4;

struct Positions {
    home: Home,
    now_ms: u64,
    published: u64,
    handed: Vec<Handed>,
    /// Forgotten channels made room for others so often.
    forgotten: u64,
}

impl Positions {
    fn new() -> Self {
        let (home, now_ms) = (home(CHANNELS_MAX), 1_000_000_000);
        Self { home, now_ms, published: 0, handed: Vec::new(), forgotten: 0 }
    }

    fn hand_out(&mut self, channel: u8, position: Position) {
        let (at_ms, since) = (self.now_ms, Vec::new());
        self.handed.push(Handed { channel, position, at_ms, since, is_lost: false });
    }

    fn lose_all(&mut self) {
        self.handed.iter_mut().for_each(|one| one.is_lost = true);
    }

    /// Subscribes and leaves; returns the answer.
    fn subscribe(
        &mut self,
        channel: u8,
        since: Option<Since>,
    ) -> Option<(Position, bool, Vec<u64>)> {
        let (from, _) = member(channel);
        let verb = subscribe(since);
        self.home.take_out();
        request(&mut self.home, &format!("c{channel}"), from, verb, self.now_ms);
        let answer = self.home.take_out().find_map(|(_, out)| match out {
            Out::Answer { answer, .. } => Some(answer),
            _ => None,
        });
        let Some(Answer::Subscribed(joined)) = answer else { return None };
        let Subscribed { position, recovered, missed, .. } = *joined;
        let (from, _) = member(channel);
        let verb = Verb::Leave { watch: false, member: None };
        request(&mut self.home, &format!("c{channel}"), from, verb, self.now_ms);
        let contents = missed.iter().map(|one| one.message().unwrap().content.parse().unwrap());
        Some((position, recovered, contents.collect()))
    }

    fn publish(&mut self, channel: u8) {
        self.published += 1;
        let content = self.published.to_string().into_boxed_str();
        let (time_ms, from) = (self.now_ms, None);
        let draft = Draft {
            content,
            from,
            exclude: None,
            time_ms,
            accepted_ns: 0,
            storing: Storing::with_only(&Plain),
        };
        let verb = Verb::Publish { draft: Box::new(draft), key: None };
        let answer = ask(&mut self.home, &format!("c{channel}"), verb, self.now_ms);
        let Answer::Published { position, .. } = answer else { panic!("{answer:?}") };
        for one in self.handed.iter_mut().filter(|one| one.channel == channel) {
            one.since.push(self.published);
        }
        self.hand_out(channel, position);
    }

    fn take(&mut self, step: Step, channel: u8) -> Result<(), TestCaseError> {
        let name = format!("c{channel}");
        match step {
            Step::Read | Step::Trim => {
                let verb = if matches!(step, Step::Read) { history(None) } else { Verb::Trim };
                match ask(&mut self.home, &name, verb, self.now_ms) {
                    Answer::History { position, .. } => self.hand_out(channel, position),
                    Answer::Trimmed { position } => {
                        // What was removed cannot be recovered.
                        let mut own = self.handed.iter_mut().filter(|one| one.channel == channel);
                        own.by_ref().for_each(|one| one.is_lost = true);
                        self.hand_out(channel, position);
                    }
                    other => panic!("{other:?}"),
                }
            }
            Step::Publish => self.publish(channel),
            Step::Join => {
                let (position, ..) = self.subscribe(channel, None).expect("it is not full");
                self.hand_out(channel, position);
            }
            Step::Wait(ms) => self.now_ms += ms,
            Step::Expire => drop(self.home.expire_channels(self.now_ms, 10)),
            Step::SetBack => {
                self.now_ms -= 100;
                self.lose_all();
            }
            Step::Renew => {
                self.home.set_options(self.home.options);
                self.lose_all();
            }
            Step::Return(at) if !self.handed.is_empty() => {
                let handed = self.handed[at % self.handed.len()].clone();
                self.come_back(&handed)?;
            }
            Step::Return(_) => {}
        }
        // A channel that makes room takes its history with it, and all starts.
        if self.home.len() == CHANNELS_MAX && self.home.stats.channels_forgotten > self.forgotten {
            self.lose_all();
        }
        self.forgotten = self.home.stats.channels_forgotten;
        Ok(())
    }

    fn come_back(&mut self, handed: &Handed) -> Result<(), TestCaseError> {
        let Handed { channel, position, at_ms, since, is_lost } = handed;
        let from = Since { epoch: Some(position.epoch), offset: position.offset };
        let answer = self.subscribe(*channel, Some(from));
        let (_, recovered, missed) = answer.expect("it is not full");
        if recovered {
            prop_assert_eq!(&missed, since, "a recovery is complete");
        } else {
            prop_assert!(missed.is_empty());
        }
        // No more than three messages are kept.
        let is_due = self.now_ms.saturating_sub(*at_ms) <= TTL_MS && !is_lost && since.len() <= 3;
        prop_assert!(recovered || !is_due, "{:?} at {}: {:?}", handed, self.now_ms, missed);
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_position_recovers_all_that_was_published_since(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let mut positions = Positions::new();
        for (step, channel) in steps {
            positions.take(step, channel)?;
        }
    }
}

/// In the same period and in the next ones, up to the end of its time.
#[test]
fn a_position_that_was_read_before_anything_was_published_counts() {
    for wait_ms in [0, 1, TTL_MS / 4, TTL_MS / 2, TTL_MS - 1, TTL_MS] {
        let mut positions = Positions::new();
        positions.now_ms += 17;
        positions.take(Step::Read, 0).unwrap();
        positions.now_ms += wait_ms;
        positions.publish(0);
        let read = positions.handed[0].clone();
        let since = Since { epoch: Some(read.position.epoch), offset: 0 };
        let answer = ask(&mut positions.home, "c0", history(Some(since)), positions.now_ms);
        let Answer::History { messages, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(messages.len(), 1, "{wait_ms} ms later");
        let (position, recovered, missed) = positions.subscribe(0, Some(since)).unwrap();
        assert_eq!((recovered, missed), (true, vec![1]), "{wait_ms} ms later");
        assert_eq!((position.epoch == read.position.epoch, position.offset), (wait_ms < 2, 1));
    }
}

#[test]
fn a_channel_that_was_used_and_forgotten_has_another_epoch() {
    let mut positions = Positions::new();
    let mut epochs = std::collections::HashSet::<Epoch>::new();
    for _ in 0..20 {
        positions.publish(0);
        let position = positions.handed.last().unwrap().position;
        assert!(epochs.insert(position.epoch), "offsets of two lives are not comparable");
        positions.now_ms += 2 * TTL_MS;
        while positions.home.expire_channels(positions.now_ms, 10) {}
        assert!(positions.home.is_empty());
    }
}

/// Any number of names costs nothing.
#[test]
fn reads_of_unused_channels_take_no_memory_and_remove_no_member() {
    let mut positions = Positions::new();
    positions.publish(0);
    for n in 0..1000 {
        for verb in [history(None), Verb::Trim, Verb::Describe] {
            ask(&mut positions.home, &format!("unused {n}"), verb, positions.now_ms);
        }
    }
    assert_eq!(positions.home.len(), 1);
    assert_eq!(positions.home.stats.channels_opened, 1);
    positions.come_back(&positions.handed[0].clone()).unwrap();
}
