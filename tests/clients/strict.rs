//! Replies that contain what others wrote, read as a whole by the JSON readers of two languages.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::support::Server;
use crate::support::metrics::{get, request};

/// Contents as members send them; those that no strict reader takes are rejected where they enter.
const CONTENTS: [(&str, bool); 10] = [
    ("12345678901234567890123", true),
    ("1.7976931348623157e308", true),
    ("\"\\ud83d\\ude00 \\u0000 \u{9b}\u{2028}\"", true),
    ("{\"b\":1,\"a\":[2,{}],\"b\":3}", true),
    ("1e-400", true),
    ("\"cut \\ud83d\"", false),
    ("{\"\\udc00\":1}", false),
    ("1e400", false),
    ("[-1E999]", false),
    ("\"\\ud83d\\ud83d\\ude00\"", false),
];

const PYTHON: &str = "
import json, math, sys
def number(text):
    value = float(text)
    assert math.isfinite(value), text
    return value
reply = json.loads(sys.stdin.read(), parse_float=number)
json.dumps(reply, ensure_ascii=False).encode()
print(len(reply['messages']))
";

const NODE: &str = "
const text = require('fs').readFileSync(0, 'utf8');
const reply = JSON.parse(text, (key, value) => {
  if (typeof value === 'number' && !Number.isFinite(value)) throw new Error(key);
  encodeURIComponent(typeof value === 'string' ? key + value : key);
  return value;
});
console.log(reply.messages.length);
";

fn read_with(mut command: Command, reply: &str) -> String {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it is installed");
    child.stdin.take().unwrap().write_all(reply.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{reply}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn strict_readers_take_every_history() {
    let server = Server::start("");
    for (content, is_readable) in CONTENTS {
        let body = format!("{{\"channel\":\"room\",\"content\":{content}}}");
        let headers = format!(
            "Host: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            server.admin(),
            body.len()
        );
        let stream = TcpStream::connect(server.admin()).unwrap();
        let status = request(stream, "POST /v1/publish", &headers, &body).status;
        assert_eq!(status, if is_readable { 200 } else { 400 }, "{content}");
    }
    let (status, reply) = get(server.admin(), "/v1/channels/room/history");
    assert_eq!(status, 200, "{reply}");
    let mut python = Command::new(crate::tool(crate::root().join(".cache/venv/bin/python")));
    python.args(["-c", PYTHON]);
    let mut node = Command::new("node");
    node.args(["-e", NODE]);
    for command in [python, node] {
        assert_eq!(read_with(command, &reply), "5");
    }
}
