//! JWK Sets: which of their keys are used, and how a set at a URL is followed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use seawall::auth::{AuthError, Expected, Fetcher, Jwks, JwksSource, KeyStanding};
use seawall::auth::{SigningKey, Verifier};
use serde_json::{Value, json};

use crate::keys::{EC, ED, RSA};
use crate::support::wait_until;

const NOW: u64 = 1_800_000_000;
const LONG: Duration = Duration::from_hours(1);
const SHORT: Duration = Duration::from_millis(20);

pub(crate) fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn token(key: &SigningKey) -> String {
    key.sign(&json!({"sub": "ann", "exp": NOW + 60})).unwrap()
}

#[test]
fn a_set_gives_its_keys() {
    let read = Jwks::read(&set(&[RSA.jwk("r"), EC.jwk("e"), ED.jwk("d")])).unwrap();
    assert_eq!((read.keys.len(), read.skipped.len()), (3, 0), "{:?}", read.skipped);
    let verifier = Verifier::new(read.keys, false, Expected::default());
    for key in [RSA.signing("r"), EC.signing("e"), ED.signing("d")] {
        assert!(verifier.verify(&token(&key), NOW).is_ok());
    }
    let confused = token(&RSA.signing("e"));
    assert_eq!(verifier.verify(&confused, NOW), Err(AuthError::Algorithm));
}

#[test]
fn keys_of_no_use_are_skipped_with_a_reason() {
    let mut encrypts = RSA.jwk("1");
    encrypts["use"] = "enc".into();
    let mut other = RSA.jwk("2");
    other["alg"] = "PS256".into();
    let mut unknown = RSA.jwk("3");
    unknown["alg"] = "X999".into();
    let mut signs_only = EC.jwk("4");
    signs_only["key_ops"] = json!(["sign"]);
    let mut unsound = EC.jwk("5");
    unsound["x"] = unsound["y"].clone();
    let mut small = RSA.jwk("6");
    small["n"] = "AQAB".into();
    let keys = [
        encrypts,
        other,
        unknown,
        signs_only,
        unsound,
        small,
        json!({"kty": "oct", "k": "c2VjcmV0", "kid": "7"}),
        json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA", "kid": "8"}),
        json!({"kty": "AKP", "kid": "9"}),
        json!("no key"),
        ED.jwk("good"),
        EC.jwk("good"),
    ];
    let read = Jwks::read(&set(&keys)).unwrap();
    assert_eq!(read.keys.len(), 1, "{:?}", read.skipped);
    assert_eq!(read.skipped.len(), 11, "{:?}", read.skipped);
    let verifier = Verifier::new(read.keys, false, Expected::default());
    assert!(verifier.verify(&token(&ED.signing("good")), NOW).is_ok());
    for text in ["", "[]", "{}", "{\"keys\": 1}"] {
        assert!(Jwks::read(text).unwrap_err().contains("is not a JWK Set"), "{text}");
    }
}

/// Answers each request with the present answer.
pub(crate) struct Site {
    address: SocketAddr,
    answer: Arc<Mutex<(u16, String)>>,
    requests: Arc<AtomicUsize>,
}

impl Site {
    pub(crate) fn start(status: u16, body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new((status, body.to_owned())));
        let requests = Arc::new(AtomicUsize::new(0));
        let (shared, counted) = (answer.clone(), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                    line.clear();
                }
                let (status, body) = shared.lock().unwrap().clone();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                counted.fetch_add(1, Ordering::Relaxed);
                // A client that has seen enough may be gone.
                let _ = reader.into_inner().write_all((head + &body).as_bytes());
            }
        });
        Self { address, answer, requests }
    }

    pub(crate) fn answer(&self, status: u16, body: &str) {
        *self.answer.lock().unwrap() = (status, body.to_owned());
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    fn source(&self, refresh: Duration, gap: Duration) -> JwksSource {
        let url = self.url();
        JwksSource { url, refresh, retry: refresh, gap }
    }
}

