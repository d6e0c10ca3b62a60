//! Negotiation of permessage-deflate (RFC 7692 7, RFC 6455 9.1): what is offered, what is answered.
//!
//! What belongs here: tables of Sec-WebSocket-Extensions and their answers. Codecs are in
//! `proto_deflate`, all other header fields in `proto_handshake`.

use proptest::prelude::*;
use seawall::proto::http::{
    Availability, Compression, Context, Decision, Head, Limits, Origins, Pages, Refusal, Route,
    Routes, encode, receive,
};
use seawall::proto::ws::deflate::{Agreed, Policy};

const SHARED: Option<Policy> = Some(Policy { takeover: false, window_bits: 12 });
const TAKEOVER: Option<Policy> = Some(Policy { takeover: true, window_bits: 12 });
const WIDE: Option<Policy> = Some(Policy { takeover: true, window_bits: 15 });
const ROOM: u64 = 1 << 20;

/// What an upgrade has agreed on, or the status of an answer and its reason.
type Outcome = Result<Compression, (u16, Option<Refusal>)>;

/// The outcome for a request with these lines of the field, and the field of the answer.
fn negotiate(policy: Option<Policy>, room: u64, lines: &[&str]) -> (Outcome, Option<String>) {
    let routes = Routes::new(vec![Route {
        path: "/".into(),
        prefix: false,
        subprotocols: Vec::new(),
        origins: Origins::Any,
        compression: policy,
    }]);
    let context = Context {
        routes: &routes,
        pages: &Pages::NONE,
        limits: &Limits { head_bytes_max: 8192, target_bytes_max: 100, headers_max: 50 },
        forwarding: None,
        peer: None,
        is_tls: false,
        challenges: None,
        redirect_port: None,
        same_origin: seawall::proto::http::SameOrigin::AnyHost,
        availability: Availability::Ready,
        gate: None,
        context_room_bytes: room,
        forwards: None,
    };
    let mut request = String::from(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
    );
    for line in lines {
        request.extend(["Sec-WebSocket-Extensions: ", line, "\r\n"]);
    }
    request += "\r\n";
    match receive(request.as_bytes(), &mut 0, &context) {
        Head::Complete { decision, .. } => {
            let mut out = Vec::new();
            encode(&decision, &mut out);
            let outcome = match decision {
                Decision::Upgrade(upgrade) => Ok(upgrade.compression),
                Decision::Pending(_) => panic!("no gate"),
                Decision::Forward(_) => panic!("nothing is forwarded"),
                Decision::Answer(response) => Err((response.status(), response.refusal())),
            };
            let text = String::from_utf8(out).expect("answers are text");
            let mut fields = text.lines().filter_map(|line| {
                line.strip_prefix("Sec-WebSocket-Extensions: ").map(str::to_owned)
            });
            let answer = fields.next();
            assert_eq!(fields.next(), None, "one line answers");
            (outcome, answer)
        }
        Head::Partial => panic!("{request}"),
    }
}

fn compression(outcome: Outcome) -> Compression {
    outcome.expect("an upgrade")
}

/// What the answer says behind `permessage-deflate`; empty if it says nothing.
fn answered(policy: Option<Policy>, lines: &[&str]) -> String {
    let (outcome, answer) = negotiate(policy, ROOM, lines);
    let compression = compression(outcome);
    assert_eq!(compression.agreed.is_some(), answer.is_some(), "{lines:?}");
    assert!(!compression.lowered, "{lines:?}");
    answer.unwrap_or_default()
}

const NONE: &str = "";
const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

