//! Dials an application: TCP, TLS, the WebSocket upgrade, and both hellos.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async_with_config;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::handshake::client::Request;
use tungstenite::http::HeaderValue;
use tungstenite::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, USER_AGENT};

use super::ending::{LinkEnd, describe_refusal};
use super::numbers::LinkCounters;
use super::stream::{LinkIo, LinkStream, WatchedIo, limit_messages};
use super::targets::Target;
use super::task::{Greeting, exchange_hellos};
use crate::backend::settings::{LinkSettings, LinkToken};
use crate::link::LINK_SUBPROTOCOL;

/// What dialing an application needs.
#[derive(Clone)]
pub(super) struct Dialing {
    pub(super) node: String,
    pub(super) settings: LinkSettings,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) record_bytes_max: usize,
    pub(super) counters: Arc<LinkCounters>,
}

impl Dialing {
    /// Dials, and exchanges hellos, within the application's timeout.
    ///
    /// # Errors
    /// With the cause and a remedy.
    pub(super) async fn dial(&self, target: &Target) -> Result<(LinkStream, Greeting), String> {
        let within = tokio::time::timeout(self.settings.timeout, self.open(target));
        within.await.unwrap_or_else(|_| {
            Err(format!(
                "no link within {} ms: the application hangs or cannot be reached \
                 (backend.link_timeout_ms)",
                self.settings.timeout.as_millis()
            ))
        })
    }

    async fn open(&self, target: &Target) -> Result<(LinkStream, Greeting), String> {
        let io = self.connect(target).await?;
        let io = WatchedIo::new(io, self.counters.clone());
        let request = upgrade_request(target, self.settings.token.as_ref())?;
        let limits = limit_messages(self.record_bytes_max);
        let opened = client_async_with_config(request, io, Some(limits)).await;
        let (stream, _) = opened.map_err(|error| describe_refusal(&error))?;
        self.greet(stream).await.map_err(|end| end.to_string())
    }

    /// Exchanges hellos on an open WebSocket.
    pub(super) async fn greet(
        &self,
        mut stream: LinkStream,
    ) -> Result<(LinkStream, Greeting), LinkEnd> {
        let hellos =
            exchange_hellos(&mut stream, &self.node, &self.settings, self.record_bytes_max);
        match hellos.await {
            Ok(greeting) => Ok((stream, greeting)),
            Err(end) => {
                // The peer may be gone; it gets a reason where it is not.
                let _ = stream.close(end.close_frame()).await;
                Err(end)
            }
        }
    }

    async fn connect(&self, target: &Target) -> Result<Box<dyn LinkIo>, String> {
        let tcp = TcpStream::connect(target.address).await.map_err(|error| {
            let remedy = match error.kind() {
                // The ports that a sandboxed process may connect to are fixed at its start.
                io::ErrorKind::PermissionDenied => "after a change of links, restart the server",
                _ => "start the application, or correct links",
            };
            format!("cannot connect: {error}; {remedy}")
        })?;
        // Fails only where the connection has ended already, which is noticed next.
        let _ = tcp.set_nodelay(true);
        if !target.url.is_tls() {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(target.url.host().to_owned());
        let name = name.map_err(|error| format!("the host cannot be verified: {error}"))?;
        let tls = TlsConnector::from(self.tls.clone()).connect(name, tcp).await;
        let tls = tls.map_err(|error| {
            format!("TLS: {error}; correct links, or name its authority in ca_file")
        })?;
        Ok(Box::new(tls))
    }
}

fn upgrade_request(target: &Target, token: Option<&LinkToken>) -> Result<Request, String> {
    let invalid = |error: &dyn std::fmt::Display| format!("links: {error}");
    let request = target.url.as_str().into_client_request();
    let mut request = request.map_err(|error| invalid(&error))?;
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(LINK_SUBPROTOCOL));
    let agent = concat!("seawall/", env!("CARGO_PKG_VERSION"));
    headers.insert(USER_AGENT, HeaderValue::from_static(agent));
    if let Some(token) = token {
        let value = HeaderValue::try_from(format!("Bearer {}", token.reveal()));
        let mut value = value.map_err(|error| invalid(&error))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(request)
}
