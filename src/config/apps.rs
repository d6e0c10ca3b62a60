//! Validates the apps of the Pusher protocol.

use super::file::{self, ConnectRule, File, HandlerName};
use super::{APPS_PATH, Faults, of_one, ranges, secret_files};
use crate::auth::{APP_ID_BYTES_MAX, AppOptions, PusherApp, PusherApps};

/// The longest key (bytes).
const KEY_BYTES_MAX: usize = 64;
/// The shortest secret (bytes).
const SECRET_BYTES_MIN: usize = 8;

/// Checks the apps, and that routes for them have any.
pub(super) fn apps(file: &File, faults: &mut Faults) -> PusherApps {
    let apps = file.apps.iter().enumerate().filter_map(|(at, one)| app(at, one, file, faults));
    let apps = apps.collect();
    for (index, route) in file.routes.iter().enumerate() {
        if route.handler == HandlerName::Pusher && route.connect == ConnectRule::Backend {
            let text = format!(
                "route {}: connect = \"backend\" is not for handler = \"pusher\": the app's \
                 backend signs what its clients may do",
                route.path
            );
            faults.0.push(of_one(format!("route.{index}.connect"), text));
        }
        if route.handler == HandlerName::Pusher && file.apps.is_empty() {
            let text = format!(
                "route {}: handler = \"pusher\" needs an [[app]], with the id, key and secret that \
                 its clients and backend use",
                route.path
            );
            faults.0.push(of_one(format!("route.{index}.handler"), text));
        }
    }
    for (index, route) in file.routes.iter().enumerate() {
        if !file.apps.is_empty() && route.path.starts_with(APPS_PATH) {
            let text = format!(
                "route {}: path must not be below {APPS_PATH}, where backends of apps call the \
                 HTTP API",
                route.path
            );
            faults.0.push(of_one(format!("route.{index}.path"), text));
        }
    }
    PusherApps::new(apps)
}

fn is_word(text: &str, bytes_max: usize) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(is_allowed)
}

fn app(index: usize, written: &file::App, file: &File, faults: &mut Faults) -> Option<PusherApp> {
    let before = faults.0.len();
    let fault = |key: &str, text: &str| {
        of_one(format!("app.{index}.{key}"), format!("app \"{}\": {key} {text}", written.id))
    };
    let others = &file.apps[..index];
    if !is_word(&written.id, APP_ID_BYTES_MAX) {
        let text = "must have 1 to 35 characters of A-Z a-z 0-9 _ -";
        faults.0.push(fault("id", text));
    } else if others.iter().any(|other| other.id == written.id) {
        faults.0.push(fault("id", "is another app's too: give each its own"));
    }
    if !is_word(&written.key, KEY_BYTES_MAX) {
        faults.0.push(fault("key", "must have 1 to 64 characters of A-Z a-z 0-9 _ -"));
    } else if others.iter().any(|other| other.key == written.key) {
        faults.0.push(fault("key", "is another app's too: give each its own"));
    }
    for (key, problem) in ranges::find_errors(written.numbers()) {
        faults.0.push(fault(key, &problem));
    }
    if written.presence_members_max > file.hub.presence_page_max {
        let text = format!(
            "must not exceed hub.presence_page_max ({}): new members receive the whole list",
            file.hub.presence_page_max
        );
        faults.0.push(fault("presence_members_max", &text));
    }
    let option = if written.secret_file.is_empty() { "secret" } else { "secret_file" };
    let secret = secret_files::one(&written.secret, &written.secret_file);
    let secret = faults.check(secret.map_err(|text| fault(option, &text)))?;
    if secret.len() < SECRET_BYTES_MIN {
        let text = "must have at least 8 bytes: a client that guesses it can sign every right";
        faults.0.push(fault(option, text));
    }
    let options = AppOptions {
        client_events: written.client_events,
        client_events_per_s: written.client_events_per_s,
        event_bytes_max: written.event_bytes_max,
        presence_members_max: written.presence_members_max,
        connections_max: written.connections_max,
        activity_timeout_s: written.activity_timeout_s,
        tls_only: written.tls_only,
    };
    (faults.0.len() == before)
        .then(|| PusherApp::new(&written.id, &written.key, secret.as_bytes(), options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn file(apps: Vec<file::App>) -> File {
        let route = file::Route {
            path: "/app".into(),
            handler: HandlerName::Pusher,
            ..file::Route::default()
        };
        File { apps, routes: vec![route], ..File::default() }
    }

    fn written(id: &str, key: &str) -> file::App {
        let secret = "a secret".into();
        file::App { id: id.into(), key: key.into(), secret, ..file::App::default() }
    }

    #[test]
    fn mistakes_name_their_option() {
        let long = "x".repeat(36);
        for (apps, key, says) in [
            (vec![], "route.0.handler", "needs an [[app]]"),
            (vec![written("", "k")], "app.0.id", "1 to 35"),
            (vec![written(&long, "k")], "app.0.id", "1 to 35"),
            (vec![written("a:b", "k")], "app.0.id", "1 to 35"),
            (vec![written("a", "")], "app.0.key", "1 to 64"),
            (vec![written("a", "k"), written("a", "l")], "app.1.id", "another app's"),
            (vec![written("a", "k"), written("b", "k")], "app.1.key", "another app's"),
            (
                vec![file::App { secret: "short".into(), ..written("a", "k") }],
                "app.0.secret",
                "at least 8 bytes",
            ),
            (
                vec![file::App { presence_members_max: 100_000, ..written("a", "k") }],
                "app.0.presence_members_max",
                "hub.presence_page_max",
            ),
        ] {
            let fault = Config::validate(&file(apps), 20_000, 1).unwrap_err();
            assert_eq!(fault.key.as_deref(), Some(key), "{fault}");
            assert!(fault.text.contains(says), "{fault}");
        }
    }

    #[test]
    fn channels_of_apps_are_closed_to_other_clients() {
        use crate::auth::Access;
        let config = Config::validate(&file(vec![written("a", "k")]), 20_000, 1).unwrap();
        let of_app = config.namespaces.find("a:private-x").unwrap();
        assert_eq!((of_app.subscribe, of_app.publish), (Access::Token, Access::Token));
        let mut opened = file(vec![written("a", "k")]);
        let open = file::Channel { pattern: "a:*".into(), ..file::Channel::default() };
        opened.channels.push(open);
        let config = Config::validate(&opened, 20_000, 1).unwrap();
        assert_eq!(config.namespaces.find("a:news").unwrap().subscribe, Access::Anyone);
        let cached = config.namespaces.find("a:private-cache-x").unwrap();
        assert_eq!((cached.subscribe, cached.history_ttl_s), (Access::Anyone, 3600));
    }

    #[test]
    fn channels_with_a_cache_keep_their_last_event() {
        let config = Config::validate(&file(vec![written("a", "k")]), 20_000, 1).unwrap();
        let kept = |name: &str| config.namespaces.find(name).unwrap().history_messages;
        assert_eq!((kept("a:cache-x"), kept("a:presence-cache-x"), kept("a:x")), (1, 1, 0));
    }
}