fn verifier() -> Arc<Verifier> {
    Arc::new(Verifier::new(Vec::new(), true, Expected::default()))
}

#[test]
fn keys_are_there_when_fetching_has_started() {
    let site = Site::start(200, &set(&[ED.jwk("a")]));
    let verifier = verifier();
    let token = token(&ED.signing("a"));
    assert!(verifier.has_keys());
    assert_eq!(verifier.verify(&token, NOW), Err(AuthError::NoKeys));
    assert!(AuthError::NoKeys.is_temporary());
    let fetcher = Fetcher::start(&verifier, site.source(LONG, LONG)).unwrap();
    assert!(verifier.verify(&token, NOW).is_ok());
    assert_eq!(site.requests(), 1);
    drop(fetcher);
    assert!(verifier.verify(&token, NOW).is_ok());
}

#[test]
fn a_refresh_brings_new_keys_and_drops_old_ones() {
    let site = Site::start(200, &set(&[ED.jwk("a")]));
    let verifier = verifier();
    let _fetcher = Fetcher::start(&verifier, site.source(SHORT, LONG)).unwrap();
    let (old, new) = (token(&ED.signing("a")), token(&EC.signing("b")));
    assert!(verifier.verify(&old, NOW).is_ok());
    site.answer(200, &set(&[EC.jwk("b")]));
    wait_until("the new key is used", || verifier.verify(&new, NOW).is_ok());
    wait_until("the old key is known to be gone", || {
        verifier.verify(&old, NOW) == Err(AuthError::UnknownKey)
    });
}

/// The first token of a rotated key must not fail for good: clients would not come back.
#[test]
fn an_unknown_key_fails_for_now_until_a_fetch_has_not_brought_it() {
    let site = Site::start(200, &set(&[ED.jwk("a")]));
    let verifier = verifier();
    let _fetcher = Fetcher::start(&verifier, site.source(LONG, SHORT)).unwrap();
    // A fetch that fails says nothing about a key.
    site.answer(500, "");
    let token = token(&EC.signing("b"));
    for _ in 0..2 {
        let before = site.requests();
        assert_eq!(verifier.verify(&token, NOW), Err(AuthError::KeyPending));
        assert!(AuthError::KeyPending.is_temporary());
        wait_until("it was fetched", || site.requests() > before);
    }
    site.answer(200, &set(&[ED.jwk("a"), EC.jwk("b")]));
    wait_until("the new key is used", || verifier.verify(&token, NOW).is_ok());
    // One that no fetch brings fails for good, as long as no other fetch is possible.
    let site = Site::start(200, &set(&[ED.jwk("a")]));
    let verifier = Arc::new(Verifier::new(Vec::new(), true, Expected::default()));
    let gap = Duration::from_secs(3);
    let _fetcher = Fetcher::start(&verifier, site.source(LONG, gap)).unwrap();
    wait_until("it is known to be missing", || {
        verifier.verify(&token, NOW) == Err(AuthError::UnknownKey)
    });
    // The next fetch fails: one that succeeded would make the key missing again at once.
    site.answer(500, "");
    wait_until("another fetch is possible", || {
        verifier.verify(&token, NOW) == Err(AuthError::KeyPending)
    });
}

#[test]
fn a_set_without_keys_is_a_failure() {
    let site = Site::start(200, &set(&[ED.jwk("a")]));
    let verifier = verifier();
    let _fetcher = Fetcher::start(&verifier, site.source(SHORT, SHORT)).unwrap();
    let secret = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "a"});
    let changes = verifier.changes();
    for body in [set(&[]), set(&[secret])] {
        site.answer(200, &body);
        let before = site.requests();
        wait_until("it was fetched twice", || site.requests() >= before + 2);
        assert!(verifier.verify(&token(&ED.signing("a")), NOW).is_ok(), "{body}");
    }
    assert_eq!(verifier.changes(), changes);
}

