//! Validates addresses, listeners and routes: each by itself, and conflicts between them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{ConfigError, Faults, Listener, RouteOptions, error, file, of_one, ranges};
use crate::driver::listener::{Address, Congestion, Options};
use crate::events::EventTarget;
use crate::proto::http::{self, Forwarding, ForwardingHeader, Origins};
use crate::proto::ws::deflate::Policy;

/// Parses `ADDR:PORT`, `localhost:PORT`, `:PORT`, `PORT` (all three: this host only) or
/// `unix:PATH`.
///
/// # Errors
/// The text states the valid forms.
pub fn address(text: &str) -> Result<Address, ConfigError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() {
            Err(error("`unix:` needs a path, as in unix:/run/seawall.sock"))
        } else {
            Ok(Address::Unix(path.into()))
        };
    }
    let port = text.strip_prefix("localhost").unwrap_or(text);
    let port = port.strip_prefix(':').or((port == text).then_some(port));
    let local = port.filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    if let Some(port) = local.and_then(|port| port.parse().ok()) {
        return Ok(Address::Tcp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)));
    }
    text.parse::<SocketAddr>().map(Address::Tcp).map_err(|_| {
        error(format!(
            "`{text}` is not an address: write ADDR:PORT (0.0.0.0:9000), [ADDR6]:PORT \
             ([::]:9000), localhost:PORT or PORT for 127.0.0.1, or unix:PATH"
        ))
    })
}

/// Validates the admin address. Without API keys it must be reachable from this host only.
pub(super) fn admin(written: &file::Admin, api_keys: bool) -> Result<Option<Address>, ConfigError> {
    if written.metrics_auth && !api_keys {
        let text = "admin.metrics_auth = true needs an [[api_key]] to read the metrics with";
        return Err(of_one("admin.metrics_auth".into(), text.to_owned()));
    }
    if written.listen.is_empty() {
        return Ok(None);
    }
    let fault = |text: String| of_one("admin.listen".into(), text);
    let address = address(&written.listen).map_err(|e| fault(format!("admin.listen: {e}")))?;
    match &address {
        Address::Tcp(tcp) if !tcp.ip().is_loopback() && !api_keys => Err(fault(format!(
            "admin.listen = \"{tcp}\" is not a loopback address, and anybody who reaches it would \
             be answered: add an [[api_key]], or use 127.0.0.1, [::1] or unix:PATH"
        ))),
        _ => Ok(Some(address)),
    }
}

pub(super) fn listener(
    index: usize,
    written: &file::Listener,
    faults: &mut Faults,
) -> Option<Listener> {
    let before = faults.0.len();
    let at = |key: &str, text: &str| {
        let text = format!("listener {}: {text}", written.address);
        of_one(format!("listener.{index}.{key}"), text)
    };
    let address = faults.check(address(&written.address).map_err(|e| at("address", &e.text)));
    let mut trusted = Vec::with_capacity(written.trusted_proxies.len());
    for text in &written.trusted_proxies {
        let network = network(text).map_err(|e| at("trusted_proxies", &e.text));
        trusted.extend(faults.check(network));
    }
    let unix = matches!(address, Some(Address::Unix(_)));
    let is_open = written.trusted_proxies.is_empty() && !unix;
    if written.proxy_protocol && is_open {
        let text = "proxy_protocol = true requires trusted_proxies: otherwise any client could \
                    claim any address";
        faults.0.push(at("proxy_protocol", text));
    }
    let header = match written.forwarded_header.to_ascii_lowercase().as_str() {
        "" => None,
        "x-forwarded-for" => Some(ForwardingHeader::XForwardedFor),
        "forwarded" => Some(ForwardingHeader::Forwarded),
        other => {
            let text = format!(
                "forwarded_header = \"{other}\": must be \"x-forwarded-for\", \"forwarded\" or \"\""
            );
            faults.0.push(at("forwarded_header", &text));
            None
        }
    };
    if header.is_some() && is_open {
        faults.0.push(at("forwarded_header", "forwarded_header requires trusted_proxies"));
    }
    for (key, problem) in ranges::find_errors(written.numbers()) {
        faults.0.push(at(key, &format!("{key} {problem}")));
    }
    let forwarding = header.map(|header| Forwarding { header, trusted: trusted.clone() });
    let options = socket_options(written);
    let redirect_port = u16::try_from(written.tls_redirect_port).ok().filter(|port| *port != 0);
    let proxy_protocol = written.proxy_protocol;
    let address = address.filter(|_| faults.0.len() == before)?;
    Some(Listener {
        address,
        options,
        proxy_protocol,
        forwarding,
        trusted,
        redirect_port,
        tls: None,
    })
}

