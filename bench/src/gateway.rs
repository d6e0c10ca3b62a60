//! An application behind a gateway: it echoes every message on the links that a server dials.
//!
//! Written from the document of the wire format (`src/link/LINK.md`); one thread for each link. All
//! that a message of the link asks for is answered with one message.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;

use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::HeaderValue;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Bytes, Error, Message, WebSocket, accept_hdr_with_config};

const HEADER_BYTES: usize = 20;
const MESSAGE_BYTES_MAX: usize = 64 << 20;

const HELLO: u8 = 1;
const OPEN: u8 = 2;
const ACCEPT: u8 = 3;
const TEXT: u8 = 5;
const BINARY: u8 = 6;
const ACK: u8 = 7;
const CLOSE: u8 = 11;
const PING: u8 = 19;
const PONG: u8 = 20;
const MOVED: u8 = 1;

/// Serves links until the process ends.
///
/// # Errors
/// The listener has failed.
pub fn serve(listener: &TcpListener, instance: &str) -> io::Result<()> {
    loop {
        let (socket, _) = listener.accept()?;
        let instance = instance.to_owned();
        thread::spawn(move || {
            if let Err(error) = serve_link(socket, &instance) {
                eprintln!("seawall-bench: a link has ended: {error}");
            }
        });
    }
}

fn serve_link(socket: TcpStream, instance: &str) -> Result<(), String> {
    socket.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(MESSAGE_BYTES_MAX);
    config.max_frame_size = Some(MESSAGE_BYTES_MAX);
    #[expect(clippy::result_large_err, reason = "the type is that of the callback")]
    let choose = |_: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let name = HeaderValue::from_static("seawall.link.v1");
        response.headers_mut().insert("sec-websocket-protocol", name);
        Ok(response)
    };
    let opened = accept_hdr_with_config(socket, choose, Some(config));
    let mut link = opened.map_err(|error| error.to_string())?;
    let hello = format!(r#"{{"instance":"{instance}"}}"#);
    let mut replies = Vec::new();
    append(&mut replies, HELLO, 0, &[0; 10], 1, hello.as_bytes());
    loop {
        if !replies.is_empty() && !send(&mut link, std::mem::take(&mut replies))? {
            return Ok(());
        }
        match link.read() {
            Ok(Message::Binary(message)) => answer_all(&message, &mut replies)?,
            Ok(Message::Close(_)) | Err(Error::ConnectionClosed) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn send(link: &mut WebSocket<TcpStream>, replies: Vec<u8>) -> Result<bool, String> {
    match link.send(Message::Binary(Bytes::from(replies))) {
        Ok(()) => Ok(true),
        Err(Error::ConnectionClosed) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

fn append(out: &mut Vec<u8>, kind: u8, flags: u8, session: &[u8; 10], number: u32, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(session);
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(body);
}

/// Answers the records of a message: accepts, echoes and acknowledges.
fn answer_all(mut message: &[u8], replies: &mut Vec<u8>) -> Result<(), String> {
    while !message.is_empty() {
        let (header, rest) = message
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or("the server has sent a part of a header")?;
        let [l0, l1, l2, l3, kind, flags, session @ .., n0, n1, n2, n3] = *header;
        let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let number = u32::from_be_bytes([n0, n1, n2, n3]);
        let (body, rest) =
            rest.split_at_checked(len).ok_or("the server has sent a part of a record")?;
        message = rest;
        match kind {
            OPEN if flags & MOVED == 0 => append(replies, ACCEPT, 0, &session, 0, b""),
            TEXT | BINARY => {
                append(replies, kind, 0, &session, 0, body);
                append(replies, ACK, 0, &session, number, b"");
            }
            CLOSE if flags & MOVED != 0 => append(replies, CLOSE, MOVED, &session, 0, b""),
            PING => append(replies, PONG, 0, &session, 0, body),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_echoed_then_acknowledged() {
        let session = [7; 10];
        let (mut message, mut replies, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        append(&mut message, OPEN, 0, &session, 0, b"{}");
        append(&mut message, TEXT, 0, &session, 9, b"hi");
        append(&mut message, CLOSE, 0, &session, 1000, b"");
        answer_all(&message, &mut replies).unwrap();
        append(&mut expected, ACCEPT, 0, &session, 0, b"");
        append(&mut expected, TEXT, 0, &session, 0, b"hi");
        append(&mut expected, ACK, 0, &session, 9, b"");
        assert_eq!(replies, expected);
        assert!(answer_all(&message[..21], &mut replies).is_err());
    }
}
