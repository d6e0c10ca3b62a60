//! Echo on sockudo-ws: its high-level stream, as in its quick start, with its own handshake. Echoes
//! are fed and not sent, as its `write_coalescing` advises: the read path flushes them before it
//! waits, so that what came together leaves together.

use bytes::BytesMut;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use sockudo_ws::deflate::{DeflateConfig, negotiate_server_deflate};
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
use sockudo_ws::protocol::Message;
use sockudo_ws::{CompressedWebSocketStream, Config, Error, WebSocketStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The generator sends nothing before the answer, so no frames can follow the request.
async fn handshake(stream: &mut TcpStream) -> Result<Option<DeflateConfig>, Error> {
    let mut head = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(Error::ConnectionClosed);
        }
        if let Some((request, _)) = parse_request(&head)? {
            let accept = generate_accept_key(request.key);
            let policy = DeflateConfig { compression_level: 1, ..DeflateConfig::default() };
            let agreed = request
                .extensions
                .filter(|_| seawall_peers::deflate() != seawall_peers::Deflate::Off)
                .and_then(|offers| negotiate_server_deflate(offers, &policy));
            let extensions = agreed.as_ref().map(|agreed| agreed.to_response_header());
            let response = build_response(&accept, None, extensions.as_deref());
            stream.write_all(&response).await?;
            return Ok(agreed.map(|agreed| agreed.config));
        }
    }
}

async fn echo(mut stream: TcpStream) -> Result<(), Error> {
    match handshake(&mut stream).await? {
        None => answer(WebSocketStream::server(stream, Config::default())).await,
        Some(deflate) => {
            answer(CompressedWebSocketStream::server(stream, Config::default(), deflate)).await
        }
    }
}

async fn answer<S>(mut socket: S) -> Result<(), Error>
where
    S: Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Unpin,
{
    while let Some(message) = socket.next().await {
        match message? {
            message @ (Message::Text(_) | Message::Binary(_)) => socket.feed(message).await?,
            Message::Close(_) => break,
            _ => {}
        }
    }
    Ok(())
}

async fn serve(stream: TcpStream) {
    // The error of a connection ends that connection alone.
    let _ = echo(stream).await;
}

fn main() -> std::io::Result<()> {
    seawall_peers::run(serve)
}
