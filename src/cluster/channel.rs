//! Follows a watched channel: turns what the engine publishes into an unbroken sequence.
//!
//! States: off → subscribing → catching up → live ⇄ stale. Messages that arrive while history is
//! read are held, and continue after it. A state knows the position up to which members have
//! everything, so no message is delivered twice, and none is skipped without a report.

use std::collections::VecDeque;

use super::command::{POSITION, RawMessage, RawPage};
use crate::hub::{Epoch, Position, Range, Since};

/// Limits of a read that fills a hole, and of the messages held meanwhile.
const HELD_MESSAGES_MAX: usize = 1000;
const HELD_BYTES_MAX: usize = 1 << 20;

/// What follows from an event of a channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FollowAction {
    Deliver(Epoch, RawMessage),
    /// The position continues in another epoch, after this offset.
    EpochChanged(Position),
    /// Messages up to this position are lost.
    Gap(Position),
    /// History is to be read; the page goes to [`Follower::catch_up`].
    Read(Range),
}

#[derive(Debug, Default)]
enum State {
    /// Not watched.
    #[default]
    Off,
    /// The subscription is not confirmed yet.
    Subscribing,
    /// The subscription is lost. Members have everything up to the position.
    Stale(Option<Position>),
    /// History after the position is being read; `None`: only the position is.
    CatchingUp(Option<Position>, Held),
    Live(Position),
}

/// Messages that arrived while history was read.
#[derive(Debug, Default)]
struct Held {
    messages: VecDeque<(Epoch, RawMessage)>,
    bytes: usize,
    /// Some were dropped, so another read is needed.
    is_cut: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Follower(State);

impl Follower {
    /// Begins to follow; the caller subscribes.
    pub(super) fn begin(&mut self) {
        self.0 = State::Subscribing;
    }

    /// Ends; the caller unsubscribes.
    pub(super) fn end(&mut self) {
        self.0 = State::Off;
    }

    pub(super) fn is_off(&self) -> bool {
        matches!(self.0, State::Off)
    }

    /// Returns the position of the last delivery, if the next publications continue after it.
    pub(super) fn live_position(&self) -> Option<Position> {
        match &self.0 {
            State::Live(position) => Some(*position),
            _ => None,
        }
    }

    /// Returns whether what is read now may precede the subscription, so that reads have to wait.
    pub(super) fn is_unsubscribed(&self) -> bool {
        matches!(self.0, State::Subscribing | State::Stale(_))
    }

    /// The subscription is lost.
    pub(super) fn note_loss(&mut self) {
        let position = match &self.0 {
            State::Live(position) => Some(*position),
            State::CatchingUp(from, _) => *from,
            _ => return,
        };
        self.0 = State::Stale(position);
    }

    /// The subscription is confirmed: reads what was published before it.
    pub(super) fn note_subscription(&mut self, out: &mut Vec<FollowAction>) {
        let from = match &self.0 {
            // A subscription is confirmed once.
            State::Off | State::CatchingUp(..) | State::Live(_) => return,
            State::Subscribing => None,
            State::Stale(position) => *position,
        };
        self.begin_read(from, Held::default(), out);
    }

    /// A member begins with this position: it must get whatever follows.
    pub(super) fn note_member(&mut self, position: Position) {
        if let State::CatchingUp(from @ None, _) = &mut self.0 {
            *from = Some(position);
        }
    }

    /// Returns whether members are to learn of another epoch if the engine is at this position.
    pub(super) fn changes_epoch(&self, position: Position) -> bool {
        match &self.0 {
            // An engine that is behind has lost messages that members have.
            State::CatchingUp(Some(from), _) => {
                from.epoch != position.epoch || position.offset < from.offset
            }
            State::Live(own) => own.epoch != position.epoch,
            _ => false,
        }
    }

    /// Delivers nothing more until [`Self::resume`]; what arrives meanwhile is dropped.
    pub(super) fn postpone(&mut self) {
        let from = match &self.0 {
            State::Live(position) => Some(*position),
            State::CatchingUp(from, _) => *from,
            _ => return,
        };
        self.0 = State::CatchingUp(from, Held { is_cut: true, ..Held::default() });
    }

    /// Reads what follows the position of the members.
    pub(super) fn resume(&mut self, out: &mut Vec<FollowAction>) {
        if let State::CatchingUp(from, _) = &self.0 {
            let from = *from;
            self.begin_read(from, Held::default(), out);
        }
    }

    /// There are no members: those that come begin where the engine is then. The caller ignores the
    /// page of a read under way.
    pub(super) fn forget_members(&mut self, out: &mut Vec<FollowAction>) {
        match &mut self.0 {
            State::CatchingUp(..) => self.begin_read(None, Held::default(), out),
            State::Stale(position) => *position = None,
            State::Off | State::Subscribing | State::Live(_) => {}
        }
    }

