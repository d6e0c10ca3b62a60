//! `seawall token`: makes tokens for tests, and explains why one is rejected.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::flags::{HiddenOverrides, SEE_SERVE};
use super::load::{Loaded, load};
use super::print::print_text;
use super::print_failure;
use crate::auth::{Examination, KeyAlgorithm, Pattern, Rights, SigningKey};
use crate::text::terminal;

/// Makes a token (JWT) for the configuration that `serve` would run with, and prints it.
///
/// It is signed with the first HS256 key of the configuration, or with a private key from a file.
/// With --check, it examines a token instead: it prints the claims and every problem. Exit codes: 0
/// the configuration accepts the token; 1 it rejects it, or no token could be made.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Examples:\n\
    \x20 seawall token --user ann --channel 'chat:*' --expires 1h\n\
    \x20 seawall token --channel-token private-7=subscribe,history\n\
    \x20 seawall token --check \"$TOKEN\"\n\n\
    {SEE_SERVE}"))]
pub(super) struct Arguments {
    /// The user: the claim `sub`
    #[arg(long)]
    user: Option<String>,

    /// Lifetime: seconds, or a number with s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_seconds)]
    expires: u64,

    /// Grant rights to channels, as in chat:* or chat:*=subscribe,history; default: all rights
    #[arg(long, value_name = "PATTERN[=RIGHTS]", value_parser = parse_grant)]
    channel: Vec<(Pattern, Option<Rights>)>,

    /// Make a token for one channel (sent with `subscribe`) instead of one for a connection
    #[arg(
        long,
        value_name = "CHANNEL[=RIGHTS]",
        value_parser = parse_grant,
        conflicts_with_all = ["channel", "info"]
    )]
    channel_token: Option<(Pattern, Option<Rights>)>,

    /// JSON that other clients see in presence: the claim `info`
    #[arg(long, value_name = "JSON", value_parser = parse_json)]
    info: Option<Value>,

    /// Id of the key (`kid`); default: that of the first usable key
    #[arg(long, value_name = "ID")]
    key: Option<String>,

    /// The claim `aud`; default: auth.audience
    #[arg(long)]
    audience: Option<String>,

    /// The claim `iss`; default: auth.issuer
    #[arg(long)]
    issuer: Option<String>,

    /// Sign with this private key (PEM)
    #[arg(long, value_name = "FILE", requires = "algorithm")]
    private_key: Option<String>,

    #[arg(
        long,
        requires = "private_key",
        value_parser = parse_algorithm,
        help = "Algorithm of the private key: RS256, ES256 or EdDSA"
    )]
    algorithm: Option<KeyAlgorithm>,

    /// Check this token instead of making one; - reads standard input
    #[arg(
        long,
        value_name = "TOKEN",
        conflicts_with_all = ["user", "channel", "channel_token", "info", "key", "private_key"]
    )]
    check: Option<String>,

    #[arg(
        long,
        value_name = "FILE",
        help = "Configuration file (TOML), or - for standard input [env: SEAWALL_CONFIG]"
    )]
    config: Option<String>,

    #[command(flatten)]
    overrides: HiddenOverrides,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let loaded = match load(arguments.config.as_deref(), &arguments.overrides.0) {
        Ok(loaded) => loaded,
        Err(error) => return print_failure(&error),
    };
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    if let Some(token) = &arguments.check {
        return check_token(&loaded, token, now_s);
    }
    match make_token(arguments, &loaded, now_s) {
        Ok(token) => {
            for fault in loaded.config.auth.verifier.examine(&token, now_s).faults {
                let fault = fault.to_string();
                let fault = terminal::escape(&fault);
                eprintln!("seawall: note: this configuration rejects the token: {fault}");
            }
            print_text(&format!("{token}\n"))
        }
        Err(error) => print_failure(&error),
    }
}

fn make_token(arguments: &Arguments, loaded: &Loaded, now_s: u64) -> Result<String, String> {
    let key = read_signing_key(arguments, loaded)?;
    let auth = &loaded.written.file.auth;
    let mut claims = Map::new();
    let mut claim = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            claims.insert(name.to_owned(), value);
        }
    };
    let named = |given: &Option<String>, configured: &str| {
        let text = given.clone().unwrap_or_else(|| configured.to_owned());
        (!text.is_empty()).then(|| Value::from(text))
    };
    claim("sub", arguments.user.clone().map(Value::from));
    claim("exp", Some(now_s.saturating_add(arguments.expires).into()));
    claim("aud", named(&arguments.audience, &auth.audience));
    claim("iss", named(&arguments.issuer, &auth.issuer));
    claim("info", arguments.info.clone());
    let channels = arguments.channel.iter().map(|(pattern, rights)| match rights {
        None => json!(pattern),
        Some(rights) => json!({"pattern": pattern, "rights": rights}),
    });
    let channels: Vec<Value> = channels.collect();
    claim("channels", (!channels.is_empty()).then(|| channels.into()));
    if let Some((pattern, rights)) = &arguments.channel_token {
        claim("channel", Some(json!(pattern)));
        claim("rights", rights.map(|rights| json!(rights)));
    }
    key.sign(&claims)
}

