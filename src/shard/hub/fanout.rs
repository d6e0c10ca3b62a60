//! Publications go out: channel by channel to members, from there to outboxes.
//!
//! A member without a send under way and with nothing waiting gets a reference to the frame put
//! into its outbox, which leaves with the turn. For any other it waits in the backlog, where the
//! channel's policy for slow readers acts, until the connection's next send is built.
//!
//! Frames are counted references. Where a channel has many members on this shard, its frame is
//! copied once here: cores that count the same reference slow each other down.

use std::sync::Arc;

use super::backlog::{Backlog, Item, account};
use super::mail::Reached;
use super::{Broadcast, HubState};
use crate::auth::SlowReader;
use crate::hub::{ChannelName, Member, Op, Position, Publication, Step};
use crate::proto::ws::deflate::WINDOW_BITS_MIN;
use crate::session::hub::reply;
use crate::shard::compression::{Reply, compress_waiting};
use crate::shard::core::Core;
use crate::shard::slot::Stage;

/// Members from which on a frame is copied for this shard.
const COPY_MEMBERS: usize = 8;
/// As the time of acceptance: the delivery is not recorded in the histogram.
const NOT_MEASURED: u64 = 0;
/// Forms of a frame: plain, and one for each window.
const FORMS: usize = 8;

/// How a member is served.
#[derive(Clone, Copy)]
struct Serving {
    /// Frames are copied for this shard.
    copied: bool,
    /// It is the last one of the shard.
    last: bool,
}

/// A publication's frames, as this walk has needed them.
type Forms = [Option<Arc<[u8]>>; FORMS];

impl Core {
    /// Hands publications to members, as many as a turn may.
    pub(super) fn fan_out(&mut self) {
        let mut budget = self.config.engine.turn_fanout_max as usize;
        while budget > 0 {
            let Some(hub) = &mut self.hub else { return };
            let Some(local) = hub.members.next_ready() else { return };
            match hub.members.step(local) {
                None => {}
                Some(Step::Fanout) => {
                    budget = budget.saturating_sub(self.walk(local, budget).max(1));
                    if let Some(hub) = &mut self.hub {
                        hub.members.rotate();
                    }
                }
                Some(Step::Op(op)) => {
                    budget -= 1;
                    self.channel_op(local, op);
                }
            }
        }
    }

    /// Closes readers that were too slow for their channel's policy. Not in the middle of a walk:
    /// members must not leave what is being walked.
    pub(super) fn close_condemned(&mut self) {
        let Some(hub) = &mut self.hub else { return };
        for index in std::mem::take(&mut hub.condemned) {
            let lives = self.hub.as_ref().is_some_and(|hub| hub.seated(index).is_some());
            if lives {
                self.close_slow_reader(index);
            }
            if let Some(hub) = &mut self.hub {
                hub.touched.push(index);
            }
        }
    }

    /// Serves members; returns how many deliveries that were.
    fn walk(&mut self, local: u32, budget: usize) -> usize {
        let Some(hub) = &mut self.hub else { return 0 };
        let mut members = std::mem::take(&mut hub.members);
        let mut forms: Vec<Forms> = Vec::new();
        let mut deliveries = 0;
        let (batch, many) = members.under_way(local);
        let members_max = (budget / batch.max(1)).max(1);
        let (_, ended) = members.walk(local, members_max, |member, publications, last| {
            forms.resize_with(publications.len(), Forms::default);
            deliveries += publications.len();
            let how = Serving { copied: many >= COPY_MEMBERS, last };
            self.serve(member, publications, &mut forms, how);
        });
        debug_assert!(ended || members_max > 0, "a walk goes on");
        if let Some(hub) = &mut self.hub {
            hub.members = members;
        }
        deliveries
    }

    fn serve(
        &mut self,
        member: Member,
        publications: &[Arc<Publication>],
        forms: &mut [Forms],
        how: Serving,
    ) {
        for (publication, forms) in publications.iter().zip(forms) {
            let id =
                self.hub.as_ref().and_then(|hub| hub.seated(member.slot)).map(|s| s.session.id);
            if id.is_none() || (publication.exclude.is_some() && publication.exclude == id) {
                continue;
            }
            if self.is_ready_for(member.slot) {
                let frame = self.form(member.slot, publication, forms, how.copied);
                self.put(member.slot, frame, publication.accepted_ns, how.last);
            } else {
                self.queue_behind(member.slot, publication.clone());
            }
        }
    }

    /// Whether a frame may go into the connection's outbox now.
    fn is_ready_for(&self, index: u32) -> bool {
        let Some(seated) = self.hub.as_ref().and_then(|hub| hub.seated(index)) else {
            return false;
        };
        let slot = &self.slots[index as usize];
        let Stage::Open(receiver) = &slot.stage else { return false };
        let most = self.config.engine.send_bytes_max as usize;
        seated.backlog.is_none()
            && !seated.session.is_resuming()
            && receiver.sending().is_none_or(|sending| sending.context.is_none())
            && !slot.lending
            && slot.outbox.as_ref().is_none_or(|outbox| {
                !outbox.is_sending() && !outbox.has_later() && outbox.bytes() < most
            })
    }

