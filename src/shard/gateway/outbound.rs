//! Records to links: gathered during a turn, and queued at its end, one buffer for each link.

use std::sync::Arc;

use super::Gateway;
use super::entry::GatewayEntry;
use crate::backend::links::BackendLink;
use crate::driver::Token;
use crate::link::{LinkRecord, LinkSession, RecordFlags, RecordKind, append_record};
use crate::metrics::Counters;
use crate::proto::ws::DataKind;
use crate::shard::connections::{Connections, SessionReadiness};

/// A turn's records, by link.
#[derive(Debug, Default)]
pub(super) struct Outgoing(Vec<(Arc<BackendLink>, Vec<u8>)>);

impl Outgoing {
    /// Appends a record.
    pub(super) fn append(&mut self, link: &Arc<BackendLink>, record: &LinkRecord<'_>) {
        // There are few links, and most records of a turn are for the last one.
        let at = self.0.iter().rposition(|(own, _)| Arc::ptr_eq(own, link));
        let at = at.unwrap_or_else(|| {
            self.0.push((link.clone(), Vec::new()));
            self.0.len() - 1
        });
        append_record(&mut self.0[at].1, record);
    }

    /// Appends the end of a session.
    pub(super) fn close(&mut self, link: &Arc<BackendLink>, session: LinkSession, code: u32) {
        self.append(link, &LinkRecord::new(RecordKind::Close, session, code, b""));
    }

    /// Appends the request to finish with a session on a link that it leaves.
    pub(super) fn close_moved(&mut self, link: &Arc<BackendLink>, session: LinkSession) {
        let close = LinkRecord::new(RecordKind::Close, session, 0, b"");
        self.append(link, &close.with(RecordFlags::MOVED));
    }

    /// Appends a session that moves to a link, with this description, and all messages that are not
    /// acknowledged; counts it there.
    pub(super) fn open_moved(
        &mut self,
        counters: &mut Counters,
        entry: &GatewayEntry,
        link: &Arc<BackendLink>,
        (session, body): (LinkSession, &[u8]),
    ) {
        link.enter();
        link.add_unacked(entry.up.bytes());
        let open = LinkRecord::new(RecordKind::Open, session, entry.up.acknowledged(), body);
        self.append(link, &open.with(RecordFlags::MOVED));
        counters.gateway_moved += 1;
        for (number, message) in entry.up.unacknowledged() {
            let kind = message_kind(message.kind);
            let record = LinkRecord::new(kind, session, number, &message.payload);
            self.append(link, &record.with(RecordFlags::REDELIVERED));
            counters.gateway_redelivered += 1;
        }
    }

    /// Queues the records for their links.
    pub(super) fn flush(&mut self) {
        self.0.drain(..).for_each(|(link, records)| link.send(records));
    }

    /// Returns the bytes that are not queued yet.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, records)| records.capacity()).sum()
    }
}

/// Returns the kind of a record with a message.
pub(super) fn message_kind(kind: DataKind) -> RecordKind {
    match kind {
        DataKind::Text => RecordKind::Text,
        DataKind::Binary => RecordKind::Binary,
    }
}

impl Gateway {
    /// Queues the turn's records for their links.
    pub(in crate::shard) fn flush_links(&mut self) {
        self.outgoing.flush();
    }

    /// Sends a client's message to its application.
    pub(super) fn send_up(&mut self, index: u32, kind: DataKind, payload: &[u8]) {
        let shard = self.id;
        let Self { sessions, spare, outgoing, .. } = self;
        let entry = sessions.get_mut(index as usize).and_then(Option::as_deref_mut);
        let Some(entry) = entry else { return };
        let token = Token { slot: index, generation: entry.generation };
        let session = LinkSession { shard, token };
        let number = entry.up.push(kind, payload, spare);
        // While it has no link or leaves one, the message waits for the next link.
        let Some(link) = entry.link.as_ref() else { return };
        link.add_unacked(payload.len());
        if entry.is_open() {
            let record = LinkRecord::new(message_kind(kind), session, number, payload);
            outgoing.append(link, &record);
        }
    }

    /// Reports what the application waits for, once the client's queue has drained far enough.
    pub(super) fn note_drained(&mut self, connections: &mut Connections, index: u32) {
        let queued = connections.outbox_bytes(index);
        let sent_bytes = connections.sent_bytes(index);
        let session = connections.session_id(index);
        let low = connections.config().limits.outbox_low_bytes / 2;
        let Self { sessions, outgoing, .. } = self;
        let entry = sessions.get_mut(index as usize).and_then(Option::as_deref_mut);
        let Some(entry) = entry else { return };
        if let Some(extra) = &mut entry.extra {
            while let Some(first) = extra.receipts.front() {
                if queued > 0 && first.position.is_none_or(|position| sent_bytes < position) {
                    break;
                }
                let record = LinkRecord::new(RecordKind::Sent, session, first.number, b"");
                entry.link.iter().for_each(|link| outgoing.append(link, &record));
                extra.receipts.pop_front();
            }
        }
        if entry.is_slow() && queued <= low {
            entry.replace_slow(false);
            let bytes = u32::try_from(queued).unwrap_or(u32::MAX);
            let record = LinkRecord::new(RecordKind::Ready, session, bytes, b"");
            entry.link.iter().for_each(|link| outgoing.append(link, &record));
        }
        // Whether the client is read from changes only where that is reconsidered: not here, while
        // sends are built.
        let earlier = connections.readiness(index);
        let readiness = SessionReadiness::new(earlier.is_waiting(), false, entry.awaits_drain());
        let readiness = readiness.with_publications(earlier.has_publications());
        connections.set_readiness(index, readiness);
    }
}
