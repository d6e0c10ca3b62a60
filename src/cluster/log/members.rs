//! Lists of members: pages for requests, and joins and leaves for watchers.
//!
//! Pages are read as messages are: once the subscription is in effect, so that what follows a page
//! arrives. Revisions grow by one with each join and leave, so they reveal what was missed.

use std::sync::Arc;

use super::{ClusterLog, Purpose};
use crate::cluster::command::{Action, RosterChange};
use crate::cluster::roster::list_change;
use crate::hub::{
    ChannelName, ConnectionId, Done, MemberInfo, MemberKey, Roster, RosterNews, RosterPage,
    RosterRange,
};

impl ClusterLog {
    fn begin_members(&mut self, ticket: u64, channel: u32, range: RosterRange) {
        let (deferral, era) = (self.next_serial(), self.channels[channel as usize].era);
        let purpose = Purpose::Members { ticket, channel, range: range.clone(), era, deferral };
        let token = self.purposes.insert(purpose) as u64;
        if !self.defer(channel, token, deferral) {
            self.submit(channel, token, Action::Members { range });
        }
    }

    /// Processes a page of members.
    pub(super) fn complete_members(&mut self, token: u64, page: RosterPage) {
        match self.take_purpose(token) {
            Some(Purpose::Members { ticket, channel, range, era, .. }) => {
                let own = &mut self.channels[channel as usize];
                if !own.follower.is_off() {
                    if own.era != era {
                        return self.begin_members(ticket, channel, range);
                    }
                    own.revision.get_or_insert(page.revision);
                }
                self.done.push_back(Done::Members { ticket, page: Box::new(page) });
            }
            Some(Purpose::CompareMembers { channel, era, known }) => {
                let own = self.channels.get(channel as usize).filter(|own| own.era == era);
                // Joins and leaves that arrived meanwhile reveal themselves what was missed. An
                // engine that has lost changes continues from an earlier revision.
                let is_current = own.is_some_and(|own| own.revision == Some(known));
                if is_current && known != page.revision {
                    self.report_missed_news(channel, era);
                }
            }
            _ => {}
        }
    }

    /// Compares the revision, because joins and leaves may have been missed.
    pub(super) fn compare_members(&mut self, channel: u32) {
        let own = &self.channels[channel as usize];
        let Some(known) = own.revision else { return };
        let purpose = Purpose::CompareMembers { channel, era: own.era, known };
        let token = self.purposes.insert(purpose) as u64;
        self.submit(channel, token, Action::Members { range: RosterRange::default() });
    }

    /// Reports that joins and leaves were missed, if any were ever reported.
    pub(super) fn report_missed_news(&mut self, channel: u32, era: u64) {
        let own = self.channels.get_mut(channel as usize).filter(|own| own.era == era);
        if let Some(own) = own
            && own.revision.take().is_some()
        {
            self.done.push_back(Done::NewsMissed { key: own.key });
        }
    }

    /// Processes a join or leave.
    pub(super) fn take_news(&mut self, channel: &ChannelName, news: RosterNews) {
        let Some(&channel) = self.names.get(channel) else { return };
        let own = &mut self.channels[channel as usize];
        if own.follower.is_off() || own.is_lingering {
            return;
        }
        match own.revision {
            Some(known) if news.revision <= known => return,
            Some(known) if news.revision > known + 1 => {
                self.done.push_back(Done::NewsMissed { key: own.key });
            }
            _ => {}
        }
        own.revision = Some(news.revision);
        self.done.push_back(Done::News { key: own.key, news: Box::new(news) });
    }

    fn change_roster(&mut self, channel: u32, change: RosterChange) {
        let own = &self.channels[channel as usize];
        self.roster.change(&own.name, own.place, change);
    }
}

impl Roster for ClusterLog {
    fn list_member(
        &mut self,
        channel: u32,
        member: &Arc<MemberInfo>,
        replaces: Option<ConnectionId>,
    ) {
        self.change_roster(channel, list_change(member, replaces));
    }

    fn relist_member(&mut self, channel: u32, member: &Arc<MemberInfo>) {
        self.change_roster(channel, RosterChange::Relist { member: member.clone() });
    }

    fn unlist_member(&mut self, channel: u32, key: &MemberKey) {
        self.change_roster(channel, RosterChange::Unlist { key: key.clone() });
    }

    fn read_members(&mut self, ticket: u64, channel: u32, range: RosterRange) {
        self.begin_members(ticket, channel, range);
    }

    fn take_seat(
        &mut self,
        ticket: u64,
        channel: u32,
        id: ConnectionId,
        replaces: Option<ConnectionId>,
        seats_max: u32,
    ) {
        let own = &self.channels[channel as usize];
        let (about, seat) = ((own.name.clone(), own.place), (id, replaces, seats_max));
        self.roster.take_seat(&mut *self.port, about, ticket, seat);
    }

    fn leave_seat(&mut self, channel: u32, id: ConnectionId) {
        let name = &self.channels[channel as usize].name;
        self.roster.leave_seat(name, id);
    }
}
