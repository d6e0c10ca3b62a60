//! Answers requests that shards forward: those of the HTTP API of apps on addresses for clients.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::http::{Request, Response, StatusCode, header};
use axum::middleware;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, mpsc};

use super::journal::Peer;
use super::{State, api, error_response, journal};
use crate::proto::http::HEADERS_MAX;
use crate::shard::forwarded::ForwardedRequest;
use crate::shard::mail::Mail;

/// Requests that are answered at the same time.
const AT_ONCE_MAX: usize = 256;
/// The longest answer (bytes).
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Answers requests until the process ends.
pub(in crate::control) async fn answer_requests(
    state: State,
    mut requests: mpsc::Receiver<ForwardedRequest>,
) {
    let router = Router::new()
        .merge(api::app::routes())
        .fallback(|| async {
            let message = "no such call of an app's HTTP API";
            error_response(StatusCode::NOT_FOUND, "not_found", message)
        })
        .layer(DefaultBodyLimit::max(api::BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(state.clone(), journal::log_rejection))
        .with_state(state.clone());
    let service = TowerToHyperService::new(router);
    let places = Arc::new(Semaphore::new(AT_ONCE_MAX));
    while let Some(request) = requests.recv().await {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (service, state) = (service.clone(), state.clone());
        tokio::spawn(async move {
            let (shard, token) = (request.shard, request.token);
            let ForwardedRequest { head, body, client, room, .. } = request;
            let response = match read_request(&head, body, client) {
                Some(request) => match service.call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                },
                None => error_response(StatusCode::BAD_REQUEST, "bad_request", "invalid request"),
            };
            let answer = encode_response(response).await;
            state.0.directory.post(shard, Mail::Forwarded { token, answer });
            drop((room, place));
        });
    }
}

/// Parses a request, whose head has passed stricter checks.
fn read_request(head: &[u8], body: Vec<u8>, client: Option<IpAddr>) -> Option<Request<Body>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(head).ok()?;
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?);
    for header in parsed.headers {
        request = request.header(header.name, header.value);
    }
    let mut request = request.body(Body::from(Bytes::from(body))).ok()?;
    request.extensions_mut().insert(Peer(client));
    Some(request)
}

/// Encodes an answer, after which the connection is closed.
async fn encode_response(response: Response<Body>) -> Box<[u8]> {
    let (mut parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, ANSWER_BYTES_MAX).await.unwrap_or_else(|_| {
        parts.status = StatusCode::INTERNAL_SERVER_ERROR;
        Bytes::from_static(br#"{"error":{"code":"internal","message":"the answer is too long"}}"#)
    });
    let status = parts.status;
    let mut head = String::with_capacity(256);
    // Writing to a text does not fail.
    let _ = write!(head, "HTTP/1.1 {} ", status.as_u16());
    head.push_str(status.canonical_reason().unwrap_or_default());
    head.push_str("\r\n");
    for (name, value) in &parts.headers {
        if let Ok(value) = value.to_str()
            && name != header::CONTENT_LENGTH
        {
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    let _ = write!(head, "content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), &body].concat().into()
}
