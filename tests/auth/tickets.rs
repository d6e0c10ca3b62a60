//! Tickets and grants: what comes back is what went out, or nothing at all.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use seawall::auth::{Grant, Identity, Pattern, Right, Rights, SealError, Sealer, Subject, Ticket};

const NOW: u64 = 1_800_000_000;

fn ann(expires_s: Option<u64>) -> Arc<Identity> {
    let right = Right {
        pattern: Pattern::new("chat:*").unwrap(),
        rights: Rights::from_words(["subscribe", "presence"]).unwrap(),
    };
    Arc::new(Identity {
        user: Some("ann \"é\"".into()),
        info: Some("{\"name\": \"Ann\"}".into()),
        rights: vec![right],
        expires_s,
        ..Identity::default()
    })
}

fn ticket() -> Ticket {
    Ticket::new(ann(Some(NOW + 500)), "connection-1", NOW * 1000, 100)
}

fn grant() -> Grant {
    Grant {
        channel: "chat:a".into(),
        subject: Subject::new(Some("ann"), "connection-1"),
        rights: Rights::ALL,
        expires_s: NOW + 100,
        token_exp_s: None,
        connection: "connection-1".into(),
        issued_ms: NOW * 1000,
        key: None,
    }
}

#[test]
fn what_was_sealed_comes_back() {
    let sealer = Sealer::new(&[]);
    for ticket in [ticket(), Ticket::new(Arc::default(), "c", NOW * 1000, 100)] {
        let sealed = sealer.seal_ticket(&ticket);
        assert_eq!(sealer.open_ticket(&sealed, NOW + 99, 0), Ok(ticket.clone()));
        assert_eq!(sealer.open_ticket(&sealed, NOW + 100, 0), Err(SealError::Expired));
        assert_ne!(sealer.seal_ticket(&ticket), sealed, "no two are alike");
    }
    let sealed = sealer.seal_grant(&grant());
    assert_eq!(sealer.open_grant(&sealed, NOW, 0), Ok(grant()));
    assert_eq!(sealer.open_grant(&sealed, NOW + 100, 0), Err(SealError::Expired));
}

#[test]
fn nothing_of_it_can_be_read() {
    let sealed = Sealer::new(&[]).seal_ticket(&ticket());
    let bytes = URL_SAFE_NO_PAD.decode(sealed).unwrap();
    for word in ["ann", "Ann", "connection-1", "chat"] {
        assert!(!bytes.windows(word.len()).any(|part| part == word.as_bytes()), "{word}");
    }
}

#[test]
fn a_ticket_ends_with_its_token_or_its_time() {
    let sealer = Sealer::new(&[]);
    let leeway_s = 5;
    for (exp_s, ttl_s, end_s) in [
        (Some(NOW + 500), 100, NOW + 100),
        (Some(NOW + 50), 100, NOW + 55),
        (Some(NOW - 1), 100, NOW + 4),
        (Some(u64::MAX), 100, NOW + 100),
        (Some(NOW + 50), u64::MAX, NOW + 55),
        (None, 100, NOW + 100),
        (None, u64::MAX, u64::MAX),
    ] {
        let sealed = sealer.seal_ticket(&Ticket::new(ann(exp_s), "c", NOW * 1000, ttl_s));
        let granted = sealer.seal_grant(&Grant {
            expires_s: NOW.saturating_add(ttl_s),
            token_exp_s: exp_s,
            ..grant()
        });
        let opens = |now_s| {
            let grant = sealer.open_grant(&granted, now_s, leeway_s).is_ok();
            assert_eq!(sealer.open_ticket(&sealed, now_s, leeway_s).is_ok(), grant);
            grant
        };
        assert!(opens(end_s - 1) && !opens(end_s), "{exp_s:?} {ttl_s}");
    }
}

