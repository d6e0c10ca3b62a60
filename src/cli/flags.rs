//! Flags for all options, made from the option table.

use clap::{Arg, ArgAction, ArgMatches, Command, Error, FromArgMatches, parser::ValueSource};

use crate::config::file::SECTIONS;
use crate::config::file::table::{Kind, Row, Section, short_flag, short_variable};
use crate::config::reference;

/// Options from the command line: flag names without dashes, each with its values.
#[derive(Clone, Debug, Default)]
pub(super) struct Overrides(pub Vec<(String, Vec<String>)>);

fn flag_name(section: &Section, row: &Row) -> String {
    short_flag(&section.path(row)).map_or_else(|| section.flag(row), str::to_owned)
}

fn to_argument(section: &Section, row: &Row) -> Arg {
    let (name, full) = (flag_name(section, row), section.flag(row));
    let path = section.path(row);
    // Common options have a short name, and are the only ones in the short help.
    let common = name != full || section.name.is_empty();
    let variable = short_variable(&path).unwrap_or_else(|| section.variable(row));
    let default = match (row.default)() {
        toml::Value::String(text) if text.is_empty() => "none".to_owned(),
        default => reference::shown(row, &default),
    };
    let meaning = row.meaning.trim();
    let range = match reference::range(row) {
        range if range.is_empty() => range,
        range => format!(" [range: {range}]"),
    };
    let change = row.change;
    let long = format!("{meaning}\n\n{change} [default: {default}]{range} [env: {variable}]");
    let value_name = match (row.kind, row.unit()) {
        _ if path == "metrics.histogram_log" => "FILE".to_owned(),
        (Kind::Switch, _) => "true|false".to_owned(),
        (Kind::Choice(words), _) => words.join("|"),
        _ if name != full => "ADDR:PORT".to_owned(),
        (Kind::Number { .. }, Some(unit)) => unit.to_uppercase().replace(' ', "_"),
        (Kind::List, _) => "A,B".to_owned(),
        _ => row.key.to_uppercase(),
    };
    let heading = match (section.name, section.repeated) {
        (name, false) => format!("[{name}]"),
        (name, true) => format!("[[{name}]] (one value for all of them, or one for each)"),
    };
    let mut argument = Arg::new(name.clone())
        .long(name.clone())
        .value_name(value_name)
        .help(format!("{meaning} [default: {default}]"))
        .long_help(long)
        .hide_short_help(!common);
    if !common {
        argument = argument.help_heading(heading);
    }
    if name != full {
        argument = argument.visible_alias(full);
    }
    if section.repeated || row.kind == Kind::List {
        argument = argument.action(ArgAction::Append);
    }
    if row.kind == Kind::Switch {
        // `--flag` means `--flag=true`.
        argument = argument.num_args(0..=1).default_missing_value("true");
    }
    argument
}

/// The same flags, hidden from the help: for commands other than `serve`.
#[derive(Clone, Debug, Default)]
pub(super) struct HiddenOverrides(pub Overrides);

/// The last lines of the help of commands that take [`HiddenOverrides`].
pub(super) const SEE_SERVE: &str = "Options of `seawall serve` are accepted too, with the same \
                                    meaning: `seawall serve --help` lists them.";

impl clap::Args for HiddenOverrides {
    fn augment_args(command: Command) -> Command {
        let rows =
            SECTIONS.iter().flat_map(|section| section.rows.iter().map(move |r| (section, r)));
        command.args(rows.map(|(section, row)| to_argument(section, row).hide(true)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for HiddenOverrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Overrides::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl clap::Args for Overrides {
    fn augment_args(command: Command) -> Command {
        let rows =
            SECTIONS.iter().flat_map(|section| section.rows.iter().map(move |r| (section, r)));
        command.args(rows.map(|(section, row)| to_argument(section, row)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut given = Vec::new();
        for section in &SECTIONS {
            for row in section.rows {
                let name = flag_name(section, row);
                if matches.value_source(&name) == Some(ValueSource::CommandLine) {
                    let values = matches.get_many::<String>(&name).into_iter().flatten();
                    given.push((name.clone(), values.cloned().collect()));
                }
            }
        }
        Ok(Self(given))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
