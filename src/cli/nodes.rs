//! `seawall nodes`: lists the nodes of a cluster.

use std::process::ExitCode;

use serde_json::Value;

use super::remote::{Remote, format_table, text_of};

/// Lists the nodes of the cluster that a running server is part of.
///
/// Exit codes: 0 done; 1 the server cannot be reached.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  seawall nodes\n  seawall nodes --json")]
pub(super) struct Arguments {
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    arguments.remote.run(|api| api.get("/v1/nodes", &[]), format_nodes)
}

fn format_nodes(answer: &Value) -> String {
    let nodes = answer["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    if nodes.is_empty() {
        return "no cluster: this server is alone, or has not reached the engine yet\n".to_owned();
    }
    let titles = ["NODE", "NAME", "VERSION", "SHARDS", "CONNECTIONS", "STATE"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for one in nodes {
        let state = match (one["lost"] == true, one["draining"] == true, one["own"] == true) {
            (true, ..) => format!("silent for {} s", one["silent_ms"].as_u64().unwrap_or(0) / 1000),
            (_, true, _) => "draining".to_owned(),
            (.., true) => "this one".to_owned(),
            _ => "present".to_owned(),
        };
        rows.push(vec![
            format!("{:08x}", one["node"].as_u64().unwrap_or(0)),
            text_of(one, "name").to_owned(),
            text_of(one, "version").to_owned(),
            one["shards"].to_string(),
            one["connections"].to_string(),
            state,
        ]);
    }
    format_table(&rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_are_shown_with_their_state() {
        let node = |own: bool, lost: bool| {
            json!({"node": 255, "name": "a:1", "version": "1.0", "shards": 2, "connections": 7,
                "draining": false, "own": own, "lost": lost, "silent_ms": 12_000})
        };
        let shown = format_nodes(&json!({"nodes": [node(true, false), node(false, true)]}));
        assert!(shown.contains("000000ff") && shown.contains("this one"), "{shown}");
        assert!(shown.contains("silent for 12 s"), "{shown}");
        assert!(format_nodes(&json!({"nodes": []})).contains("no cluster"));
    }
}
