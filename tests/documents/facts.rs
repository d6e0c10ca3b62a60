//! Facts: configuration that is shown is valid, what is called a default is one, and metrics,
//! options and files that are named exist.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use seawall::config::file::{File, SECTIONS};
use seawall::config::{Config, reference};

use crate::support::Server;
use crate::support::metrics::get_with;
use crate::{Block, all_blocks, documents, root, scratch};

const INSTALL: &str = "it is installed by scripts/check.sh --install";

fn blocks_of(language: &str) -> Vec<Block> {
    let blocks: Vec<Block> =
        all_blocks().into_iter().filter(|block| block.language == language).collect();
    assert!(!blocks.is_empty(), "the documents show {language}");
    blocks
}

/// A file with the secret that a backend needs.
fn webhook_secret(test: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = scratch(test).join("app.secret");
    fs::write(&path, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_configuration_is_valid() {
    for block in blocks_of("toml") {
        let mut file: File =
            toml::from_str(&block.text).unwrap_or_else(|error| panic!("{}: {error}", block.place));
        for backend in &mut file.backends {
            backend.secret_files = vec![webhook_secret("valid")];
            if !backend.link_token_file.is_empty() {
                backend.link_token_file = webhook_secret("token");
            }
        }
        for app in &mut file.apps {
            app.secret_file = webhook_secret("app");
        }
        if let Err(error) = Config::validate(&file, 20_000, 2) {
            panic!("{}: {error}", block.place);
        }
    }
}

/// In a configuration, a comment may say that the value is the default.
#[test]
fn what_is_called_the_default_is_the_default() {
    let mut count = 0;
    for block in blocks_of("toml") {
        let mut section = "";
        for line in block.text.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_matches(['[', ']']).split(']').next().unwrap();
            }
            let Some((setting, comment)) = line.split_once('#') else { continue };
            if !comment.trim_start().starts_with("default") {
                continue;
            }
            let (key, _) = setting.split_once('=').expect("a default is that of an option");
            let table: toml::Table = toml::from_str(setting).unwrap();
            let of = SECTIONS.iter().find(|one| one.name == section).expect("a section");
            let row = of.row(key.trim()).unwrap_or_else(|| panic!("{}: {key}", block.place));
            assert_eq!(table[row.key], (row.default)(), "{}: {}", block.place, row.key);
            count += 1;
        }
    }
    assert!(count >= 3, "only {count} defaults are shown");
}

/// Words that look like options: a field of the protocol's `welcome`, and a host.
const FIELDS: [&str; 2] = ["limits.message_bytes", "app.example"];

/// Options in running text, as `section.key`.
#[test]
fn the_options_that_are_named_exist() {
    let mut count = 0;
    for document in documents() {
        let prose = document.prose();
        for word in prose.split('`').skip(1).step_by(2) {
            let word = word.split(" = ").next().unwrap_or_default();
            let Some((name, key)) = word.split_once('.') else { continue };
            let mut sections = SECTIONS.iter().filter(|section| !section.name.is_empty());
            let Some(section) = sections.find(|section| section.name == name) else { continue };
            let is_pattern = key.contains('…') || key.contains('*');
            if !is_pattern
                && !FIELDS.contains(&word)
                && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            {
                assert!(section.row(key).is_some(), "{}: no option {word}", document.path);
                count += 1;
            }
        }
    }
    assert!(count >= 20, "only {count} options are named");
}

fn is_metric_letter(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

#[test]
fn the_metrics_that_are_named_are_exported() {
    // A limit that is not set is not exported.
    let server = Server::start(&format!(
        "[[backend]]\nevents_url = \"http://127.0.0.1:1\"\n\
         hook_url = \"http://127.0.0.1:1\"\nevents = [\"connected\"]\n\
         links = [\"ws://127.0.0.1:1\"]\n\
         secret_files = [{:?}]\n\
         [limits]\nmemory_bytes_max = 4_000_000_000\n[tls]\ndev = true\n\
         [cluster]\nurls = [\"redis://127.0.0.1:1\"]\n\
         [resume]\nkeys = [\"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"]\n",
        webhook_secret("exported")
    ));
    let text = get_with(server.admin(), "/metrics", "").body;
    let exported: BTreeSet<&str> = text.split(|c| !is_metric_letter(c)).collect();
    let mut named = BTreeSet::new();
    for document in documents() {
        let names = document.text.split(|c| !is_metric_letter(c));
        for name in
            names.filter(|name| name.starts_with("seawall_") || name.starts_with("process_"))
        {
            // Names of the load generator's crate, and of the library for links.
            if ["seawall_bench", "seawall_link", "process_"].contains(&name) {
                continue;
            }
            assert!(exported.contains(name), "{}: {name} is not exported", document.path);
            named.insert(name.to_owned());
        }
    }
    assert!(named.len() >= 20, "the documents explain the metrics: {named:?}");
}

#[test]
fn the_files_that_are_named_exist() {
    let mut count = 0;
    for document in documents() {
        for word in document.text.split(['`', '(', ')', ' ', ',', '\n', '"']) {
            let is_path =
                ["src/", "tests/", "scripts/", "bench/"].iter().any(|p| word.starts_with(p));
            let word = word.trim_end_matches(['.', ':', ';']);
            let word = word.split('#').next().unwrap_or_default();
            if is_path && !word.contains('*') {
                count += 1;
                let exists = root().join(word).exists();
                assert!(exists, "{}: {word} is named and not there", document.path);
            }
        }
    }
    assert!(count >= 40, "only {count} files are named");
}

#[test]
fn the_alert_rules_are_valid() {
    for block in blocks_of("yaml") {
        let folder = scratch("rules");
        fs::write(folder.join("rules.yml"), &block.text).unwrap();
        let checked = Command::new("promtool")
            .args(["check", "rules", "rules.yml"])
            .current_dir(&folder)
            .output()
            .expect(INSTALL);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success(), "{}: {said}", block.place);
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn the_units_are_valid() {
    for block in blocks_of("ini") {
        let folder = scratch("units");
        let unit = block.text.replace("/usr/local/bin/seawall", env!("CARGO_BIN_EXE_seawall"));
        fs::write(folder.join("seawall.service"), unit).unwrap();
        let checked = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "./seawall.service"])
            .current_dir(&folder)
            .output()
            .expect(INSTALL);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        // Lines about other units are those of the host.
        let own = said.lines().find(|line| line.contains("seawall"));
        assert!(checked.status.success() && own.is_none(), "{}: {said}", block.place);
        fs::remove_dir_all(&folder).unwrap();
    }
}

/// `UPDATE_OPTIONS=1 cargo test --test documents` writes it again.
#[test]
fn the_reference_is_printed_from_the_table() {
    let path = root().join("src/config/OPTIONS.md");
    let document = fs::read_to_string(&path).unwrap();
    let start = "<!-- options: printed by `seawall config --markdown` -->\n";
    let end = "<!-- end of options -->";
    let (before, rest) = document.split_once(start).expect("the reference has a beginning");
    let (shown, after) = rest.split_once(end).expect("the reference has an end");
    let expected = format!("{}\n", reference::markdown());
    if shown != expected && std::env::var_os("UPDATE_OPTIONS").is_some() {
        fs::write(path, format!("{before}{start}{expected}{end}{after}")).unwrap();
        return;
    }
    assert!(shown == expected, "run `UPDATE_OPTIONS=1 cargo test --test documents`");
}
