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
    let package = folder.join("node_modules/seawall");
    let names = |part: &str| {
        let entries = fs::read_dir(package.join(part)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let files = ["README.md", "node.js", "package.json", "seawall", "seawall.d.ts", "seawall.js"];
    assert_eq!(names("."), files);
    assert_eq!(names("seawall"), ["base.js", "channel.js"]);
    let program = folder.join("program.mjs");
    let text = "import { Seawall, SeawallError } from \"seawall\";\n\
        console.log(new Seawall(\"ws://a\").state, new SeawallError(\"limit\", \"x\").code);\n";
    fs::write(&program, text).unwrap();
    assert_eq!(alone(Command::new("node").arg(program)), "idle limit\n");
}

/// From the folder itself, with nothing but what Node has or an application has installed.
#[test]
fn node_needs_no_options() {
    tool(root().join(".cache/node/node_modules/ws"));
    let server = Server::start("");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package-node");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let install = |package: &Path| {
        let arguments = ["100", "npm", "install", "--offline", "--no-audit", "--no-fund"];
        let output =
            Command::new("timeout").args(arguments).arg(package).current_dir(&folder).output();
        assert!(output.unwrap().status.success());
    };
    install(&root().join("src/web"));
    let program = folder.join("program.mjs");
    let text = "import { Seawall } from \"seawall\";\n\
        const sw = new Seawall(process.argv[2]);\n\
        try {\n\
            await sw.connect();\n\
            console.log((await sw.publish(\"news\", 1)).offset);\n\
            sw.close();\n\
        } catch ({ code, remedy }) { console.log(`${code}: ${remedy}`); }\n";
    fs::write(&program, text).unwrap();
    let run = |variables: &[(&str, &str)]| {
        let mut node = Command::new("node");
        node.arg(&program).arg(format!("ws://{}/ws", server.address()));
        alone(node.envs(variables.iter().copied()))
    };
    let without = run(&[]);
    let remedy = "bad_request: npm install ws, or pass a class as the option `WebSocket`\n";
    // From Node 22 on there is a class.
    assert!(without == remedy || without == "1\n", "{without}");
    install(&root().join(".cache/node/node_modules/ws").canonicalize().unwrap());
    let offset = run(&[]);
    assert!(offset == "1\n" || offset == "2\n", "{offset}");
    let required = folder.join("program.cjs");
    fs::write(&required, "console.log(typeof require(\"seawall\").Seawall)").unwrap();
    // Where Node can require modules of this kind at all.
    let features = "process.features.require_module ? \"function\" : \"\"";
    let expected = alone(Command::new("node").args(["-p", features]));
    if !expected.trim().is_empty() {
        assert_eq!(alone(Command::new("node").arg(required)), expected);
    }
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
