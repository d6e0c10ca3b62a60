//! Lists name living connections only, once for each member, and what is reported adds up to them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn id(serial: u32) -> ConnectionId {
    ConnectionId { node: 1, shard: 0, session: 0, serial }
}

fn member(user: &str, serial: u32) -> Arc<MemberInfo> {
    let info = Some(format!("{{\"n\":{serial}}}").into());
    Arc::new(MemberInfo { key: MemberKey::User(user.into()), connection: id(serial), info })
}

fn unnamed(serial: u32) -> Arc<MemberInfo> {
    let (key, connection) = (MemberKey::Connection(id(serial)), id(serial));
    Arc::new(MemberInfo { key, connection, info: None })
}

fn all(presence: &Presence) -> Vec<Arc<MemberInfo>> {
    presence.read_page(None, u32::MAX, u64::MAX).members
}

/// Adds a connection; returns its member if that is new.
fn join(
    presence: &mut Presence,
    member: &Arc<MemberInfo>,
    replaces: Option<ConnectionId>,
) -> Option<Arc<MemberInfo>> {
    let (listed, is_new) = presence.add_member(member, replaces);
    is_new.then_some(listed)
}

/// Removes a connection; returns its member if that has left.
fn leave(presence: &mut Presence, member: &MemberInfo) -> Option<Arc<MemberInfo>> {
    match presence.remove_member(member) {
        Unlisted::Left(left) => Some(left),
        Unlisted::ShownAs(next) => {
            assert!(all(presence).contains(&next), "what is reported is listed");
            None
        }
        Unlisted::Hidden => None,
    }
}

#[test]
fn connections_of_one_user_are_one_member_which_is_shown_as_one_that_lives() {
    let mut presence = Presence::default();
    let (first, second, bob) = (member("ann", 1), member("ann", 2), member("bob", 3));
    assert_eq!(join(&mut presence, &first, None), Some(first.clone()));
    assert_eq!(join(&mut presence, &second, None), None);
    assert_eq!(join(&mut presence, &bob, None), Some(bob.clone()));
    assert_eq!(all(&presence), [second.clone(), bob.clone()]);
    assert_eq!(leave(&mut presence, &second), None);
    assert_eq!(all(&presence), [first.clone(), bob.clone()], "with its own info");
    assert_eq!(leave(&mut presence, &second), None, "a connection leaves once");
    assert_eq!(leave(&mut presence, &first), Some(first.clone()));
    assert_eq!(leave(&mut presence, &first), None);
    assert_eq!(all(&presence), std::slice::from_ref(&bob));
    leave(&mut presence, &bob);
    assert_eq!(presence.bytes(), 0);
}

#[test]
fn a_client_without_a_user_that_resumes_stays_one_member() {
    let mut presence = Presence::default();
    join(&mut presence, &unnamed(1), None);
    assert_eq!(join(&mut presence, &unnamed(2), Some(id(1))), None);
    assert_eq!(leave(&mut presence, &unnamed(1)), None);
    assert_eq!(join(&mut presence, &unnamed(3), Some(id(2))), None);
    // Another use of a ticket that was used: another client.
    let other = join(&mut presence, &unnamed(4), Some(id(2))).expect("it has come");
    assert_eq!(other.key, MemberKey::Connection(id(4)));
    leave(&mut presence, &unnamed(2));
    let shown: Vec<_> = all(&presence).iter().map(|one| one.connection).collect();
    assert_eq!(shown, [id(3), id(4)]);
    assert_eq!(all(&presence)[0].key, MemberKey::Connection(id(1)), "it is known as it joined");
    let left = leave(&mut presence, &unnamed(3)).expect("it has left");
    assert_eq!(left.key, MemberKey::Connection(id(1)), "as it has joined");
    assert!(leave(&mut presence, &unnamed(4)).is_some());
    assert_eq!((presence.count(), presence.bytes()), (0, 0));
}

/// The connection that continues another may end first: its client had another line cut.
#[test]
fn a_connection_that_is_not_replaced_after_all_is_shown_again() {
    let mut presence = Presence::default();
    join(&mut presence, &unnamed(1), None);
    join(&mut presence, &unnamed(2), Some(id(1)));
    assert_eq!(leave(&mut presence, &unnamed(2)), None);
    assert_eq!(all(&presence), [unnamed(1)]);
    assert_eq!(join(&mut presence, &unnamed(3), Some(id(1))), None);
    assert_eq!(leave(&mut presence, &unnamed(1)), None);
    assert!(leave(&mut presence, &unnamed(3)).is_some());
    assert_eq!(presence.bytes(), 0);
}

