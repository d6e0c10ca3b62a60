//! Requests that an application decides on or answers: the questions, and what follows from their
//! outcomes.
//!
//! A question about a channel holds the connection's later requests for that channel, and other
//! requests pass them; a call holds nothing. Questions, and the requests behind them, count as
//! requests in flight. A decision is applied as if the request arrived then: everything else about
//! it is checked once more, because rights and options may have changed meanwhile.

use std::collections::VecDeque;

use super::Call;
use super::by_server::taken_back;
use super::pending::{Asked, AskedKind, HeldRequest};
use super::publishing::PublishRequest;
use super::state::HubSession;
use super::undecided::{AskedSubject, Undecided};
use super::verbs::{Taken, Wanted};
use crate::auth::{self, Access, ChannelGrant, OnFailure};
use crate::events::EventTarget;
use crate::hooks::{
    Asker, CallAnswer, FailureCause, HookAnswer, HookError, HookKind, HookOutcome, HookQuestion,
    PublishAnswer, SubscribeAnswer,
};
use crate::hub::{ChannelName, Code, Refused, Since};
use crate::session::protocol::{Command, Reply, Text};

/// The most bytes of requests that a connection holds behind questions; one always fits.
const HELD_BYTES_MAX: usize = 64 * 1024;
/// The longest method of a call (bytes).
const METHOD_BYTES_MAX: usize = 128;

/// A question of a session.
#[derive(Debug)]
pub struct SessionQuestion {
    /// The session's number for it.
    pub request: u32,
    /// The index of the application; `None`: that of the connection's route.
    pub backend: Option<u8>,
    pub question: HookQuestion,
}

impl HubSession {
    fn undecided(&self) -> &[Undecided] {
        self.pending.as_ref().map_or(&[], |pending| &pending.undecided)
    }

