//! The API's keys at the admin address.

use std::net::TcpStream;

use crate::support::Server;
use crate::support::metrics::{Answer, request};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn ask(server: &Server, path: &str, headers: &str) -> Answer {
    let stream = TcpStream::connect(server.admin()).unwrap();
    request(stream, &format!("GET {path}"), headers, "")
}

#[test]
fn with_keys_everything_but_health_and_metrics_asks_for_one() {
    let mut server = Server::start(&format!("[[api_key]]\nsecret = \"{SECRET}\"\n"));
    let host = format!("Host: {}\r\n", server.admin());
    for (path, without) in
        [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/v1/node", 401), ("/x", 401)]
    {
        assert_eq!(ask(&server, path, &host).status, without, "{path}");
    }
    let refused = ask(&server, "/v1/node", &format!("{host}Authorization: Bearer {SECRET}0\r\n"));
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Bearer"));
    assert!(refused.body.contains("[[api_key]]") && !refused.body.contains(SECRET));
    let key = format!("Authorization: Bearer {SECRET}\r\n");
    assert_eq!(ask(&server, "/v1/node", &format!("{host}{key}")).status, 200);
    let page = format!("{host}{key}Origin: http://{}\r\n", server.admin());
    assert_eq!(ask(&server, "/v1/node", &page).status, 403);
    server.signal("TERM");
    assert_eq!(server.wait(std::time::Duration::from_mins(1)).code(), Some(0));
    assert!(!server.log().contains(SECRET), "{}", server.log());
}

/// A page whose name was made to lead to the admin address (DNS rebinding) names that host.
#[test]
fn with_keys_only_listed_names_and_addresses_are_answered() {
    let keys = format!("[[api_key]]\nsecret = \"{SECRET}\"\n");
    let server = Server::start(&format!("[admin]\nhosts = [\"seawall.internal\"]\n{keys}"));
    let status = |path: &str, host: &str| {
        let key = format!("Host: {host}\r\nAuthorization: Bearer {SECRET}\r\n");
        let (with, without) = (ask(&server, path, &key), format!("Host: {host}\r\n"));
        let without = ask(&server, path, &without).status;
        assert!(with.status != 403 || with.body.contains("admin.hosts"), "{}", with.body);
        (with.status, without)
    };
    for host in ["127.0.0.1:1", "10.1.2.3", "[2001:db8::1]:9100", "SEAWALL.internal:9100"] {
        assert_eq!(status("/metrics", host), (200, 200), "{host}");
        assert_eq!(status("/v1/node", host), (200, 401), "{host}");
    }
    for host in ["evil.example", "evil.example:9100", "127.0.0.1.evil.example", "localhost"] {
        assert_eq!(status("/metrics", host), (403, 403), "{host}");
        assert_eq!(status("/v1/node", host), (403, 401), "{host}");
        assert_eq!(status("/healthz", host), (200, 200), "{host}");
        assert_eq!(status("/readyz", host), (200, 200), "{host}");
    }
}

#[test]
fn metrics_can_ask_for_a_key_too() {
    let server = Server::start(&format!(
        "[admin]\nmetrics_auth = true\n[[api_key]]\nsecret = \"{SECRET}\"\n"
    ));
    let host = format!("Host: {}\r\n", server.admin());
    assert_eq!(ask(&server, "/metrics", &host).status, 401);
    assert_eq!(ask(&server, "/healthz", &host).status, 200);
    let key = format!("{host}Authorization: Bearer {SECRET}\r\n");
    assert_eq!(ask(&server, "/metrics", &key).status, 200);
}

#[test]
fn the_banner_says_who_may_use_the_hub() {
    let anybody = Server::start("");
    assert!(
        anybody.log().contains("anonymous: clients connect without a token"),
        "{}",
        anybody.log()
    );
    assert!(anybody.log().contains("SEAWALL_KEY_SECRET"), "{}", anybody.log());
    let config =
        format!("[[key]]\nsecret = \"{SECRET}\"\n[resume]\nkeys = [\"{SECRET}{SECRET}\"]\n");
    let some = Server::start(&config);
    assert!(some.log().contains("clients need a token"), "{}", some.log());
    assert!(some.log().contains("sealed with resume.keys"), "{}", some.log());
    assert!(!some.log().contains(SECRET), "{}", some.log());
}
