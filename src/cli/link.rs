//! `seawall link`: an application that shows the records of its links.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use tungstenite::http::{HeaderMap, HeaderValue, StatusCode};
use tungstenite::{Bytes, Message};

use crate::backend::LinkToken;
use crate::link::{
    LINK_SUBPROTOCOL, LINK_VERSION, LinkRecord, LinkSession, RecordFlags, RecordKind, Records,
    append_record,
};

/// Acts as an application behind a gateway: accepts the links that a server dials and every client,
/// acknowledges every message, and prints each record as a line of JSON. It prints the line for
/// `links` of the application that is to be watched.
///
/// Runs until SIGINT or SIGTERM. Exit codes: 1 it cannot listen, or the token cannot be read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n\
        \x20 seawall link\n\
        \x20 seawall link --listen 127.0.0.1:9100 --echo --token-file /etc/seawall/link.token")]
pub(super) struct Arguments {
    /// The address on which the server dials
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,

    /// The file with the token that the server shows (`link_token_file`); default: none is checked
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Send each message back to its client
    #[arg(long)]
    echo: bool,
}

/// What each link does.
#[derive(Clone)]
struct Watching {
    token: Option<LinkToken>,
    echoes: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        let token = read_token(arguments)?;
        runtime.block_on(listen(arguments.listen, Watching { token, echoes: arguments.echo }))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => super::print_failure(&text),
    }
}

fn read_token(arguments: &Arguments) -> Result<Option<LinkToken>, String> {
    let Some(path) = &arguments.token_file else { return Ok(None) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let token = LinkToken::new(text.trim_end_matches(['\r', '\n']));
    let wrong = || format!("{}: the token must be one word of ASCII characters", path.display());
    token.map(Some).ok_or_else(wrong)
}

async fn listen(address: SocketAddr, watching: Watching) -> Result<(), String> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}; use --listen"))?;
    let bound = listener.local_addr().unwrap_or(address);
    eprintln!("seawall: an application for links = [\"ws://{bound}/\"]; waiting for the server");
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                tokio::spawn(watch_link(socket, peer, watching.clone()));
            }
            Err(error) => eprintln!("seawall: cannot accept a link: {error}"),
        }
    }
}

async fn watch_link(socket: TcpStream, peer: SocketAddr, watching: Watching) {
    let token = watching.token.clone();
    #[expect(clippy::result_large_err, reason = "the type is that of the callback")]
    let check = move |request: &Request, response: Response| {
        check_upgrade(request, response, token.as_ref())
    };
    let stream = match accept_hdr_async(socket, check).await {
        Ok(stream) => stream,
        Err(error) => return eprintln!("seawall: no link from {peer}: {error}"),
    };
    match exchange(stream, peer, watching.echoes).await {
        Ok(()) => eprintln!("seawall: the link from {peer} has ended"),
        Err(error) => eprintln!("seawall: the link from {peer} has ended: {error}"),
    }
}

#[expect(clippy::result_large_err, reason = "the type is that of the callback")]
fn check_upgrade(
    request: &Request,
    mut response: Response,
    token: Option<&LinkToken>,
) -> Result<Response, ErrorResponse> {
    let reject = |status, text: &str| {
        let mut rejection = ErrorResponse::new(Some(text.to_owned()));
        *rejection.status_mut() = status;
        Err(rejection)
    };
    if !offers_links(request.headers()) {
        return reject(StatusCode::BAD_REQUEST, "offer the subprotocol seawall.link.v1");
    }
    let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let is_known = |token: &LinkToken| {
        shown.and_then(|value| value.strip_prefix("Bearer ")) == Some(token.reveal())
    };
    if !token.is_none_or(is_known) {
        return reject(StatusCode::UNAUTHORIZED, "the token is not that of --token-file");
    }
    let chosen = HeaderValue::from_static(LINK_SUBPROTOCOL);
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, chosen);
    Ok(response)
}

fn offers_links(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let names = offers.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    names.map(str::trim).any(|name| name == LINK_SUBPROTOCOL)
}

async fn exchange(
    mut stream: WebSocketStream<TcpStream>,
    peer: SocketAddr,
    echoes: bool,
) -> Result<(), String> {
    let name = json!({"instance": format!("seawall-link-{}", std::process::id())}).to_string();
    let mut replies = Vec::new();
    let hello =
        LinkRecord::new(RecordKind::Hello, LinkSession::NONE, LINK_VERSION, name.as_bytes());
    append_record(&mut replies, &hello);
    loop {
        if !replies.is_empty() {
            let message = Message::Binary(Bytes::from(std::mem::take(&mut replies)));
            stream.send(message).await.map_err(|error| error.to_string())?;
        }
        let message = match stream.next().await {
            None | Some(Ok(Message::Close(None))) => return Ok(()),
            Some(Ok(Message::Close(Some(frame)))) => return Err(frame.to_string()),
            Some(Ok(Message::Binary(message))) => message,
            Some(Ok(Message::Text(_))) => return Err("the server has sent text".to_owned()),
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(error.to_string()),
        };
        for record in Records::new(&message, usize::MAX) {
            let record = record.map_err(|error| error.reason().to_owned())?;
            if !matches!(record.known_kind(), Some(RecordKind::Ping | RecordKind::Pong)) {
                print_record(peer, &record);
            }
            answer(&mut replies, &record, echoes);
        }
    }
}

