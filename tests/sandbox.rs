//! The server as another user, in its sandbox: whole sessions, and denied operations.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::raw::{FIN, TEXT, frame, request_with};
use support::{Raw, Server, process, wait_until};

const CHANNEL: &str =
    "[[channel]]\npattern = \"news\"\nsubscribe = \"anyone\"\npublish = \"anyone\"\n";

fn scratch(name: &str) -> PathBuf {
    let name = format!("sandbox-{}-{name}", std::process::id());
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A user that is not root: another one where these tests may change it, else the present one.
fn unprivileged_user() -> String {
    let own = fs::metadata("/proc/self").unwrap().uid();
    if own == 0 { "nobody".to_owned() } else { own.to_string() }
}

fn start(arguments: &[&str], config: &str) -> Server {
    let common = ["--listen", "127.0.0.1:0", "--shards", "2"];
    Server::start_with(&[&common, arguments].concat(), config)
}

/// What the kernel says of every thread, but for its own workers.
fn threads(server: &Server) -> Vec<HashMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let statuses = tasks.filter_map(|task| {
        // A thread may have ended meanwhile.
        let text = fs::read_to_string(task.unwrap().path().join("status")).ok()?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Some(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    });
    let own = |status: &HashMap<String, String>| !status["Name"].starts_with("iou-");
    statuses.filter(own).collect()
}

/// An issuer of keys on a port of its own; counts how often it is asked.
fn issuer() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            // The public key of RFC 8037, appendix A.2.
            let keys = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","alg":"EdDSA",
                "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
            let _ = stream.write_all(format!("{head} {}\r\n\r\n{keys}", keys.len()).as_bytes());
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (url, asked)
}

/// Echo, channel and numbers work.
fn session(server: &Server) {
    Raw::open(server.address()).echo("an echo");
    let mut member = Raw::connect(server.address());
    member.send(&request_with("/ws", "Sec-WebSocket-Protocol: seawall.v1\r\n"));
    member.switched();
    let hear = |member: &mut Raw, part: &str| {
        for _ in 0..10 {
            let frame = member.frame();
            let heard = String::from_utf8_lossy(&frame.payload);
            if heard.contains(part) {
                return;
            }
            assert!(!heard.contains("\"error\""), "{heard}");
        }
        panic!("{part} did not come");
    };
    for (said, answer) in [
        ("{\"type\":\"subscribe\",\"id\":\"1\",\"channel\":\"news\"}", "\"subscribed\""),
        ("{\"type\":\"publish\",\"id\":\"2\",\"channel\":\"news\",\"content\":7}", "\"content\":7"),
    ] {
        member.send(&frame(FIN | TEXT, said.as_bytes()));
        hear(&mut member, answer);
    }
    let metrics = server.metrics();
    assert!(metrics.get("opened_total") >= 2);
    assert!(metrics.get("memory_used_bytes") > 0, "/proc is within reach");
}

