//! Configuration and the commands around it, as an operator meets them: every option through
//! every layer, every kind of mistake with its message, and the reference.

mod values;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use seawall::config::file::table::{Kind, Row, Section, short_flag, short_variable};
use seawall::config::file::{File, SECTIONS};
use seawall::config::{Given, Source, Written, reference};

use values::{SECRET, companions, fixture, is_mode, other};

fn rows() -> impl Iterator<Item = (&'static Section, &'static Row)> {
    static TABLE: [Section; 24] = SECTIONS;
    TABLE.iter().flat_map(|section| section.rows.iter().map(move |row| (section, row)))
}

/// What the reader of a value sees of it.
fn seen(row: &Row, value: toml::Value) -> toml::Value {
    match (row.secret, row.kind) {
        (true, Kind::List) => vec!["…".to_owned()].into(),
        (true, _) => "…".into(),
        (false, _) => value,
    }
}

fn in_file(section: &Section, row: &Row, value: &toml::Value) -> String {
    let value = match value {
        toml::Value::Integer(mode) if is_mode(row) => format!("{mode:o}"),
        value => value.to_string(),
    };
    match (section.name, section.repeated) {
        ("", _) => format!("{} = {value}\n", row.key),
        (name, true) => format!("[[{name}]]\n{} = {value}\n", row.key),
        (name, false) => format!("[{name}]\n{} = {value}\n", row.key),
    }
}

fn key_of(section: &Section, row: &Row) -> String {
    if section.repeated { format!("{}.0.{}", section.name, row.key) } else { section.path(row) }
}

/// The value of an option and where it came from.
fn found(given: &Given, section: &Section, row: &Row) -> (toml::Value, Source) {
    let written = Written::new(given).unwrap();
    let key = key_of(section, row);
    let whole = toml::Value::try_from(&written.file).unwrap();
    let value = key.split('.').fold(&whole, |value, part| match part.parse::<usize>() {
        Ok(index) => &value[index],
        Err(_) => &value[part],
    });
    (value.clone(), written.sources.of(&key).unwrap().clone())
}

#[test]
fn every_option_goes_through_file_variable_and_flag() {
    for (section, row) in rows() {
        let (text, value) = other(section, row);
        let path = section.path(row);
        let file = Some(("f.toml".to_owned(), in_file(section, row, &value)));
        let value = seen(row, value);
        let given = Given { file, ..Given::default() };
        let (got, source) = found(&given, section, row);
        assert_eq!(got, value, "{path} through the file");
        assert!(matches!(source, Source::File { line: 1 | 2, .. }), "{path}: {source}");
        let variables = [Some(section.variable(row)), short_variable(&path)];
        for name in variables.into_iter().flatten() {
            let environment = vec![(name.clone(), text.clone())];
            let given = Given { environment, ..Given::default() };
            let expected = (value.clone(), Source::Variable(name));
            assert_eq!(found(&given, section, row), expected, "{path} through the environment");
        }
        let flags = [Some(section.flag(row)), short_flag(&path).map(str::to_owned)];
        for flag in flags.into_iter().flatten() {
            let given =
                Given { flags: vec![(flag.clone(), vec![text.clone()])], ..Given::default() };
            let expected = (value.clone(), Source::Flag(flag));
            assert_eq!(found(&given, section, row), expected, "{path} through a flag");
        }
    }
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let is_number = |row: &Row| matches!(row.kind, Kind::Number { .. }) && !is_mode(row);
    for (section, row) in rows().filter(|(_, row)| is_number(row)) {
        let file = Some(("f".to_owned(), in_file(section, row, &toml::Value::Integer(21))));
        let environment = vec![(section.variable(row), "22".to_owned())];
        let flags = vec![(section.flag(row), vec!["23".to_owned()])];
        let mut given = Given { file, environment, flags };
        let value = |given: &Given| found(given, section, row).0.as_integer().unwrap();
        assert_eq!(value(&given), 23, "{}", row.key);
        given.flags.clear();
        assert_eq!(value(&given), 22, "{}", row.key);
        given.environment.clear();
        assert_eq!(value(&given), 21, "{}", row.key);
    }
}

