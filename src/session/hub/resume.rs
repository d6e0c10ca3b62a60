//! Resumption: restores identity, subscriptions and positions in one request, without a backend.
//!
//! The ticket states the client's identity and its previous connection. Each channel is decided on
//! as for a new subscription. Later requests wait until all homes have replied. Only then is the
//! old connection closed, if it is still open: the new one is a member by then, so watchers see no
//! leave and no join.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Call;
use super::Realm;
use super::pending::{AskedKind, Resuming};
use super::state::{HubSession, renewal_ms};
use super::verbs::Wanted;
use crate::auth::{ChannelGrant, Grant, Identity, KeyStanding, SealError, Subject, Ticket};
use crate::hub::{Code, ConnectionId, Position, Refused};
use crate::proto::ws::CloseCode;
use crate::session::protocol::{FreshGrant, Reply, ResumePoint, ResumedAt, ResumedChannel, Text};

/// Returns the error for a ticket or grant that cannot be opened.
fn seal_refused(what: &str, fault: SealError) -> Refused {
    let code = match fault {
        SealError::Expired => Code::Expired,
        _ => Code::Unauthorized,
    };
    Refused::new(code, format!("{what}: {fault}"))
}

/// Splits a lineage into the connection and the first one that it continues, if any.
fn split_lineage(connection: &str) -> (&str, Option<&str>) {
    match connection.split_once(' ') {
        Some((now, root)) => (now, Some(root)),
        None => (connection, None),
    }
}

/// Returns the subjects of a ticket or grant: its user, and the connections of its lineage.
fn subjects_of(user: Option<&str>, connections: &str) -> Vec<Subject> {
    let user = user.map(|user| Subject::User(user.to_owned()));
    let (now, root) = split_lineage(connections);
    let connections = [now].into_iter().chain(root);
    user.into_iter().chain(connections.map(|id| Subject::Connection(id.to_owned()))).collect()
}

