//! Decides which requests the admin address serves: those of programs on this host, or with a key,
//! and none of web pages.
//!
//! Without keys only this host can reach the address. With keys, every request except health checks
//! must carry one, and may then come from anywhere.
//!
//! A page in a browser on this host can send requests to loopback and other addresses that the host
//! reaches. But the browser always adds its `Origin`, sends JSON only with one, and names the
//! page's host: a name rebound to this address (DNS rebinding) is not one of ours. An IP address as
//! `Host` cannot be such a name.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{self, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::Response;

use super::server::Reserved;
use super::{State, error_response};
use crate::auth::ApiKeys;

/// The authenticated caller, as a request extension: the name of its key, if it sent one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller(pub(super) Option<Arc<str>>);

/// The rules for one request, from the configuration in force.
struct Guard {
    /// Host names that requests may carry, besides loopback addresses.
    hosts: Vec<String>,
    /// API keys; where there are none, no request needs one.
    keys: Arc<ApiKeys>,
    /// Whether `/metrics` needs a key too.
    metrics_auth: bool,
}

impl Guard {
    /// For an address with these host names; a Unix socket is also `localhost`.
    fn new(hosts: &[String], is_unix: bool, keys: Arc<ApiKeys>, metrics_auth: bool) -> Self {
        let own = is_unix.then(|| "localhost".to_owned());
        let hosts = hosts.iter().cloned().chain(own).collect();
        Self { hosts, keys, metrics_auth }
    }

    /// Authenticates the caller. `None`: this path needs a key, and the request carries no valid
    /// one.
    fn authenticate(&self, path: &str, headers: &HeaderMap) -> Option<Caller> {
        let is_open = match path {
            "/healthz" | "/readyz" => true,
            "/metrics" => !self.metrics_auth,
            _ => false,
        };
        let name = bearer_key(headers).and_then(|key| self.keys.find(key));
        (is_open || self.keys.is_empty() || name.is_some()).then(|| Caller(name.map(Arc::from)))
    }

    /// Whether a request may carry this host. Browsers always send one.
    fn is_own_host(&self, path: &str, host: Option<&str>) -> bool {
        let has_keys = !self.keys.is_empty();
        if has_keys && (host.is_none() || matches!(path, "/healthz" | "/readyz")) {
            return true;
        }
        let host = host.unwrap_or_default();
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        let is_address = name.parse::<IpAddr>().is_ok_and(|ip| {
            // Without keys, only loopback is meant to be reached: any other address is a
            // misconfiguration.
            has_keys || ip.to_canonical().is_loopback()
        });
        is_address || self.hosts.iter().any(|one| one.eq_ignore_ascii_case(name))
    }
}