#[test]
fn addresses_go_by_place_and_other_options_to_all() {
    let file = "[[listener]]\naddress = \"127.0.0.1:1\"\nbacklog = 5\n";
    let flag = |name: &str, values: &[&str]| {
        (name.to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
    };
    let given = Given {
        file: Some(("f".into(), file.into())),
        environment: vec![("SEAWALL_LISTENER_KEEPALIVE_S".into(), "9".into())],
        flags: vec![
            flag("listen", &["127.0.0.1:2", "127.0.0.1:3"]),
            flag("listener-unix-mode", &["0o600", "0o666"]),
        ],
    };
    let listeners = Written::new(&given).unwrap().file.listeners;
    let shown: Vec<_> = listeners
        .iter()
        .map(|l| (l.address.as_str(), l.backlog, l.keepalive_s, l.unix_mode))
        .collect();
    assert_eq!(shown, [("127.0.0.1:2", 5, 9, 0o600), ("127.0.0.1:3", 5, 9, 0o666)]);
    let three = Given { flags: vec![flag("listener-backlog", &["1", "2", "3"])], ..given };
    let fault = Written::new(&three).unwrap_err().to_string();
    assert!(fault.contains("3 values for 1") && fault.contains("--listener-backlog"), "{fault}");
}

#[test]
fn a_flag_for_all_routes_leaves_the_routes_that_are_there_without_any() {
    let flag = |name: &str, value: &str| (name.to_owned(), vec![value.to_owned()]);
    let routes = |flags| {
        let file = Written::new(&Given { flags, ..Given::default() }).unwrap().file;
        let routes = file.routes.into_iter();
        routes.map(|route| (route.path, route.ping_interval_ms)).collect::<Vec<_>>()
    };
    let both = routes(vec![flag("route-ping-interval-ms", "9")]);
    assert_eq!(both, [("/ws".to_owned(), 9), ("/echo".to_owned(), 9)]);
    let one = routes(vec![flag("route-ping-interval-ms", "9"), flag("route-path", "/mine")]);
    assert_eq!(one, [("/mine".to_owned(), 9)]);
}

#[test]
fn secrets_arrive_and_are_not_shown() {
    let file = format!("[[key]]\nsecret = \"{SECRET}\"\n[resume]\nkeys = [\"{SECRET}\"]\n");
    let given = Given { file: Some(("f".into(), file)), ..Given::default() };
    let written = Written::new(&given).unwrap();
    assert_eq!(written.file.keys[0].secret.reveal(), SECRET);
    assert_eq!(written.file.resume.keys.0[0].reveal(), SECRET);
    let config = written.validate(20_000, 1).unwrap();
    let serialized = toml::to_string(&written.file).unwrap();
    for shown in [format!("{:?}", written.file), format!("{config:?}"), serialized] {
        assert!(!shown.contains(&SECRET[..8]), "{shown}");
    }
}

#[test]
fn files_of_secrets_are_not_for_everyone() {
    for (name, flags) in [
        ("key", &["--key-secret-file"][..]),
        ("api-key", &["--api-key-name=a", "--api-key-secret-file"]),
        ("resume", &["--resume-keys-file"]),
    ] {
        let check = |mode: u32, text: &str| {
            let path = fixture(&format!("mode-{name}"), mode, text);
            let (last, others) = flags.split_last().unwrap();
            let flag = format!("{last}={path}");
            let arguments = [&["check-config"], others, &[flag.as_str()]].concat();
            let output = seawall(&arguments, "");
            (output.status.success(), text_of(&output.stderr))
        };
        for mode in [0o604, 0o644, 0o444, 0o602] {
            let (passed, said) = check(mode, SECRET);
            assert!(!passed && said.contains("chmod o= ") && said.contains("--"), "{said}");
            assert!(said.contains("defaultMode: 0440") && !said.contains(SECRET), "{said}");
        }
        // Group bits are set by the platform: Kubernetes adds them where there is an fsGroup.
        for (mode, warns) in
            [(0o400, false), (0o600, false), (0o440, true), (0o640, true), (0o660, true)]
        {
            let (passed, said) = check(mode, &format!("{SECRET}\n"));
            assert!(passed, "{mode:o}: {said}");
            let has_warning = said.starts_with("warning: ") && said.contains("chmod g= ");
            assert_eq!((has_warning, said.lines().count()), (warns, usize::from(warns)), "{said}");
        }
        let (passed, said) = check(0o600, "");
        assert!(!passed && said.contains("is empty"), "{said}");
    }
}

fn text_of(bytes: &[u8]) -> String {
    text(bytes).to_owned()
}

#[test]
fn origins_that_never_match_are_mistakes() {
    let check = |origin: &str| {
        let output = seawall(&["check-config", "--route-origins", origin], "");
        (output.status.success(), text_of(&output.stderr))
    };
    for (origin, remedy) in [
        ("https://app.example/", "write \"https://app.example\""),
        ("app.example", "write \"https://app.example\""),
        ("*.app.example", "write \"https://*.app.example\""),
        ("null", "\"*\" for all pages"),
    ] {
        let (passed, said) = check(origin);
        assert!(!passed && said.contains("origins") && said.contains(remedy), "{said}");
        assert!(said.contains("--route-origins"), "the place is named: {said}");
    }
    for origin in ["*", "https://app.example:443", "https://*.app.example", "capacitor://localhost"]
    {
        assert_eq!(check(origin), (true, String::new()), "{origin}");
    }
}

#[test]
fn a_fault_of_validation_names_the_place_of_its_option() {
    let given = Given {
        file: Some(("f.toml".into(), "[limits]\n\nheaders_max = 0\n".into())),
        environment: vec![("SEAWALL_LISTENER_PROXY_PROTOCOL".into(), "true".into())],
        ..Given::default()
    };
    let validate = |given: &Given| Written::new(given).unwrap().validate(20_000, 1).unwrap_err();
    let fault = validate(&given).to_string();
    // Both at once.
    let has = |start: &str| fault.lines().any(|line| line.starts_with(start));
    assert!(has("f.toml: line 3: limits.headers_max must be"), "{fault}");
    assert!(has("environment: SEAWALL_LISTENER_PROXY_PROTOCOL: "), "{fault}");
    let fault = validate(&Given { file: None, ..given }).to_string();
    assert!(fault.starts_with("environment: SEAWALL_LISTENER_PROXY_PROTOCOL: "), "{fault}");
}

#[test]
fn the_reference_loads_as_the_defaults() {
    let text = reference::toml();
    let given = Given { file: Some(("reference".into(), text.clone())), ..Given::default() };
    let mut file = Written::new(&given).unwrap().file;
    assert_eq!(file.listeners.len(), 1);
    assert_eq!(file.listeners.pop(), Some(seawall::config::file::Listener::default()));
    assert_eq!(file, File::default());
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    for (section, row) in rows() {
        let line = format!("\n{}{} = ", if section.absent { "# " } else { "" }, row.key);
        assert!(text.contains(&line), "{} is missing", section.path(row));
        assert!(row.meaning.trim().len() > 10 && row.change.ends_with('.'), "{}", row.key);
        let counts = matches!(row.kind, Kind::Number { .. });
        assert_eq!(row.unit().is_some(), counts, "{} has a unit in its name", row.key);
    }
}

fn seawall(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_seawall"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails at once does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn every_flag_is_taken_by_the_command_line() {
    for (section, row) in rows() {
        let (value, _) = other(section, row);
        let flag = format!("--{}={value}", section.flag(row));
        let companions = companions(section, row);
        let mut arguments = vec!["check-config", &flag];
        arguments.extend(companions.iter().map(String::as_str));
        let output = seawall(&arguments, "");
        assert!(output.status.success(), "{flag}: {}", text(&output.stderr));
        let key = key_of(section, row);
        // An only choice is the default, and then nothing differs.
        let differs = !matches!(row.kind, Kind::Choice([_]));
        let said = text(&output.stdout);
        assert!(!said.contains(SECRET), "{said}");
        assert_eq!(said.lines().any(|line| line.trim().starts_with(&key)), differs, "{said}");
    }
}

#[test]
fn what_config_prints_is_what_check_config_takes() {
    let printed = seawall(&["config"], "");
    assert!(printed.status.success());
    let checked = seawall(&["check-config", "-"], text(&printed.stdout));
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    assert!(text(&checked.stdout).contains("all options have their defaults"));
}

#[test]
fn check_config_tells_what_differs_and_from_where() {
    let file = "[limits]\nmessage_bytes_max = 65536\n[[listener]]\nunix_mode = 0o600\n";
    let output = seawall(&["check-config", "-", "--shards", "3"], file);
    let said = text(&output.stdout);
    for line in [
        "limits.message_bytes_max = 65_536  (standard input: line 2)",
        "listener.0.unix_mode     = 0o600   (standard input: line 4)",
        "shards                   = 3       (--shards)",
    ] {
        assert!(said.contains(line), "{line} is missing in:\n{said}");
    }
}

#[test]
fn check_config_refuses_what_serve_would() {
    for (arguments, input, says) in [
        (&["-"][..], "shardz = 1\n", &["standard input: line 1", "`shards`"][..]),
        (&["-"], "[drain]\nwindow_ms = \"20s\"\n", &["line 2", "write 20000"]),
        (&["-"], "[limits]\nmessage_mib_max = 2\n", &["message_bytes_max = 2097152"]),
        (&["/nonexistent/x.toml"], "", &["cannot read /nonexistent/x.toml", "No such file"]),
        (&["/"], "", &["cannot read /", "directory"]),
        (
            &["--listen", "0.0.0.0:9000", "--listen", "127.0.0.1:9000"],
            "",
            &["--listen", "0.0.0.0:9000 and 127.0.0.1:9000 overlap"],
        ),
        (&["--shards", "many"], "", &["--shards", "whole number", "many"]),
        (&["--engine-pin", "1"], "", &["--engine-pin", "true or false"]),
        (&["--log-format", "yml"], "", &["--log-format", "\"text\" or \"json\""]),
        (&["--limits-message-bytes-max", "1 GiB"], "", &["write 1073741824"]),
        (&["--listener-tls", "true"], "", &["[[certificate]]", "--dev-tls"]),
        (&["--admin-tls", "true"], "", &["admin.tls", "[[certificate]]", "--dev-tls"]),
        (
            &["-", "--dev-tls"],
            "[admin]\nlisten = \"unix:/tmp/admin\"\ntls = true\n",
            &["line 3", "admin.tls", "TCP"],
        ),
        (
            &["-", "--dev-tls"],
            "[admin]\ntls_client_ca = \"ca.pem\"\n",
            &["line 2", "admin.tls_client_ca has no effect", "admin.tls = true"],
        ),
        // An operator who sets these relies on clients being verified.
        (
            &["-"],
            "[[listener]]\ntls_client_certificates = \"require\"\ntls_client_ca = \"ca.pem\"\n",
            &["line 2", "tls_client_certificates has no effect", "tls = true"],
        ),
        (
            &["-", "--dev-tls"],
            "[[listener]]\ntls_client_ca = \"ca.pem\"\n",
            &["line 2", "tls_client_ca has no effect", "\"require\""],
        ),
    ] {
        let output = seawall(&[&["check-config"], arguments].concat(), input);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.lines().all(|line| line.starts_with("seawall: ")), "{said}");
        for word in says {
            assert!(said.contains(word), "`{word}` is missing in: {said}");
        }
    }
}