    fn has_requests_behind(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| !pending.behind_questions.is_empty())
    }

    /// Returns whether a question about this channel is open; `None`: about any channel, or
    /// requests wait for one that has ended.
    pub(super) fn is_asking_about(&self, channel: Option<&str>) -> bool {
        let channels = || self.undecided().iter().filter_map(Undecided::channel);
        match channel {
            Some(channel) => channels().any(|one| one == channel),
            None => channels().next().is_some() || self.has_requests_behind(),
        }
    }

    /// Returns the channel of a request that has to wait for a question about it, or for an earlier
    /// request that does.
    pub(super) fn held_channel(&self, command: &Command<'_>) -> Option<ChannelName> {
        let pending = self.pending.as_ref()?;
        if pending.undecided.is_empty() && pending.behind_questions.is_empty() {
            return None;
        }
        let channel = command.channel()?;
        let is_held = self.is_asking_about(Some(channel))
            || pending.behind_questions.iter().any(|one| one.channel.as_str() == channel);
        is_held.then(|| ChannelName::new(channel))
    }

    /// Holds a request behind a question about its channel. Returns false if too much is held: then
    /// everything behind it waits, and the client is read from no more.
    pub(super) fn hold_request(
        &mut self,
        call: &mut Call<'_>,
        channel: &ChannelName,
        object: &[u8],
    ) -> bool {
        let pending = self.pending_mut(call);
        let held = pending.behind_questions.iter().map(|one| one.text.len()).sum::<usize>();
        if held > 0 && held + object.len() > HELD_BYTES_MAX {
            return false;
        }
        let text = String::from_utf8_lossy(object).into();
        pending.behind_questions.push_back(HeldRequest { channel: channel.clone(), text });
        true
    }

    /// Continues with requests whose questions have ended, in order, within the call's budget.
    pub(super) fn release_requests(&mut self, call: &mut Call<'_>) {
        let Some(pending) = &mut self.pending else { return };
        if !std::mem::take(&mut pending.is_released) {
            return;
        }
        let mut waiting = std::mem::take(&mut pending.behind_questions);
        let mut kept: VecDeque<HeldRequest> = VecDeque::new();
        while let Some(held) = waiting.pop_front() {
            let channel = held.channel.as_str();
            let must_wait = call.effects.close.is_some()
                || self.is_asking_about(Some(channel))
                || kept.iter().any(|one| one.channel.as_str() == channel);
            if must_wait {
                kept.push_back(held);
            } else if call.is_spent() {
                self.pending_mut(call).is_released = true;
                kept.push_back(held);
                break;
            } else {
                call.effects.requests += 1;
                let request = call.client_protocol().read_request(&held.text);
                if let Taken::Waits | Taken::Behind(_) = self.perform_request(call, request) {
                    // The reply of a home releases it.
                    kept.push_back(held);
                }
            }
        }
        kept.append(&mut waiting);
        self.pending_mut(call).behind_questions = kept;
    }

    fn asker(&self) -> Asker {
        let info = self.identity().and_then(|identity| identity.info.clone());
        Asker { connection: self.id, user: self.user().cloned(), info }
    }

    fn ask(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        backend: Option<u8>,
        subject: AskedSubject,
        question: HookQuestion,
    ) {
        let (request, asked_ns) = (self.next_request, call.now_ns);
        self.next_request = self.next_request.wrapping_add(1);
        let pending = self.pending_mut(call);
        let id = id.map(Into::into);
        pending.asked.push_back(Asked { request, id, kind: AskedKind::Question });
        pending.undecided.push(Undecided { request, asked_ns, subject });
        call.effects.questions.push(SessionQuestion { request, backend, question });
    }

    /// Asks the application about a subscription, if it decides on the channel and the client does
    /// not have the right yet. Returns whether it was asked.
    pub(super) fn ask_to_subscribe(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        wanted: &Wanted<'_>,
    ) -> bool {
        let &Wanted { channel, since, watch, ref grant, .. } = wanted;
        let realm = call.realm;
        let Some(namespace) = realm.namespaces.find(channel) else { return false };
        if namespace.subscribe != Access::Backend || self.identity.is_none() {
            return false;
        }
        // A live subscription is only restarted, or the request is an error.
        let grant = grant.as_ref().or_else(|| self.find_grant(channel));
        let permission = auth::Permission::Subscribe;
        if self.find(channel).is_some()
            || auth::check_channel(channel).is_err()
            || self.decide_with(call, grant, permission, channel).is_ok()
        {
            return false;
        }
        let EventTarget { backend, .. } = namespace.events;
        let channel = ChannelName::new(channel);
        let question = HookQuestion::Subscribe { asker: self.asker(), channel: channel.clone() };
        let subject = AskedSubject::Subscribe { channel, since, watch, is_ended: false };
        self.ask(call, id, Some(backend), subject, question);
        true
    }

    /// Asks the application about a publish that has passed all other checks.
    pub(super) fn ask_to_publish(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        request: PublishRequest<'_>,
        on_failure: OnFailure,
        backend: u8,
    ) {
        let PublishRequest { channel, content, key, echo } = request;
        let (channel, key) = (ChannelName::new(channel), key.map(|key| Box::from(&*key)));
        let question = HookQuestion::Publish {
            asker: self.asker(),
            channel: channel.clone(),
            content: content.clone(),
            key: key.clone(),
            on_failure,
        };
        let subject = AskedSubject::Publish { channel, content, key, echo };
        self.ask(call, id, Some(backend), subject, question);
    }

    /// Passes a call to the application.
    pub(super) fn ask_call(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        method: &str,
        content: Box<str>,
    ) -> Result<(), Refused> {
        if self.identity.is_none() {
            let message = "not authenticated; send `auth` with a token, or `resume` with a ticket";
            return Err(Refused::new(Code::Unauthorized, message));
        }
        if method.is_empty() || method.len() > METHOD_BYTES_MAX {
            let message = format!("method must have 1 to {METHOD_BYTES_MAX} bytes");
            return Err(Refused::new(Code::BadRequest, message));
        }
        let question = HookQuestion::Call { asker: self.asker(), method: method.into(), content };
        self.ask(call, id, None, AskedSubject::Call, question);
        Ok(())
    }

    /// Ends the pending question about a subscription, on behalf of a backend. Returns whether
    /// there was one.
    pub(super) fn end_question(&mut self, channel: &str) -> bool {
        let undecided = self.pending.iter_mut().flat_map(|pending| &mut pending.undecided);
        for one in undecided {
            if let AskedSubject::Subscribe { channel: own, is_ended, .. } = &mut one.subject
                && own.as_str() == channel
            {
                return !std::mem::replace(is_ended, true);
            }
        }
        false
    }

    /// Drops all questions after the connection has closed.
    pub(super) fn cancel_questions(&mut self, call: &mut Call<'_>) {
        let undecided = self.pending.iter_mut().flat_map(|pending| pending.undecided.drain(..));
        let cancelled = undecided.map(|one| one.request);
        call.effects.cancelled.extend(cancelled);
    }

    /// Applies the outcome of a question. A question that is not open is ignored.
    pub fn take_outcome(&mut self, call: &mut Call<'_>, request: u32, outcome: HookOutcome) {
        let Some(pending) = &mut self.pending else { return };
        let Some(at) = pending.undecided.iter().position(|one| one.request == request) else {
            return;
        };
        let Undecided { subject, asked_ns, .. } = pending.undecided.remove(at);
        let waited_ns = call.now_ns.saturating_sub(asked_ns);
        call.effects.decided.push((subject.kind(), waited_ns));
        let Some(asked) = self.take_asked(request) else { return };
        let id = asked.id.as_deref();
        let done = match subject {
            AskedSubject::Subscribe { channel, since, watch, is_ended } => {
                let wanted = (channel.as_str(), since, watch);
                self.decide_subscribe(call, id, wanted, is_ended, outcome)
            }
            AskedSubject::Publish { channel, content, key, echo } => {
                let key = key.as_deref().map(Text::from);
                let request = PublishRequest { channel: channel.as_str(), content, key, echo };
                self.decide_publish(call, id, request, outcome)
            }
            AskedSubject::Call => answer_call(call, id, outcome),
        };
        if let Err(refused) = done {
            call.effects.errors += 1;
            match refused {
                HookRefusal::Ours(refused) => call.say_error(id, &refused),
                HookRefusal::Theirs(HookError { code, message }) => {
                    call.queue_reply(&Reply::ApplicationError {
                        id,
                        code: &code,
                        message: &message,
                    });
                }
            }
        }
        self.lift_bar(call);
    }

    fn decide_subscribe(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        (channel, since, watch): (&str, Option<Since>, bool),
        is_ended: bool,
        outcome: HookOutcome,
    ) -> Result<(), HookRefusal> {
        let grant: ChannelGrant = match outcome {
            HookOutcome::Answered(HookAnswer::Subscribe(SubscribeAnswer::Grant(grant))) => grant,
            HookOutcome::Answered(HookAnswer::Subscribe(SubscribeAnswer::Error(error))) => {
                return Err(HookRefusal::Theirs(error));
            }
            other => return Err(HookRefusal::Ours(unanswered(&other))),
        };
        if is_ended {
            return Err(HookRefusal::Ours(taken_back()));
        }
        if self.find(channel).is_some_and(|at| !self.subscriptions[at].is_live()) {
            let message = "the server is subscribing this connection to the channel; try again";
            return Err(HookRefusal::Ours(Refused::new(Code::Conflict, message)));
        }
        // Members are shown only with the right to see them: the answer may not grant it.
        let kind = if watch { AskedKind::SubscribeAndRead } else { AskedKind::Subscribe };
        let (grant, trusted, replaces) = (Some(grant), false, None);
        let wanted = Wanted { channel, since, watch, grant, trusted, replaces };
        self.subscribe(call, id, kind, wanted).map_err(HookRefusal::Ours)?;
        Ok(())
    }

    fn decide_publish(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        mut request: PublishRequest<'_>,
        outcome: HookOutcome,
    ) -> Result<(), HookRefusal> {
        match outcome {
            HookOutcome::Allowed
            | HookOutcome::Answered(HookAnswer::Publish(PublishAnswer::Accept)) => {}
            HookOutcome::Answered(HookAnswer::Publish(PublishAnswer::Replace(content))) => {
                request.content = content;
            }
            HookOutcome::Answered(HookAnswer::Publish(PublishAnswer::Error(error))) => {
                return Err(HookRefusal::Theirs(error));
            }
            other => return Err(HookRefusal::Ours(unanswered(&other))),
        }
        self.publish_decided(call, id, request).map_err(HookRefusal::Ours)
    }
}

