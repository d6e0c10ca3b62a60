//! The roster of a shard's home over the engine: what this node lists of each channel, and is to be
//! listed there.
//!
//! The engine gets the latest state of each member, in commands of many changes, one at a time
//! for each channel. Changes that fail are repeated, and all is listed again when the engine may
//! have lost it. So what this node lists becomes true whatever breaks.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use super::command::{Action, EngineCommand, EngineEvent, EnginePort, RosterChange};
use super::layout::Place;
use crate::hub::{ChannelName, ConnectionId, Done, DueQueue, MemberInfo, MemberKey};

/// Tokens of the roster have this bit.
pub(super) const TOKEN: u64 = 1 << 63;
/// Changes in one command.
const CHANGES_MAX: usize = 500;
/// Commands with changes in flight at an instance, so that publishes do not wait behind a long
/// list.
const COMMANDS_MAX: usize = 64;
/// The delay after which a failed command is repeated (ms): it doubles with each failure, up to
/// `RETRY_MAX_MS`.
const RETRY_MS: u64 = 500;
const RETRY_MAX_MS: u64 = 8_000;

/// What is listed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Member(MemberKey),
    Seat(ConnectionId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be sent; it is in the list of its channel.
    Changed,
    Sent,
    /// The engine has it.
    Known,
}

#[derive(Debug)]
struct Wanted {
    change: RosterChange,
    state: State,
}

/// What happens to the changes of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// It is in [`Lane::ready`].
    Ready,
    /// A command is in flight.
    Sent,
    /// A command has failed: it is in [`ClusterRoster::retries`].
    Waiting,
}

#[derive(Debug)]
struct Entry {
    name: ChannelName,
    place: Place,
    wanted: HashMap<Subject, Wanted>,
    /// The subjects to be sent, in order.
    changed: VecDeque<Subject>,
    phase: Phase,
    /// Commands that have failed in a row.
    failures: u32,
    /// Requests for seats in flight.
    requests: u32,
}

/// The purpose of a command in flight.
#[derive(Debug)]
enum Purpose {
    Change { entry: u32, subjects: Vec<Subject> },
    Seat { ticket: u64, entry: u32, id: ConnectionId },
}

/// The changes for one instance: one that is away does not delay those of others.
#[derive(Debug, Default)]
struct Lane {
    /// Entries with changes to send.
    ready: VecDeque<u32>,
    /// Commands with changes in flight.
    sent: usize,
}

/// See the module.
#[derive(Default)]
pub(super) struct ClusterRoster {
    entries: Slab<Entry>,
    names: HashMap<ChannelName, u32>,
    purposes: Slab<Purpose>,
    /// By instance.
    lanes: Vec<Lane>,
    /// Entries whose commands have failed, by the time at which they are repeated.
    retries: DueQueue,
    /// Entries to be listed again.
    again: VecDeque<u32>,
    /// Memory of subjects (bytes).
    subject_bytes: usize,
    /// Changes that are not confirmed.
    unconfirmed: usize,
    now_ms: u64,
}

const SUBJECT_BYTES: usize = size_of::<Subject>() + size_of::<Wanted>() + size_of::<MemberInfo>();

/// Returns the delay before a command is repeated that has failed this often (ms).
fn retry_delay_ms(failures: u32) -> u64 {
    RETRY_MS.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(RETRY_MAX_MS)
}

impl Wanted {
    /// A member that was not listed yet still replaces the one that it was to replace.
    fn keep_replaced(&mut self, before: &Self) {
        if let RosterChange::List { replaces: old @ Some(_), .. } = &before.change
            && before.state == State::Changed
            && let RosterChange::List { replaces: replaces @ None, .. } = &mut self.change
        {
            *replaces = *old;
        }
    }

    /// Whether the engine is to have something of it.
    fn is_listed(&self) -> bool {
        !matches!(self.change, RosterChange::Unlist { .. } | RosterChange::Unseat { .. })
    }
}

impl ClusterRoster {
    /// Sets the time (Unix, ms).
    pub(super) fn set_time(&mut self, now_ms: u64) {
        if now_ms < self.now_ms {
            // The clock was set back: nothing waits longer for that.
            let waiting = self.entries.iter().filter(|(_, own)| own.phase == Phase::Waiting);
            for (entry, own) in waiting {
                self.retries.set(entry as u32, now_ms + retry_delay_ms(own.failures));
            }
        }
        self.now_ms = now_ms;
    }

