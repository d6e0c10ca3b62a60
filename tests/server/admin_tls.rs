//! The admin address over TLS.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};

use crate::support::metrics::{self, Answer};
use crate::support::tls::{self, Authority};
use crate::support::{Raw, Server, raw};

const TLS: &str = "[admin]\ntls = true\n";

fn start(config: &str) -> Server {
    Server::start_with(&["--listen", "127.0.0.1:0", "--shards", "1"], config)
}

/// A call, whose answer must end as TLS asks for.
fn get(server: &Server, config: &ClientConfig, path: &str) -> Answer {
    let client = tls::connect(server.admin(), config, "localhost");
    metrics::request(client.stream, &format!("GET {path}"), "Host: localhost\r\n", "")
}

/// A value of a metric without labels.
fn number(server: &Server, config: &ClientConfig, name: &str) -> u64 {
    let text = get(server, config, "/metrics").body;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(found, _)| *found == format!("seawall_{name}"));
    found.expect("it is there").1.parse().expect("it is a number")
}

/// The certificate that a caller gets under this name.
fn shown(server: &Server, config: &ClientConfig, name: &str) -> Vec<u8> {
    let mut client = tls::connect(server.admin(), config, name);
    client.stream.conn.complete_io(&mut client.stream.sock).unwrap();
    client.stream.conn.peer_certificates().expect("the server has shown some")[0].to_vec()
}

