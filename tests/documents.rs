//! Every command line of the README works: shell blocks run against a server that is started for
//! each, and scripts that are named take the options that they are named with.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use seawall::auth::SigningKey;
use support::raw::request_with;
use support::{Raw, Server, wait_until};

const README: &str = include_str!("../README.md");
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Commands that no test runs, each with the reason.
const NOT_RUN: [(&str, &str); 1] = [("scripts/check.sh", "it runs the tests, this one among them")];

/// Makes a block run beside a server: `serve` ends once it serves, and what `doctor` finds depends
/// on the host.
const PREAMBLE: &str = r#"
seawall() {
    case "$1" in
    serve)
        SEAWALL_LISTEN=127.0.0.1:0 SEAWALL_ADMIN=127.0.0.1:0 command seawall "$@" 2> serve.log &
        pid=$!
        until grep -q '^  limits ' serve.log; do
            kill -0 "$pid" || { cat serve.log >&2; return 1; }
            sleep 0.05
        done
        kill -TERM "$pid"
        wait "$pid"
        ;;
    doctor) command seawall "$@" || [ $? = 1 ] ;;
    *) command seawall "$@" ;;
    esac
}
"#;

fn scratch(number: usize) -> PathBuf {
    let name = format!("documents-{}-{number}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // It may be there from another process with this id.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The shell blocks, in their order.
fn blocks() -> Vec<&'static str> {
    let parts = README.split("```sh\n").skip(1);
    parts.map(|part| part.split_once("```").expect("a block ends").0).collect()
}

/// A block as it is run: on the ports of the test, and without what no test runs.
fn runnable(block: &str, admin: &str) -> String {
    let lines = block.lines().map(|line| {
        if NOT_RUN.iter().any(|(command, _)| line.starts_with(command)) {
            return String::new();
        }
        line.replace("cargo run --release -- ", "seawall ")
            .replace("127.0.0.1:9100", admin)
            .replace(":9000", ":0")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn path_with_the_binary() -> String {
    let folder = Path::new(env!("CARGO_BIN_EXE_seawall")).parent().unwrap();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default())
}

#[test]
fn every_shell_block_runs() {
    let blocks = blocks();
    assert!(blocks.len() >= 5, "the README has shell blocks");
    for (number, block) in blocks.into_iter().enumerate() {
        let server = Server::start(&format!(
            "[[key]]\nsecret = \"{SECRET}\"\n[auth]\nallow_anonymous = true\n[[channel]]\n"
        ));
        // Somebody who can be listed and disconnected.
        let claims = serde_json::json!({"sub": "ann", "exp": u32::MAX});
        let token = SigningKey::secret("", SECRET.as_bytes()).sign(&claims).unwrap();
        let mut ann = Raw::connect(server.address());
        ann.send(&request_with("/ws", &format!("Authorization: Bearer {token}\r\n")));
        ann.switched();
        wait_until("ann is there", || server.metrics().get("connections_open") == 1);
        let folder = scratch(number);
        let admin = server.admin().to_string();
        let script = format!("{PREAMBLE}\nset -eu\n{}", runnable(block, &admin));
        let output = Command::new("sh")
            .args(["-c", &script])
            .current_dir(&folder)
            .env("PATH", path_with_the_binary())
            .env("SEAWALL_ADMIN", &admin)
            .output()
            .expect("there is a shell");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{}\n{block}\n{said}", output.status);
        fs::remove_dir_all(&folder).unwrap();
    }
}

/// Commands in running text and in lines that are set off.
fn named_commands(start: &str) -> Vec<String> {
    let inline = README.split('`').skip(1).step_by(2);
    let set_off = README.lines().filter_map(|line| line.strip_prefix("    "));
    let in_blocks = blocks().into_iter().flat_map(str::lines);
    let all = inline.chain(set_off).chain(in_blocks);
    // A command in running text may be broken over lines.
    let joined = all.map(|command| command.split_whitespace().collect::<Vec<_>>().join(" "));
    joined.filter(|command| command.starts_with(start)).collect()
}

#[test]
fn scripts_take_the_options_that_they_are_named_with() {
    let commands = named_commands("scripts/");
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        let command = command.split('#').next().unwrap_or_default();
        let mut words = command.split_whitespace();
        let path = words.next().expect("a command has a name");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        assert!(path.is_file(), "there is no {}", path.display());
        let options: Vec<&str> = words.filter(|word| word.starts_with("--")).collect();
        if options.is_empty() {
            continue;
        }
        let help = Command::new(&path).arg("-h").output().expect("it can be run");
        let help = String::from_utf8_lossy(&help.stdout);
        for option in options {
            assert!(help.contains(option), "`{command}`: {option} is not in its help:\n{help}");
        }
    }
}

#[test]
fn what_is_not_run_is_still_named() {
    for (command, reason) in NOT_RUN {
        assert!(README.contains(command) && !reason.is_empty(), "{command}");
    }
}