#[test]
fn pages_cover_everybody_once_in_lists_and_in_trees() {
    for count in [FEW as u32, 40] {
        let mut presence = Presence::default();
        for n in 0..count / 2 {
            assert!(join(&mut presence, &unnamed(n), None).is_some());
            assert!(join(&mut presence, &member(&format!("u{n:02}"), 1000 + n), None).is_some());
        }
        assert_eq!(matches!(presence.listed, List::Many(_)), count > FEW as u32);
        // A page has seven members, or as many as fit, or one.
        for bytes_max in [u64::MAX, 350, 0] {
            let mut seen = Vec::new();
            let mut after = None;
            loop {
                let page = presence.read_page(after.as_deref(), 7, bytes_max);
                assert_eq!(page.count, u64::from(count));
                assert!(
                    page.members.len() == 1
                        || page
                            .members
                            .iter()
                            .map(|one| one.encoded_bytes_max() as u64)
                            .sum::<u64>()
                            <= bytes_max
                );
                seen.extend(page.members);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen.len(), count as usize);
            assert!(seen.is_sorted_by_key(|one| &one.key));
        }
        assert_eq!(presence.read_page(None, count, u64::MAX).next, None);
        for one in all(&presence) {
            assert_eq!(leave(&mut presence, &one).as_ref(), Some(&one));
        }
        assert_eq!((presence.count(), presence.bytes()), (0, 0));
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Join(u8),
    /// Continues one of those that were ever there.
    Resume(usize),
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4_u8).prop_map(Step::Join),
        3 => any::<usize>().prop_map(Step::Resume),
        4 => any::<usize>().prop_map(Step::Leave),
    ]
}

proptest! {
    /// User 0 is none.
    #[test]
    fn the_list_names_the_living_and_events_add_up_to_it(
        steps in proptest::collection::vec(step(), 0..150),
    ) {
        let mut presence = Presence::default();
        let (mut living, mut ever) = (Vec::new(), Vec::new());
        let mut watched = BTreeSet::new();
        for (serial, step) in steps.into_iter().enumerate() {
            let serial = serial as u32;
            let (user, replaces) = match step {
                Step::Join(user) => (user, None),
                Step::Resume(at) if !ever.is_empty() => {
                    let (old, user): (ConnectionId, u8) = ever[at % ever.len()];
                    (user, Some(old))
                }
                Step::Leave(at) if !living.is_empty() => {
                    let gone: Arc<MemberInfo> = living.swap_remove(at % living.len());
                    if let Some(left) = leave(&mut presence, &gone) {
                        prop_assert!(watched.remove(&left.key), "it was known");
                    }
                    continue;
                }
                _ => continue,
            };
            let joining = match user {
                0 => unnamed(serial),
                user => member(&format!("u{user}"), serial),
            };
            if let Some(come) = join(&mut presence, &joining, replaces) {
                prop_assert!(watched.insert(come.key.clone()), "it is news");
            }
            ever.push((joining.connection, user));
            living.push(joining);
            let ids: BTreeSet<_> = living.iter().map(|one| one.connection).collect();
            let shown = all(&presence);
            prop_assert!(shown.iter().all(|one| ids.contains(&one.connection)));
            prop_assert!(shown.iter().map(|one| &one.key).eq(watched.iter()));
            let users: BTreeSet<_> = living.iter().map(|one| &one.key).collect();
            let named = |key: &&&MemberKey| matches!(key, MemberKey::User(_));
            prop_assert_eq!(
                shown.iter().map(|one| &one.key).filter(|key| named(&key)).count(),
                users.iter().filter(|key| named(key)).count()
            );
        }
        for one in living {
            if let Some(left) = leave(&mut presence, &one) {
                prop_assert!(watched.remove(&left.key));
            }
        }
        prop_assert!(watched.is_empty() && presence.count() == 0 && presence.bytes() == 0);
    }
}

#[test]
fn a_page_follows_later_news() {
    let news = |page: &mut PresencePage, has_joined, user| {
        page.apply_news(None, has_joined, &member(user, 1));
    };
    let users = |page: &PresencePage| {
        let users = page.members.iter().map(|one| one.key.cursor());
        (page.count, users.collect::<Vec<_>>().join(" "))
    };
    let mut page = PresencePage::default();
    news(&mut page, true, "bob");
    news(&mut page, true, "ann");
    assert_eq!(users(&page), (2, "user:ann user:bob".into()));
    page.next = Some("user:bob".into());
    news(&mut page, true, "eve");
    assert_eq!(users(&page), (3, "user:ann user:bob".into()), "it is on the next page");
    news(&mut page, false, "eve");
    news(&mut page, false, "ann");
    assert_eq!(users(&page), (1, "user:bob".into()));
    page.apply_news(Some("user:ann"), true, &member("abe", 1));
    assert_eq!(users(&page), (2, "user:bob".into()), "it is on the page before");
    page.show_member(&MemberKey::User("bob".into()), &member("bob", 7));
    assert_eq!(page.members, [member("bob", 7)]);
}