#[test]
fn the_environment_counts_for_the_binary_too() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    let output = command.arg("check-config").env("SEAWALL_SHARDS", "4").output().unwrap();
    assert!(text(&output.stdout).contains("(environment: SEAWALL_SHARDS)"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    let output = command.arg("check-config").env("SEAWALL_CONFIG", "/none.toml").output().unwrap();
    assert!(text(&output.stderr).contains("cannot read /none.toml"));
}

#[test]
fn the_version_is_told() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(text(&seawall(&["version"], "").stdout).starts_with(&format!("seawall {version} (")));
    let object: serde_json::Value =
        serde_json::from_slice(&seawall(&["version", "--json"], "").stdout).unwrap();
    assert_eq!(object["version"], version);
}

/// Mistakes of every kind in one run: of form, of value, of combination, and of the host.
#[test]
fn check_config_reports_all_errors_at_once() {
    let file = "shardz = 1\n[limits]\nheaders_max = 0\nmessage_bytes_max = \"1 MiB\"\n[log]\n\
        level = \"loud\"\n[[route]]\npath = \"ws\"\nhandler = \"echo\"\n[[route]]\npath = \"/a\"\n\
        [[route]]\npath = \"/a\"\n[[key]]\nsecret = \"short\"\n[[api_key]]\nsecret = \"short\"\n\
        [[channel]]\npattern = \"a*b\"\n[[listener]]\nunix_mode = 888\naddress = \"nowhere\"\n\
        [drain]\nwindow_ms = 9\ndeadline_ms = 8\n[engine]\nring_entries = 1\n\
        [resume]\nttl_s = 0\n[hub]\nauth_timeout_ms = 0\n";
    let output = seawall(&["check-config", "-"], file);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    for (line, says) in [
        (1, "unknown option `shardz`"),
        (3, "limits.headers_max must be between"),
        (4, "write 1048576"),
        (6, "log.level = \"loud\""),
        (8, "path must begin with `/`"),
        (13, "two routes have the path /a"),
        (15, "has 5 bytes"),
        (17, "at least 20 visible characters"),
        (19, "only at the end"),
        (21, "permission bits from 0o000 to 0o777"),
        (22, "`nowhere` is not an address"),
        (24, "drain.deadline_ms"),
        (27, "engine.ring_entries"),
        (29, "resume.ttl_s"),
        (31, "hub.auth_timeout_ms"),
    ] {
        let place = format!("standard input: line {line}: ");
        let found = said.lines().any(|one| one.contains(&place) && one.contains(says));
        assert!(found, "{place}{says} is missing in:\n{said}");
    }
}

