//! Commands that ask a running server, by the calls of its HTTP API: where it is, what it answers,
//! and how that is shown.

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
use super::print::print;
use crate::driver::listener::Address;
use crate::text::terminal;

/// The variable with the API's key.
const KEY_VARIABLE: &str = "SEAWALL_API_KEY";
/// For the whole of a call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How the error for an answer of 404 begins.
const NOT_FOUND: &str = "rejected (404)";
/// The longest answer that is read.
const BYTES_MAX: u64 = 256 << 20;

/// Where the server is, and how to show what it says.
#[derive(Debug, clap::Args)]
pub(super) struct Remote {
    #[arg(
        long,
        value_name = "URL",
        help = "The server's admin address: http://HOST:PORT, https://HOST or unix:/PATH; without: \
                the one of the configuration"
    )]
    url: Option<String>,

    #[arg(
        long,
        value_name = "KEY",
        help = "A key of the API, where the server requires one; without: the first [[api_key]] of \
                --config [env: SEAWALL_API_KEY]"
    )]
    api_key: Option<String>,

    #[arg(
        long,
        value_name = "FILE",
        help = "Configuration file (TOML) with the admin address [env: SEAWALL_CONFIG]"
    )]
    config: Option<String>,

    /// Print the server's answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Where calls go.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// The beginning of an address, without a slash at its end.
    Http(String),
    Unix(PathBuf),
}

impl Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(url) => f.write_str(url),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn place(url: &str) -> Result<Place, String> {
    if let Some(path) = url.strip_prefix("unix:") {
        return Ok(Place::Unix(path.into()));
    }
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    match rest {
        Some(host) if !host.is_empty() && !host.starts_with('/') => {
            Ok(Place::Http(url.trim_end_matches('/').to_owned()))
        }
        _ => Err(format!(
            "--url \"{url}\": write http://HOST:PORT, https://HOST or unix:/PATH, as the server's \
             banner names it"
        )),
    }
}

/// Where a server of this configuration answers operators.
fn configured(admin: Option<&Address>) -> Result<Place, String> {
    match admin {
        None => Err("the configuration has no admin address: give one with --url".to_owned()),
        Some(Address::Tcp(address)) if address.port() == 0 => {
            let text = "the configuration leaves the admin port to the system: take it from the \
                        server's banner, and give it with --url";
            Err(text.to_owned())
        }
        Some(Address::Tcp(address)) => {
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            Ok(Place::Http(format!("http://{}", SocketAddr::new(ip, address.port()))))
        }
        Some(Address::Unix(path)) => Ok(Place::Unix(path.clone())),
    }
}

/// What a server answered: the very text, and what it says.
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
    /// What was put together from several answers.
    fn from(value: Value) -> Self {
        Self { text: value.to_string(), value }
    }
}

impl ApiResponse {
    /// # Errors
    /// The text is no JSON.
    pub(super) fn new(text: String) -> serde_json::Result<Self> {
        let value = serde_json::from_str(&text)?;
        Ok(Self { text, value })
    }
}

/// A server that can be asked.
pub(super) struct Api {
    agent: Agent,
    place: Place,
    key: Option<String>,
}

impl Remote {
    /// Finds the server; nothing is sent yet.
    ///
    /// # Errors
    /// With cause and cure.
    pub(super) fn api(&self) -> Result<Api, String> {
        let mut configured_key = None;
        let place = if let Some(url) = &self.url {
            place(url)?
        } else {
            let loaded = load(self.config.as_deref(), &Overrides::default());
            let loaded = loaded.map_err(|error| error.to_string())?;
            configured_key = loaded.written.api_key();
            configured(loaded.config.admin.as_ref())?
        };
        // Those who answer are near, and reached without a proxy.
        let config = Agent::config_builder()
            .tls_config(crate::auth::tls())
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("seawall/", env!("CARGO_PKG_VERSION")))
            .build();
        let variable = || std::env::var(KEY_VARIABLE).ok();
        let key = self.api_key.clone().or_else(variable).or(configured_key);
        let key = key.filter(|key| !key.is_empty());
        Ok(Api { agent: agent(&place, config), place, key })
    }

    /// Prints an answer: as it came, with what acts on a terminal escaped, or summarized.
    pub(super) fn show(
        &self,
        answer: &ApiResponse,
        summarize: impl FnOnce(&Value) -> String,
    ) -> ExitCode {
        if self.json {
            print(&terminal::escape_json(&format!("{}\n", answer.text)))
        } else {
            print(&summarize(answer))
        }
    }

    /// Asks by `call`, and prints the answer.
    pub(super) fn run(
        &self,
        call: impl FnOnce(&Api) -> Result<ApiResponse, String>,
        summarize: impl FnOnce(&Value) -> String,
    ) -> ExitCode {
        match self.api().and_then(|api| call(&api)) {
            Ok(answer) => self.show(&answer, summarize),
            Err(text) => super::fail(&text),
        }
    }
}

