//! Reloads: applies another configuration to a running server, and determines which changes need a
//! restart.
//!
//! Connections stay open, and may read any value of the configuration several times during their
//! lives. Therefore:
//!
//! - Values that are indexes or sizes of memory (listeners, shards, `[engine]`, connections per
//!   shard), and values that must not change between the start and the end of something (bits of
//!   address prefixes), need a restart: see `hold_back`.
//! - A route keeps its index, which its connections store. A removed route keeps its options for
//!   its connections; its index is reused after they have closed. A route with another handler
//!   counts as a new route. All routes that a path has had share one count towards
//!   `connections_max`.
//! - A limit applies from its next check on: a message, partial request or outbox larger than a
//!   lowered limit ends its connection as if it had just grown. Code that subtracts a present size
//!   from a limit saturates.
//! - Budgets and rates store times, not amounts, so that another rate needs no conversion.
//! - What connections store of a namespace (a presence entry, a grant, a budget) is ended by the
//!   stored values, not by the present rules of the namespace.
//! - Timers of all connections are set again, some in each turn (`refresh_deadlines`), so that a
//!   new timeout also applies to a connection without activity.

use super::file::File;
use super::{Config, ConfigError, RouteOptions, TicketKeys, Written, at, of_one, webhooks};
use crate::admission::ROUTES_MAX;
use crate::config::HandlerName;
use crate::proto::http::{Route, Routes};

/// The result of a reload.
#[derive(Debug)]
pub struct Renewed {
    /// The written configuration, with the old values of options that need a restart.
    pub file: File,
    pub config: Config,
    /// Changed options that need a restart.
    pub waiting: Vec<&'static str>,
}

/// Restores an old value, and records that the new one needs a restart.
fn keep<T: PartialEq + Clone>(
    key: &'static str,
    old: &T,
    new: &mut T,
    waiting: &mut Vec<&'static str>,
) {
    if old != new {
        waiting.push(key);
        new.clone_from(old);
    }
}

/// Restores all values that only a restart can change; returns their keys.
fn hold_back(old: &File, new: &mut File) -> Vec<&'static str> {
    let waiting = &mut Vec::new();
    keep("shards", &old.shards, &mut new.shards, waiting);
    keep("admin.listen", &old.admin.listen, &mut new.admin.listen, waiting);
    keep("admin.tls", &old.admin.tls, &mut new.admin.tls, waiting);
    let (key, kept) = ("admin.tls_client_ca", &mut new.admin.tls_client_ca);
    keep(key, &old.admin.tls_client_ca, kept, waiting);
    keep("tls.dev", &old.tls.dev, &mut new.tls.dev, waiting);
    keep("[acme]", &old.acme, &mut new.acme, waiting);
    keep("[[listener]]", &old.listeners, &mut new.listeners, waiting);
    keep("[engine]", &old.engine, &mut new.engine, waiting);
    keep("[cluster]", &old.cluster, &mut new.cluster, waiting);
    keep("[process]", &old.process, &mut new.process, waiting);
    keep("[metrics]", &old.metrics, &mut new.metrics, waiting);
    keep("log.format", &old.log.format, &mut new.log.format, waiting);
    let (from, to) = (&old.limits, &mut new.limits);
    let (key, kept) = ("limits.connections_per_shard_max", &mut to.connections_per_shard_max);
    keep(key, &from.connections_per_shard_max, kept, waiting);
    let (key, kept) = ("limits.address_prefix_v4", &mut to.address_prefix_v4);
    keep(key, &from.address_prefix_v4, kept, waiting);
    let (key, kept) = ("limits.address_prefix_v6", &mut to.address_prefix_v6);
    keep(key, &from.address_prefix_v6, kept, waiting);
    let (key, kept) = ("hub.history_bytes_max", &mut new.hub.history_bytes_max);
    keep(key, &old.hub.history_bytes_max, kept, waiting);
    std::mem::take(waiting)
}

