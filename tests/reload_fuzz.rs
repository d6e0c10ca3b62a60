//! Reloads with random values of every option, ten a second, amid connections that are in the
//! middle of everything: the server goes on, nothing leaks, and a bystander's echo keeps working.
//!
//! A short run by default; `scripts/fuzz-reload.sh` sets how long it is and its seed.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use flate2::{Compress, Compression, FlushCompress};
use seawall::config::file::SECTIONS;
use seawall::config::file::table::{Kind, Row, Section};
use seawall::config::{Given, Written};
use support::raw::{BINARY, CONTINUATION, FIN, PING, TEXT, frame, request_with};
use support::{Raw, Server, wait_until};
use toml::{Table, Value};

const CLIENTS: usize = 36;
const EACH: Duration = Duration::from_millis(100);
/// Not taken from the table: addresses and the process, which tests choose, keys, without which
/// clients can do more.
const LEFT_OUT: [&str; 7] =
    ["listener", "certificate", "tls", "admin", "process", "key", "api_key"];
/// What may rightly end or limit the bystander's echo.
const LIMITING: [&str; 13] = [
    "rates.",
    "timeouts.",
    "limits.connections",
    "limits.handshakes",
    "limits.memory",
    "limits.outbox",
    "limits.partial",
    "limits.head",
    "limits.target",
    "route.ping",
    "route.pong",
    "route.idle",
    "route.connect",
];

/// Numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 33) as usize) % bound
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        // Half of it repeats, so that it compresses by a half.
        (0..len).map(|at| if at % 64 < 32 { self.below(256) as u8 } else { 7 }).collect()
    }
}

fn value(row: &Row, random: &mut Random) -> Option<Value> {
    let number = |value: u64| Value::Integer(value.min(i64::MAX as u64) as i64);
    let default = (row.default)();
    Some(match row.kind {
        Kind::Switch => Value::Boolean(random.below(2) == 0),
        Kind::Choice(words) => Value::String(random.pick(words).to_owned()),
        Kind::Number { max } => {
            let default = default.as_integer().unwrap_or_default() as u64;
            let near = [default, default / 2, default.saturating_mul(2), default + 1];
            number(match random.below(8) {
                0 => random.below(3) as u64,
                1 | 2 => random.below(300) as u64,
                3 | 4 => random.below(200_000) as u64,
                5 => max.min(1 << random.below(40)),
                _ => random.pick(&near).min(max),
            })
        }
        Kind::Text | Kind::List => return None,
    })
}

fn is_limiting(section: &Section, row: &Row) -> bool {
    LIMITING.iter().any(|start| format!("{}.{}", section.name, row.key).starts_with(start))
}

fn random_table(section: &Section, random: &mut Random, gentle: bool) -> Table {
    let mut table = Table::new();
    for row in section.rows {
        let left_out = gentle && is_limiting(section, row);
        if random.below(3) == 0 && !left_out && !section.path(row).starts_with("auth.jwks") {
            let value = value(row, random);
            table.extend(value.map(|value| (row.key.to_owned(), value)));
        }
    }
    table
}

/// The routes are those that clients know, and some that come and go.
fn routes(section: &Section, random: &mut Random, gentle: bool) -> Vec<Value> {
    let mut paths = vec![("/echo", Some("echo")), ("/ws", Some("hub"))];
    let others = ["/a", "/b", "/c", "/d"].map(|path| (path, None));
    paths.extend(others.into_iter().filter(|_| random.below(2) == 0));
    let route = |(path, handler): (&str, Option<&str>)| {
        let mut table = random_table(section, random, gentle);
        let handler = handler.unwrap_or_else(|| random.pick(&["echo", "hub", "gateway", "pusher"]));
        table.insert("path".to_owned(), Value::String(path.to_owned()));
        table.insert("match".to_owned(), Value::String("exact".to_owned()));
        table.insert("handler".to_owned(), Value::String(handler.to_owned()));
        Value::Table(table)
    };
    paths.into_iter().map(route).collect()
}

