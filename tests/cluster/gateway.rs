//! Clients of gateway routes as members of channels, on several nodes.

use serde_json::json;

use crate::application::{Application, programs};
use crate::client::{Client, got, posted};
use crate::engine::{Engine, KINDS, node_config};
use crate::support::raw::{self, FIN, TEXT};
use crate::support::{Raw, Server, wait_until};

/// Starts a node on an engine, with links to an application.
fn start_node(engine: &Engine, application: &Application) -> Server {
    let tables = format!(
        "[[backend]]\nlinks = [\"ws://127.0.0.1:{}/seawall\"]\n\
         [[route]]\npath = \"/ws\"\nhandler = \"hub\"\n\
         [[route]]\npath = \"/game\"\nhandler = \"gateway\"\n",
        application.port()
    );
    let server = Server::start(&node_config(&[engine.url()], &tables));
    let ready = "links_ready{backend=\"app\"}";
    wait_until("a link is ready", || server.metrics().get(ready) > 0);
    server
}

/// A client of the gateway, which has joined a channel.
fn join(server: &Server, application: &Application, channel: &str) -> Raw {
    let mut client = Raw::connect(server.address());
    client.send(&raw::request_with("/game", ""));
    client.switched();
    client.send(&raw::text(format!("join {channel}")));
    application.events_until(|event| event["event"] == "joined");
    client
}

#[track_caller]
fn hear(client: &mut Raw) -> String {
    let frame = client.frame();
    assert_eq!(frame.first, FIN | TEXT, "{frame:?}");
    String::from_utf8(frame.payload).unwrap()
}

#[track_caller]
fn await_members(server: &Server, count: u64) {
    wait_until("the members of all nodes are counted", || {
        got(server, "/v1/channels/room")["members"] == count
    });
}

#[test]
fn a_publication_reaches_members_behind_links_of_all_nodes() {
    let application = Application::start(&programs()[0], &[]);
    for kind in KINDS {
        let engine = Engine::start(kind);
        let servers = [(); 2].map(|()| start_node(&engine, &application));
        let mut clients = [&servers[0], &servers[1], &servers[1]]
            .map(|server| join(server, &application, "room"));
        let mut subscriber = Client::open(&servers[0]);
        subscriber.subscribe("room");
        servers.iter().for_each(|server| await_members(server, 4));
        let mut number = 0;
        for server in &servers {
            number += 1;
            posted(server, "/v1/publish", &json!({"channel": "room", "content": number}));
            for client in &mut clients {
                assert_eq!(hear(client), number.to_string());
            }
        }
        // The application publishes over a link to any of the nodes.
        clients[0].send(&raw::text("publish room hello"));
        for client in &mut clients {
            assert_eq!(hear(client), "hello");
        }
        assert_eq!(subscriber.contents(3), [json!(1), json!(2), json!("hello")]);
        let [_, second, third] = clients;
        drop((second, third));
        servers.iter().for_each(|server| await_members(server, 2));
    }
}
