//! Tests of the room: questions for them, and a desk whose driver keeps what it has to do.

mod breaker;
mod cache;
mod codec;
mod desk;
mod faults;
mod model;

use std::sync::Arc;

use super::answer::{CallAnswer, HookAnswer, HookOutcome};
use super::desk::HookDesk;
use super::question::{Asker, ConnectQuestion, HookQuestion, HookTicket};
use super::traffic::{HookAction, HookCall, HookLimits, HookResult};
use crate::auth::OnFailure;
use crate::driver::Token;
use crate::hub::{ChannelName, ConnectionId};

/// The Unix time of all responses (s).
const UNIX_S: u64 = 1_800_000_000;

fn ticket(number: u32) -> HookTicket {
    HookTicket { shard: 0, token: Token { slot: number, generation: 1 }, request: number }
}

fn asker(user: Option<&str>) -> Asker {
    let connection = ConnectionId { node: 1, shard: 2, session: 3, serial: 4 };
    Asker { connection, user: user.map(Arc::from), info: None }
}

fn connect(target: &str) -> HookQuestion {
    let headers = vec![("cookie".into(), "a=1".into())];
    HookQuestion::Connect(ConnectQuestion { target: target.into(), address: None, headers })
}

fn subscribe(user: Option<&str>, channel: &str) -> HookQuestion {
    HookQuestion::Subscribe { asker: asker(user), channel: ChannelName::new(channel) }
}

fn publish(content: &str, on_failure: OnFailure) -> HookQuestion {
    let (channel, content) = (ChannelName::new("news"), content.into());
    HookQuestion::Publish { asker: asker(Some("ann")), channel, content, key: None, on_failure }
}

fn call(method: &str) -> HookQuestion {
    HookQuestion::Call { asker: asker(None), method: method.into(), content: "1".into() }
}

fn response(status: u16, body: &str) -> HookResult {
    HookResult::Response { status, body: body.into(), retry_after_s: None, unix_s: UNIX_S }
}

fn ok(body: &str) -> HookResult {
    response(200, body)
}

fn content(json: &str) -> HookOutcome {
    HookOutcome::Answered(HookAnswer::Call(CallAnswer::Content(json.into())))
}

/// A request that the driver was to send.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SentRequest {
    call: HookCall,
    id: String,
    body: String,
    deadline_ms: u64,
}

/// A desk, its time, and what it wanted of its driver.
struct Rig {
    desk: HookDesk,
    now_ms: u64,
    sent: Vec<SentRequest>,
    ended: Vec<(HookTicket, HookOutcome)>,
}

impl Rig {
    fn new(limits: HookLimits) -> Self {
        let desk = HookDesk::new(limits, "app", "node", 7);
        Self { desk, now_ms: 5000, sent: Vec::new(), ended: Vec::new() }
    }

    fn drain(&mut self) {
        while let Some(action) = self.desk.next_action() {
            match action {
                HookAction::Send { call, id, body, deadline_ms } => {
                    let body = String::from_utf8(body).unwrap();
                    self.sent.push(SentRequest { call, id, body, deadline_ms });
                }
                HookAction::Finish { ticket, outcome, .. } => self.ended.push((ticket, outcome)),
            }
        }
    }

    fn ask(&mut self, number: u32, question: HookQuestion) {
        self.desk.ask(self.now_ms, ticket(number), question);
        self.drain();
    }

    /// Settles the request that was sent at this place in their order.
    fn settle(&mut self, at: usize, result: HookResult) {
        self.desk.settle(self.now_ms, self.sent[at].call, result);
        self.drain();
    }

    fn cancel(&mut self, number: u32) {
        self.desk.cancel(ticket(number));
        self.drain();
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.desk.expire(self.now_ms);
        self.drain();
    }

    /// Takes the outcomes since the last time, with the numbers of their tickets.
    fn take_ended(&mut self) -> Vec<(u32, HookOutcome)> {
        self.ended.drain(..).map(|(ticket, outcome)| (ticket.request, outcome)).collect()
    }

    /// Takes the only outcome since the last time.
    fn take_outcome(&mut self) -> HookOutcome {
        let ended = self.take_ended();
        let [(_, outcome)] = &ended[..] else { panic!("one outcome: {ended:?}") };
        outcome.clone()
    }
}