fn agent(place: &Place, config: Config) -> Agent {
    match place {
        Place::Unix(path) => {
            let connector = unix::UnixConnector(path.clone());
            Agent::with_parts(config, connector, DefaultResolver::default())
        }
        Place::Http(_) => {
            Agent::with_parts(config, DefaultConnector::default(), DefaultResolver::default())
        }
    }
}

impl Api {
    fn address(&self, path: &str) -> String {
        match &self.place {
            Place::Http(url) => format!("{url}{path}"),
            // The address is not looked up where a loopback one is named.
            Place::Unix(_) => format!("http://127.0.0.1{path}"),
        }
    }

    /// What a GET answers.
    ///
    /// # Errors
    /// With cause and cure, as all calls.
    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<ApiResponse, String> {
        let request = self.agent.get(self.address(path)).query_pairs(query.iter().copied());
        let request = match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        };
        self.read(request.call())
    }

    /// The same, where what is asked for need not be kept: `None` if it is not.
    pub(super) fn get_if_kept(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Option<ApiResponse>, String> {
        match self.get(path, query) {
            Err(text) if text.starts_with(NOT_FOUND) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// What a POST with this body answers.
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
            format!(
                "cannot reach the server at {place}: {error}. Is it running, and is this its admin \
                 address? Another can be given with --url"
            )
        })?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(BYTES_MAX).read_to_string();
        let text = text.map_err(|error| format!("{place}: the answer broke off: {error}"))?;
        let body = match (status, ApiResponse::new(text).ok()) {
            (200 | 202, Some(body)) => return Ok(body),
            (_, body) => body,
        };
        let message = body.as_ref().and_then(|body| body["error"]["message"].as_str());
        match (status, body.as_ref(), message) {
            (401, ..) if self.key.is_none() => Err(format!(
                "{place} requires an API key: give it with --api-key or {KEY_VARIABLE}"
            )),
            (401, ..) => Err(format!(
                "{place} does not know this API key: it must be the secret of an [[api_key]] there"
            )),
            // The configuration's own errors.
            (422, _, Some(message)) => Err(message.to_owned()),
            (_, _, Some(message)) => Err(format!("rejected ({status}): {message}")),
            _ => Err(format!(
                "{place} answered with {status} and no JSON: is it the admin address of a Seawall?"
            )),
        }
    }
}

/// A part of a path.
pub(super) fn encoded(part: &str) -> String {
    utf8_percent_encode(part, NON_ALPHANUMERIC).to_string()
}

/// A string of an object; `-` if there is none.
pub(super) fn text<'v>(object: &'v Value, name: &str) -> &'v str {
    object[name].as_str().unwrap_or("-")
}

/// Columns as wide as their widest cell; cells are escaped. The first row names the columns.
pub(super) fn table(rows: &[Vec<String>]) -> String {
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
    fn places_are_read() {
        let http = |url: &str| Ok(Place::Http(url.to_owned()));
        assert_eq!(place("http://127.0.0.1:9100/"), http("http://127.0.0.1:9100"));
        assert_eq!(place("https://ops.example/seawall"), http("https://ops.example/seawall"));
        assert_eq!(place("unix:/run/s.sock"), Ok(Place::Unix("/run/s.sock".into())));
        for wrong in ["", "127.0.0.1:9100", "http://", "http:///x", "ws://a"] {
            assert!(place(wrong).unwrap_err().contains("--url"), "{wrong}");
        }
    }

    #[test]
    fn the_configured_address_is_found() {
        let found = |address: &str| {
            configured(Some(&Address::Tcp(address.parse().unwrap()))).map(|place| place.to_string())
        };
        assert_eq!(found("127.0.0.1:9100").unwrap(), "http://127.0.0.1:9100");
        assert_eq!(found("0.0.0.0:9100").unwrap(), "http://127.0.0.1:9100");
        assert_eq!(found("[::]:9100").unwrap(), "http://[::1]:9100");
        assert!(found("127.0.0.1:0").unwrap_err().contains("--url"));
        assert!(configured(None).unwrap_err().contains("--url"));
    }

    #[test]
    fn tables_are_aligned_and_harmless() {
        let rows = [["A", "LONG"], ["aé", "x"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "A   LONG\naé  x\n");
        let hostile = [["A"], ["a\u{1b}[2Jb\n"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&hostile), "A\na\\u{1b}[2Jb\\u{a}\n");
        assert_eq!(encoded("a/b:c é"), "a%2Fb%3Ac%20%C3%A9");
    }
}
