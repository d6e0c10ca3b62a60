//! A connection whose handshake is over: what it takes to open and seal its records, as plain data.

use rustls::{AlertDescription as Alert, ContentType};

use super::keys::{Direction, KeyCache, SessionId};
use super::record::{self, CONTENT_BYTES_MAX, HEADER_BYTES, RecordBuilder};
use super::secrets::DirectionSecrets;
use super::suite::{Suite, Version};

/// Changes of keys without data between them that a peer may make.
const IDLE_UPDATES_MAX: u8 = 32;
/// Records that are sealed at once, at most: keys change so many before their bound.
const RECORDS_AT_ONCE_MAX: u64 = 1 << 16;

/// Types of handshake messages.
const CLIENT_HELLO: u8 = 1;
const KEY_UPDATE: u8 = 24;

/// What opening a record came to.
#[derive(Debug)]
pub enum Opened<'r> {
    /// Content, perhaps none.
    Data(&'r mut [u8]),
    /// Something that concerns the record layer alone.
    Control,
    /// The peer has ended its side of the connection.
    Closed,
    /// The peer reports an error, and the connection has ended.
    Failed(Alert),
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    No,
    /// A `close_notify` or another alert is owed, behind all that is queued.
    Owed(Alert),
    /// It was sealed: nothing follows it.
    Sent,
}

/// Bytes that few connections have, and none while it is idle.
#[derive(Default)]
struct Extra {
    /// A record that has not wholly come.
    partial: Vec<u8>,
    /// What the handshake has left to be sent, sealed already.
    last_flight: Vec<u8>,
}

/// A whole record.
#[derive(Debug)]
pub enum Record<'w> {
    /// It lies where it was received.
    InPlace(&'w mut [u8]),
    /// It came in several parts.
    Joined(Vec<u8>),
}

impl Record<'_> {
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::InPlace(bytes) => bytes,
            Self::Joined(bytes) => bytes,
        }
    }
}

/// An established connection.
pub struct Session {
    id: SessionId,
    receive: DirectionSecrets,
    send: DirectionSecrets,
    extra: Option<Box<Extra>>,
    suite: Suite,
    end: End,
    idle_updates: u8,
    owes_key_update: bool,
    has_peer_closed: bool,
}

const _: () = assert!(size_of::<Session>() <= 232, "an idle connection costs this and its slot");

impl Session {
    /// `last_flight`: what the handshake has left to be sent.
    pub(super) fn new(
        id: SessionId,
        suite: Suite,
        receive: DirectionSecrets,
        send: DirectionSecrets,
        last_flight: Vec<u8>,
    ) -> Self {
        let extra = Extra { partial: Vec::new(), last_flight };
        Self {
            id,
            receive,
            send,
            extra: (!extra.last_flight.is_empty()).then(|| Box::new(extra)),
            suite,
            end: End::No,
            idle_updates: 0,
            owes_key_update: false,
            has_peer_closed: false,
        }
    }

    pub fn version(&self) -> Version {
        self.suite.version
    }

