//! The limit of open files, where an engine's sockets are descriptors of the process.

use super::Config;
use super::validate::SURPLUS;

/// Descriptors of a shard beside its connections and listeners.
const OF_SHARD: u64 = 4;
/// Descriptors of the process beside its shards: files and the control thread's own.
const OF_PROCESS: u64 = 64;
/// Connections of the admin address at most; there are fewer where the limit is low.
const OF_ADMIN_MAX: u64 = 256;

impl Config {
    /// Lowers the limit of connections so that those of all shards together fit into the limit of
    /// open files. Returns what an operator should know of that.
    pub fn share_open_files(&mut self, open_files: u64) -> Option<String> {
        let process = OF_PROCESS + OF_ADMIN_MAX.min(open_files / 4);
        let share = open_files.saturating_sub(process) / u64::from(self.shards);
        let beside = OF_SHARD + self.listeners.len() as u64 + u64::from(SURPLUS);
        let possible = share.saturating_sub(beside).clamp(1, u32::MAX.into()) as u32;
        let connections = &mut self.limits.connections_per_shard_max;
        if *connections <= possible {
            return None;
        }
        let wanted = std::mem::replace(connections, possible);
        Some(format!(
            "each shard takes {possible} connections, not {wanted}: with epoll all shards share \
             the limit of {open_files} open files; raise it (systemd: LimitNOFILE=, shell: \
             `ulimit -n`)"
        ))
    }
}
