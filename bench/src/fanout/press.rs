//! Schedules publishers: pace, numbers, and unacknowledged batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hdrhistogram::Histogram;

use super::tag::Tag;
use super::{Board, FanoutPlan, Pace};
use crate::crew::Shared;
use crate::recorder::nanoseconds;
use crate::schedule::Schedule;

/// How often a publisher that waits for deliveries checks.
const WINDOW_POLL_NS: u64 = 100_000;
/// How often a publisher checks that waits for acknowledgements, which wake it.
const ACK_POLL_NS: u64 = 2_000_000;

/// Messages of one publisher that are sent together.
#[derive(Debug)]
pub struct Batch {
    pub publisher: u32,
    /// Each message with its channel.
    pub messages: Vec<(u32, Vec<u8>)>,
}

/// Totals of publishers.
#[derive(Debug)]
pub struct Pressed {
    /// The first of the publishers, and messages sent by each.
    pub first: u32,
    pub sent: Vec<u64>,
    /// Messages not acknowledged, if the server acknowledges.
    pub unacknowledged: u64,
    /// Messages that the server refused, and its first reason.
    pub refused: u64,
    pub refusal: Option<String>,
    /// Delay of sends after they were due (open loop).
    pub lag: Histogram<u64>,
}

/// The publishers `first..first + count` of a run.
pub struct Press {
    plan: FanoutPlan,
    board: Arc<Board>,
    shared: Arc<Shared>,
    count: u32,
    /// Their share of an open loop's messages.
    share: (usize, usize),
    schedule: Option<Schedule>,
    from_ns: u64,
    until_ns: u64,
    next: u32,
    in_flight: Vec<u64>,
    pressed: Pressed,
}

impl Press {
    pub fn new(
        plan: FanoutPlan,
        (first, count): (u32, u32),
        share: (usize, usize),
        board: Arc<Board>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            plan,
            board,
            shared,
            count,
            share,
            schedule: None,
            from_ns: 0,
            until_ns: 0,
            next: 0,
            in_flight: vec![0; count as usize],
            pressed: Pressed {
                first,
                sent: vec![0; count as usize],
                unacknowledged: 0,
                refused: 0,
                refusal: None,
                lag: nanoseconds(),
            },
        }
    }

    pub fn plan(&self) -> &FanoutPlan {
        &self.plan
    }

    /// Starts the load.
    pub fn begin(&mut self, start_ns: u64) {
        self.from_ns = start_ns + self.plan.warmup_ns;
        self.until_ns = self.from_ns + self.plan.duration_ns;
        if let Pace::Open { rate } = self.plan.pace {
            self.schedule = Some(Schedule::new(start_ns, rate, self.share.0, self.share.1));
        }
    }

    /// Takes the next batch, if one is due.
    pub fn take(&mut self, now_ns: u64) -> Option<Batch> {
        let (publisher, due_ns) = match (self.plan.pace, &mut self.schedule) {
            (Pace::Open { .. }, Some(schedule)) => {
                if schedule.next_ns() >= self.until_ns {
                    return None;
                }
                let due_ns = schedule.take(now_ns)?;
                // The rate counts messages: those of a batch are due with its first.
                for _ in 1..self.plan.batch {
                    schedule.take(u64::MAX);
                }
                if due_ns >= self.from_ns {
                    self.pressed.lag.saturating_record(now_ns - due_ns);
                }
                (self.turn(), due_ns)
            }
            (Pace::Closed { depth, window }, _) if now_ns < self.until_ns => {
                (self.free_one(depth, window)?, now_ns)
            }
            _ => return None,
        };
        Some(self.write(publisher, due_ns))
    }

    fn turn(&mut self) -> u32 {
        let own = self.next;
        self.next = (own + 1) % self.count;
        own
    }

    /// Finds a publisher that may send in a closed loop.
    fn free_one(&mut self, depth: u32, window: u64) -> Option<u32> {
        if window > 0 {
            let missing = self.board.expected().saturating_sub(self.shared.done_sum());
            let each = u64::from(self.plan.subscribers / self.plan.channels).max(1);
            if missing >= window * each {
                return None;
            }
        }
        let most = u64::from(depth) * u64::from(self.plan.batch);
        for _ in 0..self.count {
            let own = self.turn();
            let waiting = self.in_flight[own as usize];
            let acknowledged = self.plan.dialect.acknowledges();
            if !acknowledged || waiting + u64::from(self.plan.batch) <= most {
                return Some(own);
            }
        }
        None
    }

    fn write(&mut self, own: u32, due_ns: u64) -> Batch {
        let plan = self.plan;
        let publisher = self.pressed.first + own;
        let sent = &mut self.pressed.sent[own as usize];
        let mut expected = 0;
        let messages = (0..plan.batch).map(|_| {
            let channel = plan.channel_of(publisher, *sent);
            let number = plan.number_of(*sent);
            *sent += 1;
            expected += plan.members_of(channel);
            let mut content = Vec::with_capacity(plan.size as usize);
            let tag = Tag { channel, publisher, number, due_ns };
            tag.content(plan.size as usize, &mut content);
            (channel, content)
        });
        let messages: Vec<_> = messages.collect();
        self.in_flight[own as usize] += u64::from(plan.batch);
        self.board.published.fetch_add(plan.batch.into(), Ordering::AcqRel);
        self.board.expected.fetch_add(expected, Ordering::AcqRel);
        Batch { publisher: own, messages }
    }

    /// The next time at which a batch may be due without an acknowledgement.
    pub fn next_ns(&self, now_ns: u64) -> u64 {
        match (&self.schedule, self.plan.pace) {
            (Some(schedule), _) => schedule.next_ns().min(self.until_ns),
            (None, Pace::Closed { window: 1.., .. }) => now_ns + WINDOW_POLL_NS,
            _ => now_ns + ACK_POLL_NS,
        }
    }

    /// Whether all messages are sent.
    pub fn is_over(&self, now_ns: u64) -> bool {
        self.until_ns != 0 && now_ns >= self.until_ns
    }

    /// Records messages of a publisher that the server acknowledged.
    pub fn acknowledged(&mut self, own: u32, count: u64) {
        let waiting = &mut self.in_flight[own as usize];
        *waiting = waiting.saturating_sub(count);
    }

    /// Records messages that the server refused.
    pub fn refused(&mut self, own: u32, count: u64, text: &[u8]) {
        self.acknowledged(own, count);
        self.shared.error();
        self.pressed.refused += count;
        self.pressed
            .refusal
            .get_or_insert_with(|| String::from_utf8_lossy(&text[..text.len().min(200)]).into());
    }

    pub fn finish(mut self) -> Pressed {
        if self.plan.dialect.acknowledges() {
            self.pressed.unacknowledged = self.in_flight.iter().sum();
        }
        self.pressed
    }
}
