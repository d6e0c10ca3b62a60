//! Signed POST requests to an application, over connections that are used again.
//!
//! Redirects, cookies and proxies are what a server must not follow, so this is no general client.
//! Responses are bounded in bytes, and the whole exchange in time.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::{CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER, USER_AGENT};
use hyper::http::request::Builder;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::time::Instant;

use super::settings::BackendSettings;

/// How long an unused connection stays open. Shorter than the idle timeouts of common servers (Node
/// has 5 s), which would close it while a request is on its way.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// Unused connections to one application.
const IDLE_CONNECTIONS_MAX: usize = 256;
/// The longest body that is read, and how long that may take.
pub(super) const REPLY_BYTES_MAX: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// How often an HTTP/2 connection is probed while requests are under way, and how long it may take
/// to answer. A dead one would be used again for each attempt.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignedRequest<'r> {
    pub(crate) url: &'r str,
    /// The same in each attempt.
    pub(crate) id: &'r str,
    pub(crate) body: &'r Bytes,
    pub(crate) timeout: Duration,
}

/// A response of any status.
#[derive(Debug)]
pub(crate) struct HttpReply {
    pub(crate) status: StatusCode,
    /// Its body; the error if it has not arrived whole in time, or is too long.
    pub(crate) body: Result<Bytes, BodyFault>,
    /// From the header `Date`.
    pub(crate) date: Option<SystemTime>,
    /// From the header `Retry-After`, if it names seconds.
    pub(crate) retry_after: Option<Duration>,
}

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFault {
    TooLong,
    Broken,
    TimedOut,
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HttpFailure {
    /// There is no connection: surely nothing was received.
    NotSent(String),
    /// The connection broke.
    Broken(String),
    TimedOut,
}

impl fmt::Display for HttpFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(why) | Self::Broken(why) => f.write_str(why),
            Self::TimedOut => f.write_str("no answer in time"),
        }
    }
}

/// The client of one application.
pub(crate) struct BackendClient {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    settings: Arc<BackendSettings>,
}

impl BackendClient {
    /// # Errors
    /// When the host's authorities cannot be used, with the reason.
    pub(crate) fn new(settings: Arc<BackendSettings>) -> Result<Self, String> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(&settings)?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(connector);
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(PROBE_INTERVAL)
            .http2_keep_alive_timeout(PROBE_TIMEOUT)
            .build(connector);
        Ok(Self { http, settings })
    }

    pub(crate) fn settings(&self) -> &Arc<BackendSettings> {
        &self.settings
    }

    /// Sends a request, and returns the response. A connection that was closed before any byte of
    /// the request was written is replaced by another one; nothing else is repeated.
    ///
    /// # Errors
    /// There is no response.
    pub(crate) async fn post(&self, request: SignedRequest<'_>) -> Result<HttpReply, HttpFailure> {
        let exchange = async {
            let response = self.http.request(self.build(request)?).await;
            response.map_err(|error| {
                let made =
                    if error.is_connect() { HttpFailure::NotSent } else { HttpFailure::Broken };
                made(describe(&error))
            })
        };
        let until = Instant::now() + request.timeout;
        let response = tokio::time::timeout_at(until, exchange).await;
        let (parts, body) = Response::into_parts(response.unwrap_or(Err(HttpFailure::TimedOut))?);
        let rest = Limited::new(body, REPLY_BYTES_MAX).collect();
        let rest = tokio::time::timeout_at(until.min(Instant::now() + BODY_TIMEOUT), rest).await;
        let body = match rest {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyFault::TooLong),
            Ok(Err(_)) => Err(BodyFault::Broken),
            Err(_) => Err(BodyFault::TimedOut),
        };
        let (status, headers) = (parts.status, &parts.headers);
        let date =
            headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        Ok(HttpReply { status, body, date, retry_after: retry_after(headers) })
    }

    fn build(&self, request: SignedRequest<'_>) -> Result<Request<Full<Bytes>>, HttpFailure> {
        let SignedRequest { url, id, body, .. } = request;
        let invalid = |error: &dyn fmt::Display| HttpFailure::Broken(error.to_string());
        let uri: Uri = url.parse().map_err(|error| invalid(&error))?;
        let time_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let request = Request::post(uri)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("seawall/", env!("CARGO_PKG_VERSION")));
        let signed = self.settings.form.sign(id, time_s, body);
        let add = |request: Builder, (name, value)| request.header::<&str, String>(name, value);
        let request = signed.into_iter().fold(request, add);
        request.body(Full::new(body.clone())).map_err(|error| invalid(&error))
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Returns the error with its causes: the outermost one mostly says only that there is one.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Makes the TLS of connections to an application.
///
/// # Errors
/// When the host's authorities cannot be used, with the reason.
pub(super) fn tls_config(settings: &BackendSettings) -> Result<ClientConfig, String> {
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(crypto);
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| format!("TLS: {error}"))?;
    // Not used without TLS; a host without authorities must not be an error then.
    let is_plain = settings
        .urls()
        .all(|url| ["http://", "ws://"].iter().any(|scheme| url.starts_with(scheme)));
    let unused = is_plain.then(RootCertStore::empty);
    if let Some(roots) = unused.or_else(|| settings.authorities.clone()) {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let builder = builder.with_platform_verifier();
    let builder = builder.map_err(|error| format!("the host's authorities: {error}"))?;
    Ok(builder.with_no_client_auth())
}
