//! `GET /v1/link`: an application dials, instead of being dialed (`backend.accept_links`).

use axum::body::Body;
use axum::extract::{Request, State as Extracted};
use axum::http::header::SEC_WEBSOCKET_PROTOCOL;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tungstenite::handshake::server::create_response;

use super::{ApiError, Asked, State};
use crate::backend::links::AcceptedSocket;
use crate::config::Config;
use crate::control::admin::watched::Watched;
use crate::link::LINK_SUBPROTOCOL;

/// Links of a node, past which no more are accepted.
const LINKS_MAX: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The application's name in the configuration.
    backend: Option<String>,
}

/// Upgrades to a WebSocket, and passes it on to the links of an application.
pub(super) async fn open_link(
    Extracted(state): Extracted<State>,
    Asked(Wanted { backend }): Asked<Wanted>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let backend = find_backend(&state.config(), backend.as_deref())?;
    let Some(links) = state.0.links.clone() else {
        return Err(ApiError::not_found(NONE_ACCEPTS));
    };
    if state.0.directory.links().links().len() >= LINKS_MAX {
        return Err(ApiError::unavailable("this node has too many links; retry later"));
    }
    if !offers_links(request.headers()) {
        let message = format!("offer the subprotocol {LINK_SUBPROTOCOL} of links");
        return Err(ApiError::bad_request(message));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let response = create_response(&Request::from_parts(parts, ()))
        .map_err(|error| ApiError::bad_request(format!("no upgrade to a WebSocket: {error}")))?;
    let mut response = response.map(|()| Body::empty());
    let chosen = HeaderValue::from_static(LINK_SUBPROTOCOL);
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, chosen);
    tokio::spawn(async move {
        // It fails where the connection ends first.
        if let Ok(upgraded) = upgrade.await {
            links.accept(backend, into_socket(upgraded));
        }
    });
    Ok(response)
}

const NONE_ACCEPTS: &str = "no [[backend]] has accept_links = true; set it, and reload";

/// Finds the application that a link is for.
fn find_backend(config: &Config, name: Option<&str>) -> Result<usize, ApiError> {
    let accepting = config.backends.iter().enumerate().filter(|(_, backend)| {
        let accepts = backend.links.as_ref().is_some_and(|links| links.accepts);
        accepts && name.is_none_or(|name| name == backend.name)
    });
    match (&accepting.map(|(at, _)| at).collect::<Vec<_>>()[..], name) {
        ([only], _) => Ok(*only),
        ([], None) => Err(ApiError::not_found(NONE_ACCEPTS)),
        ([], Some(name)) => Err(ApiError::not_found(format!(
            "no [[backend]] with the name {name:?} has accept_links = true"
        ))),
        _ => Err(ApiError::bad_request("name one of the applications, as in ?backend=app")),
    }
}

fn offers_links(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let names = offers.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    names.map(str::trim).any(|name| name == LINK_SUBPROTOCOL)
}

/// Takes the socket out of the connection. Without TLS, another thread can wait for it; with TLS,
/// this thread does, on behalf of the other.
fn into_socket(upgraded: Upgraded) -> AcceptedSocket {
    match upgraded.downcast::<TokioIo<Watched<TcpStream>>>() {
        Ok(parts) => {
            let early = parts.read_buf.to_vec();
            let tcp = parts.io.into_inner().into_stream();
            // Fails only where this process has no such socket.
            match tcp.into_std() {
                Ok(tcp) => AcceptedSocket::Tcp { tcp, early },
                Err(error) => AcceptedSocket::Failed(error),
            }
        }
        Err(upgraded) => AcceptedSocket::Other(Box::new(TokioIo::new(upgraded))),
    }
}