    /// The publication's frame for a connection.
    fn form(
        &mut self,
        index: u32,
        publication: &Publication,
        forms: &mut Forms,
        copied: bool,
    ) -> Arc<[u8]> {
        let how = self.compressing(index);
        let message = publication.message();
        let how = how.filter(|how| message.payload().len() >= how.bytes_min);
        let place = how.map_or(0, |how| usize::from(how.sending.bits - WINDOW_BITS_MIN) + 1);
        if how.is_none_or(|how| how.sending.context.is_none())
            && let Some(frame) = &forms[place]
        {
            return frame.clone();
        }
        let frame = match how {
            Some(how) => message.frame(how.sending, how.level, &mut self.deflaters),
            None => message.plain(),
        };
        let own = if copied { Arc::from(&**frame) } else { frame.clone() };
        forms[place].insert(own).clone()
    }

    /// How messages to a connection are compressed.
    fn compressing(&self, index: u32) -> Option<Reply> {
        let slot = &self.slots[index as usize];
        let Stage::Open(receiver) = &slot.stage else { return None };
        let route = &self.config.route_options[usize::from(slot.route)];
        Reply::new(receiver.sending(), route)
    }

    /// Queues a frame in a connection's outbox.
    fn put(&mut self, index: u32, frame: Arc<[u8]>, accepted_ns: u64, last: bool) {
        let (now_ns, tick) = (self.now_ns, self.tick);
        let measured = self.histograms.is_on() && accepted_ns > 0;
        let slot = &mut self.slots[index as usize];
        let outbox = slot.outbox.get_or_insert_with(|| {
            let mut outbox = self.pools.outbox();
            outbox.progress_tick = tick;
            outbox
        });
        self.gauges.outbox_bytes += frame.len() as u64;
        outbox.shared(frame);
        if measured {
            outbox.mark_delivery(accepted_ns.min(now_ns), last);
        }
        slot.messages_sent = slot.messages_sent.saturating_add(1);
        self.counters.messages_sent += 1;
        if !slot.dirty && !slot.lending && !outbox.is_sending() {
            slot.dirty = true;
            self.dirty.push(index);
        }
        self.counters.deliveries += 1;
    }

    /// Queues a publication for a connection that is behind, and drops older messages where the
    /// policies of their channels allow it. A connection whose queue cannot be made short enough is
    /// to be closed as a slow consumer.
    fn queue_behind(&mut self, index: u32, publication: Arc<Publication>) {
        let most = self.config.limits.outbox_high_bytes;
        let slot = &self.slots[index as usize];
        let queued = slot.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        let held = self.hub.as_ref().and_then(|hub| hub.seated(index)?.backlog.as_ref());
        let crowded = self.crowds(queued + held.map_or(0, |backlog| backlog.bytes()));
        let Some(hub) = &mut self.hub else { return };
        let HubState { sessions, shared, .. } = &mut **hub;
        let Some(Some(seated)) = sessions.get_mut(index as usize) else { return };
        let backlog = seated.backlog.get_or_insert_default();
        let before = backlog.size();
        let channel = publication.channel.clone();
        backlog.push(Item::Message(publication));
        let is_long = |backlog: &Backlog| {
            backlog.bytes() + queued > most || (crowded && backlog.bytes() > most / 16)
        };
        let mut close = false;
        if is_long(backlog) {
            let namespaces = &shared.realm.namespaces;
            let policy = |channel: &ChannelName| {
                namespaces.find(channel.as_str()).unwrap_or(namespaces.granted()).slow_reader
            };
            let (mut latest, mut oldest) = (0, 0);
            if let Some(channel) = channel.filter(|one| policy(one) == SlowReader::Latest) {
                latest = backlog.keep_newest(&channel);
            }
            while is_long(backlog) && !close {
                let dropped = backlog.drop_oldest(|one| policy(one) != SlowReader::Close);
                oldest += u32::from(dropped);
                close = !dropped;
            }
            self.counters.dropped_latest += u64::from(latest);
            self.counters.dropped_oldest += u64::from(oldest);
            seated.session.dropped = seated.session.dropped.saturating_add(latest + oldest);
        }
        account(&mut self.gauges, before, backlog.size());
        let waiting = (backlog.bytes() + queued) as u64;
        self.gauges.outbox_bytes_peak = self.gauges.outbox_bytes_peak.max(waiting);
        if close {
            hub.condemned.push(index);
        }
        self.mark_dirty(index);
    }

