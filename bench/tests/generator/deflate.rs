//! permessage-deflate against a server that agrees, one that declines, and one that corrupts.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use tungstenite::handshake::derive_accept_key;

use crate::run::bench;
use crate::server::{Behaviour, TestServer};

const SHORT: &[&str] =
    &["--connections", "3", "--warmup", "0", "--duration", "0.4", "--deflate", "--verify"];

/// A server that gives every frame back as it came, compressed or not, without its mask; its thread
/// ends with the test's process.
fn mirror(corrupt: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || reflect(stream, corrupt));
        }
    });
    format!("ws://{address}/echo")
}

/// Ends with the first error: the peer is gone.
fn reflect(mut stream: TcpStream, corrupt: bool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.contains("permessage-deflate; client_no_context_takeover"), "{head}");
    let key = head.split("Sec-WebSocket-Key: ").nth(1).and_then(|rest| rest.lines().next());
    let accept = derive_accept_key(key.unwrap().as_bytes());
    let own = "; server_no_context_takeover";
    let own = if head.contains(own) { own } else { "" };
    let answer = format!(
        "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Extensions: permessage-deflate; \
         client_no_context_takeover{own}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes())?;
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head)?;
        let mut extended = vec![0; if head[1] & 0x7F == 126 { 2 } else { 0 }];
        stream.read_exact(&mut extended)?;
        let len = match extended[..] {
            [high, low] => usize::from(u16::from_be_bytes([high, low])),
            _ => usize::from(head[1] & 0x7F),
        };
        let mut mask = [0; 4];
        stream.read_exact(&mut mask)?;
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload)?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        if corrupt && head[0] & 0x40 != 0 {
            payload[len / 2] ^= 0x55;
        }
        let out = [&[head[0], head[1] & 0x7F], &extended[..], &payload[..]].concat();
        stream.write_all(&out)?;
        if head[0] & 0x0F == 8 {
            return Ok(());
        }
    }
}

#[test]
fn agreed_compression_makes_messages_smaller_and_keeps_their_bytes() {
    let run = bench("echo", &mirror(false), &[SHORT, &["--size", "1000"]]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!(run.json["deflate"], true, "{:#}", run.json);
    let (plain, wire) = (run.count("sent_bytes"), run.count("sent_wire_bytes"));
    assert!(wire > 0 && wire < plain / 2, "{wire} of {plain}");
    let count = run.count("received_compressed");
    assert!(count > 0);
    assert_eq!(run.count("received_bytes"), count * 1000);
    assert!(run.count("received_wire_bytes") < run.count("received_bytes") / 2);
}

#[test]
fn declined_compression_is_told_and_messages_go_as_they_are() {
    let server = TestServer::start(Behaviour::default());
    let run = bench("echo", &server.url(), &[SHORT, &["--size", "1000"]]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!(run.json["deflate"], false, "{:#}", run.json);
    assert!(run.json.get("sent_wire_bytes").is_none(), "{:#}", run.json);
    assert_eq!(server.lengths().into_keys().collect::<Vec<_>>(), [1000]);
}

#[test]
fn a_corrupt_compressed_echo_is_found() {
    let run = bench("echo", &mirror(true), &[SHORT, &["--size", "1000"]]);
    assert_eq!(run.code(), Some(3), "{}", run.stderr());
}

#[test]
fn held_connections_may_compress_with_and_without_context() {
    for how in ["--deflate", "--takeover"] {
        let hold = ["--connections", "20", "--hold", "0.1", "--settle", "0.1", "--size", "1000"];
        let run = bench("hold", &mirror(false), &[&hold, &["--greet", how]]);
        assert_eq!(run.code(), Some(0), "{how}: {}", run.stderr());
        assert_eq!((run.count("alive"), run.count("deflate_agreed")), (20, 20), "{how}");
    }
    let server = TestServer::start(Behaviour::default());
    let run = bench("hold", &server.url(), &[&["--connections", "5", "--deflate", "--greet"]]);
    assert_eq!(run.count("deflate_agreed"), 0, "{:#}", run.json);
}
