//! Echo on tokio-tungstenite: its example server, whose `forward` flushes when nothing
//! more has come, with the small buffers its documentation advises for many connections (the
//! default reserves 128 KiB for each).

use futures_util::{StreamExt, TryStreamExt, future};
use tokio::net::TcpStream;
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

const BUFFER_BYTES: usize = 4096;

async fn serve(stream: TcpStream) {
    let config =
        WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(BUFFER_BYTES);
    let Ok(socket) = accept_async_with_config(stream, Some(config)).await else { return };
    let (write, read) = socket.split();
    // The error of a connection ends that connection alone.
    let _ = read
        .try_filter(|message| future::ready(message.is_text() || message.is_binary()))
        .forward(write)
        .await;
}

fn main() -> std::io::Result<()> {
    seawall_peers::run(serve)
}
