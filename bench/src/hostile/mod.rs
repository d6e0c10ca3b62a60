//! `hostile`: greedy clients, each of which keeps its connection as busy as the server allows,
//! beside well-behaved ones whose latency shows the effect.
//!
//! A worker drives the clients of one kind. A client sends its next batch as soon as the kernel has
//! taken the last one, so the server always has work from it. A client that the server closes or
//! rejects reconnects. At the end, clients that do not read receive everything that is queued, to
//! learn whether and how they were closed; then all connections are reset, so that the server need
//! not process the input that they have sent ahead.

mod kind;
mod supply;

pub use kind::{Help, Kind, Route};
pub use supply::Supply;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bystanders::Times;
use crate::client::{Fault, Stage};
use crate::crew::{Failure, Shared};
use crate::fleet::{Ending, Fleet, Load, Turn};
use crate::upgrade::UpgradeError;

/// How often a worker checks for events.
const POLL_NS: u64 = 2_000_000;
/// Delay before a closed client reconnects, so that a server that closes connections at once is not
/// flooded with handshakes instead.
const COMEBACK_NS: u64 = 50_000_000;
/// Large publications that fill the buffers of subscribers who do not read: more than the kernel's
/// and the server's for one connection.
const FILL_MESSAGES: u64 = 120;
/// Time between two batches of the steady publisher.
const STEADY_NS: u64 = 10_000_000;

/// One worker's part of the run.
#[derive(Debug, Clone, Copy)]
pub struct HostilePlan {
    pub kind: Kind,
    /// Greedy clients; helpers come after them.
    pub greedy: u32,
    /// Batches, or handshakes, of each client at most; 0 = no limit.
    pub batches_max: u64,
    /// Time in which clients that did not read may receive at the end.
    pub settle_ns: u64,
}

impl HostilePlan {
    pub fn slots(&self) -> u32 {
        self.greedy + self.kind.help().map_or(0, |(count, _)| count)
    }
}

/// Progress of the greedy clients of all workers.
#[derive(Debug, Default)]
pub struct Progress {
    /// Clients that were set up at least once.
    pub ready: AtomicUsize,
    /// Clients that have sent all their batches and, if they read, received an answer.
    pub done: AtomicUsize,
}

/// The results of one worker.
#[derive(Debug, Default)]
pub struct HostileResult {
    pub opened: u64,
    /// Batches that the kernel accepted, or handshakes completed.
    pub batches: u64,
    pub messages: u64,
    pub pongs: u64,
    /// How the server ended connections, by code or reason.
    pub ended: BTreeMap<String, u64>,
    /// Upgrades that were rejected, by HTTP status.
    pub rejected: BTreeMap<u16, u64>,
    pub still_open: u64,
    /// Lost helpers, without which the greedy clients may have had less effect.
    pub helpers_lost: u64,
}

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Reconnects from then on.
    Away {
        until_ns: u64,
    },
    Opening,
    /// Open, waiting for the messages before its batches.
    Prelude,
    Busy,
}

#[derive(Debug, Clone, Copy)]
struct Client {
    state: State,
    /// Messages and pongs of this connection.
    answers: u64,
    /// Batches of all its connections.
    batches: u64,
    is_ready: bool,
    is_done: bool,
}

/// The load of one worker.
pub struct Hostile {
    plan: HostilePlan,
    supply: Supply,
    shared: Arc<Shared>,
    times: Arc<Times>,
    progress: Arc<Progress>,
    clients: Vec<Client>,
    live: u32,
    /// Messages of the steady publisher, and when its next batch is due.
    filled: u64,
    steady_ns: u64,
    /// Time until which clients read the queued bytes.
    settled_ns: Option<u64>,
    is_closed: bool,
    result: HostileResult,
    failure: Option<Failure>,
}

impl Hostile {
    pub fn new(
        plan: HostilePlan,
        supply: Supply,
        shared: Arc<Shared>,
        times: Arc<Times>,
        progress: Arc<Progress>,
    ) -> Self {
        let client = Client {
            state: State::Away { until_ns: 0 },
            answers: 0,
            batches: 0,
            is_ready: false,
            is_done: false,
        };
        Self {
            plan,
            supply,
            shared,
            times,
            progress,
            clients: vec![client; plan.slots() as usize],
            live: 0,
            filled: 0,
            steady_ns: 0,
            settled_ns: None,
            is_closed: false,
            result: HostileResult::default(),
            failure: None,
        }
    }

    pub fn finish(self) -> Result<HostileResult, Failure> {
        self.failure.map_or(Ok(self.result), Err)
    }

