//! `tokio-tungstenite`, in this process: a codec that is not ours, driven by an async runtime.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::CONFIG;
use crate::support::Server;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Runs on a runtime of its own; a test that hangs fails.
fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_mins(1), test).await.expect("it ends in time");
    });
}

async fn open(server: &Server) -> Socket {
    let url = format!("ws://{}/echo", server.address());
    let (socket, response) = connect_async(url).await.unwrap();
    assert_eq!(response.status(), 101);
    socket
}

/// The next message that is not a ping.
async fn next(socket: &mut Socket) -> Message {
    loop {
        match socket.next().await.expect("the stream continues").unwrap() {
            Message::Ping(_) => {}
            message => return message,
        }
    }
}

async fn echo(socket: &mut Socket, message: Message) {
    socket.send(message.clone()).await.unwrap();
    let found = next(socket).await;
    assert!(found == message, "{} bytes come back with their opcode", message.len());
}

fn fragment(opcode: Data, fin: bool, payload: &'static [u8]) -> Message {
    Message::Frame(Frame::message(payload, OpCode::Data(opcode), fin))
}

#[test]
fn messages_come_back() {
    let server = Server::start(CONFIG);
    block_on(async {
        let mut socket = open(&server).await;
        for text in ["", "hello", "grüße, 世界, 🦭"] {
            echo(&mut socket, Message::text(text)).await;
        }
        for len in [0, 1, 125, 126, 65_535, 65_536, 16 << 20] {
            echo(&mut socket, Message::binary(vec![7; len])).await;
        }
        for part in [
            fragment(Data::Text, false, b"gr\xc3"),
            Message::Ping(Bytes::from_static(b"between")),
            fragment(Data::Continue, false, b""),
            fragment(Data::Continue, true, b"\xbc\xc3\x9fe"),
        ] {
            socket.send(part).await.unwrap();
        }
        assert_eq!(next(&mut socket).await, Message::Pong(Bytes::from_static(b"between")));
        assert_eq!(next(&mut socket).await, Message::text("grüße"));
    });
}

async fn close_of(socket: &mut Socket) -> Option<CloseFrame> {
    let message = next(socket).await;
    let Message::Close(frame) = message else { panic!("{message:?} is not a Close") };
    frame
}

#[test]
fn close_codes_go_both_ways() {
    let mut server = Server::start(CONFIG);
    block_on(async {
        for code in [1000, 3001, 4000] {
            let mut socket = open(&server).await;
            let frame = CloseFrame { code: CloseCode::from(code), reason: "bye".into() };
            socket.close(Some(frame)).await.unwrap();
            let answer = close_of(&mut socket).await.expect("the code is answered");
            assert_eq!(u16::from(answer.code), code);
            assert!(socket.next().await.is_none_or(|end| end.is_err()), "the end follows");
        }
        // Without a code, as RFC 6455 5.5.1 allows: a normal end.
        let mut socket = open(&server).await;
        socket.close(None).await.unwrap();
        let answer = close_of(&mut socket).await;
        assert!(answer.is_none_or(|frame| frame.code == CloseCode::Normal));

        let mut socket = open(&server).await;
        socket.send(fragment(Data::Continue, true, b"of nothing")).await.unwrap();
        let answer = close_of(&mut socket).await.expect("a reason is given");
        assert_eq!(answer.code, CloseCode::Protocol);

        let mut socket = open(&server).await;
        // The server may stop reading before all of it is sent.
        let _ = socket.send(Message::binary(vec![0; (16 << 20) + 1])).await;
        let answer = close_of(&mut socket).await.expect("a reason is given");
        assert_eq!(answer.code, CloseCode::Size);

        let mut socket = open(&server).await;
        echo(&mut socket, Message::text("last")).await;
        server.signal("TERM");
        let answer = close_of(&mut socket).await.expect("a reason is given");
        assert_eq!(answer.code, CloseCode::Away);
        // Flushes the answer to the Close.
        let _ = socket.next().await;
    });
    assert_eq!(server.wait(Duration::from_secs(15)).code(), Some(0));
}
