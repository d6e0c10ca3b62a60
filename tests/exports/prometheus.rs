//! Both texts of `/metrics`, judged by Prometheus itself.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{Folder, converse};
use crate::support::metrics::{get_with, request};
use crate::support::{Server, wait_until};

const INSTALL: &str = "it is installed by scripts/check.sh --install";

#[test]
fn the_text_satisfies_promtool() {
    let server = Server::start("");
    converse(&server, 20);
    let answer = get_with(server.admin(), "/metrics", "");
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(INSTALL);
    let mut stdin = promtool.stdin.take().expect("it is piped");
    stdin.write_all(answer.body.as_bytes()).expect("it reads all");
    drop(stdin);
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).expect("it writes text");
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
}

#[test]
fn openmetrics_comes_to_who_asks_for_it_and_has_the_same_families() {
    let server = Server::start("");
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let openmetrics = get_with(server.admin(), "/metrics", accept);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(openmetrics.header("content-type"), kind);
    assert!(openmetrics.body.ends_with("# EOF\n"));
    let plain = get_with(server.admin(), "/metrics", "Accept: */*\r\n");
    assert!(!plain.body.contains("# EOF"));
    let names = |body: &str| -> Vec<String> {
        let lines = body.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').expect("there is a value").0.to_owned()).collect()
    };
    assert_eq!(names(&plain.body), names(&openmetrics.body));
    let info = concat!("seawall_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n");
    assert!(!plain.body.contains("seconds_total Nanoseconds"), "times are in seconds");
    for expected in [
        info,
        "seawall_uptime_seconds ",
        "seawall_receive_starvations_total ",
        "seawall_ring_overflows_total{shard=\"1\"} ",
        "seawall_interval_log_errors_total 0\n",
        "seawall_turnaround_seconds_bucket{le=\"+Inf\"} ",
        "seawall_send_queue_bytes_count ",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_virtual_memory_bytes ",
        "process_open_fds ",
        "process_max_fds ",
        "process_start_time_seconds ",
        "seawall_connections_max ",
        "seawall_shard_connections_max ",
        "seawall_channels_max ",
        "seawall_shard_busy_seconds_total{shard=\"0\"} ",
        "seawall_shard_idle_seconds_total{shard=\"1\"} ",
    ] {
        for text in [&plain.body, &openmetrics.body] {
            assert!(text.contains(expected), "`{expected}` is missing in\n{text}");
        }
    }
}

/// A process that ends with the test.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn query(prometheus: SocketAddr, expression: &str) -> Option<Value> {
    let encoded: String = expression
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect();
    let stream = TcpStream::connect(prometheus).ok()?;
    let line = format!("GET /api/v1/query?query={encoded}");
    let answer = request(stream, &line, &format!("Host: {prometheus}\r\n"), "");
    let json = answer.body.get(answer.body.find('{')?..=answer.body.rfind('}')?)?;
    let answer: Value = serde_json::from_str(json).expect("Prometheus answers in JSON");
    Some(answer["data"]["result"][0]["value"][1].clone()).filter(Value::is_string)
}

#[test]
fn prometheus_scrapes_and_answers_with_quantiles() {
    let server = Server::start("");
    let folder = Folder::new();
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs: [{{job_name: s, static_configs: [{{targets: ['{}']}}]}}]\n",
        server.admin()
    );
    let path = folder.file("prometheus.yml");
    std::fs::write(&path, config).expect("the folder is ours");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let address = free.expect("there is a free port");
    let _prometheus = Ending(
        Command::new("prometheus")
            .arg(format!("--config.file={path}"))
            .arg(format!("--storage.tsdb.path={}", folder.file("data")))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect(INSTALL),
    );
    let quantile = "histogram_quantile(0.99, sum by (le) \
                    (rate(seawall_turnaround_seconds_bucket[20s])))";
    let mut found = f64::NAN;
    wait_until("Prometheus knows a 99th percentile", || {
        converse(&server, 20);
        let answer = query(address, quantile);
        found = answer.and_then(|v| v.as_str()?.parse().ok()).unwrap_or(f64::NAN);
        found.is_finite()
    });
    assert!(found > 0.0 && found < 100.0, "{found} s");
    assert_eq!(query(address, "up").expect("it is scraped"), "1");
    let version = format!("seawall_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(query(address, &version).expect("it is there"), "1");
    let opened = query(address, "seawall_opened_total").expect("it is a counter");
    assert!(opened.as_str().is_some_and(|count| count != "0"), "{opened}");
}
