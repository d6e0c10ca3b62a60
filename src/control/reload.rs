//! SIGHUP: the configuration is read again, and what can change while connections are open does.
//!
//! A configuration with a mistake is refused whole, with the reason, and the old one stays.

use crate::auth::Fetcher;
use crate::config::file::File;
use crate::config::{Config, ConfigError, Renewed, Written};
use crate::server::Server;

/// How the configuration is read, and what was read last.
pub(crate) struct Reloader {
    /// Reads file, environment and flags anew.
    pub(crate) read: Box<dyn Fn() -> Result<Written, ConfigError>>,
    /// Changes how much is logged.
    pub(crate) set_level: Box<dyn Fn(&str)>,
    /// What is in force.
    pub(crate) file: File,
    pub(crate) open_files: u64,
    pub(crate) cores: usize,
    /// Keeps the keys of tokens fresh.
    pub(crate) fetcher: Option<Fetcher>,
}

impl Reloader {
    /// Reads again and goes on by it; says how that went.
    pub(super) async fn reload(&mut self, server: &Server) {
        match self.renew(server).await {
            Ok(waiting) if waiting.is_empty() => tracing::info!("the configuration is reloaded"),
            Ok(waiting) => tracing::warn!(
                waiting = waiting.join(", "),
                "the configuration is reloaded, but for what takes a restart"
            ),
            Err(error) => {
                let process = &server.config().process;
                let guarded = process.sandbox || !process.user.is_empty();
                let hint = if guarded {
                    ", or restart: a process with a user or sandbox of its own cannot read all \
                     that a start can"
                } else {
                    ""
                };
                tracing::error!(
                    %error,
                    "the configuration is refused, the old one stays in force; check it with \
                     `seawall check-config`{hint}"
                );
            }
        }
    }

    async fn renew(
        &mut self,
        server: &Server,
    ) -> Result<Vec<&'static str>, Box<dyn std::error::Error>> {
        let written = (self.read)()?;
        let old = server.config();
        let directory = server.directory();
        // A shard that still runs on an earlier configuration may be about to upgrade a connection
        // on a route that the present one has retired.
        let settled = directory.all_run_on(old.epoch);
        let is_in_use = |route| !settled || directory.admission().has_connections(route);
        let host = (self.open_files, self.cores);
        let Renewed { file, config, waiting } =
            written.renew((&self.file, &old), host, &is_in_use)?;
        for line in &config.auth.skipped_keys {
            tracing::warn!("auth.jwks_file: {line}");
        }
        // The new keys are there before the first token that needs them.
        let fetcher = fetch_keys(&config).await?;
        (self.set_level)(&config.log_level);
        server.renew(config);
        self.file = file;
        self.fetcher = fetcher;
        Ok(waiting)
    }
}

async fn fetch_keys(config: &Config) -> std::io::Result<Option<Fetcher>> {
    let Some(source) = config.auth.jwks.clone() else { return Ok(None) };
    let verifier = config.auth.verifier.clone();
    let started = tokio::task::spawn_blocking(move || Fetcher::start(&verifier, source)).await;
    started.map_err(std::io::Error::other)?.map(Some)
}