fn socket_options(written: &file::Listener) -> Options {
    Options {
        backlog: written.backlog.clamp(1, i32::MAX as u32),
        nodelay: written.nodelay,
        keepalive_s: written.keepalive_s,
        receive_buffer_bytes: written.receive_buffer_bytes,
        send_buffer_bytes: written.send_buffer_bytes,
        user_timeout_ms: written.user_timeout_ms,
        congestion: match written.congestion.as_str() {
            "auto" => Congestion::Auto,
            "" => Congestion::Host,
            name => Congestion::Named(name.to_owned()),
        },
        incoming_cpu: written.incoming_cpu,
        busy_poll_us: written.busy_poll_us,
        only_v6: written.only_v6,
        unix_mode: written.unix_mode,
        owner: None,
        steer: written.steer,
    }
}

fn network(text: &str) -> Result<ipnet::IpNet, ConfigError> {
    text.parse().or_else(|_| text.parse::<IpAddr>().map(ipnet::IpNet::from)).map_err(|_| {
        error(format!(
            "trusted_proxies: `{text}` is not a network: write 10.0.0.0/8, 2001:db8::/32 or a \
                 single address"
        ))
    })
}

pub(super) fn route(
    index: usize,
    written: &file::Route,
    faults: &mut Faults,
) -> Option<(http::Route, RouteOptions)> {
    let before = faults.0.len();
    let at = |key: &str, text: &str| {
        of_one(format!("route.{index}.{key}"), format!("route {}: {text}", written.path))
    };
    if !written.path.starts_with('/') || written.path.contains(['?', '#', ' ']) {
        faults.0.push(at("path", "path must begin with `/` and have no `?`, `#` or space"));
    }
    if matches!(written.path.as_str(), "/healthz" | "/readyz") {
        faults.0.push(at("path", "this path answers health checks and cannot be a route"));
    }
    if written.ping_interval_ms > 0 && written.pong_timeout_ms == 0 {
        faults.0.push(at(
            "pong_timeout_ms",
            "pong_timeout_ms must not be 0 where ping_interval_ms is set",
        ));
    }
    for (key, problem) in ranges::find_errors(written.numbers()) {
        faults.0.push(at(key, &format!("{key} {problem}")));
    }
    let origins = faults.check(origins(written).map_err(|text| at("origins", &text)))?;
    if faults.0.len() > before {
        return None;
    }
    Some((
        http::Route {
            path: written.path.clone(),
            prefix: written.r#match == file::Matching::Prefix || is_for_apps(written),
            subprotocols: subprotocols(written),
            origins,
            compression: (written.compression != file::CompressionMode::Off).then_some(Policy {
                takeover: written.compression == file::CompressionMode::Takeover,
                window_bits: written.compression_window_bits as u8,
            }),
        },
        RouteOptions {
            handler: written.handler,
            counter: index as u16,
            connections_max: written.connections_max,
            compression_level: written.compression_level as u8,
            compression_bytes_min: written.compression_bytes_min,
            ping_interval_ms: written.ping_interval_ms,
            pong_timeout_ms: written.pong_timeout_ms,
            idle_timeout_ms: written.idle_timeout_ms,
            close_timeout_ms: written.close_timeout_ms,
            connection_age_max_ms: written.connection_age_max_ms,
            events: EventTarget::default(),
            application: None,
            connect: file::ConnectRule::Auth,
            accept: written.accept,
            slow_reader: written.slow_reader,
        },
    ))
}

/// Returns whether clients of apps connect to a route, below its path.
fn is_for_apps(written: &file::Route) -> bool {
    written.handler == file::HandlerName::Pusher
}

fn origins(written: &file::Route) -> Result<Origins, String> {
    match written.origins.as_slice() {
        // The pages of an app are on other hosts; its backend signs what needs a right.
        [] if is_for_apps(written) => Ok(Origins::Any),
        [] => Ok(Origins::SameOrigin),
        list if list.iter().any(|origin| origin == "*") => Ok(Origins::Any),
        list => Origins::list(list).map_err(|fault| format!("origins: {fault}")),
    }
}

fn subprotocols(written: &file::Route) -> Vec<String> {
    match (written.handler, written.subprotocols.as_slice()) {
        (file::HandlerName::Hub, []) => vec![file::SUBPROTOCOL.to_owned()],
        (_, listed) => listed.to_vec(),
    }
}

/// A connection stores the number of its listener in one byte.
const LISTENERS_MAX: usize = 256;

/// Rejects more listeners than that byte can number.
pub(super) fn reject_too_many(listeners: usize) -> Result<(), ConfigError> {
    if listeners <= LISTENERS_MAX {
        return Ok(());
    }
    let text = format!(
        "[[listener]] must not have more than {LISTENERS_MAX} entries, not {listeners}: listen on \
         all addresses of a port with one (0.0.0.0 or [::])"
    );
    Err(of_one("listener".into(), text))
}

