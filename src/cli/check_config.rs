//! `seawall check-config`: whether `serve` would accept a configuration, and what it changes.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::flags::{HiddenOverrides, SEE_SERVE};
use super::load::{Loaded, load};
use super::print::print_text;
use crate::config::file::SECTIONS;
use crate::config::file::table::Row;
use crate::config::reference;
use crate::guard;
use crate::text::terminal;

/// Exit codes: 0 `serve` would accept it; 1 it would not, and standard error says why.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Examples:\n\
    \x20 seawall check-config seawall.toml\n\
    \x20 seawall config --short | seawall check-config -\n\
    \x20 seawall check-config seawall.toml --listen :9001\n\n\
    {SEE_SERVE}"))]
pub(super) struct Arguments {
    #[arg(
        value_name = "FILE",
        help = "Configuration file (TOML), or - for standard input [env: SEAWALL_CONFIG]"
    )]
    file: Option<String>,
    /// The same file, given as a flag as for `serve`.
    #[arg(long = "config", value_name = "FILE", hide = true, conflicts_with = "file")]
    config: Option<String>,
    #[command(flatten)]
    overrides: HiddenOverrides,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let file = arguments.file.as_deref().or(arguments.config.as_deref());
    match load(file, &arguments.overrides.0) {
        Ok(loaded) => {
            let mut faults = loaded.config.check_folders();
            faults.extend(guard::check_identity(&loaded.config.process));
            if !faults.is_empty() {
                return super::print_failure(&loaded.written.locate(faults));
            }
            for line in loaded.config.warnings() {
                eprintln!("warning: {}", terminal::escape(&line));
            }
            print_text(&summarize(&loaded))
        }
        Err(error) => super::print_failure(&error),
    }
}

/// Lists the options that differ from the defaults, and where each was set.
fn summarize(loaded: &Loaded) -> String {
    let whole = toml::Value::try_from(&loaded.written.file).expect("it was read from TOML");
    let changed: Vec<[String; 3]> = loaded
        .written
        .sources
        .iter()
        .filter_map(|(key, source)| {
            let (row, value) = (find_row(key)?, find_value(&whole, key)?);
            let same = *value == (row.default)();
            (!same).then(|| [key.to_owned(), reference::shown(row, value), source.to_string()])
        })
        .collect();
    let name = &loaded.name;
    if changed.is_empty() {
        return format!("{name} is valid: all options have their defaults\n");
    }
    let width = |column: usize| changed.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (keys, values) = (width(0), width(1));
    let mut out = format!("{name} is valid; it differs from the defaults in:\n");
    for [key, value, source] in &changed {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {key:<keys$} = {value:<values$}  ({source})");
    }
    out
}

fn find_row(key: &str) -> Option<&'static Row> {
    let (section, option) = match key.split_once('.') {
        None => ("", key),
        Some((section, rest)) => (section, rest.rsplit('.').next()?),
    };
    SECTIONS.iter().find(|known| known.name == section)?.row(option)
}

fn find_value<'v>(whole: &'v toml::Value, key: &str) -> Option<&'v toml::Value> {
    key.split('.').try_fold(whole, |value, part| match part.parse::<usize>() {
        Ok(index) => value.get(index),
        Err(_) => value.get(part),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::File;

    #[test]
    fn every_option_is_found() {
        let file = File {
            listeners: vec![crate::config::file::Listener::default()],
            certificates: vec![crate::config::file::CertificateFiles::default()],
            routes: vec![crate::config::file::Route::default()],
            channels: vec![crate::config::file::Channel::default()],
            keys: vec![crate::config::file::Key::default()],
            api_keys: vec![crate::config::file::ApiKey::default()],
            backends: vec![crate::config::file::Backend::default()],
            apps: vec![crate::config::file::App::default()],
            ..File::default()
        };
        let whole = toml::Value::try_from(&file).unwrap();
        for section in &SECTIONS {
            for option in section.rows {
                let key = if section.repeated {
                    format!("{}.0.{}", section.name, option.key)
                } else {
                    section.path(option)
                };
                assert_eq!(find_value(&whole, &key), Some(&(option.default)()), "{key}");
                assert_eq!(find_row(&key).map(|row| row.key), Some(option.key));
            }
        }
    }
}
