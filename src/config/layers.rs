//! Merges the four layers of a configuration: flags over environment over file over defaults.
//!
//! The source of each option is recorded, so that a later error can name the place to fix, and
//! `check-config` can report what differs from the defaults and why.
//!
//! For repeated sections (`[[listener]]`, `[[route]]` and others), a flag or variable with one
//! value applies to all entries; with several values, each applies to the entry with its index.
//! Addresses, paths and other names are always assigned by index, and their number determines the
//! number of entries.

use serde::Deserialize as _;

use super::file::table::{Kind, Row, Section, short_flag, short_variable};
use super::file::{File, Route, SECTIONS, default_routes};
use super::sources::{Source, Sources};
use super::{Config, ConfigError, credentials, error, read, secret_files, value};
use crate::auth::SigningKey;

/// The input of an operator.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The name and the text of a file.
    pub file: Option<(String, String)>,
    /// The process's environment; only `SEAWALL_…` is used.
    pub environment: Vec<(String, String)>,
    /// Flags without their dashes, each with its values.
    pub flags: Vec<(String, Vec<String>)>,
}

/// The merged layers.
#[derive(Clone, Debug)]
pub struct Written {
    pub file: File,
    pub sources: Sources,
}

/// The prefix of all variables.
const PREFIX: &str = "SEAWALL_";
/// Variables that are not options: the path of the file, and the key for commands that call a
/// server.
const OTHERS: [&str; 2] = ["SEAWALL_CONFIG", "SEAWALL_API_KEY"];

/// The words after `SEAWALL_` in variables that container images set about themselves; further
/// words may follow.
const IMAGE: [&str; 16] = [
    "ARCH", "BUILD", "CHECKSUM", "COMMIT", "DATE", "DIGEST", "DOWNLOAD", "GIT", "HOME", "IMAGE",
    "RELEASE", "REVISION", "SHA", "SHA256", "TAG", "VERSION",
];

/// Returns whether a container image sets this variable about itself.
fn is_of_image(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    IMAGE.contains(&rest.split('_').next().unwrap_or_default())
}

/// Returns whether Kubernetes sets this variable in each container next to a service with a name
/// that starts with "seawall": `…_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_NAME`; with an
/// address as value, `…_PORT` and `…_PORT_80_TCP`; and with a part of it, `…_PORT_80_TCP_ADDR`,
/// `_PORT` and `_PROTO`.
fn is_of_service(name: &str, value: &str) -> bool {
    let is_protocol = |word: &str| ["TCP", "UDP", "SCTP"].contains(&word);
    let is_number = |word: &str| word.parse::<u16>().is_ok();
    let words: Vec<&str> = name.split('_').collect();
    let words = &words[1..];
    let is_pair = |second: &str| words.windows(2).any(|pair| pair == ["SERVICE", second]);
    match words {
        _ if is_pair("PORT") => true,
        [.., "HOST"] => is_pair("HOST"),
        [.., "PORT"] if ["tcp:", "udp:", "sctp:"].iter().any(|at| value.starts_with(at)) => true,
        [.., "PORT", number, protocol, "ADDR" | "PORT" | "PROTO"]
        | [.., "PORT", number, protocol] => is_number(number) && is_protocol(protocol),
        _ => false,
    }
}

impl Written {
    /// Merges the layers.
    ///
    /// # Errors
    /// All errors in the layers, each with its place and remedy.
    pub fn new(given: &Given) -> Result<Self, ConfigError> {
        let (written, mistakes) = Self::read(given)?;
        if mistakes.is_empty() { Ok(written) } else { Err(error(mistakes.join("\n"))) }
    }

    /// Merges the layers and validates the result.
    ///
    /// # Errors
    /// All errors in the layers, and all errors of validation in the readable part.
    pub fn load(
        given: &Given,
        open_files: u64,
        cores: usize,
    ) -> Result<(Self, Config), ConfigError> {
        let (written, mistakes) = Self::read(given)?;
        match written.validate(open_files, cores) {
            Ok(config) if mistakes.is_empty() => Ok((written, config)),
            Ok(_) => Err(error(mistakes.join("\n"))),
            Err(fault) if mistakes.is_empty() => Err(fault),
            Err(fault) => Err(error(format!("{}\n{fault}", mistakes.join("\n")))),
        }
    }

    /// Merges the readable part of the layers; returns it with the errors in the rest.
    fn read(given: &Given) -> Result<(Self, Vec<String>), ConfigError> {
        let mut sources = Sources::default();
        let mut mistakes = Vec::new();
        let mut table = match &given.file {
            Some((name, text)) => read::read(name, text, &mut sources, &mut mistakes)?,
            None => toml::Table::new(),
        };
        mistakes.extend(unknown_variables(&given.environment));
        // Each override replaces the value of the layer below it, so the order is lowest first.
        for section in &SECTIONS {
            for row in section.rows {
                for (source, values) in overrides(given, section, row) {
                    let mut layer = Layer { table: &mut table, sources: &mut sources };
                    if let Err(wrong) = layer.set(section, row, &source, &values) {
                        mistakes.push(format!("{source}: {wrong}"));
                    }
                }
            }
        }
        let file = File::deserialize(table).map_err(|e| error(e.to_string()))?;
        Ok((Self { file, sources }, mistakes))
    }

    /// Runs [`Config::validate`], and adds the place of each option at fault.
    ///
    /// # Errors
    /// All errors of validation.
    pub fn validate(&self, open_files: u64, cores: usize) -> Result<Config, ConfigError> {
        Config::check(&self.file, open_files, cores).map_err(|faults| self.locate(faults))
    }

