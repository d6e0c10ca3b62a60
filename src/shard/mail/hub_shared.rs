//! What the shards of a process share about channels.

use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc::UnboundedSender;

use crate::driver::Bell;
use crate::hub::log::Log;
use crate::hub::{ConnectionId, HomeOptions, NameHash};
use crate::session::hub::Realm;

/// Makes the log of a shard's home. The bell wakes the shard: a log that completes commands later
/// rings it, from any thread, when [`Log::next`] has a completion.
pub type MakeLog = Arc<dyn Fn(u16, Arc<dyn Bell>) -> Box<dyn Log> + Send + Sync>;

/// What the shards of a process share about channels.
pub struct HubShared {
    pub realm: Realm,
    pub home: HomeOptions,
    pub make_log: MakeLog,
    /// The secret hash that assigns channels to homes: clients cannot choose names that all have
    /// the same home.
    spread: NameHash,
    /// Receives the connections of other nodes that connections of this one have resumed.
    remote: Arc<OnceLock<UnboundedSender<Replacement>>>,
}

/// A connection of another node that one of this node has resumed: it is to be closed there.
#[derive(Clone, Copy, Debug)]
pub struct Replacement {
    pub old: ConnectionId,
    pub by: ConnectionId,
}

impl HubShared {
    /// Makes the state that shards share.
    pub fn new(realm: Realm, home: HomeOptions, make_log: MakeLog) -> Arc<Self> {
        Arc::new(Self {
            realm,
            home,
            make_log,
            spread: NameHash::default(),
            remote: Arc::default(),
        })
    }

    /// Makes the state for another configuration, with the same homes.
    pub fn renewed(&self, realm: Realm, home: HomeOptions) -> Arc<Self> {
        let realm = self.realm.with_options(realm);
        let (make_log, spread, remote) = (self.make_log.clone(), self.spread, self.remote.clone());
        Arc::new(Self { realm, home, make_log, spread, remote })
    }

    /// Sets the receiver of connections that were resumed on this node and belong to others.
    pub fn set_remote(&self, remote: UnboundedSender<Replacement>) {
        assert!(self.remote.set(remote).is_ok(), "there is one receiver");
    }

    /// Reports a connection of another node that was resumed on this one. Returns whether a
    /// receiver took it.
    pub fn report_replacement(&self, replacement: Replacement) -> bool {
        self.remote.get().is_some_and(|remote| remote.send(replacement).is_ok())
    }

    /// Returns the home of a channel among this many shards.
    pub fn home_of(&self, channel: &str, shards: usize) -> u16 {
        if shards == 1 {
            return 0;
        }
        (self.spread.hash(channel) % shards as u64) as u16
    }
}
