//! Makes engines from a configuration.

use std::time::Instant;

use crate::config::Config;
use crate::driver::uring::{self, UringError, UringFactory, UringOptions};

/// Makes the `io_uring` engine.
///
/// # Errors
/// With the reason and the remedy, if this kernel cannot run it.
pub fn uring_factory(config: &Config) -> Result<UringFactory, UringError> {
    let engine = &config.engine;
    let options = UringOptions {
        ring_entries: engine.ring_entries,
        completion_entries: config.completion_entries(),
        sockets_max: config.sockets_per_shard(),
        buffers: config.buffers_per_shard(),
        buffer_bytes: engine.buffer_bytes,
        min_wait_us: engine.min_wait_us,
        min_wait_completions: engine.min_wait_completions,
        features: uring::probe()?,
        epoch: Instant::now(),
    };
    Ok(UringFactory::new(options, usize::from(config.shards)))
}
