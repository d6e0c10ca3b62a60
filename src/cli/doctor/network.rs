//! Examines the network: whether the listeners' addresses are free, and TCP settings of the kernel.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::finding::{Finding, State, read_kernel_file};
use crate::config::{Config, Listener};
use crate::driver::listener::{self, Address, Congestion};

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let mut findings: Vec<_> = config.listeners.iter().map(examine_listener).collect();
    findings.extend(config.admin.as_ref().map(examine_admin));
    findings.extend([
        examine_backlog(config),
        examine_connection_table(config),
        examine_congestion(config),
        examine_migration(),
        examine_buffers(),
    ]);
    findings
}

const PORT: &str = "Clients connect here; a second socket on the address tests SO_REUSEPORT";

/// Binds two sockets as the server would, and closes them.
fn examine_listener(listener: &Listener) -> Finding {
    match &listener.address {
        Address::Unix(path) => examine_unix_socket("listener", path),
        address @ Address::Tcp(_) => match listener::listen(address, &listener.options, 2) {
            Ok((bound, _)) => {
                Finding::new("listener", PORT, format!("{bound} is free, with SO_REUSEPORT"))
            }
            Err(error) => Finding::new("listener", PORT, error.to_string()).unless(
                false,
                State::Failure,
                "stop the process that uses it (`ss -ltnp`; perhaps a running Seawall), or choose \
                 another address: --listen ADDR:PORT",
            ),
        },
    }
}

fn examine_admin(address: &Address) -> Finding {
    let why = "Operators and backends connect here";
    match address {
        Address::Unix(path) => examine_unix_socket("admin", path),
        Address::Tcp(tcp) => match TcpListener::bind(tcp) {
            Ok(_) => Finding::new("admin", why, format!("{tcp} is free")),
            Err(error) => Finding::new("admin", why, format!("{tcp}: {error}")).unless(
                false,
                State::Failure,
                "stop the process that uses it (`ss -ltnp`), or choose another address: --admin \
                 ADDR:PORT, or --admin \"\" for none",
            ),
        },
    }
}

fn examine_unix_socket(name: &'static str, path: &Path) -> Finding {
    let why = "The socket's folder must exist, and no other process may listen at the path";
    let shown = path.display();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder_there = folder.is_none_or(Path::is_dir);
    let answered = UnixStream::connect(path).is_ok();
    let found = match (folder_there, answered) {
        (false, _) => format!("{shown}: its folder does not exist"),
        (true, true) => format!("{shown}: another process listens there"),
        (true, false) => format!("{shown} is free"),
    };
    Finding::new(name, why, found).unless(
        folder_there && !answered,
        State::Failure,
        "create the folder (systemd: RuntimeDirectory=), or stop the other process",
    )
}

fn examine_backlog(config: &Config) -> Finding {
    let most = read_kernel_file("/proc/sys/net/core/somaxconn").and_then(|text| text.parse().ok());
    let wanted = config.listeners.iter().map(|one| one.options.backlog).max().unwrap_or(0);
    let found = most.map_or_else(|| "unknown".into(), |most: u32| most.to_string());
    Finding::new(
        "somaxconn",
        "Limits the queue of connections that wait to be accepted",
        format!("{found}, needed for the configured backlog: {wanted}"),
    )
    .unless(
        most.is_none_or(|most| most >= wanted),
        State::Warning,
        format!("sysctl -w net.core.somaxconn={wanted}"),
    )
}

fn examine_connection_table(config: &Config) -> Finding {
    // Negative in a namespace that shares the host's table.
    let places = read_kernel_file("/proc/sys/net/ipv4/tcp_ehash_entries")
        .and_then(|text| Some(text.parse::<i64>().ok()?.unsigned_abs()));
    let all = u64::from(config.limits.connections_per_shard_max) * u64::from(config.shards);
    let found = places.map_or_else(|| "unknown".into(), |places| places.to_string());
    // The kernel accepts no larger table.
    let wanted = all.next_power_of_two().min(1 << 24);
    Finding::new(
        "table of connections",
        "The kernel looks up each packet's connection in this hash table; if it is too small, most \
         lookups walk a chain through cold memory",
        format!("{found} buckets, at most {all} connections"),
    )
    .unless(
        places.is_none_or(|places| all <= places * 2),
        State::Note,
        format!(
            "boot with thash_entries={wanted}; or, for a container, before its network is made: \
             sysctl -w net.ipv4.tcp_child_ehash_entries={wanted}"
        ),
    )
}

fn examine_congestion(config: &Config) -> Finding {
    let default = read_kernel_file("/proc/sys/net/ipv4/tcp_congestion_control")
        .unwrap_or_else(|| "unknown".into());
    let allowed = read_kernel_file("/proc/sys/net/ipv4/tcp_allowed_congestion_control");
    let bbr = default.starts_with("bbr");
    let automatic = config.listeners.iter().all(|one| one.options.congestion == Congestion::Auto);
    let effect = match (bbr, automatic) {
        (true, true) => "; listeners use cubic where that is allowed",
        (true, false) => "; some listeners have their own",
        (false, _) => "",
    };
    Finding::new(
        "congestion control",
        "BBR paces even small messages with timers, which costs more CPU and latency than cubic \
         where the network is not the bottleneck",
        format!("{default} by default{effect} (allowed: {})", allowed.unwrap_or_default()),
    )
    .unless(
        !bbr,
        State::Note,
        "sysctl -w net.ipv4.tcp_congestion_control=cubic; or use congestion = \"auto\"",
    )
}

fn examine_migration() -> Finding {
    let on = read_kernel_file("/proc/sys/net/ipv4/tcp_migrate_req").is_some_and(|text| text == "1");
    Finding::new(
        "tcp_migrate_req",
        "With it, connections that wait at a listener that is closed move to another one; Seawall \
         keeps its listeners open while it drains and does not depend on it",
        if on { "on" } else { "off" },
    )
    .unless(on, State::Note, "sysctl -w net.ipv4.tcp_migrate_req=1")
}

fn examine_buffers() -> Finding {
    let least =
        |path| -> Option<u64> { read_kernel_file(path)?.split_whitespace().next()?.parse().ok() };
    let (receive, send) =
        (least("/proc/sys/net/ipv4/tcp_rmem"), least("/proc/sys/net/ipv4/tcp_wmem"));
    let pages =
        read_kernel_file("/proc/sys/net/ipv4/tcp_mem").unwrap_or_default().replace('\t', " ");
    let shown = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |v| v.to_string());
    Finding::new(
        "TCP memory",
        "Above the third number (pages) the kernel drops queued data of all connections",
        format!(
            "tcp_mem {pages}; at least {} bytes in and {} out per connection",
            shown(receive),
            shown(send)
        ),
    )
}
