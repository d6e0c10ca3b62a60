//! A load on a path that is not made for it ends with a message, and results say where they come
//! from.

use crate::run::bench;
use crate::server::hub::{Script, TestHub};
use crate::server::{Behaviour, TestServer};

#[test]
fn a_load_on_a_wrong_path_ends_and_names_the_path() {
    let echo = TestServer::start(Behaviour::default());
    let hub = TestHub::start(Script::default());
    let short: &[&str] = &["--timeout", "0.5", "--duration", "0.2", "--warmup", "0"];
    let on_echo = bench("fanout", &echo.url(), &[short, &["--subscribers", "2"]]);
    assert_eq!(on_echo.code(), Some(1), "{}", on_echo.stderr());
    assert!(on_echo.stderr().contains("does a hub of this --dialect"), "{}", on_echo.stderr());
    let on_hub = bench("echo", &hub.url("/ws"), &[short, &["--connections", "2"]]);
    assert!(on_hub.code().is_some_and(|code| code != 0), "{}", on_hub.stderr());
    assert!(!on_hub.stderr().is_empty());
    let silent = TestServer::start(Behaviour { silent_at: Some(0), ..Behaviour::default() });
    let on_silent = bench("echo", &silent.url(), &[short, &["--connections", "2"]]);
    assert_eq!(on_silent.code(), Some(1), "{}", on_silent.stderr());
}

#[test]
fn a_result_says_where_it_comes_from() {
    let server = TestServer::start(Behaviour::default());
    let url = format!("{}?token=secret", server.url());
    let few: &[&str] = &["--connections", "2", "--warmup", "0", "--duration", "0.2"];
    let request: &[&str] = &["--header", "X-Tenant: a", "--token", "t1", "--token", "t2"];
    let run = bench("echo", &url, &[few, request]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    for key in ["load", "url", "date", "host", "kernel", "version"] {
        assert!(run.json[key].as_str().is_some_and(|text| !text.is_empty()), "{:#}", run.json);
    }
    assert_eq!((&run.json["load"], &run.json["url"]), (&"echo".into(), &server.url().into()));
    assert!(!run.json.to_string().contains("secret"), "{:#}", run.json);
}