#[test]
fn everything_works_as_nobody_in_the_sandbox() {
    let (url, asked) = issuer();
    let log = scratch("histograms.hlog");
    let config = |more: &str| {
        format!(
            "{CHANNEL}[metrics]\nhistogram_log = \"{}\"\nhistogram_log_interval_s = 1\n[auth]\n\
             allow_anonymous = true\njwks_url = \"{url}\"\n{more}",
            log.display()
        )
    };
    let user = unprivileged_user();
    let mut server = start(&["--sandbox", "--process-user", &user], &config(""));
    let threads = threads(&server);
    assert!(threads.len() >= 4, "shards, control and keys: {}", threads.len());
    for thread in threads {
        let name = &thread["Name"];
        assert_ne!(thread["Uid"].split_whitespace().next(), Some("0"), "{name} is not root");
        let same = |ids: &str| ids.split_whitespace().all(|id| ids.starts_with(id));
        assert!(same(&thread["Uid"]) && same(&thread["Gid"]), "{name}: {thread:?}");
        if is_root() {
            assert_eq!(thread["Groups"].split_whitespace().count(), 1, "{name}: {thread:?}");
            assert_eq!(thread["CapEff"], "0000000000000000", "{name}");
        }
        assert_eq!((thread["NoNewPrivs"].as_str(), thread["Seccomp"].as_str()), ("1", "2"));
    }
    session(&server);
    let before = asked.load(Ordering::Relaxed);
    assert!(before >= 1, "keys were fetched before the first client");
    let said = server.reload(&config("[limits]\nmessage_bytes_max = 1000\n"));
    assert!(said.contains("configuration reloaded"), "{said}");
    wait_until("keys are fetched again", || asked.load(Ordering::Relaxed) > before);
    session(&server);
    wait_until("the log is written", || fs::read_to_string(&log).unwrap().lines().count() > 5);
    server.signal("TERM");
    assert!(server.wait(Duration::from_mins(1)).success(), "{}", server.log());
    assert!(!server.log().contains("ERROR"), "{}", server.log());
    assert!(!server.log().contains("cannot fetch keys"), "{}", server.log());
    fs::remove_file(log).unwrap();
}

#[test]
fn a_reload_reaches_no_file_that_the_start_did_not_name() {
    let keys = scratch("keys.json");
    fs::write(&keys, "{\"keys\":[]}").unwrap();
    let config =
        format!("{CHANNEL}[auth]\nallow_anonymous = true\njwks_file = \"{}\"\n", keys.display());
    let free = start(&[], CHANNEL);
    let said = free.reload(&config);
    assert!(said.contains("configuration reloaded"), "without a sandbox: {said}");
    let guarded = start(&["--sandbox"], CHANNEL);
    if !guarded.log().contains("Landlock (ABI") {
        assert!(guarded.log().contains("the kernel has no Landlock"), "{}", guarded.log());
        return;
    }
    let said = guarded.reload(&config);
    let reason = format!("cannot read {}: Permission denied", keys.display());
    assert!(said.contains(&reason) && said.contains("may be unable to read all files"), "{said}");
    session(&guarded);
    // Named at the start, the same file is within reach, and so is one that takes its place.
    let named = start(&["--sandbox"], &config);
    let other = keys.with_extension("new");
    fs::write(&other, "{\"keys\":[]}").unwrap();
    fs::rename(&other, &keys).unwrap();
    let said = named.reload(&config);
    assert!(said.contains("configuration reloaded"), "{said}");
    fs::remove_file(&keys).unwrap();
}

#[test]
fn sockets_belong_to_the_user_and_root_is_warned_of() {
    let folder = scratch("sockets");
    fs::create_dir_all(&folder).unwrap();
    let (clients, admin) = (folder.join("clients"), folder.join("admin"));
    let listen = format!("unix:{}", clients.display());
    let arguments = ["--listen", &listen, "--process-user", &unprivileged_user()];
    let mut server = Server::start_at(&format!("unix:{}", admin.display()), &arguments, "");
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    let user = threads(&server)[0]["Uid"].split_whitespace().next().unwrap().to_owned();
    assert_ne!(user, "0");
    assert_eq!([owner(&clients).to_string(), owner(&admin).to_string()], [&*user, &*user]);
    server.signal("TERM");
    assert!(server.wait(Duration::from_mins(1)).success(), "{}", server.log());
    assert!(!server.log().contains("runs as root"), "{}", server.log());
    fs::remove_dir_all(folder).unwrap();
    let mut unguarded = start(&[], CHANNEL);
    unguarded.signal("TERM");
    assert!(unguarded.wait(Duration::from_mins(1)).success(), "{}", unguarded.log());
    assert_eq!(unguarded.log().contains("runs as root"), is_root());
}

