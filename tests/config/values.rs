//! Values for every option, and what each of them needs besides.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::OnceLock;

use seawall::config::file::table::{Kind, Row, Section};
use seawall::tls::development::DevelopmentCertificate;

/// 32 bytes in hexadecimal: long enough for every kind of secret.
pub(crate) const SECRET: &str = "5ea1000000000000000000000000000000000000000000000000000000000000";

pub(crate) const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
    -----END PUBLIC KEY-----\n";

/// A certificate for the names `one` and `two`.
pub(crate) fn certificate() -> &'static DevelopmentCertificate {
    static MADE: OnceLock<DevelopmentCertificate> = OnceLock::new();
    let names = ["one", "two"].map(str::to_owned);
    MADE.get_or_init(|| DevelopmentCertificate::make(&names).unwrap())
}

/// The path of a file with this text.
pub(crate) fn fixture(name: &str, mode: u32, text: &str) -> String {
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

/// Flags that an option cannot do without.
pub(crate) fn companions(section: &Section, row: &Row) -> Vec<String> {
    match (section.name, row.key) {
        ("listener", "proxy_protocol" | "forwarded_header") => {
            vec!["--listener-trusted-proxies=10.0.0.0/8".to_owned()]
        }
        ("admin", "metrics_auth") => {
            vec!["--api-key-name=a".to_owned(), format!("--api-key-secret={SECRET}")]
        }
        ("admin", "tls_client_ca") => vec!["--dev-tls".to_owned(), "--admin-tls=true".to_owned()],
        ("admin" | "listener", "tls") => vec!["--dev-tls".to_owned()],
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
        ("app", key) => app_flags(key),
        ("route", "handler") => app_flags(""),
        ("backend" | "route" | "channel", _) => companions_with_backend(section, row),
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

/// The same, of options that need an application.
fn companions_with_backend(section: &Section, row: &Row) -> Vec<String> {
    match (section.name, row.key) {
        ("backend", key) => {
            let own = format!("--backend-{}=", key.replace('_', "-"));
            backend_flags().into_iter().filter(|flag| !flag.starts_with(&own)).collect()
        }
        ("route", "backend") => {
            let route = vec!["--route-handler=hub".to_owned(), "--backend-name=other".to_owned()];
            [route, backend_flags()].concat()
        }
        ("route", "accept" | "slow_reader") => {
            [vec!["--route-handler=gateway".to_owned()], linked_flags()].concat()
        }
        ("channel", "backend") => {
            [vec!["--backend-name=other".to_owned()], backend_flags()].concat()
        }
        ("channel", "events") => backend_flags(),
        ("route", "connect") | ("channel", "subscribe" | "publish") => asked_flags(),
        ("channel", "on_failure") => {
            [vec!["--channel-publish=backend".to_owned()], asked_flags()].concat()
        }
        _ => Vec::new(),
    }
}

pub(crate) const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What an app needs besides this option.
fn app_flags(own: &str) -> Vec<String> {
    let secret = format!("--app-secret={SECRET}");
    let needed = [("id", "--app-id=1".to_owned()), ("key", "--app-key=k".to_owned())];
    let needed = needed.into_iter().chain([("secret", secret)]);
    let is_other = |key: &str| key != own && !(key == "secret" && own == "secret_file");
    let page = (own == "presence_members_max").then(|| "--hub-presence-page-max=200".to_owned());
    let url = ["webhook_events", "webhook_ca_file"]
        .contains(&own)
        .then(|| "--app-webhook-url=https://app.test/".to_owned());
    let needed = needed.filter(|(key, _)| is_other(key)).map(|(_, flag)| flag);
    needed.chain(page).chain(url).collect()
}

/// What a backend needs.
pub(crate) fn backend_flags() -> Vec<String> {
    let secret = fixture("app.secret", 0o600, WEBHOOK_SECRET);
    let url = "--backend-events-url=http://app.test".to_owned();
    vec![url, format!("--backend-secret-files={secret}")]
}

/// What a backend needs that decides.
fn asked_flags() -> Vec<String> {
    [vec!["--backend-hook-url=http://app.test".to_owned()], backend_flags()].concat()
}

/// What a backend needs that exchanges messages.
fn linked_flags() -> Vec<String> {
    vec!["--backend-links=ws://app.test/link".to_owned()]
}

/// Another value than the default, valid by itself: as text for flags, and as TOML.
pub(crate) fn other(section: &Section, row: &Row) -> (String, toml::Value) {
    let path = section.path(row);
    let text = match (path.as_str(), row.kind) {
        ("engine.completion_entries", _) => "4096".to_owned(),
        ("listener.address" | "admin.listen", _) => "127.0.0.1:9321".to_owned(),
        ("listener.forwarded_header", _) => "forwarded".to_owned(),
        ("cluster.urls", _) => "redis://one.test,rediss://two.test:7000".to_owned(),
        (path, _) if path.ends_with("tls_client_ca") || path.ends_with("ca_file") => {
            fixture("ca.pem", 0o644, &certificate().chain)
        }
        ("backend.events", _) => "connected,published".to_owned(),
        ("backend.hook_headers", _) => "cookie,x-session".to_owned(),
        ("backend.hook_url" | "backend.events_url" | "app.webhook_url", _) => {
            "https://app.test/hooks".to_owned()
        }
        ("app.webhook_events", _) => "client_event,cache_miss".to_owned(),
        ("backend.links", _) => "wss://app.test/link,ws://127.0.0.1:7000".to_owned(),
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
        (
            "key.secret_file"
            | "api_key.secret_file"
            | "app.secret_file"
            | "backend.link_token_file"
            | "cluster.password_file",
            _,
        ) => fixture("secret", 0o600, SECRET),
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
pub(crate) fn is_mode(row: &Row) -> bool {
    row.key.ends_with("_mode")
}
