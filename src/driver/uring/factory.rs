//! Makes the rings of all shards, and reports the sizes that they were granted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::{Peers, Uring, UringError, UringOptions};
use crate::driver::{DriverFactory, EngineFacts, EngineSize};

/// The engine's name for operators.
pub const NAME: &str = "io_uring";

/// System calls of a ring in use; making rings needs others.
pub const SYSTEM_CALLS: &[i64] = &[libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Makes the [`Uring`] of each shard.
#[derive(Clone)]
pub struct UringFactory {
    options: UringOptions,
    peers: Arc<Peers>,
    reason: String,
    /// Submission entries of the smallest ring so far.
    granted: Arc<AtomicU32>,
}

impl UringFactory {
    /// A factory for this many shards, all with the same options. `reason` is why this engine runs.
    pub fn new(options: UringOptions, shards: usize, reason: String) -> Self {
        let granted = Arc::new(AtomicU32::new(options.ring_entries));
        Self { options, peers: Peers::new(shards), reason, granted }
    }
}

impl DriverFactory for UringFactory {
    type Driver = Uring;
    type Error = UringError;

    fn epoch(&self) -> Instant {
        self.options.epoch
    }

    fn make(&self, shard: u16) -> Result<Uring, UringError> {
        let uring = Uring::new(self.options, shard, self.peers.clone())?;
        self.granted.fetch_min(uring.ring_entries(), Ordering::Relaxed);
        Ok(uring)
    }

    fn facts(&self) -> EngineFacts {
        let (asked, got) = (self.options.ring_entries, self.granted.load(Ordering::Relaxed));
        let ring_entries = EngineSize {
            key: "ring_entries",
            title: "ring entries",
            configured: asked.into(),
            granted: got.into(),
        };
        let shortage = (got < asked).then(|| {
            format!(
                "locked memory allows only {got} of {asked} ring entries; raise the limit \
                 (`ulimit -l unlimited`, systemd: LimitMEMLOCK=infinity)"
            )
        });
        EngineFacts {
            name: NAME,
            reason: self.reason.clone(),
            wait_call: "io_uring_enter",
            system_calls: SYSTEM_CALLS,
            features: self.options.features.list_features(),
            buffers: self.options.buffers,
            sizes: vec![ring_entries],
            warnings: shortage.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::uring::Features;

    #[test]
    fn the_smallest_ring_is_reported_and_a_shortage_has_its_remedy() {
        let features = Features {
            send_vectorized: true,
            min_wait: false,
            no_iowait: true,
            no_sqarray: false,
            install: true,
        };
        let options = UringOptions {
            ring_entries: 1000,
            completion_entries: 8192,
            sockets_max: 8,
            buffers: 8,
            buffer_bytes: 1024,
            min_wait_us: 0,
            min_wait_completions: 1,
            features,
            epoch: Instant::now(),
        };
        let factory = UringFactory::new(options, 2, String::new());
        // Rings are rounded up; report the requested size.
        for (had, granted, warnings) in [(1024, 1000, 0), (256, 256, 1), (512, 256, 1)] {
            factory.granted.fetch_min(had, Ordering::Relaxed);
            let facts = factory.facts();
            assert_eq!(facts.granted_size("ring_entries"), Some(granted));
            assert_eq!(facts.warnings.len(), warnings);
            assert!(facts.warnings.iter().all(|text| text.contains("LimitMEMLOCK")));
        }
        let available: Vec<&str> = factory
            .facts()
            .features
            .iter()
            .filter(|feature| feature.is_available)
            .map(|feature| feature.key)
            .collect();
        assert_eq!(available, ["send_vectorized", "no_iowait", "install"]);
    }
}
