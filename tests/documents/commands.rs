//! Commands: shell blocks run against a server that is started for each, and commands in running
//! text exist with the options that they are named with.

use std::fs;
use std::path::Path;
use std::process::Command;

use seawall::auth::SigningKey;

use crate::support::raw::request_with;
use crate::support::{Raw, Server, wait_until};
use crate::{Document, all_blocks, documents, root, scratch};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// The key with which the API of the server is asked.
const API_KEY: &str = "fedcba9876543210fedcba9876543210";

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

/// A block as it is run: on the ports of the test.
fn runnable(block: &str, admin: &str) -> String {
    let block = block.replace("cargo run --release -- ", "seawall ");
    block.replace("127.0.0.1:9100", admin).replace(":9000", ":0")
}

fn path_with_the_binary() -> String {
    let folder = Path::new(env!("CARGO_BIN_EXE_seawall")).parent().unwrap();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default())
}

#[test]
fn every_shell_block_runs() {
    let blocks = all_blocks().into_iter();
    let blocks = blocks.filter(|block| block.language == "sh" && block.not_run.is_none());
    let mut count = 0;
    for (number, block) in blocks.enumerate() {
        count += 1;
        let log = scratch(&format!("log-{number}")).join("seawall.hlog");
        let server = Server::start(&format!(
            "[metrics]\nhistogram_log = \"{}\"\n[[key]]\nsecret = \"{SECRET}\"\n[auth]\n\
             allow_anonymous = true\n[[channel]]\n",
            log.display()
        ));
        // A client that can be listed and disconnected.
        let claims = serde_json::json!({"sub": "ann", "exp": u32::MAX});
        let token = SigningKey::from_secret("", SECRET.as_bytes()).sign(&claims).unwrap();
        let mut ann = Raw::connect(server.address());
        ann.send(&request_with("/ws", &format!("Authorization: Bearer {token}\r\n")));
        ann.switched();
        wait_until("ann is there", || server.metrics().get("connections_open") == 1);
        let folder = scratch(&format!("block-{number}"));
        let admin = server.admin().to_string();
        let script = format!("{PREAMBLE}\nset -eu\n{}", runnable(&block.text, &admin));
        let output = Command::new("timeout")
            .args(["60", "sh", "-c", &script])
            .current_dir(&folder)
            .env("PATH", path_with_the_binary())
            .env("SEAWALL_ADMIN", &admin)
            .env("API_KEY", API_KEY)
            .output()
            .expect("there is a shell");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{}: {}\n{said}", block.place, output.status);
        fs::remove_dir_all(&folder).unwrap();
        fs::remove_dir_all(log.parent().unwrap()).unwrap();
    }
    assert!(count >= 8, "only {count} shell blocks were found");
}

/// Commands in running text and in blocks, with their documents.
fn named_commands(start: &str) -> Vec<(String, String)> {
    let in_document = |document: Document| {
        let prose = document.prose();
        let inline = prose.split('`').skip(1).step_by(2).map(str::to_owned);
        let is_command = |language: &str| matches!(language, "sh" | "ini");
        let blocks = document.blocks().into_iter().filter(|block| is_command(&block.language));
        let lines = blocks.flat_map(|block| {
            let text = block.text.replace("\\\n", " ").replace("ExecStart=/usr/local/bin/", "");
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        });
        // A command in running text may be broken over lines.
        let all = inline.chain(lines.collect::<Vec<_>>());
        let joined = all.map(|command| command.split_whitespace().collect::<Vec<_>>().join(" "));
        let named: Vec<_> = joined.filter(|command| command.starts_with(start)).collect();
        named.into_iter().map(move |command| (document.path.clone(), command))
    };
    documents().into_iter().flat_map(in_document).collect()
}

/// The options of a command, without values and comments.
fn options(command: &str) -> Vec<&str> {
    let command = command.split(" #").next().unwrap_or_default();
    let words = command.split_whitespace().filter(|word| word.starts_with("--"));
    words.map(|word| word.split('=').next().unwrap_or(word)).filter(|word| *word != "--").collect()
}

#[test]
fn scripts_take_the_options_that_they_are_named_with() {
    let commands = named_commands("scripts/");
    assert!(commands.len() >= 10, "{commands:?}");
    for (document, command) in commands {
        let name = command.split_whitespace().next().expect("a command has a name");
        let path = root().join(name);
        assert!(path.exists(), "{document}: no {name}");
        if !path.is_file() || options(&command).is_empty() {
            continue;
        }
        let help = Command::new(&path).arg("-h").output().expect("it can be run");
        let help = String::from_utf8_lossy(&help.stdout);
        for option in options(&command) {
            assert!(help.contains(option), "{document}: `{command}`: {option} is not in its help");
        }
    }
}

#[test]
fn the_binary_takes_the_options_that_it_is_named_with() {
    let commands = named_commands("seawall ");
    assert!(commands.len() >= 10, "{commands:?}");
    for (document, command) in commands {
        // Several commands may share a line.
        for command in command.split("&& ").map(str::trim) {
            let Some(rest) = command.strip_prefix("seawall ") else { continue };
            let word = rest.split_whitespace().next().unwrap_or_default();
            if !word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
                continue;
            }
            let seawall = Command::new(env!("CARGO_BIN_EXE_seawall"))
                .args([word, "--help"])
                .output()
                .expect("the binary runs");
            assert!(seawall.status.success(), "{document}: `{command}`: no {word}");
            let help = String::from_utf8_lossy(&seawall.stdout);
            for option in options(command) {
                assert!(help.contains(option), "{document}: `{command}` takes no {option}");
            }
        }
    }
}
