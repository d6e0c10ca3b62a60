//! Revoked tickets and grants, recorded by subject and time of issue.
//!
//! Clients hold the sealed texts, so the server keeps the counterpart: the time up to which those
//! of a user, of a connection, or of either for one channel are void. The tables are bounded. An
//! entry is dropped once everything that it voids has expired. When a table of backends' entries is
//! full, its oldest entry becomes a rule for all subjects: whatever was issued up to its time is
//! void. So no revocation is ever lost; the price is that some clients have to authenticate again.
//! Entries that clients cause are in a table of their own, so that they cannot displace the others.
//!
//! Times of issue and of revocation come from one logical clock for all shards: what is issued
//! after a revocation has a later time, even within the same millisecond.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::auth::Subject;

/// Entries of one table.
const ENTRIES_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    /// Tickets and grants of a user or connection.
    subjects: Mutex<Table>,
    /// Grants of a user or connection for one channel.
    channels: Mutex<Table>,
    /// Tickets issued before the client authenticated with a token with other rights.
    outdated: Mutex<Table>,
    /// The time of the last revocation (Unix, ms).
    last_ms: AtomicU64,
    /// The latest time of issue.
    issued_ms: AtomicU64,
    /// The longest lifetime of any ticket or grant in circulation (ms).
    life_ms: AtomicU64,
}

/// Void times by subject, and the order of revocations.
#[derive(Debug, Default)]
struct Table {
    /// For each subject: whatever was issued up to this time is void.
    until_ms: HashMap<Box<str>, u64>,
    /// The revocations in order. A subject that is revoked again is appended again; its earlier
    /// entry is stale then, recognized by its time.
    order: VecDeque<(Box<str>, u64)>,
    /// Whatever was issued up to this time is void, for all subjects.
    floor_ms: u64,
    /// Bytes of the subjects' texts, in both collections.
    text_bytes: usize,
}

impl Table {
    fn insert(&mut self, subject: String, until_ms: u64, expired_before_ms: u64, closed: bool) {
        let subject: Box<str> = subject.into();
        self.text_bytes += subject.len();
        if self.until_ms.insert(subject.clone(), until_ms).is_none() {
            self.text_bytes += subject.len();
        }
        self.order.push_back((subject, until_ms));
        // Drop stale, expired and surplus entries from the front, oldest first.
        while let Some((subject, until)) = self.order.front() {
            let is_current = self.until_ms.get(subject) == Some(until);
            let full = self.until_ms.len() > ENTRIES_MAX;
            let expired = *until < expired_before_ms;
            if is_current && !expired && !full {
                break;
            }
            // A live entry is dropped only for lack of room: the floor keeps it in force.
            if is_current && !expired && closed {
                self.floor_ms = self.floor_ms.max(*until);
            }
            if is_current {
                self.text_bytes -= subject.len();
                self.until_ms.remove(subject);
            }
            self.text_bytes -= subject.len();
            self.order.pop_front();
        }
        // Stale entries in the middle are removed once they are the majority: amortized O(1).
        if self.order.len() > 2 * self.until_ms.len().max(16) {
            let Self { until_ms, text_bytes, .. } = self;
            self.order.retain(|(subject, until)| {
                let is_current = until_ms.get(subject) == Some(until);
                *text_bytes -= if is_current { 0 } else { subject.len() };
                is_current
            });
        }
    }

    /// Returns its memory (bytes).
    fn bytes(&self) -> usize {
        // The hash table has one control byte for each slot.
        let places = self.until_ms.capacity() * (size_of::<(Box<str>, u64)>() + 1);
        places + self.order.capacity() * size_of::<(Box<str>, u64)>() + self.text_bytes
    }

    fn is_void(&self, subject: &str, issued_ms: u64) -> bool {
        issued_ms <= self.floor_ms
            || self.until_ms.get(subject).is_some_and(|until| issued_ms <= *until)
    }
}

/// Returns the key of a subject. A prefix keeps users and connections of the same name apart.
fn of_subject(subject: &Subject) -> String {
    match subject {
        Subject::User(user) => format!("u{user}"),
        Subject::Connection(id) => format!("c{id}"),
    }
}

/// Returns the key of a subject's grants for a channel. Channel names contain no zero byte.
fn of_channel(subject: &Subject, channel: &str) -> String {
    format!("{channel}\0{}", of_subject(subject))
}

