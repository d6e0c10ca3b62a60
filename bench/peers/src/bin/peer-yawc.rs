//! Echo on yawc: hyper's upgrade, and a flush when nothing more has come, as its own benchmark
//! server does.

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use seawall_peers::Deflate;
use tokio::net::TcpStream;
use yawc::{CompressionLevel, HttpResponse, HttpWebSocket, OpCode, Options, Result, WebSocket};

/// Messages answered before a flush, at most.
const BATCH: usize = 32;

async fn echo(mut socket: HttpWebSocket) -> Result<()> {
    while let Some(frame) = socket.next().await {
        let mut next = Some(frame);
        for _ in 0..BATCH {
            let Some(frame) = next.take() else { break };
            if matches!(frame.opcode(), OpCode::Text | OpCode::Binary) {
                socket.feed(frame).await?;
            }
            next = socket.next().now_or_never().flatten();
        }
        if let Some(frame) = next {
            socket.feed(frame).await?;
        }
        socket.flush().await?;
    }
    Ok(())
}

async fn answer(mut request: Request<Incoming>) -> Result<HttpResponse> {
    let fast = || Options::default().with_compression_level(CompressionLevel::fast());
    let options = match seawall_peers::deflate() {
        Deflate::Off => Options::default().without_compression(),
        Deflate::Alone => fast().server_no_context_takeover().client_no_context_takeover(),
        Deflate::Takeover => fast().client_no_context_takeover(),
    };
    let (response, upgraded) = WebSocket::upgrade_with_options(&mut request, options)?;
    tokio::spawn(async move {
        // A peer that leaves without a closing handshake is an error here; it ends the task alone.
        if let Ok(socket) = upgraded.await {
            let _ = echo(socket).await;
        }
    });
    Ok(response)
}

async fn serve(stream: TcpStream) {
    // The error of a connection ends that connection alone.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .with_upgrades()
        .await;
}

fn main() -> std::io::Result<()> {
    seawall_peers::run(serve)
}
