//! Tests of the JSON of questions and answers.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{UNIX_S, asker, call, connect, publish, subscribe};
use crate::auth::OnFailure;
use crate::auth::{ChannelGrant, Identity, Pattern, Right, Rights};
use crate::hooks::answer::{
    CallAnswer, ConnectAnswer, ConnectRefusal, FailureCause, HookAnswer, HookError, PublishAnswer,
    SubscribeAnswer,
};
use crate::hooks::decode::{DecodedAnswer, RawResponse, decode_answer};
use crate::hooks::encode::{EncodedQuestion, encode_body};
use crate::hooks::question::{Asker, ConnectQuestion, HookKind, HookQuestion};
use crate::hub::ChannelName;

fn encode(question: &HookQuestion) -> String {
    let encoded = EncodedQuestion::new(question.clone());
    String::from_utf8(encode_body(encoded.kind, "n1", "n1.hook.5", &encoded.fields)).unwrap()
}

fn decode(kind: HookKind, status: u16, body: &[u8]) -> Result<DecodedAnswer, FailureCause> {
    decode_answer(kind, RawResponse { status, body, unix_s: UNIX_S }, 65_536, &"app".into())
}

/// Reads a valid answer.
fn read(kind: HookKind, body: &str) -> (HookAnswer, u32) {
    match decode(kind, 200, body.as_bytes()) {
        Ok(DecodedAnswer { answer, cache_s }) => (answer, cache_s),
        Err(cause) => panic!("{cause:?}: {body}"),
    }
}

fn assert_malformed<T: AsRef<str>>(kind: HookKind, bodies: &[T]) {
    for body in bodies.iter().map(AsRef::as_ref) {
        let decoded = decode(kind, 200, body.as_bytes());
        assert_eq!(decoded, Err(FailureCause::Malformed), "{kind:?}: {body}");
    }
}

#[test]
fn an_upgrade_is_encoded_with_joined_headers() {
    let header = |name: &str, value: &str| (name.into(), value.into());
    let question = HookQuestion::Connect(ConnectQuestion {
        target: "/ws?a=1&b=?\"".into(),
        address: Some("1.2.3.4".parse().unwrap()),
        headers: vec![
            header("x-b", "1"),
            header("cookie", "a=1"),
            header("x-b", "\u{7f}2\\\t"),
            header("cookie", "b=2"),
        ],
    });
    let expected = r#"{"type":"connect","node":"n1","id":"n1.hook.5","path":"/ws","#.to_owned()
        + r#""query":"a=1&b=?\"","headers":{"cookie":"a=1; b=2","x-b":"1, "#
        + "\u{7f}"
        + r#"2\\\t"},"address":"1.2.3.4"}"#;
    assert_eq!(encode(&question), expected);
    let expected = r#"{"type":"connect","node":"n1","id":"n1.hook.5","path":"/","query":"","#
        .to_owned()
        + r#""headers":{"cookie":"a=1"},"address":null}"#;
    assert_eq!(encode(&connect("/")), expected);
}

