//! Namespaces: what the operator says of channels, found by name.
//!
//! Patterns are kept sorted. The last one that is not after a name is the longest beginning of
//! it, or lies below the longest: so a search in halves, and a few steps up from there, find it
//! among any number of patterns.

use serde::{Deserialize, Serialize};

use super::pattern::Pattern;

/// Who may do something.
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
    /// The backend only.
    Server,
}

/// What happens to a reader that does not keep up with a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowReader {
    /// Its connection is closed (4413).
    Close,
    /// The oldest messages that wait for it are dropped, and it is told of the gap.
    #[default]
    DropOldest,
    /// Only the newest message waits for it.
    Latest,
}

/// What holds for the channels of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub pattern: Pattern,
    pub subscribe: Access,
    pub publish: Access,
    /// Messages that a channel keeps; 0 = none.
    pub history_messages: u32,
    pub history_ttl_s: u32,
    /// Whether members can be listed, and told of who joins and leaves.
    pub presence: bool,
    pub slow_reader: SlowReader,
    /// 0 = no bound.
    pub members_max: u32,
    pub message_bytes_max: u32,
    /// Publishes a second of one connection; 0 = no bound.
    pub rate: u32,
}

/// All namespaces, in a form to look up.
#[derive(Clone, Debug)]
pub struct Namespaces {
    /// Those of single channels, sorted by name.
    names: Vec<Namespace>,
    /// Those of beginnings, sorted by them, each with the place of the longest other one that it
    /// begins with.
    prefixes: Vec<(Namespace, Option<usize>)>,
    granted: Namespace,
}

impl Namespaces {
    /// Takes the namespaces; of two with one pattern the first counts. `granted` holds for
    /// channels that match none of them, where a token grants something there.
    pub fn new(list: Vec<Namespace>, granted: Namespace) -> Self {
        let (mut prefixes, mut names): (Vec<_>, Vec<_>) =
            list.into_iter().partition(|one| one.pattern.prefix().is_some());
        for kind in [&mut names, &mut prefixes] {
            kind.sort_by(|one, other| stem(one).cmp(stem(other)));
            kind.dedup_by(|later, kept| stem(later) == stem(kept));
        }
        let mut nested: Vec<(Namespace, Option<usize>)> = Vec::with_capacity(prefixes.len());
        for namespace in prefixes {
            let above = longest(&nested, stem(&namespace), nested.len());
            nested.push((namespace, above));
        }
        Self { names, prefixes: nested, granted }
    }

    /// The namespace of a channel.
    pub fn find(&self, channel: &str) -> Option<&Namespace> {
        let by_name = self.names.binary_search_by(|one| one.pattern.as_str().cmp(channel));
        if let Ok(at) = by_name {
            return Some(&self.names[at]);
        }
        let end = self.prefixes.partition_point(|(one, _)| stem(one) <= channel);
        longest(&self.prefixes, channel, end).map(|at| &self.prefixes[at].0)
    }

    /// What holds for channels that only a token opens.
    pub fn granted(&self) -> &Namespace {
        &self.granted
    }

    /// All namespaces that patterns were written for.
    pub fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.names.iter().chain(self.prefixes.iter().map(|(namespace, _)| namespace))
    }
}

/// The name or beginning that a pattern stands for.
fn stem(namespace: &Namespace) -> &str {
    namespace.pattern.prefix().unwrap_or(namespace.pattern.as_str())
}

/// The place of the longest beginning of a name among those before `end`, which are all that are
/// not after it.
fn longest(sorted: &[(Namespace, Option<usize>)], name: &str, end: usize) -> Option<usize> {
    let mut at = end.checked_sub(1);
    while let Some(place) = at {
        if name.starts_with(stem(&sorted[place].0)) {
            return at;
        }
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
        }
    }

    fn found(patterns: &[&str], channel: &str) -> Option<String> {
        let list = patterns.iter().map(|pattern| namespace(pattern)).collect();
        let all = Namespaces::new(list, namespace("*"));
        all.find(channel).map(|one| one.pattern.as_str().to_owned())
    }

    #[test]
    fn a_name_beats_beginnings_and_the_longest_of_those_wins() {
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
            assert_eq!(found(&patterns, channel).as_deref(), Some(pattern), "{channel}");
        }
        assert_eq!(found(&["chat:*"], "news"), None);
        assert_eq!(found(&["chat:*"], "chat"), None);
        assert_eq!(found(&[], "chat"), None);
    }

    proptest! {
        /// Against trying all patterns.
        #[test]
        fn the_search_finds_what_trying_all_finds(
            patterns in proptest::collection::vec("[ab]{0,5}\\*|[ab]{1,5}", 0..20),
            channel in "[ab]{1,6}",
        ) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let read = patterns.iter().map(|text| Pattern::new(text).unwrap());
            let naive = read.filter(|one| one.matches(&channel)).max_by_key(Pattern::weight);
            let naive = naive.map(|one| one.as_str().to_owned());
            prop_assert_eq!(found(&patterns, &channel), naive);
        }
    }
}
