//! The body of the fuzz target of the Pusher protocol.

use super::PusherV7;
use super::connect::read_target;
use super::content::{data_of_content, make_content};
use super::names::{AppChannel, shown_name};
use super::socket_id::{parse_socket_id, socket_id};
use crate::auth::{AppOptions, PusherApp, check_channel};
use crate::hub::{ChannelMessage, Event, EventEncoder as _};
use crate::session::protocol::{AppCommand, ClientProtocol as _, Command};

fn app() -> PusherApp {
    let options = AppOptions {
        client_events: true,
        client_events_per_s: 0,
        event_bytes_max: 1 << 20,
        presence_members_max: 100,
        connections_max: 0,
        activity_timeout_s: 120,
        tls_only: false,
    };
    PusherApp::new("1", "key", b"a secret", options)
}

/// Any text, as a message of a client, a name, a socket id, a request's target, and the data of an
/// event.
///
/// # Panics
/// Something is accepted that must not be, or does not come back as it was.
pub fn client_message(text: &str) {
    match PusherV7.read_request(text).command {
        Ok(Command::App(AppCommand::Send { channel, content })) => {
            check_name(&channel);
            check_content(&content);
        }
        Ok(Command::App(AppCommand::Subscribe { channel, auth, .. })) => {
            check_name(&channel);
            let is_signed = auth.is_some_and(|auth| app().verify_authorization(text, &auth));
            assert!(!is_signed, "no signature is guessed");
        }
        Ok(_) => {}
        Err(refused) => assert!(!refused.message.is_empty()),
    }
    check_name(text);
    if let Some(id) = parse_socket_id(text) {
        assert_eq!(parse_socket_id(&socket_id(id)), Some(id));
    }
    if let Ok(key) = read_target(text, "/app") {
        assert!(!key.is_empty() && !key.contains(['/', '?']));
    }
    let content = make_content("event", text);
    check_content(&content);
    assert_eq!(data_of_content(&content), text, "data is not changed");
}

/// A name that is valid fits into the hub, and comes back.
fn check_name(name: &str) {
    let app = app();
    let Some(hub_name) = AppChannel::parse(name).ok().and_then(|one| one.hub_name(&app)) else {
        return;
    };
    assert_eq!(check_channel(&hub_name), Ok(()));
    assert_eq!(shown_name(&hub_name), name);
}

/// A content is JSON on one line, and so is its event.
fn check_content(content: &str) {
    assert!(!content.contains(['\n', '\r']), "it is on one line");
    let message = ChannelMessage {
        channel: None,
        position: None,
        prev: None,
        content,
        from: None,
        time_ms: 0,
    };
    let encoded = PusherV7.encode_event(&Event::Message(message)).expect("messages are events");
    let event: serde_json::Value = serde_json::from_slice(&encoded.payload).expect("it is JSON");
    assert!(event["event"].is_string() && event["data"].is_string());
}
