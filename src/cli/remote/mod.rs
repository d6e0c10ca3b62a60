//! The client of a running server's HTTP API, for commands: finds the server, calls it, and prints
//! its answers.

mod tls;
mod unix;

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, config::Config, http::Response};

use super::flags::Overrides;
use super::load::load;
use super::print::print_text;
use crate::config::Config as ServerConfig;
use crate::driver::listener::Address;
use crate::text::terminal;

/// The variable with the API key.
const KEY_VARIABLE: &str = "SEAWALL_API_KEY";
/// Limit for a whole call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Beginning of the error text for status 404.
const NOT_FOUND: &str = "rejected (404)";
/// Bytes of an answer at most.
const BYTES_MAX: u64 = 256 << 20;

/// How to reach the server, and how to print its answers.
#[derive(Debug, clap::Args)]
pub(super) struct Remote {
    #[arg(
        long,
        value_name = "URL",
        help = "The server's admin address: http://HOST:PORT, https://HOST:PORT or unix:/PATH; \
                default: that of the configuration"
    )]
    url: Option<String>,

    #[arg(
        long,
        value_name = "KEY",
        help = "API key, if the server requires one; default: the first [[api_key]] of \
                --config [env: SEAWALL_API_KEY]"
    )]
    api_key: Option<String>,

    #[arg(
        long,
        value_name = "FILE",
        help = "Configuration file (TOML) with the admin address [env: SEAWALL_CONFIG]"
    )]
    config: Option<String>,

    #[command(flatten)]
    tls: tls::TlsFlags,

    /// Print the server's answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The address of a server's API.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Base URL without a final slash.
    Http(String),
    /// The same over TLS, at an address that is not looked up by the URL's name.
    Pinned(String, SocketAddr),
    Unix(PathBuf),
}

impl Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(url) | Self::Pinned(url, _) => f.write_str(url),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn parse_place(url: &str) -> Result<Place, String> {
    if let Some(path) = url.strip_prefix("unix:") {
        return Ok(Place::Unix(path.into()));
    }
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    match rest {
        Some(host) if !host.is_empty() && !host.starts_with('/') => {
            Ok(Place::Http(url.trim_end_matches('/').to_owned()))
        }
        _ => Err(format!(
            "invalid --url \"{url}\"; write http://HOST:PORT, https://HOST or unix:/PATH, as in \
             the server's banner"
        )),
    }
}

/// The admin address of a server with this configuration.
/// `name`: the host name to verify; `None`: it speaks no TLS.
fn place_of(admin: Option<&Address>, name: Option<&str>) -> Result<Place, String> {
    match admin {
        None => Err("the configuration has no admin address; give one with --url".to_owned()),
        Some(Address::Tcp(address)) if address.port() == 0 => {
            let text = "the configuration has admin port 0; take the port from the server's \
                        banner, and give it with --url";
            Err(text.to_owned())
        }
        Some(Address::Tcp(address)) => {
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            let address = SocketAddr::new(ip, address.port());
            Ok(match name {
                None => Place::Http(format!("http://{address}")),
                Some(name) => Place::Pinned(format!("https://{name}:{}", address.port()), address),
            })
        }
        Some(Address::Unix(path)) => Ok(Place::Unix(path.clone())),
    }
}

/// The name to verify the certificate of a server with this configuration for. `None`: its admin
/// address speaks no TLS.
fn tls_name(config: &ServerConfig) -> Option<String> {
    config.admin_tls.as_ref()?;
    let certificates = config.certificates.certificates().iter();
    let certified: Vec<_> = certificates.flat_map(|one| one.names().iter().cloned()).collect();
    let name = tls::choose_name(&config.admin_hosts, &certified);
    Some(name.unwrap_or("localhost").to_owned())
}

/// A server's answer: the original text, and its value.
pub(super) struct ApiResponse {
    pub(super) text: String,
    value: Value,
}

impl std::ops::Deref for ApiResponse {
    type Target = Value;
    fn deref(&self) -> &Value {
        &self.value
    }
}

impl From<Value> for ApiResponse {
    /// Makes an answer out of several answers.
    fn from(value: Value) -> Self {
        Self { text: value.to_string(), value }
    }
}