    pub fn kind(&self) -> Kind {
        self.plan.kind
    }

    fn client(&mut self, slot: u32) -> &mut Client {
        &mut self.clients[slot as usize]
    }

    fn is_greedy(&self, slot: u32) -> bool {
        slot < self.plan.greedy
    }

    /// Whether the helpers have done what the greedy clients need.
    fn has_help(&self) -> bool {
        match self.plan.kind.help() {
            Some((_, Help::Fill | Help::Watch)) => {
                self.clients[self.plan.greedy as usize..].iter().all(|client| client.is_ready)
            }
            _ => true,
        }
    }

    /// Lets every client act.
    fn press_all(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        let has_help = self.has_help();
        for slot in 0..self.plan.slots() {
            match self.clients[slot as usize].state {
                State::Away { until_ns } if until_ns <= now_ns && !self.has_sent_all(slot) => {
                    self.client(slot).state = State::Opening;
                    self.live += 1;
                    fleet.open(slot, now_ns)?;
                }
                State::Busy if fleet.stage(slot) == Stage::Open => {
                    if fleet.is_cut(slot) {
                        fleet.resume(slot)?;
                    } else if self.is_greedy(slot) && has_help {
                        self.press(fleet, slot)?;
                    } else if !self.is_greedy(slot) {
                        self.help(fleet, slot, now_ns)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn has_sent_all(&self, slot: u32) -> bool {
        let most = self.plan.batches_max;
        most > 0 && self.clients[slot as usize].batches >= most
    }

    /// Sends a greedy client's next batch, if the last one is sent.
    fn press(&mut self, fleet: &mut Fleet, slot: u32) -> io::Result<()> {
        if fleet.is_sending(slot) {
            return Ok(());
        }
        if self.has_sent_all(slot) {
            self.note_done(slot);
            return Ok(());
        }
        let Some(batch) = self.supply.next_batch() else {
            self.note_done(slot);
            return Ok(());
        };
        self.client(slot).batches += 1;
        self.result.batches += 1;
        fleet.send_shared(slot, batch)
    }

    /// Counts a client that has sent its limit, once it has received its answers.
    fn note_done(&mut self, slot: u32) {
        let reads = !self.plan.kind.is_unread(slot);
        let prelude = self.plan.kind.prelude();
        if !reads || self.client(slot).answers > prelude {
            self.set_done(slot);
        }
    }

    fn set_done(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.client(slot).is_done, true) {
            self.progress.done.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Lets a helper act: only the publisher does more than to begin.
    fn help(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()> {
        let greedy = &self.clients[..self.plan.greedy as usize];
        let publishes = matches!(self.plan.kind.help(), Some((_, Help::Publish)));
        if !publishes || fleet.is_sending(slot) || !greedy.iter().all(|client| client.is_ready) {
            return Ok(());
        }
        let next = if self.filled < FILL_MESSAGES {
            self.filled += 1;
            self.supply.help_opening()
        } else if now_ns >= self.steady_ns {
            self.steady_ns = now_ns + STEADY_NS;
            self.supply.help_batch()
        } else {
            None
        };
        next.map_or(Ok(()), |frame| fleet.send_shared(slot, frame))
    }

    /// Starts a client that has received the messages before its batches.
    fn begin(&mut self, fleet: &mut Fleet, slot: u32) -> io::Result<()> {
        let is_greedy = self.is_greedy(slot);
        let kind = self.plan.kind;
        let prelude = match (is_greedy, kind.help()) {
            (true, _) => kind.prelude(),
            // The welcome, and the answer to its opening request.
            (false, Some((_, Help::Fill | Help::Watch))) => 2,
            (false, _) => 1,
        };
        let client = self.client(slot);
        if client.state != State::Prelude || client.answers < prelude {
            return Ok(());
        }
        client.state = State::Busy;
        let first = !std::mem::replace(&mut client.is_ready, true);
        if is_greedy {
            if first {
                self.progress.ready.fetch_add(1, Ordering::AcqRel);
            }
            if kind.is_unread(slot) {
                fleet.meter(slot)?;
            }
        }
        Ok(())
    }

    /// The end: reads all unread bytes, then resets all connections.
    fn wind_down(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn> {
        let poll_ns = now_ns + POLL_NS;
        let Some(settled_ns) = self.settled_ns else {
            self.settled_ns = Some(now_ns + self.plan.settle_ns);
            for slot in 0..self.plan.slots() {
                if self.plan.kind.is_unread(slot) && self.is_greedy(slot) {
                    fleet.resume(slot)?;
                } else {
                    self.drop_connection(fleet, slot)?;
                }
            }
            return Ok(Turn::Until(poll_ns));
        };
        if now_ns >= settled_ns && !std::mem::replace(&mut self.is_closed, true) {
            for slot in 0..self.plan.slots() {
                self.drop_connection(fleet, slot)?;
            }
        }
        Ok(if self.is_closed && self.live == 0 { Turn::Done } else { Turn::Until(poll_ns) })
    }

    fn drop_connection(&mut self, fleet: &mut Fleet, slot: u32) -> io::Result<()> {
        let stage = fleet.stage(slot);
        if stage == Stage::Free || stage >= Stage::Ending {
            return Ok(());
        }
        if stage == Stage::Open && self.is_greedy(slot) {
            self.result.still_open += 1;
        }
        fleet.abort(slot)
    }

    fn answered(&mut self, slot: u32, count: u32) {
        self.client(slot).answers += u64::from(count);
    }
}

impl Load for Hostile {
    fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn> {
        if self.shared.stopped() || self.failure.is_some() {
            return Ok(Turn::Done);
        }
        if Times::passed(&self.times.calm_ns, now_ns) {
            return self.wind_down(fleet, now_ns);
        }
        if Times::passed(&self.times.trouble_ns, now_ns) {
            self.press_all(fleet, now_ns)?;
        }
        Ok(Turn::Until(now_ns + POLL_NS))
    }

    fn opened(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()> {
        let kind = self.plan.kind;
        if kind.offer().is_some() && !fleet.is_deflated(slot) {
            let text = format!("{}: the server declined permessage-deflate", kind.name());
            self.failure = Some(Failure::Failed(text));
            self.shared.stop();
            return Ok(());
        }
        if kind.is_fleeting() {
            return self.pass_by(fleet, slot, now_ns);
        }
        let opening = if self.is_greedy(slot) {
            self.result.opened += 1;
            self.supply.opening()
        } else if matches!(kind.help(), Some((_, Help::Publish))) {
            None
        } else {
            self.supply.help_opening()
        };
        let client = self.client(slot);
        client.state = State::Prelude;
        client.answers = 0;
        if let Some(frame) = opening {
            fleet.send_shared(slot, frame)?;
        }
        self.begin(fleet, slot)
    }

    fn messages(&mut self, fleet: &mut Fleet, slot: u32, count: u32, _: u64) -> io::Result<()> {
        self.answered(slot, count);
        if self.is_greedy(slot) {
            self.result.messages += u64::from(count);
        }
        if self.settled_ns.is_some() { Ok(()) } else { self.begin(fleet, slot) }
    }

    fn ponged(&mut self, slot: u32, count: u32) {
        self.answered(slot, count);
        self.result.pongs += u64::from(count);
    }

    fn ended(&mut self, _: &mut Fleet, slot: u32, ending: Ending, now_ns: u64) -> io::Result<()> {
        self.live -= 1;
        let fleeting = self.plan.kind.is_fleeting();
        let is_rejected = matches!(ending, Ending::Lost(Fault::Refused(_)));
        let at_once = fleeting && (ending == Ending::Clean || is_rejected);
        let until_ns = if at_once { now_ns } else { now_ns + COMEBACK_NS };
        self.client(slot).state = State::Away { until_ns };
        if self.is_greedy(slot) && self.has_sent_all(slot) {
            self.set_done(slot);
        }
        let Ending::Lost(fault) = ending else { return Ok(()) };
        if !self.is_greedy(slot) {
            self.result.helpers_lost += 1;
            return Ok(());
        }
        if let Fault::Refused(UpgradeError::Status { code, .. }) = fault {
            *self.result.rejected.entry(code).or_default() += 1;
            if fleeting {
                self.count_handshake(slot);
            }
            return Ok(());
        }
        *self.result.ended.entry(fault.ending()).or_default() += 1;
        Ok(())
    }
}

impl Hostile {
    /// Ends a connection that was opened only for that.
    fn pass_by(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()> {
        self.result.opened += 1;
        self.count_handshake(slot);
        if self.result.opened.is_multiple_of(2) {
            fleet.abort(slot)
        } else {
            fleet.close(slot, now_ns)
        }
    }

    fn count_handshake(&mut self, slot: u32) {
        self.result.batches += 1;
        let client = self.client(slot);
        client.batches += 1;
        if !std::mem::replace(&mut client.is_ready, true) {
            self.progress.ready.fetch_add(1, Ordering::AcqRel);
        }
        if self.has_sent_all(slot) {
            self.set_done(slot);
        }
    }
}
