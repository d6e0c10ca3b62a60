//! What the shards of a process share about channels.

use std::sync::Arc;

use crate::driver::Bell;
use crate::hub::log::Log;
use crate::hub::{HomeOptions, NameHash};
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
}

impl HubShared {
    /// Makes the state that shards share.
    pub fn new(realm: Realm, home: HomeOptions, make_log: MakeLog) -> Arc<Self> {
        Arc::new(Self { realm, home, make_log, spread: NameHash::default() })
    }

    /// Makes the state for another configuration, with the same homes.
    pub fn renewed(&self, realm: Realm, home: HomeOptions) -> Arc<Self> {
        let realm = self.realm.with_options(realm);
        let (make_log, spread) = (self.make_log.clone(), self.spread);
        Arc::new(Self { realm, home, make_log, spread })
    }

    /// Returns the home of a channel among this many shards.
    pub fn home_of(&self, channel: &str, shards: usize) -> u16 {
        if shards == 1 {
            return 0;
        }
        (self.spread.hash(channel) % shards as u64) as u16
    }
}
