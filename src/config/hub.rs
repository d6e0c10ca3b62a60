//! Validates the hub's namespaces: the rules for the channels of a pattern.

use super::file::{Channel, File};
use super::{ConfigError, Faults, backend, of_one, ranges, webhooks};
use crate::auth::{Access, CACHED_CHANNELS, Namespace, Namespaces, Pattern};

/// How long channels of apps with a cache keep their last event (s).
const CACHE_TTL_S: u32 = 3600;

/// Validates the namespaces. Without any, and without keys, a default one covers all channels.
pub(super) fn namespaces(
    file: &File,
    keys_configured: bool,
    message_bytes_max: u64,
    faults: &mut Faults,
) -> Option<Namespaces> {
    let written = &file.channels;
    let before = faults.0.len();
    let mut list = Vec::with_capacity(written.len().max(1));
    for (index, channel) in written.iter().enumerate() {
        list.extend(faults.check(namespace(file, index, channel, message_bytes_max)));
        if written[..index].iter().any(|other| other.pattern == channel.pattern) {
            let text = format!(
                "two channel sections have the pattern {}: only the first would count",
                channel.pattern
            );
            faults.0.push(of_one(format!("channel.{index}.pattern"), text));
        }
    }
    // The rules for channels that match no namespace and are opened by a token: as the default, but
    // only with granted rights.
    let all = faults.check(namespace(file, 0, &Channel::default(), u64::MAX))?;
    let granted = Namespace { subscribe: Access::Token, publish: Access::Token, ..all.clone() };
    if list.is_empty() && !keys_configured {
        list.push(all);
    }
    for app in &file.apps {
        add_channels_of_app(file, &app.id, &mut list, &granted);
    }
    (faults.0.len() == before).then(|| Namespaces::new(list, granted))
}

/// Adds the rules for the channels of an app that no `[[channel]]` has. Other clients need a right
/// that names the channel; channels with a cache keep their last event.
fn add_channels_of_app(file: &File, id: &str, list: &mut Vec<Namespace>, granted: &Namespace) {
    let of_all = format!("{id}:*");
    let Ok(pattern) = Pattern::new(&of_all) else { return };
    let events = webhooks::of_app(file, id).unwrap_or(granted.events);
    list.push(Namespace { pattern, history_messages: 0, events, ..granted.clone() });
    for prefix in CACHED_CHANNELS {
        let Ok(pattern) = Pattern::new(&format!("{id}:{prefix}*")) else { continue };
        // The rules that would otherwise count for these channels.
        let all = Namespaces::new(list.clone(), granted.clone());
        let base = all.find_or_granted(&format!("{id}:{prefix}"));
        let history_messages = base.history_messages.max(1);
        let history_ttl_s = base.history_ttl_s.max(CACHE_TTL_S);
        list.push(Namespace { pattern, history_messages, history_ttl_s, ..base.clone() });
    }
}

fn namespace(
    file: &File,
    index: usize,
    written: &Channel,
    message_bytes_max: u64,
) -> Result<Namespace, ConfigError> {
    let fault = |key: &str, text: String| {
        of_one(format!("channel.{index}.{key}"), format!("channel {}: {text}", written.pattern))
    };
    let pattern =
        Pattern::new(&written.pattern).map_err(|text| fault("pattern", text.to_owned()))?;
    if let Some((key, problem)) = ranges::find_errors(written.numbers()).next() {
        return Err(fault(key, format!("{key} {problem}")));
    }
    // A value other than the default was set by the operator; the default may exceed the limit.
    let asked = written.message_bytes_max != Channel::default().message_bytes_max;
    if asked && u64::from(written.message_bytes_max) > message_bytes_max {
        let text = format!(
            "message_bytes_max = {} is above limits.message_bytes_max ({message_bytes_max}), past \
             which connections are closed: raise that one too",
            written.message_bytes_max
        );
        return Err(fault("message_bytes_max", text));
    }
    if written.history > 0 && written.history_ttl_s == 0 {
        let text = "history_ttl_s must not be 0 where there is history; history = 0 keeps none";
        return Err(fault("history_ttl_s", text.to_owned()));
    }
    let target = backend::of_channel(file, written).map_err(|(key, text)| fault(key, text))?;
    let target = webhooks::of_pattern(file, written).unwrap_or(target);
    Ok(Namespace {
        pattern,
        subscribe: written.subscribe,
        publish: written.publish,
        history_messages: written.history,
        history_ttl_s: written.history_ttl_s,
        presence: written.presence,
        slow_reader: written.slow_reader,
        members_max: written.members_max,
        message_bytes_max: written.message_bytes_max,
        rate: written.rate,
        events: target,
        on_failure: written.on_failure,
    })
}

#[cfg(test)]
mod tests {
    use super::{Access, Channel, ConfigError, Faults, Namespace, Namespaces};

    fn namespaces(
        written: &[Channel],
        keys: bool,
        message_bytes_max: u64,
    ) -> Result<Namespaces, ConfigError> {
        let mut faults = Faults::default();
        let file = super::File { channels: written.to_vec(), ..super::File::default() };
        let found = super::namespaces(&file, keys, message_bytes_max, &mut faults);
        found.ok_or_else(|| ConfigError::all(faults.0))
    }

    fn find(written: &[Channel], keys: bool, channel: &str) -> Option<Namespace> {
        namespaces(written, keys, 1 << 20).unwrap().find(channel).cloned()
    }

    fn pattern(pattern: &str) -> Channel {
        Channel { pattern: pattern.into(), ..Channel::default() }
    }

    #[test]
    fn without_namespaces_all_channels_are_open_only_where_there_are_no_keys() {
        let open = find(&[], false, "anything").unwrap();
        assert_eq!((open.subscribe, open.history_messages), (Access::Anyone, 100));
        assert_eq!(find(&[], true, "anything"), None);
        assert_eq!(find(&[pattern("chat:*")], false, "anything"), None);
        assert!(find(&[pattern("chat:*")], true, "chat:a").is_some());
        let closed = namespaces(&[], true, 1 << 20).unwrap();
        assert_eq!(closed.granted().publish, Access::Token);
    }

    #[test]
    fn mistakes_name_their_option() {
        for (written, key, says) in [
            (pattern("a*b"), "channel.0.pattern", "only at the end"),
            (pattern(""), "channel.0.pattern", "1 to 200"),
            (
                Channel { message_bytes_max: 2 << 20, ..pattern("a") },
                "channel.0.message_bytes_max",
                "limits.message_bytes_max",
            ),
            (
                Channel { history_ttl_s: 0, ..pattern("a") },
                "channel.0.history_ttl_s",
                "history = 0",
            ),
        ] {
            let fault = namespaces(&[written], false, 1 << 20).unwrap_err();
            assert_eq!(fault.key.as_deref(), Some(key), "{fault}");
            assert!(fault.text.contains(says), "{fault}");
        }
        let twice = [pattern("a"), pattern("a")];
        let fault = namespaces(&twice, false, 1 << 20).unwrap_err();
        assert_eq!(fault.key.as_deref(), Some("channel.1.pattern"));
    }
}
