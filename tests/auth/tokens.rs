//! Tokens against a verifier: what is taken, and every kind of what is not.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use seawall::auth::{AuthError, Expected, Identity, Jwks, Key, Rights, SigningKey, Verifier};
use serde_json::{Value, json};

use crate::keys::{EC, ED, RSA, SECRET};

const NOW: u64 = 1_800_000_000;

const RSA_OF_1024_BITS: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCinHCyfuKjCzn0RjiWYevtJCgl
MaGxGYSLBB618NgW9rGFckFF/gndP7jVXFa5mCyCRacTJxBH+fVSZYLjlOEWCgO3
QvVaJeXgoqRrXQEPlbg42Spov2xwYLMM3fYAEWLdrfnSzMMWOBMAvCEM+51dW4hH
TEciVc7F9kx0biUG0QIDAQAB
-----END PUBLIC KEY-----
";

fn verifier(keys: Vec<Key>) -> Verifier {
    Verifier::new(keys, false, Expected { leeway_s: 5, ..Expected::default() })
}

fn sign(claims: &Value) -> String {
    SigningKey::from_secret("", SECRET).sign(claims).unwrap()
}

/// A token of raw parts, signed with the secret.
fn raw(head: &str, claims: &str) -> String {
    let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
    let message = format!("{}.{}", encode(head), encode(claims));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET);
    let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

fn verify(claims: &Value) -> Result<Identity, AuthError> {
    verifier(vec![Key::from_secret("", SECRET)]).verify(&sign(claims), NOW)
}

#[test]
fn tokens_of_all_four_algorithms_are_taken() {
    let claims = json!({"sub": "ann", "exp": NOW + 60});
    let secret = (Key::from_secret("k", SECRET), SigningKey::from_secret("k", SECRET));
    let pairs = [&*RSA, &*EC, &*ED].map(|pair| (pair.key("k"), pair.signing("k")));
    for (key, signing) in pairs.into_iter().chain([secret]) {
        let shown = format!("{key:?}");
        let token = signing.sign(&claims).unwrap();
        let identity = verifier(vec![key]).verify(&token, NOW).unwrap();
        assert_eq!(identity.user.as_deref(), Some("ann"), "{shown}");
    }
}

