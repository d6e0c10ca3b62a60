//! Greedy clients of every kind, as the load generator has them, against a server of its own: each
//! is set up, sends as much as it may, and affects no other connection. How long the others' echoes
//! take is measured by `scripts/load-hostile.sh`.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
mod support;

use clap::Parser as _;
use seawall_bench::cli::{Cli, Command};
use seawall_bench::hostile::Kind;
use serde_json::Value;

use support::Server;

const GREEDY: u64 = 4;

const ROUTES: &str = r#"
[[route]]
path = "/echo"
[[route]]
path = "/takeover"
compression = "takeover"
[[route]]
path = "/ws"
handler = "hub"
"#;

/// A key, and a token that it signed: {"sub":"greedy","exp":4102444800}, the year 2100.
const KEY: &str = r#"
[[key]]
secret = "0123456789abcdef0123456789abcdef"
"#;
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
                     eyJzdWIiOiJncmVlZHkiLCJleHAiOjQxMDI0NDQ4MDB9.\
                     4DY9roMn_VuyPg41fV_vH6m9n1I2xnuILHgiRocDQE8";

/// What a bounded run of one kind found.
fn run(kind: Kind, server: &Server, arguments: &[&str]) -> Value {
    let name = kind.name();
    let file = std::env::temp_dir().join(format!("seawall-{}-{name}.json", std::process::id()));
    let (url, pid) = (format!("ws://{}/echo", server.address()), server.pid().to_string());
    let fixed = [
        "bench",
        "hostile",
        &url,
        "--kind",
        &name,
        "--server-pid",
        &pid,
        "--json",
        file.to_str().expect("a plain path"),
        "--connections",
        "8",
        "--rate",
        "100",
        "--warmup",
        "0.1",
        "--duration",
        "0.2",
        "--settle",
        "0.2",
        "--large-bytes",
        "300000",
    ];
    let line = fixed.iter().chain(arguments);
    let cli = Cli::try_parse_from(line).expect("the arguments are right");
    let Command::Hostile(args) = cli.command else { panic!("another command") };
    // The verdict is also about how fast this machine is; what was found is in the file.
    let verdict = seawall_bench::run::hostile(&args);
    let text = std::fs::read_to_string(&file);
    let text = text.unwrap_or_else(|error| panic!("{name}: {verdict:?}, and {error}"));
    let _ = std::fs::remove_file(&file);
    serde_json::from_str(&text).expect("the generator writes JSON")
}

#[test]
fn every_kind_is_set_up_and_makes_progress_and_harms_no_other_connection() {
    for kind in Kind::SINGLE {
        let config = if kind == Kind::Tokens { [ROUTES, KEY].concat() } else { ROUTES.to_owned() };
        let server = Server::start(&config);
        let found = run(kind, &server, &["--greedy", "4", "--batches", "2", "--token", TOKEN]);
        let count = |key: &str| found[key].as_u64().unwrap_or_else(|| panic!("{key}: {found:#}"));
        assert_eq!((count("greedy"), count("greedy_ready")), (GREEDY, GREEDY), "{found:#}");
        assert_eq!((count("others_lost"), count("helpers_lost")), (0, 0), "{found:#}");
        assert!(count("greedy_sent_bytes") > 0, "{found:#}");
        match kind {
            // They say nothing after their subscription.
            Kind::Slow => assert_eq!(count("greedy_batches"), 0, "{found:#}"),
            _ => assert_eq!(count("greedy_batches"), 2 * GREEDY, "{found:#}"),
        }
        match kind {
            Kind::Pings => assert!(count("greedy_pongs") > 0, "{found:#}"),
            Kind::Handshakes => assert_eq!(count("greedy_opened"), 2 * GREEDY, "{found:#}"),
            Kind::Tokens => {
                // The forged token and the right one take turns.
                let (good, bad) = (count("greedy_opened"), count("greedy_rejected_401"));
                assert!(good > 0 && bad > 0 && good + bad == 2 * GREEDY, "{found:#}");
            }
            _ => assert!(count("greedy_messages") > 0, "{found:#}"),
        }
    }
}

#[test]
fn a_mix_has_each_kind_at_once() {
    let server = Server::start(ROUTES);
    // Without a token that the server takes, `tokens` is left out.
    let found = run(Kind::Mix, &server, &["--greedy", "16", "--batches", "1"]);
    assert_eq!(found["greedy_ready"], 16, "{found:#}");
    assert_eq!(found["others_lost"], 0, "{found:#}");
    let kinds = found["greedy_batches_by_kind"].as_object().expect("an object");
    for kind in Kind::SINGLE {
        let batches = kinds.get(&kind.name()).and_then(Value::as_u64);
        let expected = match kind {
            Kind::Tokens => None,
            Kind::Slow => Some(0),
            _ => Some(1),
        };
        assert_eq!(batches, expected, "{kind:?}: {found:#}");
    }
}
