//! Executes requests one by one: checks them, and replies at once or forwards them to a home.

use std::ops::Range;
use std::sync::Arc;

use super::charges;
use super::cutter::{Cut, Cutter};
use super::pending::{Asked, AskedKind, HeldFrame};
use super::publishing::PublishRequest;
use super::rates::refuse_request;
use super::realm::retention_of;
use super::state::{Fate, HubSession, NONE, Subscription};
use super::{Call, Left};
use crate::admission::Shortage;
use crate::admission::limiter::RateKind;
use crate::auth::{self, AuthError, ChannelGrant, Namespace, RefusalKind};
use crate::hub::{
    ChannelName, Code, ConnectionId, MemberInfo, Origin, Refused, Request, Retention,
};
use crate::hub::{Since, Subscribe, Verb};
use crate::proto::ws::Payload;
use crate::session::protocol::{ClientRequest, Command, REQUEST_ID_BYTES_MAX, Reply};
use crate::text::content::CheckedJson;

/// Error text for a presence request in a channel without presence.
pub const NO_PRESENCE: &str = "this channel keeps no presence: set presence in its [[channel]]";

fn new_refusal(code: Code, message: impl Into<String>) -> Refused {
    Refused::new(code, message)
}

/// Rejects a request that is longer than any that could succeed.
fn reject_large(call: &mut Call<'_>, bytes: usize) {
    call.effects.errors += 1;
    call.effects.requests += Cutter::scan_cost(bytes);
    let most = call.realm.limits.request_bytes_max;
    let text = format!(
        "request of {bytes} bytes exceeds the limit of {most}; send it in parts, or by reference"
    );
    call.say_error(None, &new_refusal(Code::TooLarge, text));
}

/// What became of a request.
pub(super) enum Taken {
    Done,
    /// It waits for the outcome of a question about this channel, or for a request that does.
    Behind(ChannelName),
    /// It waits for the reply to an earlier request, and the requests behind it wait as well.
    Waits,
}

/// A requested subscription.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'w> {
    pub(super) channel: &'w str,
    pub(super) since: Option<Since>,
    pub(super) watch: bool,
    pub(super) grant: Option<ChannelGrant>,
    /// The grant comes from the server itself, so `subscribe` needs no further right.
    pub(super) trusted: bool,
    /// The connection whose membership it takes over.
    pub(super) replaces: Option<ConnectionId>,
}

/// What a channel keeps, and how many members it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChannelTerms {
    pub(super) retention: Retention,
    pub(super) presence: bool,
    /// 0 = no limit.
    pub(super) members_max: u32,
}

impl From<&Namespace> for ChannelTerms {
    fn from(namespace: &Namespace) -> Self {
        Self {
            retention: retention_of(namespace),
            presence: namespace.presence,
            members_max: namespace.members_max,
        }
    }
}

impl HubSession {
    /// Processes a frame. With `over_rate`, the frame exceeds a rate limit and its requests are
    /// rejected.
    pub(super) fn receive_frame(
        &mut self,
        call: &mut Call<'_>,
        text: Payload<'_>,
        over_rate: Option<(RateKind, u64)>,
    ) {
        let mut cutter = Cutter::new(call.client_protocol().framing());
        // Earlier frames come first: the new one is queued behind them.
        let must_wait = self.has_requests() || self.is_waiting();
        if !must_wait && self.work_through(call, text.as_slice(), &mut cutter, over_rate) {
            return;
        }
        // Keep only what is still needed; a borrowed frame lies in a buffer that is reused.
        let bytes = match text {
            Payload::Owned(bytes) => bytes,
            borrowed => {
                let done = cutter.needed_from();
                cutter.shift_back(done);
                borrowed.as_slice()[done..].to_vec()
            }
        };
        self.pending_mut(call).held.push_back(HeldFrame { bytes, cutter, over_rate });
    }

    /// Lifts the bar after a reply of a home. Waiting requests continue in the connection's next
    /// turn, not here, so that one reply cannot use more than a turn's budget.
    pub(super) fn lift_bar(&mut self, call: &mut Call<'_>) {
        if let Some(pending) = &mut self.pending {
            pending.is_barred = false;
            pending.is_released = !pending.behind_questions.is_empty();
        }
        self.free_pending(call);
    }

