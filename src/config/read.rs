//! Checks a file's text against the table of options: reports all errors, each with its line and
//! remedy.
//!
//! The deserializer would stop at the first error, and could suggest neither the nearest key nor
//! the unit. What passes this check deserializes.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::table::{Kind, Row, Section};
use super::file::{SECTIONS, TOP};
use super::sources::{Source, Sources};
use super::value::{self, unit_of};
use super::{ConfigError, error};

/// Reads `text`, the contents of the file `name`, and records the line of each option. Errors are
/// added to `mistakes`, ordered by line; wrong values are omitted from the table.
///
/// # Errors
/// The text is not TOML.
pub(super) fn read(
    name: &str,
    text: &str,
    sources: &mut Sources,
    mistakes: &mut Vec<String>,
) -> Result<toml::Table, ConfigError> {
    let whole = DeTable::parse(text).map_err(|e| error(unreadable(name, text, &e)))?;
    let mut reader =
        Reader { name, text, mistakes: Vec::new(), wrong: Vec::new(), modes: Vec::new(), sources };
    for (key, value) in whole.get_ref() {
        reader.top(key, value);
    }
    let Reader { mistakes: mut found, wrong, modes, .. } = reader;
    let mut table: toml::Table = toml::from_str(text).map_err(|e| error(format!("{name}: {e}")))?;
    for place in &wrong {
        if place.key.is_empty() {
            table.remove(&place.section);
        } else if let Some(section) = place.find(&mut table) {
            section.remove(&place.key);
        }
    }
    for (place, mode) in &modes {
        if let Some(section) = place.find(&mut table) {
            section.insert(place.key.clone(), toml::Value::Integer(i64::from(*mode)));
        }
    }
    found.sort();
    mistakes.extend(found.into_iter().map(|(_, text)| text));
    Ok(table)
}

/// The place of a value in the table; without a key: of a whole section.
struct Place {
    section: String,
    index: Option<usize>,
    key: String,
}

impl Place {
    fn new(section: &Section, index: Option<usize>, key: &str) -> Self {
        Self { section: section.name.to_owned(), index, key: key.to_owned() }
    }

    /// Returns the table that contains the key.
    fn find<'t>(&self, table: &'t mut toml::Table) -> Option<&'t mut toml::Table> {
        match (self.section.as_str(), self.index) {
            ("", _) => Some(table),
            (name, None) => table.get_mut(name)?.as_table_mut(),
            (name, Some(index)) => table.get_mut(name)?.get_mut(index)?.as_table_mut(),
        }
    }
}

/// Formats a TOML syntax error. The line is quoted only if it cannot contain a secret.
fn unreadable(name: &str, text: &str, fault: &toml::de::Error) -> String {
    let secret = |row: &&Row| row.secret && text.contains(row.key);
    let rows = SECTIONS.iter().flat_map(|section| section.rows);
    match fault.span() {
        Some(span) if rows.into_iter().any(|row| secret(&row)) => {
            format!("{name}: line {}: {}", line_of(text, span.start), fault.message())
        }
        _ => format!("{name}: {fault}"),
    }
}

struct Reader<'r> {
    name: &'r str,
    text: &'r str,
    mistakes: Vec<(usize, String)>,
    /// Wrong values, which are removed from the table.
    wrong: Vec<Place>,
    /// Permission bits written without the `0o` of octal numbers, and their values.
    modes: Vec<(Place, u32)>,
    sources: &'r mut Sources,
}

