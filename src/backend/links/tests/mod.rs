//! The tasks of links against a scripted application: over TCP, in this process.

mod peer;

use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt as _;
use tungstenite::Message;

use super::dial::Dialing;
use super::targets::Target;
use super::{BackendLink, LinkMail};
use crate::backend::client::tls_config;
use crate::backend::settings::LinkUrl;
use crate::driver::Token;
use crate::link::{
    HEADER_BYTES, LinkRecord, LinkSession, RecordKind, Records, append_record, sessions_of_many,
};
use peer::{Peer, World, patiently, settings};

fn session(shard: u16, slot: u32) -> LinkSession {
    LinkSession { shard, token: Token { slot, generation: 1 } }
}

fn record_of(kind: RecordKind, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append_record(&mut bytes, &LinkRecord::new(kind, session(1, 2), 1, body));
    bytes
}

#[tokio::test]
async fn both_sides_say_hello_and_shards_learn_of_the_link() {
    let world = World::start(|_| ()).await;
    let mut peer = world.accept_link().await;
    assert_eq!(peer.authorization.as_deref(), Some("Bearer s3cret"));
    let hello = peer.next_record().await;
    assert_eq!((hello.kind, hello.number), (RecordKind::Hello, 1));
    let said: serde_json::Value = serde_json::from_slice(&hello.body).unwrap();
    assert_eq!((&said["node"], said["version"].is_string()), (&"01ab23cd".into(), true));
    assert_eq!(said["limits"]["unacked_bytes_max"], 1000);
    assert_eq!(said["limits"]["record_bytes_max"], 100_000);
    let link = world.link().await;
    assert_eq!((&*link.facts().instance, link.facts().capacity), ("app-1", 7));
    let numbers = &world.flow.numbers()[0];
    assert_eq!((numbers.ready, numbers.draining, numbers.lost), (1, 0, 0));
    link.send(record_of(RecordKind::Text, b"hi"));
    let text = peer.next_record().await;
    assert_eq!((text.kind, &*text.body), (RecordKind::Text, &b"hi"[..]));
}

#[tokio::test]
async fn records_go_to_the_shards_of_their_sessions() {
    let world = World::start(|_| ()).await;
    let mut peer = world.accept_link().await;
    let ids = [session(0, 1), session(2, 5), session(0, 2)].map(LinkSession::encode);
    let mut message = record_of(RecordKind::Ack, b"");
    let body = [&ids.concat()[..], b"all"].concat();
    let many = LinkRecord::new(RecordKind::Many, LinkSession::NONE, 3, &body);
    append_record(&mut message, &many);
    peer.send_bytes(message).await;
    assert_eq!(world.mail.records_of(1, 1).await, record_of(RecordKind::Ack, b""));
    for (shard, expected) in [(0, vec![session(0, 1), session(0, 2)]), (2, vec![session(2, 5)])] {
        let records = world.mail.records_of(shard, HEADER_BYTES + 13).await;
        let record = Records::new(&records, 1000).next().unwrap().unwrap();
        let (sessions, payload) = sessions_of_many(record.body, record.number).unwrap();
        assert_eq!((sessions.collect::<Vec<_>>(), payload), (expected, &b"all"[..]));
    }
    assert!(world.table.inbound_bytes() > 0 && world.flow.bytes() > 0);
}

#[tokio::test]
async fn a_wrong_hello_is_no_link() {
    let world = World::start(|_| ()).await;
    for (kind, number, body, says) in [
        (RecordKind::Text, 1, "{}", "no `hello`"),
        (RecordKind::Hello, 2, "{}", "another version"),
        (RecordKind::Hello, 1, "{}", "hello: the body"),
    ] {
        let mut peer = world.accept().await;
        peer.send(kind, LinkSession::NONE, number, body.as_bytes()).await;
        let (code, reason) = peer.closed().await;
        assert!(code == 1002 && reason.contains(says), "{code} {reason}");
    }
    let failures = async {
        while world.flow.numbers()[0].dial_failures < 3 {
            tokio::task::yield_now().await;
        }
    };
    patiently("count", failures).await;
    assert!(world.table.links().is_empty());
}

/// Opens a link, lets the peer or a shard do something wrong, and returns the close.
async fn ended_by(act: impl AsyncFnOnce(&mut Peer, &BackendLink)) -> (u16, String) {
    let world = World::start(|_| ()).await;
    let mut peer = world.accept_link().await;
    let link = world.link().await;
    act(&mut peer, &link).await;
    let closed = peer.closed().await;
    world.mail.find_all("lost", 1, |mail| matches!(mail, LinkMail::Lost { .. })).await;
    assert!(link.is_closed() && world.table.links().is_empty());
    link.send(vec![1]);
    assert_eq!(link.queue_bytes(), 0);
    // It is dialed again.
    let _again = world.accept_link().await;
    world.mail.find_all("second link", 2, |mail| matches!(mail, LinkMail::Ready)).await;
    assert_eq!(world.flow.numbers()[0].lost, 1);
    closed
}