/// Rejects requests that must not reach the handlers.
pub(super) async fn guard(
    extract::State((state, is_unix)): extract::State<(State, bool)>,
    mut request: Request,
    next: Next,
) -> Response {
    let guard = {
        let config = state.config();
        let keys = config.auth.api_keys.clone();
        Guard::new(&config.admin_hosts, is_unix, keys, config.metrics_auth)
    };
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) {
        let message = "requests from web pages (with an Origin header) are rejected";
        return error_response(StatusCode::FORBIDDEN, "forbidden", message);
    }
    let Some(caller) = guard.authenticate(request.uri().path(), headers) else {
        let message = "API key required; send `Authorization: Bearer KEY` with the secret of an \
                       [[api_key]]";
        let mut response = error_response(StatusCode::UNAUTHORIZED, "unauthorized", message);
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        return response;
    };
    let is_open = matches!(request.uri().path(), "/healthz" | "/readyz" | "/metrics");
    if request.extensions().get::<Reserved>().is_some() && !is_open {
        let message = "all admin connections are in use; only /healthz, /readyz \
                       and /metrics are answered; retry later";
        let mut response = error_response(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    if !is_hostless(&request) && !guard.is_own_host(request.uri().path(), host) {
        let message = "unknown Host; use the server's IP address (without API keys, a loopback \
                       address), or list the name in admin.hosts";
        return error_response(StatusCode::FORBIDDEN, "forbidden", message);
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Rejects a request that a page could send without a CORS preflight. Wrap it around the methods of
/// a path, so that a method that is not allowed is rejected first.
pub(super) async fn json_only(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if may_change(request.method(), headers) && !is_json(headers) {
        let message = "a POST, or any request with a body, needs `Content-Type: \
                       application/json`";
        return error_response(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            message,
        );
    }
    next.run(request).await
}

/// Whether this is HTTP/1.0 without a Host, as simple health checkers send it. Browsers always send
/// a Host, so DNS rebinding cannot produce one.
fn is_hostless(request: &Request) -> bool {
    request.version() == Version::HTTP_10
        && !request.headers().contains_key(header::HOST)
        && request.uri().host().is_none()
}

/// The first key in `Authorization` (RFC 6750 2.1). Other schemes belong to a proxy in front, and
/// are ignored.
fn bearer_key(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(header::AUTHORIZATION).iter().find_map(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    })
}

/// Whether a request may change something and could be sent by a page without a preflight; such
/// pages cannot use methods other than GET, HEAD and POST (Fetch, CORS-safelisted methods).
fn may_change(method: &Method, headers: &HeaderMap) -> bool {
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    has_body || method == Method::POST
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        let new = |hosts: &[String], is_unix| Guard::new(hosts, is_unix, Arc::default(), false);
        let guard = new(&["localhost".to_owned(), "seawall.internal".to_owned()], false);
        for host in ["127.0.0.1", "127.0.0.1:9100", "[::1]:9100", "LOCALHOST:1", "seawall.internal"]
        {
            assert!(guard.is_own_host("/metrics", Some(host)), "{host}");
        }
        for host in ["", "evil.example:9100", "127.0.0.1.evil.example", "10.0.0.1", "[::2]"] {
            assert!(!guard.is_own_host("/healthz", Some(host)), "{host}");
        }
        assert!(!guard.is_own_host("/metrics", None));
        let is_own = |is_unix, host| new(&[], is_unix).is_own_host("/metrics", Some(host));
        assert!(!is_own(false, "localhost"));
        assert!(is_own(true, "localhost"));
        assert!(!is_own(true, "evil.example"));
    }

    #[test]
    fn with_keys_addresses_pass_and_names_must_be_listed() {
        let keys = Arc::new(ApiKeys::new([("a", "0123456789abcdef0123")]));
        let guard = Guard::new(&["seawall.internal".to_owned()], false, keys, false);
        for host in ["10.0.0.1:9100", "[2001:db8::1]:9100", "127.0.0.1", "seawall.internal:9100"] {
            assert!(guard.is_own_host("/metrics", Some(host)), "{host}");
        }
        for host in ["", "evil.example:9100", "10.0.0.1.evil.example", "localhost", "10.1"] {
            assert!(!guard.is_own_host("/metrics", Some(host)), "{host}");
            assert!(!guard.is_own_host("/v1/node", Some(host)), "{host}");
            assert!(guard.is_own_host("/healthz", Some(host)), "{host}");
            assert!(guard.is_own_host("/readyz", Some(host)), "{host}");
        }
        assert!(guard.is_own_host("/metrics", None), "no browser leaves it out");
    }

    #[test]
    fn a_key_is_asked_for_where_there_are_some() {
        let secret = "0123456789abcdef0123";
        let guard = |metrics_auth| {
            Guard::new(&[], false, Arc::new(ApiKeys::new([("a", secret)])), metrics_auth)
        };
        let misses = |guard: &Guard, path: &str, value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            let headers = std::iter::once((header::AUTHORIZATION, value)).collect();
            guard.authenticate(path, &headers).is_none()
        };
        for authorization in ["", "Bearer", "Bearer ", "Bearer wrong", &format!("Basic {secret}")] {
            assert!(misses(&guard(false), "/v1/node", authorization), "{authorization}");
            assert!(!misses(&guard(false), "/metrics", authorization));
            assert!(misses(&guard(true), "/metrics", authorization));
            assert!(!misses(&guard(true), "/healthz", authorization));
            assert!(misses(&guard(true), "/healthz/", authorization));
        }
        for scheme in ["Bearer", "bearer"] {
            let value = HeaderValue::from_str(&format!("{scheme} {secret}")).unwrap();
            let headers = std::iter::once((header::AUTHORIZATION, value)).collect();
            assert_eq!(
                guard(true).authenticate("/v1/node", &headers),
                Some(Caller(Some("a".into())))
            );
        }
        assert_eq!(guard(false).authenticate("/v1/node", &HeaderMap::new()), None);
        let without = Guard::new(&[], false, Arc::default(), false);
        assert_eq!(without.authenticate("/v1/node", &HeaderMap::new()), Some(Caller(None)));
    }

    #[test]
    fn what_may_change_something_is_json() {
        let headers = |lines: &[(&'static str, &'static str)]| -> HeaderMap {
            let pairs = lines
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            pairs.collect()
        };
        let none = headers(&[]);
        assert!(!may_change(&Method::GET, &none) && !may_change(&Method::HEAD, &none));
        assert!(may_change(&Method::POST, &none));
        assert!(may_change(&Method::DELETE, &headers(&[("content-length", "2")])));
        assert!(!may_change(&Method::GET, &headers(&[("content-length", "0")])));
        assert!(may_change(&Method::GET, &headers(&[("content-length", "2")])));
        assert!(may_change(&Method::GET, &headers(&[("transfer-encoding", "chunked")])));
        assert!(is_json(&headers(&[("content-type", "Application/JSON; charset=utf-8")])));
        assert!(!is_json(&headers(&[("content-type", "text/plain")])) && !is_json(&none));
    }
}
