//! Parses values as flags and variables contain them, and suggests what was probably meant.

use super::file::table::{Kind, Row};

/// Units that users write, with their factor to the base of their dimension: bytes or microseconds.
const UNITS: [(&str, &str, u64); 16] = [
    ("bytes", "bytes", 1),
    ("b", "bytes", 1),
    ("kb", "bytes", 1_000),
    ("k", "bytes", 1 << 10),
    ("kib", "bytes", 1 << 10),
    ("mb", "bytes", 1_000_000),
    ("m", "bytes", 1 << 20),
    ("mib", "bytes", 1 << 20),
    ("gb", "bytes", 1_000_000_000),
    ("g", "bytes", 1 << 30),
    ("gib", "bytes", 1 << 30),
    ("us", "time", 1),
    ("ms", "time", 1_000),
    ("s", "time", 1_000_000),
    ("sec", "time", 1_000_000),
    ("h", "time", 3_600_000_000),
];

/// Splits a key into its name without the unit, and the unit.
pub(super) fn unit_of(key: &str) -> (String, &'static str) {
    let bound = ["_max", "_min"].into_iter().find(|bound| key.ends_with(bound)).unwrap_or_default();
    let name = key.strip_suffix(bound).unwrap_or(key);
    let unit = |word: &str| UNITS.iter().find(|(unit, ..)| *unit == word).map(|(unit, ..)| *unit);
    match name.rsplit_once('_').and_then(|(stem, word)| Some((stem, unit(word)?))) {
        Some((stem, unit)) => (format!("{stem}{bound}"), unit),
        None => (key.to_owned(), ""),
    }
}

/// Converts a number to another unit of the same dimension, if the result is an integer.
pub(super) fn convert(number: u64, from: &str, to: &str) -> Option<u64> {
    let find = |name: &str| UNITS.iter().find(|(unit, ..)| *unit == name);
    let ((_, from_kind, from), (_, to_kind, to)) = (find(from)?, find(to)?);
    let base = number.checked_mul(*from)?;
    (from_kind == to_kind && base.is_multiple_of(*to)).then(|| base / to)
}

/// Suggests the number to write instead of a number with a unit, as in "16 MiB".
pub(super) fn number_with_unit(row: &Row, text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = number.replace('_', "").parse().ok()?;
    let own = unit_of(row.key).1;
    let converted = match unit.trim() {
        "" => number,
        unit => convert(number, unit, own)?,
    };
    let Kind::Number { max } = row.kind else { return None };
    if converted > max {
        return None;
    }
    let counted = row.unit().map_or(String::new(), |unit| format!(" of {unit}"));
    Some(format!("is a whole number{counted}: write {converted}"))
}

/// Returns the problem of a word that should be one of these, if it is not.
pub(super) fn not_a_choice(words: &[&str], text: &str) -> Option<String> {
    if words.contains(&text) {
        return None;
    }
    let nearest = nearest(text, words.iter().copied());
    let nearest = nearest.map_or(String::new(), |word| format!(" (did you mean \"{word}\"?)"));
    Some(format!("\"{text}\" is not known{nearest}"))
}

/// Returns the most similar word, if any is similar.
pub(super) fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    known
        .map(|other| (strsim::jaro_winkler(word, other), other))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|one, two| one.0.total_cmp(&two.0))
        .map(|(_, other)| other)
}

/// Parses a value of a flag or a variable.
///
/// # Errors
/// The expected form.
pub(super) fn parse(row: &Row, text: &str) -> Result<toml::Value, String> {
    let expected = || {
        let unit = row.unit().map_or(String::new(), |unit| format!(" ({unit})"));
        format!("must be {}{unit}, not `{text}`", row.expected())
    };
    match row.kind {
        Kind::Switch => text.parse().map(toml::Value::Boolean).map_err(|_| expected()),
        Kind::Number { max } => {
            let read = if row.is_mode() {
                octal(text.strip_prefix("0o").unwrap_or(text)).map(u64::from)
            } else {
                number(text)
            };
            match read {
                Some(number) if number <= max => Ok(toml::Value::Integer(number as i64)),
                _ if row.is_mode() => {
                    Err(format!("must be an octal mode such as 660, not `{text}`"))
                }
                _ => Err(number_with_unit(row, text).unwrap_or_else(expected)),
            }
        }
        Kind::Text => Ok(toml::Value::String(text.to_owned())),
        Kind::List => Ok(toml::Value::Array(list(text))),
        Kind::Choice(words) => match not_a_choice(words, text) {
            None => Ok(toml::Value::String(text.to_owned())),
            Some(wrong) => Err(format!("{wrong}; it must be {}", row.expected())),
        },
    }
}

/// Parses permission bits as `chmod` does: octal digits without a prefix.
pub(super) fn octal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    u32::from_str_radix(text, 8).ok().filter(|_| digits)
}

/// Parses a number in TOML's notation.
fn number(text: &str) -> Option<u64> {
    let plain = text.replace('_', "");
    let (digits, radix) = match plain.as_bytes() {
        [b'0', b'o', ..] => (&plain[2..], 8),
        [b'0', b'x', ..] => (&plain[2..], 16),
        _ => (plain.as_str(), 10),
    };
    u64::from_str_radix(digits, radix).ok()
}

/// Splits a text at commas; an empty text has no items.
pub(super) fn list(text: &str) -> Vec<toml::Value> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| toml::Value::String(item.to_owned())).collect()
}

/// Formats a value as in a file: large numbers in groups of three digits, permission bits as octal.
pub(crate) fn shown(row: &Row, value: &toml::Value) -> String {
    match value {
        toml::Value::Integer(mode) if row.is_mode() => format!("0o{mode:o}"),
        toml::Value::Integer(number) if *number >= 10_000 => {
            let digits = number.to_string();
            let groups: Vec<&str> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .map(|group| std::str::from_utf8(group).expect("digits are text"))
                .collect();
            groups.join("_")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::SECTIONS;

    #[test]
    fn a_key_gives_up_its_unit() {
        assert_eq!(unit_of("ping_interval_ms"), ("ping_interval".into(), "ms"));
        assert_eq!(unit_of("message_bytes_max"), ("message_max".into(), "bytes"));
        assert_eq!(unit_of("shards"), ("shards".into(), ""));
    }

    #[test]
    fn conversions_stay_whole_and_in_their_dimension() {
        assert_eq!(convert(30, "s", "ms"), Some(30_000));
        assert_eq!(convert(1500, "us", "ms"), None);
        assert_eq!(convert(1, "kib", "bytes"), Some(1024));
        assert_eq!(convert(1, "kib", "ms"), None);
        assert_eq!(convert(u64::MAX, "gib", "bytes"), None);
    }

    #[test]
    fn what_is_shown_is_read_again_as_the_same() {
        for section in &SECTIONS {
            for row in section.rows {
                let default = (row.default)();
                let text = format!("x = {}", shown(row, &default));
                let table: toml::Table = toml::from_str(&text).unwrap();
                assert_eq!(table["x"], default, "{text}");
            }
        }
    }
}
