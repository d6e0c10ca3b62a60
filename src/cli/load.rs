//! Loads the configuration from its layers: file, environment, flags.

use std::io::Read as _;

use super::flags::Overrides;
use crate::config::{Config, ConfigError, Given, Written};
use crate::driver::host;

/// The variable that names the file if no flag does.
pub(super) const FILE_VARIABLE: &str = "SEAWALL_CONFIG";

/// A loaded configuration, and where it comes from.
pub(super) struct Loaded {
    pub name: String,
    /// Path of the file, if there is one.
    pub path: Option<String>,
    pub written: Written,
    pub config: Config,
    pub open_files: u64,
}

/// Reads and validates the configuration. `file` is a path, or `-` for standard input.
///
/// # Errors
/// Every error with its place and its remedy.
pub(super) fn load(file: Option<&str>, overrides: &Overrides) -> Result<Loaded, ConfigError> {
    let (path, given) = read_layers(file, overrides)?;
    let open_files = host::raise_open_files();
    let (written, config) = Written::load(&given, open_files, host::cores().len())?;
    let name = path.as_deref().map_or("the configuration", source_name).to_owned();
    Ok(Loaded { name, path, written, config, open_files })
}

/// Reads the layers again, for a reload.
///
/// # Errors
/// As [`load`]; and standard input cannot be read twice.
pub(super) fn read_again(file: Option<&str>, overrides: &Overrides) -> Result<Given, ConfigError> {
    if file == Some("-") {
        let text = "cannot read standard input again; to be able to reload, give a file with \
                    --config";
        return Err(ConfigError { key: None, text: text.to_owned() });
    }
    read_layers(file, overrides).map(|(_, given)| given)
}

/// Reads the layers; returns the file's path and their text.
fn read_layers(
    file: Option<&str>,
    overrides: &Overrides,
) -> Result<(Option<String>, Given), ConfigError> {
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let variable = environment.iter().find(|(name, _)| name == FILE_VARIABLE);
    let path = file.or(variable.map(|(_, path)| path.as_str())).filter(|path| !path.is_empty());
    let text = path
        .map(|path| read_file(path).map(|text| (source_name(path).to_owned(), text)))
        .transpose()?;
    let path = path.map(str::to_owned);
    let given = Given { file: text, environment, flags: overrides.0.clone() };
    Ok((path, given))
}

fn source_name(path: &str) -> &str {
    if path == "-" { "standard input" } else { path }
}

fn read_file(path: &str) -> Result<String, ConfigError> {
    let text = if path == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    text.map_err(|error| {
        let hint = if error.kind() == std::io::ErrorKind::NotFound {
            "; `seawall config --short` prints a file to start from"
        } else {
            ""
        };
        ConfigError { key: None, text: format!("cannot read {}: {error}{hint}", source_name(path)) }
    })
}