/// Rejects another list of backends: routes and channels that name a new one could not be followed.
fn reject_other_backends(old: &File, new: &File) -> Result<(), ConfigError> {
    let names = |file: &File| file.backends.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
    if names(old) != names(new) {
        let text = "cannot be added, removed, renamed or reordered while running; restart";
        return Err(at("backend", text));
    }
    if webhooks::names(old) != webhooks::names(new) {
        let text = "cannot be set or removed while running, and apps that have one cannot be \
                    added, removed or reordered; restart";
        return Err(at("app.webhook_url", text));
    }
    Ok(())
}

impl Written {
    /// Validates a new configuration and adapts it to the one in force.
    ///
    /// # Errors
    /// The same as at the start; nothing changes then.
    ///
    /// `is_in_use` returns whether connections may still have the index of a route that is retired
    /// in the old configuration.
    pub fn renew(
        mut self,
        old: (&File, &Config),
        (open_files, cores): (u64, usize),
        is_in_use: &dyn Fn(usize) -> bool,
    ) -> Result<Renewed, ConfigError> {
        let (old_file, old) = old;
        // Errors are reported wherever they are, also in options that need a restart.
        self.validate(open_files, cores)?;
        reject_other_backends(old_file, &self.file)?;
        let waiting = hold_back(old_file, &mut self.file);
        // Once more with the restored values: limits depend on them, such as the number of shards.
        let mut config = self.validate(open_files, cores)?;
        config.keep_authentication((old_file, &self.file), old)?;
        config.reject_first_app(old)?;
        config.follow_routes(old, is_in_use)?;
        config.epoch = old.epoch + 1;
        // An engine may have lowered it.
        config.limits.connections_per_shard_max = old.limits.connections_per_shard_max;
        let (new, old) = (&mut config.resume, &old.resume);
        if new.keys == TicketKeys::Random && old.keys != TicketKeys::Configured {
            // Tickets that were issued stay valid.
            (new.keys, new.sealer) = (old.keys, old.sealer.clone());
        }
        Ok(Renewed { file: self.file, config, waiting })
    }
}

impl Config {
    /// Returns whether any route uses the hub.
    pub fn has_hub(&self) -> bool {
        self.route_options.iter().any(|route| route.handler == HandlerName::Hub)
    }

    /// Returns whether any route has sessions, which use the hub's state: of the hub, or of a
    /// gateway.
    pub fn has_sessions(&self) -> bool {
        self.route_options.iter().any(|route| route.handler != HandlerName::Echo)
    }

    /// Returns whether any route is a gateway.
    pub fn has_gateway_routes(&self) -> bool {
        self.route_options.iter().any(|route| route.handler == HandlerName::Gateway)
    }

    /// Rejects a configuration that would admit clients without authentication that was required
    /// before, unless this is confirmed: a file may be read while it is empty or half written. Keys
    /// that were fetched from the same URL are kept.
    fn keep_authentication(
        &self,
        (old_file, file): (&File, &File),
        old: &Self,
    ) -> Result<(), ConfigError> {
        let (old, new) = (&old.auth, &self.auth);
        if old.keys_configured && !new.keys_configured && !new.allow_anonymous {
            let text = "there is no [[key]], auth.jwks_file or auth.jwks_url, and the \
                        configuration in force has some: every client would be anonymous. If the \
                        file was being written, reload again; if this is meant, set \
                        auth.allow_anonymous = true";
            return Err(of_one("auth.allow_anonymous".into(), text.into()));
        }
        if !new.keys_configured && !old_file.channels.is_empty() && file.channels.is_empty() {
            let text = "channel: there is no [[channel]], and the configuration in force has some: \
                        without keys, every channel would be open. If the file was being written, \
                        reload again; if this is meant, write a [[channel]] with pattern = \"*\"";
            return Err(of_one("channel".into(), text.into()));
        }
        let jwks_file = &file.auth.jwks_file;
        if !jwks_file.is_empty() && old.verifier.has_usable_keys() && !new.verifier.has_keys() {
            let text = format!(
                ": {jwks_file} has no usable key, and the configuration in force has some: if the \
                 file was being written, reload again"
            );
            return Err(at("auth.jwks_file", text));
        }
        if self.admin.is_some()
            && !old.api_keys.is_empty()
            && new.api_keys.is_empty()
            && !file.admin.allow_anonymous
        {
            let text = "there is no [[api_key]], and the configuration in force has some: the \
                        admin address would answer every program on this host. If the file was \
                        being written, reload again; if this is meant, set \
                        admin.allow_anonymous = true";
            return Err(of_one("admin.allow_anonymous".into(), text.into()));
        }
        let url = |auth: &super::Auth| auth.jwks.as_ref().map(|source| source.url.clone());
        if url(new).is_some() && url(new) == url(old) {
            new.verifier.adopt_fetched(&old.verifier);
        }
        Ok(())
    }

