//! Tests of the cache: its bounds, and any use against a list.

use std::sync::Arc;

use proptest::prelude::*;

use super::UNIX_S;
use crate::auth::{ChannelGrant, Identity, Pattern, Right, Rights};
use crate::hooks::answer::{ConnectAnswer, HookAnswer, SubscribeAnswer};
use crate::hooks::cache::{AnswerCache, AnswerKey};

fn key(number: u32) -> AnswerKey {
    AnswerKey::new(&["key", &number.to_string()])
}

/// An answer that differs from others.
fn grant(number: u64) -> HookAnswer {
    let expires_s = UNIX_S + number;
    let grant = ChannelGrant { rights: Rights::ALL, expires_s, key: None };
    HookAnswer::Subscribe(SubscribeAnswer::Grant(grant))
}

#[test]
fn keys_differ_as_their_parts_do() {
    let lists: [&[&str]; 6] =
        [&["a", "b"], &["ab"], &["ab", ""], &["", "ab"], &["a", "b", ""], &["a", "c"]];
    for (at, parts) in lists.iter().enumerate() {
        for (other_at, other) in lists.iter().enumerate() {
            assert_eq!(AnswerKey::new(parts) == AnswerKey::new(other), at == other_at);
        }
    }
}

#[test]
fn entries_are_bounded_and_the_first_to_expire_gives_way() {
    let mut cache = AnswerCache::default();
    cache.insert(key(0), grant(0), Some("ann".into()), 10_000);
    for number in 1..=100_000_u32 {
        cache.insert(key(number), grant(0), None, 20_000 + u64::from(number));
    }
    assert_eq!(cache.len(), 100_000);
    assert!(cache.get(0, &key(0)).is_none(), "it would have expired first");
    assert!(cache.get(0, &key(1)).is_some());
    cache.forget_user("ann");
    assert_eq!(cache.len(), 100_000);
}

#[test]
fn memory_is_bounded() {
    let right = Right { pattern: Pattern::new(&"p".repeat(200)).unwrap(), rights: Rights::ALL };
    let identity = Identity { rights: vec![right; 1000], ..Identity::default() };
    let answer = HookAnswer::Connect(ConnectAnswer::Accept {
        identity: Arc::new(identity),
        subscribe: Arc::new([]),
    });
    let mut cache = AnswerCache::default();
    for number in 0..1000 {
        cache.insert(key(number), answer.clone(), None, 10_000);
    }
    assert!(cache.bytes() <= 64 << 20 && cache.bytes() > 60 << 20, "{}", cache.bytes());
    assert!(cache.len() < 300, "{}", cache.len());
    cache.forget_all();
    assert_eq!((cache.len(), cache.bytes(), cache.next_due_ms()), (0, 0, None));
}

#[test]
fn an_expiry_of_many_entries_is_divided() {
    let mut cache = AnswerCache::default();
    for number in 0..2500 {
        cache.insert(key(number), grant(0), None, 1000);
    }
    let rest = [1500, 500, 0].map(|rest| {
        assert!(cache.next_due_ms().is_some_and(|due_ms| due_ms <= 1000));
        cache.expire(1000);
        assert_eq!(cache.len(), rest);
        rest
    });
    assert_eq!((rest.len(), cache.bytes(), cache.next_due_ms()), (3, 0, None));
}

proptest! {
    #[test]
    fn it_returns_what_a_list_would(
        steps in proptest::collection::vec((0..5_u8, 0..6_u32, 0..3_u8, 0..3000_u64), 0..200),
    ) {
        let mut cache = AnswerCache::default();
        // By key: the answer, its user, its end.
        let mut list: Vec<(u32, u64, String, u64)> = Vec::new();
        let mut now_ms = 0;
        for (number, (step, place, user, time)) in steps.into_iter().enumerate() {
            let (number, user) = (number as u64, format!("user {user}"));
            match step {
                0 | 1 => {
                    let of_user = Some(user.as_str().into());
                    cache.insert(key(place), grant(number), of_user, now_ms + time);
                    list.retain(|entry| entry.0 != place);
                    list.push((place, number, user, now_ms + time));
                }
                2 => {
                    cache.forget_user(&user);
                    list.retain(|entry| entry.2 != user);
                }
                3 => now_ms += time,
                _ => {
                    cache.expire(now_ms);
                    // Deadlines are rounded up to a quarter of a second.
                    list.retain(|entry| entry.3.div_ceil(250) * 250 > now_ms);
                }
            }
            prop_assert_eq!(cache.len(), list.len());
            prop_assert_eq!(cache.bytes() == 0, list.is_empty());
            prop_assert_eq!(cache.next_due_ms().is_some(), !list.is_empty());
            for place in 0..6 {
                let found = list.iter().find(|entry| entry.0 == place && now_ms < entry.3);
                let expected = found.map(|entry| grant(entry.1));
                prop_assert_eq!(cache.get(now_ms, &key(place)), expected.as_ref());
            }
        }
    }
}
