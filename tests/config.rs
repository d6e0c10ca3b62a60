//! Configuration and the commands around it, as an operator meets them: every option through
//! every layer, every kind of mistake with its message, and the reference.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use seawall::config::file::table::{Kind, Row, Section, short_flag, short_variable};
use seawall::config::file::{File, SECTIONS};
use seawall::config::{Given, Source, Written, reference};
use seawall::tls::development::DevelopmentCertificate;

fn rows() -> impl Iterator<Item = (&'static Section, &'static Row)> {
    static TABLE: [Section; 23] = SECTIONS;
    TABLE.iter().flat_map(|section| section.rows.iter().map(move |row| (section, row)))
}

/// 32 bytes in hexadecimal: long enough for every kind of secret.
const SECRET: &str = "5ea1000000000000000000000000000000000000000000000000000000000000";

const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
    -----END PUBLIC KEY-----\n";

/// A certificate for the names `one` and `two`.
fn certificate() -> &'static DevelopmentCertificate {
    static MADE: OnceLock<DevelopmentCertificate> = OnceLock::new();
    let names = ["one", "two"].map(str::to_owned);
    MADE.get_or_init(|| DevelopmentCertificate::make(&names).unwrap())
}

/// The path of a file with this text.
fn fixture(name: &str, mode: u32, text: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("config-{}-{name}", std::process::id()));
    // Another test may be looking at it: it appears whole.
    let thread = format!("{:?}", std::thread::current().id());
    let new = path.with_extension(thread.replace(['(', ')'], ""));
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(&new, &path).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What the reader of a value sees of it.
fn seen(row: &Row, value: toml::Value) -> toml::Value {
    match (row.secret, row.kind) {
        (true, Kind::List) => vec!["…".to_owned()].into(),
        (true, _) => "…".into(),
        (false, _) => value,
    }
}

/// Flags that an option cannot do without.
fn companions(section: &Section, row: &Row) -> Vec<String> {
    match (section.name, row.key) {
        ("listener", "proxy_protocol" | "forwarded_header") => {
            vec!["--listener-trusted-proxies=10.0.0.0/8".to_owned()]
        }
        ("admin", "metrics_auth") => {
            vec!["--api-key-name=a".to_owned(), format!("--api-key-secret={SECRET}")]
        }
        ("listener", "tls") => vec!["--dev-tls".to_owned()],
        ("listener", "tls_client_certificates") => {
            let ca = fixture("ca.pem", 0o644, &certificate().chain);
            vec!["--dev-tls".to_owned(), format!("--listener-tls-client-ca={ca}")]
        }
        ("listener", "tls_client_ca") => {
            vec!["--dev-tls".to_owned(), "--listener-tls-client-certificates=request".to_owned()]
        }
        ("cluster", key) => {
            let (keys, secret) = (fixture("keys", 0o600, SECRET), fixture("secret", 0o600, SECRET));
            let url = (key != "urls").then(|| "--cluster-urls=redis://127.0.0.1".to_owned());
            let password = (key == "user").then(|| format!("--cluster-password-file={secret}"));
            let given = [Some(format!("--resume-keys-file={keys}")), url, password];
            given.into_iter().flatten().collect()
        }
        ("acme", key) => {
            let needed = [
                ("names", "--acme-names=app.test".to_owned()),
                ("accept_terms", "--acme-accept-terms=true".to_owned()),
                ("dir", "--acme-dir=/tmp/acme".to_owned()),
            ];
            let given = needed.into_iter().filter(|(name, _)| *name != key).map(|(_, flag)| flag);
            given.chain(["--listener-tls=true".to_owned()]).collect()
        }
        ("certificate", key) => {
            let (chain, own) = (&certificate().chain, &certificate().key);
            let chain = format!("--certificate-chain={}", fixture("chain.pem", 0o644, chain));
            let own = format!("--certificate-key={}", fixture("own.pem", 0o600, own));
            match key {
                "chain" => vec![own],
                "key" => vec![chain],
                _ => vec![chain, own],
            }
        }
        ("backend", key) => {
            let own = format!("--backend-{}=", key.replace('_', "-"));
            backend_flags().into_iter().filter(|flag| !flag.starts_with(&own)).collect()
        }
        ("route", "backend") => {
            let route = vec!["--route-handler=hub".to_owned(), "--backend-name=other".to_owned()];
            [route, backend_flags()].concat()
        }
        ("channel", "backend") => {
            [vec!["--backend-name=other".to_owned()], backend_flags()].concat()
        }
        ("channel", "events") => backend_flags(),
        ("process", "group") => vec!["--process-user=nobody".to_owned()],
        ("key", "public_key_file") => vec!["--key-algorithm=EdDSA".to_owned()],
        ("key", "algorithm") => {
            vec![format!("--key-public-key-file={}", fixture("key.pem", 0o644, PUBLIC_KEY))]
        }
        ("key", "id") => vec![format!("--key-secret={SECRET}")],
        ("api_key", "name") => vec![format!("--api-key-secret={SECRET}")],
        _ => Vec::new(),
    }
}