    /// Rejects apps where there were none at the start: publications would need one more encoding.
    fn reject_first_app(&self, old: &Self) -> Result<(), ConfigError> {
        if self.apps.is_empty() || !old.apps.is_empty() {
            return Ok(());
        }
        Err(at("app", "cannot be added while running if there was none before; restart"))
    }

    /// Gives existing routes their old index, and new ones an index that no connection has any
    /// more.
    fn follow_routes(
        &mut self,
        old: &Self,
        is_in_use: &dyn Fn(usize) -> bool,
    ) -> Result<(), ConfigError> {
        if self.has_sessions() && !old.has_sessions() {
            let text = "leads to the hub or an application, which no route did at the start: \
                        restart the server";
            return Err(at("route.handler", text));
        }
        let routes = self.routes.as_slice().iter().zip(&self.route_options);
        let mut new: Vec<Option<_>> =
            routes.map(|(route, own)| Some((route.clone(), *own))).collect();
        let routes = old.routes.as_slice().iter().zip(&old.route_options);
        let mut table: Vec<Entry> = routes
            .map(|(route, options)| Entry {
                route: route.clone(),
                options: *options,
                retired: true,
            })
            .collect();
        let was_retired = |index: &usize| old.routes.is_retired(*index);
        let (retired, active): (Vec<_>, Vec<_>) = (0..table.len()).partition(was_retired);
        // Active routes come first: a path may have had several routes in turn.
        for index in active.iter().chain(&retired) {
            let entry = &mut table[*index];
            let is_same = |one: &&mut Option<(Route, RouteOptions)>| {
                one.as_ref().is_some_and(|(route, own)| entry.is_continued_by(route, own))
            };
            if let Some((route, own)) = new.iter_mut().find(is_same).and_then(Option::take) {
                entry.options = RouteOptions { counter: entry.options.counter, ..own };
                (entry.route, entry.retired) = (route, false);
            }
        }
        let mut places = retired.into_iter().filter(|index| !is_in_use(*index));
        for (route, own) in new.into_iter().flatten() {
            let place = places.find(|index| table[*index].retired);
            let others = || table.iter().enumerate().filter(|(index, _)| Some(*index) != place);
            let same = others().find(|(_, entry)| entry.has_path_of(&route));
            let is_taken = |counter: u16| others().any(|(_, one)| one.options.counter == counter);
            let free = || (0..=u16::MAX).find(|counter| !is_taken(*counter)).unwrap_or_default();
            let counter = same.map_or_else(free, |(_, entry)| entry.options.counter);
            let options = RouteOptions { counter, ..own };
            let entry = Entry { route, options, retired: false };
            match place {
                Some(index) => table[index] = entry,
                None => table.push(entry),
            }
        }
        if table.len() > ROUTES_MAX {
            let text = format!(
                "needs {} places of {ROUTES_MAX}, with those of earlier routes that still have \
                 connections: reload when they have closed, or restart",
                table.len()
            );
            return Err(at("route", text));
        }
        self.route_options = table.iter().map(|entry| entry.options).collect();
        let routes = table.into_iter().map(|entry| (entry.route, entry.retired));
        self.routes = Routes::with_retired(routes.collect());
        Ok(())
    }
}

/// An entry of the table of routes.
struct Entry {
    route: Route,
    options: RouteOptions,
    retired: bool,
}

impl Entry {
    fn has_path_of(&self, route: &Route) -> bool {
        self.route.path == route.path && self.route.prefix == route.prefix
    }