    fn entry_of(&mut self, name: &ChannelName, place: Place) -> u32 {
        if let Some(&entry) = self.names.get(name) {
            return entry;
        }
        let own = Entry {
            name: name.clone(),
            place,
            wanted: HashMap::new(),
            changed: VecDeque::new(),
            phase: Phase::Idle,
            failures: 0,
            requests: 0,
        };
        let entry = self.entries.insert(own) as u32;
        self.names.insert(name.clone(), entry);
        entry
    }

    fn want(&mut self, entry: u32, subject: Subject, change: RosterChange) {
        let own = &mut self.entries[entry as usize];
        let wanted = Wanted { change, state: State::Changed };
        let before = own.wanted.insert(subject.clone(), wanted);
        if let (Some(before), Some(now)) = (&before, own.wanted.get_mut(&subject)) {
            now.keep_replaced(before);
        }
        self.subject_bytes += if before.is_none() { SUBJECT_BYTES } else { 0 };
        if before.is_none_or(|before| before.state != State::Changed) {
            own.changed.push_back(subject);
            self.unconfirmed += 1;
        }
        self.make_ready(entry);
    }

    /// The engine has a seat, whatever was to be sent about it.
    fn know_seat(&mut self, entry: u32, id: ConnectionId) {
        let own = &mut self.entries[entry as usize];
        let (subject, change) = (Subject::Seat(id), RosterChange::Seat { id });
        let queued = own.changed.len();
        own.changed.retain(|one| *one != subject);
        self.unconfirmed -= queued - own.changed.len();
        let before = own.wanted.insert(subject, Wanted { change, state: State::Known });
        self.subject_bytes += if before.is_none() { SUBJECT_BYTES } else { 0 };
    }

    fn lane_mut(&mut self, instance: usize) -> &mut Lane {
        if self.lanes.len() <= instance {
            self.lanes.resize_with(instance + 1, Lane::default);
        }
        &mut self.lanes[instance]
    }

    fn make_ready(&mut self, entry: u32) {
        let own = &mut self.entries[entry as usize];
        if own.phase == Phase::Idle && !own.changed.is_empty() {
            own.phase = Phase::Ready;
            let instance = usize::from(own.place.instance);
            self.lane_mut(instance).ready.push_back(entry);
        }
    }

    /// Changes what is listed of a channel.
    pub(super) fn change(&mut self, name: &ChannelName, place: Place, change: RosterChange) {
        let subject = match &change {
            RosterChange::List { member, .. } | RosterChange::Relist { member } => {
                Subject::Member(member.key.clone())
            }
            RosterChange::Unlist { key } => Subject::Member(key.clone()),
            RosterChange::Seat { id } | RosterChange::Unseat { id } => Subject::Seat(*id),
        };
        let entry = self.entry_of(name, place);
        self.want(entry, subject, change);
    }

    /// Ends a connection's use of a seat, if it has one.
    pub(super) fn leave_seat(&mut self, name: &ChannelName, id: ConnectionId) {
        let Some(&entry) = self.names.get(name) else { return };
        let subject = Subject::Seat(id);
        if self.entries[entry as usize].wanted.contains_key(&subject) {
            self.want(entry, subject, RosterChange::Unseat { id });
        }
    }

    fn submit(
        &mut self,
        port: &mut dyn EnginePort,
        (channel, place): (ChannelName, Place),
        purpose: Purpose,
        action: Action,
    ) {
        let token = TOKEN | self.purposes.insert(purpose) as u64;
        let accepted = port.submit(EngineCommand { token, channel, place, action });
        assert!(accepted, "only appends are limited");
    }

