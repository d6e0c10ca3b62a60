//! The client library as others install it: from npm's package, into programs in TypeScript and in
//! workers of a browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Server;
use crate::{alone, root, tool};

/// A folder with the package installed, and nothing else.
fn installed(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // What an earlier run has left.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("package.json"), "{\"private\": true, \"type\": \"module\"}").unwrap();
    let npm = |arguments: &[&str]| {
        let output = Command::new("timeout")
            .args(["100", "npm"])
            .args(arguments)
            .args(["--offline", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(&folder)
            .output()
            .expect("coreutils are there");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "npm {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    let web = root().join("src/web");
    let packed = npm(&["pack", web.to_str().unwrap()]);
    let packed = format!("./{}", packed.trim());
    npm(&["install", &packed]);
    folder
}

#[test]
fn the_package_holds_what_a_program_needs() {
    let folder = installed("package-import");
    let mut files: Vec<_> = fs::read_dir(folder.join("node_modules/seawall"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["package.json", "seawall.d.ts", "seawall.js"]);
    let program = folder.join("program.mjs");
    let text = "import { Seawall, SeawallError } from \"seawall\";\n\
        console.log(new Seawall(\"ws://a\").state, new SeawallError(\"limit\", \"x\").code);\n";
    fs::write(&program, text).unwrap();
    assert_eq!(alone(Command::new("node").arg(program)), "idle limit\n");
    // Straight from the folder, too.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package-link");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let web = root().join("src/web");
    let arguments = ["100", "npm", "install", "--offline", "--no-audit", "--no-fund"];
    let output = Command::new("timeout").args(arguments).arg(web).current_dir(&folder).output();
    assert!(output.unwrap().status.success());
    assert!(folder.join("node_modules/seawall/seawall.js").exists());
}

#[test]
fn its_types_hold_in_a_strict_program() {
    let tsc = tool(root().join(".cache/node/node_modules/typescript/bin/tsc"));
    let folder = installed("package-types");
    fs::copy(root().join("tests/clients/consumer.ts"), folder.join("consumer.ts")).unwrap();
    for (library, module) in [("dom", "nodenext"), ("webworker", "nodenext"), ("dom", "esnext")] {
        let resolution = if module == "esnext" { "bundler" } else { "nodenext" };
        let output = Command::new("timeout")
            .args(["100", "node"])
            .arg(&tsc)
            .args(["--strict", "--noEmit", "--exactOptionalPropertyTypes", "--target", "es2022"])
            .args(["--lib", &format!("es2022,{library}"), "--types", ""])
            .args(["--module", module, "--moduleResolution", resolution, "consumer.ts"])
            .current_dir(&folder)
            .output()
            .expect("coreutils are there");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{library} {module}: {said}");
    }
}

#[test]
fn it_runs_in_a_worker() {
    tool(root().join(".cache/node/node_modules/playwright-core"));
    tool(PathBuf::from("/usr/bin/chromium"));
    let route = "[[route]]\npath = \"/ws\"\nhandler = \"hub\"\norigins = [\"*\"]\n";
    let server = Server::start(route);
    let mut node = Command::new("node");
    node.arg("tests/clients/library_in_worker.mjs").arg(root().join(".cache/node"));
    node.arg(server.address().to_string());
    assert!(alone(&mut node).ends_with("all passed\n"));
}
