//! Checks the files and folders of a configuration, without changing anything.

use std::fs;
use std::path::Path;

use super::{Config, ConfigError, at, of_one, state};
use crate::driver::listener::Address;

impl Config {
    /// Returns an error for each folder that is missing, and for each file that a start could not
    /// use.
    pub fn check_folders(&self) -> Vec<ConfigError> {
        let mut found = Vec::new();
        let log = &self.metrics.histogram_log;
        if !log.is_empty()
            && let Err(text) = parent(Path::new(log))
        {
            found.push(at("metrics.histogram_log", format!("= \"{log}\": {text}")));
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            if let Address::Unix(path) = &listener.address
                && let Err(text) = parent(path)
            {
                let text = format!("listener unix:{}: {text}", path.display());
                found.push(of_one(format!("listener.{index}.address"), text));
            }
        }
        if let Some(Address::Unix(path)) = &self.admin
            && let Err(text) = parent(path)
        {
            found.push(at("admin.listen", format!("= \"unix:{}\": {text}", path.display())));
        }
        let state_dir = &self.process.state_dir;
        if !state_dir.is_empty() {
            found.extend(state::check(state_dir).err());
        }
        found
    }
}

/// Checks that the folder of a file exists.
fn parent(path: &Path) -> Result<(), String> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("{} is not a folder", folder.display())),
        Err(error) => Err(format!(
            "the folder {} cannot be used: {error}; create it first (systemd: RuntimeDirectory=, \
             LogsDirectory=)",
            folder.display()
        )),
    }
}