/// Why a request fails.
enum HookRefusal {
    Ours(Refused),
    /// The application rejects it, with an error of its own.
    Theirs(HookError),
}

fn answer_call(
    call: &mut Call<'_>,
    id: Option<&str>,
    outcome: HookOutcome,
) -> Result<(), HookRefusal> {
    match outcome {
        HookOutcome::Answered(HookAnswer::Call(CallAnswer::Content(content))) => {
            call.queue_reply(&Reply::CallResult { id, content: &content });
            Ok(())
        }
        HookOutcome::Answered(HookAnswer::Call(CallAnswer::Error(error))) => {
            Err(HookRefusal::Theirs(error))
        }
        other => Err(HookRefusal::Ours(unanswered(&other))),
    }
}

/// Returns the error for a question without an answer.
fn unanswered(outcome: &HookOutcome) -> Refused {
    let HookOutcome::Failed { kind, cause, retry_after_ms } = *outcome else {
        debug_assert!(false, "the answer is one to the question: {outcome:?}");
        return Refused::new(Code::Internal, "the application's answer does not fit the request");
    };
    if cause == FailureCause::NoApplication {
        let message = "no application answers here: set hook_url in the [[backend]] of the route";
        return Refused::new(Code::NotFound, message);
    }
    let message = match kind {
        // Others change nothing at the application, so their repetition is harmless.
        HookKind::Call => {
            "the application did not answer; it may have carried out the call: retry later if that \
             is harmless"
        }
        _ => "the application that decides on this did not answer; retry later",
    };
    let refused = Refused::new(Code::Unavailable, message);
    Refused { retry_after_ms: Some(retry_after_ms), ..refused }
}