/// A reason to reject a ticket or grant: the kind of failure to count, if it is one, and the error.
type SealFault = (Option<&'static str>, Refused);

/// Checks that the key on which a ticket or grant depends still verifies tokens.
fn check_standing(standing: KeyStanding, what: &str) -> Result<(), SealFault> {
    match standing {
        KeyStanding::Good => Ok(()),
        KeyStanding::Unknown => {
            let text = format!(
                "{what} depends on a key that the server has not fetched yet (auth.jwks_url); \
                 retry later"
            );
            Err((None, Refused::new(Code::Internal, text)))
        }
        KeyStanding::Withdrawn => {
            let text = format!("{what} depends on a key that was withdrawn; authenticate again");
            Err((Some("key_withdrawn"), Refused::new(Code::Unauthorized, text)))
        }
    }
}

/// Counts a failure, and returns the error.
fn count_fault(call: &mut Call<'_>, (failure, refused): SealFault) -> Refused {
    call.effects.auth_failures.extend(failure);
    refused
}

/// Checks that an opened ticket is still valid, on any connection.
fn check_ticket_now(realm: &Realm, ticket: &Ticket) -> Result<(), SealFault> {
    let identity = &ticket.identity;
    let (old, root) = split_lineage(&ticket.connection);
    let void =
        |message: &str| Err((Some("ticket_void"), Refused::new(Code::Unauthorized, message)));
    let subjects = subjects_of(identity.user.as_deref(), &ticket.connection);
    if realm.revoked.is_revoked(&subjects, ticket.issued_ms) {
        return void("the ticket is void, because its client was disconnected; authenticate again");
    }
    if realm.revoked.is_outdated(root.unwrap_or(old), ticket.issued_ms) {
        return void(
            "the ticket is void, because a token with other rights was shown; resume with the \
             ticket that came with that answer, or authenticate again",
        );
    }
    if identity.is_anonymous() && !realm.is_open() {
        let message = "the ticket is of an anonymous connection; authenticate with a token";
        return Err((None, Refused::new(Code::Unauthorized, message)));
    }
    if !identity.is_anonymous() && identity.application.is_none() {
        // An identity of a token must name its key; without one the token cannot be checked.
        let key = identity.key.map(|key| realm.key_standing(Some(key)));
        check_standing(key.unwrap_or(KeyStanding::Withdrawn), "the ticket")?;
    }
    Ok(())
}

impl Realm {
    /// Returns the user's identity that a valid ticket states, if this application gave it. Others
    /// are to be asked about: without a user, a `disconnect` could not void later tickets.
    pub fn identify_by_ticket(
        &self,
        ticket: &str,
        application: &str,
        now_s: u64,
    ) -> Option<Arc<Identity>> {
        let ticket = self.sealer.open_ticket(ticket, now_s, self.leeway_s()).ok()?;
        check_ticket_now(self, &ticket).ok()?;
        let is_given = |own: &Arc<Identity>| own.application.as_deref() == Some(application);
        Some(ticket.identity).filter(is_given).filter(|own| own.user.is_some())
    }

    /// Returns the time of issue of what is issued now (Unix, ms): no earlier revocation voids it.
    pub fn issue_time_ms(&self, now_ms: u64) -> u64 {
        self.revoked.issue_time_ms(now_ms)
    }

    /// Returns whether the tickets of a user that were issued at this time (Unix, ms) were revoked.
    pub fn is_user_revoked(&self, user: &str, issued_ms: u64) -> bool {
        self.revoked.is_revoked(&[Subject::User(user.to_owned())], issued_ms)
    }
}

impl HubSession {
    /// Seals a fresh ticket. `None`: the client is not authenticated yet.
    pub(super) fn seal_ticket(&self, realm: &Realm, now_ms: u64) -> Option<String> {
        let identity = self.identity.as_ref()?;
        let connection = self.lineage();
        let ttl_s = realm.limits.ticket_ttl_s;
        let mut ticket = Ticket::new(identity.clone(), &connection, now_ms, ttl_s);
        ticket.issued_ms = realm.revoked.issue_time_ms(now_ms);
        Some(realm.sealer.seal_ticket(&ticket))
    }

    /// Seals a fresh ticket and schedules its renewal.
    fn fresh_ticket(&mut self, call: &mut Call<'_>) -> Option<String> {
        self.due_ms = call.now_ms.saturating_add(renewal_ms(call.realm));
        call.effects.rescheduled = true;
        self.seal_ticket(call.realm, call.now_ms)
    }

    /// Sends a fresh ticket, and a fresh grant for each subscription that depends on one. The
    /// earlier ones have been revoked or expire soon.
    pub fn renew_ticket(&mut self, call: &mut Call<'_>) {
        let Some(ticket) = self.fresh_ticket(call) else { return };
        let granted = self.granted_channels().into_iter();
        let grants: Vec<FreshGrant> = granted
            .filter_map(|channel| {
                let grant = self.sealed_grant(call, channel.as_str())?;
                Some(FreshGrant { channel: channel.as_str().into(), grant })
            })
            .collect();
        call.queue_reply(&Reply::Ticket { ticket: &ticket, grants: &grants });
    }

    pub(super) fn resume_session(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        ticket: &str,
        positions: &BTreeMap<Text<'_>, ResumePoint<'_>>,
    ) -> Result<(), Refused> {
        if !self.subscriptions.is_empty() {
            let message = "`resume` must come before the first subscription; reconnect to resume";
            return Err(Refused::new(Code::Conflict, message));
        }
        let leeway_s = call.realm.leeway_s();
        let opened = call.realm.sealer.open_ticket(ticket, call.now_s(), leeway_s);
        let ticket = opened.map_err(|fault| {
            call.effects.auth_failures.push("ticket");
            seal_refused("the ticket", fault)
        })?;
        let (old, root) = split_lineage(&ticket.connection);
        self.check_ticket(call, &ticket)?;
        let old_id = ConnectionId::parse(old);
        self.extras_mut().root = ConnectionId::parse(root.unwrap_or(old));
        let old = old_id.filter(|old| *old != self.id);
        // Only a connection of this node, and of this run, can pass its counts on.
        call.effects.continues = old.filter(|old| old.node == call.realm.node);
        // Of two tokens of one user, the one that expires later is probably the newer one.
        let keeps_own = self.identity.as_ref().is_some_and(|own| {
            !own.is_anonymous()
                && own.user == ticket.identity.user
                && own.expires_s >= ticket.identity.expires_s
        });
        if !keeps_own {
            self.become_known(call, ticket.identity.clone());
        }
        // It has no subscription now, but may have been listed under its former identity.
        self.replace_member();
        let id = id.map(Into::into);
        let mut resuming = Resuming { id, waiting: 0, channels: Vec::new(), old };
        for (channel, position) in positions {
            match self.take_up(call, channel, position, old) {
                Ok(()) => resuming.waiting += 1,
                Err(refusal) => {
                    let channel = (**channel).into();
                    resuming.channels.push(ResumedChannel { channel, outcome: Err(refusal) });
                }
            }
        }
        self.pending_mut(call).resuming = Some(Box::new(resuming));
        self.resumed_if_done(call);
        self.free_pending(call);
        Ok(())
    }

    /// Checks that an opened ticket is still valid, and valid on this connection.
    fn check_ticket(&self, call: &mut Call<'_>, ticket: &Ticket) -> Result<(), Refused> {
        check_ticket_now(call.realm, ticket).map_err(|fault| count_fault(call, fault))?;
        let application = |identity: &Arc<Identity>| identity.application.clone();
        if ticket.identity.application.is_some()
            && self.identity.as_ref().and_then(application) != ticket.identity.application
        {
            let message = "the ticket is of a client that an application has identified; connect \
                           on a route of that application";
            return Err(Refused::new(Code::Unauthorized, message));
        }
        let known = self.user();
        if known.is_some() && known != ticket.identity.user.as_ref() {
            let message =
                "the ticket is of another user than this connection's; reconnect without it";
            return Err(Refused::new(Code::Conflict, message));
        }
        Ok(())
    }

    /// Opens a grant for a channel and returns its rights.
    fn open_grant(
        &self,
        call: &mut Call<'_>,
        channel: &str,
        sealed: &str,
    ) -> Result<ChannelGrant, Refused> {
        let leeway_s = call.realm.leeway_s();
        let opened = call.realm.sealer.open_grant(sealed, call.now_s(), leeway_s);
        let grant = opened.map_err(|fault| {
            call.effects.auth_failures.push("grant");
            seal_refused("the grant", fault)
        })?;
        let user = self.user().map(|user| &**user);
        let Some(granted) = grant.for_channel(channel, user, &self.root_id().to_string()) else {
            call.effects.auth_failures.push("grant");
            let message = "the grant is for another channel or client; subscribe without it";
            return Err(Refused::new(Code::Forbidden, message));
        };
        let revoked = &call.realm.revoked;
        let subjects = subjects_of(user, &grant.connection);
        if revoked.is_revoked(&subjects, grant.issued_ms)
            || revoked.is_channel_revoked(&subjects, channel, grant.issued_ms)
        {
            call.effects.auth_failures.push("grant_void");
            let message =
                "the grant is void, because a backend has revoked it; subscribe without it";
            return Err(Refused::new(Code::Forbidden, message));
        }
        let standing = call.realm.key_standing(granted.key);
        check_standing(standing, "the grant").map_err(|fault| count_fault(call, fault))?;
        Ok(granted)
    }

    /// Requests the subscription of one channel of a `resume`.
    fn take_up(
        &mut self,
        call: &mut Call<'_>,
        channel: &str,
        position: &ResumePoint<'_>,
        replaces: Option<ConnectionId>,
    ) -> Result<(), Refused> {
        let grant = position.grant.as_ref();
        let grant = grant.map(|sealed| self.open_grant(call, channel, sealed)).transpose()?;
        let since = Some(position.since);
        let trusted = grant.is_some_and(|grant| grant.rights.subscribe);
        let wanted = Wanted { channel, since, watch: position.presence, grant, trusted, replaces };
        self.subscribe(call, None, AskedKind::Resume, wanted).map(|_| ())
    }

    /// Seals a grant for a subscription that depends on more than the identity.
    pub(super) fn sealed_grant(&self, call: &Call<'_>, channel: &str) -> Option<String> {
        let grant = self.find_grant(channel)?;
        Some(call.realm.sealer.seal_grant(&Grant {
            channel: channel.to_owned(),
            subject: Subject::new(self.user().map(|user| &**user), &self.root_id().to_string()),
            rights: grant.rights,
            expires_s: call.now_s().saturating_add(call.realm.limits.ticket_ttl_s),
            token_exp_s: (grant.expires_s != u64::MAX).then_some(grant.expires_s),
            connection: self.lineage(),
            issued_ms: call.realm.revoked.issue_time_ms(call.now_ms),
            key: grant.key,
        }))
    }

    /// Records the outcome of one channel of a `resume`. The caller continues with waiting
    /// requests.
    pub(super) fn took_up(
        &mut self,
        call: &mut Call<'_>,
        channel: &str,
        outcome: Result<(Position, bool), &Refused>,
    ) {
        let outcome = match outcome {
            // The grant's lifetime starts again, as the ticket's does.
            Ok((position, recovered)) => {
                let grant = self.sealed_grant(call, channel);
                Ok(ResumedAt { position, recovered, grant })
            }
            Err(refusal) => Err(refusal.clone()),
        };
        let pending = self.pending.as_mut();
        let Some(resuming) = pending.and_then(|pending| pending.resuming.as_mut()) else { return };
        resuming.channels.push(ResumedChannel { channel: channel.into(), outcome });
        resuming.waiting -= 1;
        self.resumed_if_done(call);
    }

    fn resumed_if_done(&mut self, call: &mut Call<'_>) {
        let pending = self.pending.as_mut();
        let Some(resuming) =
            pending.and_then(|pending| pending.resuming.take_if(|resuming| resuming.waiting == 0))
        else {
            return;
        };
        let ticket = self.fresh_ticket(call);
        call.queue_reply(&Reply::Resumed {
            id: resuming.id.as_deref(),
            ticket: ticket.as_deref(),
            connection: self.id,
            channels: &resuming.channels,
        });
        call.effects.replaces = resuming.old;
        call.effects.resumed += 1;
    }

    /// Authenticates the client by a token.
    pub(super) fn authenticate(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        token: &str,
    ) -> Result<(), Refused> {
        let Some(verifier) = &call.realm.verifier else {
            let message = "the server has no keys to verify a token with; connect without a token";
            return Err(Refused::new(Code::BadRequest, message));
        };
        let identity = match verifier.verify(token, call.now_s()) {
            Ok(identity) => identity,
            Err(fault) => {
                call.effects.auth_failures.push(fault.kind());
                let (code, close) = if fault.is_temporary() {
                    (Code::Internal, CloseCode::TRY_AGAIN_LATER)
                } else if fault.is_expired() {
                    (Code::Expired, CloseCode::EXPIRED)
                } else {
                    (Code::Unauthorized, CloseCode::UNAUTHORIZED)
                };
                // An authenticated client keeps its identity after a bad token; any other is
                // closed.
                if self.identity.is_none() {
                    call.effects.close = Some((close, format!("authentication failed: {fault}")));
                }
                return Err(Refused::new(code, format!("authentication failed: {fault}")));
            }
        };
        let known = self.user();
        if known.is_some() && known != identity.user.as_ref() {
            let message = "the token is of another user; reconnect to change users";
            return Err(Refused::new(Code::Conflict, message));
        }
        self.accept_identity(call, identity);
        let ticket = self.fresh_ticket(call);
        let expires_s = self.identity.as_ref().and_then(|identity| identity.expires_s);
        call.queue_reply(&Reply::Authenticated {
            id,
            user: self.user().map(|user| &**user),
            expires_in_s: expires_s.map(|expires_s| expires_s.saturating_sub(call.now_s())),
            ticket: ticket.as_deref(),
        });
        Ok(())
    }

    /// Replaces the identity: ends what it does not allow any more, and renames the listed member.
    fn accept_identity(&mut self, call: &mut Call<'_>, identity: Identity) {
        let others = self.identity.as_ref().is_some_and(|old| old.rights != identity.rights);
        if others {
            // Earlier tickets would bring the old rights back.
            call.realm.revoked.void_tickets(&self.root_id().to_string(), call.now_ms);
        }
        self.become_known(call, Arc::new(identity));
        // The review comes first, so that a subscription that ends leaves under its old name.
        self.review_subscriptions(call, self.subscriptions.len(), usize::MAX);
        let Some((old, new)) = self.replace_member() else { return };
        for one in self.subscriptions.iter().filter(|one| one.listed) {
            self.send_rename(call, one.channel.clone(), old.clone(), new.clone());
        }
    }

    /// Processes what is due at [`Self::deadline_ms`]: closes the connection on an authentication
    /// timeout or an expired token, ends what an expired channel token granted, and renews the
    /// ticket.
    pub fn handle_deadline(&mut self, call: &mut Call<'_>) {
        let now_ms = call.now_ms;
        let Some(identity) = &self.identity else {
            if now_ms >= self.due_ms {
                call.effects.auth_failures.push("timeout");
                let reason =
                    "authentication timed out; send `auth` with a token, or `resume` with a ticket";
                call.effects.close = Some((CloseCode::AUTHENTICATION_TIMEOUT, reason.into()));
            }
            return;
        };
        if identity.expires_s.is_some_and(|exp_s| call.realm.has_ended(exp_s, now_ms)) {
            call.effects.auth_failures.push("expired");
            let reason = "the token has expired; get a new one and reconnect";
            call.effects.close = Some((CloseCode::EXPIRED, reason.into()));
            return;
        }
        for channel in self.granted_channels() {
            let ended = |grant: &ChannelGrant| call.realm.has_ended(grant.expires_s, now_ms);
            if !self.find_grant(channel.as_str()).is_some_and(ended) {
                continue;
            }
            match self.find(channel.as_str()) {
                Some(at) => self.review_subscription(call, at),
                None => self.drop_grant(channel.as_str()),
            }
        }
        if now_ms >= self.due_ms && self.is_to_be_renewed(call.realm) {
            self.renew_ticket(call);
        }
    }
}
