//! An application that does what a test says, and shards that keep their mail.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};
use tungstenite::Message;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::HeaderValue;

use crate::backend::form::RequestForm;
use crate::backend::links::{LinkFlow, LinkMail, LinkPosts, LinkTable};
use crate::backend::settings::{BackendSettings, LinkSettings, LinkToken, LinkUrl};
use crate::backend::signature::Signer;
use crate::events::EventKinds;
use crate::link::{
    LINK_SUBPROTOCOL, LINK_VERSION, LinkRecord, LinkSession, RecordKind, Records, append_record,
};
use crate::outer::OuterThread;

pub(super) const SHARDS: u16 = 3;
/// Past it, what was waited for does not happen.
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits for a result, and fails if it does not come.
pub(super) async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("no {what}"))
}

/// Keeps the mail to shards.
#[derive(Default)]
pub(super) struct Mailboxes {
    mails: Mutex<Vec<(u16, LinkMail)>>,
    posted: Notify,
}

impl LinkPosts for Mailboxes {
    fn post_link(&self, shard: u16, mail: LinkMail) {
        self.mails.lock().unwrap().push((shard, mail));
        self.posted.notify_one();
    }

    fn shard_count(&self) -> u16 {
        SHARDS
    }
}

impl Mailboxes {
    /// Waits until the mail has what is searched.
    pub(super) async fn find<T>(
        &self,
        what: &str,
        search: impl Fn(&[(u16, LinkMail)]) -> Option<T>,
    ) -> T {
        let finding = async {
            loop {
                if let Some(found) = search(&self.mails.lock().unwrap()) {
                    return found;
                }
                self.posted.notified().await;
            }
        };
        patiently(what, finding).await
    }

    /// Waits until every shard has such mail, as often as given.
    pub(super) async fn find_all(&self, what: &str, times: usize, is: fn(&LinkMail) -> bool) {
        let count = |mails: &[(u16, LinkMail)], shard| {
            mails.iter().filter(|(of, mail)| *of == shard && is(mail)).count()
        };
        let found =
            |mails: &[(u16, LinkMail)]| (0..SHARDS).all(|shard| count(mails, shard) >= times);
        self.find(what, |mails| found(mails).then_some(())).await;
    }

    /// Waits until a shard has this many bytes of records, and returns them.
    pub(super) async fn records_of(&self, shard: u16, bytes: usize) -> Vec<u8> {
        let of_shard = |(of, mail): &(u16, LinkMail)| match mail {
            LinkMail::Records { records, .. } if *of == shard => records.clone(),
            _ => Vec::new(),
        };
        self.find("records", |mails| {
            let all: Vec<u8> = mails.iter().flat_map(of_shard).collect();
            (all.len() >= bytes).then_some(all)
        })
        .await
    }
}

/// A flow with one application, which listens.
pub(super) struct World {
    pub(super) flow: Arc<LinkFlow>,
    pub(super) table: Arc<LinkTable>,
    pub(super) mail: Arc<Mailboxes>,
    listener: TcpListener,
    pub(super) settings: BackendSettings,
}

/// Settings for one link to this address.
pub(super) fn settings(url: &str) -> BackendSettings {
    let links = LinkSettings {
        urls: vec![LinkUrl::parse(url).unwrap()],
        per_node: 1,
        token: LinkToken::new("s3cret"),
        timeout: Duration::from_mins(10),
        queue_bytes_max: 1 << 20,
        hold_ms: 1000,
        moves_per_s: 1000,
        drain_ms: 600_000,
        rebalance_per_s: 0,
        by_user: false,
        accepts: false,
        headers: Vec::new(),
        unacked_messages_max: 64,
        unacked_bytes_max: 1000,
    };
    BackendSettings {
        name: "app".into(),
        events_url: String::new(),
        hooks: None,
        links: Some(links),
        node_events: EventKinds::default(),
        form: RequestForm::Standard(Signer::new(Vec::new())),
        authorities: None,
        events_bytes_max: 0,
        retry_for: Duration::ZERO,
        vacate_delay: Duration::ZERO,
    }
}

impl World {
    /// Starts a flow; `change` changes its settings.
    pub(super) async fn start(change: impl FnOnce(&mut LinkSettings)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut settings = settings(&format!("ws://{}/link", listener.local_addr().unwrap()));
        change(settings.links.as_mut().unwrap());
        let (table, mail) = (Arc::<LinkTable>::default(), Arc::<Mailboxes>::default());
        let posts: Arc<dyn LinkPosts> = mail.clone();
        let backends = [Arc::new(settings.clone())];
        let thread = OuterThread::start().unwrap();
        let weak = Arc::downgrade(&posts);
        let flow =
            LinkFlow::start(&thread, 0x01ab_23cd, &backends, 100_000, table.clone(), weak).unwrap();
        flow.keep_times();
        Self { flow, table, mail, listener, settings }
    }

