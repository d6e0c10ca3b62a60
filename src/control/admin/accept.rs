//! Which of several forms a request asks for: its `Accept` (RFC 9110 12.5.1).

use axum::http::{HeaderMap, header};

/// Whether `Accept` names `asked` (a media type without parameters), and wants it at least as much
/// as `other`, which is what is sent when nothing is asked for. Wildcards ask for nothing.
pub(super) fn asks_for(headers: &HeaderMap, asked: &str, other: &str) -> bool {
    let quality = quality(headers, asked);
    quality > 0 && quality >= self::quality(headers, other)
}

/// The greatest `q` with which a media type is named, in thousandths.
fn quality(headers: &HeaderMap, kind: &str) -> u32 {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let ranges = lines.flat_map(|line| line.split(','));
    let named = ranges.filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next()?;
        let quality = parts.find_map(|part| {
            let (key, value) = part.split_once('=')?;
            key.trim().eq_ignore_ascii_case("q").then_some(value.trim())
        });
        // What is no number is not wanted.
        let quality = quality.map_or(1.0, |text| text.parse::<f64>().unwrap_or(0.0));
        name.eq_ignore_ascii_case(kind).then_some((quality.clamp(0.0, 1.0) * 1000.0) as u32)
    });
    named.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENMETRICS: &str = "application/openmetrics-text";
    const PLAIN: &str = "text/plain";

    fn asks(accept: &str) -> bool {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        asks_for(&headers, OPENMETRICS, PLAIN)
    }

    #[test]
    fn openmetrics_is_sent_to_who_asks_for_it() {
        // Prometheus 2.42.
        assert!(asks(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
             version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        ));
        assert!(asks("Application/OpenMetrics-Text"));
        assert!(asks("text/plain, application/openmetrics-text"));
        assert!(asks("application/openmetrics-text; version=1.0.0; q=0.3, */*"));
        for other in [
            "*/*",
            "",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "text/plain;version=0.0.4",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.5, text/plain;q=0.9",
            "application/openmetrics-text; Q=nan, text/plain",
            "application/*",
        ] {
            assert!(!asks(other), "{other}");
        }
        assert!(!asks_for(&HeaderMap::new(), OPENMETRICS, PLAIN));
    }
}