impl ApiResponse {
    /// Parses an answer.
    ///
    /// # Errors
    /// When the text is not JSON.
    pub(super) fn new(text: String) -> serde_json::Result<Self> {
        let value = serde_json::from_str(&text)?;
        Ok(Self { text, value })
    }
}

/// A server, ready to be called.
pub(super) struct Api {
    agent: Agent,
    place: Place,
    key: Option<String>,
}

impl Remote {
    /// Finds the server; sends nothing yet.
    ///
    /// # Errors
    /// With the reason and the remedy.
    pub(super) fn open_api(&self) -> Result<Api, String> {
        let mut configured_key = None;
        let place = if let Some(url) = &self.url {
            parse_place(url)?
        } else {
            let loaded = load(self.config.as_deref(), &Overrides::default());
            let loaded = loaded.map_err(|error| error.to_string())?;
            configured_key = loaded.written.api_key();
            place_of(loaded.config.admin.as_ref(), tls_name(&loaded.config).as_deref())?
        };
        // Admin addresses are near and reached directly: ignore proxies in the environment.
        let config = Agent::config_builder()
            .tls_config(self.tls.config()?)
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("seawall/", env!("CARGO_PKG_VERSION")))
            .build();
        let variable = || std::env::var(KEY_VARIABLE).ok();
        let key = self.api_key.clone().or_else(variable).or(configured_key);
        let key = key.filter(|key| !key.is_empty());
        Ok(Api { agent: make_agent(&place, config), place, key })
    }

    /// Prints an answer: as the original JSON with terminal control characters escaped, or as a
    /// summary.
    pub(super) fn print_answer(
        &self,
        answer: &ApiResponse,
        summarize: impl FnOnce(&Value) -> String,
    ) -> ExitCode {
        if self.json {
            print_text(&terminal::escape_json(&format!("{}\n", answer.text)))
        } else {
            print_text(&summarize(answer))
        }
    }

    /// Makes a call, and prints its answer.
    pub(super) fn run(
        &self,
        call: impl FnOnce(&Api) -> Result<ApiResponse, String>,
        summarize: impl FnOnce(&Value) -> String,
    ) -> ExitCode {
        match self.open_api().and_then(|api| call(&api)) {
            Ok(answer) => self.print_answer(&answer, summarize),
            Err(text) => super::print_failure(&text),
        }
    }
}

fn make_agent(place: &Place, config: Config) -> Agent {
    match place {
        Place::Unix(path) => {
            let connector = unix::UnixConnector(path.clone());
            Agent::with_parts(config, connector, DefaultResolver::default())
        }
        Place::Pinned(_, address) => {
            let (connector, resolver) = (DefaultConnector::default(), tls::Pinned(*address));
            Agent::with_parts(config, connector, resolver)
        }
        Place::Http(_) => {
            Agent::with_parts(config, DefaultConnector::default(), DefaultResolver::default())
        }
    }
}

impl Api {
    fn address(&self, path: &str) -> String {
        match &self.place {
            Place::Http(url) | Place::Pinned(url, _) => format!("{url}{path}"),
            // An IP address needs no name lookup; the connector ignores it.
            Place::Unix(_) => format!("http://127.0.0.1{path}"),
        }
    }