    /// Accepts the next WebSocket, before any hello.
    pub(super) async fn accept(&self) -> Peer {
        patiently("dial", async {
            let (tcp, _) = self.listener.accept().await.unwrap();
            Peer::accept(tcp).await
        })
        .await
    }

    /// Accepts the next link.
    pub(super) async fn accept_link(&self) -> Peer {
        let mut peer = self.accept().await;
        peer.say_hello("app-1").await;
        peer
    }

    /// Waits for the only link of the table.
    pub(super) async fn link(&self) -> Arc<crate::backend::links::BackendLink> {
        self.mail.find_all("ready", 1, |mail| matches!(mail, LinkMail::Ready)).await;
        self.table.links()[0].clone()
    }
}

/// A record that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeardRecord {
    pub(super) kind: RecordKind,
    pub(super) number: u32,
    pub(super) body: Vec<u8>,
}

/// The application's side of a link.
pub(super) struct Peer {
    pub(super) socket: WebSocketStream<TcpStream>,
    pub(super) authorization: Option<String>,
    received: std::collections::VecDeque<HeardRecord>,
}

/// Chooses the subprotocol of links, which must be offered.
#[allow(clippy::result_large_err, clippy::unnecessary_wraps, reason = "the library's callback")]
pub(super) fn choose_subprotocol(
    request: &Request,
    mut response: Response,
) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get("sec-websocket-protocol");
    assert_eq!(offered.map(HeaderValue::as_bytes), Some(LINK_SUBPROTOCOL.as_bytes()));
    let chosen = HeaderValue::from_static(LINK_SUBPROTOCOL);
    response.headers_mut().insert("sec-websocket-protocol", chosen);
    Ok(response)
}

impl Peer {
    async fn accept(tcp: TcpStream) -> Self {
        let mut authorization = None;
        #[allow(clippy::result_large_err, reason = "the library's callback")]
        let upgrade = |request: &Request, response| {
            let value = request.headers().get("authorization");
            authorization = value.map(|value| value.to_str().unwrap().to_owned());
            choose_subprotocol(request, response)
        };
        let socket = accept_hdr_async(tcp, upgrade).await.unwrap();
        Self { socket, authorization, received: std::collections::VecDeque::new() }
    }

    pub(super) async fn say_hello(&mut self, instance: &str) {
        let body = format!(r#"{{"instance":"{instance}","capacity":7}}"#);
        self.send(RecordKind::Hello, LinkSession::NONE, LINK_VERSION, body.as_bytes()).await;
    }

    pub(super) async fn send(
        &mut self,
        kind: RecordKind,
        session: LinkSession,
        number: u32,
        body: &[u8],
    ) {
        let mut bytes = Vec::new();
        append_record(&mut bytes, &LinkRecord::new(kind, session, number, body));
        self.send_bytes(bytes).await;
    }

    pub(super) async fn send_bytes(&mut self, bytes: Vec<u8>) {
        patiently("write", self.socket.send(Message::Binary(bytes.into()))).await.unwrap();
    }

    /// Returns the next record that is no ping.
    pub(super) async fn next_record(&mut self) -> HeardRecord {
        loop {
            while let Some(record) = self.received.pop_front() {
                if record.kind == RecordKind::Ping {
                    self.send(RecordKind::Pong, LinkSession::NONE, 0, &record.body).await;
                } else {
                    return record;
                }
            }
            let message = patiently("record", self.socket.next()).await.unwrap().unwrap();
            let Message::Binary(bytes) = message else { panic!("{message:?}") };
            let read = |record: LinkRecord<'_>| HeardRecord {
                kind: record.known_kind().unwrap(),
                number: record.number,
                body: record.body.to_vec(),
            };
            let records = Records::new(&bytes, usize::MAX).map(|record| read(record.unwrap()));
            self.received.extend(records);
        }
    }

    /// Reads until the link is closed; returns the code and the reason.
    pub(super) async fn closed(mut self) -> (u16, String) {
        loop {
            match patiently("close", self.socket.next()).await {
                Some(Ok(Message::Close(frame))) => {
                    let frame = frame.unwrap();
                    return (frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(_)) => {}
                end => panic!("{end:?}"),
            }
        }
    }
}
