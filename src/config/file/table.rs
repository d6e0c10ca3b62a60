//! The option table: each row is a key with its type, default, unit, range, meaning, and when to
//! change it.
//!
//! The macro `section!` defines a section once. It generates the structure that a file is
//! deserialized into, the flags, the environment variables, the range checks, the output of
//! `seawall config` and the reference in `OPTIONS.md`, so they cannot drift apart.

use std::ops::RangeInclusive;

use super::secret::{Secret, Secrets};

/// The type of an option's values.
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

/// Unit and range of an option that is a number.
#[derive(Clone, Copy, Debug)]
pub struct NumberColumns {
    pub unit: &'static str,
    /// The smallest value that validation accepts.
    pub min: u64,
    /// The largest one; [`ANY`] where only the type limits it.
    pub max: u64,
    /// Why values below `min` are rejected; empty where that is obvious.
    pub reason: &'static str,
}

/// Upper end of a range that only the type of the number limits.
pub const ANY: u64 = u64::MAX;

/// Unit of permission bits, which are written in octal.
pub(super) const PERMISSION_BITS: &str = "permission bits";

/// A type of option values.
pub trait OptionType {
    const KIND: Kind;
    /// Whether values are secret, and so never printed.
    const SECRET: bool = false;

    /// Returns the value if it is a number.
    fn as_number(&self) -> Option<u64> {
        None
    }
}

impl OptionType for bool {
    const KIND: Kind = Kind::Switch;
}
impl OptionType for u16 {
    const KIND: Kind = Kind::Number { max: u16::MAX as u64 };

    fn as_number(&self) -> Option<u64> {
        Some((*self).into())
    }
}
impl OptionType for u32 {
    const KIND: Kind = Kind::Number { max: u32::MAX as u64 };

    fn as_number(&self) -> Option<u64> {
        Some((*self).into())
    }
}
impl OptionType for u64 {
    // TOML's integers are signed.
    const KIND: Kind = Kind::Number { max: i64::MAX as u64 };

    fn as_number(&self) -> Option<u64> {
        Some(*self)
    }
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
    /// Whether its values are secret, and so never printed.
    pub secret: bool,
    pub default: fn() -> toml::Value,
    /// Unit and range; `None` if values are not numbers.
    pub number: Option<NumberColumns>,
    /// What the option does.
    pub meaning: &'static str,
    /// When to change the option.
    pub change: &'static str,
}

impl Row {
    /// Returns whether values are permission bits, which are written in octal.
    pub fn is_mode(&self) -> bool {
        self.unit() == Some(PERMISSION_BITS)
    }

    /// Returns the unit of values; `None` if they are not numbers.
    pub fn unit(&self) -> Option<&'static str> {
        self.number.map(|number| number.unit)
    }

    /// Returns the range of numbers that validation accepts.
    pub fn range(&self) -> Option<RangeInclusive<u64>> {
        let (Kind::Number { max }, Some(number)) = (self.kind, self.number) else { return None };
        Some(number.min..=number.max.min(max))
    }

    /// Describes valid values, to follow "must be".
    pub fn expected(&self) -> String {
        match self.kind {
            Kind::Switch => "true or false".into(),
            Kind::Number { max } => {
                let range = self.range().unwrap_or(0..=max);
                format!("a whole number from {} to {}", range.start(), range.end())
            }
            Kind::Text => "a string".into(),
            Kind::List => "a list of strings".into(),
            Kind::Choice(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                words.join(" or ")
            }
        }
    }

    /// Returns the error text of a number outside the range, to follow the option's name.
    pub fn range_error(&self, value: u64) -> Option<String> {
        let (range, number) = (self.range()?, self.number?);
        let (min, max) = (*range.start(), *range.end());
        if range.contains(&value) {
            return None;
        }
        if self.is_mode() {
            return Some(format!(
                "= 0o{value:o}: must be permission bits from 0o{min:03o} to 0o{max:o}, as in 0o660"
            ));
        }
        let is_low = value < min;
        let mut text = match (number.max, min) {
            (ANY, 1) if is_low => "must not be 0".to_owned(),
            (_, 1) if is_low && !number.reason.is_empty() => "must not be 0".to_owned(),
            (ANY, _) if is_low => format!("must be at least {min}, not {value}"),
            _ => format!("must be between {min} and {max}, not {value}"),
        };
        if is_low && !number.reason.is_empty() {
            text.push_str(": ");
            text.push_str(number.reason);
        }
        Some(text)
    }
}

