//! TLS on the admin address: the handshake of a connection, before its first request.
//!
//! A connection has its place in the pool from its accept on, and the deadline of its first request
//! includes the handshake. So one that does not complete it is closed in time, and makes room for
//! others before.

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::watched::Watched;

/// Input that is discarded after an answer that precedes the end: closing at once would let a reset
/// overtake it.
const DISCARDED_BYTES_MAX: u64 = 64 * 1024;

/// The answer to HTTP without TLS.
const NOT_TLS: &str = "{\"error\":{\"code\":\"bad_request\",\"message\":\"this address requires \
                       TLS; use https://\"}}";

/// Does the handshake.
///
/// # Errors
/// Why it has failed, or `None` if the client has sent nothing, as some health checks do. Otherwise
/// it has its alert or answer, and has closed the connection or sent more than is listened to.
pub(super) async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: Watched<S>,
    config: Arc<ServerConfig>,
) -> Result<TlsStream<Watched<S>>, Option<String>> {
    let Ok(first) = stream.read_u8().await else { return Err(None) };
    // A record of TLS begins with a number below 32, a request of HTTP with a letter.
    if first.is_ascii_alphabetic() {
        let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\
                    Connection: close\r\nContent-Length: ";
        let answer = format!("{head}{}\r\n\r\n{NOT_TLS}", NOT_TLS.len());
        // The client may be gone.
        let _ = stream.write_all(answer.as_bytes()).await;
        end(stream).await;
        return Err(Some("a request without TLS".to_owned()));
    }
    stream.put_back(first);
    match TlsAcceptor::from(config).accept(stream).into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((error, stream)) => {
            end(stream).await;
            Err(Some(error.to_string()))
        }
    }
}

/// Ends the sending side, and discards input until the client closes.
async fn end(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    // An error means that the client is gone.
    if stream.shutdown().await.is_ok() {
        let mut rest = stream.take(DISCARDED_BYTES_MAX);
        let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
    }
}
