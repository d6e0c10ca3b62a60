//! Who is answered at the admin address: programs on this host, or with a key, and no web pages.
//!
//! Without keys the address is this host's only. With some, every request but those that tell
//! whether the process is well brings one, and then may come from anywhere.
//!
//! A page that a browser on this host shows can send requests to loopback addresses, and to others
//! that the host reaches. It cannot leave out its `Origin`, nor send JSON without one; and a page
//! whose name was made to lead here (DNS rebinding) names a host that is not one of ours. An IP
//! address as `Host` is no such name.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{self, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::Response;

use super::server::Reserved;
use super::{State, refuse};
use crate::auth::ApiKeys;

/// Who asks, as handlers find it among a request's extensions: the name of its key, if it brought
/// one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller(pub(super) Option<Arc<str>>);

/// What the guard goes by, as configured when a request comes.
struct Guard {
    /// Host names that requests may name, besides loopback addresses.
    hosts: Vec<String>,
    /// With none, nobody is asked for one.
    keys: Arc<ApiKeys>,
    /// Whether the metrics ask for a key too.
    metrics_auth: bool,
}

impl Guard {
    /// For an address reached as these hosts; over a Unix socket also as `localhost`.
    fn new(hosts: &[String], unix: bool, keys: Arc<ApiKeys>, metrics_auth: bool) -> Self {
        let own = unix.then(|| "localhost".to_owned());
        let hosts = hosts.iter().cloned().chain(own).collect();
        Self { hosts, keys, metrics_auth }
    }

    /// Who asks. `None`: a request to this path must bring a key, and does not.
    fn caller(&self, path: &str, headers: &HeaderMap) -> Option<Caller> {
        let is_open = match path {
            "/healthz" | "/readyz" => true,
            "/metrics" => !self.metrics_auth,
            _ => false,
        };
        let name = bearer(headers).and_then(|key| self.keys.check(key));
        (is_open || self.keys.is_empty() || name.is_some()).then(|| Caller(name.map(Arc::from)))
    }

    /// Whether a request may name this host. Browsers always name one.
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
            // Without keys an address of this host that others reach was not meant.
            has_keys || ip.to_canonical().is_loopback()
        });
        is_address || self.hosts.iter().any(|one| one.eq_ignore_ascii_case(name))
    }
}

/// Answers those that must not pass.
pub(super) async fn guard(
    extract::State((state, unix)): extract::State<(State, bool)>,
    mut request: Request,
    next: Next,
) -> Response {
    let guard = {
        let config = state.config();
        let keys = config.auth.api_keys.clone();
        Guard::new(&config.admin_hosts, unix, keys, config.metrics_auth)
    };
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) {
        let message = "requests from web pages (with an Origin) are not answered here";
        return refuse(StatusCode::FORBIDDEN, "forbidden", message);
    }
    let Some(caller) = guard.caller(request.uri().path(), headers) else {
        let message = "this asks for an API key: send `Authorization: Bearer KEY` with the secret \
                       of an [[api_key]]";
        let mut response = refuse(StatusCode::UNAUTHORIZED, "unauthorized", message);
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        return response;
    };
    let is_open = matches!(request.uri().path(), "/healthz" | "/readyz" | "/metrics");
    if request.extensions().get::<Reserved>().is_some() && !is_open {
        let message = "all connections of the admin address are in use: only /healthz, /readyz \
                       and /metrics are answered; try again later";
        let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    if !is_hostless(&request) && !guard.is_own_host(request.uri().path(), host) {
        let message = "the Host is not a name of this server: use its IP address (without API \
                       keys, a loopback address), or list the name in admin.hosts";
        return refuse(StatusCode::FORBIDDEN, "forbidden", message);
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Answers a request that a page could send without asking first. To be put around the methods of
/// a path: a method that is not allowed is rejected first.
pub(super) async fn json_only(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if may_change(request.method(), headers) && !is_json(headers) {
        let message = "a POST, or any request with a body, must have `Content-Type: \
                       application/json`";
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message);
    }
    next.run(request).await
}

/// HTTP/1.0 without a Host, as simple health checkers send it. No browser sends that, so no page
/// whose name was made to lead here does (DNS rebinding).
fn is_hostless(request: &Request) -> bool {
    request.version() == Version::HTTP_10
        && !request.headers().contains_key(header::HOST)
        && request.uri().host().is_none()
}

/// The first key that `Authorization` carries (RFC 6750 2.1). Other schemes are meant for a proxy
/// in front, and are ignored.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(header::AUTHORIZATION).iter().find_map(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    })
}

/// What a page could send without asking first; other methods that change something are not among
/// that (Fetch, CORS-safelisted methods).
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
        let new = |hosts: &[String], unix| Guard::new(hosts, unix, Arc::default(), false);
        let guard = new(&["localhost".to_owned(), "seawall.internal".to_owned()], false);
        for host in ["127.0.0.1", "127.0.0.1:9100", "[::1]:9100", "LOCALHOST:1", "seawall.internal"]
        {
            assert!(guard.is_own_host("/metrics", Some(host)), "{host}");
        }
        for host in ["", "evil.example:9100", "127.0.0.1.evil.example", "10.0.0.1", "[::2]"] {
            assert!(!guard.is_own_host("/healthz", Some(host)), "{host}");
        }
        assert!(!guard.is_own_host("/metrics", None));
        let is_own = |unix, host| new(&[], unix).is_own_host("/metrics", Some(host));
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
            guard.caller(path, &headers).is_none()
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
            assert_eq!(guard(true).caller("/v1/node", &headers), Some(Caller(Some("a".into()))));
        }
        assert_eq!(guard(false).caller("/v1/node", &HeaderMap::new()), None);
        let without = Guard::new(&[], false, Arc::default(), false);
        assert_eq!(without.caller("/v1/node", &HeaderMap::new()), Some(Caller(None)));
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
