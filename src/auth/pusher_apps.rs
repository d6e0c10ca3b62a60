//! All apps of the Pusher protocol.

use std::sync::Arc;

use super::identity::Identity;
use super::pusher_app::PusherApp;

/// All apps, each with the identity of its clients that have not signed in.
#[derive(Clone, Debug, Default)]
pub struct PusherApps {
    apps: Vec<(Arc<PusherApp>, Arc<Identity>)>,
    /// See [`Self::body_bytes_max`].
    body_bytes_max: usize,
}

impl PusherApps {
    /// Takes the apps; ids and keys must be unique.
    pub fn new(apps: Vec<PusherApp>) -> Self {
        let identify = |app| Arc::new(Identity { app: Some(app), ..Identity::default() });
        let apps = apps.into_iter().map(Arc::new);
        let apps: Vec<_> = apps.map(|app| (app.clone(), identify(app))).collect();
        let body_bytes_max = apps.iter().map(|(app, _)| app.body_bytes_max()).max();
        Self { apps, body_bytes_max: body_bytes_max.unwrap_or_default() }
    }

    /// Returns the same apps; those that were there before keep their counts.
    #[must_use]
    pub fn following(&self, old: &Self) -> Self {
        let follow = |app: &Arc<PusherApp>| app.following(old.find(app.id()).map(|old| &**old));
        Self::new(self.iter().map(follow).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.apps.is_empty()
    }

    /// Returns the length of the longest request to the HTTP API of any app (bytes).
    pub fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// Returns all apps.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<PusherApp>> {
        self.apps.iter().map(|(app, _)| app)
    }

    /// Returns the app with this id.
    pub fn find(&self, id: &str) -> Option<&Arc<PusherApp>> {
        self.iter().find(|app| app.id() == id)
    }

    /// Returns the identity of clients of the app with this key.
    pub fn identify(&self, key: &str) -> Option<&Arc<Identity>> {
        self.apps.iter().find(|(app, _)| app.key() == key).map(|(_, identity)| identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::AppOptions;
    use crate::auth::tests_of_apps::options;

    const KEY: &str = "key";

    #[test]
    fn connections_are_counted_across_configurations() {
        let limited = || AppOptions { connections_max: 2, ..options() };
        let make = || PusherApps::new(vec![PusherApp::new("1", KEY, b"secret", limited())]);
        let old = make();
        let app = old.find("1").unwrap();
        assert!(app.enter() && app.enter() && !app.enter());
        let new = make().following(&old);
        let app = new.find("1").unwrap();
        assert_eq!(app.connections(), 2);
        app.leave();
        assert!(app.enter() && !app.enter());
        assert!(new.identify(KEY).is_some() && new.identify("other").is_none());
    }
}
