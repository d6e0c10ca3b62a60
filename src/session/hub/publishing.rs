//! Publishes of clients: checks, budgets, and the way to the channel's home.

use super::Call;
use super::pending::AskedKind;
use super::realm::retention_of;
use super::state::{Bucket, HubSession};
use crate::admission::rate::{self, Rate};
use crate::auth::{self, Access, Namespace};
use crate::hub::{Code, Draft, KeyScope, Refused, Verb};
use crate::session::protocol::Text;

/// A requested publish.
pub(super) struct PublishRequest<'p> {
    pub(super) channel: &'p str,
    /// JSON on one line.
    pub(super) content: Box<str>,
    pub(super) key: Option<Text<'p>>,
    pub(super) echo: bool,
}

impl HubSession {
    pub(super) fn publish(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        request: PublishRequest<'_>,
    ) -> Result<(), Refused> {
        let (namespace, key) = self.check_publish(call, &request)?;
        if !self.may_publish_now(namespace, call.now_ns) {
            let message =
                format!("more than {} publishes per second; wait and try again", namespace.rate);
            return Err(Refused::new(Code::RateLimited, message));
        }
        if namespace.publish == Access::Backend {
            let (backend, on_failure) = (namespace.events.backend, namespace.on_failure);
            self.ask_to_publish(call, id, request, on_failure, backend);
            return Ok(());
        }
        self.send_publish(call, id, request, namespace, key);
        Ok(())
    }

    /// Publishes what an application has decided on; its rate was charged before.
    pub(super) fn publish_decided(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        request: PublishRequest<'_>,
    ) -> Result<(), Refused> {
        let (namespace, key) = self.check_publish(call, &request)?;
        self.send_publish(call, id, request, namespace, key);
        Ok(())
    }

    /// Makes the checks that have no side effects, so that a rejected publish uses no budget.
    fn check_publish<'r>(
        &self,
        call: &Call<'r>,
        request: &PublishRequest<'_>,
    ) -> Result<(&'r Namespace, Option<Box<KeyScope>>), Refused> {
        let PublishRequest { channel, content, key, .. } = request;
        let namespace = self.decide_permission(call, auth::Permission::Publish, channel)?;
        if content.len() > namespace.message_bytes_max as usize {
            let message = format!(
                "content of {} bytes exceeds this channel's limit of {}; send it in parts, or by \
                 reference",
                content.len(),
                namespace.message_bytes_max
            );
            return Err(Refused::new(Code::TooLarge, message));
        }
        let scoped = key.as_ref().map(|key| KeyScope::new(self.owner(), key));
        Ok((namespace, scoped.transpose()?.map(Box::new)))
    }

    fn send_publish(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        request: PublishRequest<'_>,
        namespace: &Namespace,
        key: Option<Box<KeyScope>>,
    ) {
        let PublishRequest { channel, content, echo, .. } = request;
        let draft = Draft {
            content,
            from: Some(self.sender()),
            exclude: (!echo).then_some(self.id),
            time_ms: call.now_ms,
            accepted_ns: call.now_ns,
            storing: call.realm.protocols.storing(),
        };
        let verb = Verb::Publish { draft: Box::new(draft), key };
        let name = self.name_to_publish(channel);
        self.send_request(call, id, AskedKind::Other, name, retention_of(namespace), verb);
    }

    /// Takes one publish from the connection's budget for the namespace; its burst is one second's
    /// worth. Returns whether the budget sufficed.
    fn may_publish_now(&mut self, namespace: &Namespace, now_ns: u64) -> bool {
        self.take_from_budget(namespace.pattern.as_str(), namespace.rate, now_ns)
    }

    /// Takes one from the budget of this name, which has `per_second`; 0 = no limit.
    pub(super) fn take_from_budget(&mut self, pattern: &str, per_second: u32, now_ns: u64) -> bool {
        if per_second == 0 {
            return true;
        }
        let rates = &mut self.extras_mut().rates;
        let at = rates.iter().position(|one| *one.pattern == *pattern).unwrap_or_else(|| {
            // A full budget is the same as none, so these can go; otherwise budgets of namespaces
            // that a reload has removed would remain forever.
            rates.retain(|one| !rate::is_at_rest(one.earned, now_ns));
            rates.push(Bucket { pattern: pattern.into(), earned: 0 });
            rates.len() - 1
        });
        let taken =
            Rate::with_burst_of_a_second(per_second).take_tokens(rates[at].earned, 1, now_ns);
        taken.map(|earned| rates[at].earned = earned).is_ok()
    }
}
