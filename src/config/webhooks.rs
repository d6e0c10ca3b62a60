//! Validates the webhooks of apps. An app with one is a target of events, beside the backends and
//! after them.

use std::sync::Arc;
use std::time::Duration;

use super::backend::APP_PREFIX;
use super::file::{self, File};
use super::{Faults, at, backend, of_one};
use crate::auth::{Access, PusherApps};
use crate::backend::{BackendSettings, RequestForm};
use crate::events::{BACKENDS_MAX, EventKind, EventKinds, EventTarget};

fn with_webhook(file: &File) -> impl Iterator<Item = (usize, &file::App)> {
    file.apps.iter().enumerate().filter(|(_, app)| !app.webhook_url.is_empty())
}

/// Returns the names of the webhooks, in the order of their indexes.
pub(super) fn names(file: &File) -> Vec<String> {
    with_webhook(file).map(|(_, app)| format!("{APP_PREFIX}{}", app.id)).collect()
}

/// Checks the backends and the webhooks; returns the settings of both, in the order of their
/// indexes.
pub(super) fn all_targets(
    file: &File,
    apps: &PusherApps,
    faults: &mut Faults,
) -> Vec<Arc<BackendSettings>> {
    let mut targets = backend::backends(file, faults);
    let count = with_webhook(file).count();
    if count > 0 && file.backends.len() + count > BACKENDS_MAX {
        let text = format!(
            "must not be set in so many apps: there are {BACKENDS_MAX} places for [[backend]] and \
             webhooks together"
        );
        faults.0.push(at("app.webhook_url", text));
    }
    for (index, app) in file.apps.iter().enumerate().filter(|(_, app)| app.webhook_url.is_empty()) {
        let options = [
            ("webhook_events", app.webhook_events.is_empty()),
            ("webhook_ca_file", app.webhook_ca_file.is_empty()),
        ];
        for (key, _) in options.into_iter().filter(|(_, is_empty)| !is_empty) {
            let text = format!("app \"{}\": {key} needs webhook_url", app.id);
            faults.0.push(of_one(format!("app.{index}.{key}"), text));
        }
    }
    let webhook = |(index, app)| target(index, app, file, apps, faults);
    targets.extend(with_webhook(file).filter_map(webhook));
    targets
}

fn target(
    index: usize,
    written: &file::App,
    file: &File,
    apps: &PusherApps,
    faults: &mut Faults,
) -> Option<Arc<BackendSettings>> {
    let before = faults.0.len();
    let fault = |key: &str, text: &str| {
        of_one(format!("app.{index}.{key}"), format!("app \"{}\": {key} {text}", written.id))
    };
    let (key, url) = ("webhook_url", &written.webhook_url);
    faults.check(backend::check_url(key, url).map_err(|text| fault(key, &text)));
    let kinds = kinds(written).and_then(|kinds| {
        let remedy = "name only client_event and cache_miss";
        backend::check_kinds(kinds, !file.cluster.urls.is_empty(), remedy)
    });
    faults.check(kinds.map_err(|text| fault("webhook_events", &text)));
    let authorities = backend::read_authorities(&written.webhook_ca_file);
    let authorities = authorities.map_err(|text| fault("webhook_ca_file", &text));
    let authorities = faults.check(authorities).flatten();
    if faults.0.len() > before {
        return None;
    }
    Some(Arc::new(BackendSettings {
        name: format!("{APP_PREFIX}{}", written.id),
        events_url: written.webhook_url.clone(),
        hooks: None,
        links: None,
        node_events: EventKinds::default(),
        // An app without valid options has its own errors.
        form: RequestForm::Pusher(apps.find(&written.id)?.clone()),
        authorities,
        events_bytes_max: file::Backend::default().events_bytes_max as usize,
        retry_for: Duration::from_secs(written.webhook_retry_for_s.into()),
        vacate_delay: Duration::from_millis(written.webhook_vacate_delay_ms.into()),
    }))
}

fn kinds(written: &file::App) -> Result<EventKinds, String> {
    match &written.webhook_events[..] {
        [] => Ok(EventKind::OF_APPS.into_iter().collect()),
        names => backend::parse_kinds(names, &EventKind::OF_APPS),
    }
}

/// Returns where the events of an app's channels go; `None`: it has no webhook.
pub(super) fn of_app(file: &File, id: &str) -> Option<EventTarget> {
    let place = with_webhook(file).position(|(_, app)| app.id == id)?;
    let (_, app) = with_webhook(file).nth(place)?;
    let kinds = kinds(app).unwrap_or_default();
    Some(EventTarget { backend: (file.backends.len() + place) as u8, kinds })
}

