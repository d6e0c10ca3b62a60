//! The members of channels on one shard, and what is on its way to them.
//!
//! Members lie in a dense array, so that a fan-out walks memory in order. It may stop at a turn's
//! bound and continue in the next, while members come and go: those before the cursor have the
//! batch, those behind it do not, and removal keeps it so by moving at most two of them. Joins wait
//! in the channel's queue, behind what was published before.

use std::collections::VecDeque;
use std::sync::Arc;

use super::names::Names;
use super::position::Position;
use super::publication::Publication;
use super::{ChannelName, ConnectionId, Subscribed};

/// Publications handed to each member at once: those that wait when their turn comes.
const BATCH_MAX: usize = 64;

/// A channel whose members lag by so many publications is congested, until they lag by
/// [`BATCH_MAX`] or less: a fan-out goes fastest with full batches, and no faster with more.
const CONGESTED: usize = 4 * BATCH_MAX;

/// Queues whose memory is kept when they are empty, and the most that each may have room for.
const SPARE_QUEUES: usize = 16;
const SPARE_CAPACITY: usize = 64;

/// Up to here a channel has memory for the members it has, and no slack.
const FEW: usize = 4;

/// A session on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The key of its session on this shard.
    pub session: u32,
    /// Which of its subscriptions this is.
    pub subscription: u32,
}

/// A member has another index now: its subscription must record it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub member: Member,
    pub index: u32,
}

/// What is on its way to a channel's members, in order.
#[derive(Debug)]
pub enum ChannelOp {
    Publish(Arc<Publication>),
    /// To watchers.
    News(Arc<Publication>),
    /// A session becomes a member.
    Join {
        id: ConnectionId,
        request: u32,
        joined: Box<Subscribed>,
    },
    EpochChanged(Position),
    /// Publications were lost on the way, up to this one.
    Lagging(Position),
}

/// Part of a fan-out: publications for one member after the other.
#[derive(Debug)]
struct Fanout {
    publications: Vec<Arc<Publication>>,
    /// What they count for.
    bytes: usize,
    /// To watchers only.
    news: bool,
    /// Members before it are served.
    next: usize,
}

/// One channel's members here.
#[derive(Debug)]
pub struct Local {
    pub name: ChannelName,
    members: Vec<Member>,
    watchers: Vec<Member>,
    queue: VecDeque<ChannelOp>,
    fanout: Option<Fanout>,
    /// Listed in [`Members::ready`].
    ready: bool,
    /// More is published than can be delivered to its members here.
    congested: bool,
}

/// All channels with members on a shard.
///
/// Call in this order: [`Self::next_ready`] returns a channel, [`Self::begin_step`] its next step,
/// [`Self::begin_walk`] takes out a fan-out, which `Walk::serve` advances and [`Self::end_walk`]
/// puts back, and [`Self::rotate_ready`] gives other channels their turn.
#[derive(Debug, Default)]
pub struct Members {
    locals: slab::Slab<Local>,
    names: Names,
    /// The channel of the last publication: the next one often is of the same.
    recent: u32,
    ready: VecDeque<u32>,
    /// Bytes of publications that are queued or in a fan-out.
    queued_bytes: usize,
    /// Channels whose congestion has begun or ended.
    congestion_changes: Vec<(ChannelName, bool)>,
    /// Empty queues with memory. A channel at rest has none; a burst takes one from here instead of
    /// allocating it.
    spare_queues: Vec<VecDeque<ChannelOp>>,
    /// The list of the last fan-out, emptied: the next one reuses its memory.
    spare_batch: Vec<Arc<Publication>>,
}

/// Bytes that a publication counts for until its fan-out has ended.
fn queued_bytes_of(publication: &Publication) -> usize {
    size_of::<ChannelOp>() + publication.bytes()
}

