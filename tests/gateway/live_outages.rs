//! Instances that are killed, that hang, or that cannot be reached: clients notice nothing.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::application::{Application, programs};
use crate::live::{Visitor, await_links, check_handled, handled, start, start_instance};
use crate::support::Server;

/// A client, its connection, and the instance that it was on first.
struct Guest {
    visitor: Visitor,
    connection: String,
    is_on_first: bool,
}

fn arrive(server: &Server) -> Guest {
    let mut visitor = Visitor::connect(server, "");
    let who = visitor.who();
    let connection = who["connection"].as_str().unwrap().to_owned();
    Guest { visitor, connection, is_on_first: who["instance"] == "a" }
}

/// Connects clients until each of two instances has some.
fn arrive_everywhere(server: &Server) -> Vec<Guest> {
    let mut guests: Vec<Guest> = Vec::new();
    let count = |guests: &[Guest]| guests.iter().filter(|guest| guest.is_on_first).count();
    while count(&guests) < 3 || guests.len() - count(&guests) < 3 {
        assert!(guests.len() < 100, "no session is opened on one of the instances");
        guests.push(arrive(server));
    }
    guests
}

/// Collects events until each of these clients has had this message handled.
fn collect_until(application: &Application, guests: &[&Guest], number: u64) -> Vec<Value> {
    let mut waiting: BTreeSet<&str> = guests.iter().map(|guest| &*guest.connection).collect();
    application.events_until(|event| {
        if event["event"] == "message" && event["number"] == number {
            waiting.remove(event["connection"].as_str().unwrap());
        }
        waiting.is_empty()
    })
}

fn say_echoes(guests: &mut [Guest], numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        guests.iter_mut().for_each(|guest| guest.visitor.say(&format!("echo {number}")));
    }
}

/// Ends one of two instances while a message of each of its clients is being handled, and others
/// wait for that; checks what the instances have handled.
fn lose_one(
    server: &Server,
    (first, second): (&mut Application, &Application),
    end: impl Fn(&mut Application),
) {
    let mut guests = arrive_everywhere(server);
    let on_second = guests.iter().position(|guest| !guest.is_on_first).unwrap();
    // Only the second instance gets past `wait`.
    let mut helper = guests.remove(on_second);
    helper.visitor.say("open gate");
    say_echoes(&mut guests, 2..=20);
    guests.iter_mut().for_each(|guest| guest.visitor.say("wait gate"));
    say_echoes(&mut guests, 22..=40);
    for guest in &mut guests {
        (2..=20).for_each(|number| assert_eq!(guest.visitor.hear(), number.to_string()));
    }
    let on_first: Vec<&Guest> = guests.iter().filter(|guest| guest.is_on_first).collect();
    let by_first = collect_until(first, &on_first, 21);
    end(first);
    say_echoes(&mut guests, 41..=60);
    for guest in &mut guests {
        // Nothing else is said, and what the second instance says is not lost.
        (22..=60).for_each(|number| assert_eq!(guest.visitor.hear(), number.to_string()));
    }
    let by_second = collect_until(second, &guests.iter().collect::<Vec<_>>(), 60);
    for guest in &guests {
        let by_first = handled(&by_first, &guest.connection);
        let by_second = handled(&by_second, &guest.connection);
        if guest.is_on_first {
            assert_eq!(by_first.last(), Some(&(21, false)));
            let repeats: Vec<u64> =
                by_second.iter().filter(|(_, is_flagged)| *is_flagged).map(|(n, _)| *n).collect();
            assert!(repeats.starts_with(&[21]), "{repeats:?}");
        }
        check_handled(&[by_first, by_second].concat(), 60);
    }
}

#[test]
fn an_instance_that_is_killed_loses_nothing() {
    for program in programs() {
        println!("with {}", program.display());
        let mut first = start_instance(&program, "a", 0);
        let second = start_instance(&program, "b", 0);
        let server = start(&[first.port(), second.port()], "", "");
        lose_one(&server, (&mut first, &second), Application::kill);
        assert_eq!(server.metrics().get("links_lost_total{backend=\"app\"}"), 1);
    }
}