    /// Takes a seat.
    pub(super) fn take_seat(
        &mut self,
        port: &mut dyn EnginePort,
        (name, place): (ChannelName, Place),
        ticket: u64,
        (id, replaces, seats_max): (ConnectionId, Option<ConnectionId>, u32),
    ) {
        let entry = self.entry_of(&name, place);
        let (own, subject) = (&mut self.entries[entry as usize], Subject::Seat(id));
        if own.wanted.get(&subject).is_some_and(|one| one.state == State::Changed) {
            // Whatever was to be sent about it is outdated.
            own.changed.retain(|one| *one != subject);
            own.wanted.remove(&subject);
            self.unconfirmed -= 1;
            self.subject_bytes -= SUBJECT_BYTES;
        }
        own.requests += 1;
        let purpose = Purpose::Seat { ticket, entry, id };
        self.submit(port, (name, place), purpose, Action::Seat { id, replaces, seats_max });
    }

    /// Sends changes that are ready.
    pub(super) fn flush(&mut self, port: &mut dyn EnginePort) {
        for instance in 0..self.lanes.len() {
            self.flush_lane(port, instance);
        }
    }

    fn flush_lane(&mut self, port: &mut dyn EnginePort, instance: usize) {
        while self.lanes[instance].sent < COMMANDS_MAX
            && let Some(entry) = self.lanes[instance].ready.pop_front()
        {
            let own = &mut self.entries[entry as usize];
            if own.changed.is_empty() {
                // What was to be sent has become outdated.
                own.phase = Phase::Idle;
                self.drop_unused(entry);
                continue;
            }
            own.phase = Phase::Sent;
            let count = own.changed.len().min(CHANGES_MAX);
            let subjects: Vec<_> = own.changed.drain(..count).collect();
            let mut changes = Vec::with_capacity(count);
            for subject in &subjects {
                let wanted = own.wanted.get_mut(subject).expect("what has changed is wanted");
                wanted.state = State::Sent;
                changes.push(wanted.change.clone());
            }
            self.lanes[instance].sent += 1;
            let channel = (own.name.clone(), own.place);
            let purpose = Purpose::Change { entry, subjects };
            self.submit(port, channel, purpose, Action::Change { changes });
        }
    }

    /// Processes an event of one of the roster's commands. Returns a completion for the home.
    pub(super) fn complete(&mut self, event: &EngineEvent) -> Option<Done> {
        let token = match event {
            EngineEvent::Changed { token }
            | EngineEvent::Seated { token, .. }
            | EngineEvent::Failed { token, .. } => *token,
            _ => return None,
        };
        let purpose = self.purposes.try_remove((token & !TOKEN) as usize)?;
        match (event, purpose) {
            (EngineEvent::Changed { .. }, Purpose::Change { entry, subjects }) => {
                self.note_change(entry, &subjects);
                None
            }
            (EngineEvent::Seated { has_seat, .. }, Purpose::Seat { ticket, entry, id }) => {
                self.entries[entry as usize].requests -= 1;
                if *has_seat {
                    self.know_seat(entry, id);
                }
                self.drop_unused(entry);
                Some(Done::Seated { ticket, has_seat: *has_seat })
            }
            (EngineEvent::Failed { retry_after_ms, .. }, purpose) => {
                self.fail(purpose, *retry_after_ms)
            }
            _ => unreachable!("the event of a command is of its kind"),
        }
    }

    fn note_change(&mut self, entry: u32, subjects: &[Subject]) {
        let own = &mut self.entries[entry as usize];
        self.lanes[usize::from(own.place.instance)].sent -= 1;
        (own.phase, own.failures) = (Phase::Idle, 0);
        self.unconfirmed -= subjects.len();
        for subject in subjects {
            // It may have changed since.
            let Some(wanted) = own.wanted.get_mut(subject) else { continue };
            if wanted.state != State::Sent {
                continue;
            }
            wanted.state = State::Known;
            if !wanted.is_listed() {
                own.wanted.remove(subject);
                self.subject_bytes -= SUBJECT_BYTES;
            } else if let RosterChange::Relist { member } = &wanted.change {
                // It has been reported; a repetition is none.
                wanted.change = RosterChange::List { member: member.clone(), replaces: None };
            }
        }
        self.make_ready(entry);
        self.drop_unused(entry);
    }

    fn drop_unused(&mut self, entry: u32) {
        let own = &self.entries[entry as usize];
        if own.wanted.is_empty() && own.phase == Phase::Idle && own.requests == 0 {
            let own = self.entries.remove(entry as usize);
            self.names.remove(&own.name);
        }
    }