/// The one application, which does not answer: the list of applications cannot change.
fn backend(section: &Section, random: &mut Random, gentle: bool) -> Table {
    let mut table = random_table(section, random, gentle);
    let secret = support::secrets::webhook_secret_file();
    table.insert("hook_url".to_owned(), Value::String("http://127.0.0.1:1/hooks".to_owned()));
    let links = vec![Value::String("ws://127.0.0.1:1/link".to_owned())];
    table.insert("links".to_owned(), Value::Array(links));
    // An application's name cannot change either.
    table.insert("name".to_owned(), Value::String("app".to_owned()));
    table.insert("secret_files".to_owned(), Value::Array(vec![Value::String(secret)]));
    table
}

/// The one app: the first one cannot be added to a running server, nor can a webhook.
fn app(section: &Section, random: &mut Random, gentle: bool) -> Table {
    let mut table = random_table(section, random, gentle);
    let webhook = "http://127.0.0.1:1/webhook";
    let texts = [("id", "1"), ("key", "key"), ("secret", "a secret"), ("webhook_url", webhook)];
    for (key, value) in texts {
        table.insert(key.to_owned(), Value::String(value.to_owned()));
    }
    let kinds = random.pick(&["cache_miss", "client_event", "member_added"]);
    let kinds = (random.below(2) == 0).then(|| Value::Array(vec![Value::String(kinds.to_owned())]));
    table.extend(kinds.map(|kinds| ("webhook_events".to_owned(), kinds)));
    table
}

fn random_config(random: &mut Random, gentle: bool) -> Table {
    let mut file = Table::new();
    for section in SECTIONS.iter().filter(|section| !LEFT_OUT.contains(&section.name)) {
        let value = match section.name {
            "" => {
                file.extend(random_table(section, random, gentle));
                continue;
            }
            "route" => Value::Array(routes(section, random, gentle)),
            "channel" => {
                let patterns = ["*", "news", "chat:*"];
                let channel = |pattern: &str| {
                    let mut table = random_table(section, random, gentle);
                    table.insert("pattern".to_owned(), Value::String(pattern.to_owned()));
                    Value::Table(table)
                };
                Value::Array(patterns.into_iter().map(channel).collect())
            }
            "backend" => Value::Array(vec![Value::Table(backend(section, random, gentle))]),
            "app" => Value::Array(vec![Value::Table(app(section, random, gentle))]),
            _ => Value::Table(random_table(section, random, gentle)),
        };
        file.insert(section.name.to_owned(), value);
    }
    if gentle && let Some(limits) = file.get_mut("limits").and_then(Value::as_table_mut) {
        let bytes = limits.get("message_bytes_max").and_then(Value::as_integer);
        limits.extend(bytes.map(|b| ("message_bytes_max".to_owned(), Value::Integer(b.max(16)))));
    }
    file
}

/// A configuration that the server takes: what is wrong by itself or with others goes.
fn valid_config(random: &mut Random, gentle: bool) -> String {
    let mut last_error = None;
    for _ in 0..1000 {
        let mut file = random_config(random, gentle);
        for _ in 0..200 {
            let text = toml::to_string(&file).unwrap();
            let given = Given { file: Some(("f".to_owned(), text.clone())), ..Given::default() };
            let checked =
                Written::new(&given).and_then(|written| written.validate(20_000, 2).map(drop));
            let Err(error) = checked else { return text };
            let key = error.key.clone().unwrap_or_default();
            last_error = Some(error);
            let mut words = key.split('.');
            let (section, key) = (words.next().unwrap(), words.next_back().unwrap_or_default());
            let removed = match file.get_mut(section) {
                Some(Value::Table(table)) => table.remove(key).is_some(),
                Some(Value::Array(tables)) => {
                    let tables = tables.iter_mut().filter_map(Value::as_table_mut);
                    tables.filter_map(|table| table.remove(key)).count() > 0
                }
                _ => file.remove(section).is_some(),
            };
            if !removed {
                break;
            }
        }
    }
    panic!("no random configuration is valid: {last_error:?}");
}

