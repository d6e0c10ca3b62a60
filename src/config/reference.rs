//! The table for people: as a TOML file that loads, and as the README's tables.

use std::fmt::Write as _;

use super::file::table::{Row, Section, short_flag, short_variable};
use super::file::{SECTIONS, table::Kind};

pub(crate) use super::value::shown;

/// Columns of the printed file.
const COLUMNS: usize = 100;

/// Every option with its default, as a file that loads.
pub fn toml() -> String {
    let mut out = format!(
        "# Seawall {}: every option, with its default.\n\
         # A flag wins over the environment, the environment over the file, the file over these\n\
         # defaults. Check a changed file with `seawall check-config FILE`.\n",
        env!("CARGO_PKG_VERSION")
    );
    for section in &SECTIONS {
        out.push('\n');
        let mark = if section.absent { "# " } else { "" };
        comment(&mut out, section.about.trim());
        if section.repeated {
            comment(
                &mut out,
                "May be there several times. A flag or variable changes all of them.",
            );
            let _ = writeln!(out, "{mark}[[{}]]", section.name);
        } else if !section.name.is_empty() {
            let _ = writeln!(out, "[{}]", section.name);
        }
        for row in section.rows {
            out.push('\n');
            comment(&mut out, row.meaning.trim());
            comment(&mut out, &format!("Change: {}", row.change));
            comment(&mut out, &facts(section, row));
            let _ = writeln!(out, "{mark}{} = {}", row.key, shown(row, &(row.default)()));
        }
    }
    out
}

/// Unit, flag and variable of a row in one line.
fn facts(section: &Section, row: &Row) -> String {
    let kind = match (row.kind, row.unit()) {
        (Kind::Number { .. }, Some(unit)) => format!("In {unit}. "),
        (Kind::Choice(_), _) => format!("One of {}. ", row.kind.expected()),
        _ => String::new(),
    };
    let (flag, variable) = names(section, row);
    format!("{kind}{flag}, {variable}")
}

/// The flag and the variable that people use.
fn names(section: &Section, row: &Row) -> (String, String) {
    let path = section.path(row);
    let flag = short_flag(&path).map_or_else(|| section.flag(row), str::to_owned);
    (format!("--{flag}"), short_variable(&path).unwrap_or_else(|| section.variable(row)))
}

/// Appends a comment, wrapped.
fn comment(out: &mut String, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        if column == 0 || column + 1 + word.chars().count() > COLUMNS {
            out.push_str(if column == 0 { "#" } else { "\n#" });
            column = 1;
        }
        out.push(' ');
        out.push_str(word);
        column += 1 + word.chars().count();
    }
    out.push('\n');
}

/// Every option as tables in Markdown, a section each.
pub fn markdown() -> String {
    let mut out = String::new();
    for section in &SECTIONS {
        let title = match (section.name, section.repeated) {
            ("", _) => "Top of the file".to_owned(),
            (name, false) => format!("`[{name}]`"),
            (name, true) => format!("`[[{name}]]`"),
        };
        let about = section.about.trim();
        let _ = write!(out, "**{title}** {about}\n\n| option | default | meaning |\n");
        out.push_str("| --- | --- | --- |\n");
        for row in section.rows {
            let unit = row.unit().map_or(String::new(), |unit| format!(" ({unit})"));
            let default = shown(row, &(row.default)());
            let (meaning, change) = (row.meaning.trim(), row.change);
            let _ = writeln!(out, "| `{}` | `{default}`{unit} | {meaning} *{change}* |", row.key);
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out
}
