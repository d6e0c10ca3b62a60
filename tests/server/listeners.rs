//! Where it listens: IPv6, both families, Unix sockets, several at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::raw::{close, request_with};
use crate::support::{Raw, Server, metrics};

fn socket_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("seawall-{name}-{}.sock", std::process::id()))
}

fn connect_unix(path: &PathBuf) -> Raw<UnixStream> {
    let stream = UnixStream::connect(path).expect("the server listens there");
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    Raw::over(stream)
}

#[test]
fn ipv6() {
    let server = Server::start_with(&["--listen", "[::1]:0"], "");
    assert!(server.address().is_ipv6());
    Raw::open(server.address()).echo("six");
}

#[test]
fn the_ipv6_wildcard_takes_both_families_unless_told_otherwise() {
    for only_v6 in [false, true] {
        let config = format!(
            "[[listener]]\naddress = \"[::]:0\"\nonly_v6 = {only_v6}\n\
             [auth]\nallow_anonymous = true\n"
        );
        let server = Server::start_with(&["--shards", "2"], &config);
        let port = server.address().port();
        Raw::open(SocketAddr::new("::1".parse().unwrap(), port)).echo("six");
        let four = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if only_v6 {
            let refused = std::net::TcpStream::connect(four).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        } else {
            Raw::open(four).echo("four");
        }
    }
}

#[test]
fn a_unix_socket_has_no_tcp_to_ask_and_says_so() {
    let path = socket_path("asked");
    let server = Server::start_with(&["--listen", &format!("unix:{}", path.display())], "");
    let mut client = connect_unix(&path);
    client.send(&request_with("/ws", ""));
    client.switched();
    let asked = |path: &str| -> serde_json::Value {
        let (status, body) = metrics::get(server.admin(), path);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    let id = asked("/v1/connections")["connections"][0]["connection"].take();
    let one = asked(&format!("/v1/connections/{}", id.as_str().unwrap()));
    assert!(one["tcp"].is_null(), "{one}");
    assert!(one["tcp_error"].as_str().unwrap().starts_with("TCP_INFO unavailable: "), "{one}");
}

#[test]
fn a_unix_socket() {
    let path = socket_path("unix");
    let mut server = Server::start_with(&["--listen", &format!("unix:{}", path.display())], "");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut clients: Vec<_> = (0..20).map(|_| connect_unix(&path)).collect();
    for client in &mut clients {
        client.upgrade();
        client.echo("local");
    }
    server.signal("TERM");
    for client in &mut clients {
        assert_eq!(client.frame().close_code(), 1001);
        client.send(&close(1001));
        client.end();
    }
    assert!(server.wait(Duration::from_secs(10)).success());
    // Left behind by a server that was killed, such a file is replaced at the next start.
    let server = Server::start_with(&["--listen", &format!("unix:{}", path.display())], "");
    connect_unix(&path).upgrade();
    drop(server);
    let _ = std::fs::remove_file(path);
}

/// Two addresses at once, each with options of its own.
#[test]
fn two_listeners() {
    let path = socket_path("two");
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"unix:{}\"\n\
         proxy_protocol = true\n",
        path.display()
    );
    let server = Server::start_with(&["--shards", "2"], &config);
    assert_eq!(server.listeners().len(), 2, "{:?}", server.listeners());
    let mut tcp = Raw::open(server.address_of(0));
    let mut unix = connect_unix(&path);
    unix.send(b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n");
    unix.upgrade();
    tcp.echo("over the network");
    unix.echo("through a proxy on this host");
    let _ = std::fs::remove_file(path);
}

#[test]
fn flags_name_as_many_listeners_as_wanted() {
    let server = Server::start_with(&["--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"], "");
    for listener in 0..2 {
        Raw::open(server.address_of(listener)).echo("both");
    }
}
