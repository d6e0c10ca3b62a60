//! Makes the epoll instances of all shards, and describes the engine.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::buffers::BUFFERS;
use super::{Epoll, EpollOptions, Peers};
use crate::driver::{DriverFactory, EngineFacts};

/// The engine's name for operators.
pub const NAME: &str = "epoll";

/// System calls of a shard beyond those of every thread, which include those of tokio's own epoll.
pub const SYSTEM_CALLS: &[i64] = &[libc::SYS_epoll_pwait2];

/// An engine could not be made: a step, and the kernel's reason.
#[derive(Debug)]
pub struct EpollError {
    step: &'static str,
    source: io::Error,
}

impl EpollError {
    pub(super) fn new(step: &'static str, source: io::Error) -> Self {
        Self { step, source }
    }
}

impl fmt::Display for EpollError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, source } = self;
        write!(
            f,
            "epoll: cannot set up a shard: {step}: {source}. Raise the limit of open files \
             (systemd: LimitNOFILE=, shell: `ulimit -n`), add memory, or lower shards"
        )
    }
}

impl std::error::Error for EpollError {}

/// Makes the [`Epoll`] of each shard.
#[derive(Clone)]
pub struct EpollFactory {
    options: EpollOptions,
    peers: Arc<Peers>,
    reason: String,
    warnings: Vec<String>,
}

impl EpollFactory {
    /// A factory for this many shards, all with the same options. `reason` is why this engine runs,
    /// and `warnings` are advice to the operator.
    pub fn new(
        options: EpollOptions,
        shards: usize,
        reason: String,
        warnings: Vec<String>,
    ) -> Self {
        Self { options, peers: Peers::new(shards), reason, warnings }
    }
}

impl DriverFactory for EpollFactory {
    type Driver = Epoll;
    type Error = EpollError;

    fn epoch(&self) -> Instant {
        self.options.epoch
    }

    fn make(&self, shard: u16) -> Result<Epoll, EpollError> {
        Epoll::new(self.options, shard, self.peers.clone())
    }

    fn facts(&self) -> EngineFacts {
        EngineFacts {
            name: NAME,
            reason: self.reason.clone(),
            wait_call: "epoll_pwait2",
            system_calls: SYSTEM_CALLS,
            features: Vec::new(),
            buffers: BUFFERS.into(),
            sizes: Vec::new(),
            warnings: self.warnings.clone(),
        }
    }
}
