//! Compares memory use with `limits.memory_bytes_max`, ten times a second where that is set:
//! resident memory of the process, its sockets' structures and the socket buffers in the kernel.
//!
//! Above the limit new work is rejected; existing connections stay open, because everything that
//! they can make grow has a limit of its own.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::admission::Shortage;
use crate::config::Config;
use crate::driver::host;
use crate::shard::mail::Directory;

/// Kernel memory of an accepted TCP socket: slab structures without buffers (bytes; measured: TCP
/// 2368, inode 832, file 192, dentry 192, security 32).
const SOCKET_BYTES: u64 = 3616;
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Poll interval without a limit: a reload may set one.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Memory in use (bytes).
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Resident memory of the process.
    pub(super) resident_bytes: u64,
    /// Kernel structures of the process's sockets.
    pub(super) socket_bytes: u64,
    /// TCP socket buffers of the whole host or network namespace: the kernel counts no smaller
    /// unit.
    pub(super) kernel_buffer_bytes: u64,
}

impl Usage {
    /// Reads the current use.
    pub(super) fn read(directory: &Directory) -> Self {
        let connections: u64 = (0..directory.len() as u16)
            .map(|shard| u64::from(directory.connection_count(shard)))
            .sum();
        Self {
            resident_bytes: host::resident_bytes(),
            socket_bytes: connections * SOCKET_BYTES,
            kernel_buffer_bytes: host::tcp_buffer_bytes(),
        }
    }

    pub(super) fn total_bytes(self) -> u64 {
        self.resident_bytes + self.socket_bytes + self.kernel_buffer_bytes
    }
}

/// Updates the shortage that admission reads, until the process ends.
pub(super) async fn watch_memory(directory: Arc<Directory>, config: Arc<ArcSwap<Config>>) {
    let mut before = Shortage::None;
    loop {
        let most = config.load().limits.admission.memory_bytes_max;
        // A shortage must still be cleared after a reload has removed the limit.
        if most == 0 && before == Shortage::None {
            tokio::time::sleep(IDLE_POLL_INTERVAL).await;
            continue;
        }
        let used = Usage::read(&directory).total_bytes();
        let now = directory.admission().update_shortage(used, most);
        if now != before {
            log_shortage(now, used, most);
            before = now;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn log_shortage(shortage: Shortage, used_bytes: u64, memory_bytes_max: u64) {
    match shortage {
        Shortage::None => tracing::info!(used_bytes, memory_bytes_max, "memory pressure cleared"),
        some => {
            tracing::warn!(
                used_bytes,
                memory_bytes_max,
                refused = some.name(),
                "memory pressure: new work is rejected"
            );
        }
    }
}
