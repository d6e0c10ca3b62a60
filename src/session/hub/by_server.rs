//! Subscriptions that a backend starts and ends, independent of what the connection does.
//!
//! The client of an application behind a link has no others. Its application is responsible for its
//! rights, and learns what has become of each ([`MemberReport`]); the client itself gets
//! publications alone.

use super::Call;
use super::pending::{AskedKind, Caller};
use super::state::{Fate, HubSession};
use super::verbs::Wanted;
use crate::auth::{ChannelGrant, Rights};
use crate::hub::{ChannelName, Code, ProtocolId, Refused};
use crate::session::protocol::Reply;

/// The outcome of a subscription that a backend requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Subscribed,
    Refused(Refused),
    /// The connection is not authenticated, or closed before the channel's home replied.
    Ended,
}

/// What has become of a subscription that an application behind a link has requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberReport {
    pub channel: Box<str>,
    /// The number of the request; 0 if a subscription has ended without one.
    pub number: u32,
    pub standing: MemberStanding,
}

/// See [`MemberReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberStanding {
    Joined,
    Refused(Refused),
    /// With the reason.
    Ended(&'static str),
}

/// Why the server ended a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A backend ended it.
    Server,
    /// The token or grant that it depended on expired.
    Expired,
    /// The key of the channel token that it depended on was withdrawn.
    KeyWithdrawn,
    /// The client lost the right to it.
    Rights,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Expired => "expired",
            Self::KeyWithdrawn => "key_withdrawn",
            Self::Rights => "rights",
        }
    }
}

impl HubSession {
    /// Subscribes on behalf of a backend. The outcome is added to the effects with the backend's
    /// `number` as soon as it is known.
    /// The right to receive lasts until `expires_s` (Unix time, s); `u64::MAX`: as long as the
    /// connection.
    pub fn subscribe_by_server(
        &mut self,
        call: &mut Call<'_>,
        channel: &str,
        expires_s: u64,
        number: u32,
    ) {
        // Publishing needs the client's own right.
        let rights = Rights { publish: false, ..Rights::ALL };
        // A client behind a link needs no grant: it has no rights of its own.
        let grant =
            (!call.is_behind_link()).then_some(ChannelGrant { rights, expires_s, key: None });
        if self.identity.is_none() {
            // Not authenticated yet: treated as if the connection did not exist.
            return call.push_outcome(channel, number, Outcome::Ended);
        }
        let Some(at) = self.find(channel) else {
            let (since, watch, trusted, replaces) = (None, false, true, None);
            let wanted = Wanted { channel, since, watch, grant, trusted, replaces };
            match self.subscribe(call, None, AskedKind::ByServer, wanted) {
                Ok(_) => self.await_outcome(call, channel, number),
                Err(refused) => call.push_outcome(channel, number, Outcome::Refused(refused)),
            }
            return;
        };
        if self.subscriptions[at].is_live() {
            return call.push_outcome(channel, number, Outcome::Subscribed);
        }
        let waiting = self.pending.as_ref().map_or(0, |pending| pending.callers.len());
        if call.is_behind_link() && waiting >= call.realm.limits.channels_max as usize {
            let message = "too many joins of this client have no answer yet; wait for these";
            let refused = Refused::new(Code::Limit, message);
            return call.push_outcome(channel, number, Outcome::Refused(refused));
        }
        // The subscription is pending: the last request wins, so an earlier end is cancelled.
        let one = &mut self.subscriptions[at];
        one.fate = one.fate.min(Fate::Review);
        let name = one.channel.clone();
        if let Some(grant) = grant.filter(|_| self.find_grant(channel).is_none()) {
            self.set_grant(&name, grant);
            call.effects.rescheduled = true;
        }
        self.await_outcome(call, channel, number);
    }

    /// Unsubscribes on behalf of a backend. Returns whether there was a subscription to end.
    pub fn unsubscribe_by_server(&mut self, call: &mut Call<'_>, channel: &str) -> bool {
        // A question may be open beside a subscription by a backend.
        let has_ended_question = self.end_question(channel);
        let Some(at) = self.find(channel) else { return has_ended_question };
        if self.subscriptions[at].is_live() {
            self.end_unasked(call, at, Reason::Server);
            return true;
        }
        std::mem::replace(&mut self.subscriptions[at].fate, Fate::Ends) != Fate::Ends
    }

    fn await_outcome(&mut self, call: &mut Call<'_>, channel: &str, number: u32) {
        let channel = ChannelName::new(channel);
        self.pending_mut(call).callers.push(Caller { channel, call: number });
    }

    /// Reports the outcome of a subscription to the backends that wait for it.
    pub(super) fn note_outcome(
        &mut self,
        call: &mut Call<'_>,
        channel: &str,
        outcome: Result<(), &Refused>,
    ) {
        let Some(pending) = &mut self.pending else { return };
        let concerned = |one: &mut Caller| one.channel.as_str() == channel;
        for caller in pending.callers.extract_if(.., concerned) {
            let outcome = match outcome {
                Ok(()) => Outcome::Subscribed,
                Err(refused) => Outcome::Refused(refused.clone()),
            };
            call.push_outcome(channel, caller.call, outcome);
        }
    }

    /// Reports to all waiting backends that the connection has ended; later replies are ignored.
    pub(super) fn end_outcomes(&mut self, call: &mut Call<'_>) {
        let callers = self.pending.iter_mut().flat_map(|pending| pending.callers.drain(..));
        for caller in callers {
            call.push_outcome(caller.channel.as_str(), caller.call, Outcome::Ended);
        }
    }
}

impl Call<'_> {
    /// Returns whether the session is that of a client behind a link.
    pub(super) fn is_behind_link(&self) -> bool {
        self.protocol == ProtocolId::CONTENT
    }

    /// Reports the outcome of a subscription to the backend that has requested it.
    fn push_outcome(&mut self, channel: &str, number: u32, outcome: Outcome) {
        if !self.is_behind_link() {
            return self.effects.outcomes.push((number, outcome));
        }
        let standing = match outcome {
            Outcome::Subscribed => MemberStanding::Joined,
            Outcome::Refused(refused) => MemberStanding::Refused(refused),
            // The application learns that the whole session has ended.
            Outcome::Ended => return,
        };
        self.effects.memberships.push(MemberReport { channel: channel.into(), number, standing });
    }

    /// Reports that a subscription has ended without a request of the client.
    pub(super) fn report_end(&mut self, channel: &str, reason: Reason) {
        let reason = reason.as_str();
        if self.is_behind_link() {
            let (channel, standing) = (channel.into(), MemberStanding::Ended(reason));
            return self.effects.memberships.push(MemberReport { channel, number: 0, standing });
        }
        self.queue_reply(&Reply::Unsubscribed { id: None, channel, reason: Some(reason) });
    }
}

/// Returns the error for a right that was lost while the home was replying.
pub(super) fn taken_back() -> Refused {
    Refused::new(Code::Forbidden, "the right to this channel was taken back")
}
