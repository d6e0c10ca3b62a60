//! `seawall token`, as an operator types it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::keys::{EC, ED, RSA, SECRET};

fn seawall(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.arg("token").args(arguments).output().unwrap()
}

fn made(arguments: &[&str]) -> String {
    let output = seawall(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.is_empty(), "{said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What `--check` says, and whether the token was taken.
fn checked(token: &str, arguments: &[&str]) -> (bool, String) {
    let output = seawall(&[&["--check", token], arguments].concat());
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

fn file(name: &str, text: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("token-{}-{name}", std::process::id()));
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn secret() -> String {
    format!("--key-secret={}", std::str::from_utf8(SECRET).unwrap())
}

fn line<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(found, _)| *found == name).map(|(_, value)| value.trim())
}

#[test]
fn what_it_makes_is_what_it_takes() {
    let secret = secret();
    let settings = ["--key-id=k1", &secret, "--auth-audience=us", "--auth-issuer=me"];
    let token = made(
        &[
            &["--user", "ann", "--expires", "15m", "--info", "{\"name\":\"Ann\"}"][..],
            &["--channel", "news", "--channel", "chat:*=subscribe,history"],
            &settings[..],
        ]
        .concat(),
    );
    let (taken, said) = checked(&token, &settings);
    assert!(taken, "{said}");
    let head: Value = serde_json::from_str(line(&said, "head").unwrap()).unwrap();
    assert_eq!((&head["kid"], &head["alg"]), (&"k1".into(), &"HS256".into()));
    let claims: Value = serde_json::from_str(line(&said, "claims").unwrap()).unwrap();
    assert_eq!((&claims["aud"], &claims["iss"]), (&"us".into(), &"me".into()));
    assert_eq!(line(&said, "user"), Some("ann"));
    assert_eq!(line(&said, "info"), Some("{\"name\":\"Ann\"}"));
    assert!(said.contains("news  subscribe publish presence history"), "{said}");
    assert!(said.contains("chat:*  subscribe history"), "{said}");
    assert_eq!(line(&said, "valid"), Some("as a connection token"));
    let (taken, said) = checked(&token, &["--key-id=k2", &secret, "--auth-audience=them"]);
    assert!(!taken && said.contains("unknown_key") && said.contains("audience"), "{said}");
    let channel = made(&[&["--channel-token", "news=subscribe"], &settings[..]].concat());
    let (taken, said) = checked(&channel, &settings);
    assert!(taken && said.contains("as a channel token"), "{said}");
    assert!(said.contains("news  subscribe\n"), "{said}");
}

#[test]
fn private_keys_sign_too() {
    for pair in [&*RSA, &*EC, &*ED] {
        let name = pair.algorithm.name();
        let private = file(&format!("{name}.pem"), &pair.private);
        let public = file(&format!("{name}.pub"), &pair.public);
        let settings = [
            "--key-id=k".to_owned(),
            format!("--key-algorithm={name}"),
            format!("--key-public-key-file={public}"),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let signs = ["--private-key", &private, "--algorithm", name];
        let token = made(&[&["--user", "ann"], &signs[..], &settings].concat());
        let (taken, said) = checked(&token, &settings);
        assert!(taken, "{name}: {said}");
        // The public half alone cannot.
        let output = seawall(&[&["--user", "ann", "--key", "k"], &settings[..]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("--private-key FILE"), "{said}");
    }
}

#[test]
fn what_cannot_be_made_says_why() {
    let secret = secret();
    let missing = file("none", "").replace("none", "nowhere");
    for (arguments, says) in [
        (&["--user", "ann"][..], "no HS256 [[key]]"),
        (&["--user", "ann", &secret, "--key", "x"], "no [[key]] has the id \"x\""),
        (&["--expires", "1w", &secret], "s, m, h or d"),
        (&["--channel", "a*b", &secret], "`*` is allowed only at the end"),
        (&["--info", "{", &secret], "not JSON"),
        (&["--private-key", &missing, "--algorithm", "ES256"], "cannot read"),
        (&["--private-key", &missing], "--algorithm"),
        (&["--check", "x", "--user", "ann"], "cannot be used with"),
    ] {
        let output = seawall(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(says), "{arguments:?}: {said}");
    }
    let wrong = file("wrong.pem", &EC.private);
    let output = seawall(&["--private-key", &wrong, "--algorithm", "EdDSA"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("private Ed25519 key"), "{said}");
}

#[test]
fn a_token_that_would_not_be_taken_is_told() {
    let secret = secret();
    let output = seawall(&["--user", "", "--expires", "0", &secret]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("`sub` must be"), "{said}");
}