impl Reader<'_> {
    fn mistake(&mut self, at: usize, text: &str) {
        let line = line_of(self.text, at);
        self.mistakes.push((line, format!("{}: line {line}: {text}", self.name)));
    }

    fn top(&mut self, key: &Spanned<std::borrow::Cow<'_, str>>, value: &Spanned<DeValue<'_>>) {
        let (name, at) = (key.get_ref().as_ref(), key.span().start);
        if let Some(row) = TOP.row(name) {
            return self.option(&TOP, row, None, value);
        }
        let Some(section) = SECTIONS.iter().find(|s| !s.name.is_empty() && s.name == name) else {
            return self.unknown((&TOP, None), name, at, value.get_ref());
        };
        match (section.repeated, value.get_ref()) {
            (false, DeValue::Table(table)) => self.section(section, None, table),
            (true, DeValue::Array(tables)) if tables.iter().all(|t| t.get_ref().is_table()) => {
                for (index, table) in tables.iter().enumerate() {
                    if let DeValue::Table(table) = table.get_ref() {
                        self.section(section, Some(index), table);
                    }
                }
            }
            (true, _) => {
                let text = format!("`{name}` may be repeated: write [[{name}]] above its options");
                self.wrong.push(Place::new(section, None, ""));
                self.mistake(at, &text);
            }
            (false, _) => {
                self.wrong.push(Place::new(section, None, ""));
                let text =
                    format!("`{name}` is a single section: write [{name}] above its options");
                self.mistake(at, &text);
            }
        }
    }

    fn section(&mut self, section: &Section, index: Option<usize>, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match section.row(name) {
                Some(row) => self.option(section, row, index, value),
                None => self.unknown((section, index), name, key.span().start, value.get_ref()),
            }
        }
    }

    fn option(
        &mut self,
        section: &Section,
        row: &Row,
        index: Option<usize>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let at = value.span().start;
        match wrong(row, value.get_ref()) {
            Some(text) => {
                self.wrong.push(Place::new(section, index, row.key));
                self.mistake(at, &format!("{} {text}", section.path(row)));
            }
            None => {
                if let (true, DeValue::Integer(number)) = (row.is_mode(), value.get_ref())
                    && number.radix() == 10
                    && let Some(mode) = value::octal(number.as_str())
                {
                    self.modes.push((Place::new(section, index, row.key), mode));
                }
                let line = line_of(self.text, at);
                let source = Source::File { name: self.name.to_owned(), line };
                self.sources.note(section, row, index, source);
            }
        }
    }

    fn unknown(
        &mut self,
        (section, index): (&Section, Option<usize>),
        key: &str,
        at: usize,
        value: &DeValue<'_>,
    ) {
        self.wrong.push(Place::new(section, index, key));
        let place = if section.name.is_empty() {
            "at the top of the file".to_owned()
        } else {
            format!("in [{}]", section.name)
        };
        let remedy = suggest(section, key, value);
        self.mistake(at, &format!("unknown option `{key}` {place}; {remedy}"));
    }
}

/// Returns whether a value is a table, or an array of tables.
fn is_table(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Array(items) => items.iter().any(|item| item.get_ref().is_table()),
        value => value.is_table(),
    }
}

/// Returns a remedy for an unknown key: the option or section that was probably meant.
fn suggest(section: &Section, key: &str, value: &DeValue<'_>) -> String {
    let (stem, unit) = unit_of(key);
    if let Some(row) = section.rows.iter().find(|row| unit_of(row.key).0 == stem) {
        let counted = row.unit().map_or(String::new(), |unit| format!(", in {unit}"));
        let converted = integer(value)
            .and_then(|number| value::convert(number, unit, unit_of(row.key).1))
            .map_or(String::new(), |number| format!(": write {} = {number}", row.key));
        return format!("the option is {}{counted}{converted}", row.key);
    }
    let sections = SECTIONS.iter().map(|section| section.name).filter(|name| !name.is_empty());
    // A table is taken for a misspelled section, even if an option has exactly that name.
    if is_table(value)
        && let Some(nearest) = value::nearest(key, sections.clone())
    {
        return format!("did you mean `{nearest}`?");
    }
    let elsewhere = SECTIONS.iter().find(|other| other.row(key).is_some());
    if let Some(other) = elsewhere {
        return if other.name.is_empty() {
            format!("write `{key}` at the top of the file, before the first section")
        } else {
            format!("`{key}` belongs in [{}]", other.name)
        };
    }
    let known = section.rows.iter().map(|row| row.key);
    let nearest = if section.name.is_empty() {
        value::nearest(key, known.chain(sections))
    } else {
        value::nearest(key, known)
    };
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => "`seawall config` lists all options".to_owned(),
    }
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let DeValue::Integer(number) = value else { return None };
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Returns the problem of a value, if there is one.
fn wrong(row: &Row, value: &DeValue<'_>) -> Option<String> {
    let expected = || {
        let unit = row.unit().map_or(String::new(), |unit| format!(" ({unit})"));
        format!("must be {}{unit}", row.expected())
    };
    match (row.kind, value) {
        (Kind::Switch, DeValue::Boolean(_)) | (Kind::Text, DeValue::String(_)) => None,
        (Kind::Number { max }, DeValue::Integer(number)) => match integer(value) {
            Some(known) if known <= max => None,
            _ => Some(format!("= {} {}", number.as_str(), expected())),
        },
        (Kind::Number { .. }, DeValue::String(text)) => {
            Some(value::number_with_unit(row, text).unwrap_or_else(expected))
        }
        (Kind::List, DeValue::Array(items)) if items.iter().all(|item| item.get_ref().is_str()) => {
            None
        }
        (Kind::List, DeValue::String(_)) if row.secret => {
            Some(format!("{}: write [\"…\"]", expected()))
        }
        (Kind::List, DeValue::String(text)) => Some(format!("{}: write [\"{text}\"]", expected())),
        (Kind::Choice(words), DeValue::String(text)) => {
            value::not_a_choice(words, text).map(|wrong| format!("= {wrong}; it {}", expected()))
        }
        _ => Some(format!("{}, not {}", expected(), value.type_str())),
    }
}

