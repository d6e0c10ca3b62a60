//! Applications over the libraries, each in a process of its own.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::PATIENCE;
use crate::support::wait_until;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) struct Application {
    child: Child,
    port: u16,
    lines: Receiver<String>,
    errors: Arc<Mutex<String>>,
}

/// The command that runs a program, by the ending of its name.
fn interpreter(program: &Path) -> Command {
    let is_python = program.extension().is_some_and(|extension| extension == "py");
    let mut command = if is_python {
        let python = root().join(".cache/venv/bin/python");
        assert!(python.exists(), "run scripts/check.sh --install");
        Command::new(python)
    } else {
        Command::new("node")
    };
    command.arg(program).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("PYTHONPATH", root().join("src/web/link/python"));
    command
}

impl Application {
    /// Starts a program, and waits until it prints the port where it listens.
    pub(crate) fn start(program: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command = interpreter(program);
        command.envs(variables.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().expect("run scripts/check.sh --install");
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let errors = Arc::<Mutex<String>>::default();
        let (shared, mut stderr) = (errors.clone(), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut bytes) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        let mut application = Self { child, port: 0, lines, errors };
        let line = application.line();
        application.port = match line.strip_prefix("listening on ") {
            Some(port) => port.parse().expect("a port"),
            None => panic!("{line}"),
        };
        application
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    #[track_caller]
    fn line(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.unwrap_or_else(|_| panic!("no line: {}", self.errors.lock().unwrap()))
    }

    /// The next event that the application prints.
    #[track_caller]
    pub(crate) fn event(&self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// The next event, which has these fields.
    #[track_caller]
    pub(crate) fn expect(&self, fields: &Value) -> Value {
        let event = self.event();
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(&event[name], value, "{event}");
        }
        event
    }

    /// Waits until it has logged this.
    #[track_caller]
    pub(crate) fn expect_logged(&self, text: &str) {
        wait_until("the application logs it", || self.errors.lock().unwrap().contains(text));
    }

    /// The events up to one that is looked for.
    #[track_caller]
    pub(crate) fn events_until(&self, mut is_it: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            events.push(self.event());
            if events.last().is_some_and(&mut is_it) {
                return events;
            }
        }
    }

    /// Ends it as a supervisor does.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal, by its name without SIG.
    pub(crate) fn signal(&self, name: &str) {
        let (signal, id) = (format!("-{name}"), self.child.id().to_string());
        assert!(Command::new("kill").args([signal, id]).status().unwrap().success());
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The events that nothing has asked for, of one that has ended.
    pub(crate) fn last_events(&self) -> Vec<Value> {
        // The pipe ends with the process.
        self.lines.iter().map(|line| serde_json::from_str(&line).unwrap()).collect()
    }

    /// Waits until it ends; returns whether it has succeeded.
    pub(crate) fn succeeds(&mut self) -> bool {
        let mut status = None;
        wait_until("the application ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.is_some_and(|status| status.success())
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The applications of the tests.
pub(crate) fn programs() -> [PathBuf; 2] {
    ["mjs", "py"].map(|ending| root().join(format!("tests/gateway/application.{ending}")))
}

/// Runs a test with each library.
pub(crate) fn with_each(test: impl Fn(&Application)) {
    for program in programs() {
        println!("with {}", program.display());
        test(&Application::start(&program, &[]));
    }
}