    /// Continues with waiting requests, within the call's budget.
    pub fn resume_requests(&mut self, call: &mut Call<'_>) {
        self.release_requests(call);
        while self.has_requests() && !self.is_waiting() && call.effects.close.is_none() {
            let Some(mut frame) = self.pending_mut(call).held.pop_front() else { break };
            if !self.work_through(call, &frame.bytes, &mut frame.cutter, frame.over_rate) {
                self.pending_mut(call).held.push_front(frame);
                break;
            }
        }
        self.free_pending(call);
    }

    /// Processes the requests of a frame. Returns false if some of them have to wait: for the next
    /// call, or, if [`Self::is_waiting`], for a reply of a home.
    fn work_through(
        &mut self,
        call: &mut Call<'_>,
        frame: &[u8],
        cutter: &mut Cutter,
        over_rate: Option<(RateKind, u64)>,
    ) -> bool {
        while call.effects.close.is_none() {
            if cutter.is_at_end(frame) {
                return true;
            }
            // While a `resume` is in flight, or too many requests are, nothing further may start.
            if self.is_resuming() || self.asked_count() >= call.realm.limits.requests_max as usize {
                self.pending_mut(call).is_barred = true;
                return false;
            }
            if call.is_spent() {
                return false;
            }
            let left = call.budget.requests_max - call.effects.requests;
            let bytes_max = call.realm.limits.request_bytes_max;
            let protocol = call.client_protocol();
            // The fast path; on anything unusual it leaves the cutter unchanged, and the general
            // path below finds the same object.
            let plain =
                cutter.take_plain(frame, bytes_max, left, |rest| protocol.read_plain_request(rest));
            if let Some((request, range)) = plain {
                match self.take_request(call, request, range.len(), over_rate) {
                    Taken::Done => {}
                    Taken::Behind(channel)
                        if self.hold_request(call, &channel, &frame[range.clone()]) => {}
                    _ => return self.bar_requests(call, cutter, &range),
                }
                continue;
            }
            match cutter.next(frame, bytes_max, left) {
                Cut::Object(range) => {
                    let object = std::str::from_utf8(&frame[range.clone()]).unwrap_or_default();
                    let request = protocol.read_request(object);
                    match self.take_request(call, request, range.len(), over_rate) {
                        Taken::Done => {}
                        Taken::Behind(channel)
                            if self.hold_request(call, &channel, &frame[range.clone()]) => {}
                        _ => return self.bar_requests(call, cutter, &range),
                    }
                }
                Cut::TooLarge(bytes) => reject_large(call, bytes),
                Cut::Invalid(why) => {
                    call.effects.errors += 1;
                    let text = format!("not JSON objects: {why}");
                    call.say_error(None, &new_refusal(Code::BadRequest, text));
                    return true;
                }
                Cut::End => return true,
                Cut::Unfinished => {
                    // Scanning a long object used the rest of the budget; the next call continues
                    // it.
                    call.effects.requests = call.budget.requests_max;
                    return false;
                }
            }
        }
        true
    }

    /// Returns to a request that has to wait for the reply to an earlier one, and bars the requests
    /// behind it.
    fn bar_requests(
        &mut self,
        call: &mut Call<'_>,
        cutter: &mut Cutter,
        object: &Range<usize>,
    ) -> bool {
        cutter.go_back(object);
        self.pending_mut(call).is_barred = true;
        false
    }

    /// Processes a request of this length (bytes).
    fn take_request(
        &mut self,
        call: &mut Call<'_>,
        request: ClientRequest<'_>,
        bytes: usize,
        over_rate: Option<(RateKind, u64)>,
    ) -> Taken {
        call.effects.requests += 1 + Cutter::scan_cost(bytes);
        let Some((kind, wait_ms)) = over_rate else {
            if let Ok(command) = &request.command
                && let Some(channel) = self.held_channel(command)
            {
                return Taken::Behind(channel);
            }
            return self.perform_request(call, request);
        };
        refuse_request(call, request.id, kind, wait_ms);
        Taken::Done
    }

