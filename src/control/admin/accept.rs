//! Content negotiation: which of two forms a request prefers (`Accept`, RFC 9110 12.5.1).

use axum::http::{HeaderMap, header};

/// Returns whether `Accept` names `asked` (a media type without parameters) with at least the
/// quality of `other`, the default form. Wildcards do not count.
pub(super) fn is_preferred(headers: &HeaderMap, asked: &str, other: &str) -> bool {
    let quality = quality(headers, asked);
    quality > 0 && quality >= self::quality(headers, other)
}

/// Returns the greatest `q` with which `Accept` names a media type, in thousandths.
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
        // An invalid `q` counts as 0: not acceptable.
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

    fn prefers_openmetrics(accept: &str) -> bool {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        is_preferred(&headers, OPENMETRICS, PLAIN)
    }

    #[test]
    fn openmetrics_is_sent_only_if_it_is_named() {
        // The header of Prometheus 2.42.
        assert!(prefers_openmetrics(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
             version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        ));
        assert!(prefers_openmetrics("Application/OpenMetrics-Text"));
        assert!(prefers_openmetrics("text/plain, application/openmetrics-text"));
        assert!(prefers_openmetrics("application/openmetrics-text; version=1.0.0; q=0.3, */*"));
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
            assert!(!prefers_openmetrics(other), "{other}");
        }
        assert!(!is_preferred(&HeaderMap::new(), OPENMETRICS, PLAIN));
    }
}
