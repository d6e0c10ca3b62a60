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
    let server = Server::start(&format!("[[api_key]]\nsecret = \"{SECRET}\"\n"));
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
    // Under any name, but never for a web page.
    let foreign = format!("Host: seawall.example\r\n{key}");
    assert_eq!(ask(&server, "/v1/node", &foreign).status, 200);
    assert_eq!(ask(&server, "/metrics", "Host: seawall.example\r\n").status, 200);
    let page = format!("{foreign}Origin: https://seawall.example\r\n");
    assert_eq!(ask(&server, "/v1/node", &page).status, 403);
    assert!(!server.log().contains(SECRET), "{}", server.log());
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
    assert!(anybody.log().contains("anybody: there are no keys"), "{}", anybody.log());
    assert!(anybody.log().contains("resume.keys"), "{}", anybody.log());
    let config =
        format!("[[key]]\nsecret = \"{SECRET}\"\n[resume]\nkeys = [\"{SECRET}{SECRET}\"]\n");
    let some = Server::start(&config);
    assert!(some.log().contains("clients with tokens"), "{}", some.log());
    assert!(!some.log().contains("resume.keys") && !some.log().contains(SECRET), "{}", some.log());
}