    /// Joins errors into one; each states the place where its option is set.
    pub fn locate(&self, faults: Vec<ConfigError>) -> ConfigError {
        let located = faults.into_iter().map(|fault| {
            let source = fault.key.as_ref().and_then(|key| self.sources.of(key));
            match source {
                Some(source) => ConfigError { text: format!("{source}: {}", fault.text), ..fault },
                None => fault,
            }
        });
        ConfigError::all(located.collect())
    }
}

impl Written {
    /// Returns the configured key that can sign tokens: the one with this id, or else the first of
    /// HS256.
    ///
    /// # Errors
    /// No such key is configured, or it cannot sign.
    pub fn signing_key(&self, id: Option<&str>) -> Result<SigningKey, ConfigError> {
        credentials::signing_key(&self.file, id)
    }
}

impl Written {
    /// Returns the secret of the first `[[api_key]]`, for commands that call the server.
    pub fn api_key(&self) -> Option<String> {
        let key = self.file.api_keys.first()?;
        secret_files::one(&key.secret, &key.secret_file).ok()
    }
}

/// Returns the values of an option in the layers above the file, lowest layer first.
fn overrides(given: &Given, section: &Section, row: &Row) -> Vec<(Source, Vec<String>)> {
    let path = section.path(row);
    let mut found = Vec::new();
    let names = [Some(section.variable(row)), short_variable(&path)];
    for name in names.into_iter().flatten() {
        if let Some((_, text)) = given.environment.iter().find(|(known, _)| *known == name) {
            let split = section.repeated && row.kind != Kind::List;
            let values = if split {
                text.split(',').map(|part| part.trim().to_owned()).collect()
            } else {
                vec![text.clone()]
            };
            found.push((Source::Variable(name), values));
        }
    }
    let flags = [Some(section.flag(row)), short_flag(&path).map(str::to_owned)];
    for flag in flags.into_iter().flatten() {
        if let Some((_, values)) = given.flags.iter().find(|(known, _)| *known == flag) {
            found.push((Source::Flag(flag), values.clone()));
        }
    }
    found
}

fn unknown_variables(environment: &[(String, String)]) -> Vec<String> {
    let options = SECTIONS.iter().flat_map(|section| {
        let names = |row| [Some(section.variable(row)), short_variable(&section.path(row))];
        section.rows.iter().flat_map(names).flatten()
    });
    let known: Vec<String> = options.collect();
    let is_foreign = |name: &str, value: &str| {
        OTHERS.contains(&name) || is_of_image(name) || is_of_service(name, value)
    };
    environment
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX) && !known.contains(name))
        .filter(|(name, value)| !is_foreign(name, value))
        .map(|(name, _)| {
            // Compare without the common prefix, which would make all names look similar.
            let own = name.trim_start_matches(PREFIX);
            let known = known.iter().map(|one| one.trim_start_matches(PREFIX));
            let nearest = value::nearest(own, known);
            let nearest = nearest.map_or("`seawall config` lists all".into(), |nearest| {
                format!("did you mean {PREFIX}{nearest}?")
            });
            format!("environment: unknown variable {name}; {nearest}")
        })
        .collect()
}

struct Layer<'l> {
    table: &'l mut toml::Table,
    sources: &'l mut Sources,
}

impl Layer<'_> {
    fn set(
        &mut self,
        section: &Section,
        row: &'static Row,
        source: &Source,
        values: &[String],
    ) -> Result<(), String> {
        if section.repeated {
            return self.set_repeated(section, row, source, values);
        }
        let text = if row.kind == Kind::List { values.join(",") } else { last(values) };
        let value = value::parse(row, &text)?;
        let table = if section.name.is_empty() {
            &mut *self.table
        } else {
            let entry = self.table.entry(section.name);
            let table = entry.or_insert_with(|| toml::Table::new().into()).as_table_mut();
            table.expect("the file was checked")
        };
        table.insert(row.key.to_owned(), value);
        self.sources.note(section, row, None, source.clone());
        Ok(())
    }

    fn set_repeated(
        &mut self,
        section: &Section,
        row: &'static Row,
        source: &Source,
        values: &[String],
    ) -> Result<(), String> {
        let entry = self.table.entry(section.name).or_insert_with(|| toml::Value::Array(vec![]));
        let tables = entry.as_array_mut().expect("the file was checked");
        // The first row of a section is the name of an entry (such as its address); the other rows
        // describe it.
        let names = row.key == section.rows[0].key;
        if tables.is_empty() {
            tables.extend(if names { vec![toml::Table::new().into()] } else { unwritten(section) });
        }
        if names {
            let template = tables.last().expect("there is one").clone();
            // Additional entries copy the last one of the file.
            tables.resize(values.len(), template);
        }
        let joined = [values.join(",")];
        let values = if row.kind == Kind::List { &joined } else { values };
        let count = tables.len();
        if values.len() != 1 && values.len() != count {
            return Err(format!(
                "{} values for {count} [[{}]] tables: give one for all of them, or one for each",
                values.len(),
                section.name
            ));
        }
        for (index, table) in tables.iter_mut().enumerate() {
            let text = if values.len() == 1 { &values[0] } else { &values[index] };
            let table = table.as_table_mut().expect("the file was checked");
            table.insert(row.key.to_owned(), value::parse(row, text)?);
            self.sources.note(section, row, Some(index), source.clone());
        }
        Ok(())
    }
}

/// Returns the entries of a section that is not in the file: the defaults.
fn unwritten(section: &Section) -> Vec<toml::Value> {
    if section.name == Route::SECTION.name {
        let routes = default_routes();
        let tables = routes.iter().map(|route| toml::Value::try_from(route).expect("plain values"));
        return tables.collect();
    }
    vec![toml::Table::new().into()]
}

fn last(values: &[String]) -> String {
    values.last().cloned().unwrap_or_default()
}