#[test]
fn an_instance_that_hangs_loses_nothing() {
    for program in programs() {
        println!("with {}", program.display());
        let mut first = start_instance(&program, "a", 0);
        let second = start_instance(&program, "b", 0);
        let server = start(&[first.port(), second.port()], "link_timeout_ms = 1000\n", "");
        lose_one(&server, (&mut first, &second), |first| first.signal("STOP"));
        // Once it continues, it takes sessions again.
        first.signal("CONT");
        await_links(&server, 2);
        let mut guest = arrive(&server);
        while !guest.is_on_first {
            guest = arrive(&server);
        }
        guest.visitor.echo("well");
    }
}

/// Passes on what two sockets send, until the line is dead: then it swallows everything.
fn pass_on(mut from: TcpStream, mut to: TcpStream, is_dead: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if !is_dead.load(Ordering::SeqCst) && to.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
    });
}

/// A line to a port that may die without a sign.
fn start_line(port: u16, is_dead: &Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own_port = listener.local_addr().unwrap().port();
    let is_dead = is_dead.clone();
    std::thread::spawn(move || {
        for inward in listener.incoming().map_while(Result::ok) {
            let outward = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (in_copy, out_copy) = (inward.try_clone().unwrap(), outward.try_clone().unwrap());
            pass_on(inward, outward, is_dead.clone());
            pass_on(out_copy, in_copy, is_dead.clone());
        }
    });
    own_port
}

#[test]
fn a_link_that_swallows_everything_is_left() {
    for program in programs() {
        println!("with {}", program.display());
        let (first, second) = (start_instance(&program, "a", 0), start_instance(&program, "b", 0));
        let is_dead = Arc::<AtomicBool>::default();
        let ports = [start_line(first.port(), &is_dead), second.port()];
        let server = start(&ports, "link_timeout_ms = 1000\n", "");
        let mut guest = arrive(&server);
        while !guest.is_on_first {
            guest = arrive(&server);
        }
        guest.visitor.echo("before");
        is_dead.store(true, Ordering::SeqCst);
        guest.visitor.echo("after");
        assert_eq!(guest.visitor.who()["instance"], "b");
        let by_second = collect_until(&second, &[&guest], 4);
        assert_eq!(handled(&by_second, &guest.connection), [(3, true), (4, false)]);
    }
}

#[test]
fn clients_wait_for_an_instance_that_returns() {
    for program in programs() {
        println!("with {}", program.display());
        let mut application = start_instance(&program, "a", 0);
        let port = application.port();
        let server = start(&[port], "hold_ms = 600_000\n", "");
        let mut visitor = Visitor::connect(&server, "ann");
        visitor.say("state kept");
        visitor.echo("before");
        application.kill();
        visitor.say("echo after");
        await_links(&server, 0);
        // New clients do not wait.
        assert_eq!(Visitor::fail(&server, "/game").0, 503);
        let _application = start_instance(&program, "a2", port);
        assert_eq!(visitor.hear(), "after");
        let who = visitor.who();
        assert_eq!((&who["instance"], &who["user"]), (&json!("a2"), &json!("ann")));
        assert_eq!(who["state"], json!({"value": "kept"}));
    }
}

#[test]
fn clients_are_closed_once_they_have_waited_long_enough() {
    let [program, _] = programs();
    let mut application = start_instance(&program, "a", 0);
    let server = start(&[application.port()], "hold_ms = 500\n", "");
    let mut visitor = Visitor::connect(&server, "");
    visitor.echo("before");
    application.kill();
    let (count, code, reason) = visitor.closed();
    assert_eq!((count, code), (0, 1013));
    assert!(reason.contains("no application is connected"), "{reason}");
    let (status, answer) = Visitor::fail(&server, "/game");
    assert_eq!(status, 503);
    assert!(answer.contains("Retry-After: "), "{answer}");
}