fn read_signing_key(arguments: &Arguments, loaded: &Loaded) -> Result<SigningKey, String> {
    let (Some(path), Some(algorithm)) = (&arguments.private_key, arguments.algorithm) else {
        let key = loaded.written.signing_key(arguments.key.as_deref());
        return key.map_err(|error| error.to_string());
    };
    let pem = std::fs::read_to_string(path).map_err(|e| format!("cannot read {path}: {e}"))?;
    let configured = loaded.written.file.keys.iter().find(|key| key.algorithm == algorithm);
    let id = match (&arguments.key, configured) {
        (Some(id), _) => id,
        (None, Some(key)) => &key.id,
        (None, None) => "",
    };
    SigningKey::from_pem(id, algorithm, &pem).map_err(|fault| format!("{path} {fault}"))
}

fn check_token(loaded: &Loaded, token: &str, now_s: u64) -> ExitCode {
    let read;
    let token = if token == "-" {
        match std::io::read_to_string(std::io::stdin()) {
            Ok(text) => read = text,
            Err(error) => return print_failure(&error),
        }
        &read
    } else {
        token
    };
    let auth = &loaded.config.auth;
    // Examine with the keys that the URL has now; the fetcher logs its own problems.
    let fetcher = auth.jwks.clone().map(|s| crate::auth::Fetcher::start(&auth.verifier, s));
    let found = auth.verifier.examine(token.trim(), now_s);
    drop(fetcher);
    let printed = print_text(&format_examination(&found, now_s));
    if found.faults.is_empty() { printed } else { ExitCode::FAILURE }
}

fn format_examination(found: &Examination, now_s: u64) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<9} {}", terminal::escape(value));
    };
    let unreadable = "cannot be read";
    line("head", found.head.as_deref().unwrap_or(unreadable));
    line("claims", found.claims.as_deref().unwrap_or(unreadable));
    if let Some(identity) = &found.identity {
        line("user", identity.user.as_deref().unwrap_or("none"));
        if let Some(info) = &identity.info {
            line("info", info);
        }
        for right in found.channel.iter().chain(&identity.rights) {
            let words = right.rights.to_words().join(" ");
            line("channel", &format!("{}  {words}", right.pattern.as_str()));
        }
        if let Some(end) = identity.expires_s.filter(|end| *end > now_s) {
            line("ends", &format!("in {} s", end - now_s));
        }
    }
    for fault in &found.faults {
        line("problem", &format!("{}: {fault}", fault.kind()));
    }
    if found.faults.is_empty() {
        let kind = if found.channel.is_some() { "channel token" } else { "connection token" };
        line("valid", &format!("as a {kind}"));
    }
    text
}

/// Parses a duration, in seconds.
fn parse_seconds(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("must be a number and s, m, h or d, as in 90s, 15m, 1h or 7d".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "must be a number, as in 15m".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "too long".to_owned())
}

/// Parses a pattern with optional rights.
fn parse_grant(text: &str) -> Result<(Pattern, Option<Rights>), String> {
    // A pattern may contain `=`: rights follow the last one.
    let rights = text
        .rsplit_once('=')
        .and_then(|(pattern, words)| Some((pattern, Rights::from_words(words.split(',')).ok()?)));
    let (pattern, rights) = match rights {
        Some((pattern, rights)) => (pattern, Some(rights)),
        None => (text, None),
    };
    Ok((Pattern::new(pattern)?, rights))
}

fn parse_algorithm(text: &str) -> Result<KeyAlgorithm, String> {
    let algorithm = serde_json::from_value(text.into());
    algorithm.map_err(|_| "must be RS256, ES256 or EdDSA".to_owned())
}

fn parse_json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|fault| format!("not JSON: {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_with_their_units() {
        for (text, expected) in
            [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604_800), ("0", 0)]
        {
            assert_eq!(parse_seconds(text), Ok(expected));
        }
        for text in ["", "h", "1w", "-1", "1.5h", "99999999999999999999", "999999999999999999d"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn grants_are_parsed_with_their_rights() {
        let read = |text| {
            let (pattern, rights) = parse_grant(text).unwrap();
            (pattern.as_str().to_owned(), rights.map(Rights::to_words))
        };
        assert_eq!(read("chat:*"), ("chat:*".to_owned(), None));
        let some = Some(vec!["subscribe", "history"]);
        assert_eq!(read("chat:*=subscribe,history"), ("chat:*".to_owned(), some));
        assert_eq!(read("room=5"), ("room=5".to_owned(), None));
        assert_eq!(read("room=5=publish"), ("room=5".to_owned(), Some(vec!["publish"])));
        assert!(parse_grant("a*b").is_err() && parse_grant("chat:*=write").is_err());
    }
}