/// Rejects a hub that identifies nothing of its clients on a listener that other hosts can reach.
pub(super) fn reject_hub_without_keys(
    listeners: &[Listener],
    routes: &[file::Route],
) -> Result<(), ConfigError> {
    let is_open = |route: &file::Route| {
        route.handler == file::HandlerName::Hub && route.connect == file::ConnectRule::Auth
    };
    if !routes.iter().any(is_open) {
        return Ok(());
    }
    for (index, listener) in listeners.iter().enumerate() {
        if matches!(&listener.address, Address::Tcp(tcp) if !tcp.ip().is_loopback()) {
            let text = format!(
                "listener {}: other hosts could use the hub without a token, because no keys are \
                 configured. Add a [[key]] (or auth.jwks_file, auth.jwks_url), let an application \
                 decide (route.connect = \"backend\"), or allow it: \
                 auth.allow_anonymous = true (--auth-allow-anonymous)",
                listener.address
            );
            return Err(of_one(format!("listener.{index}.address"), text));
        }
    }
    Ok(())
}

/// Rejects two listeners, or a listener and the admin address, that would take each other's
/// connections.
pub(super) fn reject_overlaps(
    listeners: &[Listener],
    admin: Option<&Address>,
) -> Result<(), ConfigError> {
    for (index, one) in listeners.iter().enumerate() {
        let key = || format!("listener.{index}.address");
        if let Some(other) = listeners[..index].iter().find(|other| overlap(one, other)) {
            let text = format!(
                "listeners {} and {} overlap: give each its own port, or set only_v6 = true on \
                 the IPv6 listener",
                other.address, one.address
            );
            return Err(of_one(key(), text));
        }
        let admin = admin.map(|address| Listener { address: address.clone(), ..one.clone() });
        if admin.is_some_and(|admin| overlap(one, &admin)) {
            let text = format!(
                "listener {} and admin.listen overlap: give each its own port",
                one.address
            );
            return Err(of_one(key(), text));
        }
    }
    Ok(())
}

fn overlap(one: &Listener, other: &Listener) -> bool {
    let (one_tcp, other_tcp) = match (&one.address, &other.address) {
        (Address::Tcp(one), Address::Tcp(other)) => (one, other),
        (one, other) => return one == other,
    };
    // Port 0 picks a free port, a different one each time.
    if one_tcp.port() == 0 || one_tcp.port() != other_tcp.port() {
        return false;
    }
    one_tcp.ip() == other_tcp.ip() || covers(one, other_tcp.ip()) || covers(other, one_tcp.ip())
}

/// Returns whether a listener on all addresses also takes connections to this one.
fn covers(listener: &Listener, ip: IpAddr) -> bool {
    let Address::Tcp(tcp) = &listener.address else { return false };
    match (tcp.ip(), ip) {
        (IpAddr::V4(any), IpAddr::V4(_)) => any.is_unspecified(),
        (IpAddr::V6(any), IpAddr::V6(_)) => any.is_unspecified(),
        (IpAddr::V6(any), IpAddr::V4(_)) => any.is_unspecified() && !listener.options.only_v6,
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    }
}

