//! A backend that dials: the nodes cannot reach it.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tungstenite::WebSocket;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};

use crate::PATIENCE;
use crate::application::{Application, programs};
use crate::peer::{Peer, SUBPROTOCOL, session};
use crate::record::Record;

/// Accepts a link; returns it with the request.
pub(crate) fn accept(
    listener: &TcpListener,
    is_known: bool,
) -> (Option<WebSocket<TcpStream>>, Request) {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let seen = Arc::<Mutex<Option<Request>>>::default();
    let shared = seen.clone();
    #[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
    let callback = move |request: &Request, mut response: Response| {
        *shared.lock().unwrap() = Some(request.clone());
        if !is_known {
            let mut error = ErrorResponse::new(None);
            *error.status_mut() = tungstenite::http::StatusCode::UNAUTHORIZED;
            return Err(error);
        }
        let value = SUBPROTOCOL.parse().unwrap();
        response.headers_mut().insert("sec-websocket-protocol", value);
        Ok(response)
    };
    let socket = tungstenite::accept_hdr(stream, callback).ok();
    let request = seen.lock().unwrap().take().expect("a request");
    (socket, request)
}

#[test]
fn a_backend_dials_and_dials_again() {
    for program in programs() {
        println!("with {}", program.display());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/v1/link", listener.local_addr().unwrap());
        let application = Application::start(&program, &[("DIAL", &url), ("KEY", "k3y")]);
        let (socket, request) = accept(&listener, false);
        assert!(socket.is_none(), "rejected");
        assert_eq!(request.uri().path(), "/v1/link");
        assert_eq!(request.headers()["authorization"], "Bearer k3y");
        assert_eq!(request.headers()["sec-websocket-protocol"], SUBPROTOCOL);
        application.expect_logged(&url);
        for round in 0..2 {
            let (socket, _) = accept(&listener, true);
            let mut peer = Peer::dialed(socket.expect("it accepts the upgrade"));
            peer.greet();
            peer.open(session(1), "c1");
            application.expect(&json!({"event": "open"}));
            for (number, length) in [(1, 100), (2, 1000), (3, 100_000)] {
                let text = format!("echo {}", "x".repeat(length));
                peer.send(&[Record::text(session(1), number, &text)]);
                application.expect(&json!({"event": "message"}));
                assert_eq!(peer.next().body_text(), &text[5..], "in round {round}");
                peer.expect_ack(session(1), number);
            }
            drop(peer);
            application.expect(&json!({"event": "close", "moved": true}));
        }
    }
}