/// A message without context, compressed.
fn compressed(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::fast(), false);
    let mut out = Vec::with_capacity(payload.len() * 2 + 64);
    compress.compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
    out.truncate(out.len() - 4);
    let cut = out.len() / 2;
    match first & FIN {
        // In two fragments.
        0 => [frame(first | 0x40, &out[..cut]), frame(FIN | CONTINUATION, &out[cut..])].concat(),
        _ => frame(first | 0x40, &out),
    }
}

/// What a client says, from its request on.
fn script(random: &mut Random) -> Vec<u8> {
    let path = random.pick(&["/echo", "/echo", "/ws", "/ws", "/a", "/b", "/c", "/d"]);
    let takeover = random.pick(&["", "; client_max_window_bits", "; server_no_context_takeover"]);
    let extension = format!("Sec-WebSocket-Extensions: permessage-deflate{takeover}\r\n");
    let is_compressed = random.below(2) == 0;
    let protocol = if path == "/ws" { "Sec-WebSocket-Protocol: seawall.v1\r\n" } else { "" };
    let extension = if is_compressed { extension.as_str() } else { "" };
    let mut bytes = request_with(path, &format!("{protocol}{extension}"));
    for _ in 0..=random.below(12) {
        let len = random.pick(&[0, 10, 125, 126, 5_000, 70_000, 300_000]);
        let payload = random.bytes(len);
        bytes.extend(match random.below(if path == "/ws" { 14 } else { 8 }) {
            0 | 1 => frame(FIN | BINARY, &payload),
            2 => [
                frame(BINARY, &payload),
                frame(CONTINUATION, b"between"),
                frame(FIN | PING, b"in between"),
                frame(FIN | CONTINUATION, &payload),
            ]
            .concat(),
            3 if is_compressed => compressed(FIN | BINARY, &payload),
            4 if is_compressed => compressed(BINARY, &payload),
            5 if is_compressed => compressed(FIN | TEXT, &vec![b'a'; len * 4]),
            6 => frame(FIN | PING, &payload[..len.min(125)]),
            0..8 => frame(FIN | TEXT, "text ".repeat(len / 5).as_bytes()),
            request => {
                let channel = random.pick(&["news", "chat:1", "x"]);
                let verb = ["subscribe", "publish", "history", "presence", "ping", "unsubscribe"];
                let text = format!(
                    "{{\"type\":\"{}\",\"id\":\"1\",\"channel\":\"{channel}\",\"content\":\"{}\"}}",
                    verb[request - 8],
                    "c".repeat(len.min(9_000))
                );
                frame(FIN | TEXT, text.as_bytes())
            }
        });
    }
    bytes
}

/// A connection that says a piece of its script at each step.
struct Client {
    stream: TcpStream,
    script: Vec<u8>,
    said: usize,
    reads: bool,
}