/// What a start would look for in vain on this host.
#[test]
fn check_config_looks_for_users_and_folders() {
    let file = "[process]\nuser = \"no-such-user\"\ngroup = \"no-such-group\"\n\
        state_dir = \"/nonexistent/a/b\"\n[metrics]\nhistogram_log = \"/nonexistent/a.hlog\"\n\
        [admin]\nlisten = \"unix:/nonexistent/admin\"\n[[listener]]\n\
        address = \"unix:/nonexistent/clients\"\n";
    let output = seawall(&["check-config", "-"], file);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    for (line, key) in [
        (2, "process.user"),
        (3, "process.group"),
        (4, "process.state_dir"),
        (6, "metrics.histogram_log"),
        (8, "admin.listen"),
        (10, "listener unix:/nonexistent/clients"),
    ] {
        let expected = format!("seawall: standard input: line {line}: {key}");
        assert!(said.contains(&expected), "{expected} is missing in:\n{said}");
    }
}

#[test]
fn modes_are_octal_wherever_they_are_written() {
    for (arguments, file) in [
        (&["--listener-unix-mode", "600"][..], ""),
        (&["--listener-unix-mode", "0o600"], ""),
        (&["--listener-unix-mode", "0600"], ""),
        (&[], "[[listener]]\nunix_mode = 600\n"),
        (&[], "[[listener]]\nunix_mode = 0o600\n"),
    ] {
        let output = seawall(&[&["check-config", "-"], arguments].concat(), file);
        let said = text(&output.stdout);
        assert!(said.contains("listener.0.unix_mode = 0o600 "), "{arguments:?} {file}: {said}");
    }
    let help = seawall(&["serve", "--help"], "");
    assert!(text(&help.stdout).contains("[default: 0o660]"));
}