/// Appends what an application that does nothing else answers.
fn answer(replies: &mut Vec<u8>, record: &LinkRecord<'_>, echoes: bool) {
    let LinkRecord { session, number, body, flags, .. } = *record;
    let mut append = |kind, number, body| {
        append_record(replies, &LinkRecord::new(kind, session, number, body));
    };
    match record.known_kind() {
        Some(RecordKind::Open) if !flags.contains(RecordFlags::MOVED) => {
            append(RecordKind::Accept, 0, b"{}");
        }
        Some(kind @ (RecordKind::Text | RecordKind::Binary)) => {
            if echoes {
                append(kind, 0, body);
            }
            append(RecordKind::Ack, number, b"");
        }
        Some(RecordKind::Ping) => append(RecordKind::Pong, 0, body),
        Some(RecordKind::Ask) => {
            let error = br#"{"error":{"code":"unknown_method","message":"nothing answers here"}}"#;
            append(RecordKind::Answer, number, error);
        }
        Some(RecordKind::Close) if flags.contains(RecordFlags::MOVED) => {
            let close = LinkRecord::new(RecordKind::Close, session, 0, b"");
            append_record(replies, &close.with(RecordFlags::MOVED));
        }
        _ => {}
    }
}

fn print_record(peer: SocketAddr, record: &LinkRecord<'_>) {
    let line = describe_record(peer, record).to_string();
    let mut out = std::io::stdout().lock();
    // A reader that has gone ends the process with the next signal.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn describe_record(peer: SocketAddr, record: &LinkRecord<'_>) -> Value {
    let kind =
        record.known_kind().map_or_else(|| record.kind.to_string(), |kind| kind.name().into());
    let mut session = String::new();
    for byte in record.session.encode() {
        // Text can always be written to.
        let _ = write!(session, "{byte:02x}");
    }
    let mut line = json!({
        "link": peer.to_string(),
        "kind": kind,
        "session": session,
        "number": record.number,
    });
    let flags = record.flags.names();
    if !flags.is_empty() {
        line["flags"] = flags.into();
    }
    let is_payload = matches!(record.known_kind(), Some(RecordKind::Text | RecordKind::Binary));
    match str::from_utf8(record.body) {
        Ok("") if !is_payload => {}
        // The name of a channel, which may look like JSON.
        Ok(channel) if record.known_kind() == Some(RecordKind::Joined) => {
            line["body"] = channel.into();
        }
        Ok(text) if !is_payload => {
            line["body"] = serde_json::from_str(text).unwrap_or_else(|_| text.into());
        }
        Ok(text) if record.known_kind() == Some(RecordKind::Text) => line["text"] = text.into(),
        _ => line["base64"] = STANDARD.encode(record.body).into(),
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Token;

    fn describe(record: &LinkRecord<'_>) -> String {
        describe_record("127.0.0.1:9".parse().unwrap(), record).to_string()
    }

    #[test]
    fn records_are_shown_as_json() {
        let session = LinkSession { shard: 1, token: Token { slot: 2, generation: 3 } };
        let open = LinkRecord::new(RecordKind::Open, session, 0, br#"{"path":"/a"}"#);
        let shown = describe(&open.with(RecordFlags::MOVED));
        for part in [r#""kind":"open""#, r#""flags":["moved"]"#, r#""body":{"path":"/a"}"#] {
            assert!(shown.contains(part), "{shown}");
        }
        assert!(shown.contains(r#""session":"00010000000200000003""#), "{shown}");
        let joined = LinkRecord::new(RecordKind::Joined, session, 7, b"17");
        assert!(describe(&joined).contains(r#""body":"17","kind":"joined""#));
        let left = LinkRecord::new(RecordKind::Left, session, 7, br#"{"channel":"a"}"#);
        assert!(describe(&left).contains(r#""body":{"channel":"a"},"kind":"left""#));
        let text = LinkRecord::new(RecordKind::Text, session, 7, b"hi");
        assert!(describe(&text).contains(r#""text":"hi""#));
        let binary = LinkRecord::new(RecordKind::Binary, session, 7, b"\xff");
        assert!(describe(&binary).contains(r#""base64":"/w==""#));
    }

    #[test]
    fn every_client_is_accepted_and_every_message_acknowledged() {
        let open = LinkRecord::new(RecordKind::Open, LinkSession::NONE, 0, b"{}");
        let text = LinkRecord::new(RecordKind::Text, LinkSession::NONE, 5, b"hi");
        let mut replies = Vec::new();
        for record in [open, text, open.with(RecordFlags::MOVED)] {
            answer(&mut replies, &record, true);
        }
        let replies = Records::new(&replies, 100).map(Result::unwrap);
        let found: Vec<_> = replies.map(|one| (one.known_kind().unwrap(), one.number)).collect();
        let expected = [(RecordKind::Accept, 0), (RecordKind::Text, 0), (RecordKind::Ack, 5)];
        assert_eq!(found, expected);
    }
}
