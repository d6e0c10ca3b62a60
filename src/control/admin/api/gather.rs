//! Gathers the publishes of one call: they are sent to each home in one mail, with one reply.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{ApiError, State, check_mailbox, no_hub};
use crate::hub::{Answer, Answers, BatchReplies, ChannelName, Origin, Request, Retention, Verb};
use crate::shard::mail::{HubMail, HubShared, Mail};

/// Requests for one home.
struct ForHome {
    home: u16,
    replies: BatchReplies,
    mails: Vec<HubMail>,
    bytes: usize,
    /// The index of its replies among all lists of the call.
    list: usize,
}

/// Requests of a call that are sent together.
pub(super) struct Gathered<'s> {
    state: &'s State,
    /// The hub's state when the call began, or after a command that it has waited for.
    hub: Option<Arc<HubShared>>,
    mailbox_bytes_max: usize,
    waiting: Vec<ForHome>,
    /// One list of replies for each mail.
    lists: Vec<oneshot::Receiver<Answers>>,
}

/// The place of one request's reply within the gathered ones.
pub(super) struct AnswerPlace {
    list: usize,
    index: usize,
}

impl<'s> Gathered<'s> {
    pub(super) fn new(state: &'s State) -> Self {
        let (waiting, lists) = (Vec::new(), Vec::new());
        let mut gathered = Self { state, hub: None, mailbox_bytes_max: 0, waiting, lists };
        gathered.refresh();
        gathered
    }

    /// Loads the state again: a reload may have changed it while the call waited.
    pub(super) fn refresh(&mut self) {
        self.hub = self.state.0.directory.hub();
        self.mailbox_bytes_max = self.state.config().engine.mailbox_bytes_max as usize;
    }

    /// Returns the state of channels that shards share.
    pub(super) fn hub(&self) -> Result<&HubShared, ApiError> {
        self.hub.as_deref().ok_or_else(no_hub)
    }

    /// Adds a request to a channel's home.
    pub(super) fn ask(
        &mut self,
        channel: ChannelName,
        retention: Retention,
        verb: Verb,
    ) -> Result<AnswerPlace, ApiError> {
        let directory = &self.state.0.directory;
        let home = self.hub()?.home_of(channel.as_str(), directory.len());
        let at = self.waiting.iter().position(|one| one.home == home);
        let gathered_bytes = at.map_or(0, |at| self.waiting[at].bytes);
        check_mailbox(directory, home, gathered_bytes, self.mailbox_bytes_max)?;
        let at = at.unwrap_or_else(|| self.add_home(home));
        let own = &mut self.waiting[at];
        let from = Origin::Batch(own.replies.next_reply());
        let mail = HubMail::Ask(Request { from, channel, retention, verb });
        own.bytes += mail.bytes();
        own.mails.push(mail);
        Ok(AnswerPlace { list: own.list, index: own.mails.len() - 1 })
    }

    fn add_home(&mut self, home: u16) -> usize {
        let (sender, receiver) = oneshot::channel();
        // The caller may have disconnected.
        let replies = BatchReplies::new(move |answers| drop(sender.send(answers)));
        let list = self.lists.len();
        self.lists.push(receiver);
        self.waiting.push(ForHome { home, replies, mails: Vec::new(), bytes: 0, list });
        self.waiting.len() - 1
    }

    /// Sends the requests gathered so far, so that they take effect before the call's next command.
    pub(super) fn send(&mut self) {
        for ForHome { home, mails, .. } in self.waiting.drain(..) {
            self.state.0.directory.post(home, Mail::HubBatch(mails));
        }
    }

    /// Sends the rest, and waits for all replies.
    pub(super) async fn finish(mut self) -> Gained {
        self.send();
        let mut lists = Vec::with_capacity(self.lists.len());
        for list in self.lists {
            lists.push(list.await.unwrap_or_default());
        }
        Gained(lists)
    }
}

/// The replies to all requests of a call.
pub(super) struct Gained(Vec<Answers>);

impl Gained {
    /// Removes and returns the reply to one of the requests.
    pub(super) fn take(&mut self, place: &AnswerPlace) -> Option<Answer> {
        self.0[place.list].get_mut(place.index)?.take()
    }
}
