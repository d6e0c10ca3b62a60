//! Parsers of values on the command line.

pub(super) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=86_400.0).contains(&value) => Ok(value),
        _ => Err("must be seconds from 0 to 86400".to_owned()),
    }
}

/// A share above 0: `1%` or `0.01`.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let value = match text.strip_suffix('%') {
        Some(digits) => number(digits).map(|percent| percent / 100.0),
        None => number(text),
    };
    value
        .filter(|value| *value > 0.0 && *value <= 1.0)
        .ok_or_else(|| "must be a share above 0, up to 100% (or 1)".to_owned())
}

/// A factor above 0.
pub(super) fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1e6 => Ok(value),
        _ => Err("must be a number above 0, up to 1000000".to_owned()),
    }
}

pub(super) fn power_of_two(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(value) if value.is_power_of_two() => Ok(value),
        _ => Err("must be a power of two up to 32768".to_owned()),
    }
}

pub(super) fn buffer_size(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(value) if (1..=1 << 20).contains(&value) => Ok(value),
        _ => Err("must be bytes from 1 to 1048576".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percent_or_fractions() {
        assert_eq!((share("1%"), share("0.25"), share("100%")), (Ok(0.01), Ok(0.25), Ok(1.0)));
        for bad in ["0", "0%", "101%", "1.1", "-1%", "x", "%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
