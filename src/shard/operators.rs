//! Mail of operators and backends about connections, whichever layer their sessions are in.

use tokio::sync::oneshot;

use super::connections::{Connections, LINKED};
use super::hub::Look;
use super::layers::Layers;
use super::mail::{Act, ConnectionInfo, ConnectionTarget, Filter, HubMail, Listed, Reached};

/// Slots scanned for one request of a list: filling a page may take several requests.
const LISTED_SLOTS: usize = 16_384;

impl Layers {
    /// Takes mail of the control thread. What concerns sessions of the gateway is done here, the
    /// rest is passed to the hub. Returns a description of a connection that lacks TCP's state.
    pub(super) fn take_mail(
        &mut self,
        connections: &mut Connections,
        mail: HubMail,
    ) -> Option<Look> {
        let mail = match (mail, &mut self.gateway) {
            (HubMail::List { filter, reply }, _) => {
                // The requester may be gone: ignore the error.
                let _ = reply.send(self.list_connections(connections, &filter));
                return None;
            }
            (
                HubMail::Act { target, act: Act::Disconnect { code, reason }, reply },
                Some(gateway),
            ) => {
                match target {
                    ConnectionTarget::Connection(id) if id.session & LINKED != 0 => {
                        let index = gateway.slot_of(id, connections);
                        let count = index.map_or(0, |index| {
                            gateway.close_later(index, code, reason.to_string());
                            1
                        });
                        self.run_closings(connections);
                        // The requester may be gone: ignore the error.
                        let _ = reply.map(|to| to.send(Reached { count, refused: None }));
                        return None;
                    }
                    ConnectionTarget::User(user) => {
                        let (to_gateway, of_hub) = oneshot::channel();
                        let how = (code, reason.clone());
                        gateway.disconnect_user(user.clone(), how, (of_hub, reply));
                        let (target, reply) = (ConnectionTarget::User(user), Some(to_gateway));
                        HubMail::Act { target, act: Act::Disconnect { code, reason }, reply }
                    }
                    target => HubMail::Act { target, act: Act::Disconnect { code, reason }, reply },
                }
            }
            (HubMail::Look { id, reply }, Some(gateway)) if id.session & LINKED != 0 => {
                let index = gateway.slot_of(id, connections);
                let described = index.and_then(|index| self.describe(connections, index));
                let Some((index, info)) = index.zip(described) else {
                    // The requester may be gone: ignore the error.
                    let _ = reply.send(None);
                    return None;
                };
                return Some(Look::new(index, info, reply));
            }
            (HubMail::Review, Some(gateway)) => {
                gateway.begin_review();
                HubMail::Review
            }
            (mail, _) => mail,
        };
        if let Some(hub) = &mut self.hub {
            hub.post_here(mail);
        }
        None
    }

    /// Lists connections by slot.
    fn list_connections(&self, connections: &Connections, filter: &Filter) -> Listed {
        let mut listed = Listed::default();
        let high = connections.slots_high();
        let end = high.min(filter.from_slot.saturating_add(LISTED_SLOTS as u32));
        for index in filter.from_slot..end {
            if listed.connections.len() >= filter.limit as usize {
                listed.next_slot = Some(index);
                break;
            }
            if self.is_wanted(connections, index, filter) {
                listed.connections.extend(self.describe(connections, index));
            }
        }
        if listed.next_slot.is_none() && end < high {
            listed.next_slot = Some(end);
        }
        listed
    }

    /// Returns whether a connection passes the filter. Kept cheap: very many connections are
    /// checked for the few that are described.
    fn is_wanted(&self, connections: &Connections, index: u32, filter: &Filter) -> bool {
        use super::connections::Sessions as _;
        let user = || self.user(index).map(|(user, _)| user);
        filter.user.as_ref().is_none_or(|wanted| user() == Some(wanted))
            && filter.address.is_none_or(|wanted| connections.address(index) == Some(wanted))
    }

    fn describe(&self, connections: &Connections, index: u32) -> Option<ConnectionInfo> {
        let of_hub = self.hub.as_ref().and_then(|hub| hub.describe_connection(connections, index));
        let of_gateway = self.gateway.as_ref().and_then(|own| own.describe(connections, index));
        let (Some(of_gateway), Some(of_hub)) = (&of_gateway, &of_hub) else {
            return of_gateway.or(of_hub);
        };
        // A member of channels behind a link has a session of both.
        Some(ConnectionInfo {
            subscriptions: of_hub.subscriptions.clone(),
            queue_bytes: of_hub.queue_bytes,
            dropped: of_hub.dropped,
            ..of_gateway.clone()
        })
    }
}