    /// Executes a request.
    pub(super) fn perform_request(
        &mut self,
        call: &mut Call<'_>,
        request: ClientRequest<'_>,
    ) -> Taken {
        let ClientRequest { id, command } = request;
        debug_assert!(id.is_none_or(|id| id.len() <= REQUEST_ID_BYTES_MAX), "ids are bounded");
        // A request for a channel whose subscription is pending waits until that is decided.
        let pending = match &command {
            Ok(Command::Subscribe { channel, .. } | Command::Unsubscribe { channel }) => {
                self.find(channel)
            }
            Ok(Command::App(command)) => self.find_of_app(command),
            _ => None,
        };
        // `auth` and `resume` change the rights of all channels, so they wait for every pending
        // subscription.
        let barred = match &command {
            Ok(Command::Auth { .. } | Command::Resume { .. }) => {
                self.subscriptions.iter().any(|one| !one.is_live()) || self.is_asking_about(None)
            }
            _ => pending.is_some_and(|at| !self.subscriptions[at].is_live()),
        };
        let is_read = command.as_ref().is_ok_and(charges::is_read);
        if barred || (is_read && self.is_reading()) {
            return Taken::Waits;
        }
        // The rate and the cost of execution are charged only now: a request that waits comes here
        // again.
        call.effects.requests += command.as_ref().map_or(0, charges::cost_of);
        let kind = command.as_ref().ok().and_then(charges::rate_of);
        if kind.is_some_and(|(kind, times)| self.is_too_much(call, id, kind, times)) {
            self.refuse_for_app(call, command.as_ref().ok());
            return Taken::Done;
        }
        if kind.is_some() && call.realm.admission.shortage() == Shortage::Work {
            call.effects.errors += 1;
            // `rate_limited`, because a retry may succeed, unlike after reaching a `limit`.
            let text = "server is low on memory; retry later";
            call.say_error(id, &new_refusal(Code::RateLimited, text));
            return Taken::Done;
        }
        if let Err(refusal) = command.and_then(|command| self.carry_out(call, id, command)) {
            call.effects.errors += 1;
            call.say_error(id, &refusal);
        }
        Taken::Done
    }

    fn carry_out(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        command: Command<'_>,
    ) -> Result<(), Refused> {
        match command {
            Command::Ping => call.queue_reply(&Reply::Pong { id }),
            Command::App(command) => return self.carry_out_for_app(call, command),
            Command::Auth { token } => return self.authenticate(call, id, &token),
            Command::Resume { ticket, positions } => {
                return self.resume_session(call, id, &ticket, &positions);
            }
            Command::Subscribe { channel, since, presence, token } => {
                let grant = self.channel_grant(call, &channel, token.as_deref())?;
                let wanted = Wanted {
                    channel: &channel,
                    since,
                    watch: presence,
                    grant,
                    trusted: false,
                    replaces: None,
                };
                if !self.ask_to_subscribe(call, id, &wanted) {
                    let kind =
                        if presence { AskedKind::SubscribeAndRead } else { AskedKind::Subscribe };
                    self.subscribe(call, id, kind, wanted)?;
                }
            }
            Command::Unsubscribe { channel } => self.unsubscribe(call, id, &channel)?,
            Command::Publish { channel, content, key, echo } => {
                let (channel, content) = (&*channel, content.into_text());
                self.publish(call, id, PublishRequest { channel, content, key, echo })?;
            }
            Command::Call { method, content } => {
                let content = content.map_or_else(|| "null".into(), CheckedJson::into_text);
                self.ask_call(call, id, &method, content)?;
            }
            Command::Presence { channel, limit, after } => {
                let namespace =
                    self.decide_permission(call, auth::Permission::Presence, &channel)?;
                if !namespace.presence {
                    return Err(new_refusal(Code::NotFound, NO_PRESENCE));
                }
                let limit = limit.unwrap_or(call.realm.limits.presence_page_max);
                let after = after.map(|after| Box::from(&*after));
                let verb = Verb::Presence { after, limit };
                let (name, retention) = (ChannelName::new(&channel), retention_of(namespace));
                self.send_request(call, id, AskedKind::Read, name, retention, verb);
            }
            Command::History { channel, limit, since, reverse } => {
                let namespace =
                    self.decide_permission(call, auth::Permission::History, &channel)?;
                let limit = limit.unwrap_or(call.realm.limits.history_page_max);
                let verb = Verb::History { since, limit, reverse };
                let (name, retention) = (ChannelName::new(&channel), retention_of(namespace));
                self.send_request(call, id, AskedKind::Read, name, retention, verb);
            }
        }
        Ok(())
    }

