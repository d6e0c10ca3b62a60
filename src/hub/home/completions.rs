//! Turns the log's completions into answers to requests and deliveries to members.

use std::sync::Arc;

use super::{Home, Joining, Waiting};
use crate::hub::ChannelName;
use crate::hub::answer::{Answer, Out};
use crate::hub::log::{Done, HistoryPage};
use crate::hub::position::Position;
use crate::hub::publication::Publication;
use crate::hub::refusal::Refused;

impl Home {
    /// Processes at most `completions_max` completions of the log. Returns whether it stopped at
    /// that bound.
    pub fn process_completions(&mut self, completions_max: usize) -> bool {
        for _ in 0..completions_max {
            match self.log.next() {
                Some(done) => self.process_completion(done),
                None => return false,
            }
        }
        true
    }

    /// Processes one completion. Each arm that ends a request calls [`Self::note_use`], which
    /// schedules the end of a channel that nothing uses any longer.
    pub(super) fn process_completion(&mut self, done: Done) {
        match done {
            Done::Opened { key: channel } => self.run_waiting_requests(channel),
            Done::OpenFailed { key: channel, retry_after_ms } => {
                self.open_failed(channel, &Refused::unavailable(retry_after_ms));
            }
            Done::Appended { ticket, position, duplicate } => {
                let mut waiting = self.done_waiting(ticket);
                if !duplicate {
                    self.note_published(&mut waiting, position);
                }
                let Waiting::Publish { channel, from, .. } = waiting else { return };
                self.stats.publishes += u64::from(!duplicate);
                self.stats.duplicates += u64::from(duplicate);
                self.send_answer(channel, from, Answer::Published { position, duplicate });
                self.note_use(channel);
            }
            Done::Delivered { key: channel, publication } => {
                self.send_to_members(channel, &publication);
            }
            Done::Page { ticket, page } => match self.done_waiting(ticket) {
                Waiting::Join { channel, from, joining } => {
                    self.complete_subscribe(channel, from, joining, page);
                    self.note_use(channel);
                }
                Waiting::History { channel, from } => {
                    let HistoryPage { position, messages, .. } = page;
                    self.send_answer(channel, from, Answer::History { position, messages });
                    self.note_use(channel);
                }
                Waiting::Describe { channel, from } => {
                    let own = &self.channels[channel as usize];
                    let position = own.position.unwrap_or(page.position);
                    self.describe_at(channel, from, position);
                    self.note_use(channel);
                }
                _ => {}
            },
            Done::Trimmed { ticket, position } => {
                if let Waiting::Trim { channel, from } = self.done_waiting(ticket) {
                    self.send_answer(channel, from, Answer::Trimmed { position });
                    self.note_use(channel);
                }
            }
            Done::Failed { ticket, retry_after_ms } => {
                self.rejected(ticket, &Refused::unavailable(retry_after_ms));
            }
            Done::Refused { ticket, refused } => self.rejected(ticket, &refused),
            Done::EpochChanged { key, position } => {
                self.skip_to(key, position, |channel| Out::EpochChanged { channel, position });
            }
            Done::Gap { key, position } => {
                self.skip_to(key, position, |channel| Out::Gap { channel, position });
            }
            Done::Members { ticket, page } => {
                let waiting = self.done_waiting(ticket);
                self.complete_listing(waiting, *page);
            }
            Done::Seated { ticket, has_seat } => {
                let waiting = self.done_waiting(ticket);
                self.complete_seat(waiting, has_seat);
            }
            Done::News { key, news } => self.take_news(key, *news),
            Done::NewsMissed { key } => self.note_missed_news(key),
        }
    }

    /// Continues a watched channel from a position, past messages that are not delivered, and
    /// reports that to the shards with members.
    fn skip_to(&mut self, key: u32, position: Position, report: impl Fn(ChannelName) -> Out) {
        let own = &mut self.channels[key as usize];
        // Nothing follows the position of a channel without members: the next page will bring it.
        if !own.is_watched {
            return;
        }
        (own.position, own.known_from) = (Some(position), position.offset);
        own.delivered_meanwhile.clear();
        let shards = own.shards.iter();
        self.out.extend(shards.map(|counts| (counts.shard, report(own.name.clone()))));
    }

    /// Carries out the requests that waited until the log had opened the channel.
    fn run_waiting_requests(&mut self, key: u32) {
        let waiting = self.channels[key as usize].opening.take();
        for (from, verb) in waiting.into_iter().flat_map(|waiting| waiting.0) {
            self.carry_out(key, from, verb);
        }
        self.note_use(key);
    }

    /// Removes a channel that could not be opened, and rejects the requests that waited for it. It
    /// has no members that could leave.
    fn open_failed(&mut self, key: u32, refused: &Refused) {
        let channel = self.remove(key);
        for (from, _) in channel.opening.into_iter().flat_map(|waiting| waiting.0) {
            self.answer_to(channel.name.clone(), from, Answer::Refused(refused.clone()));
        }
    }

    /// Rejects the request that a failed command belongs to, and undoes what it had counted.
    fn rejected(&mut self, ticket: u64, refused: &Refused) {
        let waiting = self.done_waiting(ticket);
        let channel = waiting.channel();
        let refusal = || Answer::Refused(refused.clone());
        match waiting {
            Waiting::Join { from, joining, .. } => {
                self.end_joining(channel);
                let Joining { subscribe, has_seat, .. } = *joining;
                if has_seat {
                    self.give_up_seat(channel, &from);
                }
                // The shard drops a subscription that fails to restart, without another request.
                if let Some(watched) = subscribe.restart {
                    self.remove_member(channel, &from, watched, subscribe.member.as_deref());
                }
                self.send_answer(channel, from, refusal());
            }
            Waiting::Presence { from, .. } => {
                self.end_listing(channel);
                self.send_answer(channel, from, refusal());
            }
            Waiting::Publish { from, .. }
            | Waiting::Count { from, .. }
            | Waiting::History { from, .. }
            | Waiting::Describe { from, .. }
            | Waiting::Trim { from, .. } => self.send_answer(channel, from, refusal()),
        }
        self.note_use(channel);
    }

    /// Takes the purpose of a completed command. The log completes each ticket once.
    fn done_waiting(&mut self, ticket: u64) -> Waiting {
        let waiting = self.waiting.remove(ticket as usize);
        let channel = &mut self.channels[waiting.channel() as usize];
        assert!(channel.pending > 0, "the channel counts the commands that wait");
        channel.pending -= 1;
        waiting
    }

    /// Sends a publication to the shards that have members of the channel.
    fn send_to_members(&mut self, key: u32, publication: &Arc<Publication>) {
        let channel = &mut self.channels[key as usize];
        let Some(position) = publication.position else { return };
        // A page may have set the position past publications that were yet to be delivered, and
        // has given them to the only members there are.
        let known = channel
            .position
            .is_some_and(|own| own.epoch == position.epoch && own.offset >= position.offset);
        if known {
            return;
        }
        if channel.position.is_none() {
            channel.known_from = 0;
        }
        channel.position = Some(position);
        if channel.joining > 0 {
            channel.delivered_meanwhile.push_back(publication.clone());
        }
        let members = channel.shards.iter();
        self.out.extend(members.map(|counts| (counts.shard, Out::Publish(publication.clone()))));
    }
}