/// RFC 7515, appendices A.1 and A.3.
#[test]
fn the_examples_of_the_standard_are_taken() {
    let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19y\
                  b290Ijp0cnVlfQ";
    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1\
                  Z9CAow";
    let secret = URL_SAFE_NO_PAD.decode(secret).unwrap();
    let hs256 = format!(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{claims}.\
         dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    );
    let point = json!({"keys": [{
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }]});
    let es256 = format!(
        "eyJhbGciOiJFUzI1NiJ9.{claims}.\
         DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    let point = Jwks::read(&point.to_string()).unwrap().keys;
    for (keys, token) in [(vec![Key::from_secret("", &secret)], hs256), (point, es256)] {
        let expected = Expected { issuer: "joe".into(), ..Expected::default() };
        let verifier = Verifier::new(keys, false, expected);
        let identity = verifier.verify(&token, 1_300_819_379).unwrap();
        assert_eq!(identity.expires_s, Some(1_300_819_380));
        assert_eq!(verifier.verify(&token, 1_300_819_380), Err(AuthError::Expired));
    }
}

#[test]
fn the_key_id_chooses_the_key() {
    let other = b"another secret of thirty-two bytes";
    let verifier =
        verifier(vec![Key::from_secret("a", SECRET), Key::from_secret("", other), EC.key("b")]);
    let claims = json!({"exp": NOW + 60});
    let check = |key: &SigningKey| verifier.verify(&key.sign(&claims).unwrap(), NOW).map(|_| ());
    assert_eq!(check(&SigningKey::from_secret("a", SECRET)), Ok(()));
    assert_eq!(check(&SigningKey::from_secret("", other)), Ok(()));
    assert_eq!(check(&EC.signing("b")), Ok(()));
    assert_eq!(check(&SigningKey::from_secret("a", other)), Err(AuthError::Signature));
    assert_eq!(check(&SigningKey::from_secret("", SECRET)), Err(AuthError::Signature));
    assert_eq!(check(&SigningKey::from_secret("c", SECRET)), Err(AuthError::UnknownKey));
    assert_eq!(check(&EC.signing("a")), Err(AuthError::Algorithm));
}

/// RFC 8725 2.1: a public key is not a secret, and nothing is signed by `none`.
#[test]
fn the_key_and_never_the_token_fixes_the_algorithm() {
    let claims = json!({"sub": "ann", "exp": NOW + 60});
    for pair in [&*RSA, &*EC, &*ED] {
        let verifier = verifier(vec![pair.key("")]);
        let der: Vec<u8> = {
            let lines = pair.public.lines().filter(|line| !line.starts_with('-'));
            let text: String = lines.collect();
            base64::engine::general_purpose::STANDARD.decode(text).unwrap()
        };
        for secret in [pair.public.as_bytes(), pair.public.trim().as_bytes(), &der, b""] {
            let forged = SigningKey::from_secret("", secret).sign(&claims).unwrap();
            assert_eq!(verifier.verify(&forged, NOW), Err(AuthError::Algorithm));
        }
    }
    let verifier = verifier(vec![Key::from_secret("", SECRET)]);
    for name in ["none", "None", "NONE", "", "HS384", "hs256", "RS256", "EdDSA"] {
        let token = raw(&format!("{{\"alg\":\"{name}\"}}"), &claims.to_string());
        let unsigned = &token[..=token.rfind('.').unwrap()];
        for token in [&token, unsigned] {
            assert_eq!(verifier.verify(token, NOW), Err(AuthError::Algorithm), "{name}");
        }
    }
    let empty = raw("{\"alg\":\"HS256\"}", &claims.to_string());
    let unsigned = &empty[..=empty.rfind('.').unwrap()];
    assert_eq!(verifier.verify(unsigned, NOW), Err(AuthError::Signature));
}

#[test]
fn no_bit_can_be_changed() {
    let token = sign(&json!({"sub": "ann", "exp": NOW + 60}));
    let verifier = verifier(vec![Key::from_secret("", SECRET)]);
    assert!(verifier.verify(&token, NOW).is_ok());
    for at in 0..token.len() {
        for bit in 0..7 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(verifier.verify(&changed, NOW).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn times_count_with_leeway() {
    use AuthError::{Expired, NotYetValid};
    for (exp, nbf, expected) in [
        (NOW + 1, None, Ok(())),
        (NOW, None, Ok(())),
        (NOW - 4, None, Ok(())),
        (NOW - 5, None, Err(Expired)),
        (0, None, Err(Expired)),
        (u64::MAX, None, Ok(())),
        (NOW + 9, Some(NOW), Ok(())),
        (NOW + 9, Some(NOW + 5), Ok(())),
        (NOW + 9, Some(NOW + 6), Err(NotYetValid)),
    ] {
        let claims = match nbf {
            Some(nbf) => json!({"exp": exp, "nbf": nbf}),
            None => json!({"exp": exp}),
        };
        assert_eq!(verify(&claims).map(|_| ()), expected, "{claims}");
    }
    let identity = verify(&json!({"exp": NOW as f64 + 7.9})).unwrap();
    assert_eq!(identity.expires_s, Some(NOW + 7));
    assert!(Expired.is_expired() && !NotYetValid.is_expired());
}

#[test]
fn audience_and_issuer_are_looked_at_where_asked_for() {
    let expected =
        Expected { audience: "seawall".into(), issuer: "https://id".into(), leeway_s: 0 };
    let verifier = Verifier::new(vec![Key::from_secret("", SECRET)], false, expected);
    let check = |aud: Value, iss: Value| {
        let mut claims = json!({"exp": NOW + 1});
        for (name, value) in [("aud", aud), ("iss", iss)] {
            if !value.is_null() {
                claims[name] = value;
            }
        }
        verifier.verify(&sign(&claims), NOW).map(|_| ()).map_err(AuthError::kind)
    };
    let ours = || json!("https://id");
    assert_eq!(check(json!("seawall"), ours()), Ok(()));
    assert_eq!(check(json!(["other", "seawall"]), ours()), Ok(()));
    for audience in [json!("other"), json!(["other"]), json!([]), json!("seawall2"), Value::Null] {
        assert_eq!(check(audience, ours()), Err("audience"));
    }
    for issuer in [json!("https://id/"), Value::Null] {
        assert_eq!(check(json!("seawall"), issuer), Err("issuer"));
    }
    assert_eq!(check(json!(1), ours()), Err("claims"));
    assert_eq!(check(json!("seawall"), json!(["https://id"])), Err("claims"));
}

#[test]
fn claims_become_an_identity() {
    let head = "{\"alg\":\"HS256\"}";
    let claims = format!(
        "{{\"sub\":\"ann\",\"exp\":{},\"other\":[1],\"info\":{{\"name\":\r\n\"A\\nnn\" }},\
         \"channels\":[\"news\",{{\"pattern\":\"chat:*\",\"rights\":[\"subscribe\"]}},\
         {{\"pattern\":\"x*\"}}]}}",
        NOW + 9
    );
    let identity = verifier(vec![Key::from_secret("", SECRET)]).verify(&raw(head, &claims), NOW);
    let identity = identity.unwrap();
    assert_eq!(identity.user.as_deref(), Some("ann"));
    assert_eq!(identity.info.as_deref(), Some("{\"name\":  \"A\\nnn\" }"));
    assert_eq!(identity.expires_s, Some(NOW + 9));
    let rights = |channel| identity.rights_for(channel).map(Rights::to_words);
    assert_eq!(rights("news"), Some(Rights::ALL.to_words()));
    assert_eq!(rights("chat:a"), Some(vec!["subscribe"]));
    assert_eq!(rights("xy"), Some(Rights::ALL.to_words()));
    assert_eq!(rights("other"), None);
    assert!(!identity.is_anonymous() && Identity::default().is_anonymous());
    assert_eq!(verify(&json!({"exp": NOW + 9})).unwrap().user, None);
}

#[test]
fn wrong_claims_are_told_without_their_values() {
    for (claims, says) in [
        (json!({"sub": "ann"}), "`exp` is missing"),
        (json!({"exp": null}), "`exp` is missing"),
        (json!({"exp": "1900000000"}), "`exp`"),
        (json!({"exp": -1}), "`exp`"),
        (json!({"exp": NOW + 1, "nbf": "soon"}), "`nbf`"),
        (json!({"exp": NOW + 1, "nbf": true}), "`nbf`"),
        (json!({"exp": NOW + 1, "sub": ""}), "`sub`"),
        (json!({"exp": NOW + 1, "sub": "a".repeat(257)}), "`sub`"),
        (json!({"exp": NOW + 1, "sub": 7}), "`sub`"),
        (json!({"exp": NOW + 1, "info": "a".repeat(4095)}), "`info`"),
        (json!({"exp": NOW + 1, "channels": "news"}), "`channels`"),
        (json!({"exp": NOW + 1, "channels": ["a*b"]}), "`channels`"),
        (
            json!({"exp": NOW + 1, "channels": [{"pattern": "a", "rights": ["write"]}]}),
            "`channels`",
        ),
        (json!({"exp": NOW + 1, "channels": [{"rights": ["publish"]}]}), "`channels`"),
        (json!({"exp": NOW + 1, "channel": "news"}), "`channel`"),
    ] {
        let fault = verify(&claims).unwrap_err();
        assert_eq!(fault.kind(), "claims", "{claims}");
        assert!(fault.to_string().contains(says), "{claims}: {fault}");
    }
    verify(&json!({"exp": NOW + 1, "info": "a".repeat(4094), "sub": "a".repeat(256)})).unwrap();
}

#[test]
fn what_is_no_token_is_malformed() {
    let verifier = verifier(vec![Key::from_secret("", SECRET)]);
    let claims = format!("{{\"exp\":{}}}", NOW + 1);
    let good = raw("{\"alg\":\"HS256\"}", &claims);
    let twice = format!("{{\"exp\":1,\"exp\":{}}}", NOW + 1);
    for token in [
        String::new(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        good.replace('.', ""),
        format!("{good}.x"),
        format!("{good}="),
        format!(" {good}"),
        raw("{\"alg\":\"HS256\",\"crit\":[\"b64\"]}", &claims),
        raw("{\"typ\":\"JWT\"}", &claims),
        raw("[]", &claims),
        raw("{\"alg\":\"HS256\"}", "[1]"),
        raw("{\"alg\":\"HS256\"}", "not JSON"),
        raw("{\"alg\":\"HS256\"}", &twice),
        raw("{\"alg\":\"HS256\"}", &format!("{{\"exp\":1,\"a\":\"{}\"}}", "a".repeat(20_000))),
    ] {
        let found = verifier.verify(&token, NOW);
        assert_eq!(found, Err(AuthError::Malformed), "{token}");
    }
}

#[test]
fn channel_tokens_are_for_their_channel_and_user() {
    let verifier = verifier(vec![Key::from_secret("", SECRET)]);
    let check = |claims: Value, channel: &str, user: Option<&str>| {
        verifier.verify_channel(&sign(&claims), channel, user, NOW)
    };
    let of = |channel: &str| json!({"exp": NOW + 1, "channel": channel});
    let grant = check(of("news"), "news", None).unwrap();
    assert_eq!((grant.rights, grant.expires_s), (Rights::ALL, NOW + 1));
    assert!(check(of("chat:*"), "chat:a", Some("ann")).is_ok());
    assert_eq!(check(of("news"), "new", None), Err(AuthError::Channel));
    assert_eq!(check(of("chat:*"), "news", None), Err(AuthError::Channel));
    let anns = json!({
        "exp": NOW + 1, "channel": "news", "sub": "ann", "rights": ["subscribe", "history"]
    });
    let grant = check(anns.clone(), "news", Some("ann")).unwrap();
    assert_eq!(grant.rights.to_words(), ["subscribe", "history"]);
    assert_eq!(check(anns.clone(), "news", Some("bob")), Err(AuthError::Subject));
    assert_eq!(check(anns, "news", None), Err(AuthError::Subject));
    let wrong = json!({"exp": NOW + 1, "channel": "news", "rights": ["write"]});
    assert_eq!(check(wrong, "news", None).unwrap_err().kind(), "claims");
    let ended = json!({"exp": NOW - 9, "channel": "news"});
    assert_eq!(check(ended, "news", None), Err(AuthError::Expired));
    let whole = json!({"exp": NOW + 1, "sub": "ann", "channels": ["news"]});
    assert_eq!(check(whole, "news", Some("ann")).unwrap_err().kind(), "claims");
}

#[test]
fn an_examination_tells_everything_at_once() {
    let expected = Expected { audience: "seawall".into(), ..Expected::default() };
    let verifier = Verifier::new(vec![Key::from_secret("", SECRET)], false, expected);
    let claims = json!({"sub": "ann", "exp": NOW - 60, "nbf": NOW + 60, "channels": 1});
    let token = SigningKey::from_secret("", b"another secret").sign(&claims).unwrap();
    let found = verifier.examine(&token, NOW);
    let kinds: Vec<_> = found.faults.iter().map(|fault| fault.kind()).collect();
    assert_eq!(kinds, ["signature", "expired", "not_yet_valid", "audience", "claims"]);
    let good = json!({"sub": "ann", "exp": NOW + 60, "aud": "seawall"});
    let found = verifier.examine(&sign(&good), NOW);
    assert!(found.faults.is_empty());
    assert_eq!(found.identity.unwrap().user.as_deref(), Some("ann"));
    assert_eq!(verifier.examine("nonsense", NOW).faults, [AuthError::Malformed]);
}

#[test]
fn keys_of_the_wrong_kind_are_refused_when_they_are_read() {
    for pair in [&*RSA, &*EC, &*ED] {
        for other in [&*RSA, &*EC, &*ED] {
            let read = Key::from_pem("", pair.algorithm, &other.public);
            assert_eq!(read.is_ok(), pair.algorithm == other.algorithm);
        }
        let private = Key::from_pem("", pair.algorithm, &pair.private);
        assert!(private.is_err(), "a private key of {:?}", pair.algorithm);
        assert!(Key::from_pem("", pair.algorithm, "").is_err());
    }
    let short = Key::from_pem("", RSA.algorithm, RSA_OF_1024_BITS).unwrap_err();
    assert!(short.contains("2048"), "{short}");
}

/// A time as a token may carry it, and as it counts: whole seconds; `None`: it is none.
fn time() -> impl Strategy<Value = (String, Option<u64>)> {
    let whole = |seconds: u64| (seconds.to_string(), Some(seconds));
    prop_oneof![
        (0_u64..40).prop_map(move |from| whole(NOW + from - 20)),
        any::<u64>().prop_map(whole),
        (0_u64..4).prop_map(move |less| whole(u64::MAX - less)),
        (0_u64..40, 0_u32..1000).prop_map(|(from, part)| {
            let seconds = NOW + from - 20;
            (format!("{seconds}.{part:03}"), Some(seconds))
        }),
        Just(("1e300".to_owned(), Some(u64::MAX))),
        Just(("18446744073709551616".to_owned(), Some(u64::MAX))),
        Just(("-0.0".to_owned(), Some(0))),
        (1_i64..).prop_map(|before| (format!("-{before}"), None)),
        prop::sample::select(&["-1e300", "-0.5", "1e400", "\"1\"", "true", "[1]"][..])
            .prop_map(|text| (text.to_owned(), None)),
    ]
}

proptest! {
    /// No time overflows, whatever clock and tolerance it is compared with, and both kinds of
    /// tokens are treated alike.
    #[test]
    fn every_time_is_compared_as_if_numbers_had_no_bound(
        (exp_text, exp) in time(),
        (nbf_text, nbf) in time(),
        leeway_s in prop_oneof![0_u64..20, any::<u64>()],
        now_s in prop_oneof![NOW - 20..NOW + 20, 0..u64::MAX],
    ) {
        let expected = Expected { leeway_s, ..Expected::default() };
        let verifier = Verifier::new(vec![Key::from_secret("", SECRET)], false, expected);
        let head = "{\"alg\":\"HS256\"}";
        let times = format!("\"exp\":{exp_text},\"nbf\":{nbf_text}");
        let token = raw(head, &format!("{{{times}}}"));
        let own = verifier.verify(&token, now_s);
        let channel = raw(head, &format!("{{\"channel\":\"a\",{times}}}"));
        let channel = verifier.verify_channel(&channel, "a", None, now_s);
        let wide = u128::from;
        let outcome = match (exp, nbf) {
            (Some(exp), _) if wide(now_s) >= wide(exp) + wide(leeway_s) => Err("expired"),
            (None, _) | (_, None) => Err("claims"),
            (_, Some(nbf)) if wide(now_s) + wide(leeway_s) < wide(nbf) => Err("not_yet_valid"),
            (Some(exp), _) => Ok(exp),
        };
        let kind = |fault: AuthError| fault.kind();
        prop_assert_eq!(own.map(|own| own.expires_s.unwrap()).map_err(kind), outcome);
        prop_assert_eq!(channel.map(|grant| grant.expires_s).map_err(kind), outcome);
        verifier.examine(&token, now_s);
    }

    /// Whatever comes: an error, whose words are not the token's.
    #[test]
    fn nothing_panics_and_no_error_repeats_a_token(token in "[ -~]{0,80}|[A-Za-z0-9_.-]{0,80}") {
        let verifier = verifier(vec![Key::from_secret("", SECRET)]);
        let fault = verifier.verify(&token, NOW).unwrap_err().to_string();
        prop_assert!(token.len() < 12 || !fault.contains(&token));
        prop_assert!(!verifier.examine(&token, NOW).faults.is_empty());
    }
}
