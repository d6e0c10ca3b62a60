//! Broadcast on tokio-tungstenite and `tokio::sync::broadcast`, as it is written by hand: what a
//! client sends goes to all others of its path. Each connection has a task that reads and one that
//! writes, and flushes when nothing more waits.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{Receiver, Sender, channel};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

const BUFFER_BYTES: usize = 4096;
/// Messages that a slow reader may be behind.
const CAPACITY: usize = 1024;

type Posted = (u64, Message);

static ROOMS: LazyLock<Mutex<HashMap<String, Arc<Sender<Posted>>>>> = LazyLock::new(Mutex::default);

fn room(path: &str) -> Arc<Sender<Posted>> {
    let mut rooms = ROOMS.lock().expect("nobody panics with it");
    Arc::clone(rooms.entry(path.to_owned()).or_insert_with(|| Arc::new(channel(CAPACITY).0)))
}

async fn write(
    own: u64,
    mut posted: Receiver<Posted>,
    mut out: SplitSink<WebSocketStream<TcpStream>, Message>,
) -> Result<(), Error> {
    loop {
        let mut next = match posted.recv().await {
            Ok(one) => Some(one),
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return Ok(()),
        };
        while let Some((from, message)) = next.take() {
            if from != own {
                out.feed(message).await?;
            }
            next = match posted.try_recv() {
                Ok(one) => Some(one),
                Err(TryRecvError::Lagged(_)) => posted.try_recv().ok(),
                Err(_) => None,
            };
        }
        out.flush().await?;
    }
}

async fn serve(stream: TcpStream) {
    let own = stream.peer_addr().map_or(0, |address| u64::from(address.port()) << 32)
        | std::os::fd::AsRawFd::as_raw_fd(&stream) as u64;
    let config =
        WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(BUFFER_BYTES);
    let mut joined = None;
    let callback = |request: &Request, response: Response| {
        let sender = room(request.uri().path());
        joined = Some((sender.subscribe(), sender));
        Ok(response)
    };
    let Ok(socket) = accept_hdr_async_with_config(stream, callback, Some(config)).await else {
        return;
    };
    let Some((posted, sender)) = joined else { return };
    let (out, mut incoming) = socket.split();
    let writer = tokio::spawn(write(own, posted, out));
    while let Some(Ok(message)) = incoming.next().await {
        if message.is_text() || message.is_binary() {
            // Nobody may be there to hear it.
            let _ = sender.send((own, message));
        }
    }
    writer.abort();
}

fn main() -> std::io::Result<()> {
    seawall_peers::run(serve)
}