/// Rejects two routes for one path.
pub(super) fn reject_duplicates(routes: &[file::Route]) -> Result<(), ConfigError> {
    for (index, one) in routes.iter().enumerate() {
        let same = |other: &file::Route| other.path == one.path && other.r#match == one.r#match;
        if routes[..index].iter().any(same) {
            let text = format!("two routes have the path {}: remove one of them", one.path);
            return Err(of_one(format!("route.{index}.path"), text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn listen(addresses: &[&str], only_v6: bool) -> Result<Config, ConfigError> {
        let listeners = addresses
            .iter()
            .map(|address| file::Listener {
                address: (*address).to_owned(),
                only_v6,
                ..file::Listener::default()
            })
            .collect();
        Config::validate(&file::File { listeners, ..file::File::default() }, 20_000, 1)
    }

    #[test]
    fn overlapping_listeners_are_refused() {
        for pair in [
            ["127.0.0.1:9000", "127.0.0.1:9000"],
            ["0.0.0.0:9000", "127.0.0.1:9000"],
            ["127.0.0.1:9000", "[::]:9000"],
            ["[::]:9000", "0.0.0.0:9000"],
            ["[::1]:9000", "[::]:9000"],
            ["unix:/run/a", "unix:/run/a"],
        ] {
            let fault = listen(&pair, false).unwrap_err();
            assert!(fault.text.contains("overlap"), "{pair:?}: {fault}");
            assert_eq!(fault.key.as_deref(), Some("listener.1.address"));
        }
        let fault = listen(&["0.0.0.0:9100"], false).unwrap_err();
        assert!(fault.text.contains("admin.listen overlap"), "{fault}");
    }

    #[test]
    fn an_address_may_leave_the_host_out() {
        for (text, expected) in [
            ("9000", "127.0.0.1:9000"),
            (":9000", "127.0.0.1:9000"),
            ("localhost:9000", "127.0.0.1:9000"),
            ("0.0.0.0:9000", "0.0.0.0:9000"),
            ("[::1]:0", "[::1]:0"),
            ("unix:/run/a", "unix:/run/a"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), expected, "{text}");
        }
        for text in
            ["", ":", "localhost", "localhost:", "localhost9000", "70000", "a:1", "::1:9", "+1"]
        {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn more_listeners_than_connections_can_name_are_rejected() {
        let addresses: Vec<String> = (0..257).map(|n| format!("127.0.{n}.1:9000")).collect();
        let mut addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        addresses[256] = "127.1.0.1:9000";
        let fault = listen(&addresses, false).unwrap_err();
        assert_eq!(fault.key.as_deref(), Some("listener"));
        assert!(fault.text.contains("256"), "{fault}");
        listen(&addresses[..256], false).unwrap();
    }

    #[test]
    fn neighbours_are_not_refused() {
        for pair in [
            ["127.0.0.1:9000", "127.0.0.1:9001"],
            ["127.0.0.1:9000", "127.0.0.2:9000"],
            ["127.0.0.1:0", "127.0.0.1:0"],
            ["[::1]:9000", "127.0.0.1:9000"],
            ["unix:/run/a", "unix:/run/b"],
        ] {
            listen(&pair, false).unwrap();
        }
        listen(&["127.0.0.1:9000", "[::1]:9000"], true).unwrap();
    }

    #[test]
    fn a_hub_for_everybody_must_be_meant() {
        let listener =
            |address: &str| file::Listener { address: address.into(), ..file::Listener::default() };
        let open =
            file::File { listeners: vec![listener("0.0.0.0:9000")], ..file::File::default() };
        let validate = |file: &file::File| Config::validate(file, 20_000, 1);
        let fault = validate(&open).unwrap_err();
        assert_eq!(fault.key.as_deref(), Some("listener.0.address"));
        assert!(fault.text.contains("auth.allow_anonymous"), "{fault}");
        let mut meant = open.clone();
        meant.auth.allow_anonymous = true;
        validate(&meant).unwrap();
        let secret = "0123456789abcdef0123456789abcdef";
        let key = file::Key { secret: secret.into(), ..file::Key::default() };
        validate(&file::File { keys: vec![key], ..open.clone() }).unwrap();
        validate(&file::File { routes: vec![file::Route::default()], ..open.clone() }).unwrap();
        let local = vec![listener("127.0.0.1:9000"), listener("unix:/run/seawall.sock")];
        validate(&file::File { listeners: local, ..open }).unwrap();
    }

    #[test]
    fn without_routes_there_are_the_hub_and_an_echo() {
        let config = listen(&["127.0.0.1:9000"], false).unwrap();
        let paths: Vec<_> = config.routes.as_slice().iter().map(|route| &*route.path).collect();
        assert_eq!(paths, ["/ws", "/echo"]);
        let hub = config.routes.get(0).unwrap();
        assert_eq!(hub.subprotocols, ["seawall.v1"]);
        assert_eq!(config.route_options[0].handler, file::HandlerName::Hub);
        let mut file = file::File { routes: file::default_routes(), ..file::File::default() };
        file.routes[0].subprotocols = vec!["mine".into()];
        let config = Config::validate(&file, 20_000, 1).unwrap();
        assert_eq!(config.routes.get(0).unwrap().subprotocols, ["mine"]);
    }

    #[test]
    fn other_hosts_reach_the_admin_address_only_with_keys() {
        let mut file = file::File::default();
        file.admin.listen = "0.0.0.0:9100".into();
        let fault = Config::validate(&file, 20_000, 1).unwrap_err();
        assert!(fault.text.contains("add an [[api_key]]"), "{fault}");
        let secret = "0123456789abcdef0123456789abcdef".into();
        file.api_keys.push(file::ApiKey { secret, ..file::ApiKey::default() });
        Config::validate(&file, 20_000, 1).unwrap();
        file.admin.metrics_auth = true;
        Config::validate(&file, 20_000, 1).unwrap();
        file.api_keys.clear();
        let fault = Config::validate(&file, 20_000, 1).unwrap_err();
        assert_eq!(fault.key.as_deref(), Some("admin.metrics_auth"));
    }
}