    /// Verifies a channel token and returns the rights that it grants. `None`: there is no token,
    /// or the server has no keys.
    fn channel_grant(
        &self,
        call: &mut Call<'_>,
        channel: &str,
        token: Option<&str>,
    ) -> Result<Option<ChannelGrant>, Refused> {
        let (Some(token), Some(verifier)) = (token, &call.realm.verifier) else { return Ok(None) };
        let user = self.user().map(|user| &**user);
        match verifier.verify_channel(token, channel, user, call.now_s()) {
            Ok(grant) => Ok(Some(grant)),
            Err(fault) => {
                call.effects.auth_failures.push(fault.kind());
                let code = match fault {
                    _ if fault.is_temporary() => Code::Internal,
                    _ if fault.is_expired() => Code::Expired,
                    AuthError::Channel | AuthError::Subject => Code::Forbidden,
                    _ => Code::Unauthorized,
                };
                Err(new_refusal(code, format!("the channel's token: {fault}")))
            }
        }
    }

    /// Decides on a permission by the identity and the grant that the session has for the channel.
    pub(super) fn decide_permission<'r>(
        &self,
        call: &Call<'r>,
        verb: auth::Permission,
        channel: &str,
    ) -> Result<&'r Namespace, Refused> {
        self.decide_with(call, self.find_grant(channel), verb, channel)
    }

    pub(super) fn decide_with<'r>(
        &self,
        call: &Call<'r>,
        grant: Option<&ChannelGrant>,
        verb: auth::Permission,
        channel: &str,
    ) -> Result<&'r Namespace, Refused> {
        let Some(identity) = &self.identity else {
            let message = "not authenticated; send `auth` with a token, or `resume` with a ticket";
            return Err(new_refusal(Code::Unauthorized, message));
        };
        auth::check_channel(channel).map_err(|message| new_refusal(Code::BadRequest, message))?;
        let realm = call.realm;
        let keys = realm.verifier.is_some();
        // An expired grant is ignored even if the timer that drops it has not fired yet.
        let grant = grant.filter(|grant| !realm.has_ended(grant.expires_s, call.now_ms));
        auth::decide(&realm.namespaces, identity, grant, verb, channel, keys).map_err(|refusal| {
            let code = match refusal.kind {
                RefusalKind::Forbidden => Code::Forbidden,
                RefusalKind::Unauthorized => Code::Unauthorized,
            };
            new_refusal(code, refusal.message)
        })
    }

    /// Requests a subscription, or the restart of an existing one. Returns the request's number.
    pub(super) fn subscribe(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        kind: AskedKind,
        wanted: Wanted<'_>,
    ) -> Result<u32, Refused> {
        let Wanted { channel, watch, ref grant, trusted, .. } = wanted;
        // A new token replaces the grant that the session has.
        let grant_or_held = grant.as_ref().or_else(|| self.find_grant(channel));
        let decided = self.decide_with(call, grant_or_held, auth::Permission::Subscribe, channel);
        let namespace = match decided {
            Err(_)
                if trusted && self.identity.is_some() && auth::check_channel(channel).is_ok() =>
            // The server's own grant suffices: no right of the client is needed.
            {
                call.realm.namespaces.find_or_granted(channel)
            }
            decided => decided?,
        };
        if watch && namespace.presence {
            self.decide_with(call, grant_or_held, auth::Permission::Presence, channel)?;
        }
        let watch = watch && namespace.presence;
        let wanted = Wanted { watch, ..wanted };
        self.begin_subscription(call, id, kind, (wanted, namespace.into(), None))
    }

    /// Requests a subscription that was allowed. `member`: as what the connection is listed, if not
    /// as its identity.
    pub(super) fn begin_subscription(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        kind: AskedKind,
        (wanted, terms, member): (Wanted<'_>, ChannelTerms, Option<Arc<MemberInfo>>),
    ) -> Result<u32, Refused> {
        let Wanted { channel, since, watch, grant, replaces, .. } = wanted;
        let found = self.find(channel);
        let mut restart = None;
        match found {
            Some(_) if since.is_none() => {
                let message = "already subscribed; pass `since` to restart from a position";
                return Err(new_refusal(Code::Conflict, message));
            }
            Some(at) => restart = Some(self.remove_subscription(call, at)),
            None if self.subscriptions.len() >= call.realm.limits.channels_max as usize => {
                let message = format!(
                    "a connection may have {} subscriptions at most; unsubscribe from one first",
                    call.realm.limits.channels_max
                );
                return Err(new_refusal(Code::Limit, message));
            }
            None => {}
        }
        // A restarted subscription keeps its listing, even if a reload has changed the namespace:
        // its `Leave` has to match its join.
        let lists_members = terms.presence && !call.is_behind_link();
        let listed = found.map_or(lists_members, |at| self.subscriptions[at].listed);
        let name = ChannelName::new(channel);
        if let Some(member) = &member {
            self.set_member(&name, member.clone());
        }
        let member = listed.then(|| member.unwrap_or_else(|| self.member_or_new()));
        if let Some(grant) = grant {
            self.set_grant(&name, grant);
            call.effects.rescheduled = true;
        }
        if found.is_none() {
            self.add(Subscription {
                channel: name,
                local: NONE,
                member_index: NONE,
                watcher_index: NONE,
                listed: member.is_some(),
                fate: Fate::default(),
            });
        }
        let members_max = terms.members_max;
        let subscribe = Subscribe { since, watch, restart, member, replaces, members_max };
        let verb = Verb::Subscribe(Box::new(subscribe));
        let name = ChannelName::new(channel);
        Ok(self.send_request(call, id, kind, name, terms.retention, verb))
    }

    /// Removes a subscription from the shard's members and purges its queued messages. Returns
    /// whether it watched joins and leaves.
    fn remove_subscription(&mut self, call: &mut Call<'_>, at: usize) -> bool {
        let subscription = &mut self.subscriptions[at];
        call.effects.left.push(Left {
            local: subscription.local,
            member_index: subscription.member_index,
            watcher_index: subscription.watcher_index,
        });
        call.effects.purge.push(subscription.channel.clone());
        let watched = subscription.watcher_index != NONE;
        (subscription.local, subscription.member_index, subscription.watcher_index) =
            (NONE, NONE, NONE);
        watched
    }

    fn unsubscribe(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        channel: &str,
    ) -> Result<(), Refused> {
        auth::check_channel(channel).map_err(|message| new_refusal(Code::BadRequest, message))?;
        let Some(at) = self.find(channel) else {
            return Err(new_refusal(Code::NotFound, "not subscribed to this channel"));
        };
        self.end_subscription(call, at);
        call.queue_reply(&Reply::Unsubscribed { id, channel, reason: None });
        Ok(())
    }

    /// Ends a live subscription, on the shard and at the channel's home.
    pub(super) fn end_subscription(&mut self, call: &mut Call<'_>, at: usize) {
        let watch = self.remove_subscription(call, at);
        let subscription = self.take_subscription(at);
        call.effects.renumbered = true;
        self.drop_grant(subscription.channel.as_str());
        let member = self.take_member(&subscription.channel).filter(|_| subscription.listed);
        self.send_leave(call, subscription.channel, watch, member);
    }

    /// Sends `Leave` to the channel's home.
    pub(super) fn send_leave(
        &self,
        call: &mut Call<'_>,
        channel: ChannelName,
        watch: bool,
        member: Option<Arc<MemberInfo>>,
    ) {
        let from = Origin::Session { id: self.id, request: 0 };
        // A leave never creates the channel, so there is nothing to retain.
        let retention = Retention { messages_max: 0, ttl_ms: 0 };
        let verb = Verb::Leave { watch, member };
        call.effects.asks.push(Request { from, channel, retention, verb });
    }

    pub(super) fn send_request(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        kind: AskedKind,
        channel: ChannelName,
        retention: Retention,
        verb: Verb,
    ) -> u32 {
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        self.pending_mut(call).asked.push_back(Asked { request, id: id.map(Into::into), kind });
        call.effects.asks.push(Request {
            from: Origin::Session { id: self.id, request },
            channel,
            retention,
            verb,
        });
        request
    }
}
