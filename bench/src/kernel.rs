//! Kernel memory of connections: slab caches and TCP buffers.
//!
//! Server and generator share the host, so every figure covers both ends. With `--park` the ends
//! are alike if the server is Seawall and its connections are quiet: a TCP socket in a table of
//! direct descriptors with one poll on it. Half of the growth is then one end's share, which
//! `run::hold` reports beside the whole; the client's half is slightly larger by the ports that
//! clients bind, and without `--park` by some 0.7 KB for an armed receive.

use std::collections::BTreeMap;
use std::fs;

/// Caches that a connection is known to use, shown even if they did not grow much.
pub const KNOWN_CACHES: [&str; 5] = ["TCP", "sock_inode_cache", "filp", "dentry", "io_kiocb"];

/// Kernel memory of all connections of the host at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelMemory {
    /// Slab caches by name; `None` if this user may not read them (root may).
    pub slab: Option<Slab>,
    /// All slab pages by `/proc/meminfo`, partly filled ones included.
    pub slab_total_bytes: u64,
    /// TCP sockets in use, and the bytes in their buffers.
    pub tcp_sockets: u64,
    pub tcp_buffer_bytes: u64,
}

impl KernelMemory {
    pub fn take() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (tcp_sockets, pages) = sockstat(&read("/proc/net/sockstat"));
        Self {
            slab: Slab::take(),
            slab_total_bytes: meminfo(&read("/proc/meminfo"), "Slab:") * 1024,
            tcp_sockets,
            tcp_buffer_bytes: pages * 4096,
        }
    }
}

fn meminfo(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Sockets in use and pages of memory from the TCP line.
fn sockstat(text: &str) -> (u64, u64) {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or_default();
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let field = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1)?.parse().ok()
    };
    (field("inuse").unwrap_or(0), field("mem").unwrap_or(0))
}

/// Bytes of live objects in each of the kernel's slab caches; needs root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slab(BTreeMap<String, u64>);

impl Slab {
    /// Reads the caches; `None` if this user may not.
    pub fn take() -> Option<Self> {
        fs::read_to_string("/proc/slabinfo").ok().map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let caches = text.lines().skip(2).filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let name = fields.next()?.to_owned();
            let active: u64 = fields.next()?.parse().ok()?;
            let size: u64 = fields.nth(1)?.parse().ok()?;
            Some((name, active * size))
        });
        Self(caches.collect())
    }

    /// Growth of all caches since `earlier` in bytes, and the caches that grew most.
    pub fn growth(&self, earlier: &Self) -> (i64, Vec<(String, i64)>) {
        let mut caches: Vec<(String, i64)> = self
            .0
            .iter()
            .map(|(name, bytes)| {
                let before = earlier.0.get(name).copied().unwrap_or(0);
                (name.clone(), *bytes as i64 - before as i64)
            })
            .collect();
        let total = caches.iter().map(|(_, bytes)| bytes).sum();
        caches.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        caches.retain(|(_, bytes)| *bytes > 0);
        (total, caches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_totals_are_read() {
        let text =
            "sockets: used 9\nTCP: inuse 5 orphan 0 tw 3 alloc 7 mem 12\nUDP: inuse 1 mem 3\n";
        assert_eq!(sockstat(text), (5, 12));
        assert_eq!(sockstat(""), (0, 0));
        assert_eq!(meminfo("MemTotal: 1 kB\nSlab:      37 kB\n", "Slab:"), 37);
        let now = KernelMemory::take();
        assert!(now.slab_total_bytes > 0, "{now:?}");
    }

    #[test]
    fn slab_growth_names_the_caches_that_grew() {
        let head = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\n";
        let before = Slab::parse(&format!("{head}TCP 10 20 2368 1 1\nfilp 5 9 192 1 1\n"));
        let after = Slab::parse(&format!("{head}TCP 13 20 2368 1 1\nfilp 4 9 192 1 1\n"));
        let (total, grew) = after.growth(&before);
        assert_eq!(total, 3 * 2368 - 192);
        assert_eq!(grew, [("TCP".to_owned(), 3 * 2368)]);
    }
}
