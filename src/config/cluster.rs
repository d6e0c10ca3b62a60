//! The engine that several nodes share.

use std::sync::Arc;
use std::time::Duration;

use super::file::{self, File};
use super::{ConfigError, Faults, at, secret_files};
use crate::cluster::{ClusterSettings, EngineUrl};

const PORT: u16 = 6379;
const INSTANCES_MAX: usize = 64;

/// Checks the settings; `None`: there is no engine, or something is wrong.
pub(super) fn settings(file: &File, faults: &mut Faults) -> Option<Arc<ClusterSettings>> {
    let written = &file.cluster;
    if written.urls.is_empty() {
        return None;
    }
    let before = faults.0.len();
    let urls: Vec<_> = written.urls.iter().filter_map(|url| faults.check(parse_url(url))).collect();
    faults.check(check(written, file, &urls));
    let password = faults.check(read_password(written)).flatten();
    let ca = faults.check(read_ca(written)).flatten();
    let ms = |ms: u32| Duration::from_millis(ms.into());
    (faults.0.len() == before).then(|| {
        Arc::new(ClusterSettings {
            urls,
            prefix: written.prefix.clone(),
            user: written.user.clone(),
            password,
            ca,
            heartbeat: ms(written.heartbeat_ms),
            node_ttl: ms(written.node_ttl_ms),
            command_timeout: ms(written.command_timeout_ms),
            subscribe_timeout: ms(written.subscribe_timeout_ms),
            position_ttl: Duration::from_secs(written.position_ttl_s.into()),
            interest_linger: ms(written.interest_linger_ms),
            resubscribe_spread: ms(written.resubscribe_spread_ms),
            epoch_gaps_per_s: written.epoch_gaps_per_s,
            in_flight_bytes_max: written.in_flight_bytes_max,
            tail_messages_max: written.tail_messages_max,
            tail_bytes_max: written.tail_bytes_max,
            on_failover: written.on_failover,
        })
    })
}

fn check(written: &file::Cluster, file: &File, urls: &[EngineUrl]) -> Result<(), ConfigError> {
    if written.urls.len() > INSTANCES_MAX {
        return Err(at("cluster.urls", format!("must not have more than {INSTANCES_MAX} entries")));
    }
    let is_repeated = |at: &usize| urls[..*at].iter().any(|one| one.name() == urls[*at].name());
    if let Some(twice) = (0..urls.len()).find(is_repeated) {
        return Err(at("cluster.urls", format!("names {} twice; remove one", urls[twice].name())));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
    if written.prefix.is_empty() || !written.prefix.chars().all(is_plain) {
        let text = "must consist of letters, digits and _-.:/ (braces would change the place of \
                    keys)";
        return Err(at("cluster.prefix", text));
    }
    if !written.user.is_empty() && written.password_file.is_empty() {
        return Err(at("cluster.user", "needs cluster.password_file: set it as well"));
    }
    if written.node_ttl_ms / 3 < written.heartbeat_ms {
        let text = "must be at least three times cluster.heartbeat_ms, or a node counts as dead \
                    for one late heartbeat";
        return Err(at("cluster.node_ttl_ms", text));
    }
    if file.resume.keys.0.is_empty() && file.resume.keys_file.is_empty() {
        let text = "needs resume.keys (or resume.keys_file), equal on all nodes: clients resume on \
                    any of them";
        return Err(at("cluster.urls", text));
    }
    Ok(())
}

fn parse_url(url: &str) -> Result<EngineUrl, ConfigError> {
    let fail = |text: &str| Err(at("cluster.urls", format!("= \"{url}\": {text}")));
    let (tls, rest) = match url.split_once("://") {
        Some(("redis", rest)) => (false, rest),
        Some(("rediss", rest)) => (true, rest),
        Some(("redis+sentinel" | "rediss+sentinel", _)) => {
            return fail("Sentinel is not supported; name the servers themselves");
        }
        Some(("nats", _)) => return fail("NATS is not supported; use Redis or Valkey"),
        _ => return fail("must be redis://HOST[:PORT], or rediss:// for TLS"),
    };
    if rest.contains('@') {
        // The URL is printed in logs and by `seawall config`.
        return Err(at(
            "cluster.urls",
            "must not contain a user or password: use cluster.user and cluster.password_file",
        ));
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !path.is_empty() {
        // Publications reach the subscribers of all databases.
        return fail("a database is not supported; use cluster.prefix to keep programs apart");
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => match port.parse() {
            Ok(port) if port > 0 => (host, port),
            _ => return fail("the port must be from 1 to 65535"),
        },
        _ => (authority, PORT),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || "?#[]".contains(c)) {
        return fail("the host is missing or invalid");
    }
    Ok(EngineUrl { host: host.to_owned(), port, tls })
}

fn read_password(written: &file::Cluster) -> Result<Option<String>, ConfigError> {
    if written.password_file.is_empty() {
        return Ok(None);
    }
    let password = secret_files::secret_file(&written.password_file);
    password.map(Some).map_err(|text| at("cluster.password_file", format!(": {text}")))
}

fn read_ca(written: &file::Cluster) -> Result<Option<Vec<u8>>, ConfigError> {
    if written.ca_file.is_empty() {
        return Ok(None);
    }
    let read = std::fs::read(&written.ca_file);
    read.map(Some)
        .map_err(|error| at("cluster.ca_file", format!("= \"{}\": {error}", written.ca_file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed_or_rejected_with_a_remedy() {
        let name = |url: &str| parse_url(url).map(|url| format!("{} {}", url.name(), url.tls));
        assert_eq!(name("redis://cache.example").unwrap(), "cache.example:6379 false");
        assert_eq!(name("rediss://10.0.0.1:7000/").unwrap(), "10.0.0.1:7000 true");
        assert_eq!(name("redis://[::1]:7000").unwrap(), "[::1]:7000 false");
        assert_eq!(name("redis://[::1]").unwrap(), "[::1]:6379 false");
        for (url, says) in [
            ("cache:6379", "must be redis://"),
            ("redis://:secret@cache", "cluster.password_file"),
            ("redis://cache:0", "port"),
            ("redis://cache:x", "port"),
            ("redis://cache/3", "cluster.prefix"),
            ("redis://", "host"),
            ("redis+sentinel://a/b", "Sentinel"),
            ("nats://a", "NATS"),
        ] {
            let error = parse_url(url).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("secret"), "{error}");
        }
    }
}