    /// Messages may have been dropped on the way, also the last ones: reads again what follows.
    pub(super) fn look_again(&mut self, out: &mut Vec<FollowAction>) {
        match &mut self.0 {
            State::Live(position) => {
                let from = *position;
                self.begin_read(Some(from), Held::default(), out);
            }
            // The present read may precede what was dropped.
            State::CatchingUp(_, held) => held.is_cut = true,
            State::Off | State::Subscribing | State::Stale(_) => {}
        }
    }

    /// The engine has this position: reads again if it is not that of the deliveries.
    pub(super) fn compare(&mut self, position: Position, out: &mut Vec<FollowAction>) {
        if matches!(&self.0, State::Live(own) if *own != position) {
            self.look_again(out);
        }
    }

    fn begin_read(&mut self, from: Option<Position>, held: Held, out: &mut Vec<FollowAction>) {
        self.0 = State::CatchingUp(from, held);
        out.push(FollowAction::Read(range_after(from)));
    }

    /// The read failed: tries again.
    pub(super) fn retry_read(&mut self, out: &mut Vec<FollowAction>) {
        if let State::CatchingUp(from, _) = &self.0 {
            out.push(FollowAction::Read(range_after(*from)));
        }
    }

    /// A message was published.
    pub(super) fn receive(
        &mut self,
        epoch: Epoch,
        message: RawMessage,
        out: &mut Vec<FollowAction>,
    ) {
        match &mut self.0 {
            // It may be from before the channel was left and watched again.
            State::Off | State::Subscribing | State::Stale(_) => {}
            State::CatchingUp(_, held) => held.push(epoch, message),
            State::Live(position) if position.epoch != epoch => {
                let before = Position { epoch, offset: message.offset.saturating_sub(1) };
                *position = Position { epoch, offset: message.offset };
                out.push(FollowAction::EpochChanged(before));
                out.push(FollowAction::Deliver(epoch, message));
            }
            State::Live(position) if message.offset <= position.offset => {}
            State::Live(position) if message.offset == position.offset + 1 => {
                position.offset += 1;
                out.push(FollowAction::Deliver(epoch, message));
            }
            State::Live(position) => {
                let from = *position;
                let mut held = Held::default();
                held.push(epoch, message);
                self.begin_read(Some(from), held, out);
            }
        }
    }

    /// Continues with what was read, and then with what was held meanwhile.
    pub(super) fn catch_up(&mut self, page: RawPage, out: &mut Vec<FollowAction>) {
        let RawPage { position, complete, messages } = page;
        let changes_epoch = self.changes_epoch(position);
        let State::CatchingUp(from, held) = &mut self.0 else { return };
        let (from, held) = (*from, std::mem::take(held));
        match from {
            None => {}
            Some(_) if changes_epoch => {
                out.push(FollowAction::EpochChanged(position));
            }
            Some(_) if complete => deliver_all(position.epoch, messages, out),
            Some(from) if messages.first().is_some_and(|one| one.offset == from.offset + 1) => {
                // The first part of what was missed: the rest is read next.
                let offset = from.offset + messages.len() as u64;
                deliver_all(position.epoch, messages, out);
                return self.begin_read(Some(Position { offset, ..from }), held, out);
            }
            Some(_) => out.push(FollowAction::Gap(position)),
        }
        self.0 = State::Live(position);
        let outdated = held.count_outdated(from.map(|from| from.epoch), position.epoch);
        let is_cut = held.is_cut;
        for (epoch, message) in held.messages.into_iter().skip(outdated) {
            self.receive(epoch, message, out);
        }
        if is_cut && let State::Live(position) = &self.0 {
            let from = *position;
            self.begin_read(Some(from), Held::default(), out);
        }
    }
}

impl Held {
    fn push(&mut self, epoch: Epoch, message: RawMessage) {
        let bytes = self.bytes + message.envelope.len();
        if self.is_cut || self.messages.len() >= HELD_MESSAGES_MAX || bytes > HELD_BYTES_MAX {
            // Messages after a dropped one are no use: the next read brings them as well.
            self.is_cut = true;
            return;
        }
        self.bytes = bytes;
        self.messages.push_back((epoch, message));
    }

