//! Prints the table of options for users: as a TOML file that loads, and as the tables of
//! `OPTIONS.md`.

use std::fmt::Write as _;

use super::file::table::{ANY, Row, Section, short_flag, short_variable};
use super::file::{SECTIONS, table::Kind};

pub(crate) use super::value::shown;

/// The width of the printed file.
const COLUMNS: usize = 100;

/// A starter file: the options that are changed most often, with their defaults.
pub const SHORT: &str = r#"# A starter configuration: options with their defaults, and examples.
# `seawall config` prints every option; `seawall check-config FILE` checks a changed file.

[admin]
listen = "127.0.0.1:9100"             # metrics and API; other hosts need an [[api_key]]

[[listener]]
address = "127.0.0.1:9000"            # "0.0.0.0:9000": other hosts too; add a [[key]] first
# trusted_proxies = ["10.0.0.0/8"]    # proxies in front, and the header that names the client
# forwarded_header = "x-forwarded-for"

[[route]]
path = "/ws"
handler = "hub"
# origins = ["https://app.example"]   # pages that may connect; empty = pages of the same host

[[route]]
path = "/echo"
handler = "echo"

[[channel]]
pattern = "*"                         # or "chat:*"; the longest pattern that matches applies
subscribe = "anyone"                  # "authenticated", "token" or "server"
publish = "anyone"
history = 100                         # messages kept for clients that reconnect
history_ttl_s = 300

# [[key]]                             # clients then need a token: `seawall token --user ann`
# secret_file = "/etc/seawall/token.key"   # `openssl rand -base64 32`, readable by its owner only

# [[api_key]]                         # backends then send `Authorization: Bearer KEY`
# secret_file = "/etc/seawall/api.key"

# [process]
# user = "seawall"                    # after the start as root
# state_dir = "/var/lib/seawall"      # lets clients resume after a restart

[log]
format = "text"                       # or "json"
level = "info"
"#;

/// Returns a file that loads, with every option and its default.
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

/// Returns unit, range, flag and variable of a row in one line.
fn facts(section: &Section, row: &Row) -> String {
    let kind = match (row.kind, row.unit()) {
        (Kind::Number { .. }, Some(unit)) => format!("In {unit}, {}. ", range(row)),
        (Kind::Choice(_), _) => format!("One of {}. ", row.expected()),
        _ => String::new(),
    };
    let (flag, variable) = names(section, row);
    format!("{kind}{flag}, {variable}")
}

/// Returns the range of a number as text; empty if the option is not a number.
pub(crate) fn range(row: &Row) -> String {
    let (Some(range), Some(number)) = (row.range(), row.number) else { return String::new() };
    let end = |end: u64| shown(row, &toml::Value::Integer(end as i64));
    match number.max {
        ANY => format!("{} or more", end(*range.start())),
        _ => format!("{} to {}", end(*range.start()), end(*range.end())),
    }
}

/// Returns the flag and the variable of an option, in the short form if there is one.
fn names(section: &Section, row: &Row) -> (String, String) {
    let path = section.path(row);
    let flag = short_flag(&path).map_or_else(|| section.flag(row), str::to_owned);
    (format!("--{flag}"), short_variable(&path).unwrap_or_else(|| section.variable(row)))
}

/// Appends a comment, wrapped at the width of the file.
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

/// Returns what an option accepts, for its column: a range, or the words of a choice.
fn accepted(row: &Row) -> String {
    match row.kind {
        Kind::Switch => "`true`, `false`".to_owned(),
        Kind::Choice(words) => {
            words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
        }
        _ => range(row),
    }
}

/// Returns every option as Markdown tables, one per section.
pub fn markdown() -> String {
    let mut out = String::new();
    for section in &SECTIONS {
        let title = match (section.name, section.repeated) {
            ("", _) => "Top of the file".to_owned(),
            (name, false) => format!("`[{name}]`"),
            (name, true) => format!("`[[{name}]]`"),
        };
        let about = section.about.trim();
        let _ = write!(out, "## {title}\n\n{about}\n\n");
        out.push_str("| option | default | unit | range | meaning |\n");
        out.push_str("| --- | --- | --- | --- | --- |\n");
        for row in section.rows {
            let (key, default) = (row.key, shown(row, &(row.default)()));
            let (unit, accepted) = (row.unit().unwrap_or_default(), accepted(row));
            let (meaning, change) = (row.meaning.trim(), row.change);
            let _ = writeln!(
                out,
                "| `{key}` | `{default}` | {unit} | {accepted} | {meaning} *{change}* |"
            );
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out
}
