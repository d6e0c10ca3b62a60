//! Tests keys while their owners, and others, flood the table.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::hub::Epoch;

const TTL_MS: u64 = 1000;

fn scope(owner: u8, key: u32) -> KeyScope {
    KeyScope { owner: owner.to_string().into(), key: key.to_string().into() }
}

/// Publishes; returns whether it was the first publish under this key.
fn publish(keys: &mut Keys, owner: u8, key: u32, now_ms: u64) -> bool {
    let position = |key: u32| Position { epoch: Epoch(1), offset: key.into() };
    match keys.look_up("a", &scope(owner, key), "1", now_ms, position(key)) {
        Seen::First => true,
        Seen::Repeated(first) => {
            assert_eq!(first, position(key));
            false
        }
        Seen::Conflict => panic!("the content is the same"),
    }
}

#[test]
fn an_owner_that_floods_evicts_its_own_keys_only() {
    let mut keys = Keys::new(100, TTL_MS);
    for key in 0..10 {
        assert!(publish(&mut keys, 1, key, 0));
        assert!(publish(&mut keys, 2, key, 0));
    }
    for key in 0..100_000 {
        assert!(publish(&mut keys, 3, key, 1));
        assert!(keys.kept.len() <= 100);
    }
    assert_eq!(keys.evicted, 100_000 - 80);
    for key in 0..10 {
        assert!(!publish(&mut keys, 1, key, 1) && !publish(&mut keys, 2, key, 1));
    }
    assert!(!publish(&mut keys, 3, 99_999, 1) && !publish(&mut keys, 3, 99_920, 1));
    assert!(publish(&mut keys, 3, 99_919, 1), "of its own the oldest went");
}

#[test]
fn owners_of_one_key_each_lose_the_oldest() {
    let mut keys = Keys::new(8, TTL_MS);
    for owner in 0..20 {
        assert!(publish(&mut keys, owner, 7, 0));
    }
    for owner in 12..20 {
        assert!(!publish(&mut keys, owner, 7, 0), "{owner}");
    }
    assert!(publish(&mut keys, 11, 7, 0));
    assert_eq!((keys.kept.len(), keys.evicted), (8, 13));
}

#[test]
fn a_key_is_for_one_content() {
    let mut keys = Keys::new(2, TTL_MS);
    let first = Position { epoch: Epoch(1), offset: 1 };
    let next = Position { epoch: Epoch(1), offset: 2 };
    assert_eq!(keys.look_up("a", &scope(1, 0), "1", 0, first), Seen::First);
    assert_eq!(keys.look_up("a", &scope(1, 0), "1", 0, next), Seen::Repeated(first));
    assert_eq!(keys.look_up("a", &scope(1, 0), "2", 0, next), Seen::Conflict);
    assert_eq!(keys.look_up("b", &scope(1, 0), "2", 0, next), Seen::First, "of another channel");
    assert_eq!(keys.look_up("a", &scope(1, 0), "2", TTL_MS, next), Seen::First, "past its time");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish(u8, u32),
    Wait(u64),
    Bound(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..5_u8, 0..40_u32).prop_map(|(owner, key)| Step::Publish(owner, key)),
        2 => (1..400_u64).prop_map(Step::Wait),
        1 => (1..12_usize).prop_map(Step::Bound),
    ]
}

proptest! {
    /// Compares with a simple model: an owner with at most its share of the limit keeps its keys
    /// until they expire, and only keys of the model are found.
    #[test]
    fn an_even_share_is_safe_from_others(steps in proptest::collection::vec(step(), 0..300)) {
        let (mut now_ms, mut bound) = (5, 8);
        let mut keys = Keys::new(bound, TTL_MS);
        let mut model: HashMap<u8, VecDeque<(u32, u64)>> = HashMap::new();
        for step in steps {
            match step {
                Step::Publish(owner, key) => {
                    for own in model.values_mut() {
                        own.retain(|(_, until_ms)| *until_ms > now_ms);
                    }
                    keys.expire_keys(now_ms, 1000);
                    let own = model.entry(owner).or_default();
                    let is_first = publish(&mut keys, owner, key, now_ms);
                    let known = own.iter().any(|(one, _)| *one == key);
                    prop_assert_eq!(is_first, !known, "{} {}", owner, key);
                    if is_first {
                        own.push_back((key, now_ms + TTL_MS));
                    }
                    keys.expire_keys(now_ms, 1000);
                    let mut total: usize = model.values().map(VecDeque::len).sum();
                    prop_assert!(keys.kept.len() <= bound.max(1));
                    while total > bound {
                        let most = model.values().map(VecDeque::len).max().unwrap_or(0);
                        // With several largest owners, the model does not define which one loses a
                        // key.
                        let found = model.iter_mut().filter(|(_, own)| own.len() == most).find(
                            |(owner, own)| {
                                let name = keys.name("a", &scope(**owner, own[0].0));
                                !keys.names.contains_key(&name)
                            },
                        );
                        let (_, own) = found.expect("one with the most has lost its oldest");
                        own.pop_front();
                        total -= 1;
                    }
                    prop_assert_eq!(keys.kept.len(), total);
                }
                Step::Wait(ms) => now_ms += ms,
                Step::Bound(other) => {
                    bound = other;
                    keys.set_bounds(bound, TTL_MS);
                    let mut total: usize = model.values().map(VecDeque::len).sum();
                    keys.expire_keys(now_ms, 1000);
                    for own in model.values_mut() {
                        own.retain(|(_, until_ms)| *until_ms > now_ms);
                    }
                    // Keys that were evicted before they expired must be gone as well.
                    for (owner, own) in &mut model {
                        own.retain(|(key, _)| {
                            keys.names.contains_key(&keys.name("a", &scope(*owner, *key)))
                        });
                    }
                    total = total.min(model.values().map(VecDeque::len).sum());
                    prop_assert_eq!(keys.kept.len(), total);
                }
            }
        }
        keys.expire_keys(now_ms + TTL_MS, 1000);
        prop_assert!(keys.kept.is_empty() && keys.bytes() == 0);
    }
}
