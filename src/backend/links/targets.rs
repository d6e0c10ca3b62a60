//! Which addresses a node's links go to. No sockets, no clock.

use std::net::SocketAddr;

use super::table::{hash_text, mix};
use crate::backend::settings::LinkUrl;

/// Where a link goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) url: LinkUrl,
    pub(super) address: SocketAddr,
}

/// Spreads a node's links over the addresses that do not fail, as [`spread`] does; one that fails
/// gets a link only to notice when that is over. Where all fail, they are treated alike.
pub(super) fn spread_over_working(
    resolved: &[(LinkUrl, Vec<SocketAddr>)],
    failing: &[Target],
    links: u32,
    node: &str,
) -> Vec<(Target, u32)> {
    let (mut working, mut probed) = (Vec::new(), Vec::new());
    for (url, addresses) in resolved {
        let target = |address: &SocketAddr| Target { url: url.clone(), address: *address };
        let fails = |address: &SocketAddr| failing.contains(&target(address));
        let (failing, other): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(fails);
        probed.extend(failing.iter().map(|address| (target(address), 1)));
        working.push((url.clone(), other));
    }
    if working.iter().all(|(_, addresses)| addresses.is_empty()) {
        return spread(resolved, links, node);
    }
    let mut spread = spread(&working, links, node);
    spread.extend(probed);
    spread
}

/// Spreads a node's links over all addresses of all URLs, evenly; each URL that has an address gets
/// at least one. Where there are more addresses than links, each node chooses others, and chooses
/// the same ones as long as they are there.
fn spread(resolved: &[(LinkUrl, Vec<SocketAddr>)], links: u32, node: &str) -> Vec<(Target, u32)> {
    let rank = |target: &Target| {
        mix(hash_text(&format!("{node} {} {}", target.url.as_str(), target.address)))
    };
    let mut first = Vec::new();
    let mut others = Vec::new();
    for (url, addresses) in resolved {
        let target = |address: &SocketAddr| Target { url: url.clone(), address: *address };
        let mut targets: Vec<Target> = addresses.iter().map(target).collect();
        targets.sort_by_cached_key(rank);
        targets.dedup();
        let mut targets = targets.into_iter();
        first.extend(targets.next());
        others.extend(targets);
    }
    others.sort_by_cached_key(rank);
    let links = (links as usize).max(first.len());
    let mut spread: Vec<(Target, u32)> =
        first.into_iter().chain(others).take(links).map(|target| (target, 0)).collect();
    let places = spread.len().max(1);
    for link in 0..links {
        if let Some((_, count)) = spread.get_mut(link % places) {
            *count += 1;
        }
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolved(hosts: &[Vec<u8>]) -> Vec<(LinkUrl, Vec<SocketAddr>)> {
        let url = |at: usize| LinkUrl::parse(&format!("ws://app{at}/link")).unwrap();
        let address = |last: &u8| SocketAddr::from(([10, 0, 0, *last], 80));
        let of = |(at, hosts): (usize, &Vec<u8>)| (url(at), hosts.iter().map(address).collect());
        hosts.iter().enumerate().map(of).collect()
    }

    proptest! {
        #[test]
        fn links_are_spread_evenly_and_reach_every_url(
            hosts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..4),
            links in 1..12_u32,
        ) {
            let resolved = resolved(&hosts);
            let spread = spread(&resolved, links, "0a1b2c3d");
            let reachable: Vec<_> = resolved.iter().filter(|(_, all)| !all.is_empty()).collect();
            let total: u32 = spread.iter().map(|(_, count)| count).sum();
            let expected = if reachable.is_empty() { 0 } else { links.max(reachable.len() as u32) };
            prop_assert_eq!(total, expected);
            for (url, _) in &reachable {
                prop_assert!(spread.iter().any(|(target, count)| target.url == *url && *count > 0));
            }
            let counts = || spread.iter().map(|(_, count)| *count);
            prop_assert!(counts().max().unwrap_or(0) <= counts().min().unwrap_or(0) + 1);
            for (at, (target, _)) in spread.iter().enumerate() {
                prop_assert!(spread[..at].iter().all(|(other, _)| other != target), "each once");
            }
        }

        /// What fails takes no link from the others, and is dialed all the same.
        #[test]
        fn failing_addresses_are_probed(
            hosts in prop::collection::vec(prop::collection::btree_set(0..9_u8, 0..6), 1..4),
            fails in prop::collection::vec(any::<bool>(), 27),
            links in 1..12_u32,
        ) {
            let hosts: Vec<Vec<u8>> =
                hosts.into_iter().map(|hosts| hosts.into_iter().collect()).collect();
            let resolved = resolved(&hosts);
            let all = |all: &[(LinkUrl, Vec<SocketAddr>)]| -> Vec<Target> {
                all.iter().flat_map(|(url, addresses)| addresses.iter().map(|address| {
                    Target { url: url.clone(), address: *address }
                })).collect()
            };
            let targets = all(&resolved);
            let mut fails = fails.into_iter();
            let failing: Vec<Target> =
                targets.iter().filter(|_| fails.next() == Some(true)).cloned().collect();
            let spread = spread_over_working(&resolved, &failing, links, "node");
            let count = |target: &Target| -> u32 {
                spread.iter().filter(|(other, _)| other == target).map(|(_, count)| count).sum()
            };
            let working = targets.iter().filter(|target| !failing.contains(target));
            let total: u32 = working.clone().map(count).sum();
            if working.clone().next().is_some() {
                prop_assert!(total >= links);
                prop_assert!(failing.iter().all(|target| count(target) == 1));
            } else if !targets.is_empty() {
                prop_assert!(failing.iter().map(count).sum::<u32>() >= links);
            }
        }

        /// An address that goes moves no link between the others.
        #[test]
        fn other_addresses_keep_their_links(gone in 0..8_usize) {
            let before: Vec<u8> = (0..8).collect();
            let after = before.iter().copied().filter(|host| usize::from(*host) != gone).collect();
            let targets = |hosts: Vec<u8>| -> Vec<Target> {
                spread(&resolved(&[hosts]), 4, "node").into_iter().map(|(one, _)| one).collect()
            };
            let (before, after) = (targets(before), targets(after));
            let lost = before.iter().filter(|target| !after.contains(target)).count();
            prop_assert!(lost <= 1, "{before:?} {after:?}");
        }
    }
}
