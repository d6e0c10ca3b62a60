//! The HTTP/1.1 form of decisions: the 101, pages, and rejections with a JSON body.
//!
//! All but the 101 say `Connection: close`, for the connection ends with them. None carries a Date:
//! there is no clock here (RFC 9110 6.6.1).

use super::pages::PageForm;
use super::{Content, Decision, Refusal, Response, Upgrade};
use std::io::Write;
use tungstenite::handshake::derive_accept_key;

const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: ";

/// The answer to a client that waits before it sends a body (RFC 9110 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Appends a decision's bytes to `out`: none, if it is pending, or answered elsewhere.
///
/// Must be called once for a connection: nothing of HTTP follows a 101, and any other answer is the
/// last.
pub fn encode(decision: &Decision<'_>, out: &mut Vec<u8>) {
    match decision {
        Decision::Upgrade(upgrade) => switch(upgrade, out),
        Decision::Pending(_) | Decision::Forward(_) => {}
        Decision::Answer(response) => respond(response, out),
    }
}

/// Writes a rejection decided outside, such as 408 at the handshake's deadline, to `out`.
///
/// `message` says what was refused and what to do; `retry_after_s` in seconds. The connection must
/// linger and close after it. Must not be called for a connection that was upgraded.
pub fn refuse(refusal: Refusal, message: &str, retry_after_s: Option<u32>, out: &mut Vec<u8>) {
    respond(&Response { retry_after_s, ..Response::error(refusal, message) }, out);
}

/// Writes the 101 (RFC 6455 4.2.2).
fn switch(upgrade: &Upgrade<'_>, out: &mut Vec<u8>) {
    let Upgrade { key, subprotocol, compression, .. } = upgrade;
    out.reserve(SWITCHING.len() + 192 + subprotocol.as_ref().map_or(0, |name| name.len()));
    out.extend_from_slice(SWITCHING);
    out.extend_from_slice(derive_accept_key(key).as_bytes());
    if let Some(subprotocol) = subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(subprotocol.as_bytes());
    }
    if compression.agreed.is_some() {
        out.extend_from_slice(b"\r\nSec-WebSocket-Extensions: ");
        compression.answer(out);
    }
    out.extend_from_slice(b"\r\n\r\n");
}

fn respond(response: &Response<'_>, out: &mut Vec<u8>) {
    let phrase = match &response.content {
        Content::Error { refusal, .. } => refusal.phrase(),
        Content::Health { status: 200, .. } | Content::Challenge(_) => "OK",
        Content::Health { .. } => Refusal::Unavailable.phrase(),
        Content::Redirect { .. } => "Permanent Redirect",
        Content::Page(form) => return page(form, response.head_only, out),
    };
    let (body, content_type) = response.body();
    start(response.status(), phrase, out);
    field("Content-Type", &content_type, out);
    field("Content-Length", &body.len(), out);
    field("Cache-Control", &"no-store", out);
    match response.refusal() {
        // RFC 9110 7.8, 15.5.22: a 426 names the protocol, and `Upgrade` is named in `Connection`.
        Some(Refusal::UpgradeRequired) => out.extend_from_slice(
            b"Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        ),
        _ => out.extend_from_slice(b"Connection: close\r\n"),
    }
    if let Content::Redirect { location } = &response.content {
        field("Location", location, out);
    }
    match response.refusal() {
        // RFC 6750 3: what kind of token is wanted.
        Some(Refusal::Unauthorized) => {
            field("WWW-Authenticate", &"Bearer error=\"invalid_token\"", out);
        }
        Some(Refusal::MethodNotAllowed) => field("Allow", &response.allow, out),
        _ => {}
    }
    if let Some(seconds) = response.retry_after_s {
        field("Retry-After", &seconds, out);
    }
    out.extend_from_slice(b"\r\n");
    if !response.head_only {
        out.extend_from_slice(&body);
    }
}

/// Writes a page, or that the client has it already.
///
/// It may be kept, but must be asked for again each time: after an update of the server no old
/// script speaks to it.
fn page(chosen: &PageForm<'_>, head_only: bool, out: &mut Vec<u8>) {
    let PageForm { page, form, encoding, is_fresh } = chosen;
    out.reserve(page.fields.len() + form.etag.len() + 256 + chosen.bytes().len());
    start(chosen.status(), if *is_fresh { "Not Modified" } else { "OK" }, out);
    field("ETag", &form.etag, out);
    field("Cache-Control", &"no-cache", out);
    field("Vary", &"Accept-Encoding", out);
    out.extend_from_slice(b"X-Content-Type-Options: nosniff\r\n");
    out.extend_from_slice(page.fields.as_bytes());
    if !is_fresh {
        field("Content-Type", &page.content_type, out);
        field("Content-Length", &form.bytes.len(), out);
        if let Some(encoding) = encoding {
            field("Content-Encoding", encoding, out);
        }
    }
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    if !head_only {
        out.extend_from_slice(chosen.bytes());
    }
}

fn start(status: u16, phrase: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    field_line(format_args!("{status} {phrase}"), out);
}

fn field(name: &str, value: &dyn std::fmt::Display, out: &mut Vec<u8>) {
    field_line(format_args!("{name}: {value}"), out);
}

fn field_line(line: std::fmt::Arguments<'_>, out: &mut Vec<u8>) {
    let written = write!(out, "{line}\r\n");
    debug_assert!(written.is_ok(), "writing to a vector does not fail");
}
