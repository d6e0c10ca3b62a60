//! Namespaces: the operator's rules for channels, looked up by channel name.
//!
//! Patterns are sorted. The last one not greater than a name is either its longest matching prefix,
//! or nested below that. So a binary search and a few steps up find it among any number of
//! patterns.

use serde::{Deserialize, Serialize};

use super::pattern::Pattern;
use crate::events::EventTarget;

/// Which clients may use a verb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Every client.
    #[default]
    Anyone,
    /// Clients whose token names a user.
    Authenticated,
    /// Clients whose token, or a token for the channel, grants it.
    Token,
    /// Only the backend, over the HTTP API.
    Server,
    /// Clients for which the application decides so, and those whose token, or a token for the
    /// channel, grants it. The application decides on each publish.
    Backend,
}

/// What happens to a request that an application decides on, if it does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The request fails.
    #[default]
    Reject,
    /// The request is carried out as the client wrote it.
    Allow,
}

/// What happens to a subscriber that reads a channel too slowly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowReader {
    /// Its connection is closed (4413).
    Close,
    /// Its oldest queued messages are dropped, and a `gap` event reports that.
    #[default]
    DropOldest,
    /// Only the newest message stays queued.
    Latest,
}

/// The rules for the channels of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub pattern: Pattern,
    pub subscribe: Access,
    pub publish: Access,
    /// Messages in a channel's history; 0 = none.
    pub history_messages: u32,
    pub history_ttl_s: u32,
    /// Whether members can be listed, and joins and leaves are sent.
    pub presence: bool,
    pub slow_reader: SlowReader,
    /// 0 = no limit.
    pub members_max: u32,
    pub message_bytes_max: u32,
    /// Publishes per second of one connection; 0 = no limit.
    pub rate: u32,
    /// Where events of its channels go, and which application decides.
    pub events: EventTarget,
    /// What happens to a publish if the application that decides does not answer.
    pub on_failure: OnFailure,
}

/// All namespaces, indexed by pattern.
#[derive(Clone, Debug)]
pub struct Namespaces {
    /// Patterns of single channels, sorted by name.
    names: Vec<Namespace>,
    /// Prefix patterns, sorted, each with the index of the longest other pattern that is a prefix
    /// of it.
    prefixes: Vec<(Namespace, Option<usize>)>,
    granted: Namespace,
}

impl Namespaces {
    /// Indexes the namespaces; of two with the same pattern the first one counts. `granted` applies
    /// to channels that match none of them, where a token grants rights.
    pub fn new(list: Vec<Namespace>, granted: Namespace) -> Self {
        let (mut prefixes, mut names): (Vec<_>, Vec<_>) =
            list.into_iter().partition(|one| one.pattern.prefix().is_some());
        for kind in [&mut names, &mut prefixes] {
            kind.sort_by(|one, other| stem_of(one).cmp(stem_of(other)));
            // The sort is stable, so the first one of each pattern is kept.
            kind.dedup_by(|later, kept| stem_of(later) == stem_of(kept));
        }
        let mut nested: Vec<(Namespace, Option<usize>)> = Vec::with_capacity(prefixes.len());
        for namespace in prefixes {
            let above = find_longest_prefix(&nested, stem_of(&namespace), nested.len());
            nested.push((namespace, above));
        }
        Self { names, prefixes: nested, granted }
    }

    /// Returns the namespace of a channel.
    pub fn find(&self, channel: &str) -> Option<&Namespace> {
        let by_name = self.names.binary_search_by(|one| one.pattern.as_str().cmp(channel));
        if let Ok(at) = by_name {
            return Some(&self.names[at]);
        }
        // Every prefix of the name sorts before it or is equal to it.
        let end = self.prefixes.partition_point(|(one, _)| stem_of(one) <= channel);
        find_longest_prefix(&self.prefixes, channel, end).map(|at| &self.prefixes[at].0)
    }

    /// Returns the rules of a channel: its namespace's, or those of channels that only tokens open.
    pub fn find_or_granted(&self, channel: &str) -> &Namespace {
        self.find(channel).unwrap_or(&self.granted)
    }

    /// Returns the rules for channels that only tokens open.
    pub fn granted(&self) -> &Namespace {
        &self.granted
    }

    /// Iterates over all configured namespaces.
    pub fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.names.iter().chain(self.prefixes.iter().map(|(namespace, _)| namespace))
    }
}

/// Returns the name or prefix of a pattern.
fn stem_of(namespace: &Namespace) -> &str {
    namespace.pattern.prefix().unwrap_or(namespace.pattern.as_str())
}

/// Returns the index of the longest prefix of a name. The first `end` entries must be exactly those
/// that are not greater than the name.
fn find_longest_prefix(
    sorted: &[(Namespace, Option<usize>)],
    name: &str,
    end: usize,
) -> Option<usize> {
    let mut at = end.checked_sub(1);
    while let Some(place) = at {
        if name.starts_with(stem_of(&sorted[place].0)) {
            return at;
        }
        // If this prefix does not match, only prefixes of it can, and the longest one of them is
        // stored with it.
        at = sorted[place].1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn namespace(pattern: &str) -> Namespace {
        Namespace {
            pattern: Pattern::new(pattern).unwrap(),
            subscribe: Access::Anyone,
            publish: Access::Anyone,
            history_messages: 0,
            history_ttl_s: 0,
            presence: true,
            slow_reader: SlowReader::default(),
            members_max: 0,
            message_bytes_max: 0,
            rate: 0,
            events: EventTarget::default(),
            on_failure: OnFailure::default(),
        }
    }

    fn find_pattern(patterns: &[&str], channel: &str) -> Option<String> {
        let list = patterns.iter().map(|pattern| namespace(pattern)).collect();
        let all = Namespaces::new(list, namespace("*"));
        all.find(channel).map(|one| one.pattern.as_str().to_owned())
    }

    #[test]
    fn a_name_beats_prefixes_and_the_longest_prefix_wins() {
        let patterns = ["chat:*", "*", "chat:vip:*", "chat:vip:one", "news"];
        for (channel, pattern) in [
            ("chat:vip:one", "chat:vip:one"),
            ("chat:vip:two", "chat:vip:*"),
            ("chat:a", "chat:*"),
            ("chat:z", "chat:*"),
            ("news", "news"),
            ("newsletter", "*"),
            ("zzz", "*"),
        ] {
            assert_eq!(find_pattern(&patterns, channel).as_deref(), Some(pattern), "{channel}");
        }
        assert_eq!(find_pattern(&["chat:*"], "news"), None);
        assert_eq!(find_pattern(&["chat:*"], "chat"), None);
        assert_eq!(find_pattern(&[], "chat"), None);
    }

    proptest! {
        /// Compares the result with trying all patterns.
        #[test]
        fn the_search_agrees_with_trying_all(
            patterns in proptest::collection::vec("[ab]{0,5}\\*|[ab]{1,5}", 0..20),
            channel in "[ab]{1,6}",
        ) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let read = patterns.iter().map(|text| Pattern::new(text).unwrap());
            let naive = read.filter(|one| one.matches(&channel)).max_by_key(Pattern::weight);
            let naive = naive.map(|one| one.as_str().to_owned());
            prop_assert_eq!(find_pattern(&patterns, &channel), naive);
        }
    }
}
