//! The answers: the 101, pages, and refusals with a JSON body.
//!
//! All but the 101 say `Connection: close`, for the connection ends with them. None carries a Date:
//! there is no clock here (RFC 9110 6.6.1).

use super::pages::{Page, Wish};
use super::{Compression, Refusal};
use std::io::Write;
use tungstenite::handshake::derive_accept_key;

const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: ";

/// Writes the 101 (RFC 6455 4.2.2).
pub(super) fn switch(
    key: &[u8],
    subprotocol: Option<&str>,
    compression: Compression,
    out: &mut Vec<u8>,
) {
    out.reserve(SWITCHING.len() + 192 + subprotocol.map_or(0, str::len));
    out.extend_from_slice(SWITCHING);
    out.extend_from_slice(derive_accept_key(key).as_bytes());
    if let Some(subprotocol) = subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(subprotocol.as_bytes());
    }
    compression.answer(out);
    out.extend_from_slice(b"\r\n\r\n");
}

/// What a response has beside its status and body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// The methods of the resource, for the `Allow` of a 405.
    pub(super) allow: &'static str,
    /// The `Retry-After` of a 503, in seconds.
    pub(super) retry_after_s: Option<u32>,
    /// Whether the request was HEAD, whose answer has no body (RFC 9110 9.3.2).
    pub(super) head_only: bool,
}

impl Shape {
    pub(super) const PLAIN: Self = Self { allow: "GET", retry_after_s: None, head_only: false };
}

/// Writes a refusal decided outside, such as 408 at the handshake's deadline, to `out`.
///
/// `message` says what was refused and what to do; `retry_after_s` in seconds. The connection must
/// linger and close after it. Must not be called for a connection that was upgraded.
pub fn refuse(refusal: Refusal, message: &str, retry_after_s: Option<u32>, out: &mut Vec<u8>) {
    refusal_response(refusal, message, Shape { retry_after_s, ..Shape::PLAIN }, out);
}

/// Writes a refusal: `{"error":{"code":…,"message":…}}`.
pub(super) fn refusal_response(refusal: Refusal, message: &str, shape: Shape, out: &mut Vec<u8>) {
    let body = serde_json::json!({"error": {"code": refusal.code(), "message": message}});
    let body = body.to_string();
    start(refusal.status(), refusal.phrase(), body.len(), out);
    // RFC 9110 7.8, 15.5.22: a 426 names the protocol, and `Upgrade` is named in `Connection`.
    let fields = match refusal {
        Refusal::UpgradeRequired => {
            "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        }
        _ => "Connection: close\r\n",
    };
    out.extend_from_slice(fields.as_bytes());
    if refusal == Refusal::Unauthorized {
        // RFC 6750 3: what kind of token is wanted.
        field("WWW-Authenticate", &"Bearer error=\"invalid_token\"", out);
    }
    if refusal == Refusal::MethodNotAllowed {
        field("Allow", &shape.allow, out);
    }
    finish(&body, shape, out);
}

/// Writes an answer that is no refusal; `body` is JSON.
pub(super) fn plain_response(status: u16, body: &str, shape: Shape, out: &mut Vec<u8>) {
    let phrase = if status == 200 { "OK" } else { Refusal::Unavailable.phrase() };
    start(status, phrase, body.len(), out);
    out.extend_from_slice(b"Connection: close\r\n");
    finish(body, shape, out);
}

/// Writes a page, or that the client has it already; gives the status.
///
/// It may be kept, but must be asked for again each time: after an update of the server no old
/// script speaks to it.
pub(super) fn page_response(page: &Page, wish: Wish, shape: Shape, out: &mut Vec<u8>) -> u16 {
    let (status, form, encoding) = page.answer(wish);
    let phrase = if status == 200 { "OK" } else { "Not Modified" };
    let fields = page.fields.len() + form.etag.len() + 256;
    out.reserve(fields + if status == 200 { form.bytes.len() } else { 0 });
    out.extend_from_slice(b"HTTP/1.1 ");
    field_line(format_args!("{status} {phrase}"), out);
    field("ETag", &form.etag, out);
    field("Cache-Control", &"no-cache", out);
    field("Vary", &"Accept-Encoding", out);
    out.extend_from_slice(b"X-Content-Type-Options: nosniff\r\n");
    out.extend_from_slice(page.fields.as_bytes());
    if status == 200 {
        field("Content-Type", &page.content_type, out);
        field("Content-Length", &form.bytes.len(), out);
        if let Some(encoding) = encoding {
            field("Content-Encoding", &encoding, out);
        }
    }
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    if status == 200 && !shape.head_only {
        out.extend_from_slice(&form.bytes);
    }
    status
}

fn start(status: u16, phrase: &str, body_bytes: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    field_line(format_args!("{status} {phrase}"), out);
    field("Content-Type", &"application/json", out);
    field("Content-Length", &body_bytes, out);
    field("Cache-Control", &"no-store", out);
}

fn finish(body: &str, shape: Shape, out: &mut Vec<u8>) {
    if let Some(seconds) = shape.retry_after_s {
        field("Retry-After", &seconds, out);
    }
    out.extend_from_slice(b"\r\n");
    if !shape.head_only {
        out.extend_from_slice(body.as_bytes());
    }
}

fn field(name: &str, value: &dyn std::fmt::Display, out: &mut Vec<u8>) {
    field_line(format_args!("{name}: {value}"), out);
}

fn field_line(line: std::fmt::Arguments<'_>, out: &mut Vec<u8>) {
    let written = write!(out, "{line}\r\n");
    debug_assert!(written.is_ok(), "writing to a vector does not fail");
}
