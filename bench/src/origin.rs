//! Origin of a result: the run, the version, the time, and the host.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::target::Url;

/// The first members of a result's JSON. The URL is without its query, which may hold a token.
pub fn members(url: &Url) -> Map<String, Value> {
    let path = url.path.split('?').next().unwrap_or_default();
    let kernel = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        text.trim().to_owned()
    };
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let command = std::env::args().nth(1).unwrap_or_default();
    let members = json!({
        "load": command,
        "url": format!("{}{}{path}", if url.is_tls { "wss://" } else { "ws://" }, url.authority),
        "date": date(now_s),
        "host": kernel("hostname"),
        "kernel": kernel("osrelease"),
        "version": env!("CARGO_PKG_VERSION"),
    });
    match members {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// A Unix time as RFC 3339 writes it, in UTC.
fn date(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Years begin in March, so that the leap day is their last: the day of an era of 400 years
    // gives the year, and the day of the year the month.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix_s, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(unix_s), shown);
        }
    }

    #[test]
    fn a_query_is_left_out() {
        let url = Url::parse("ws://h:1/ws?token=secret").unwrap();
        let members = members(&url);
        assert_eq!(members["url"], "ws://h:1/ws");
        assert!(members.values().all(|value| !value.to_string().contains("secret")));
    }
}