    /// Calls GET.
    ///
    /// # Errors
    /// With the reason and the remedy, as for all calls.
    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<ApiResponse, String> {
        let request = self.agent.get(self.address(path)).query_pairs(query.iter().copied());
        let request = match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        };
        self.read(request.call())
    }

    /// Calls GET; `None` for status 404.
    pub(super) fn get_if_found(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Option<ApiResponse>, String> {
        match self.get(path, query) {
            Err(text) if text.starts_with(NOT_FOUND) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Calls POST with this body.
    pub(super) fn post(&self, path: &str, body: &str) -> Result<ApiResponse, String> {
        let request = self.agent.post(self.address(path)).content_type("application/json");
        let request = match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        };
        self.read(request.send(body))
    }

    fn read(&self, response: Result<Response<Body>, ureq::Error>) -> Result<ApiResponse, String> {
        let place = &self.place;
        let mut response = response.map_err(|error| {
            let start = "start it, or give its admin address with --url";
            let remedy = tls::remedy(&error).unwrap_or(start);
            format!("cannot reach the server at {place}: {error}; {remedy}")
        })?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(BYTES_MAX).read_to_string();
        let text = text.map_err(|error| format!("connection to {place} lost: {error}"))?;
        let body = match (status, ApiResponse::new(text).ok()) {
            (200 | 202, Some(body)) => return Ok(body),
            (_, body) => body,
        };
        let message = body.as_ref().and_then(|body| body["error"]["message"].as_str());
        match (status, body.as_ref(), message) {
            (401, ..) if self.key.is_none() => Err(format!(
                "{place} requires an API key; give it with --api-key or {KEY_VARIABLE}"
            )),
            (401, ..) => Err(format!(
                "{place} rejects this API key; use the secret of one of its [[api_key]] tables"
            )),
            // The text of a failed reload is printed alone: it lists the configuration's errors.
            (422, _, Some(message)) => Err(message.to_owned()),
            (_, _, Some(message)) => Err(format!("rejected ({status}): {message}")),
            _ => Err(format!(
                "{place} answered with {status} and no JSON; give an admin address with --url"
            )),
        }
    }
}

/// Percent-encodes a part of a path.
pub(super) fn percent_encode(part: &str) -> String {
    utf8_percent_encode(part, NON_ALPHANUMERIC).to_string()
}

/// A string field of an object; `-` if there is none.
pub(super) fn text_of<'v>(object: &'v Value, name: &str) -> &'v str {
    object[name].as_str().unwrap_or("-")
}

/// Aligns columns; escapes terminal control characters. The first row is the header.
pub(super) fn format_table(rows: &[Vec<String>]) -> String {
    let rows = rows.iter().map(|row| row.iter().map(|cell| terminal::escape(cell)));
    let rows: Vec<Vec<_>> = rows.map(Iterator::collect).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_parsed() {
        let http = |url: &str| Ok(Place::Http(url.to_owned()));
        assert_eq!(parse_place("http://127.0.0.1:9100/"), http("http://127.0.0.1:9100"));
        assert_eq!(parse_place("https://ops.example/seawall"), http("https://ops.example/seawall"));
        assert_eq!(parse_place("unix:/run/s.sock"), Ok(Place::Unix("/run/s.sock".into())));
        for wrong in ["", "127.0.0.1:9100", "http://", "http:///x", "ws://a"] {
            assert!(parse_place(wrong).unwrap_err().contains("--url"), "{wrong}");
        }
    }

    #[test]
    fn the_configured_address_is_found() {
        let found = |address: &str| {
            let address = Address::Tcp(address.parse().unwrap());
            place_of(Some(&address), None).map(|place| place.to_string())
        };
        let address: SocketAddr = "0.0.0.0:9100".parse().unwrap();
        let over_tls = place_of(Some(&Address::Tcp(address)), Some("ops.test")).unwrap();
        let local = "127.0.0.1:9100".parse().unwrap();
        assert_eq!(over_tls, Place::Pinned("https://ops.test:9100".to_owned(), local));
        assert_eq!(found("127.0.0.1:9100").unwrap(), "http://127.0.0.1:9100");
        assert_eq!(found("0.0.0.0:9100").unwrap(), "http://127.0.0.1:9100");
        assert_eq!(found("[::]:9100").unwrap(), "http://[::1]:9100");
        assert!(found("127.0.0.1:0").unwrap_err().contains("--url"));
        assert!(place_of(None, None).unwrap_err().contains("--url"));
    }

    #[test]
    fn tables_are_aligned_and_escaped() {
        let rows = [["A", "LONG"], ["aé", "x"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(format_table(&rows), "A   LONG\naé  x\n");
        let hostile = [["A"], ["a\u{1b}[2Jb\n"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(format_table(&hostile), "A\na\\u{1b}[2Jb\\u{a}\n");
        assert_eq!(percent_encode("a/b:c é"), "a%2Fb%3Ac%20%C3%A9");
    }
}
