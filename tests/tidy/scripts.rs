//! Scripts: shellcheck finds nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn scripts() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["scripts", "scripts/lib"].map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let files = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut scripts: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "sh")).collect();
    scripts.push(root.join(".ci/run"));
    scripts
}

#[test]
fn scripts_pass_shellcheck() {
    let scripts = scripts();
    assert!(scripts.len() > 10, "{scripts:?}");
    let checked = Command::new("shellcheck")
        .arg("--external-sources")
        .args(&scripts)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("shellcheck runs: install it, or run `scripts/check.sh --install` as root");
    let report = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{report}");
}
