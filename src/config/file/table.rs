//! One table of options: each row is a key with its type, default, unit, range, meaning, and when
//! to change it.
//!
//! A section is written once, with the macro `section!`. From it come the structure that a file
//! is read into, the flags, the names in the environment, the range checks, what `seawall config`
//! prints and the reference in `OPTIONS.md`, so that none of them can lag behind.

use std::ops::RangeInclusive;

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

/// Unit and range of an option that is a number.
#[derive(Clone, Copy, Debug)]
pub struct NumberColumns {
    pub unit: &'static str,
    /// The smallest value that validation accepts.
    pub min: u64,
    /// The largest one; [`ANY`] where only the type bounds it.
    pub max: u64,
    /// Why no value below `min` can be accepted; empty where that is plain.
    pub reason: &'static str,
}

/// Upper end of a range that only the number's type bounds.
pub const ANY: u64 = u64::MAX;

/// Unit of numbers that are permission bits, written in octal.
pub(super) const PERMISSION_BITS: &str = "permission bits";

/// A type that an option may have.
pub trait OptionType {
    const KIND: Kind;
    /// Whether values are never shown.
    const SECRET: bool = false;

    /// The value, where it is a number.
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
    /// Whether its values are never shown.
    pub secret: bool,
    pub default: fn() -> toml::Value,
    /// Unit and range; `None` where the option is no number.
    pub number: Option<NumberColumns>,
    /// What it is.
    pub meaning: &'static str,
    /// When to change it.
    pub change: &'static str,
}

impl Row {
    /// Whether its numbers are permission bits, written in octal.
    pub fn is_mode(&self) -> bool {
        self.unit() == Some(PERMISSION_BITS)
    }

    /// What a number counts; `None` where the option is no number.
    pub fn unit(&self) -> Option<&'static str> {
        self.number.map(|number| number.unit)
    }

    /// The smallest and the largest number that validation accepts.
    pub fn range(&self) -> Option<RangeInclusive<u64>> {
        let (Kind::Number { max }, Some(number)) = (self.kind, self.number) else { return None };
        Some(number.min..=number.max.min(max))
    }

    /// What a value must be, as in "must be …".
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

    /// What is wrong with a number outside the range, as it follows the option's name.
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

/// A number that was written, and its row.
pub type Number = (&'static Row, u64);

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

/// Defines a section: the structure, its defaults and its rows. A number has its unit and range
/// behind its default.
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

            /// Its numbers, each with its row.
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

/// A field's name as a key: some keys are words of the language.
pub(super) const fn key(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// Shorter names of the options that are given most, beside their full ones.
const SHORT: [(&str, &str); 6] = [
    ("listener.address", "listen"),
    ("admin.listen", "admin"),
    ("metrics.histogram_log", "histogram-log"),
    ("process.sandbox", "sandbox"),
    ("engine.driver", "driver"),
    ("tls.dev", "dev-tls"),
];

/// The shorter flag of an option, if it has one.
pub fn short_flag(path: &str) -> Option<&'static str> {
    SHORT.iter().find(|(long, _)| *long == path).map(|(_, short)| *short)
}

/// The shorter name in the environment, if there is one.
pub fn short_variable(path: &str) -> Option<String> {
    short_flag(path).map(|flag| format!("SEAWALL_{}", flag.replace('-', "_").to_uppercase()))
}