#[test]
fn calls_are_answered_over_tls_and_only_there() {
    let authority = Authority::new();
    let certificate = authority.write("one", &["localhost"], false);
    let server = start(&format!("{TLS}{certificate}"));
    assert!(server.log().contains("https://127.0.0.1:"), "{}", server.log());
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(version);
        for path in ["/healthz", "/metrics", "/v1/node", "/v1/memory"] {
            assert_eq!(get(&server, &client, path).status, 200, "{path}");
        }
    }
    // A connection serves several requests.
    let mut client = tls::connect(server.admin(), &authority.client(), "localhost");
    for _ in 0..3 {
        client.send(b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = client.head();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
    let plain = metrics::get_with(server.admin(), "/healthz", "");
    assert_eq!(plain.status, 400);
    assert!(plain.body.contains("this address requires TLS; use https://"), "{}", plain.body);
    let mut client = Raw::connect(server.admin());
    client.send(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    let answer = client.rest().unwrap();
    assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
    server.await_log("admin handshake failed");
    // Clients' listeners have options of their own.
    Raw::open(server.address()).echo("without TLS");
}

#[test]
fn callers_show_certificates_where_authorities_are_named() {
    let (authority, other) = (Authority::new(), Authority::new());
    let certificate = authority.write("one", &["localhost"], false);
    let ca = format!("tls_client_ca = \"{}\"\n", authority.file().display());
    let server = start(&format!("{TLS}{ca}{certificate}"));
    let own = authority.sign(&["operator"], false);
    let client = authority.client_with(Some(&own));
    assert_eq!(get(&server, &client, "/v1/node").status, 200);
    let refusal = |own: Option<&(String, String)>| {
        let mut client = tls::connect(server.admin(), &authority.client_with(own), "localhost");
        // Of TLS 1.3, the client's side is over before it is refused.
        let sent = client.stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let read = sent.and_then(|()| client.stream.read(&mut [0; 64]));
        read.expect_err("health is not for everyone either").to_string()
    };
    let said = refusal(None);
    assert!(said.contains("CertificateRequired"), "{said}");
    let said = refusal(Some(&other.sign(&["operator"], false)));
    assert!(said.contains("UnknownCA") || said.contains("DecryptError"), "{said}");
    // Nothing that is read at a reload opens the address.
    let log = server.reload(&certificate);
    assert!(log.contains("admin.tls") && log.contains("admin.tls_client_ca"), "{log}");
    assert!(refusal(None).contains("CertificateRequired"));
    assert_eq!(get(&server, &client, "/v1/node").status, 200);
}

#[test]
fn certificates_are_chosen_by_name_and_exchanged_by_a_reload() {
    let authority = Authority::new();
    let first = authority.write("first", &["localhost"], false);
    let second = authority.write("second", &["ops.test"], false);
    // Also in the sandbox, which leaves these files readable.
    let config = format!("{TLS}[process]\nsandbox = true\n{first}{second}");
    let server = start(&config);
    let client = authority.client();
    let before = ["localhost", "ops.test"].map(|name| shown(&server, &client, name));
    assert_ne!(before[0], before[1]);
    authority.write("second", &["ops.test"], false);
    let mut open = tls::connect(server.admin(), &client, "localhost");
    open.stream.conn.complete_io(&mut open.stream.sock).unwrap();
    let log = server.reload(&config);
    assert!(log.contains("configuration reloaded"), "{log}");
    let after = ["localhost", "ops.test"].map(|name| shown(&server, &client, name));
    assert_eq!(before[0], after[0]);
    assert_ne!(before[1], after[1]);
    let answer = metrics::request(open.stream, "GET /healthz", "Host: localhost\r\n", "");
    assert_eq!(answer.status, 200, "connections stay");
}

/// Runs a command; returns its exit code and what it says.
fn seawall(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    let output = command.args(arguments).env_remove("SEAWALL_API_KEY").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn commands_speak_tls_with_the_server() {
    let (authority, other) = (Authority::new(), Authority::new());
    let certificate = authority.write("one", &["localhost", "127.0.0.1"], false);
    let mut server = start(&format!("{TLS}{certificate}"));
    let _client = Raw::open(server.address());
    let url = format!("https://{}", server.admin());
    let ca = authority.file();
    let ca = ca.to_str().unwrap();
    for command in ["status", "connections", "reload"] {
        let (code, said) = seawall(&[command, "--url", &url, "--admin-ca", ca]);
        assert_eq!(code, Some(0), "{command}: {said}");
    }
    // The address of the configuration, under a name that its certificate has.
    let admin = format!("[admin]\nlisten = \"{}\"\ntls = true\n", server.admin());
    let config = authority.folder().join("admin.toml");
    std::fs::write(&config, format!("{admin}{certificate}")).unwrap();
    let by_config = ["status", "--config", config.to_str().unwrap(), "--admin-ca", ca];
    let (code, said) = seawall(&by_config);
    assert!(code == Some(0) && said.contains("1 open of "), "{said}");
    // What is wrong is said.
    let other = other.file();
    let plain = start("");
    let (plain, http) = (format!("https://{}", plain.admin()), url.replace("https", "http"));
    for (arguments, says) in [
        (["--url", &url, "--admin-ca", other.to_str().unwrap()], "signed its certificate with"),
        (["--url", &plain, "--admin-ca", ca], "it does not speak TLS"),
        (["--url", &http, "--admin-ca", ca], "this address requires TLS; use https://"),
        (["--url", &url, "--admin-ca", "/nonexistent/ca.pem"], "--admin-ca: cannot read"),
    ] {
        let (code, said) = seawall(&[&["status"], &arguments[..]].concat());
        assert!(code == Some(1) && said.contains(says), "{arguments:?}: {said}");
    }
    let (code, said) = seawall(&["drain", "--url", &url, "--admin-ca", ca]);
    assert_eq!(code, Some(0), "{said}");
    assert!(server.wait(Duration::from_mins(2)).success());
}

#[test]
fn commands_show_a_certificate() {
    let (authority, other) = (Authority::new(), Authority::new());
    let certificate = authority.write("one", &["127.0.0.1"], false);
    let ca = authority.file();
    let ca = ca.to_str().unwrap();
    let server = start(&format!("{TLS}tls_client_ca = \"{ca}\"\n{certificate}"));
    let url = format!("https://{}", server.admin());
    let shown = |authority: &Authority| {
        authority.write("operator", &["operator"], false);
        let (chain, key) = authority.paths("operator");
        [chain, key].map(|path| path.to_str().unwrap().to_owned())
    };
    let base = ["status", "--url", &url, "--admin-ca", ca];
    let [chain, key] = shown(&authority);
    let own = ["--admin-cert", &chain, "--admin-key", &key];
    let (code, said) = seawall(&[&base[..], &own].concat());
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = seawall(&base);
    assert!(code == Some(1) && said.contains("it requires a certificate"), "{said}");
    let [chain, key] = shown(&other);
    let foreign = ["--admin-cert", &chain, "--admin-key", &key];
    let (code, said) = seawall(&[&base[..], &foreign].concat());
    assert!(code == Some(1) && said.contains("it rejects the certificate"), "{said}");
    let (code, said) = seawall(&[&base[..], &["--admin-cert", ca, "--admin-key", ca]].concat());
    assert!(code == Some(1) && said.contains("holds no private key"), "{said}");
}

#[test]
fn handshakes_that_stay_incomplete_hold_up_no_other() {
    let authority = Authority::new();
    let certificate = authority.write("one", &["localhost"], false);
    let server = start(&format!("{TLS}{certificate}"));
    let client = authority.client();
    // Some say nothing, some stop in the middle of a record. There are more than places.
    let open = |number: usize| {
        let mut stream = TcpStream::connect(server.admin()).unwrap();
        stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1][..number % 8]).unwrap();
        stream
    };
    let mut waiting: Vec<_> = (0..300).map(open).collect();
    for number in 0..5 {
        assert_eq!(get(&server, &client, "/v1/node").status, 200);
        waiting.extend((0..30).map(|more| open(number + more)));
    }
    assert!(number(&server, &client, "admin_connections") <= 256);
    assert!(number(&server, &client, "admin_evictions_total") >= 190);
    // The last ones are closed by their deadline.
    let mut last = Raw::over(waiting.pop().unwrap());
    assert_eq!(last.rest().unwrap_or_default(), b"");
    let frame = raw::text("served");
    let mut client = Raw::open(server.address());
    client.send(&frame);
    assert_eq!(client.frame().payload, b"served");
}
