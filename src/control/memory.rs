//! Watches memory against its bound, ten times a second where there is one: what the process has
//! resident, what its sockets hold in the kernel, and what the kernel's buffers hold.
//!
//! The bound is a promise to refuse new work, not to kill old: what each thing that exists may grow
//! to has bounds of its own.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::admission::Shortage;
use crate::config::Config;
use crate::driver::host;
use crate::shard::mail::Directory;

/// What the kernel keeps for an accepted TCP socket: its structures in the slab, without buffers
/// (measured: TCP 2368, inode 832, file 192, entry 192, security 32 bytes).
const SOCKET_BYTES: u64 = 3616;
const EACH: Duration = Duration::from_millis(100);
/// How soon a bound that a reload brings is noticed.
const IDLE: Duration = Duration::from_secs(1);

/// Memory in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Of the process.
    pub(super) resident_bytes: u64,
    /// Structures of its sockets in the kernel.
    pub(super) socket_bytes: u64,
    /// What lies in buffers of TCP sockets, of all on this host or in this network namespace.
    pub(super) kernel_buffer_bytes: u64,
}

impl Usage {
    /// As it is now.
    pub(super) fn read(directory: &Directory) -> Self {
        let connections: u64 =
            (0..directory.len() as u16).map(|shard| u64::from(directory.connections(shard))).sum();
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

/// Watches until the process ends.
pub(super) async fn watch(directory: Arc<Directory>, config: Arc<ArcSwap<Config>>) {
    let mut before = Shortage::None;
    loop {
        let most = config.load().limits.admission.memory_bytes_max;
        if most == 0 && before == Shortage::None {
            tokio::time::sleep(IDLE).await;
            continue;
        }
        let used = Usage::read(&directory).total_bytes();
        let now = directory.admission().weigh(used, most);
        if now != before {
            tell(now, used, most);
            before = now;
        }
        tokio::time::sleep(EACH).await;
    }
}

fn tell(shortage: Shortage, used_bytes: u64, memory_bytes_max: u64) {
    match shortage {
        Shortage::None => tracing::info!(used_bytes, memory_bytes_max, "memory suffices again"),
        some => {
            tracing::warn!(used_bytes, memory_bytes_max, refused = some.name(), "memory is short");
        }
    }
}