#[tokio::test]
async fn what_is_wrong_ends_the_link_with_the_reason() {
    let (code, reason) = ended_by(async |peer, _| {
        peer.socket.send(Message::Text("{}".into())).await.unwrap();
    })
    .await;
    assert!(code == 1002 && reason.contains("text message"), "{code} {reason}");
    let cut = record_of(RecordKind::Text, b"12345");
    let (code, reason) = ended_by(async |peer, _| peer.send_bytes(cut[..22].to_vec()).await).await;
    assert!(code == 1002 && reason.contains("within the body"), "{code} {reason}");
    let (code, reason) = ended_by(async |_, link| link.fail("an `ack` of nothing")).await;
    assert_eq!((code, &*reason), (1002, "an `ack` of nothing"));
    let (code, _) = ended_by(async |peer, _| peer.send_bytes(vec![0; 600_000]).await).await;
    assert_eq!(code, 1009);
}

#[tokio::test]
async fn silence_ends_a_link() {
    let world = World::start(|links| links.timeout = Duration::from_secs(1)).await;
    let peer = world.accept_link().await;
    world.mail.find_all("lost", 1, |mail| matches!(mail, LinkMail::Lost { .. })).await;
    assert_eq!(peer.closed().await.0, 1001);
}

#[tokio::test]
async fn pings_are_answered_in_both_directions() {
    let world = World::start(|_| ()).await;
    let mut peer = world.accept_link().await;
    peer.send(RecordKind::Ping, LinkSession::NONE, 0, b"abc").await;
    assert_eq!(peer.next_record().await.kind, RecordKind::Hello);
    let pong = peer.next_record().await;
    assert_eq!((pong.kind, &*pong.body), (RecordKind::Pong, &b"abc"[..]));
    let mut count = 0;
    while count == 0 {
        // Reading answers the node's pings.
        peer.send(RecordKind::Ping, LinkSession::NONE, 0, b"").await;
        peer.next_record().await;
        count += world.flow.take_times().unwrap().histogram().len();
    }
}

#[tokio::test]
async fn a_link_that_drains_is_replaced_and_ends_without_sessions() {
    let world = World::start(|_| ()).await;
    let mut old = world.accept_link().await;
    let link = world.link().await;
    link.enter();
    old.send(RecordKind::Drain, LinkSession::NONE, 0, b"").await;
    world.mail.find_all("draining", 1, |mail| matches!(mail, LinkMail::Draining)).await;
    let mut new = world.accept_link().await;
    world.mail.find_all("second link", 2, |mail| matches!(mail, LinkMail::Ready)).await;
    assert_eq!(world.flow.numbers()[0].draining, 1);
    link.leave();
    assert_eq!(old.closed().await, (1000, "drained".into()));
    new.next_record().await;
    assert_eq!(world.flow.numbers()[0].lost, 0, "it was planned");
}

#[tokio::test]
async fn a_removed_address_gets_its_link_drained_then_closed() {
    let mut world = World::start(|_| ()).await;
    let mut peer = world.accept_link().await;
    let link = world.link().await;
    link.enter();
    world.settings.links.as_mut().unwrap().urls.clear();
    world.flow.renew(&[Arc::new(world.settings.clone())], 100_000);
    world.mail.find_all("draining", 1, |mail| matches!(mail, LinkMail::Draining)).await;
    assert_eq!(peer.next_record().await.kind, RecordKind::Hello);
    assert_eq!(peer.next_record().await.kind, RecordKind::Drain);
    link.leave();
    assert_eq!(peer.closed().await.0, 1000);
}

#[tokio::test]
async fn a_full_queue_has_room_once_the_application_reads() {
    const RECORDS: u32 = 400;
    let world = World::start(|_| ()).await;
    let mut peer = world.accept_link().await;
    let link = world.link().await;
    let body = vec![7; 50_000];
    for number in 1..=RECORDS {
        let mut bytes = Vec::new();
        append_record(&mut bytes, &LinkRecord::new(RecordKind::Text, session(1, 2), number, &body));
        link.send(bytes);
    }
    // Both sides only write, more than sockets hold.
    assert!(link.is_full());
    for _ in 0..RECORDS {
        peer.send(RecordKind::Text, session(1, 2), 0, &body).await;
    }
    let expected = RECORDS as usize * (body.len() + HEADER_BYTES);
    assert_eq!(world.mail.records_of(1, expected).await.len(), expected);
    assert_eq!(peer.next_record().await.kind, RecordKind::Hello);
    for number in 1..=RECORDS {
        let record = peer.next_record().await;
        assert!(record.number == number && record.body == body, "{number}");
    }
    world.mail.find_all("room", 1, |mail| matches!(mail, LinkMail::Room)).await;
    assert!(!link.is_full());
}