#[test]
fn who_cannot_be_become_stops_the_start() {
    for (arguments, reason) in [
        (&["--process-user", "no-such-user"][..], "useradd --system no-such-user"),
        (&["--process-group", "nogroup"], "needs process.user"),
        (&["--sandbox", "perhaps"], "true or false"),
    ] {
        let (mut command, config) = process::command(arguments, "");
        let output = run(command.args(["--listen", "127.0.0.1:0", "--admin", ""]));
        fs::remove_file(config).unwrap();
        assert!(output.contains(reason), "{reason}: {output}");
    }
}

/// Standard error of a command that fails at once.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

/// A folder of the user's in which something waits for the server's socket, to put a link to a
/// file of root's in its place.
#[test]
fn a_link_in_a_sockets_place_gives_nothing_away() {
    if !is_root() {
        return;
    }
    let folder = scratch("swapped");
    let (run, victim) = (folder.join("run"), folder.join("victim"));
    let mut swapped = 0;
    for _ in 0..4 {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&run).unwrap();
        fs::write(&victim, "secret").unwrap();
        fs::set_permissions(&victim, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&run, Some(65_534), Some(65_534)).unwrap();
        let listen = format!("unix:{}", run.join("s").display());
        let arguments =
            ["--listen", &listen, "--admin", "", "--process-user", "nobody", "--shards", "2"];
        let (mut command, config) = process::command(&arguments, "");
        let mut child = command.spawn().unwrap();
        let socket = run.join("s");
        while fs::symlink_metadata(&socket).is_err() {
            if child.try_wait().unwrap().is_some() {
                break;
            }
        }
        let removed = fs::remove_file(&socket).is_ok();
        swapped += u32::from(removed && std::os::unix::fs::symlink(&victim, &socket).is_ok());
        // It ends with an error, or it serves.
        let log = std::io::BufReader::new(child.stderr.take().unwrap());
        let lines = std::io::BufRead::lines(log).map_while(Result::ok);
        let ended = lines.into_iter().all(|line| !line.trim_start().starts_with("limits "));
        let after = fs::metadata(&victim).unwrap();
        assert_eq!((after.uid(), after.mode() & 0o7777), (0, 0o600), "root's file was given away");
        if !ended {
            child.kill().unwrap();
        }
        child.wait().unwrap();
        fs::remove_file(config).unwrap();
    }
    assert!(swapped > 0, "nothing was put in the socket's place");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_histogram_log_follows_no_link_as_root_for_another_user() {
    if !is_root() {
        return;
    }
    let folder = scratch("linked-log");
    fs::create_dir_all(&folder).unwrap();
    let (link, victim) = (folder.join("log"), folder.join("victim"));
    fs::write(&victim, "").unwrap();
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&victim, &link).unwrap();
    let link = link.display().to_string();
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "", "--histogram-log", &link];
    let (mut command, config) = process::command(&arguments, "");
    let said = run(command.args(["--process-user", "nobody"]));
    assert!(said.contains("metrics.histogram_log: cannot open"), "{said}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "", "nothing was written through it");
    fs::remove_file(config).unwrap();
    fs::remove_dir_all(&folder).unwrap();
}

/// The key of tickets is created before privileges are dropped, and later starts can read it: as
/// root, as the user, and within the sandbox.
#[test]
fn the_state_directory_belongs_to_the_user_and_keeps_its_key() {
    let folder = scratch("state");
    let _ = fs::remove_dir_all(&folder);
    let user = unprivileged_user();
    let path = folder.to_str().unwrap();
    let key = folder.join("ticket.key");
    let mut found = Vec::new();
    for _ in 0..2 {
        let arguments = ["--sandbox", "--process-user", &user, "--process-state-dir", path];
        let server = start(&arguments, "");
        assert!(server.log().contains("survive a restart"), "{}", server.log());
        session(&server);
        let metadata = fs::metadata(&key).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        let process = fs::metadata(format!("/proc/{}", server.pid())).unwrap();
        assert_eq!(metadata.uid(), process.uid(), "the key belongs to the server's user");
        found.push(fs::read_to_string(&key).unwrap());
    }
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0].trim().len(), 64);
    fs::remove_dir_all(&folder).unwrap();
}