impl Members {
    /// The shard's name for a channel.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.names.get(name)
    }

    /// A channel by the shard's name for it.
    pub fn get(&self, local: u32) -> Option<&Local> {
        self.locals.get(local as usize)
    }

    /// Number of channels with members or queued work.
    pub fn len(&self) -> usize {
        self.locals.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.locals.is_empty()
    }

    /// Bytes of publications that are queued or in a fan-out, each counted once: members share it.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Channels whose congestion has begun (`true`) or ended, in that order.
    pub fn take_congestion_changes(&mut self) -> Vec<(ChannelName, bool)> {
        std::mem::take(&mut self.congestion_changes)
    }

    /// Whether [`Self::take_congestion_changes`] has any.
    pub fn has_congestion_changes(&self) -> bool {
        !self.congestion_changes.is_empty()
    }

    /// Queues any work but a publication. For a channel without members only a join has an effect.
    pub fn push(&mut self, name: &ChannelName, op: ChannelOp) {
        let local = match self.names.get(name.as_str()) {
            Some(local) => local,
            None if matches!(op, ChannelOp::Join { .. }) => self.insert(name.clone()),
            None => return,
        };
        self.queue(local, op);
    }

    /// Queues a publication for the members of its channel, or a join or leave for its watchers.
    pub fn push_publication(&mut self, publication: Arc<Publication>, news: bool) {
        let Some(name) = &publication.channel else { return };
        let recent = self.locals.get(self.recent as usize);
        if recent.is_none_or(|own| !own.name.is_shared_with(name)) {
            let Some(local) = self.names.get(name.as_str()) else { return };
            self.recent = local;
        }
        let local = self.recent;
        self.queued_bytes += queued_bytes_of(&publication);
        let op = if news { ChannelOp::News(publication) } else { ChannelOp::Publish(publication) };
        self.queue(local, op);
    }

    fn queue(&mut self, local: u32, op: ChannelOp) {
        let own = &mut self.locals[local as usize];
        if own.queue.capacity() == 0
            && let Some(spare) = self.spare_queues.pop()
        {
            own.queue = spare;
        }
        own.queue.push_back(op);
        // Publishers learn of congestion above one bound and of its end below another, so that a
        // queue around a single bound would not send a message for each publication.
        if own.queue.len() > CONGESTED && !std::mem::replace(&mut own.congested, true) {
            self.congestion_changes.push((own.name.clone(), true));
        }
        if !std::mem::replace(&mut own.ready, true) {
            self.ready.push_back(local);
        }
    }

    fn insert(&mut self, name: ChannelName) -> u32 {
        let local = self.locals.insert(Local {
            name: name.clone(),
            members: Vec::new(),
            watchers: Vec::new(),
            queue: VecDeque::new(),
            fanout: None,
            ready: false,
            congested: false,
        });
        self.names.insert(name, local as u32);
        local as u32
    }

    /// Adds a member; returns its index, and its index among the watchers.
    pub fn add_member(&mut self, local: u32, member: Member, watch: bool) -> (u32, Option<u32>) {
        let own = &mut self.locals[local as usize];
        debug_assert!(own.fanout.is_none(), "members join between fan-outs");
        // Most channels have few members: a doubling list would take twice what they need.
        if own.members.len() < FEW {
            own.members.reserve_exact(1);
        }
        own.members.push(member);
        let watcher_index = watch.then(|| {
            own.watchers.push(member);
            own.watchers.len() as u32 - 1
        });
        (own.members.len() as u32 - 1, watcher_index)
    }

    /// Removes a member or a watcher, by its index. Reports to `moved` each other one whose index
    /// has changed. During a fan-out no member is served twice or skipped because of it.
    pub fn remove(&mut self, local: u32, index: u32, is_news: bool, mut moved: impl FnMut(Moved)) {
        let own = &mut self.locals[local as usize];
        let served = own.fanout.as_mut().filter(|fanout| fanout.news == is_news);
        let list = if is_news { &mut own.watchers } else { &mut own.members };
        let mut hole = index as usize;
        assert!(hole < list.len(), "the index is that of a member");
        if let Some(fanout) = served.filter(|fanout| hole < fanout.next) {
            // Served members are before `next`. The last of them fills the hole, so that the end
            // of the list, which fills the second hole, lies at `next`: it is yet to be served.
            fanout.next -= 1;
            if hole != fanout.next {
                list[hole] = list[fanout.next];
                moved(Moved { member: list[hole], index: hole as u32 });
            }
            hole = fanout.next;
        }
        list.swap_remove(hole);
        if let Some(member) = list.get(hole) {
            moved(Moved { member: *member, index: hole as u32 });
        }
        self.drop_if_unused(local);
    }

    /// Changes the number under which a connection stores its subscription.
    pub fn renumber(
        &mut self,
        local: u32,
        member_index: u32,
        watcher_index: Option<u32>,
        subscription: u32,
    ) {
        let own = &mut self.locals[local as usize];
        own.members[member_index as usize].subscription = subscription;
        if let Some(index) = watcher_index {
            own.watchers[index as usize].subscription = subscription;
        }
    }

    /// Drops the channel if it has neither members nor work.
    fn drop_if_unused(&mut self, local: u32) {
        let own = &self.locals[local as usize];
        if own.members.is_empty() && own.queue.is_empty() && !own.ready {
            let own = self.locals.remove(local as usize);
            self.names.remove(own.name.as_str());
        }
    }

    /// The next channel with work.
    pub fn next_ready(&mut self) -> Option<u32> {
        self.ready.front().copied()
    }

    /// Whether any channel has work.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Begins the channel's next step. A fan-out is only begun, and advances in a `Walk`; any
    /// other step is returned whole. `None`: no work is left.
    pub fn begin_step(&mut self, local: u32) -> Option<Step> {
        let own = &mut self.locals[local as usize];
        if own.fanout.is_some() {
            return Some(Step::Fanout);
        }
        let news = match own.queue.front() {
            Some(ChannelOp::Publish(_)) => false,
            Some(ChannelOp::News(_)) => true,
            Some(_) => {
                let op = own.queue.pop_front();
                self.check_congestion(local);
                return op.map(Step::Op);
            }
            None => {
                // The queue is empty: the channel leaves the list, and gives its memory back.
                own.ready = false;
                let spare = std::mem::take(&mut own.queue);
                if self.spare_queues.len() < SPARE_QUEUES && spare.capacity() <= SPARE_CAPACITY {
                    self.spare_queues.push(spare);
                }
                debug_assert_eq!(self.ready.front(), Some(&local), "the front one has its turn");
                self.ready.pop_front();
                self.drop_if_unused(local);
                return None;
            }
        };
        // All publications up to the next step of another kind go out together: each member's
        // outbox is then found, checked and flushed once for all of them.
        let mut publications = std::mem::take(&mut self.spare_batch);
        debug_assert!(publications.is_empty(), "the last fan-out emptied it");
        while publications.len() < BATCH_MAX {
            let same = own.queue.pop_front_if(|op| match op {
                ChannelOp::Publish(_) => !news,
                ChannelOp::News(_) => news,
                _ => false,
            });
            match same {
                Some(ChannelOp::Publish(one) | ChannelOp::News(one)) => publications.push(one),
                _ => break,
            }
        }
        let bytes = publications.iter().map(|one| queued_bytes_of(one)).sum();
        own.fanout = Some(Fanout { publications, bytes, news, next: 0 });
        self.check_congestion(local);
        Some(Step::Fanout)
    }

    /// Reports the end of a channel's congestion once its queue is short again.
    fn check_congestion(&mut self, local: u32) {
        let own = &mut self.locals[local as usize];
        if own.queue.len() <= BATCH_MAX && std::mem::take(&mut own.congested) {
            self.congestion_changes.push((own.name.clone(), false));
        }
    }

    /// Takes out the channel's fan-out, so that the walk may change anything else. Until
    /// [`Self::end_walk`] the channel must not be used. `None`: there is no fan-out.
    pub fn begin_walk(&mut self, local: u32) -> Option<Walk> {
        let own = &mut self.locals[local as usize];
        let fanout = own.fanout.take()?;
        let list = std::mem::take(if fanout.news { &mut own.watchers } else { &mut own.members });
        debug_assert!(fanout.next <= list.len(), "removals move the cursor with the members");
        Some(Walk { fanout, list })
    }

    /// Puts the channel's fan-out back. Returns whether it has ended.
    pub fn end_walk(&mut self, local: u32, walk: Walk) -> bool {
        let own = &mut self.locals[local as usize];
        let Walk { mut fanout, list } = walk;
        let has_ended = fanout.next == list.len();
        *(if fanout.news { &mut own.watchers } else { &mut own.members }) = list;
        if has_ended {
            debug_assert!(fanout.bytes <= self.queued_bytes, "counted when they were queued");
            self.queued_bytes -= fanout.bytes;
            fanout.publications.clear();
            self.spare_batch = fanout.publications;
        } else {
            own.fanout = Some(fanout);
        }
        has_ended
    }

    /// Moves the channel that is ready first behind the others.
    pub fn rotate_ready(&mut self) {
        if let Some(local) = self.ready.pop_front() {
            self.ready.push_back(local);
        }
    }
}

/// A fan-out and its receivers, taken out of [`Members`].
#[derive(Debug)]
pub struct Walk {
    fanout: Fanout,
    list: Vec<Member>,
}

impl Walk {
    /// Number of publications.
    pub fn batch(&self) -> usize {
        self.fanout.publications.len()
    }

    /// Number of receivers, served or not.
    pub fn receivers(&self) -> usize {
        self.list.len()
    }

    /// Continues for at most `members_max` members. Calls `serve` with each member, and with
    /// whether it is the last. Returns the number served.
    pub fn serve(
        &mut self,
        members_max: usize,
        mut serve: impl FnMut(Member, &[Arc<Publication>], bool),
    ) -> usize {
        let from = self.fanout.next.min(self.list.len());
        let end = self.list.len().min(from + members_max);
        for (at, member) in (from..).zip(&self.list[from..end]) {
            serve(*member, &self.fanout.publications, at + 1 == self.list.len());
        }
        self.fanout.next = end;
        end - from
    }
}

impl Local {
    /// All members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }
}

/// The next step of a ready channel.
#[derive(Debug)]
pub enum Step {
    /// A fan-out, for [`Members::begin_walk`].
    Fanout,
    /// A step that the caller carries out at once.
    Op(ChannelOp),
}