#[test]
fn offers_and_their_answers_in_shared_mode() {
    let nine = format!("{PLAIN}; server_max_window_bits=9");
    let fifteen = format!("{PLAIN}; server_max_window_bits=12");
    let cases: &[(&[&str], &str)] = &[
        (&["permessage-deflate"], PLAIN),
        (&["permessage-deflate; client_max_window_bits"], PLAIN),
        (&["permessage-deflate; client_max_window_bits=8"], PLAIN),
        (&["permessage-deflate;client_no_context_takeover;server_no_context_takeover"], PLAIN),
        (&["permessage-deflate; server_max_window_bits=9"], &nine),
        (&["permessage-deflate; server_max_window_bits=\"9\""], &nine),
        (&["permessage-deflate; server_max_window_bits=\"\\9\""], &nine),
        (&["permessage-deflate ; server_max_window_bits = 15"], &fifteen),
        // Declined: unknown, doubled, of a wrong value, or what cannot be made.
        (&["permessage-deflate; server_max_window_bits=8"], NONE),
        (&["permessage-deflate; server_max_window_bits"], NONE),
        (&["permessage-deflate; server_max_window_bits=7"], NONE),
        (&["permessage-deflate; server_max_window_bits=16"], NONE),
        (&["permessage-deflate; server_max_window_bits=09"], NONE),
        (&["permessage-deflate; server_max_window_bits=+9"], NONE),
        (&["permessage-deflate; server_max_window_bits=ten"], NONE),
        (&["permessage-deflate; client_max_window_bits=7"], NONE),
        (&["permessage-deflate; client_max_window_bits=16"], NONE),
        (&["permessage-deflate; client_max_window_bits=010"], NONE),
        (&["permessage-deflate; server_no_context_takeover=1"], NONE),
        (&["permessage-deflate; client_no_context_takeover=true"], NONE),
        (&["permessage-deflate; unknown"], NONE),
        (&["permessage-deflate; unknown=1"], NONE),
        (&["permessage-deflate; Server_No_Context_Takeover"], NONE),
        (&["permessage-deflate; server_no_context_takeover; server_no_context_takeover"], NONE),
        (&["permessage-deflate; client_no_context_takeover; client_no_context_takeover"], NONE),
        (&["permessage-deflate; client_max_window_bits; client_max_window_bits=9"], NONE),
        (&["permessage-deflate; server_max_window_bits=9; server_max_window_bits=9"], NONE),
        (&["permessage-bzip2"], NONE),
        (&["x-webkit-deflate-frame"], NONE),
        // The first that fits, over all lines of the field.
        (&["permessage-deflate; unknown, permessage-deflate"], PLAIN),
        (&["permessage-deflate; server_max_window_bits=8, permessage-deflate"], PLAIN),
        (&["permessage-deflate; server_max_window_bits=9, permessage-deflate"], &nine),
        (&["permessage-deflate, permessage-deflate; server_max_window_bits=9"], PLAIN),
        (&["permessage-deflate; unknown", "permessage-deflate"], PLAIN),
        (&["x-one; a=b; c=\"d\"", "x-two,permessage-deflate", "x-three"], PLAIN),
        (&[", ,permessage-deflate,, x-other,"], PLAIN),
    ];
    for (lines, expected) in cases {
        assert_eq!(answered(SHARED, lines), *expected, "{lines:?}");
        assert_eq!(answered(None, lines), NONE, "off: {lines:?}");
    }
    assert_eq!(answered(SHARED, &[]), NONE, "nothing is offered");
}

#[test]
fn offers_and_their_answers_with_takeover() {
    let cases: &[(Option<Policy>, &str, &str)] = &[
        // A client that cannot be offered a window would need a context of 32 KiB.
        (TAKEOVER, "", "; client_no_context_takeover"),
        (TAKEOVER, "; client_max_window_bits", "; client_max_window_bits=12"),
        (TAKEOVER, "; client_max_window_bits=15", "; client_max_window_bits=12"),
        (TAKEOVER, "; client_max_window_bits=10", "; client_max_window_bits=10"),
        (TAKEOVER, "; client_max_window_bits=8", "; client_max_window_bits=8"),
        (
            TAKEOVER,
            "; client_max_window_bits; server_no_context_takeover",
            "; server_no_context_takeover; client_max_window_bits=12",
        ),
        (
            TAKEOVER,
            "; client_max_window_bits; client_no_context_takeover",
            "; client_no_context_takeover",
        ),
        (
            TAKEOVER,
            "; client_max_window_bits; server_max_window_bits=10",
            "; server_max_window_bits=10; client_max_window_bits=12",
        ),
        (
            TAKEOVER,
            "; server_max_window_bits=15",
            "; client_no_context_takeover; server_max_window_bits=12",
        ),
        (WIDE, "", ""),
        (WIDE, "; client_max_window_bits", ""),
        (WIDE, "; server_max_window_bits=15", "; server_max_window_bits=15"),
        (WIDE, "; client_max_window_bits=9", "; client_max_window_bits=9"),
    ];
    for (policy, offer, answer) in cases {
        let found = answered(*policy, &[&format!("permessage-deflate{offer}")]);
        assert_eq!(found, format!("permessage-deflate{answer}"), "{offer}");
    }
}

#[test]
fn what_does_not_follow_the_grammar_is_refused_on_every_route() {
    for line in [
        "",
        ",",
        "permessage-deflate; ",
        "permessage-deflate;; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; =9",
        "permessage-deflate; server_max_window_bits=\"9",
        "permessage-deflate; server_max_window_bits=\"\"",
        "permessage-deflate; server_max_window_bits=\"9 \"",
        "permessage-deflate; server_max_window_bits=9\"",
        "permessage-deflate; server_max_window_bits=\"9\"9",
        "permessage-deflate; server_max_window_bits=9 10",
        "permessage deflate",
        "permessage-deflate=9",
        "permessage-deflate, (x)",
        "permessage-deflate; größe",
    ] {
        for policy in [None, SHARED, TAKEOVER] {
            let (outcome, answer) = negotiate(policy, ROOM, &[line]);
            let refusal = Some(Refusal::BadRequest);
            assert_eq!(outcome, Err((400, refusal)), "{line}");
            assert_eq!(answer, None);
        }
    }
}