/// Returns the same for a pattern of channels that belong to an app with a webhook, unless its
/// options name a backend, events, or rights that a backend decides on.
pub(super) fn of_pattern(file: &File, written: &file::Channel) -> Option<EventTarget> {
    let is_asked = [written.subscribe, written.publish].contains(&Access::Backend);
    if is_asked || !written.backend.is_empty() || !written.events.is_empty() {
        return None;
    }
    let (id, _) = written.pattern.split_once(':')?;
    of_app(file, id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::file::HandlerName;

    fn app(id: &str, url: &str) -> file::App {
        file::App {
            id: id.into(),
            key: format!("key-{id}"),
            secret: "a secret".into(),
            webhook_url: url.into(),
            ..file::App::default()
        }
    }

    fn channel(pattern: &str) -> file::Channel {
        file::Channel { pattern: pattern.into(), ..file::Channel::default() }
    }

    /// A backend that is dialed by links, and so needs no secret, and these apps.
    fn file(apps: Vec<file::App>, channels: Vec<file::Channel>) -> File {
        let backend = file::Backend { links: vec!["ws://127.0.0.1/".into()], ..Default::default() };
        let route = file::Route {
            path: "/app".into(),
            handler: HandlerName::Pusher,
            ..file::Route::default()
        };
        File { apps, channels, backends: vec![backend], routes: vec![route], ..File::default() }
    }

    #[test]
    fn channels_of_an_app_have_its_webhook_unless_they_name_something_else() {
        let apps = vec![app("a", ""), app("b", "http://x/"), app("c", "https://x.example/hook")];
        let none = file::Channel { events: vec!["none".into()], ..channel("c:private-*") };
        let named = file::Channel { backend: "app".into(), ..channel("c:presence-x") };
        let channels = vec![channel("*"), channel("c:cache-*"), none, named];
        let config = Config::validate(&file(apps, channels), 20_000, 1).unwrap();
        let names: Vec<_> = config.backends.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["app", "app:b", "app:c"]);
        let of = |name: &str| config.namespaces.find(name).unwrap().events;
        let all: EventKinds = EventKind::OF_APPS.into_iter().collect();
        for (name, backend, kinds) in [
            ("a:news", 0, EventKinds::default()),
            ("b:news", 1, all),
            ("c:news", 2, all),
            ("c:cache-news", 2, all),
            ("c:private-x", 0, EventKinds::default()),
            ("c:presence-x", 0, EventKinds::default()),
            ("other", 0, EventKinds::default()),
        ] {
            assert_eq!(of(name), EventTarget { backend, kinds }, "{name}");
        }
        assert_eq!(config.channel_events, all);
    }

    #[test]
    fn mistakes_name_their_option() {
        let with = |events: &[&str]| file::App {
            webhook_events: events.iter().map(|one| (*one).into()).collect(),
            ..app("a", "http://x/")
        };
        let ca_file = || file::App { webhook_ca_file: "/none.pem".into(), ..app("a", "http://x/") };
        let alone = file::App { webhook_url: String::new(), ..with(&["cache_miss"]) };
        let many = |count: usize| (0..count).map(|at| app(&at.to_string(), "http://x/")).collect();
        for (apps, key, says) in [
            (vec![app("a", "x.example")], "app.0.webhook_url", "the whole address"),
            (vec![app("a", "http://u:p@x/")], "app.0.webhook_url", "user or password"),
            (vec![alone], "app.0.webhook_events", "needs webhook_url"),
            (vec![with(&["connected"])], "app.0.webhook_events", "client_event, cache_miss"),
            (vec![with(&["channel_vacated"])], "app.0.webhook_events", "must name both"),
            (vec![ca_file()], "app.0.webhook_ca_file", "cannot read /none.pem"),
            (many(BACKENDS_MAX), "app.webhook_url", "16 places"),
        ] {
            let fault = Config::validate(&file(apps, vec![]), 20_000, 1).unwrap_err();
            assert_eq!(fault.key.as_deref(), Some(key), "{fault}");
            assert!(fault.text.contains(says), "{fault}");
        }
        assert!(Config::validate(&file(many(BACKENDS_MAX - 1), vec![]), 20_000, 1).is_ok());
        let mut named = file(vec![], vec![]);
        named.routes.clear();
        named.backends[0].name = "app:a".into();
        let fault = Config::validate(&named, 20_000, 1).unwrap_err();
        assert_eq!(fault.key.as_deref(), Some("backend.0.name"), "{fault}");
    }

    #[test]
    fn in_a_cluster_only_what_each_node_knows_is_sent() {
        let validate = |events: &[&str]| {
            let webhook_events = events.iter().map(|one| (*one).into()).collect();
            let app = file::App { webhook_events, ..app("a", "http://x/") };
            let mut file = file(vec![app], vec![]);
            file.cluster.urls = vec!["redis://127.0.0.1".into()];
            file.resume.keys.0.push("5e".repeat(32).as_str().into());
            Config::validate(&file, 20_000, 1)
        };
        for events in [&[][..], &["member_added"]] {
            let fault = validate(events).unwrap_err();
            assert_eq!(fault.key.as_deref(), Some("app.0.webhook_events"), "{fault}");
            assert!(fault.text.contains("name only client_event and cache_miss"), "{fault}");
        }
        if let Err(fault) = validate(&["cache_miss", "client_event"]) {
            assert_ne!(fault.key.as_deref(), Some("app.0.webhook_events"), "{fault}");
        }
    }

    #[test]
    fn a_reload_keeps_the_list_of_webhooks() {
        let before = file(vec![app("a", ""), app("b", "http://x/")], vec![]);
        let named = |apps: Vec<file::App>| names(&file(apps, vec![]));
        assert_eq!(named(vec![app("b", "http://y/")]), names(&before));
        for apps in [
            vec![app("a", "http://x/"), app("b", "http://x/")],
            vec![app("a", "http://x/"), app("b", "")],
            vec![app("b", "")],
        ] {
            assert_ne!(named(apps), names(&before));
        }
    }
}
