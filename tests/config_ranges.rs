//! Ranges: what the table of options says of each number is what validation enforces.

#[path = "support/secrets.rs"]
mod secrets;

use seawall::config::file::table::{Row, Section};
use seawall::config::file::{File, SECTIONS};
use seawall::config::{Given, Written, reference};

fn numbers() -> impl Iterator<Item = (&'static Section, &'static Row)> {
    static TABLE: [Section; 24] = SECTIONS;
    let rows = TABLE.iter().flat_map(|section| section.rows.iter().map(move |row| (section, row)));
    rows.filter(|(_, row)| row.range().is_some())
}

/// The lines of a file that hold whatever the end of the option's range needs beside it.
fn companions(path: &str, value: u64) -> &'static [&'static str] {
    match (path, value) {
        ("shards", 1024) => &["engine.buffer_memory_bytes = 1073741824"],
        ("drain.window_ms", 1..) => &["drain.deadline_ms = 4294967295"],
        ("drain.deadline_ms", 0) => &["drain.window_ms = 0"],
        ("limits.message_bytes_max", 2..) => &["limits.partial_shard_bytes_max = 1073741824"],
        ("limits.partial_shard_bytes_max", 1) => &["limits.message_bytes_max = 1"],
        ("engine.buffer_memory_bytes", 8192) => &["engine.buffer_bytes = 1024"],
        ("route.pong_timeout_ms", 0) => &["route.ping_interval_ms = 0"],
        ("channel.history_ttl_s", 0) => &["channel.history = 0"],
        ("app.presence_members_max", 101..) => &["hub.presence_page_max = 100000"],
        ("channel.message_bytes_max", 2..) => &[
            "limits.message_bytes_max = 1073741824",
            "limits.partial_shard_bytes_max = 1073741824",
        ],
        _ => &[],
    }
}

/// What a file with this value says of it, on a host with enough open files for every range and,
/// where the range leaves the number of shards to the host, one core.
fn check(section: &Section, row: &Row, value: u64) -> Result<(), String> {
    let path = section.path(row);
    // Keys of sections that are written once are set from the top of the file.
    let line = |path: &str, value: &str| match path.split_once('.') {
        Some((name, key)) if ["listener", "route", "channel"].contains(&name) => {
            format!("[[{name}]]\n{key} = {value}\n")
        }
        Some(("app", key)) => {
            format!("[[app]]\n{key} = {value}\nid = \"1\"\nkey = \"k\"\nsecret = \"a secret\"\n")
        }
        Some(("backend", key)) => format!(
            "[[backend]]\n{key} = {value}\nevents_url = \"http://a\"\nsecret_files = [{:?}]\n",
            secrets::webhook_secret_file()
        ),
        _ => format!("{path} = {value}\n"),
    };
    // A mode is written in octal.
    let written = if row.is_mode() { format!("0o{value:o}") } else { value.to_string() };
    let mut text = String::new();
    for companion in companions(&path, value) {
        let (other, value) = companion.split_once(" = ").unwrap();
        match other.split_once('.') {
            // The same entry as the option's own.
            Some((name, key)) if name == section.name && section.repeated => {
                let entry = format!("[[{name}]]\n{key} = {value}\n{} = {written}\n", row.key);
                text.push_str(&entry);
            }
            _ => text.insert_str(0, &line(other, value)),
        }
    }
    if !text.contains(&format!("{} = {written}\n", row.key)) {
        let own = line(&path, &written);
        if own.starts_with('[') { text.push_str(&own) } else { text.insert_str(0, &own) }
    }
    let given = Given { file: Some(("f".into(), text)), ..Given::default() };
    let validated = Written::new(&given).and_then(|file| file.validate(u64::from(u32::MAX), 1));
    validated.map(drop).map_err(|error| error.to_string())
}

/// The smallest and the largest value are accepted; what is beyond them is rejected by name.
#[test]
fn each_range_of_the_table_is_what_validation_enforces() {
    for (section, row) in numbers() {
        let path = section.path(row);
        let range = row.range().unwrap();
        for end in [*range.start(), *range.end()] {
            // The open-files limit bounds it from above, and no limit is as high as the type.
            if path == "limits.connections_per_shard_max" && end > 0 {
                continue;
            }
            assert_eq!(check(section, row, end), Ok(()), "{path} = {end}");
        }
        let beyond = [range.start().checked_sub(1), range.end().checked_add(1)];
        for value in beyond.into_iter().flatten() {
            let error = check(section, row, value).expect_err(&format!("{path} = {value}"));
            // Its own error is first; a combination may fail because of it.
            let own = error.lines().next().unwrap_or_default();
            // The parser of TOML knows no larger integer, and shows the line.
            let is_toml = i64::try_from(value).is_ok();
            let is_named = own.contains(row.key) && own.contains("must");
            assert!(is_named || !is_toml && error.contains(row.key), "{path} = {value}: {error}");
        }
    }
}

#[test]
fn an_error_of_a_range_gives_the_range_or_the_reason() {
    for (section, key, value, says) in [
        ("limits", "headers_max", 101, "limits.headers_max must be between 1 and 100, not 101"),
        ("limits", "headers_max", 0, "limits.headers_max must be between 1 and 100, not 0"),
        ("engine", "mailbox_bytes_max", 9, "must be at least 1048576, not 9"),
        ("engine", "turn_timers_max", 0, "engine.turn_timers_max must not be 0"),
        ("engine", "buffer_memory_bytes", 8, "eight buffers of engine.buffer_bytes"),
        ("resume", "ttl_s", 0, "must not be 0: every ticket would have ended at once"),
        ("listener", "unix_mode", 0o1000, "unix_mode = 0o1000: must be permission bits from 0o000"),
        (
            "route",
            "compression_level",
            10,
            "route /echo: compression_level must be between 1 and 9",
        ),
        ("channel", "message_bytes_max", 0, "must not be 0: nothing could be published"),
    ] {
        let section = SECTIONS.iter().find(|one| one.name == section).unwrap();
        let error = check(section, section.row(key).unwrap(), value).unwrap_err();
        assert!(error.contains(says), "`{says}` is missing in: {error}");
    }
}

/// What a number must be, where another kind of value is given.
#[test]
fn an_error_of_a_type_gives_the_range_too() {
    let file = Some(("f".to_owned(), "[limits]\nheaders_max = -1\n".to_owned()));
    let error = Written::new(&Given { file, ..Given::default() }).unwrap_err().to_string();
    assert!(error.contains("a whole number from 1 to 100 (header lines)"), "{error}");
}

#[test]
fn the_defaults_lie_within_their_ranges() {
    for (section, row) in numbers() {
        let default = (row.default)().as_integer().unwrap() as u64;
        assert!(row.range().unwrap().contains(&default), "{}", section.path(row));
    }
    assert_eq!(File::default().shards, 0);
}

#[test]
fn the_reference_shows_units_and_ranges() {
    let markdown = reference::markdown();
    for row in [
        "| `headers_max` | `64` | header lines | 1 to 100 |",
        "| `unix_mode` | `0o660` | permission bits | 0o0 to 0o777 |",
        "| `address_prefix_v6` | `64` | bits | 0 to 128 |",
        "| `ping_interval_ms` | `25_000` | milliseconds | 0 or more |",
        "| `format` | `\"text\"` |  | `\"text\"`, `\"json\"` |",
    ] {
        assert!(markdown.contains(row), "`{row}` is missing");
    }
}