/// Returns the line number (from 1) of a byte of the text.
fn line_of(text: &str, at: usize) -> usize {
    1 + memchr::memchr_iter(b'\n', &text.as_bytes()[..at.min(text.len())]).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> String {
        let mut mistakes = Vec::new();
        match read("seawall.toml", text, &mut Sources::default(), &mut mistakes) {
            Ok(_) => mistakes.join("\n"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_wrong_is_left_out_and_modes_are_octal() {
        let text = "shards = true\nx = 1\n[admin]\nmetrics_auth = true\ny = 2\n[[log]]\n\
                    [[listener]]\n[[listener]]\nbacklog = \"a\"\nunix_mode = 660\n";
        let mut mistakes = Vec::new();
        let table = read("f", text, &mut Sources::default(), &mut mistakes).unwrap();
        assert_eq!(mistakes.len(), 5, "{mistakes:?}");
        let expected =
            "[admin]\nmetrics_auth = true\n[[listener]]\n[[listener]]\nunix_mode = 0o660";
        assert_eq!(table, toml::from_str(expected).unwrap());
    }

    #[test]
    fn an_unknown_key_is_reported_with_its_line_and_the_nearest_one() {
        let text = mistakes("\n[limits]\nmesage_bytes_max = 1\n");
        assert!(text.contains("line 3") && text.contains("message_bytes_max`"), "{text}");
        assert!(mistakes("shrads = 1").contains("did you mean `shards`?"));
        assert!(mistakes("[[listen]]\n").contains("did you mean `listener`?"));
        assert!(mistakes("[limit]\n").contains("did you mean `limits`?"));
        assert!(mistakes("[log]\nzzzzzzzz = 1").contains("`seawall config`"));
    }

    #[test]
    fn a_key_in_the_wrong_section_is_reported_with_the_right_one() {
        assert!(mistakes("[log]\nbuffer_bytes = 1").contains("belongs in [engine]"));
        assert!(mistakes("[engine]\nshards = 1").contains("top of the file"));
    }

    #[test]
    fn another_unit_is_converted() {
        let text = mistakes("[[route]]\nping_interval_s = 30");
        assert!(text.contains("write ping_interval_ms = 30000"), "{text}");
        let text = mistakes("[timeouts]\nsend_timeout = 30");
        assert!(text.contains("send_timeout_ms, in milliseconds"), "{text}");
        let text = mistakes("[limits]\nmessage_kib_max = 64");
        assert!(text.contains("write message_bytes_max = 65536"), "{text}");
    }

    #[test]
    fn a_wrong_type_is_reported_with_the_right_one() {
        for (text, expected) in [
            ("shards = \"two\"", "shards must be a whole number from 0 to 1024 (shards)"),
            ("shards = 1.5", "whole number"),
            ("shards = -1", "= -1 must be a whole number"),
            ("[limits]\nheaders_max = 5_000_000_000", "from 1 to 100 (header lines)"),
            ("[limits]\nconnections_max = 5_000_000_000", "to 4294967295 (connections)"),
            ("[limits]\nmessage_bytes_max = \"16 MiB\"", "write 16777216"),
            ("[drain]\nwindow_ms = \"20s\"", "write 20000"),
            ("[engine]\npin = 1", "true or false"),
            ("[log]\nformat = \"yaml\"", "\"text\" or \"json\""),
            ("[log]\nlevel = 3", "must be a string, not integer"),
            ("[[route]]\norigins = \"*\"", "write [\"*\"]"),
            ("[[route]]\norigins = [1]", "list of strings"),
            ("[listener]\n", "write [[listener]]"),
            ("[[admin]]\n", "write [admin]"),
            ("admin = 3", "write [admin]"),
        ] {
            let reported = mistakes(text);
            assert!(reported.contains(expected), "`{text}`: {reported}");
        }
    }

    #[test]
    fn all_mistakes_are_reported_together_in_order() {
        let text = mistakes("shards = true\n[log]\nlevle = \"x\"\n[drain]\nwindow_ms = \"a\"\n");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        for (line, number) in lines.iter().zip([1, 3, 5]) {
            assert!(line.starts_with(&format!("seawall.toml: line {number}: ")), "{line}");
        }
    }

    #[test]
    fn invalid_toml_is_reported_with_its_line() {
        let text = mistakes("shards = 1\n[[listener\n");
        assert!(text.contains("line 2") && text.contains("[[listener"), "{text}");
    }

    #[test]
    fn no_mistake_shows_a_secret() {
        for text in [
            "[[key]]\nsecret = \"hunter2",
            "[[key]]\nsecret = hunter2\n",
            "[[key]]\nsecret = [\"hunter2\"]\n",
            "[resume]\nkeys = \"hunter2\"\n",
            "[resume]\nkeys = [\"hunter2\", 1]\n",
            "[resume]\nkeys = [hunter2]\n",
        ] {
            let reported = mistakes(text);
            assert!(reported.contains("line 2") && !reported.contains("hunter2"), "{reported}");
        }
    }
}
