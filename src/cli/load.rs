//! The configuration that an operator gave: file, environment, flags.

use std::io::Read as _;

use super::flags::Overrides;
use crate::config::{Config, ConfigError, Given, Written};
use crate::driver::host;

/// The variable that names the file where no flag does.
pub(super) const FILE_VARIABLE: &str = "SEAWALL_CONFIG";

/// What to say of where a configuration comes from, and the configuration.
pub(super) struct Loaded {
    pub name: String,
    /// The file, where there is one.
    pub path: Option<String>,
    pub written: Written,
    pub config: Config,
    pub open_files: u64,
}

/// Reads and checks. `file` is a path, or `-` for standard input.
///
/// # Errors
/// Every mistake with its place and its cure.
pub(super) fn load(file: Option<&str>, overrides: &Overrides) -> Result<Loaded, ConfigError> {
    let (path, given) = layers(file, overrides)?;
    let open_files = host::raise_open_files();
    let (written, config) = Written::load(&given, open_files, host::cores().len())?;
    let name = path.as_deref().map_or("the configuration", shown_str).to_owned();
    Ok(Loaded { name, path, written, config, open_files })
}

/// Reads again what a running server was started with.
///
/// # Errors
/// As [`load`]; and standard input cannot be read twice.
pub(super) fn read_anew(file: Option<&str>, overrides: &Overrides) -> Result<Given, ConfigError> {
    if file == Some("-") {
        let text = "the configuration came from standard input, which cannot be read again: give \
                    a file with --config to be able to reload";
        return Err(ConfigError { key: None, text: text.to_owned() });
    }
    layers(file, overrides).map(|(_, given)| given)
}

/// The configuration's file, and what was given.
fn layers(
    file: Option<&str>,
    overrides: &Overrides,
) -> Result<(Option<String>, Given), ConfigError> {
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let variable = environment.iter().find(|(name, _)| name == FILE_VARIABLE);
    let path = file.or(variable.map(|(_, path)| path.as_str())).filter(|path| !path.is_empty());
    let text = path.map(|path| read(path).map(|text| (shown(path), text))).transpose()?;
    let path = path.map(str::to_owned);
    let given = Given { file: text, environment, flags: overrides.0.clone() };
    Ok((path, given))
}

fn shown_str(path: &str) -> &str {
    if path == "-" { "standard input" } else { path }
}

fn shown(path: &str) -> String {
    shown_str(path).to_owned()
}

fn read(path: &str) -> Result<String, ConfigError> {
    let text = if path == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    text.map_err(|error| ConfigError {
        key: None,
        text: format!("cannot read {}: {error}", shown_str(path)),
    })
}