    fn fail(&mut self, purpose: Purpose, retry_after_ms: Option<u32>) -> Option<Done> {
        match purpose {
            Purpose::Change { entry, subjects } => {
                let own = &mut self.entries[entry as usize];
                self.lanes[usize::from(own.place.instance)].sent -= 1;
                self.unconfirmed -= subjects.len();
                for subject in subjects {
                    if let Some(wanted) = own.wanted.get_mut(&subject)
                        && wanted.state == State::Sent
                    {
                        wanted.state = State::Changed;
                        own.changed.push_back(subject);
                        self.unconfirmed += 1;
                    }
                }
                (own.phase, own.failures) = (Phase::Waiting, own.failures.saturating_add(1));
                self.retries.set(entry, self.now_ms + retry_delay_ms(own.failures));
                None
            }
            Purpose::Seat { ticket, entry, id } => {
                self.entries[entry as usize].requests -= 1;
                // It may have been taken.
                self.want(entry, Subject::Seat(id), RosterChange::Unseat { id });
                Some(Done::Failed { ticket, retry_after_ms })
            }
        }
    }

    /// Repeats failed commands that are due.
    pub(super) fn repeat(&mut self) {
        while let Some(entry) = self.retries.pop_due(self.now_ms) {
            self.entries[entry as usize].phase = Phase::Idle;
            self.make_ready(entry);
            self.drop_unused(entry);
        }
    }

    /// Lists everything again that this node lists at an instance, or at all: some channels at a
    /// time, by [`Self::continue_listing`].
    pub(super) fn list_again(&mut self, instance: Option<u8>) {
        let is_of_it = |own: &Entry| instance.is_none_or(|one| own.place.instance == one);
        let entries = self.entries.iter().filter(|(_, own)| is_of_it(own));
        self.again.extend(entries.map(|(entry, _)| entry as u32));
        if self.again.len() > self.entries.len() {
            // Some are to be listed again already.
            let all: BTreeSet<_> = self.again.drain(..).collect();
            self.again.extend(all);
        }
    }

    /// Lists some of the channels again that [`Self::list_again`] has chosen.
    pub(super) fn continue_listing(&mut self, channels_max: usize) {
        for _ in 0..channels_max {
            let Some(entry) = self.again.pop_front() else { return };
            // It may have ended since.
            let Some(own) = self.entries.get_mut(entry as usize) else { continue };
            for (subject, wanted) in &mut own.wanted {
                if wanted.state != State::Changed {
                    wanted.state = State::Changed;
                    own.changed.push_back(subject.clone());
                    self.unconfirmed += 1;
                }
            }
            self.make_ready(entry);
        }
    }

    /// Returns whether [`Self::continue_listing`] has more to do.
    pub(super) fn is_listing_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// Returns when a failed command is repeated (Unix time, ms).
    pub(super) fn next_retry_ms(&self) -> Option<u64> {
        self.retries.next_ms()
    }

    /// Returns the number of changes that the engine has not confirmed.
    pub(super) fn unconfirmed(&self) -> usize {
        debug_assert_eq!(self.unconfirmed, self.count_unconfirmed(), "each change is counted");
        self.unconfirmed
    }

    /// Counts the changes that are queued or in flight.
    fn count_unconfirmed(&self) -> usize {
        let queued: usize = self.entries.iter().map(|(_, own)| own.changed.len()).sum();
        let sent = self.purposes.iter().map(|(_, purpose)| match purpose {
            Purpose::Change { subjects, .. } => subjects.len(),
            Purpose::Seat { .. } => 0,
        });
        queued + sent.sum::<usize>()
    }

    /// Returns its memory (bytes).
    pub(super) fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
            + self.names.capacity() * size_of::<(ChannelName, u32)>()
            + self.purposes.capacity() * size_of::<Purpose>()
            + self.retries.bytes()
            + self.again.capacity() * size_of::<u32>()
            + self.subject_bytes
    }
}

/// Returns the change that lists a member.
pub(super) fn list_change(
    member: &Arc<MemberInfo>,
    replaces: Option<ConnectionId>,
) -> RosterChange {
    // A user is the same member on all nodes.
    let replaces = replaces.filter(|_| matches!(member.key, MemberKey::Connection(_)));
    RosterChange::List { member: member.clone(), replaces }
}

#[cfg(test)]
mod tests;