#[test]
fn no_bit_can_be_changed() {
    let sealer = Sealer::new(&[]);
    let bytes = URL_SAFE_NO_PAD.decode(sealer.seal_ticket(&ticket())).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            let fault = sealer.open_ticket(&URL_SAFE_NO_PAD.encode(changed), NOW, 0).unwrap_err();
            let expected = match at {
                0 => SealError::Malformed,
                1..5 => SealError::UnknownKey,
                _ => SealError::Tampered,
            };
            assert_eq!(fault, expected, "byte {at}, bit {bit}");
        }
    }
    for length in 0..bytes.len() {
        let cut = URL_SAFE_NO_PAD.encode(&bytes[..length]);
        assert!(sealer.open_ticket(&cut, NOW, 0).is_err(), "{length} bytes");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(sealer.open_ticket(&URL_SAFE_NO_PAD.encode(longer), NOW, 0).is_err());
    for text in ["", "no ticket", "é", &"A".repeat(100_000)] {
        assert_eq!(sealer.open_ticket(text, NOW, 0), Err(SealError::Malformed));
    }
}

#[test]
fn neither_opens_as_the_other() {
    let sealer = Sealer::new(&[]);
    let ticket_as_grant = sealer.open_grant(&sealer.seal_ticket(&ticket()), NOW, 0);
    assert_eq!(ticket_as_grant, Err(SealError::Tampered));
    let grant_as_ticket = sealer.open_ticket(&sealer.seal_grant(&grant()), NOW, 0);
    assert_eq!(grant_as_ticket, Err(SealError::Tampered));
}

#[test]
fn keys_can_be_changed_one_after_the_other() {
    let (old, new) = ([1; 32], [2; 32]);
    let steps = [vec![old], vec![old, new], vec![new, old], vec![new]].map(|k| Sealer::new(&k));
    for (before, after) in steps.iter().zip(&steps[1..]) {
        // Both kinds of node are there for a while, and clients come back to either.
        let sealed = before.seal_ticket(&ticket());
        assert_eq!(after.open_ticket(&sealed, NOW, 0), Ok(ticket()));
        let sealed = after.seal_ticket(&ticket());
        assert_eq!(before.open_ticket(&sealed, NOW, 0), Ok(ticket()));
    }
    let sealed = steps[0].seal_ticket(&ticket());
    assert_eq!(steps[3].open_ticket(&sealed, NOW, 0), Err(SealError::UnknownKey));
    let foreign = Sealer::new(&[]).seal_ticket(&ticket());
    assert_eq!(Sealer::new(&[]).open_ticket(&foreign, NOW, 0), Err(SealError::UnknownKey));
    assert!(!format!("{:?}", steps[0]).contains("1, 1"));
}

#[test]
fn a_grant_is_for_its_channel_and_its_subject() {
    let granted = |grant: &Grant, channel, user, connection| {
        grant.for_channel(channel, user, connection).map(|granted| granted.expires_s)
    };
    let anns = grant();
    let ends = Grant { token_exp_s: Some(NOW + 50), ..grant() };
    assert_eq!(granted(&ends, "chat:a", Some("ann"), "connection-2"), Some(NOW + 50));
    assert_eq!(granted(&anns, "chat:a", Some("ann"), "connection-2"), Some(u64::MAX));
    assert_eq!(granted(&anns, "chat:b", Some("ann"), "connection-1"), None);
    assert_eq!(granted(&anns, "chat:a", Some("bob"), "connection-1"), None);
    assert_eq!(granted(&anns, "chat:a", None, "connection-1"), None);
    let nobodys = Grant { subject: Subject::new(None, "connection-1"), ..grant() };
    assert_eq!(granted(&nobodys, "chat:a", None, "connection-1"), Some(u64::MAX));
    assert_eq!(granted(&nobodys, "chat:a", None, "connection-2"), None);
    // A user may be called like a connection.
    assert_eq!(granted(&nobodys, "chat:a", Some("connection-1"), "x"), None);
}
