//! One table of options: each row is a key with its type, default, meaning, and when to change it.
//!
//! A section is written once, with the macro `section!`. From it come the structure that a file
//! is read into, the flags, the names in the environment, what `seawall config` prints and the
//! README's reference, so that none of them can lag behind.

use super::secret::{Secret, Secrets};

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number up to `max`.
    Number { max: u64 },
    /// A string.
    Text,
    /// A list of strings.
    List,
    /// One of these words.
    Choice(&'static [&'static str]),
}

impl Kind {
    /// The kind in words, as in "must be …".
    pub fn expected(self) -> String {
        match self {
            Kind::Switch => "true or false".into(),
            Kind::Number { max } => format!("a whole number from 0 to {max}"),
            Kind::Text => "a string".into(),
            Kind::List => "a list of strings".into(),
            Kind::Choice(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                words.join(" or ")
            }
        }
    }
}

/// A type that an option may have.
pub trait OptionType {
    const KIND: Kind;
    /// Whether values are never shown.
    const SECRET: bool = false;
}

impl OptionType for bool {
    const KIND: Kind = Kind::Switch;
}
impl OptionType for u16 {
    const KIND: Kind = Kind::Number { max: u16::MAX as u64 };
}
impl OptionType for u32 {
    const KIND: Kind = Kind::Number { max: u32::MAX as u64 };
}
impl OptionType for u64 {
    // TOML's integers are signed.
    const KIND: Kind = Kind::Number { max: i64::MAX as u64 };
}
impl OptionType for String {
    const KIND: Kind = Kind::Text;
}
impl OptionType for Vec<String> {
    const KIND: Kind = Kind::List;
}
impl OptionType for Secret {
    const KIND: Kind = Kind::Text;
    const SECRET: bool = true;
}
impl OptionType for Secrets {
    const KIND: Kind = Kind::List;
    const SECRET: bool = true;
}

/// One option.
#[derive(Debug)]
pub struct Row {
    pub key: &'static str,
    pub kind: Kind,
    /// Whether its values are never shown.
    pub secret: bool,
    pub default: fn() -> toml::Value,
    /// What it is.
    pub meaning: &'static str,
    /// When to change it.
    pub change: &'static str,
}

impl Row {
    /// Whether its numbers are permission bits, written in octal.
    pub(crate) fn is_mode(&self) -> bool {
        self.key.ends_with("_mode")
    }

    /// What a number counts, told by its name; `None` where there is nothing to count.
    pub fn unit(&self) -> Option<&'static str> {
        if !matches!(self.kind, Kind::Number { .. }) {
            return None;
        }
        let named = [
            ("_bytes", "bytes"),
            ("_ms", "milliseconds"),
            ("_us", "microseconds"),
            ("_s", "seconds"),
            ("_mode", "permission bits"),
            ("_level", "effort"),
            ("_ratio", "times"),
            ("backlog", "connections"),
            ("history", "messages"),
            ("history_page", "messages"),
            ("presence_page", "members"),
            ("turn_fanout", "deliveries"),
            ("rate", "publishes a second"),
        ];
        let name = self.key.trim_end_matches("_max").trim_end_matches("_min");
        let unit = named.iter().find(|(suffix, _)| name.ends_with(suffix)).map(|(_, unit)| *unit);
        unit.or_else(|| name.rsplit('_').find(|word| word.ends_with('s')))
    }
}

/// Options that stand together.
#[derive(Debug)]
pub struct Section {
    /// Name of its table; empty for the top of the file.
    pub name: &'static str,
    /// May be there several times, as `[[name]]`.
    pub repeated: bool,
    /// Whether there is none of it by default: what is printed of it is commented out.
    pub absent: bool,
    pub about: &'static str,
    pub rows: &'static [Row],
}

impl Section {
    /// A row by its key.
    pub fn row(&self, key: &str) -> Option<&'static Row> {
        self.rows.iter().find(|row| row.key == key)
    }

    /// `section.key`.
    pub fn path(&self, row: &Row) -> String {
        if self.name.is_empty() { row.key.into() } else { format!("{}.{}", self.name, row.key) }
    }

    /// The flag of a row, without its dashes.
    pub fn flag(&self, row: &Row) -> String {
        self.path(row).replace(['.', '_'], "-")
    }

    /// The row's name in the environment.
    pub fn variable(&self, row: &Row) -> String {
        format!("SEAWALL_{}", self.path(row).replace('.', "_").to_uppercase())
    }
}

/// Defines a section: the structure, its defaults and its rows.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident $section:literal repeated $repeated:literal $(absent $absent:literal)?;
        $(
            $(#[doc = $doc:literal])+
            $field:ident: $type:ty = $default:expr, $change:literal;
        )+
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                #[doc = ""]
                #[doc = $change]
                pub $field: $type,
            )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $name {
            /// Its part of the table.
            pub const SECTION: $crate::config::file::table::Section =
                $crate::config::file::table::Section {
                    name: $section,
                    repeated: $repeated,
                    absent: false $(|| $absent)?,
                    about: concat!($($about),+),
                    rows: &[$($crate::config::file::table::Row {
                        key: $crate::config::file::table::key(stringify!($field)),
                        kind: <$type as $crate::config::file::table::OptionType>::KIND,
                        secret: <$type as $crate::config::file::table::OptionType>::SECRET,
                        default: || {
                            let value: $type = $default;
                            toml::Value::try_from(value).expect("every default is valid TOML")
                        },
                        meaning: concat!($($doc),+),
                        change: $change,
                    }),+],
                };
        }
    };
}
pub(super) use section;

/// A field's name as a key: some keys are words of the language.
pub(super) const fn key(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// Shorter names of the options that are given most, beside their full ones.
const SHORT: [(&str, &str); 4] = [
    ("listener.address", "listen"),
    ("admin.listen", "admin"),
    ("metrics.histogram_log", "histogram-log"),
    ("process.sandbox", "sandbox"),
];

/// The shorter flag of an option, if it has one.
pub fn short_flag(path: &str) -> Option<&'static str> {
    SHORT.iter().find(|(long, _)| *long == path).map(|(_, short)| *short)
}

/// The shorter name in the environment, if there is one.
pub fn short_variable(path: &str) -> Option<String> {
    short_flag(path).map(|flag| format!("SEAWALL_{}", flag.replace('-', "_").to_uppercase()))
}
