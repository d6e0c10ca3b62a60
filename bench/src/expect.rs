//! `--expect`: conditions on a report that decide the exit code.

use serde_json::Value;

/// How the two sides are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    Equal,
}

const OPERATORS: [(&str, Operator); 5] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::MoreOrEqual),
    ("==", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::More),
];

/// The meaning of a number's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Unit {
    None,
    /// Nanoseconds in one of it.
    Time(f64),
    Factor(f64),
    Percent,
}

/// Units, longest first where one ends with another.
const UNITS: [(&str, Unit); 9] = [
    ("ns", Unit::Time(1.0)),
    ("us", Unit::Time(1e3)),
    ("µs", Unit::Time(1e3)),
    ("ms", Unit::Time(1e6)),
    ("s", Unit::Time(1e9)),
    ("k", Unit::Factor(1e3)),
    ("M", Unit::Factor(1e6)),
    ("G", Unit::Factor(1e9)),
    ("%", Unit::Percent),
];

/// One condition: `p99<5ms`.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    text: String,
    pub name: String,
    operator: Operator,
    number: f64,
    unit: Unit,
}

impl Expectation {
    pub fn parse(text: &str) -> Result<Self, String> {
        let help = "a condition is NAME OPERATOR NUMBER, as in 'p99<5ms', 'rate>=100k', \
                    'losses==0' or 'generator_busiest_share<90%'";
        let at = text.find(['<', '>', '=']).ok_or_else(|| format!("{text}: {help}"))?;
        let rest = &text[at..];
        let (sign, operator) = OPERATORS
            .iter()
            .find(|(sign, _)| rest.starts_with(sign))
            .ok_or_else(|| format!("{text}: {help}"))?;
        let (name, value) = (text[..at].trim(), rest[sign.len()..].trim());
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(suffix, unit)| Some((value.strip_suffix(suffix)?, *unit)))
            .unwrap_or((value, Unit::None));
        let number = digits.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        match number {
            Some(number) if !name.is_empty() => Ok(Self {
                text: text.to_owned(),
                name: name.to_owned(),
                operator: *operator,
                number,
                unit,
            }),
            _ => Err(format!("{text}: {help}")),
        }
    }

    /// Why it is not met; `None` if it is. `key` is the report's own name of the value.
    pub fn failure(&self, key: &str, value: &Value) -> Option<String> {
        let text = &self.text;
        let Some(found) = number(value) else {
            return Some(format!("{text}: {key} is {value}, not a number"));
        };
        let limit = match self.limit(key) {
            Ok(limit) => limit,
            Err(why) => return Some(format!("{text}: {why}")),
        };
        let met = match self.operator {
            Operator::Less => found < limit,
            Operator::LessOrEqual => found <= limit,
            Operator::More => found > limit,
            Operator::MoreOrEqual => found >= limit,
            Operator::Equal => (found - limit).abs() <= f64::EPSILON * limit.abs().max(1.0),
        };
        (!met).then(|| format!("{text}: {key} is {}", shown(key, found)))
    }

    /// The number in the unit of `key`.
    fn limit(&self, key: &str) -> Result<f64, String> {
        let number = self.number;
        match (time_unit(key), self.unit) {
            (Some(key_ns), Unit::Time(ns)) => Ok(number * ns / key_ns),
            (Some(_), Unit::None) if number == 0.0 => Ok(0.0),
            (Some(_), _) => Err(format!("{key} is a time; the number needs ns, us, ms or s")),
            (None, Unit::Time(_)) => Err(format!("{key} is not a time")),
            (None, Unit::None) => Ok(number),
            (None, Unit::Factor(factor)) => Ok(number * factor),
            (None, Unit::Percent) => Ok(number / 100.0),
        }
    }
}

/// Nanoseconds in the unit at the end of a time's key.
fn time_unit(key: &str) -> Option<f64> {
    // A cost per unit of work is a time as well.
    let key = key.strip_suffix("_each").unwrap_or(key);
    let units = [("_ns", 1.0), ("_us", 1e3), ("_ms", 1e6), ("_s", 1e9)];
    let is_rate = key.contains("per_");
    units.iter().find(|(end, _)| !is_rate && key.ends_with(end)).map(|(_, ns)| *ns)
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(is) => Some(f64::from(u8::from(*is))),
        other => other.as_f64(),
    }
}

fn shown(key: &str, found: f64) -> String {
    match time_unit(key) {
        Some(ns) => crate::report::duration((found * ns) as u64),
        None => format!("{found}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(text: &str, key: &str, value: impl Into<Value>) -> bool {
        Expectation::parse(text).unwrap().failure(key, &value.into()).is_none()
    }

    #[test]
    fn units_and_operators_compare_what_they_say() {
        assert!(met("p99<5ms", "latency_p99_ns", 4_999_999));
        assert!(!met("p99<5ms", "latency_p99_ns", 5_000_000));
        assert!(met("p99<=5000us", "latency_p99_ns", 5_000_000));
        assert!(met("ramp < 2 s", "ramp_s", 1.5));
        assert!(met("rate>=100k", "per_second", 100_000));
        assert!(!met("rate>0.1M", "per_second", 100_000));
        assert!(met("losses==0", "unanswered", 0) && !met("losses==0", "unanswered", 1));
        assert!(met("generator_busiest_share<90%", "generator_busiest_share", 0.89));
        assert!(met("server_saturated==1", "server_saturated", true));
    }

    #[test]
    fn what_cannot_be_compared_is_not_met_and_says_why() {
        let why = |text: &str, key: &str| {
            Expectation::parse(text).unwrap().failure(key, &7.into()).unwrap()
        };
        assert!(why("p99<5", "latency_p99_ns").contains("needs ns, us, ms or s"));
        assert!(why("rate<5ms", "per_second").contains("is not a time"));
        assert!(why("count<7", "count").contains("count is 7"));
        let none = Expectation::parse("rate<1").unwrap().failure("rate", &Value::Null);
        assert!(none.unwrap().contains("not a number"));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "p99", "<5ms", "p99<", "p99<x", "p99=5ms", "p99<5 hours", "p99<inf"] {
            assert!(Expectation::parse(bad).is_err(), "{bad}");
        }
    }
}
