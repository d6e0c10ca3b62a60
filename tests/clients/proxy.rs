//! The documented way to serve TLS: the nginx of DEPLOYMENT.md in front of its configuration.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{Server, wait_until};
use crate::{root, tool};

const DOCUMENT: &str = include_str!("../../src/guard/DEPLOYMENT.md");

/// Nothing else listens here, so that a port once free stays free until nginx has it.
const ADDRESS: &str = "127.0.0.77";

/// The first block of a language in the document's section about TLS.
fn block(language: &str) -> &'static str {
    let (_, section) = DOCUMENT.split_once("## TLS by a proxy\n").expect("there is a recipe");
    let (_, rest) = section.split_once(&format!("```{language}\n")).expect("it has this block");
    rest.split_once("```").expect("a block ends").0
}

/// Ended with the test.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        self.0.kill().expect("a child can be killed");
        self.0.wait().expect("a child can be waited for");
    }
}

/// A certificate that signs itself.
fn make_certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=seawall"])
        .args(["-addext", &format!("subjectAltName=IP:{ADDRESS}")])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .current_dir(folder)
        .output()
        .expect("openssl is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn start_nginx(folder: &Path, server: &str, port: u16) -> Nginx {
    make_certificate(folder);
    let site = block("nginx")
        .replace("listen 443 ssl;", &format!("listen {ADDRESS}:{port} ssl;"))
        .replace("/etc/ssl/app.example.pem", "certificate.pem")
        .replace("/etc/ssl/app.example.key", "key.pem")
        .replace("127.0.0.1:9000", server);
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {name};\n"))
        .concat();
    let text = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log;\n\
         events {{}}\nhttp {{\naccess_log off;\n{paths}{site}}}\n"
    );
    fs::write(folder.join("nginx.conf"), text).unwrap();
    let child = Command::new("nginx")
        .args(["-e", "error.log", "-c", "nginx.conf", "-p"])
        .arg(folder)
        .stdin(Stdio::null())
        .spawn()
        .expect("nginx is there: run scripts/check.sh --install");
    let nginx = Nginx(child);
    wait_until("nginx listens", || TcpStream::connect((ADDRESS, port)).is_ok());
    nginx
}

#[test]
fn the_documented_proxy_serves_tls() {
    let config = block("toml").replace("127.0.0.1:9000", "127.0.0.1:0");
    let server = Server::start_with(&[], &config);
    let folder = std::env::temp_dir().join(format!("seawall-proxy-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let free = TcpListener::bind((ADDRESS, 0)).unwrap().local_addr().unwrap().port();
    let nginx = start_nginx(&folder, &server.address().to_string(), free);
    let ran = Command::new("timeout")
        .arg("60")
        .arg(tool(root().join(".cache/venv/bin/python")))
        .arg(root().join("tests/clients/through_a_proxy.py"))
        .arg(format!("wss://{ADDRESS}:{free}/ws"))
        .arg(folder.join("certificate.pem"))
        .arg(format!("http://{}/v1/connections", server.admin()))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("coreutils are there");
    let (said, errors) =
        (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let log = fs::read_to_string(folder.join("error.log")).unwrap_or_default();
    drop(nginx);
    fs::remove_dir_all(&folder).unwrap();
    assert!(ran.status.success() && said.ends_with("all passed\n"), "{said}{errors}{log}");
}
