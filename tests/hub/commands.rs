//! The commands that ask a running server, as an operator types them.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::client::{Client, KEYS, OPEN, got, token};
use crate::support::{Server, wait_until};

struct Shell<'s> {
    place: String,
    environment: Vec<(&'s str, &'s str)>,
}

impl Shell<'_> {
    fn of(server: &Server) -> Self {
        Self { place: format!("http://{}", server.admin()), environment: Vec::new() }
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_seawall"))
            .args(arguments)
            .args(["--url", &self.place])
            .env_remove("SEAWALL_API_KEY")
            .envs(self.environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Standard output of a command that succeeds.
    #[track_caller]
    fn says(&self, arguments: &[&str]) -> String {
        succeeded(self.run(arguments, ""))
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.says(&[arguments, &["--json"]].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// Standard error of a command that fails.
    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        failed(&self.run(arguments, ""))
    }
}

#[track_caller]
fn succeeded(output: Output) -> String {
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(said.lines().count() == 1 && said.starts_with("seawall: "), "{said}");
    said
}

#[test]
fn publish() {
    let server = Server::start("");
    let shell = Shell::of(&server);
    let mut client = Client::open(&server);
    client.subscribe("chat:a/b");
    let said = shell.says(&["publish", "chat:a/b", "{\"n\": 1.50}"]);
    assert!(said.starts_with("chat:a/b is at offset 1 of epoch "), "{said}");
    assert!(client.next_text().contains("\"content\":{\"n\": 1.50}"), "byte for byte");
    succeeded(shell.run(&["publish", "chat:a/b"], "[\"from a pipe\"]\n"));
    succeeded(shell.run(&["publish", "chat:a/b", "-", "--text"], "two \"lines\"\nof text\n"));
    assert_eq!(client.contents(2), [json!(["from a pipe"]), json!("two \"lines\"\nof text")]);
    let answer = shell.json(&["publish", "chat:a/b", "1", "--key", "k"]);
    assert_eq!((&answer["offset"], &answer["duplicate"]), (&json!(4), &Value::Null));
    let said = shell.says(&["publish", "chat:a/b", "1", "--key", "k"]);
    assert!(said.contains("offset 4") && said.contains("before"), "{said}");
    assert!(shell.fails(&["publish", "chat:a/b", "hello"]).contains("--text"));
    assert!(shell.fails(&["publish", "two words", "1"]).contains("rejected (400)"));
    assert_eq!(client.contents(1), [1]);
    shell.says(&["publish", "chat:a/b", "-7"]);
    assert_eq!(client.contents(1), [-7]);
}

#[test]
fn connections_and_channels_are_shown() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let shell = Shell::of(&server);
    assert_eq!(shell.says(&["connections"]), "no connections\n");
    assert_eq!(shell.says(&["channels"]), "no channels\n");
    let mut clients: Vec<_> =
        ["ann", "ann", "b\u{1b}b"].map(|user| Client::open_as(&server, user)).into();
    for client in &mut clients {
        client.subscribe("room:1");
        client.subscribe("room:2");
    }
    clients[0].subscribe("else");
    let said = shell.says(&["connections"]);
    assert_eq!(said.lines().count(), 4, "{said}");
    assert!(said.starts_with("CONNECTION ") && !said.contains('\u{1b}'), "{said}");
    for client in &clients {
        assert!(said.contains(&client.connection()), "{said}");
    }
    assert_eq!(shell.says(&["connections", "--user", "ann"]).lines().count(), 3);
    assert!(shell.says(&["connections", "--limit", "2"]).contains("--limit"));
    let all = shell.json(&["connections", "--address", "127.0.0.1"]);
    assert_eq!(all["connections"].as_array().unwrap().len(), 3);
    let id = clients[0].connection();
    let said = shell.says(&["connections", &id]);
    for part in ["ann", &id, "room:1", "else", "/ws", " ago", "tcp rtt us", "tcp segment bytes"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(shell.json(&["connections", &id])["user"], "ann");
    let said = shell.says(&["channels", "--prefix", "room:"]);
    assert_eq!(said, "CHANNEL  MEMBERS\nroom:1   3\nroom:2   3\n");
    assert_eq!(shell.json(&["channels"])["channels"]["else"]["members"], 1);
    let said = shell.says(&["channels", "room:1"]);
    assert!(said.contains("users      2") && said.contains("member     ann"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said}");
    assert!(shell.fails(&["channels", "nothing"]).contains("404"));
    let gone = shell.fails(&["connections", "AAAAAAAAAAAAAAAAAAA"]);
    assert!(gone.contains("404"), "{gone}");
}

/// Names and info with all that acts on a terminal: ESC, the one-byte CSI, a title, DEL, marks that
/// turn the order of letters.
#[test]
fn nothing_from_outside_acts_on_a_terminal() {
    let hostile = "ev\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{7f}\r\n\u{202e}il\u{2066}\u{200f}";
    let server = Server::start(&format!("{KEYS}{OPEN}presence = true\n"));
    let shell = Shell::of(&server);
    let claims = json!({"sub": hostile, "info": {hostile: [hostile]}});
    let mut client = Client::open_with_token(&server, &token(claims));
    client.subscribe("room");
    let id = client.connection();
    let is_harmless = |text: &str| {
        let is_active = |c: char| {
            c.is_control() && c != '\n' || matches!(c, '\u{200f}' | '\u{202e}' | '\u{2066}')
        };
        assert!(!text.contains(is_active), "{text:?}");
        text.to_owned()
    };
    for (arguments, lines) in [
        (&["connections"][..], 2),
        (&["connections", &id], usize::MAX),
        (&["channels"], 2),
        (&["channels", "room"], 5),
    ] {
        let said = is_harmless(&shell.says(arguments));
        assert!(lines == usize::MAX || said.lines().count() == lines, "no line is forged: {said}");
        let shown = said.contains("ev\\u{1b}]0;title");
        assert_eq!(shown, arguments != ["channels"], "{said}");
        let json = is_harmless(&shell.says(&[arguments, &["--json"]].concat()));
        serde_json::from_str::<Value>(&json).expect("it is JSON all the same");
    }
    let listed = shell.json(&["connections", &id]);
    assert_eq!(listed["user"], hostile, "escapes of JSON leave the value");
    for arguments in
        [&["channels", hostile][..], &["publish", hostile, "1"], &["connections", hostile]]
    {
        is_harmless(&shell.fails(arguments));
    }
    is_harmless(&shell.says(&["kick", "--user", hostile, "--json"]));
    let mut token = Command::new(env!("CARGO_BIN_EXE_seawall"));
    let claims = json!({"sub": hostile, "info": hostile});
    token.args(["token", "--key-secret", "0123456789abcdef0123456789abcdef", "--check"]);
    let output = token.arg(crate::client::token(claims)).output().unwrap();
    let said = is_harmless(&succeeded(output));
    assert!(said.contains("user      ev\\u{1b}]0;title"), "{said}");
}

#[test]
fn many_channels_are_listed_page_by_page() {
    let server = Server::start("[hub]\nchannels_per_connection_max = 3000\n");
    let mut client = Client::open(&server);
    for n in 0..1500 {
        client.send(json!({"type": "subscribe", "channel": format!("c{n:04}")}).to_string());
    }
    (0..1500).for_each(|_| drop(client.expect("subscribed")));
    let said = Shell::of(&server).says(&["channels", "--limit", "2000"]);
    assert_eq!(said.lines().count(), 1501);
    assert!(said.ends_with("c1499    1\n"), "{}", &said[said.len() - 40..]);
}

#[test]
fn kick() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let shell = Shell::of(&server);
    let mut anns = [0, 1].map(|_| Client::open_as(&server, "ann"));
    let mut bob = Client::open_as(&server, "bob");
    for client in anns.iter_mut().chain([&mut bob]) {
        client.subscribe("a");
        client.subscribe("b");
    }
    let id = bob.connection();
    let said = shell.says(&["kick", "--connection", &id, "--channel", "a", "--channel", "b"]);
    assert_eq!(said, "2 connections were unsubscribed\n");
    for channel in ["a", "b"] {
        assert_eq!(bob.expect("unsubscribed")["channel"], channel);
    }
    let said = shell.says(&["kick", "--user", "ann", "--code", "4000", "--reason", "bye"]);
    assert_eq!(said, "2 connections were disconnected\n");
    for ann in &mut anns {
        let goodbye = ann.expect("goodbye");
        assert_eq!((&goodbye["code"], &goodbye["reason"]), (&json!(4000), &json!("bye")));
    }
    wait_until("they are gone", || {
        got(&server, "/v1/connections?user=ann")["connections"] == json!([])
    });
    let nobody = shell.run(&["kick", "--user", "ann", "--json"], "");
    assert_eq!(nobody.status.code(), Some(1));
    assert_eq!(serde_json::from_slice::<Value>(&nobody.stdout).unwrap()["disconnected"], 0);
    assert_eq!(shell.run(&["kick"], "").status.code(), Some(2));
    let both = ["kick", "--user", "a", "--connection", "b"];
    assert_eq!(shell.run(&both, "").status.code(), Some(2));
    let code = shell.run(&["kick", "--user", "a", "--code", "7"], "");
    assert_eq!(code.status.code(), Some(2));
    assert!(String::from_utf8(code.stderr).unwrap().contains("3000 to 4999"));
}

#[test]
fn keys_are_asked_for_and_given() {
    let secret = "a-secret-of-the-backend";
    let server = Server::start(&format!("[[api_key]]\nsecret = \"{secret}\"\n"));
    let mut shell = Shell::of(&server);
    let said = shell.fails(&["channels"]);
    assert!(said.contains("--api-key") && said.contains("SEAWALL_API_KEY"), "{said}");
    let wrong = shell.fails(&["channels", "--api-key", "not-the-secret"]);
    assert!(wrong.contains("[[api_key]]") && !wrong.contains("not-the-secret"), "{wrong}");
    shell.says(&["channels", "--api-key", secret]);
    shell.environment = vec![("SEAWALL_API_KEY", secret)];
    shell.says(&["publish", "a", "1"]);
    assert_eq!(shell.json(&["channels"])["channels"], json!({"a": {"members": 0}}));
}

#[test]
fn what_cannot_be_reached_is_told() {
    // Nobody listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut shell = Shell { place: format!("http://127.0.0.1:{port}"), environment: Vec::new() };
    // No proxy of the environment comes between.
    shell.environment = vec![("http_proxy", "http://127.0.0.1:1"), ("ALL_PROXY", "socks5://a:1")];
    for arguments in [&["channels"][..], &["publish", "a", "1"], &["kick", "--user", "a"]] {
        let said = shell.fails(arguments);
        assert!(said.contains("cannot reach") && said.contains("--url"), "{said}");
    }
    shell.place = "unix:/nowhere/seawall.sock".to_owned();
    assert!(shell.fails(&["channels"]).contains("unix:/nowhere/seawall.sock"));
    shell.place = "127.0.0.1:9100".to_owned();
    assert!(shell.fails(&["channels"]).contains("http://HOST:PORT"));
    // Something else answers there.
    let server = Server::start("");
    shell.place = format!("http://{}", server.address());
    assert!(shell.fails(&["channels"]).contains("404"));
}

#[test]
fn the_configuration_names_the_place_and_unix_sockets_will_do() {
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let socket = folder.join(format!("admin-{}.sock", std::process::id()));
    let admin = format!("unix:{}", socket.display());
    let _server = Server::start_at(&admin, &["--listen", "127.0.0.1:0", "--shards", "1"], "");
    let shell = Shell { place: admin.clone(), environment: Vec::new() };
    shell.says(&["publish", "a", &format!("\"{}\"", "x".repeat(50_000))]);
    assert!(shell.says(&["channels"]).contains('a'));
    let config = folder.join(format!("commands-{}.toml", std::process::id()));
    std::fs::write(&config, format!("[admin]\nlisten = \"{admin}\"\n")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_seawall"))
        .args(["channels", "--json", "--config", config.to_str().unwrap()])
        .output()
        .unwrap();
    let answer: Value = serde_json::from_str(&succeeded(output)).unwrap();
    assert_eq!(answer["channels"]["a"]["members"], 0);
    std::fs::write(&config, "[admin]\nlisten = \"\"\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_seawall"))
        .args(["channels", "--config", config.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(failed(&output).contains("--url"));
    std::fs::remove_file(config).unwrap();
}

#[test]
fn drain() {
    let mut server = Server::start("");
    let client = Client::open(&server);
    let shell = Shell::of(&server);
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| shell.run(&["drain", "--wait"], ""));
        let mut client = client;
        assert_eq!(client.closed(), 1001);
        assert_eq!(server.wait(std::time::Duration::from_secs(20)).code(), Some(0));
        waiting.join().unwrap()
    });
    let said = String::from_utf8(waiting.stdout).unwrap();
    assert!(
        waiting.status.success() && said.starts_with("draining: 1 connection is closed"),
        "{said}"
    );
    let gone = shell.fails(&["drain"]);
    assert!(gone.contains(&shell.place), "the server is gone: {gone}");
}

/// With --json, what the server wrote is printed as it is: numbers above all.
#[test]
fn json_is_printed_as_the_server_wrote_it() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let shell = Shell::of(&server);
    let info = "{\"n\": 1.50e+7, \"big\": 12345678901234567890123, \"z\":-0}";
    let claims = json!({"sub": "ann", "info": "INFO"});
    let token = crate::client::token_of(&claims.to_string().replace("\"INFO\"", info));
    let mut client = Client::open_with_token(&server, &token);
    client.subscribe("room");
    let said = shell.says(&["channels", "room", "--json"]);
    assert!(said.contains(&format!("\"info\":{info}")), "{said}");
    let id = client.connection();
    for (arguments, path) in [
        (&["channels"][..], "/v1/channels?limit=100"),
        (&["connections"], "/v1/connections?limit=100"),
        (&["connections", &id], &format!("/v1/connections/{id}")),
    ] {
        let raw = crate::client::call(&server, &format!("GET {path}"), "", "").body;
        let said = shell.says(&[arguments, &["--json"]].concat());
        // Times are those of the call.
        let lasting = |text: &str| {
            let text = text.trim_end().split("\"tcp\"").next().unwrap();
            let (head, tail) = text.split_once("\"since\":").unwrap_or((text, ""));
            format!("{head}{}", tail.trim_start_matches(|c: char| c.is_ascii_digit()))
        };
        assert_eq!(lasting(&said), lasting(&raw), "{arguments:?}");
    }
}
