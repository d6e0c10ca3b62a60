//! Examples: each program in a document runs against a server, and prints the message `hello` that
//! it has published and received.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::Server;
use crate::{Block, all_blocks, root, scratch};

/// Longer than any example takes; one that hangs is ended.
const SECONDS_MAX: &str = "120";
/// Nothing else listens here, so that a port once free stays free until the page is served there.
const PAGE_ADDRESS: &str = "127.0.0.78";

/// The app of the guide for its clients.
const APP: &str = "[[route]]\npath = \"/app\"\nhandler = \"pusher\"\n[[app]]\nid = \"1\"\n\
                   key = \"app-key\"\nsecret = \"app-secret\"\n";

fn tool(path: &str) -> PathBuf {
    let path = if path.starts_with('/') { path.into() } else { root().join(path) };
    assert!(path.exists(), "{} is missing: run scripts/check.sh --install", path.display());
    path
}

/// Runs a program until it prints `hello`, and ends it then.
fn expect_hello(command: &mut Command, place: &str) {
    let program = command.get_program().to_owned();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut timed = Command::new("timeout");
    timed.arg(SECONDS_MAX).arg(program).args(arguments);
    timed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    timed.current_dir(command.get_current_dir().expect("an example has a folder"));
    timed.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = timed.spawn().expect("coreutils are there");
    let mut said = String::new();
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    for line in lines.map_while(Result::ok) {
        said.push_str(&line);
        said.push('\n');
        if line.contains("hello") {
            // `timeout` passes the signal on.
            let end = format!("kill -TERM {}", child.id());
            let _ = Command::new("sh").args(["-c", &end]).status();
            child.wait().expect("a child can be waited for");
            return;
        }
    }
    let status = child.wait().expect("a child can be waited for");
    let mut errors = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut errors).unwrap();
    panic!("{place}: {status}, and no hello:\n{said}{errors}");
}

/// An example that is about to run.
struct Example<'e> {
    block: &'e Block,
    folder: &'e Path,
    /// Its text, on the ports of the test.
    text: &'e str,
    /// Where a page of it is served.
    page: SocketAddr,
}

/// Runs all examples of a language; `prepare` writes the program and says how it is run.
fn run(language: &str, at_least: usize, prepare: impl Fn(&Example<'_>) -> Command) {
    let all = all_blocks().into_iter().filter(|block| block.language == language);
    let mut count = 0;
    for (number, block) in all.filter(|block| block.not_run.is_none()).enumerate() {
        let free = TcpListener::bind((PAGE_ADDRESS, 0)).unwrap().local_addr().unwrap();
        let origin = format!("http://{free}");
        let arguments = ["--listen", "127.0.0.1:0", "--route-origins", &origin];
        let config = if block.place.contains("PUSHER.md") { APP } else { "" };
        let server = Server::start_with(&arguments, config);
        let text = block.text.replace("127.0.0.1:9000", &server.address().to_string());
        let text = text.replace("127.0.0.1:9100", &server.admin().to_string());
        let folder = scratch(&format!("{language}-{number}"));
        let example = Example { block: &block, folder: &folder, text: &text, page: free };
        let mut command = prepare(&example);
        expect_hello(command.current_dir(&folder), &block.place);
        fs::remove_dir_all(&folder).unwrap();
        count += 1;
    }
    assert!(count >= at_least, "the documents have {count} examples in {language}");
}

/// A folder where the packages `seawall`, `ws`, `pusher` and `pusher-js` are installed.
fn install_packages(folder: &Path) {
    let packages = folder.join("node_modules");
    fs::create_dir(&packages).unwrap();
    symlink(root().join("src/web"), packages.join("seawall")).unwrap();
    for name in ["ws", "pusher", "pusher-js"] {
        symlink(tool(&format!(".cache/node/node_modules/{name}")), packages.join(name)).unwrap();
    }
}

/// The page is served at an address that is an origin of the server's routes.
fn open_in_browser(example: &Example<'_>, page: &str) -> Command {
    fs::write(example.folder.join("page.html"), page).unwrap();
    tool("/usr/bin/chromium");
    let mut node = Command::new("node");
    node.arg(root().join("tests/documents/page.mjs")).arg(root().join(".cache/node"));
    node.arg(example.page.ip().to_string()).arg(example.page.port().to_string());
    node.arg(example.folder.join("page.html"));
    node
}

/// Modules that import the library from the server run in a browser, the others in Node.
#[test]
fn javascript() {
    run("js", 2, |example @ Example { folder, text, .. }| {
        if text.contains("from \"http://") {
            return open_in_browser(example, &format!("<script type=\"module\">{text}</script>"));
        }
        install_packages(folder);
        fs::write(folder.join("example.mjs"), text).unwrap();
        let mut node = Command::new("node");
        // Resolves the package where it is linked, as if it were installed.
        node.args(["--preserve-symlinks", "example.mjs"]);
        // Where the packages' own dependencies are.
        node.env("NODE_PATH", tool(".cache/node/node_modules"));
        node
    });
}

#[test]
fn html() {
    run("html", 1, |example| open_in_browser(example, example.text));
}

#[test]
fn typescript() {
    run("ts", 1, |Example { block, folder, text, .. }| {
        install_packages(folder);
        fs::write(folder.join("package.json"), "{\"type\": \"module\"}").unwrap();
        fs::write(folder.join("example.ts"), text).unwrap();
        let compiled = Command::new("node")
            .arg(tool(".cache/node/node_modules/typescript/bin/tsc"))
            .args(["--strict", "--target", "es2022", "--lib", "es2022,dom", "--types", ""])
            .args(["--module", "nodenext", "--preserveSymlinks", "example.ts"])
            .current_dir(folder)
            .output()
            .expect("node is there");
        let said = String::from_utf8_lossy(&compiled.stdout).into_owned();
        assert!(compiled.status.success(), "{}: {said}", block.place);
        let mut node = Command::new("node");
        node.args(["--preserve-symlinks", "example.js"]);
        node
    });
}

#[test]
fn python() {
    run("python", 1, |Example { folder, text, .. }| {
        fs::write(folder.join("example.py"), text).unwrap();
        let mut python = Command::new(tool(".cache/venv/bin/python"));
        python.arg("-u").arg("example.py");
        python
    });
}

#[test]
fn go() {
    run("go", 1, |Example { folder, text, .. }| {
        fs::write(folder.join("example.go"), text).unwrap();
        // Debian's packages are found by their paths, without modules and without a network.
        let mut go = Command::new(tool("/usr/bin/go"));
        go.args(["run", "example.go"]);
        go.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
        go.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache"));
        go
    });
}

#[test]
fn php() {
    run("php", 1, |Example { folder, text, .. }| {
        fs::write(folder.join("example.php"), text).unwrap();
        let mut php = Command::new(tool("/usr/bin/php"));
        php.arg("example.php");
        php
    });
}