#[test]
fn questions_of_clients_are_encoded_with_their_json_as_it_is() {
    let connection = asker(None).connection;
    let start = |kind: &str| {
        format!(r#"{{"type":"{kind}","node":"n1","id":"n1.hook.5","connection":"{connection}""#)
    };
    let asker = Asker { info: Some(r#"{"n": 1.50}"#.into()), ..asker(Some("a\"nn")) };
    let question = HookQuestion::Subscribe { asker: asker.clone(), channel: ChannelName::new("c") };
    let rest = r#","user":"a\"nn","info":{"n": 1.50},"channel":"c"}"#;
    assert_eq!(encode(&question), start("subscribe") + rest);
    let question = HookQuestion::Publish {
        asker,
        channel: ChannelName::new("c"),
        content: r#"[1e2,"\u00e9"]"#.into(),
        key: Some("k".into()),
        on_failure: OnFailure::Reject,
    };
    let rest =
        r#","user":"a\"nn","info":{"n": 1.50},"channel":"c","content":[1e2,"\u00e9"],"key":"k"}"#;
    assert_eq!(encode(&question), start("publish") + rest);
    let rest = r#","user":null,"info":null,"method":"m","content":1}"#;
    assert_eq!(encode(&call("m")), start("call") + rest);
    assert!(encode(&publish("1", OnFailure::Allow)).ends_with(r#","content":1,"key":null}"#));
}

#[test]
fn equal_questions_have_equal_keys() {
    let key = |question: &HookQuestion| EncodedQuestion::new(question.clone()).key;
    assert_eq!(key(&connect("/a")), key(&connect("/a")));
    assert_ne!(key(&connect("/a")), key(&connect("/b")));
    let ann = subscribe(Some("ann"), "c");
    let mut elsewhere = ann.clone();
    if let HookQuestion::Subscribe { asker, .. } = &mut elsewhere {
        asker.connection.serial += 1;
    }
    assert_eq!(key(&ann), key(&elsewhere), "the connection makes no difference");
    if let HookQuestion::Subscribe { asker, .. } = &mut elsewhere {
        asker.info = Some("1".into());
    }
    for other in [elsewhere, subscribe(Some("bob"), "c"), subscribe(Some("ann"), "d")] {
        assert_ne!(key(&ann), key(&other));
    }
    for alone in [subscribe(None, "c"), publish("1", OnFailure::Reject), call("m")] {
        assert_eq!(key(&alone), None);
    }
}

#[test]
fn only_200_and_no_content_for_a_publish_are_answers() {
    for kind in HookKind::ALL {
        for status in [100, 201, 206, 302, 400, 404, 408, 429, 500, 503] {
            assert_eq!(decode(kind, status, b"{}"), Err(FailureCause::Status), "{status}");
        }
        let expected = match kind {
            HookKind::Publish => Ok(HookAnswer::Publish(PublishAnswer::Accept)),
            _ => Err(FailureCause::Status),
        };
        assert_eq!(decode(kind, 204, b"").map(|decoded| decoded.answer), expected);
        assert_eq!(decode(kind, 200, b""), Err(FailureCause::Malformed));
        assert_malformed(kind, &[r#"{"detail":"Not found"}"#, r#"{"refuse":5}"#]);
        let objects = ["[]", "5", "null", "\"a\"", "{", "{}x", "{}{}", " ", "\u{feff}{}"];
        assert_malformed(kind, &objects);
        assert_eq!(decode(kind, 200, b"{\"a\":\"\xff\"}"), Err(FailureCause::Malformed));
        let long = format!("{{{}}}", " ".repeat(65_535));
        assert_malformed(kind, &[long]);
    }
    let fits = format!("{{{}}}", " ".repeat(65_534));
    assert_eq!(read(HookKind::Publish, &fits).0, HookAnswer::Publish(PublishAnswer::Accept));
}

#[test]
fn an_upgrade_is_accepted() {
    let body = json!({
        "user": "ann", "info": {"a": 1}, "channels": ["a:*"], "subscribe": ["a:1", "a:2"],
        "expires_in_s": 60, "cache_s": 10, "state": {"x": [1]}, "more": null,
    });
    let (answer, cache_s) = read(HookKind::Connect, &body.to_string());
    let right = Right { pattern: Pattern::new("a:*").unwrap(), rights: Rights::ALL };
    let identity = Identity {
        user: Some("ann".into()),
        info: Some("{\"a\":1}".into()),
        rights: vec![right],
        expires_s: Some(UNIX_S + 60),
        application: Some("app".into()),
        key: None,
        app: None,
    };
    let subscribe: Arc<[_]> = ["a:1", "a:2"].into_iter().map(ChannelName::new).collect();
    let identity = Arc::new(identity);
    assert_eq!(answer, HookAnswer::Connect(ConnectAnswer::Accept { identity, subscribe }));
    assert_eq!(cache_s, 10);

    let nulls = r#"{"user":null,"info":null,"channels":null,"subscribe":null,
        "expires_in_s":null,"cache_s":null,"refuse":null}"#;
    for body in ["{}", nulls] {
        let (answer, cache_s) = read(HookKind::Connect, body);
        let HookAnswer::Connect(ConnectAnswer::Accept { identity, subscribe }) = answer else {
            panic!("{answer:?}");
        };
        let expected = Identity {
            expires_s: Some(UNIX_S + 3600),
            application: Some("app".into()),
            ..Identity::default()
        };
        assert_eq!((&*identity, subscribe.len(), cache_s), (&expected, 0, 0));
    }
    let (_, cache_s) = read(HookKind::Connect, r#"{"expires_in_s":9,"cache_s":100}"#);
    assert_eq!(cache_s, 8, "it does not outlive the identity");
}

#[test]
fn an_upgrade_is_refused() {
    for (status, refusal) in [
        (401, ConnectRefusal::Unauthorized),
        (403, ConnectRefusal::Forbidden),
        (429, ConnectRefusal::TooMany),
    ] {
        let body = json!({"refuse": {"status": status, "message": "é".repeat(200)}, "cache_s": 9});
        let (answer, cache_s) = read(HookKind::Connect, &body.to_string());
        let message = "é".repeat(200).into();
        assert_eq!(answer, HookAnswer::Connect(ConnectAnswer::Refuse { refusal, message }));
        assert_eq!(cache_s, 2, "refusals are kept for a short time");
        let (answer, _) =
            read(HookKind::Connect, &json!({"refuse": {"status": status}}).to_string());
        let HookAnswer::Connect(ConnectAnswer::Refuse { message, .. }) = answer else {
            panic!("{answer:?}");
        };
        assert!(message.len() > 10);
    }
    let long = json!({"refuse": {"status": 401, "message": "m".repeat(201)}}).to_string();
    assert_malformed(
        HookKind::Connect,
        &[
            r#"{"refuse":{}}"#,
            r#"{"refuse":[401,"m"]}"#,
            r#"{"refuse":{"status":500}}"#,
            r#"{"refuse":{"status":"401"}}"#,
            r#"{"refuse":{"status":401,"status":401}}"#,
            r#"{"refuse":{"status":401,"message":""}}"#,
            r#"{"refuse":{"status":401,"message":"a\nb"}}"#,
            r#"{"refuse":{"status":401},"user":"ann"}"#,
            r#"{"refuse":{"status":401},"subscribe":[]}"#,
            &long,
        ],
    );
}

#[test]
fn an_invalid_upgrade_answer_is_malformed() {
    let names: Vec<String> = (0..101).map(|number| format!("c:{number}")).collect();
    let deep = format!(r#"{{"info":{}{}}}"#, "[".repeat(65), "]".repeat(65));
    let very_deep = format!(r#"{{"channels":{}"#, "[".repeat(30_000));
    let deep_claims = format!(r#"{{"channels":{}{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
    assert_malformed(
        HookKind::Connect,
        &[
            r#"{"user":""}"#,
            r#"{"user":7}"#,
            r#"{"user":"a","user":"a"}"#,
            r#"{"info":"\ud800"}"#,
            r#"{"info":1e400}"#,
            r#"{"channels":"a"}"#,
            r#"{"channels":["a*b"]}"#,
            r#"{"channels":[{"pattern":"a","rights":["write"]}]}"#,
            r#"{"subscribe":"a"}"#,
            r#"{"subscribe":["a","a"]}"#,
            r#"{"subscribe":["a b"]}"#,
            r#"{"subscribe":[""]}"#,
            r#"{"expires_in_s":0}"#,
            r#"{"expires_in_s":31536001}"#,
            r#"{"expires_in_s":1.5}"#,
            r#"{"expires_in_s":-1}"#,
            r#"{"expires_in_s":"60"}"#,
            r#"{"cache_s":-1}"#,
            r#"{"cache_s":true}"#,
            &json!({"subscribe": names}).to_string(),
            &json!({"user": "u".repeat(257)}).to_string(),
            &json!({"info": "i".repeat(4095)}).to_string(),
            &deep,
            &very_deep,
            &deep_claims,
        ],
    );
    read(HookKind::Connect, &json!({"subscribe": names[..100]}).to_string());
    read(HookKind::Connect, r#"{"expires_in_s":31536000}"#);
    let unknown = format!(r#"{{"user":"u","state":{}{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
    read(HookKind::Connect, &unknown);
}

#[test]
fn a_subscription_is_granted_or_not() {
    let grant = |words: &[&str], valid_s: u64| {
        let rights = Rights::from_words(words.iter().copied()).unwrap();
        let grant = ChannelGrant { rights, expires_s: UNIX_S + valid_s, key: None };
        HookAnswer::Subscribe(SubscribeAnswer::Grant(grant))
    };
    let default = ["subscribe", "presence", "history"];
    assert_eq!(read(HookKind::Subscribe, "{}"), (grant(&default, 3600), 0));
    let body = r#"{"rights":["subscribe","publish"],"expires_in_s":5,"cache_s":3}"#;
    assert_eq!(read(HookKind::Subscribe, body), (grant(&["subscribe", "publish"], 5), 3));
    let error = HookError { code: "no_2".into(), message: "m".into() };
    let body = r#"{"error":{"code":"no_2","message":"m"},"cache_s":300}"#;
    assert_eq!(
        read(HookKind::Subscribe, body),
        (HookAnswer::Subscribe(SubscribeAnswer::Error(error)), 2)
    );
    assert_malformed(
        HookKind::Subscribe,
        &[
            r#"{"rights":[]}"#,
            r#"{"rights":["publish"]}"#,
            r#"{"rights":["subscribe","write"]}"#,
            r#"{"rights":"subscribe"}"#,
            r#"{"expires_in_s":0}"#,
            r#"{"error":{"code":"a"},"rights":["subscribe"]}"#,
            r#"{"error":{"code":"a"},"expires_in_s":1}"#,
        ],
    );
}

#[test]
fn errors_have_a_code_and_a_short_message() {
    let error = |code: &str, message: &str| json!({"error": {"code": code, "message": message}});
    for kind in [HookKind::Subscribe, HookKind::Publish, HookKind::Call] {
        for valid in [error(&"a".repeat(64), &"ü".repeat(500)), json!({"error": {"code": "0_"}})] {
            read(kind, &valid.to_string());
        }
        let invalid = [
            error(&"a".repeat(65), ""),
            error("", ""),
            error("A", ""),
            error("a-b", ""),
            error("a", &"m".repeat(501)),
            error("a", "\u{85}"),
            error("a", "\u{0}"),
            json!({"error": {"message": "m"}}),
            json!({"error": {"code": 1}}),
            json!({"error": ["a", "m"]}),
            json!({"error": "a"}),
            json!({"error": {"code": "a", "message": 1}}),
        ];
        assert_malformed(kind, &invalid.map(|value| value.to_string()));
    }
}

#[test]
fn contents_are_carried_on_as_they_are() {
    let cases = [
        ("{}", None),
        (r#"{"content":null}"#, Some("null")),
        ("{\"content\": {\"a\":\n1.50} }", Some("{\"a\": 1.50}")),
        (r#"{"content":[1,"\ud83d\ude00"],"error":null}"#, Some(r#"[1,"\ud83d\ude00"]"#)),
    ];
    for (body, expected) in cases {
        let replaced = expected
            .map_or(PublishAnswer::Accept, |content| PublishAnswer::Replace(content.into()));
        assert_eq!(read(HookKind::Publish, body), (HookAnswer::Publish(replaced), 0));
        let content = CallAnswer::Content(expected.unwrap_or("null").into());
        assert_eq!(read(HookKind::Call, body), (HookAnswer::Call(content), 0));
    }
    let nested =
        |levels: usize| format!(r#"{{"content":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    for kind in [HookKind::Publish, HookKind::Call] {
        read(kind, &nested(64));
        assert_malformed(
            kind,
            &[
                &*nested(65),
                &nested(30_000),
                r#"{"content":1,"content":1}"#,
                r#"{"content":1,"error":{"code":"a"}}"#,
                r#"{"content":null,"error":{"code":"a"}}"#,
                r#"{"content":"\ud83d"}"#,
                r#"{"content":-1e999}"#,
                r#"{"content":nul}"#,
            ],
        );
    }
}

/// JSON and near-JSON of answers.
fn any_near_answer() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\ud83d",
        "\"a\"",
        "\"\"",
        "1",
        "1e400",
        "-1",
        "null",
        "true",
        " ",
        "\n",
        "\"user\":",
        "\"info\":",
        "\"channels\":",
        "\"subscribe\":",
        "\"expires_in_s\":",
        "\"cache_s\":",
        "\"refuse\":",
        "\"status\":401",
        "\"message\":",
        "\"rights\":",
        "\"error\":",
        "\"code\":\"a\"",
        "\"content\":",
        "[\"a*\"]",
        "{\"code\":",
        "\"é\"",
    ]);
    let pieces = prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat());
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        pieces.clone().prop_map(String::into_bytes),
        pieces.prop_map(|inner| format!("{{{inner}}}").into_bytes()),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(".{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_response_is_an_answer_of_its_kind_or_a_failure(
        status in prop_oneof![4 => Just(200_u16), 1 => any::<u16>()],
        body in any_near_answer(),
        bytes_max in 20..60_usize,
        unix_s: u64,
    ) {
        for kind in HookKind::ALL {
            let response = RawResponse { status, body: &body, unix_s };
            match decode_answer(kind, response, bytes_max, &"app".into()) {
                Ok(DecodedAnswer { answer, .. }) => {
                    prop_assert!(status == 204 || (status == 200 && body.len() <= bytes_max));
                    let of = match answer {
                        HookAnswer::Connect(_) => HookKind::Connect,
                        HookAnswer::Subscribe(_) => HookKind::Subscribe,
                        HookAnswer::Publish(_) => HookKind::Publish,
                        HookAnswer::Call(_) => HookKind::Call,
                    };
                    prop_assert_eq!(of, kind);
                }
                Err(FailureCause::Status) => prop_assert!(status != 200),
                Err(cause) => prop_assert_eq!(cause, FailureCause::Malformed),
            }
        }
    }

    #[test]
    fn a_valid_answer_is_read_as_it_was_written(
        user in prop::option::of("[^\u{0}]{1,60}"),
        content in any_json(),
        words in prop::sample::subsequence(vec!["publish", "presence", "history"], 0..=3),
        valid_s in 1..=31_536_000_u32,
        cache_s: u32,
    ) {
        let body = json!({
            "user": user, "info": content, "expires_in_s": valid_s, "cache_s": cache_s,
        });
        let (answer, kept_s) = read(HookKind::Connect, &body.to_string());
        prop_assert_eq!(kept_s, cache_s.min(valid_s - 1));
        let HookAnswer::Connect(ConnectAnswer::Accept { identity, .. }) = answer else {
            panic!("accepted");
        };
        prop_assert_eq!(identity.user.as_deref(), user.as_deref());
        let info = (!content.is_null()).then(|| content.to_string());
        prop_assert_eq!(identity.info.as_deref(), info.as_deref());
        prop_assert_eq!(identity.expires_s, Some(UNIX_S + u64::from(valid_s)));

        let rights: Vec<&str> = ["subscribe"].into_iter().chain(words).collect();
        let (answer, _) = read(HookKind::Subscribe, &json!({"rights": rights}).to_string());
        let HookAnswer::Subscribe(SubscribeAnswer::Grant(grant)) = answer else {
            panic!("granted");
        };
        prop_assert_eq!(grant.rights.to_words(), rights);

        let (answer, _) = read(HookKind::Call, &json!({"content": content}).to_string());
        let expected = CallAnswer::Content(content.to_string().into());
        prop_assert_eq!(answer, HookAnswer::Call(expected));
    }

    #[test]
    fn a_question_is_json_with_its_values(
        target in "/.{0,20}",
        headers in prop::collection::vec(("[a-z]{1,2}", ".{0,8}"), 0..6),
        user in prop::option::of(".{1,8}"),
        content in any_json(),
    ) {
        let sent = headers.iter().map(|(name, value)| (&**name, &**value));
        let sent = sent.map(|(name, value)| (name.into(), value.into())).collect();
        let question = HookQuestion::Connect(ConnectQuestion {
            target: target.as_str().into(),
            address: None,
            headers: sent,
        });
        let body: Value = serde_json::from_str(&encode(&question)).unwrap();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        prop_assert_eq!((&body["path"], &body["query"]), (&json!(path), &json!(query)));
        for (name, _) in &headers {
            let values = headers.iter().filter(|(other, _)| other == name);
            let values: Vec<&str> = values.map(|(_, value)| value.as_str()).collect();
            prop_assert_eq!(&body["headers"][name], &json!(values.join(", ")));
        }
        let question = HookQuestion::Call {
            asker: asker(user.as_deref()),
            method: "m".into(),
            content: content.to_string().into(),
        };
        let body: Value = serde_json::from_str(&encode(&question)).unwrap();
        prop_assert_eq!((&body["user"], &body["content"]), (&json!(user), &content));
    }
}