    pub(super) fn cipher_name(&self) -> &'static str {
        self.suite.cipher.name()
    }

    /// Drops its expanded keys, for it ends.
    pub fn forget_keys(&self, keys: &mut KeyCache) {
        keys.forget(self.id);
    }

    /// Bytes of memory for a record that has not wholly come.
    pub fn partial_bytes(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.partial.capacity())
    }

    /// Drops a record that has not wholly come: nothing is opened any more.
    pub fn drop_partial(&mut self) {
        if let Some(extra) = &mut self.extra {
            extra.partial = Vec::new();
            self.drop_empty_extra();
        }
    }

    /// Whether the peer has ended its side as TLS asks for, so that nothing it sent was cut off.
    pub fn has_peer_closed(&self) -> bool {
        self.has_peer_closed
    }

    /// Takes the next whole record off the input: where it lies, if it is whole there, or joined
    /// with what was kept of it. An unfinished record is kept.
    ///
    /// # Errors
    /// The alert that answers a header which no record can have.
    #[expect(clippy::mut_mut, reason = "the input moves past what was taken")]
    pub fn next_record<'w>(
        &mut self,
        wire: &mut &'w mut [u8],
    ) -> Result<Option<Record<'w>>, Alert> {
        let is_begun = self.extra.as_ref().is_some_and(|extra| !extra.partial.is_empty());
        if is_begun {
            return Ok(self.join_record(wire)?.map(Record::Joined));
        }
        if let Some(header) = wire.first_chunk() {
            record::check_header(self.suite, *header)?;
        }
        match record::record_bytes(wire) {
            Some(bytes) if wire.len() >= bytes => {
                let (record, rest) = std::mem::take(wire).split_at_mut(bytes);
                *wire = rest;
                Ok(Some(Record::InPlace(record)))
            }
            _ => {
                if !wire.is_empty() {
                    let rest = std::mem::take(wire);
                    self.extra.get_or_insert_default().partial.extend_from_slice(rest);
                }
                Ok(None)
            }
        }
    }

    /// Adds to the record that has begun to come; returns it once it is whole.
    #[expect(clippy::mut_mut, reason = "the input moves past what was taken")]
    fn join_record(&mut self, wire: &mut &mut [u8]) -> Result<Option<Vec<u8>>, Alert> {
        let partial = &mut self.extra.get_or_insert_default().partial;
        let mut add = |partial: &mut Vec<u8>, up_to: usize| {
            let taken = up_to.saturating_sub(partial.len()).min(wire.len());
            let (added, rest) = std::mem::take(wire).split_at_mut(taken);
            partial.extend_from_slice(added);
            *wire = rest;
        };
        if partial.len() < HEADER_BYTES {
            add(partial, HEADER_BYTES);
            let Some(header) = partial.first_chunk() else { return Ok(None) };
            record::check_header(self.suite, *header)?;
        }
        let Some(bytes) = record::record_bytes(partial) else { return Ok(None) };
        add(partial, bytes);
        if partial.len() < bytes {
            return Ok(None);
        }
        let record = std::mem::take(partial);
        self.drop_empty_extra();
        Ok(Some(record))
    }

    fn drop_empty_extra(&mut self) {
        let is_empty = |extra: &Extra| extra.partial.is_empty() && extra.last_flight.is_empty();
        if self.extra.as_deref().is_some_and(is_empty) {
            self.extra = None;
        }
    }

    /// Opens a record that [`Self::next_record`] has returned.
    ///
    /// # Errors
    /// The alert to answer with: the connection cannot continue.
    pub fn open<'r>(
        &mut self,
        keys: &mut KeyCache,
        record: &'r mut [u8],
    ) -> Result<Opened<'r>, Alert> {
        if self.has_peer_closed {
            // Nothing that follows has a meaning.
            return Ok(Opened::Control);
        }
        let number = self.receive.take_number();
        let key = keys.key(self.id, Direction::Receive, &self.receive, self.suite.cipher);
        let (kind, content) = record::open(self.suite, key, &self.receive.iv(), number, record)?;
        match kind {
            ContentType::ApplicationData => {
                if !content.is_empty() {
                    self.idle_updates = 0;
                }
                Ok(Opened::Data(content))
            }
            ContentType::Alert => self.take_alert(content),
            ContentType::Handshake => self.take_handshake(content).map(|()| Opened::Control),
            _ => Err(Alert::UnexpectedMessage),
        }
    }

    fn take_alert<'r>(&mut self, content: &[u8]) -> Result<Opened<'r>, Alert> {
        let [level, description] = *content else { return Err(Alert::DecodeError) };
        match Alert::from(description) {
            Alert::CloseNotify => {
                self.has_peer_closed = true;
                Ok(Opened::Closed)
            }
            // Announces a close_notify.
            Alert::UserCanceled => self.count_idle().map(|()| Opened::Control),
            _ if level == record::WARNING && self.suite.version == Version::Tls12 => {
                self.count_idle().map(|()| Opened::Control)
            }
            failure => {
                self.end = End::Sent;
                Ok(Opened::Failed(failure))
            }
        }
    }

    /// Counts something of a peer that moves no data: endlessly much of it is an attack.
    fn count_idle(&mut self) -> Result<(), Alert> {
        self.idle_updates += 1;
        if self.idle_updates > IDLE_UPDATES_MAX {
            return Err(Alert::UnexpectedMessage);
        }
        Ok(())
    }

    fn take_handshake(&mut self, content: &[u8]) -> Result<(), Alert> {
        match (self.suite.version, content) {
            (Version::Tls13, &[KEY_UPDATE, 0, 0, 1, request]) if request <= 1 => {
                self.count_idle()?;
                self.receive.update(self.suite);
                self.owes_key_update |= request == 1;
                Ok(())
            }
            (Version::Tls13, &[KEY_UPDATE, 0, 0, 1, _]) => Err(Alert::IllegalParameter),
            (Version::Tls12, [CLIENT_HELLO, ..]) => Err(Alert::NoRenegotiation),
            _ => Err(Alert::UnexpectedMessage),
        }
    }

    /// Whether it has something of its own to send.
    pub fn has_output(&self) -> bool {
        matches!(self.end, End::Owed(_))
            || (self.end == End::No && (self.owes_key_update || self.has_last_flight()))
    }

    fn has_last_flight(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| !extra.last_flight.is_empty())
    }

    /// Whether nothing more may be sealed: the end of the connection was, or the peer reported an
    /// error.
    pub fn has_ended(&self) -> bool {
        self.end == End::Sent
    }

    /// Ends the connection with a `close_notify` behind all that is queued.
    pub fn finish(&mut self) {
        self.end_with(Alert::CloseNotify);
    }

    /// Ends the connection with an alert.
    pub fn fail(&mut self, alert: Alert) {
        self.end_with(alert);
    }

    fn end_with(&mut self, alert: Alert) {
        // The first reason stays.
        if self.end == End::No {
            self.end = End::Owed(alert);
        }
    }

    /// Whether the key has sealed so much that the connection has to end soon. In TLS 1.3, it is
    /// changed instead.
    pub fn is_worn_out(&self) -> bool {
        self.suite.version == Version::Tls12 && self.is_key_worn()
    }

    fn is_key_worn(&self) -> bool {
        self.send.records() >= self.suite.cipher.records_max() - RECORDS_AT_ONCE_MAX
    }

    /// Bytes that the records for so much content have beside it.
    pub fn overhead_bytes(&self, content_bytes: usize) -> usize {
        content_bytes.div_ceil(CONTENT_BYTES_MAX) * self.record_overhead_bytes()
    }

    /// Bytes that each record has beside its content.
    pub fn record_overhead_bytes(&self) -> usize {
        HEADER_BYTES + self.suite.expansion_bytes()
    }

    /// Writes what precedes the next content: the rest of the handshake, and a change of keys.
    pub fn seal_owed(&mut self, keys: &mut KeyCache, out: &mut Vec<u8>) {
        if self.end == End::Sent {
            return;
        }
        if let Some(extra) = &mut self.extra {
            out.append(&mut extra.last_flight);
            extra.last_flight = Vec::new();
            self.drop_empty_extra();
        }
        let is_worn = self.suite.version == Version::Tls13 && self.is_key_worn();
        if std::mem::take(&mut self.owes_key_update) || is_worn {
            let message = [KEY_UPDATE, 0, 0, 1, 0];
            self.seal_record(keys, ContentType::Handshake, &message, out);
            self.send.update(self.suite);
        }
    }

    /// Seals content as records of the largest size, behind what `out` holds.
    pub fn seal<'p>(
        &mut self,
        keys: &mut KeyCache,
        plain: impl Iterator<Item = &'p [u8]>,
        out: &mut Vec<u8>,
    ) {
        assert!(self.end != End::Sent, "nothing follows the end of a connection");
        // Only the last record may have room left.
        let mut content_start = None;
        for mut rest in plain {
            while !rest.is_empty() {
                let start = *content_start.get_or_insert(out.len());
                let mut record = RecordBuilder::at(self.suite, out, start);
                rest = record.add(rest);
                if record.is_full() {
                    self.finish_record(keys, record, ContentType::ApplicationData);
                    content_start = None;
                }
            }
        }
        if let Some(start) = content_start {
            let record = RecordBuilder::at(self.suite, out, start);
            self.finish_record(keys, record, ContentType::ApplicationData);
        }
    }

    fn finish_record(&mut self, keys: &mut KeyCache, record: RecordBuilder<'_>, kind: ContentType) {
        let number = self.send.take_number();
        let key = keys.key(self.id, Direction::Send, &self.send, self.suite.cipher);
        record.seal(key, &self.send.iv(), number, kind);
    }

    fn seal_record(
        &mut self,
        keys: &mut KeyCache,
        kind: ContentType,
        content: &[u8],
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        let mut record = RecordBuilder::at(self.suite, out, start);
        let rest = record.add(content);
        debug_assert!(rest.is_empty(), "messages of the protocol are short");
        self.finish_record(keys, record, kind);
    }

    /// Writes the end of the connection, if it is owed: nothing may be sealed behind it.
    pub fn seal_end(&mut self, keys: &mut KeyCache, out: &mut Vec<u8>) {
        if let End::Owed(alert) = self.end {
            self.seal_record(keys, ContentType::Alert, &record::alert_content(alert), out);
            self.end = End::Sent;
        }
    }
}

#[cfg(test)]
impl Session {
    /// A session with the same secrets, which no connection has twice.
    pub(super) fn copy_for_tests(&self, id: SessionId) -> Self {
        let (receive, send) = (self.receive.copy_for_tests(), self.send.copy_for_tests());
        Self::new(id, self.suite, receive, send, Vec::new())
    }

    pub(super) fn wear_key_for_tests(&mut self) {
        self.send.skip_for_tests(self.suite.cipher.records_max() - RECORDS_AT_ONCE_MAX);
    }

    pub(super) fn take_handshake_for_tests(&mut self, content: &[u8]) -> Result<(), Alert> {
        self.take_handshake(content)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("suite", &self.suite).finish_non_exhaustive()
    }
}