#[test]
fn a_verifier_takes_over_what_another_has_fetched() {
    let site = Site::start(200, &set(&[ED.jwk("a")]));
    let (old, new) = (verifier(), verifier());
    drop(Fetcher::start(&old, site.source(LONG, LONG)).unwrap());
    site.answer(500, "");
    new.adopt_fetched(&old);
    let _fetcher = Fetcher::start(&new, site.source(LONG, LONG)).unwrap();
    assert!(new.verify(&token(&ED.signing("a")), NOW).is_ok());
    wait_until("it fetches by itself", || site.requests() == 2);
    assert!(new.verify(&token(&ED.signing("a")), NOW).is_ok());
}

#[test]
fn a_key_that_is_withdrawn_is_noticed() {
    let site = Site::start(200, &set(&[ED.jwk("a"), EC.jwk("b")]));
    let verifier = verifier();
    let key = |verifier: &Verifier, token: &str| verifier.verify(token, NOW).unwrap().key.unwrap();
    assert_eq!(verifier.changes(), 0);
    let _fetcher = Fetcher::start(&verifier, site.source(SHORT, SHORT)).unwrap();
    let (a, b) = (token(&ED.signing("a")), token(&EC.signing("b")));
    let (a, b) = (key(&verifier, &a), key(&verifier, &b));
    assert_ne!(a, b);
    let before = verifier.changes();
    site.answer(200, &set(&[ED.jwk("a"), EC.jwk("c")]));
    wait_until("the key is gone", || verifier.standing(b) == KeyStanding::Withdrawn);
    assert_eq!(verifier.standing(a), KeyStanding::Good);
    wait_until("the change is counted", || verifier.changes() == before + 1);
    assert_eq!(self::verifier().standing(a), KeyStanding::Unknown);
    let fixed = Verifier::new(Vec::new(), false, Expected::default());
    assert_eq!(fixed.standing(a), KeyStanding::Withdrawn);
}

#[test]
fn failures_leave_the_old_keys() {
    let good = set(&[ED.jwk("a")]);
    let huge = format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(300_000));
    let site = Site::start(200, &good);
    let verifier = verifier();
    let _fetcher = Fetcher::start(&verifier, site.source(SHORT, SHORT)).unwrap();
    let token = token(&ED.signing("a"));
    for (status, body) in [(500, good.as_str()), (404, "{}"), (200, "no set"), (200, &huge)] {
        site.answer(status, body);
        let before = site.requests();
        wait_until("it was fetched twice", || site.requests() >= before + 2);
        assert!(verifier.verify(&token, NOW).is_ok(), "{status}");
    }
}

#[test]
fn what_fails_at_first_is_tried_again() {
    let site = Site::start(503, "");
    let verifier = verifier();
    let _fetcher = Fetcher::start(&verifier, site.source(SHORT, SHORT)).unwrap();
    let token = token(&ED.signing("a"));
    assert_eq!(verifier.verify(&token, NOW), Err(AuthError::NoKeys));
    site.answer(200, &set(&[ED.jwk("a")]));
    wait_until("the key is used", || verifier.verify(&token, NOW).is_ok());
}

#[test]
fn a_token_with_an_unknown_key_has_the_set_fetched() {
    let site = Site::start(200, &set(&[ED.jwk("a")]));
    let verifier = verifier();
    let _fetcher = Fetcher::start(&verifier, site.source(LONG, SHORT)).unwrap();
    site.answer(200, &set(&[ED.jwk("a"), EC.jwk("b")]));
    assert!(verifier.verify(&token(&ED.signing("a")), NOW).is_ok());
    assert_eq!(site.requests(), 1, "known keys ask for nothing");
    let token = token(&EC.signing("b"));
    wait_until("the new key is used", || verifier.verify(&token, NOW).is_ok());
    assert_eq!(site.requests(), 2);
}