    /// Has the connection's send built at the end of the turn, if none is under way.
    pub(super) fn mark_dirty(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let sending = slot.outbox.as_ref().is_some_and(|outbox| outbox.is_sending());
        if !slot.dirty && !slot.lending && !sending {
            slot.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Before a connection's send is built: fills its outbox with what waits, behind what is still
    /// to be compressed. Does nothing while a send is under way.
    pub(in crate::shard) fn refill(&mut self, index: u32, bytes_max: usize) {
        let slot = &mut self.slots[index as usize];
        if slot.lending || slot.outbox.as_ref().is_some_and(|outbox| outbox.is_sending()) {
            return;
        }
        let level = self.config.route_options[usize::from(slot.route)].compression_level;
        let parts = (&mut self.deflaters, &mut self.pools, &mut self.gauges);
        compress_waiting(slot, level, bytes_max, parts);
        self.feed(index, bytes_max);
    }

    /// Moves what waits for a connection into its outbox, up to so many bytes there.
    pub(in crate::shard) fn feed(&mut self, index: u32, bytes_max: usize) {
        let segments_max = match bytes_max {
            usize::MAX => usize::MAX,
            _ => self.config.engine.send_segments_max as usize,
        };
        let mut segments = 0;
        while segments < segments_max {
            let slot = &self.slots[index as usize];
            if !matches!(slot.stage, Stage::Open(_))
                || slot.outbox.as_ref().is_some_and(|o| o.has_later() || o.bytes() >= bytes_max)
            {
                return;
            }
            let Some(seated) = self.hub.as_mut().and_then(|hub| hub.seated_mut(index)) else {
                return;
            };
            if seated.session.is_resuming() {
                return;
            }
            let Some(backlog) = &mut seated.backlog else { return };
            let before = backlog.size();
            let Some(item) = backlog.pop() else {
                seated.backlog = None;
                return;
            };
            account(&mut self.gauges, before, backlog.size());
            segments += 1;
            match item {
                Item::Message(publication) => {
                    let frame = self.form(index, &publication, &mut Forms::default(), false);
                    self.put(index, frame, publication.accepted_ns, false);
                }
                Item::Missed(publication) => {
                    let frame = self.form(index, &publication, &mut Forms::default(), false);
                    // How long its reader was away is not how long a delivery takes.
                    self.put(index, frame, NOT_MEASURED, false);
                }
                Item::Gap(channel, position) => {
                    self.say(index, reply::gap(channel.as_str(), position, "slow"));
                }
                Item::Notice(_, text) => self.say(index, text.into()),
            }
        }
    }

    /// Anything but a publication in a channel's queue.
    fn channel_op(&mut self, local: u32, op: Op) {
        let channel = match self.hub.as_ref().and_then(|hub| hub.members.get(local)) {
            Some(own) => own.name.clone(),
            None => return,
        };
        match op {
            Op::Join { id, request, answer } => {
                self.join(local, (id, request), &channel, answer);
            }
            Op::EpochChanged(position) => self.gap_for_all(local, &channel, position, "epoch"),
            Op::Lagging(position) => self.gap_for_all(local, &channel, position, "lagging"),
            Op::Publish(_) | Op::News(_) => {}
        }
    }

    /// Tells all members that messages are missing. Rare: not divided into turns.
    fn gap_for_all(&mut self, local: u32, channel: &ChannelName, position: Position, why: &str) {
        let Some(own) = self.hub.as_ref().and_then(|hub| hub.members.get(local)) else { return };
        let slots: Vec<u32> = own.members().iter().map(|member| member.slot).collect();
        for index in slots {
            let text = reply::gap(channel.as_str(), position, why);
            let Some(seated) = self.hub.as_mut().and_then(|hub| hub.seated_mut(index)) else {
                continue;
            };
            let backlog = seated.backlog.get_or_insert_default();
            let before = backlog.size();
            backlog.push(Item::Notice(channel.clone(), text.into()));
            account(&mut self.gauges, before, backlog.size());
            self.mark_dirty(index);
        }
    }

    /// Goes on with what is sent to, or done with, all connections.
    pub(super) fn broadcast_on(&mut self) {
        let budget = self.config.engine.turn_fanout_max as usize;
        let Some(hub) = &mut self.hub else { return };
        let Some(mut one) = hub.broadcasts.pop_front() else { return };
        let end = hub.sessions.len().min(one.next_slot + budget);
        for index in one.next_slot..end {
            one.reached += u64::from(self.act_on(index as u32, &one.act));
        }
        one.next_slot = end;
        let Some(hub) = &mut self.hub else { return };
        if end < hub.sessions.len() {
            return hub.broadcasts.push_front(one);
        }
        let Broadcast { reached, reply, .. } = one;
        if let Some(reply) = reply {
            // Nobody waits any more if this fails.
            let _ = reply.send(Reached { count: reached, refused: None });
        }
    }

    /// Sends a publication to one connection, whatever it has subscribed to.
    pub(super) fn send_direct(&mut self, index: u32, publication: &Arc<Publication>) {
        if self.is_ready_for(index) {
            let frame = self.form(index, publication, &mut Forms::default(), false);
            self.put(index, frame, publication.accepted_ns, false);
        } else {
            self.queue_behind(index, publication.clone());
        }
    }
}