    /// Returns how many of the first messages precede a page: those before the page's epoch began.
    fn count_outdated(&self, before: Option<Epoch>, of_page: Epoch) -> usize {
        let epochs = || self.messages.iter().map(|(epoch, _)| *epoch);
        if let Some(first) = epochs().position(|epoch| epoch == of_page) {
            return first;
        }
        // None is of the page's epoch: those of the epoch before it are older, others newer.
        epochs().take_while(|epoch| Some(*epoch) == before).count()
    }
}

fn deliver_all(epoch: Epoch, messages: Vec<RawMessage>, out: &mut Vec<FollowAction>) {
    out.extend(messages.into_iter().map(|message| FollowAction::Deliver(epoch, message)));
}

fn range_after(from: Option<Position>) -> Range {
    let Some(Position { epoch, offset }) = from else { return POSITION };
    Range {
        since: Some(Since { epoch: Some(epoch), offset }),
        messages_max: HELD_MESSAGES_MAX as u32,
        bytes_max: HELD_BYTES_MAX as u64,
        reverse: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: Epoch = Epoch(1);
    const F: Epoch = Epoch(2);

    fn make_message(offset: u64) -> RawMessage {
        RawMessage { offset, time_ms: 0, envelope: vec![0; 10] }
    }

    fn make_page(epoch: Epoch, offset: u64, messages: &[u64], complete: bool) -> RawPage {
        let messages = messages.iter().map(|offset| make_message(*offset)).collect();
        RawPage { position: Position { epoch, offset }, complete, messages }
    }

    /// Runs a step and shows what follows from it, as short text.
    fn run(
        follower: &mut Follower,
        step: impl FnOnce(&mut Follower, &mut Vec<FollowAction>),
    ) -> String {
        let mut out = Vec::new();
        step(follower, &mut out);
        let show = |one: &FollowAction| match one {
            FollowAction::Deliver(epoch, message) => format!("{}.{}", epoch.0, message.offset),
            FollowAction::EpochChanged(at) => format!("epoch {}.{}", at.epoch.0, at.offset),
            FollowAction::Gap(at) => format!("gap {}", at.offset),
            FollowAction::Read(range) => match range.since {
                Some(since) => format!("read {}", since.offset),
                None => "read".into(),
            },
        };
        out.iter().map(show).collect::<Vec<_>>().join(", ")
    }

    fn receive(follower: &mut Follower, epoch: Epoch, offset: u64) -> String {
        run(follower, |own, out| own.receive(epoch, make_message(offset), out))
    }

    fn catch_up(follower: &mut Follower, page: RawPage) -> String {
        run(follower, |own, out| own.catch_up(page, out))
    }

    fn make_live(offset: u64) -> Follower {
        let mut own = Follower::default();
        own.begin();
        assert_eq!(run(&mut own, Follower::note_subscription), "read");
        assert_eq!(catch_up(&mut own, make_page(E, offset, &[], true)), "");
        own
    }

    #[test]
    fn messages_continue_after_the_position_that_was_read() {
        let mut own = Follower::default();
        own.begin();
        assert!(own.is_unsubscribed());
        assert_eq!(receive(&mut own, E, 3), "", "it may precede the subscription");
        run(&mut own, Follower::note_subscription);
        for offset in 4..7 {
            assert_eq!(receive(&mut own, E, offset), "");
        }
        assert_eq!(catch_up(&mut own, make_page(E, 5, &[], true)), "1.6");
        assert_eq!(receive(&mut own, E, 6), "", "known");
        assert_eq!(receive(&mut own, E, 7), "1.7");
    }

    #[test]
    fn a_hole_is_filled_or_reported() {
        let mut own = make_live(5);
        assert_eq!(receive(&mut own, E, 8), "read 5");
        assert_eq!(receive(&mut own, E, 9), "");
        let page = make_page(E, 8, &[6, 7, 8], true);
        assert_eq!(catch_up(&mut own, page), "1.6, 1.7, 1.8, 1.9");
        assert_eq!(receive(&mut own, E, 12), "read 9");
        assert_eq!(run(&mut own, Follower::retry_read), "read 9");
        assert_eq!(catch_up(&mut own, make_page(E, 12, &[12], false)), "gap 12");
        assert_eq!(receive(&mut own, E, 13), "1.13");
    }

    #[test]
    fn a_long_hole_is_filled_in_parts() {
        let mut own = make_live(0);
        assert_eq!(receive(&mut own, E, 5), "read 0");
        assert_eq!(catch_up(&mut own, make_page(E, 5, &[1, 2], false)), "1.1, 1.2, read 2");
        assert_eq!(catch_up(&mut own, make_page(E, 5, &[3, 4, 5], true)), "1.3, 1.4, 1.5");
        assert_eq!(receive(&mut own, E, 6), "1.6");
    }

    #[test]
    fn a_lost_subscription_continues_where_members_are() {
        let mut own = make_live(5);
        own.note_loss();
        assert!(own.is_unsubscribed());
        assert_eq!(receive(&mut own, E, 6), "", "from before the loss");
        assert_eq!(run(&mut own, Follower::note_subscription), "read 5");
        own.note_loss();
        assert_eq!(catch_up(&mut own, make_page(E, 6, &[6], true)), "", "of the lost one");
        assert_eq!(run(&mut own, Follower::note_subscription), "read 5");
        assert_eq!(catch_up(&mut own, make_page(E, 7, &[6, 7], true)), "1.6, 1.7");
        own.note_loss();
        run(&mut own, Follower::note_subscription);
        assert_eq!(catch_up(&mut own, make_page(F, 2, &[], false)), "epoch 2.2");
        assert_eq!(receive(&mut own, F, 3), "2.3");
    }

    #[test]
    fn another_epoch_is_announced_before_its_messages() {
        let mut own = make_live(5);
        assert_eq!(receive(&mut own, F, 3), "epoch 2.2, 2.3");
        assert_eq!(receive(&mut own, F, 4), "2.4");
        own.note_loss();
        run(&mut own, Follower::note_subscription);
        assert_eq!(catch_up(&mut own, make_page(F, 2, &[], false)), "epoch 2.2", "it lost two");
    }

    #[test]
    fn held_messages_of_an_earlier_epoch_precede_the_page() {
        let held = |held: &[(Epoch, u64)], page| {
            let mut own = make_live(5);
            assert_eq!(receive(&mut own, E, 8), "read 5");
            held.iter().for_each(|(epoch, offset)| {
                receive(&mut own, *epoch, *offset);
            });
            catch_up(&mut own, page)
        };
        let page = || make_page(F, 2, &[], false);
        assert_eq!(held(&[(E, 9), (F, 1), (F, 2), (F, 3)], page()), "epoch 2.2, 2.3");
        assert_eq!(held(&[(E, 9)], page()), "epoch 2.2");
        let own = make_page(E, 9, &[6, 7, 8, 9], true);
        assert_eq!(held(&[(E, 9), (F, 1)], own), "1.6, 1.7, 1.8, 1.9, epoch 2.0, 2.1");
    }

    #[test]
    fn a_position_that_is_ahead_reveals_a_loss() {
        let mut own = make_live(5);
        let compare = |own: &mut Follower, offset| {
            run(own, |own, out| own.compare(Position { epoch: E, offset }, out))
        };
        assert_eq!(compare(&mut own, 5), "");
        assert_eq!(compare(&mut own, 6), "read 5");
        assert_eq!(catch_up(&mut own, make_page(E, 6, &[6], true)), "1.6");
        assert_eq!(run(&mut own, Follower::look_again), "read 6");
        assert_eq!(run(&mut own, Follower::look_again), "", "one is under way");
        assert_eq!(catch_up(&mut own, make_page(E, 6, &[], true)), "read 6", "another follows");
    }

    #[test]
    fn a_member_gets_what_follows_its_position_also_if_the_first_read_fails() {
        let mut own = Follower::default();
        own.begin();
        assert_eq!(run(&mut own, Follower::note_subscription), "read");
        own.note_member(Position { epoch: E, offset: 2 });
        assert_eq!(receive(&mut own, E, 3), "");
        assert_eq!(run(&mut own, Follower::retry_read), "read 2");
        assert_eq!(catch_up(&mut own, make_page(E, 3, &[3], true)), "1.3");
    }

    #[test]
    fn a_channel_that_is_postponed_continues_where_its_members_are() {
        let mut own = make_live(5);
        let is_other = |own: &Follower, epoch| own.changes_epoch(Position { epoch, offset: 9 });
        assert!(is_other(&own, F) && !is_other(&own, E));
        own.postpone();
        assert!(is_other(&own, F) && !is_other(&own, E));
        assert_eq!(receive(&mut own, F, 1), "", "it is read later");
        assert_eq!(run(&mut own, Follower::resume), "read 5");
        assert_eq!(receive(&mut own, F, 3), "");
        assert_eq!(catch_up(&mut own, make_page(F, 2, &[], false)), "epoch 2.2, 2.3");
    }

    #[test]
    fn members_that_come_later_begin_where_the_engine_is() {
        let mut own = make_live(5);
        assert_eq!(run(&mut own, Follower::forget_members), "", "that is known");
        assert_eq!(receive(&mut own, E, 8), "read 5");
        assert_eq!(run(&mut own, Follower::forget_members), "read");
        assert_eq!(receive(&mut own, E, 10), "");
        assert_eq!(catch_up(&mut own, make_page(E, 9, &[], true)), "1.10");
    }

    #[test]
    fn more_than_may_be_held_is_read_again() {
        let mut own = make_live(0);
        assert_eq!(receive(&mut own, E, 2), "read 0");
        for offset in 3..2000 {
            assert_eq!(receive(&mut own, E, offset), "");
        }
        let all: Vec<u64> = (1..=2).collect();
        let shown = catch_up(&mut own, make_page(E, 2, &all, true));
        assert!(shown.starts_with("1.1, 1.2, 1.3") && shown.ends_with("1.1001, read 1001"));
    }
}
