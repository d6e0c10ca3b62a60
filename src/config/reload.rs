//! The same server with another configuration: what is taken over while it runs, and what waits
//! for the next start.
//!
//! Connections stay: a route keeps its index, by which they know it, and one that is gone keeps its
//! options for those that are open.

use super::file::File;
use super::{Config, ConfigError, Written, at};
use crate::admission::ROUTES_MAX;
use crate::config::HandlerName;
use crate::proto::http::{Route, Routes};

/// What a reload leads to.
#[derive(Debug)]
pub struct Renewed {
    /// What was written, with the old values of what waits.
    pub file: File,
    pub config: Config,
    /// Options that differ but take a restart.
    pub waiting: Vec<&'static str>,
}

/// Keeps an old value, and notes that a new one waits.
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

/// Puts back what only a start can change.
fn hold_back(old: &File, new: &mut File) -> Vec<&'static str> {
    let waiting = &mut Vec::new();
    keep("shards", &old.shards, &mut new.shards, waiting);
    keep("admin.listen", &old.admin.listen, &mut new.admin.listen, waiting);
    keep("[[listener]]", &old.listeners, &mut new.listeners, waiting);
    keep("[engine]", &old.engine, &mut new.engine, waiting);
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

impl Written {
    /// Checks a new configuration and fits it to the one in force.
    ///
    /// # Errors
    /// As at a start; then nothing changes.
    pub fn renew(
        mut self,
        old: (&File, &Config),
        open_files: u64,
        cores: usize,
    ) -> Result<Renewed, ConfigError> {
        let (old_file, old) = old;
        // Mistakes count wherever they are, also in what waits.
        self.validate(open_files, cores)?;
        let waiting = hold_back(old_file, &mut self.file);
        let mut config = self.validate(open_files, cores)?;
        config.follow_routes(old)?;
        if config.resume.is_random && old.resume.is_random {
            // Tickets that are out stay good.
            config.resume.sealer = old.resume.sealer.clone();
        }
        Ok(Renewed { file: self.file, config, waiting })
    }
}

impl Config {
    /// Whether any route leads to channels.
    pub fn has_hub(&self) -> bool {
        self.route_options.iter().any(|route| route.handler == HandlerName::Hub)
    }

    /// Gives routes that were there before their old index.
    fn follow_routes(&mut self, old: &Self) -> Result<(), ConfigError> {
        if self.has_hub() && !old.has_hub() {
            let text = "leads to the hub, which no route did at the start: restart the server";
            return Err(at("route.handler", text));
        }
        let routes = self.routes.as_slice().iter().zip(&self.route_options);
        let mut new: Vec<Option<_>> =
            routes.map(|(route, own)| Some((route.clone(), *own))).collect();
        let mut table = Vec::new();
        let mut options = old.route_options.clone();
        for (index, route) in old.routes.as_slice().iter().enumerate() {
            let is_same = |one: &Route| one.path == route.path && one.prefix == route.prefix;
            let found =
                new.iter_mut().find(|one| one.as_ref().is_some_and(|(one, _)| is_same(one)));
            match found.and_then(Option::take) {
                Some((route, own)) => {
                    table.push(route);
                    options[index] = own;
                }
                None => table.push(route.clone().retire()),
            }
        }
        for (route, own) in new.into_iter().flatten() {
            table.push(route);
            options.push(own);
        }
        if table.len() > ROUTES_MAX {
            let text = format!("has had {} different ones since the start: restart", table.len());
            return Err(at("route", text));
        }
        self.routes = Routes::new(table);
        self.route_options = options;
        Ok(())
    }
}
