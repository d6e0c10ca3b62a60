//! What the shards of a process share about channels.

use std::sync::Arc;

use crate::driver::Bell;
use crate::hub::log::Log;
use crate::hub::{HomeOptions, NameHash};
use crate::session::hub::Realm;

/// Makes the log of a shard's home. The bell wakes the shard: a log that completes commands later
/// rings it once [`Log::next`] has something, from any thread.
pub type MakeLog = Arc<dyn Fn(u16, Arc<dyn Bell>) -> Box<dyn Log> + Send + Sync>;

/// What the shards of a process share about channels.
pub struct HubShared {
    pub realm: Realm,
    pub home: HomeOptions,
    pub make_log: MakeLog,
    /// Decides homes; a secret, so that no client can aim at one.
    spread: NameHash,
}

impl HubShared {
    /// Puts it together.
    pub fn new(realm: Realm, home: HomeOptions, make_log: MakeLog) -> Arc<Self> {
        Arc::new(Self { realm, home, make_log, spread: NameHash::default() })
    }

    /// The same channels by another configuration.
    pub fn renewed(&self, realm: Realm, home: HomeOptions) -> Arc<Self> {
        let realm = self.realm.renewed(realm);
        let (make_log, spread) = (self.make_log.clone(), self.spread);
        Arc::new(Self { realm, home, make_log, spread })
    }

    /// The home of a channel among so many shards.
    pub fn home_of(&self, channel: &str, shards: usize) -> u16 {
        if shards == 1 {
            return 0;
        }
        (self.spread.hash(channel) % shards as u64) as u16
    }
}