impl Client {
    fn new(address: SocketAddr, random: &mut Random) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nonblocking(true).unwrap();
        Some(Self { stream, script: script(random), said: 0, reads: random.below(4) > 0 })
    }

    /// Returns whether it continues.
    fn step(&mut self, random: &mut Random) -> bool {
        let left = &self.script[self.said..];
        // Mostly small pieces, so that headers are cut; sometimes all.
        let most = random.pick(&[1, 3, 40, 400, 4_000, 100_000, usize::MAX]);
        let piece = &left[..left.len().min(most)];
        match self.stream.write(piece) {
            Ok(0) if !piece.is_empty() => return false,
            Ok(said) => self.said += said,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        let mut buffer = [0; 16_000];
        while self.reads {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        let done = self.said == self.script.len();
        !(done && random.below(20) == 0) && random.below(300) > 0
    }
}

/// One bystander that sends little and expects its echo.
struct Bystander {
    raw: Raw,
    said: u32,
}

impl Bystander {
    fn echo(&mut self) {
        self.said += 1;
        let text = self.said.to_string();
        self.raw.send(&support::raw::text(&text));
        loop {
            let frame = self.raw.frame();
            match frame.first {
                first if first == FIN | PING => {
                    self.raw.send(&support::raw::frame(FIN | support::raw::PONG, &frame.payload));
                }
                _ => {
                    assert_eq!(frame, support::Frame::text(&text));
                    return;
                }
            }
        }
    }
}

const BASE: &str = "[[route]]\npath = \"/echo\"\n[[route]]\npath = \"/ws\"\nhandler = \"hub\"\n\
    [[channel]]\npattern = \"*\"\nsubscribe = \"anyone\"\npublish = \"anyone\"\n";

fn looks_alive(server: &Server) {
    let log = server.log();
    for word in ["panicked", "shard failed", "configuration rejected"] {
        assert!(!log.contains(word), "{}", &log[log.find(word).unwrap().saturating_sub(3_000)..]);
    }
}

fn run(seed: u64, reloads: u32, gentle: bool) {
    println!("seed {seed}, {reloads} reloads, {}", if gentle { "gentle" } else { "wild" });
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let secret = support::secrets::webhook_secret_file();
    let backend = format!("[[backend]]\nhook_url = \"http://a\"\nsecret_files = [{secret:?}]\n");
    let app = "[[app]]\nid = \"1\"\nkey = \"key\"\nsecret = \"a secret\"\n\
               webhook_url = \"http://a\"\n";
    let base = format!("{BASE}{backend}{app}");
    let mut server = Server::start(&base);
    let mut bystander = gentle.then(|| Bystander { raw: Raw::open(server.address()), said: 0 });
    let mut clients: Vec<Option<Client>> = (0..CLIENTS).map(|_| None).collect();
    for reload in 0..reloads {
        let config = valid_config(&mut random, gentle);
        std::fs::write(server.config(), &config).unwrap();
        server.signal("HUP");
        let until = Instant::now() + EACH;
        while Instant::now() < until {
            let at = random.below(CLIENTS);
            let client = &mut clients[at];
            if !client.as_mut().is_some_and(|client| client.step(&mut random)) {
                *client = Client::new(server.address(), &mut random);
            }
            if let Some(bystander) = &mut bystander {
                bystander.echo();
            }
        }
        if reload % 10 == 9 {
            looks_alive(&server);
        }
    }
    let said = server.reload(&base);
    assert!(said.contains("configuration reloaded"), "{said}");
    looks_alive(&server);
    if let Some(mut bystander) = bystander {
        bystander.echo();
        println!("{} echoes of the bystander", bystander.said);
    }
    // The limits of the last configuration but one end a moment after the reload: shards take the
    // new one over in their next turn, and memory is weighed ten times a second.
    wait_until("a connection is admitted as at the beginning", || {
        Raw::try_open(server.address()).is_some_and(|mut raw| {
            raw.echo("as at the beginning");
            true
        })
    });
    drop(clients);
    let gauges = ["connections_open", "handshakes", "partial_bytes", "outbox_bytes"];
    let more = ["compression_contexts", "inflaters_leased", "channel_members", "upkeep_waiting"];
    wait_until("everything has been given back", || {
        let metrics = server.metrics();
        let all = gauges.iter().chain(&more).all(|name| metrics.get(name) == 0);
        all && metrics.sum("shard_connections") == 0 && metrics.sum("buffers_lent") == 0
    });
    server.signal("TERM");
    assert!(server.wait(Duration::from_mins(1)).success(), "{}", server.log());
    looks_alive(&server);
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// How many reloads each of the two runs takes.
fn reloads() -> u32 {
    // Two runs, ten reloads a second.
    (setting("FUZZ_RELOAD_SECONDS", 8) * 10 / 2).max(1) as u32
}

#[test]
fn random_reloads_leave_others_their_echo() {
    run(setting("FUZZ_RELOAD_SEED", 1), reloads(), true);
}

#[test]
fn wild_reloads_end_nothing() {
    run(setting("FUZZ_RELOAD_SEED", 1) + 1, reloads(), false);
}
