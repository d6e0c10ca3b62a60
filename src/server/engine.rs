//! Chooses an engine for a configuration and this host, and makes it.

use std::fmt;
use std::time::Instant;

use crate::config::{Config, DriverChoice};
use crate::driver::epoll::{self, EpollFactory, EpollOptions};
use crate::driver::uring::{self, Features, UringError, UringFactory, UringOptions};

/// The engine that runs on this host, and why.
#[derive(Debug)]
pub enum EngineChoice {
    Uring {
        features: Features,
        reason: &'static str,
    },
    /// `denial`: why `io_uring` does not run, unless epoll was asked for.
    Epoll {
        denial: Option<UringError>,
    },
}

impl EngineChoice {
    /// Chooses the engine.
    ///
    /// # Errors
    /// With the reason and the remedies, if `io_uring` was asked for and cannot run here.
    pub fn make(choice: DriverChoice) -> Result<Self, EngineError> {
        match choice {
            DriverChoice::Epoll => Ok(Self::Epoll { denial: None }),
            DriverChoice::Uring => {
                let reason = "engine.driver = \"uring\"";
                let probed = uring::probe_features().map_err(EngineError);
                probed.map(|features| Self::Uring { features, reason })
            }
            DriverChoice::Auto => Ok(match uring::probe_features() {
                Ok(features) => Self::Uring { features, reason: "this host allows it" },
                Err(denial) => Self::Epoll { denial: Some(denial) },
            }),
        }
    }

    /// The engine's name for operators.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Uring { .. } => uring::NAME,
            Self::Epoll { .. } => epoll::NAME,
        }
    }

    /// Why this one, for operators.
    pub fn reason(&self) -> String {
        match self {
            Self::Uring { reason, .. } => (*reason).to_owned(),
            Self::Epoll { denial: None } => "engine.driver = \"epoll\"".to_owned(),
            Self::Epoll { denial: Some(denial) } => denial.to_string(),
        }
    }

    /// Fits a configuration to the engine: with epoll the limit of open files bounds the
    /// connections of all shards together. Returns a warning if that lowers a limit.
    pub fn fit(&self, config: &mut Config, open_files: u64) -> Option<String> {
        match self {
            Self::Uring { .. } => None,
            Self::Epoll { .. } => config.share_open_files(open_files),
        }
    }
}

/// `io_uring` was asked for, and cannot run here.
#[derive(Debug)]
pub struct EngineError(UringError);

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. Or run on epoll: engine.driver = \"auto\" (--driver auto)", self.0)
    }
}

impl std::error::Error for EngineError {}

impl EngineError {
    /// The remedy that lets `io_uring` run.
    pub fn remedy(&self) -> &str {
        self.0.remedy()
    }
}

/// The engine of a server.
pub enum Engine {
    Uring(UringFactory),
    Epoll(EpollFactory),
}

impl Engine {
    /// Makes the chosen engine. `warnings` are shown to operators before the engine's own.
    pub fn new(choice: &EngineChoice, config: &Config, mut warnings: Vec<String>) -> Self {
        match choice {
            EngineChoice::Uring { features, .. } => {
                Self::Uring(uring_factory(config, *features, choice.reason()))
            }
            EngineChoice::Epoll { denial } => {
                warnings.extend(denial.as_ref().map(|denial| {
                    format!("running on epoll, which takes more system calls: {denial}")
                }));
                warnings.extend(unused_options(config));
                let options = EpollOptions {
                    sockets_max: config.sockets_per_shard(),
                    buffer_bytes: config.engine.buffer_bytes,
                    epoch: Instant::now(),
                };
                let shards = usize::from(config.shards);
                Self::Epoll(EpollFactory::new(options, shards, choice.reason(), warnings))
            }
        }
    }
}

fn uring_factory(config: &Config, features: Features, reason: String) -> UringFactory {
    let engine = &config.engine;
    let options = UringOptions {
        ring_entries: engine.ring_entries,
        completion_entries: config.completion_entries(),
        sockets_max: config.sockets_per_shard(),
        buffers: config.buffers_per_shard(),
        buffer_bytes: engine.buffer_bytes,
        min_wait_us: engine.min_wait_us,
        min_wait_completions: engine.min_wait_completions,
        features,
        epoch: Instant::now(),
    };
    UringFactory::new(options, usize::from(config.shards), reason)
}

/// Options of rings that differ from their defaults, and have no effect on epoll.
fn unused_options(config: &Config) -> Option<String> {
    let (given, default) = (&config.engine, crate::config::Engine::default());
    let unused: Vec<&str> = [
        ("ring_entries", given.ring_entries != default.ring_entries),
        ("completion_entries", given.completion_entries != default.completion_entries),
        ("buffer_memory_bytes", given.buffer_memory_bytes != default.buffer_memory_bytes),
        ("min_wait_us", given.min_wait_us != default.min_wait_us),
        ("min_wait_completions", given.min_wait_completions != default.min_wait_completions),
        ("park_after_ms", given.park_after_ms != default.park_after_ms),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect();
    let list = unused.join(", ");
    (!unused.is_empty()).then(|| {
        format!("these options of [engine] are for io_uring, and have no effect on epoll: {list}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::{self, File};
    use crate::driver::DriverFactory as _;

    fn config(engine: file::Engine) -> Config {
        let file = File { shards: 2, engine, ..File::default() };
        Config::validate(&file, 4096, 2).unwrap()
    }

    #[test]
    fn what_is_asked_for_runs_or_fails() {
        let name = |choice| EngineChoice::make(choice).map(|choice| choice.name());
        assert_eq!(name(DriverChoice::Epoll).unwrap(), epoll::NAME);
        // These tests need io_uring.
        assert_eq!(name(DriverChoice::Uring).unwrap(), uring::NAME);
        assert_eq!(name(DriverChoice::Auto).unwrap(), uring::NAME);
    }

    #[test]
    fn epoll_reports_why_it_runs_and_what_has_no_effect() {
        let denial = UringError::new("refused", "Allow it");
        let choice = EngineChoice::Epoll { denial: Some(denial) };
        let config = config(file::Engine { min_wait_us: 50, ..file::Engine::default() });
        let Engine::Epoll(factory) = Engine::new(&choice, &config, vec!["one".to_owned()]) else {
            panic!("another engine was made");
        };
        let facts = factory.facts();
        assert_eq!(facts.reason, "io_uring: refused. Allow it");
        let [one, denial, unused] = &facts.warnings[..] else { panic!("{:?}", facts.warnings) };
        assert_eq!(one, "one");
        assert!(denial.ends_with(&facts.reason) && unused.ends_with(": min_wait_us"), "{unused}");
    }

    #[test]
    fn epoll_shares_the_limit_of_open_files_among_shards() {
        let mut config = config(file::Engine::default());
        let before = config.limits.connections_per_shard_max;
        let uring = EngineChoice::make(DriverChoice::Uring).unwrap();
        assert_eq!(uring.fit(&mut config, 4096), None);
        let epoll = EngineChoice::make(DriverChoice::Epoll).unwrap();
        let warning = epoll.fit(&mut config, 4096).unwrap();
        let after = config.limits.connections_per_shard_max;
        assert!(after < before / 2 && after > before / 3, "{before}, then {after}");
        assert!(warning.contains(&after.to_string()) && warning.contains("LimitNOFILE"));
        assert_eq!(epoll.fit(&mut config, 4096), None, "it fits by now");
    }
}