/// A configured number, and the row of its option.
pub type Number = (&'static Row, u64);

/// A section of the configuration: a table of options.
#[derive(Debug)]
pub struct Section {
    /// The table's name; empty for the top level of the file.
    pub name: &'static str,
    /// Whether it may occur several times, as `[[name]]`.
    pub repeated: bool,
    /// Whether it is absent by default; it is then printed commented out.
    pub absent: bool,
    pub about: &'static str,
    pub rows: &'static [Row],
}

impl Section {
    /// Finds a row by its key.
    pub fn row(&self, key: &str) -> Option<&'static Row> {
        self.rows.iter().find(|row| row.key == key)
    }

    /// Returns the row's full name, `section.key`.
    pub fn path(&self, row: &Row) -> String {
        if self.name.is_empty() { row.key.into() } else { format!("{}.{}", self.name, row.key) }
    }

    /// Returns the row's flag, without the leading dashes.
    pub fn flag(&self, row: &Row) -> String {
        self.path(row).replace(['.', '_'], "-")
    }

    /// Returns the row's environment variable.
    pub fn variable(&self, row: &Row) -> String {
        format!("SEAWALL_{}", self.path(row).replace('.', "_").to_uppercase())
    }
}

/// Defines a section: the structure, its defaults and its rows. The unit and range of a number
/// follow its default.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident $section:literal repeated $repeated:literal $(absent $absent:literal)?;
        $(
            $(#[doc = $doc:literal])+
            $field:ident: $type:ty = $default:expr
                $(=> $unit:literal in $min:literal..=$max:expr $(, because $reason:literal)?)?,
            $change:literal;
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
            /// The section's part of the option table.
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
                        number: [$($crate::config::file::table::NumberColumns {
                            unit: $unit,
                            min: $min,
                            max: $max,
                            reason: concat!("" $(, $reason)?),
                        })?].first().copied(),
                        meaning: concat!($($doc),+),
                        change: $change,
                    }),+],
                };

            /// Iterates over the options that are numbers, each with its row.
            pub fn numbers(
                &self,
            ) -> impl Iterator<Item = $crate::config::file::table::Number> + use<> {
                use $crate::config::file::table::OptionType;
                let values = [$(OptionType::as_number(&self.$field)),+];
                let rows = Self::SECTION.rows.iter();
                rows.zip(values).filter_map(|(row, value)| Some((row, value?)))
            }
        }
    };
}
pub(super) use section;

/// Returns the key of a field: the name of a field whose key is a Rust keyword starts with `r#`.
pub(super) const fn key(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// Short names of common options, in addition to their full names.
const SHORT: [(&str, &str); 6] = [
    ("listener.address", "listen"),
    ("admin.listen", "admin"),
    ("metrics.histogram_log", "histogram-log"),
    ("process.sandbox", "sandbox"),
    ("engine.driver", "driver"),
    ("tls.dev", "dev-tls"),
];

/// Returns the option's short flag, if it has one.
pub fn short_flag(path: &str) -> Option<&'static str> {
    SHORT.iter().find(|(long, _)| *long == path).map(|(_, short)| *short)
}

/// Returns the option's short environment variable, if it has one.
pub fn short_variable(path: &str) -> Option<String> {
    short_flag(path).map(|flag| format!("SEAWALL_{}", flag.replace('-', "_").to_uppercase()))
}
