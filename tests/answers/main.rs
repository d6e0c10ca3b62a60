//! The bytes of every kind of answer, as a file: a change of the wire shows as a change of it.
//!
//! What belongs here: that answers are what they were, byte by byte. Why a request is answered in
//! one way or another is in `proto_handshake` and `proto_pages`.

mod corpus;
mod second;

use std::fmt::Write;

use corpus::{Case, Fixed, Site, cases, upgrades};
use seawall::proto::http::{Decision, Head, Refusal, encode, receive, refuse};

fn decide<'c>(site: &'c Site, case: &'c Case) -> Decision<'c> {
    match receive(case.request.as_bytes(), &mut 0, &site.context(case)) {
        Head::Complete { decision, .. } => decision,
        Head::Partial => panic!("{}", case.name),
    }
}

fn answer(site: &Site, case: &Case) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&decide(site, case), &mut out);
    out
}

/// Nothing of an answer is known to the encoder of HTTP/1.1 alone.
#[test]
fn another_encoder_says_the_same() {
    let site = Site::new();
    for case in cases() {
        let decision = decide(&site, &case);
        let mut out = Vec::new();
        encode(&decision, &mut out);
        assert_eq!(second::encode(&decision), second::parse(&out), "{}", case.name);
    }
}

/// What is decided later is sent as it would have been at once.
#[test]
fn a_pending_upgrade_writes_nothing_until_it_is_decided() {
    let site = Site::new();
    for case in upgrades() {
        let Decision::Upgrade(at_once) = decide(&site, &case) else { panic!("{}", case.name) };
        let at_once = at_once.into_owned();
        let case = case.behind(Fixed::Later);
        let decision = decide(&site, &case);
        let mut out = Vec::new();
        encode(&decision, &mut out);
        assert!(out.is_empty(), "{}", case.name);
        let Decision::Pending(later) = decision else { panic!("{}", case.name) };
        assert_eq!(later.into_owned(), at_once, "{}", case.name);
    }
}

fn refusals() -> impl Iterator<Item = (String, Vec<u8>)> {
    Refusal::ALL.into_iter().flat_map(|refusal| {
        [None, Some(9)].map(|retry_after_s| {
            let mut out = Vec::new();
            refuse(refusal, "what \"was\" wrong", retry_after_s, &mut out);
            (format!("{} {retry_after_s:?}", refusal.code()), out)
        })
    })
}

#[test]
fn answers_are_what_they_were() {
    let site = Site::new();
    let of_requests = cases().into_iter().map(|case| (case.name.into(), answer(&site, &case)));
    let mut text = String::new();
    for (name, bytes) in of_requests.chain(refusals()) {
        let shown = bytes.escape_ascii().to_string().replace(r"\r\n", "\\r\\n\n");
        writeln!(text, "== {name}\n{shown}").unwrap();
    }
    assert_eq!(text, include_str!("answers.txt"));
}