    /// Returns whether connections of this route can use the new one's options. Those of another
    /// handler cannot: an echo has no session, and a hub session must not be echoed.
    fn is_continued_by(&self, route: &Route, options: &RouteOptions) -> bool {
        self.has_path_of(route) && self.options.handler == options.handler
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HandlerName, file};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn config(routes: &[(u8, HandlerName)]) -> Config {
        let mut file = File::default();
        file.routes = routes
            .iter()
            .map(|(path, handler)| file::Route {
                path: format!("/{path}"),
                handler: *handler,
                ..file::Route::default()
            })
            .collect();
        file.routes.push(file::Route {
            path: "/hub".into(),
            handler: HandlerName::Hub,
            ..file::Route::default()
        });
        Config::validate(&file, 20_000, 1).unwrap()
    }

    #[test]
    fn routes_that_come_and_go_need_no_more_places() {
        let with = || config(&[(1, HandlerName::Echo)]);
        let mut now = with();
        for round in 0..3 * ROUTES_MAX {
            let mut next = if round % 2 == 0 { config(&[]) } else { with() };
            next.follow_routes(&now, &|_| false).unwrap();
            now = next;
        }
        for path in 0..3 * ROUTES_MAX {
            let mut next = config(&[]);
            let route = file::Route { path: format!("/p{path}"), ..file::Route::default() };
            let routes = vec![route, file::default_routes().remove(0)];
            let file = File { routes, ..File::default() };
            next = Config::validate(&file, 20_000, 1).unwrap_or(next);
            next.follow_routes(&now, &|_| false).unwrap();
            now = next;
        }
        assert!(now.routes.as_slice().len() < 8, "{}", now.routes.as_slice().len());
    }

    #[test]
    fn more_than_there_are_places_for_are_rejected_with_the_reason() {
        let mut now = config(&[]);
        let error = (0..=ROUTES_MAX).find_map(|path| {
            let route = file::Route { path: format!("/p{path}"), ..file::Route::default() };
            let hub = file::default_routes().remove(0);
            let file = File { routes: vec![route, hub], ..File::default() };
            let mut next = Config::validate(&file, 20_000, 1).unwrap();
            let error = next.follow_routes(&now, &|_| true).err();
            now = next;
            error
        });
        let error = error.expect("every index is in use").to_string();
        assert!(error.contains("reload when they have closed"), "{error}");
    }

    proptest! {
        /// Connections open and close during reloads. Each keeps its path and handler, and a path's
        /// connections are counted under one number, which no other path has.
        #[test]
        fn a_connection_keeps_its_route(
            steps in prop::collection::vec(
                (prop::collection::btree_map(0..6_u8, any::<bool>(), 0..6), any::<u32>()), 1..40),
        ) {
            let handler = |echo: bool| if echo { HandlerName::Echo } else { HandlerName::Hub };
            let mut now = config(&[]);
            let mut open: Vec<(usize, String, HandlerName, u16)> = Vec::new();
            for (routes, random) in steps {
                let routes: Vec<_> = routes.into_iter().map(|(p, e)| (p, handler(e))).collect();
                let mut next = config(&routes);
                next.follow_routes(&now, &|index| open.iter().any(|one| one.0 == index)).unwrap();
                now = next;
                let mut counters = BTreeMap::new();
                for (index, path, handler, counter) in &open {
                    let (route, options) =
                        (&now.routes.as_slice()[*index], &now.route_options[*index]);
                    prop_assert_eq!(&route.path, path);
                    prop_assert_eq!(options.handler, *handler);
                    prop_assert_eq!(options.counter, *counter);
                    prop_assert_eq!(counters.entry(*counter).or_insert(path), &path);
                }
                for (path, wanted) in &routes {
                    let index = now.routes.find(&format!("/{path}")).expect("it was configured");
                    let options = &now.route_options[index];
                    prop_assert_eq!(options.handler, *wanted);
                    let counter = options.counter;
                    let path_text = format!("/{path}");
                    let mut same = open.iter().filter(|one| one.3 == counter);
                    prop_assert!(same.all(|one| one.1 == path_text));
                    if random >> path & 1 == 1 {
                        open.push((index, format!("/{path}"), *wanted, counter));
                    }
                }
                open.retain(|one| random >> (one.0 % 16 + 8) & 1 == 0);
                prop_assert!(now.routes.as_slice().len() < 120);
            }
        }
    }
}