#[tokio::test]
async fn nothing_is_read_while_shards_have_too_much() {
    let world = World::start(|_| ()).await;
    let mut peer = world.accept_link().await;
    world.link().await;
    let much = 64 << 20;
    world.table.add_inbound(much);
    peer.send(RecordKind::Ack, session(0, 1), 1, b"").await;
    peer.send(RecordKind::Ack, session(1, 1), 1, b"").await;
    world.table.remove_inbound(much);
    world.mail.records_of(1, HEADER_BYTES).await;
}

#[tokio::test]
async fn the_end_of_the_node_sends_what_is_queued() {
    let world = World::start(|_| ()).await;
    let mut peer = world.accept_link().await;
    let link = world.link().await;
    world.flow.drain();
    assert_eq!(peer.next_record().await.kind, RecordKind::Hello);
    assert_eq!(peer.next_record().await.kind, RecordKind::Drain);
    assert!(!link.is_draining(), "its sessions stay");
    link.send(record_of(RecordKind::Close, b"bye"));
    let finish = world.flow.finish(Duration::from_mins(1));
    let read = async {
        assert_eq!(peer.next_record().await.body, b"bye");
        assert_eq!(peer.closed().await.0, 1001);
    };
    tokio::join!(finish, read);
    assert!(world.table.links().is_empty());
}

fn dialing(settings: &crate::backend::BackendSettings) -> Dialing {
    Dialing {
        node: "node".into(),
        settings: settings.links.clone().unwrap(),
        tls: Arc::new(tls_config(settings).unwrap()),
        record_bytes_max: 1000,
        counters: Arc::default(),
    }
}

#[tokio::test]
async fn refusals_have_a_remedy() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("ws://{address}/link");
    let target = Target { url: LinkUrl::parse(&url).unwrap(), address };
    let dialing = dialing(&settings(&url));
    for (answer, says) in [
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "link_token_file"),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "correct the path in links"),
        ("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", "not followed"),
        ("nonsense\r\n\r\n", "does not speak WebSocket"),
    ] {
        let serve = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = tcp.read(&mut request).await.unwrap();
            tcp.write_all(answer.as_bytes()).await.unwrap();
        };
        let (dialed, ()) = tokio::join!(dialing.dial(&target), serve);
        let failure = dialed.err().unwrap();
        assert!(failure.contains(says), "{failure}");
    }
    drop(listener);
    let failure = dialing.dial(&target).await.err().unwrap();
    assert!(failure.contains("start the application"), "{failure}");
}

#[tokio::test]
async fn wss_is_verified_with_the_authorities_that_are_named() {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let own = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let server = builder.with_single_cert(vec![made.cert.der().clone()], own).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("wss://localhost:{}/link", address.port());
    let target = Target { url: LinkUrl::parse(&url).unwrap(), address };
    let mut trusting = settings(&url);
    let mut roots = rustls::RootCertStore::empty();
    trusting.authorities = Some(roots.clone());
    let distrusted = dialing(&trusting);
    let accept = async {
        let (tcp, _) = listener.accept().await.unwrap();
        acceptor.accept(tcp).await
    };
    let (dialed, accepted) = tokio::join!(distrusted.dial(&target), accept);
    let failure = dialed.err().unwrap();
    assert!(accepted.is_err() && failure.contains("ca_file"), "{failure}");
    roots.add(made.cert.der().clone()).unwrap();
    trusting.authorities = Some(roots);
    let trusted = dialing(&trusting);
    let serve = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let io = acceptor.accept(tcp).await.unwrap();
        let socket = tokio_tungstenite::accept_hdr_async(io, peer::choose_subprotocol);
        let mut socket = patiently("upgrade", Box::pin(socket)).await.unwrap();
        let mut hello = Vec::new();
        let body = br#"{"instance":"secure"}"#;
        append_record(&mut hello, &LinkRecord::new(RecordKind::Hello, LinkSession::NONE, 1, body));
        socket.send(Message::Binary(hello.into())).await.unwrap();
    };
    let (dialed, ()) = tokio::join!(trusted.dial(&target), serve);
    let (_, greeting) = dialed.unwrap();
    assert_eq!(&*greeting.hello.instance, "secure");
}
