//! Instances are replaced one by one, while clients talk: nothing is lost, and nothing repeated.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;

use crate::application::{Application, programs};
use crate::live::{Visitor, await_links, handled, start, start_instance};
use crate::support::wait_until;

/// Messages of a client that are under way.
const WINDOW: u64 = 8;

/// Talks until it is to stop, and hears every echo; returns the connection, and the number of its
/// last message.
fn talk(mut visitor: Visitor, progress: &AtomicU64, is_over: &AtomicBool) -> (String, u64) {
    let connection = visitor.who()["connection"].as_str().unwrap().to_owned();
    // The first message was the question above.
    let (mut said, mut heard) = (1, 1);
    loop {
        while said < heard + WINDOW && !is_over.load(Ordering::SeqCst) {
            said += 1;
            visitor.say(&format!("echo {said}"));
        }
        if heard == said {
            return (connection, said);
        }
        heard += 1;
        assert_eq!(visitor.hear(), heard.to_string());
        progress.fetch_add(1, Ordering::SeqCst);
    }
}

/// Drains an instance, and starts another in its place; returns it with the events of the old one.
fn replace(old: Application, program: &std::path::Path, name: &str) -> (Application, Vec<Value>) {
    let mut old = old;
    let port = old.port();
    old.terminate();
    assert!(old.succeeds(), "it ends once its sessions have moved");
    (start_instance(program, name, port), old.last_events())
}

#[test]
fn instances_are_replaced_while_clients_talk() {
    for program in programs() {
        println!("with {}", program.display());
        let mut instances = ["a", "b"].map(|name| Some(start_instance(&program, name, 0)));
        let ports = instances.each_ref().map(|one| one.as_ref().unwrap().port());
        let server = start(&ports, "drain_ms = 600_000\n", "");
        let (progress, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let mut events = Vec::new();
        let clients = std::thread::scope(|scope| {
            let talking: Vec<_> = (0..6)
                .map(|_| {
                    let visitor = Visitor::connect(&server, "");
                    scope.spawn(|| talk(visitor, &progress, &is_over))
                })
                .collect();
            for (at, name) in [(0, "a2"), (1, "b2"), (0, "a3")] {
                let before = progress.load(Ordering::SeqCst);
                wait_until("clients talk", || progress.load(Ordering::SeqCst) > before + 200);
                let old = instances[at].take().unwrap();
                let (new, mut handled) = replace(old, &program, name);
                events.append(&mut handled);
                instances[at] = Some(new);
                await_links(&server, 2);
            }
            is_over.store(true, Ordering::SeqCst);
            talking.into_iter().map(|one| one.join().unwrap()).collect::<BTreeMap<_, _>>()
        });
        // What drains and ends is not lost.
        assert_eq!(server.metrics().get("links_lost_total{backend=\"app\"}"), 0);
        for mut instance in instances.into_iter().flatten() {
            instance.kill();
            events.append(&mut instance.last_events());
        }
        for (connection, last) in clients {
            let mut all = handled(&events, &connection);
            all.sort_unstable();
            let expected: Vec<_> = (1..=last).map(|number| (number, false)).collect();
            assert_eq!(all, expected, "each message was handled once");
        }
    }
}