#[test]
fn without_memory_for_contexts_a_connection_gets_none() {
    let offer = ["permessage-deflate; client_max_window_bits"];
    let (outcome, _) = negotiate(TAKEOVER, ROOM, &offer);
    let agreed = compression(outcome).agreed.expect("there is room");
    assert!(agreed.server_takeover && agreed.client_takeover);
    let needed = agreed.context_bytes();
    let (outcome, answer) = negotiate(TAKEOVER, needed, &offer);
    assert!(!compression(outcome).lowered);
    assert_eq!(answer.as_deref(), Some("permessage-deflate; client_max_window_bits=12"));
    let (outcome, answer) = negotiate(TAKEOVER, needed - 1, &offer);
    let found = compression(outcome);
    assert!(found.lowered && !found.agreed.expect("it still compresses").takes_over());
    assert_eq!(answer.as_deref(), Some(PLAIN));
    // Who needs none is not lowered.
    let none = ["permessage-deflate; client_no_context_takeover; server_no_context_takeover"];
    assert!(!compression(negotiate(TAKEOVER, 0, &none).0).lowered);
}

fn parameter() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("server_no_context_takeover".to_owned()),
        Just("client_no_context_takeover".to_owned()),
        Just("client_max_window_bits".to_owned()),
        (7u8..17).prop_map(|bits| format!("client_max_window_bits={bits}")),
        (7u8..17).prop_map(|bits| format!("server_max_window_bits=\"{bits}\"")),
    ]
}

proptest! {
    /// RFC 7692 7.1: whatever is offered, the answer is one that the offer allows.
    #[test]
    fn an_answer_never_exceeds_its_offer(
        parameters in prop::collection::vec(parameter(), 0..5),
        takeover in any::<bool>(),
        window_bits in 9u8..=15,
        room in 0u64..100_000,
    ) {
        let line = ["permessage-deflate".to_owned()].into_iter().chain(parameters.clone());
        let line = line.collect::<Vec<_>>().join("; ");
        let policy = Some(Policy { takeover, window_bits });
        let (outcome, answer) = negotiate(policy, room, &[&line]);
        let Some(agreed) = compression(outcome).agreed else {
            prop_assert_eq!(answer, None);
            return Ok(());
        };
        let answer = answer.expect("what was agreed on is said");
        let offers = |name: &str| parameters.iter().any(|one| one == name);
        let bits = |name: &str| {
            let given = parameters.iter().find_map(|one| one.strip_prefix(name));
            given.map(|bits| bits.trim_matches('"').parse::<u8>().expect("a number"))
        };
        let Agreed { server_takeover, client_takeover, server_bits, client_bits } = agreed;
        prop_assert!(!server_takeover || (takeover && !offers("server_no_context_takeover")));
        prop_assert!(!client_takeover || (takeover && !offers("client_no_context_takeover")));
        prop_assert!(server_bits <= bits("server_max_window_bits=").unwrap_or(15).min(window_bits));
        prop_assert!(client_bits <= bits("client_max_window_bits=").unwrap_or(15));
        prop_assert!(agreed.context_bytes() <= room);
        prop_assert_eq!(answer.contains("server_no_context_takeover"), !server_takeover);
        prop_assert_eq!(answer.contains("client_no_context_takeover"), !client_takeover);
        // The client's window may be named only where the offer names it, ours must be then.
        let asked = offers("client_max_window_bits") || bits("client_max_window_bits=").is_some();
        prop_assert!(asked || !answer.contains("client_max_window_bits"), "{answer}");
        let named = answer.contains(&format!("server_max_window_bits={server_bits}"));
        prop_assert_eq!(named, bits("server_max_window_bits=").is_some(), "{}", answer);
    }
}

/// An upgrade that is decided later may find less room than there was.
#[test]
fn contexts_that_have_no_room_any_more_are_not_answered() {
    let offer = ["permessage-deflate; server_max_window_bits=11; client_max_window_bits=10"];
    let (outcome, _) = negotiate(TAKEOVER, ROOM, &offer);
    let agreed = compression(outcome);
    let needed = agreed.agreed.expect("there is room").context_bytes();
    assert_eq!(agreed.within(needed), agreed);
    let less = agreed.within(needed - 1);
    assert!(less.lowered && less.agreed.is_some_and(|agreed| !agreed.takes_over()));
    let mut answer = Vec::new();
    less.answer(&mut answer);
    let expected = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                    server_max_window_bits=11";
    assert_eq!(String::from_utf8(answer).expect("text"), expected);
}
