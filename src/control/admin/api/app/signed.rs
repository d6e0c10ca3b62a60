//! Requests that the backend of an app has signed.
//!
//! The signature covers the method, the path and all parameters of the query; these contain the
//! hash of the body, and the time, so a request is valid for ten minutes.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};
use md5::{Digest, Md5};

use super::super::{ApiError, BODIES_KIB_MAX, BODY_TIMEOUT, SHORT_BODY_BYTES_MAX, State};
use crate::auth::PusherApp;

/// The most by which the clocks of a backend and this server may differ (s).
const CLOCK_DIFFERENCE_MAX_S: u64 = 600;

/// A request whose signature was verified.
pub(super) struct Signed {
    pub(super) app: Arc<PusherApp>,
    /// The parameters of the query, decoded, sorted by name.
    params: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl Signed {
    /// Returns a parameter of the query.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        let found = self.params.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

fn unauthorized(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

fn hex_of_md5(body: &[u8]) -> String {
    Md5::digest(body).iter().fold(String::with_capacity(32), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Verifies the signature of a request. `params`: all of the query, sorted by name.
fn verify(
    app: &PusherApp,
    (method, path): (&Method, &str),
    params: &[(String, String)],
    now_s: u64,
) -> Result<(), ApiError> {
    let param = |name: &str| find_param(params, name);
    if param("auth_key")? != app.key() {
        return Err(unauthorized("auth_key is not the key of this app"));
    }
    if param("auth_version")? != "1.0" {
        return Err(unauthorized("auth_version must be 1.0"));
    }
    let signed = params.iter().filter(|(key, _)| key != "auth_signature");
    let signed: Vec<String> = signed.map(|(key, value)| format!("{key}={value}")).collect();
    let text = format!("{method}\n{path}\n{}", signed.join("&"));
    if !app.verify(text.as_bytes(), param("auth_signature")?) {
        let message = "Invalid signature: check the app's secret, and that no proxy changes the \
                       path; the signed text is METHOD, path and sorted query, one per line";
        return Err(unauthorized(message));
    }
    let time_s: u64 = param("auth_timestamp")?
        .parse()
        .map_err(|_| unauthorized("auth_timestamp must be a Unix time in seconds"))?;
    if now_s.abs_diff(time_s) > CLOCK_DIFFERENCE_MAX_S {
        let message = format!(
            "Timestamp expired: auth_timestamp {time_s} is not within 600 s of the server's time \
             {now_s}; set the clocks"
        );
        return Err(unauthorized(message));
    }
    Ok(())
}

fn find_param<'p>(params: &'p [(String, String)], name: &str) -> Result<&'p str, ApiError> {
    let found = params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    found.ok_or_else(|| unauthorized(format!("{name} is missing in the query")))
}

/// Verifies that a body is the signed one.
fn verify_body(params: &[(String, String)], body: &[u8]) -> Result<(), ApiError> {
    let is_signed =
        body.is_empty() || find_param(params, "body_md5")?.eq_ignore_ascii_case(&hex_of_md5(body));
    is_signed.then_some(()).ok_or_else(|| unauthorized("body_md5 is not the MD5 of the body"))
}

/// Returns the parameters of a query, sorted by name.
fn read_params(query: &str) -> Vec<(String, String)> {
    let mut params: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    params.sort_by(|one, other| one.0.cmp(&other.0));
    params
}

impl FromRequest<State> for Signed {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &State) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let path: Result<Path<Vec<(String, String)>>, _> =
            Path::from_request_parts(&mut parts, state).await;
        let Path(names) = path.map_err(|error| ApiError::bad_request(error.body_text()))?;
        let id = names.first().map_or("", |(_, id)| id.as_str());
        let app = state.hub()?.realm.apps.find(id).cloned().ok_or_else(|| {
            ApiError::not_found("no [[app]] of this server has the id in the path")
        })?;
        let params = read_params(parts.uri.query().unwrap_or_default());
        let now_s = State::unix_ms() / 1000;
        // The body is received only if the signature, which covers its hash, is valid.
        verify(&app, (&parts.method, parts.uri.path()), &params, now_s)?;
        let body = receive_body(state, &app, &parts.headers, body).await?;
        verify_body(&params, &body)?;
        Ok(Self { app, params, body })
    }
}

/// Receives a body, within the bounds of one, and of all together.
async fn receive_body(
    state: &State,
    app: &PusherApp,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<Bytes, ApiError> {
    let most = app.body_bytes_max();
    let too_long = || {
        let message = format!("a body of this app has {most} bytes at most; send fewer events");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    let length = headers.get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok());
    let length = length.and_then(|text| text.parse::<usize>().ok()).unwrap_or(most);
    if length > most {
        return Err(too_long());
    }
    let receive = async {
        let mut share = None;
        if length > SHORT_BODY_BYTES_MAX {
            let kib = length.div_ceil(1024).min(BODIES_KIB_MAX);
            share = state.0.bodies.acquire_many(kib as u32).await.ok();
        }
        let received = axum::body::to_bytes(body, most).await.map_err(|_| too_long());
        drop(share);
        received
    };
    tokio::time::timeout(BODY_TIMEOUT, receive).await.unwrap_or_else(|_| {
        let message = "the body of the request did not arrive in time";
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tests_of_apps::options;

    /// The example of the protocol's documentation ("HTTP API", "Worked authentication example").
    #[test]
    fn a_known_request_is_verified() {
        let (key, secret) = ("278d425bdf160c739803", b"7ad3773142a6692b25b8");
        let app = PusherApp::new("3", key, secret, options());
        let body = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        let signature = "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";
        let query = format!(
            "body_md5=ec365a775a4cd0599faeb73354201b6f&auth_version=1.0&auth_key={key}&\
             auth_timestamp=1353088179&auth_signature={signature}"
        );
        let check = |query: &str, body: &[u8], now_s| {
            let params = read_params(query);
            verify(&app, (&Method::POST, "/apps/3/events"), &params, now_s)?;
            verify_body(&params, body)
        };
        check(&query, body, 1_353_088_179).unwrap();
        check(&query, body, 1_353_088_179 + 600).unwrap();
        for (query, body, now_s, says) in [
            (query.clone(), &body[..], 1_353_088_179 + 601, "Timestamp expired"),
            (query.clone(), &body[1..], 1_353_088_179, "body_md5"),
            (query.replace("=1.0", "=1.1"), &body[..], 1_353_088_179, "auth_version"),
            (format!("{query}&info=x"), &body[..], 1_353_088_179, "Invalid signature"),
            (query.replace(key, "other"), &body[..], 1_353_088_179, "auth_key"),
            (String::new(), &body[..], 1_353_088_179, "auth_key is missing"),
        ] {
            let error = check(&query, body, now_s).unwrap_err();
            assert_eq!(error.status, StatusCode::UNAUTHORIZED);
            assert!(error.message.contains(says), "{}", error.message);
        }
    }
}
