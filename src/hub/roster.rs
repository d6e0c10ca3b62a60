//! The roster: the members of a channel on all nodes, where several nodes share their channels.
//!
//! A home lists the members on its own node ([`super::presence`]). Where there are other nodes, it
//! reports each change of that list to a roster, and takes lists, joins and leaves from there.
//!
//! # The contract
//!
//! - What a home has reported last about a member becomes true, however often the way to the roster
//!   breaks: the roster repeats changes by itself. They have no completion.
//! - [`Done::News`](super::Done::News) of a watched channel follow the order of their revisions. A
//!   page names the revision that it was read at: it contains every earlier change, and no later
//!   one. A join may be repeated after a failure. Missed ones are reported by
//!   [`Done::NewsMissed`](super::Done::NewsMissed).
//! - Each command with a ticket has exactly one completion.

use std::sync::Arc;

use super::connection_id::ConnectionId;
use super::presence::{MemberInfo, MemberKey, PresencePage};

/// A request for a page of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RosterRange {
    /// The cursor of an earlier page, or the name of a user; `None`: from the first member.
    pub after: Option<Box<str>>,
    /// 0: only the number of members.
    pub members_max: u32,
    pub bytes_max: u64,
    /// A member to look for, which may be on another page.
    pub sought: Option<SoughtMember>,
}

/// A member, and the connection that it resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoughtMember {
    pub key: MemberKey,
    pub replaces: Option<ConnectionId>,
}

/// A page of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RosterPage {
    pub page: PresencePage,
    /// The revision of the list at the time of the read.
    pub revision: u64,
    /// The key under which the member that was sought is listed, or the connection that it resumes.
    pub listed_as: Option<MemberKey>,
}

/// A change of a channel's list of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterNews {
    pub revision: u64,
    /// Whether the member has joined; otherwise it has left.
    pub has_joined: bool,
    pub member: Arc<MemberInfo>,
}

/// See the module. `channel` is the log's number for it.
pub trait Roster {
    /// Lists a member, or changes how it is listed. `replaces`: a connection of another node that
    /// it resumes: without a user, it is the same member if that connection is still listed.
    fn list_member(
        &mut self,
        channel: u32,
        member: &Arc<MemberInfo>,
        replaces: Option<ConnectionId>,
    );
    /// Changes how a member is listed, and reports a leave and a join if this node is the only one
    /// that lists it.
    fn relist_member(&mut self, channel: u32, member: &Arc<MemberInfo>);
    /// Ends the listing of a member on this node.
    fn unlist_member(&mut self, channel: u32, key: &MemberKey);
    /// Reads a page; completes with [`Done::Members`](super::Done::Members).
    fn read_members(&mut self, ticket: u64, channel: u32, range: RosterRange);
    /// Takes one of `seats_max` seats, or that of the connection that it resumes. Completes with
    /// [`Done::Seated`](super::Done::Seated).
    fn take_seat(
        &mut self,
        ticket: u64,
        channel: u32,
        id: ConnectionId,
        replaces: Option<ConnectionId>,
        seats_max: u32,
    );
    /// Ends a connection's use of a seat, if it has one.
    fn leave_seat(&mut self, channel: u32, id: ConnectionId);
}
