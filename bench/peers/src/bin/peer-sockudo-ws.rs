//! Echo on sockudo-ws: its high-level stream, as in its quick start, with its own handshake. Echoes
//! are fed and not sent, as its `write_coalescing` advises: the read path flushes them before it
//! waits, so that what came together leaves together.

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
use sockudo_ws::protocol::Message;
use sockudo_ws::{Config, Error, WebSocketStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The generator sends nothing before the answer, so no frames can follow the request.
async fn handshake(stream: &mut TcpStream) -> Result<(), Error> {
    let mut head = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(Error::ConnectionClosed);
        }
        if let Some((request, _)) = parse_request(&head)? {
            let accept = generate_accept_key(request.key);
            stream.write_all(&build_response(&accept, None, None)).await?;
            return Ok(());
        }
    }
}

async fn echo(mut stream: TcpStream) -> Result<(), Error> {
    handshake(&mut stream).await?;
    let mut socket = WebSocketStream::server(stream, Config::default());
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