const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What a backend needs.
fn backend_flags() -> Vec<String> {
    let secret = fixture("app.secret", 0o600, WEBHOOK_SECRET);
    let url = "--backend-events-url=http://app.test".to_owned();
    vec![url, format!("--backend-secret-files={secret}")]
}

/// Another value than the default, valid by itself: as text for flags, and as TOML.
fn other(section: &Section, row: &Row) -> (String, toml::Value) {
    let path = section.path(row);
    let text = match (path.as_str(), row.kind) {
        ("engine.completion_entries", _) => "4096".to_owned(),
        ("listener.address" | "admin.listen", _) => "127.0.0.1:9321".to_owned(),
        ("listener.forwarded_header", _) => "forwarded".to_owned(),
        ("cluster.urls", _) => "redis://one.test,rediss://two.test:7000".to_owned(),
        ("listener.tls_client_ca" | "acme.ca_file" | "cluster.ca_file" | "backend.ca_file", _) => {
            fixture("ca.pem", 0o644, &certificate().chain)
        }
        ("backend.events", _) => "connected,published".to_owned(),
        ("backend.events_url", _) => "https://app.test/events".to_owned(),
        ("backend.secret_files", _) => fixture("app.secret", 0o600, WEBHOOK_SECRET),
        ("channel.events", _) => "published,subscribed".to_owned(),
        ("limits.address_prefix_v4", _) => "24".to_owned(),
        ("listener.trusted_proxies", _) => "10.0.0.0/8,::1".to_owned(),
        ("listener.congestion", _) => "reno".to_owned(),
        ("route.path", _) => "/other".to_owned(),
        ("route.origins", _) => "https://one.example,https://*.two.example".to_owned(),
        ("log.level", _) => "debug".to_owned(),
        ("channel.pattern", _) => "chat:*".to_owned(),
        ("auth.jwks_url", _) => "https://id.example/jwks.json".to_owned(),
        ("auth.jwks_file", _) => fixture("jwks.json", 0o644, "{\"keys\": []}"),
        ("key.public_key_file", _) => fixture("key.pem", 0o644, PUBLIC_KEY),
        ("key.secret_file" | "api_key.secret_file" | "cluster.password_file", _) => {
            fixture("secret", 0o600, SECRET)
        }
        ("resume.keys_file" | "tls.ticket_keys_file", _) => fixture("keys", 0o600, SECRET),
        ("resume.keys" | "tls.ticket_keys", _) => SECRET.to_owned(),
        ("acme.names", _) => "one.test,two.test".to_owned(),
        ("acme.directory", _) => "https://authority.test/".to_owned(),
        ("certificate.chain", _) => fixture("chain.pem", 0o644, &certificate().chain),
        ("certificate.key", _) => fixture("own.pem", 0o600, &certificate().key),
        // An OCSP response begins with this byte.
        ("certificate.ocsp", _) => fixture("ocsp", 0o644, "0"),
        (_, Kind::Text) if row.secret => SECRET.to_owned(),
        (_, Kind::Switch) => (!(row.default)().as_bool().unwrap()).to_string(),
        ("listener.unix_mode", _) => "641".to_owned(),
        ("process.user", _) => "nobody".to_owned(),
        ("process.group", _) => "0".to_owned(),
        (_, Kind::Number { .. }) => ((row.default)().as_integer().unwrap() + 1).to_string(),
        (_, Kind::Text) => "other".to_owned(),
        (_, Kind::List) => "one,two".to_owned(),
        (_, Kind::Choice(words)) => (*words.last().unwrap()).to_owned(),
    };
    let value = match row.kind {
        Kind::Switch => toml::Value::Boolean(text.parse().unwrap()),
        Kind::Number { .. } if is_mode(row) => {
            toml::Value::Integer(i64::from_str_radix(&text, 8).unwrap())
        }
        Kind::Number { .. } => toml::Value::Integer(text.parse().unwrap()),
        Kind::Text | Kind::Choice(_) => toml::Value::String(text.clone()),
        Kind::List => text.split(',').map(str::to_owned).collect::<Vec<_>>().into(),
    };
    (text, value)
}

/// Numbers that are octal, with or without the prefix of octal numbers.
fn is_mode(row: &Row) -> bool {
    row.key.ends_with("_mode")
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