fn lock_table(table: &Mutex<Table>) -> std::sync::MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Revoked {
    /// Returns the memory of all tables (bytes).
    pub(super) fn bytes(&self) -> u64 {
        let tables = [&self.subjects, &self.channels, &self.outdated];
        tables.into_iter().map(|table| lock_table(table).bytes() as u64).sum()
    }

    /// Notes that tickets and grants live this long from now on.
    pub(super) fn expect_life(&self, life_s: u64) {
        self.life_ms.fetch_max(life_s.saturating_mul(1000), Ordering::Relaxed);
    }

    /// Returns the time of issue for a ticket or grant that is being sealed.
    pub(super) fn issue_time_ms(&self, now_ms: u64) -> u64 {
        // Later than the last revocation, which must not void it.
        let issued_ms = now_ms.max(self.last_ms.load(Ordering::SeqCst).saturating_add(1));
        self.issued_ms.fetch_max(issued_ms, Ordering::SeqCst);
        issued_ms
    }

    /// Returns the time of a new revocation: not before anything issued, and after the last
    /// revocation.
    fn next_revocation_ms(&self, now_ms: u64) -> u64 {
        let issued_ms = self.issued_ms.load(Ordering::SeqCst);
        let least_ms = now_ms.max(issued_ms);
        let next = |last: u64| Some(least_ms.max(last.saturating_add(1)));
        let update = self.last_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        least_ms.max(update.unwrap_or_else(|last| last).saturating_add(1))
    }

    fn insert(&self, table: &Mutex<Table>, subject: String, now_ms: u64, closed: bool) -> u64 {
        let until_ms = self.next_revocation_ms(now_ms);
        let expired_before_ms = now_ms.saturating_sub(self.life_ms.load(Ordering::Relaxed));
        lock_table(table).insert(subject, until_ms, expired_before_ms, closed);
        until_ms
    }

    /// Voids the tickets and grants of a user or connection. Returns up to which time of issue.
    pub(super) fn revoke(&self, subject: &Subject, now_ms: u64) -> u64 {
        self.insert(&self.subjects, of_subject(subject), now_ms, true)
    }

    /// Voids the grants of a user or connection for a channel. Returns up to which time of issue.
    pub(super) fn revoke_channel(&self, subject: &Subject, channel: &str, now_ms: u64) -> u64 {
        self.insert(&self.channels, of_channel(subject, channel), now_ms, true)
    }

    /// Notes a revocation of another node: whatever was issued up to this time is void, of a user
    /// or connection, or of its grants for a channel.
    pub(super) fn note_revocation(&self, subject: &Subject, channel: Option<&str>, until_ms: u64) {
        // What is issued from now on is later, also if the other node's clock is ahead.
        self.last_ms.fetch_max(until_ms, Ordering::SeqCst);
        let (table, subject) = match channel {
            Some(channel) => (&self.channels, of_channel(subject, channel)),
            None => (&self.subjects, of_subject(subject)),
        };
        let mut table = lock_table(table);
        if table.until_ms.get(&*subject).is_none_or(|known| *known < until_ms) {
            let expired_before_ms = until_ms.saturating_sub(self.life_ms.load(Ordering::Relaxed));
            table.insert(subject, until_ms, expired_before_ms, true);
        }
    }

    /// Voids the tickets of a connection that has authenticated with a token with other rights. If
    /// such an entry is lost, an old ticket still gives no more than its own token, until that
    /// expires.
    pub(super) fn void_tickets(&self, connection: &str, now_ms: u64) {
        self.insert(&self.outdated, connection.to_owned(), now_ms, false);
    }

    /// Returns whether a ticket or grant for any of these subjects was revoked.
    pub(super) fn is_revoked(&self, subjects: &[Subject], issued_ms: u64) -> bool {
        let table = lock_table(&self.subjects);
        subjects.iter().any(|subject| table.is_void(&of_subject(subject), issued_ms))
    }

    /// Returns whether a grant for this channel, for any of these subjects, was revoked.
    pub(super) fn is_channel_revoked(
        &self,
        subjects: &[Subject],
        channel: &str,
        issued_ms: u64,
    ) -> bool {
        let table = lock_table(&self.channels);
        subjects.iter().any(|subject| table.is_void(&of_channel(subject, channel), issued_ms))
    }

    /// Returns whether a ticket of this connection was issued before its rights changed.
    pub(super) fn is_outdated(&self, connection: &str, issued_ms: u64) -> bool {
        lock_table(&self.outdated).is_void(connection, issued_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn user(name: &str) -> Subject {
        Subject::User(name.to_owned())
    }

    fn new() -> Revoked {
        let revoked = Revoked::default();
        revoked.expect_life(3600);
        revoked
    }

    /// The counted bytes match the contents.
    fn check_text_bytes(revoked: &Revoked) {
        for table in [&revoked.subjects, &revoked.channels, &revoked.outdated] {
            let table = lock_table(table);
            let subjects = table.until_ms.keys().chain(table.order.iter().map(|(one, _)| one));
            assert_eq!(table.text_bytes, subjects.map(|subject| subject.len()).sum::<usize>());
        }
    }

    #[test]
    fn what_is_issued_later_is_good_in_the_same_millisecond_too() {
        let revoked = new();
        let ann = [user("ann")];
        for now_ms in [NOW, NOW, NOW + 1, NOW - 1000, NOW] {
            let before = revoked.issue_time_ms(now_ms);
            revoked.revoke(&ann[0], now_ms);
            assert!(revoked.is_revoked(&ann, before));
            let after = revoked.issue_time_ms(now_ms);
            assert!(!revoked.is_revoked(&ann, after), "{before} {after}");
        }
        assert!(!revoked.is_revoked(&[user("bob")], NOW));
        assert!(!revoked.is_revoked(&[Subject::Connection("ann".into())], NOW - 5000));
    }

    #[test]
    fn a_revocation_of_another_node_voids_what_was_issued_before_it() {
        let revoked = new();
        let ann = [user("ann")];
        let before = revoked.issue_time_ms(NOW);
        revoked.note_revocation(&ann[0], None, NOW + 10);
        assert!(revoked.is_revoked(&ann, before));
        let after = revoked.issue_time_ms(NOW + 1);
        assert!(!revoked.is_revoked(&ann, after), "the other clock is ahead");
        revoked.revoke(&ann[0], NOW + 20);
        revoked.note_revocation(&ann[0], None, NOW + 10);
        assert!(revoked.is_revoked(&ann, after), "the later one stays in force");
        revoked.note_revocation(&ann[0], Some("a"), NOW + 30);
        assert!(revoked.is_channel_revoked(&ann, "a", NOW + 30));
        assert!(!revoked.is_channel_revoked(&ann, "b", NOW + 30));
        check_text_bytes(&revoked);
    }

    #[test]
    fn a_channel_is_revoked_by_itself() {
        let revoked = new();
        let (ann, issued_ms) = ([user("ann")], revoked.issue_time_ms(NOW));
        revoked.revoke_channel(&ann[0], "a", NOW);
        assert!(revoked.is_channel_revoked(&ann, "a", issued_ms));
        assert!(!revoked.is_channel_revoked(&ann, "b", issued_ms));
        assert!(!revoked.is_revoked(&ann, issued_ms));
    }

    #[test]
    fn a_subject_that_is_revoked_again_is_as_good_as_new() {
        let revoked = new();
        revoked.revoke(&user("ann"), NOW);
        revoked.revoke(&user("second"), NOW);
        let issued_ms = revoked.issue_time_ms(NOW);
        revoked.revoke(&user("ann"), NOW + 1);
        for n in 0..ENTRIES_MAX - 1 {
            revoked.revoke(&user(&n.to_string()), NOW + 2);
        }
        let table = lock_table(&revoked.subjects);
        assert!(table.until_ms.len() <= ENTRIES_MAX);
        assert!(table.until_ms.contains_key("uann"), "it has moved behind the second");
        assert!(!table.until_ms.contains_key("usecond"));
        assert!(table.floor_ms < issued_ms);
    }

    /// Whatever is evicted, nothing that was revoked becomes valid.
    #[test]
    fn a_full_table_forgets_nothing() {
        let revoked = new();
        let mut issued = Vec::new();
        for n in 0..ENTRIES_MAX + 1000 {
            let now_ms = NOW + n as u64 / 16;
            issued.push(revoked.issue_time_ms(now_ms));
            revoked.revoke(&user(&n.to_string()), now_ms);
        }
        for (n, issued_ms) in issued.into_iter().enumerate() {
            assert!(revoked.is_revoked(&[user(&n.to_string())], issued_ms), "{n}");
        }
        let fresh = revoked.issue_time_ms(NOW);
        assert!(!revoked.is_revoked(&[user("0"), user("other")], fresh));
        check_text_bytes(&revoked);
        assert!((5 << 20..20 << 20).contains(&revoked.bytes()), "{}", revoked.bytes());
    }

    #[test]
    fn what_has_expired_makes_room_without_harm() {
        let revoked = new();
        let others = revoked.issue_time_ms(NOW);
        revoked.revoke(&user("ann"), NOW);
        revoked.revoke(&user("bob"), NOW + 3_600_000 + 10);
        check_text_bytes(&revoked);
        let table = lock_table(&revoked.subjects);
        assert_eq!((table.until_ms.len(), table.order.len()), (1, 1));
        assert!(!table.is_void("uother", others));
    }

    #[test]
    fn one_subject_over_and_over_takes_one_place() {
        let revoked = new();
        revoked.revoke(&user("first"), NOW);
        for n in 0..10_000 {
            revoked.revoke(&user("ann"), NOW + n);
        }
        check_text_bytes(&revoked);
        let table = lock_table(&revoked.subjects);
        assert_eq!(table.until_ms.len(), 2);
        assert!(table.order.len() <= 40, "{}", table.order.len());
    }

    #[test]
    fn clients_void_nothing_of_others() {
        let revoked = new();
        let issued_ms = revoked.issue_time_ms(NOW);
        for n in 0..ENTRIES_MAX + 10 {
            revoked.void_tickets(&n.to_string(), NOW);
        }
        assert!(!revoked.is_outdated("0", issued_ms), "forgotten");
        assert!(revoked.is_outdated("11", issued_ms));
        assert!(!revoked.is_revoked(&[user("ann")], issued_ms));
        assert!(!revoked.is_outdated("another", issued_ms));
    }
}
