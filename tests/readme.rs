//! What the README shows must work: its configuration loads, and it names what is there.

use seawall::config::{Config, file::File};
use seawall::driver::DriverCounters;
use seawall::metrics::{Gauges, NodeLimits};

const README: &str = include_str!("../README.md");

#[test]
fn the_configuration_it_shows_is_valid() {
    let (_, rest) = README.split_once("```toml\n").expect("the README shows a configuration");
    let (text, _) = rest.split_once("```").expect("the block ends");
    let file: File = toml::from_str(text).unwrap();
    let config = Config::validate(&file, 20_000, 2).unwrap();
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.route_options.len(), 1);
}

#[test]
fn the_values_it_shows_as_defaults_are_the_defaults() {
    let (_, rest) = README.split_once("```toml\n").unwrap();
    let shown: File = toml::from_str(rest.split_once("```").unwrap().0).unwrap();
    let defaults = File::default();
    assert_eq!(shown.limits, defaults.limits);
    assert_eq!(shown.timeouts, defaults.timeouts);
    assert_eq!(shown.drain, defaults.drain);
    assert_eq!(shown.admin.listen, defaults.admin.listen);
    let (shown, default) = (&shown.routes[0], seawall::config::file::Route::default());
    assert_eq!(shown.ping_interval_ms, default.ping_interval_ms);
    assert_eq!(shown.pong_timeout_ms, default.pong_timeout_ms);
}

#[test]
fn the_metrics_it_explains_are_exported() {
    let snapshot = seawall::metrics::Snapshot {
        drivers: vec![(0, Gauges::default(), DriverCounters::default())],
        ..Default::default()
    };
    // A limit that is not set is not exported.
    let limits = NodeLimits { connections_max: 1, memory_bytes_max: 1, ..NodeLimits::default() };
    let process = seawall::metrics::Process { limits, ..Default::default() };
    let text = seawall::metrics::text::openmetrics(snapshot, &process);
    let named = README.split('`').filter(|word| word.starts_with("seawall_"));
    let mut count = 0;
    for name in named {
        assert!(text.contains(name), "{name} is not exported");
        count += 1;
    }
    assert!(count >= 8, "the README explains the histograms");
}

#[test]
fn the_files_it_names_are_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for word in README.split(['`', '(', ')', ' ', ',']) {
        let is_path = ["src/", "tests/", "scripts/", "bench/"].iter().any(|p| word.starts_with(p));
        if is_path && !word.contains('*') {
            assert!(root.join(word).exists(), "{word} is named and not there");
        }
    }
}

/// `UPDATE_README=1 cargo test --test readme` writes it anew.
#[test]
fn the_reference_is_printed_from_the_table() {
    let start = "<!-- options: printed by `seawall config --markdown` -->\n";
    let end = "<!-- end of options -->";
    let (before, rest) = README.split_once(start).expect("the reference has a beginning");
    let (shown, after) = rest.split_once(end).expect("the reference has an end");
    let expected = format!("{}\n", seawall::config::reference::markdown());
    if shown != expected && std::env::var_os("UPDATE_README").is_some() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        std::fs::write(path, format!("{before}{start}{expected}{end}{after}")).unwrap();
        return;
    }
    assert!(shown == expected, "run `UPDATE_README=1 cargo test --test readme`");
}
