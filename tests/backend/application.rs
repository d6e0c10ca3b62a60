//! Applications of the guide.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::wait_until;

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A folder of the test's own, removed at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("seawall-backend-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file that only this user can read.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A free port, below those that the kernel chooses: no other server of the tests takes it before
/// the application does.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16 % 100 * 100;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The languages of the guide.
pub(crate) const LANGUAGES: [&str; 2] = ["py", "mjs"];

/// Returns the code of the guide in a language.
fn guide_code(language: &str) -> String {
    let guide = include_str!("../../src/backend/BACKEND.md");
    let fence = format!("\n```{language}\n");
    let (_, rest) = guide.split_once(&fence).expect("the guide has code in this language");
    let (code, _) = rest.split_once("```\n").expect("the code ends");
    code.to_owned()
}

/// An application of the guide, in a process of its own.
pub(crate) struct Application {
    child: Child,
    port: u16,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Application {
    /// Starts it and waits until it listens.
    pub(crate) fn start(folder: &Folder, language: &str, port: u16) -> Self {
        Self::start_code(folder, language, port, &guide_code(language))
    }

    /// Does the same with a server of this module of Node, which speaks TLS.
    pub(crate) fn start_tls(folder: &Folder, module: &str, files: &(PathBuf, PathBuf)) -> Self {
        let create = if module == "http2" { "createSecureServer" } else { "createServer" };
        let (chain, key) = files;
        let options = format!(
            "{{ cert: readFileSync('{}'), key: readFileSync('{}') }}, async (request",
            chain.display(),
            key.display()
        );
        let code = guide_code("mjs");
        let code = code.replace("node:http", &format!("node:{module}"));
        let code = code.replace("createServer", create).replace("async (request", &options);
        assert!(code.contains(create) && code.contains(&options), "the guide has changed");
        Self::start_code(folder, "mjs", free_port(), &code)
    }

    fn start_code(folder: &Folder, language: &str, port: u16, code: &str) -> Self {
        let root = env!("CARGO_MANIFEST_DIR");
        let mut command = if language == "py" {
            let path = folder.write("application.py", code);
            let mut command = Command::new(format!("{root}/.cache/venv/bin/python"));
            command.arg(path);
            command
        } else {
            let path = folder.write("application.mjs", code);
            let modules = folder.path().join("node_modules");
            if !modules.exists() {
                let installed = format!("{root}/.cache/node/node_modules");
                std::os::unix::fs::symlink(installed, modules).unwrap();
            }
            let mut command = Command::new("node");
            command.arg(path);
            command
        };
        let secret = folder.write("app.secret", SECRET);
        command.env("APP_SECRET_FILE", secret).env("PORT", port.to_string());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("run scripts/check.sh --install");
        let events = Arc::<Mutex<Vec<Value>>>::default();
        let (lines, shared) =
            (BufReader::new(child.stdout.take().unwrap()).lines(), events.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                shared.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        wait_until("the application listens", || {
            assert!(child.try_wait().unwrap().is_none(), "the application has ended");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { child, port, events }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/events", self.port)
    }

    pub(crate) fn hook_url(&self) -> String {
        format!("http://127.0.0.1:{}/hooks", self.port)
    }

    /// Returns its address if it speaks TLS.
    pub(crate) fn tls_url(&self) -> String {
        format!("https://localhost:{}/events", self.port)
    }

    /// Returns the events so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap().clone()
    }

    /// Waits for an event, and returns it.
    #[track_caller]
    pub(crate) fn await_event(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        wait_until(what, || {
            found = self.events().into_iter().find(&is_it);
            found.is_some()
        });
        found.unwrap()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