#[test]
fn the_short_configuration_is_valid_and_short() {
    let printed = seawall(&["config", "--short"], "");
    let file = text(&printed.stdout);
    assert!(file.lines().count() <= 60, "{file}");
    let checked = seawall(&["check-config", "-"], file);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    // With all its examples.
    let bare = file.lines().map(|line| {
        let option = line.strip_prefix("# ").filter(|rest| rest.contains(['=', '[']));
        option.filter(|rest| !rest.contains('`') || rest.starts_with('[')).unwrap_or(line)
    });
    let _: File = toml::from_str(&bare.collect::<Vec<_>>().join("\n")).unwrap();
}

/// Each option that names a file with a secret warns of one that its group can read.
#[test]
fn secrets_that_their_group_can_read_are_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let ends = ["secret_file", "secret_files", "keys_file", "password_file", "token_file"];
    let mut count = 0;
    for (section, row) in rows().filter(|(_, row)| ends.iter().any(|end| row.key.ends_with(end))) {
        let (path, _) = other(section, row);
        let open = format!("{path}-{}", section.flag(row));
        std::fs::copy(&path, &open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o640)).unwrap();
        let flag = format!("--{}={open}", section.flag(row));
        let companions = companions(section, row);
        let mut arguments = vec!["check-config", &flag];
        arguments.extend(companions.iter().map(String::as_str));
        let output = seawall(&arguments, "");
        let said = [text(&output.stdout), text(&output.stderr)].concat();
        assert!(output.status.success(), "{flag}: {said}");
        let warned = said.lines().any(|line| line.contains("accessible to their group"));
        assert!(warned && said.contains(&open), "{flag}: {said}");
        count += 1;
    }
    assert!(count >= 8, "only {count} options");
}
