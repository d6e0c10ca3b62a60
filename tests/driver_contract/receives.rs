//! Receives and watches: every byte once and in order, whoever else sends.

use super::*;

on_both! {
    bytes_come_in_and_the_peer_is_known
    cancelling_a_receive_loses_no_byte
    a_shut_down_socket_still_receives
    starved_receives_are_reported_and_buffers_are_all_accounted_for
    nothing_is_lost_between_receive_watch_and_receive
    a_watch_tells_of_the_peers_end
    a_receive_that_may_wait_needs_no_buffer_before_something_comes
}

fn bytes_come_in_and_the_peer_is_known<D: Engine>() {
    let mut driver = D::alone(16, 1024);
    let (socket, mut client, peer) = connected(&mut driver);
    assert_eq!(peer, Some(client.local_addr().unwrap()));
    driver.receive(socket, TOKEN);
    let sent: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
    client.write_all(&sent).unwrap();
    // Sixteen buffers of a kilobyte may run dry on the way; then the receive is armed again.
    let mut bytes = Vec::new();
    while bytes.len() < sent.len() {
        match next(&mut driver) {
            Completion::Received { armed, what, .. } => {
                if let Received::Data(lease) = what {
                    bytes.extend_from_slice(driver.bytes(&lease));
                    driver.release(lease);
                }
                if !armed {
                    driver.receive(socket, TOKEN);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bytes, sent);
    drop(client);
    assert!(matches!(
        next(&mut driver),
        Completion::Received { armed: false, what: Received::End, .. }
    ));
}

fn cancelling_a_receive_loses_no_byte<D: Engine>() {
    let mut driver = D::alone(16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    driver.receive(socket, TOKEN);
    driver.submit(Wait::No).unwrap();
    driver.cancel_receive(socket, TOKEN);
    let (mut ran, mut cancelled) = (false, false);
    while !(ran && cancelled) {
        match next(&mut driver) {
            Completion::CancelRan { token: TOKEN, found: true } => ran = true,
            Completion::Received { armed: false, what: Received::Cancelled, .. } => {
                cancelled = true;
            }
            other => panic!("{other:?}"),
        }
    }
    client.write_all(b"kept").unwrap();
    driver.receive(socket, TOKEN);
    assert_eq!(receive(&mut driver, 4), b"kept");
}

fn a_shut_down_socket_still_receives<D: Engine>() {
    let mut driver = D::alone(16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    driver.shutdown(socket, TOKEN);
    assert!(matches!(next(&mut driver), Completion::ShutDown { token: TOKEN }));
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    driver.receive(socket, TOKEN);
    client.write_all(b"late").unwrap();
    assert_eq!(receive(&mut driver, 4), b"late");
}

fn starved_receives_are_reported_and_buffers_are_all_accounted_for<D: Engine>() {
    let mut driver = D::alone(8, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    driver.receive(socket, TOKEN);
    client.write_all(&vec![9; 64 * 1024]).unwrap();
    let mut leases = Vec::new();
    loop {
        match next(&mut driver) {
            Completion::Received { what: Received::Data(lease), .. } => leases.push(lease),
            Completion::Received { armed: false, what: Received::Starved, .. } => break,
            other => panic!("{other:?}"),
        }
    }
    let counters = driver.counters();
    assert_eq!((counters.buffers_lent, counters.buffers_published), (counters.buffers_total, 0));
    assert!(counters.starvations >= 1 && !driver.has_buffers());
    leases.into_iter().for_each(|lease| driver.release(lease));
    assert!(driver.has_buffers());
    driver.receive(socket, TOKEN);
    assert_eq!(receive(&mut driver, 1024)[..1024], [9; 1024]);
}

#[test]
fn memory_of_idle_buffers_goes_back() {
    let mut driver = Uring::alone(256, 64 * 1024);
    let (socket, mut client, _) = connected(&mut driver);
    driver.receive(socket, TOKEN);
    let writer = std::thread::spawn(move || {
        client.write_all(&vec![1; 16 << 20]).unwrap();
        client
    });
    let mut bytes = 0;
    while bytes < 16 << 20 {
        if let Completion::Received { armed, what, .. } = next(&mut driver) {
            if let Received::Data(lease) = what {
                bytes += lease.len();
                driver.release(lease);
            }
            if !armed {
                driver.receive(socket, TOKEN);
            }
        }
    }
    let busy = resident_bytes();
    // The first ends the busy period, the second one in which nothing happened.
    driver.trim();
    driver.trim();
    let idle = resident_bytes();
    assert!(busy - idle >= 1 << 20, "{busy} bytes resident, then {idle}");
    let mut client = writer.join().unwrap();
    client.write_all(b"still works").unwrap();
    assert_eq!(receive(&mut driver, 11), b"still works");
}

fn resident_bytes() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * 4096
}

/// Takes completions of the receiving side until `end`; gives the bytes that came.
fn received_until(driver: &mut impl Driver, mut end: impl FnMut(&Completion) -> bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let completion = next(driver);
        let ended = end(&completion);
        match completion {
            Completion::Received { what: Received::Data(lease), .. } => {
                bytes.extend_from_slice(driver.bytes(&lease));
                driver.release(lease);
            }
            Completion::Received { .. } | Completion::CancelRan { .. } => {}
            other => panic!("{other:?}"),
        }
        if ended {
            return bytes;
        }
    }
}

/// Cancels what is armed and waits for both ends of it; gives the bytes that still came.
fn stop_receiving(driver: &mut impl Driver, socket: Socket) -> Vec<u8> {
    driver.cancel_receive(socket, TOKEN);
    let (mut cancelled, mut ended) = (false, false);
    received_until(driver, |completion| {
        cancelled |= matches!(completion, Completion::CancelRan { .. });
        ended |= matches!(completion, Completion::Received { armed: false, .. });
        cancelled && ended
    })
}

/// What may be armed to hear of input, each replaced by the next while the client keeps writing:
/// every byte arrives once and in order.
fn nothing_is_lost_between_receive_watch_and_receive<D: Engine>() {
    let mut driver = D::alone(16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    for round in 0..200_u32 {
        driver.receive(socket, TOKEN);
        // Sometimes before the cancellation, sometimes between it and the watch.
        let bytes = round.to_be_bytes().repeat(1 + round as usize % 40);
        expected.extend_from_slice(&bytes);
        if round % 2 == 0 {
            client.write_all(&bytes).unwrap();
        }
        got.extend(stop_receiving(&mut driver, socket));
        driver.watch(socket, TOKEN);
        if round % 2 == 1 {
            client.write_all(&bytes).unwrap();
        }
        if got.len() < expected.len() {
            received_until(&mut driver, readable);
            driver.receive_once(socket, TOKEN, Input::There);
            got.extend(received_until(&mut driver, |completion| {
                assert!(matches!(completion, Completion::Received { armed: false, .. }));
                true
            }));
        } else {
            assert_eq!(stop_receiving(&mut driver, socket), b"");
        }
        driver.receive(socket, TOKEN);
        got.extend(receive(&mut driver, expected.len() - got.len()));
        assert_eq!(got, expected);
        stop_receiving(&mut driver, socket);
    }
}

fn a_watch_tells_of_the_peers_end<D: Engine>() {
    let mut driver = D::alone(16, 1024);
    let (socket, client, _) = connected(&mut driver);
    driver.watch(socket, TOKEN);
    drop(client);
    match next(&mut driver) {
        Completion::Received { armed: false, what: Received::Readable { ended: true }, .. } => {}
        other => panic!("{other:?}"),
    }
    driver.receive_once(socket, TOKEN, Input::There);
    assert!(matches!(
        next(&mut driver),
        Completion::Received { armed: false, what: Received::End, .. }
    ));
}

/// With every buffer lent a receive fails at once, though nothing has come; one that waits for the
/// socket does not.
fn a_receive_that_may_wait_needs_no_buffer_before_something_comes<D: Engine>() {
    let mut driver = D::alone(8, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    let mut leases = Vec::new();
    for _ in 0..driver.counters().buffers_total {
        client.write_all(b"x").unwrap();
        driver.watch(socket, TOKEN);
        received_until(&mut driver, readable);
        driver.receive_once(socket, TOKEN, Input::There);
        match next(&mut driver) {
            Completion::Received { what: Received::Data(lease), .. } => leases.push(lease),
            other => panic!("{other:?}"),
        }
    }
    assert!(!driver.has_buffers());
    driver.receive_once(socket, TOKEN, Input::Unknown);
    driver.submit(Wait::No).unwrap();
    leases.into_iter().for_each(|lease| driver.release(lease));
    client.write_all(b"now").unwrap();
    assert_eq!(receive(&mut driver, 3), b"now");
    assert_eq!(driver.counters().starvations, 0);
}

/// A client sends as fast as it can; another one sends a byte. (A ring takes turns by its buffers,
/// which the shard shares out.)
#[test]
fn nobody_waits_behind_a_stream() {
    let mut driver = Epoll::alone(16, 1024);
    let (busy, mut stream, _) = connected(&mut driver);
    let (calm, mut client, _) = connected(&mut driver);
    let calm_token = Token { slot: 8, ..TOKEN };
    driver.receive(busy, TOKEN);
    driver.receive(calm, calm_token);
    let writer = std::thread::spawn(move || {
        // Fails when the driver ends.
        while stream.write_all(&[1; 16_000]).is_ok() {}
    });
    client.write_all(b"x").unwrap();
    let (mut turns, mut has_come) = (0, false);
    while !has_come {
        assert!(turns < 1000, "it waits for {turns} turns");
        driver.submit(Wait::No).unwrap();
        turns += 1;
        // No more than a turn's share.
        for _ in 0..64 {
            let Some(Completion::Received { token, armed, what }) = driver.next() else { break };
            if let Received::Data(lease) = what {
                has_come |= token == calm_token;
                driver.release(lease);
            }
            if !armed {
                driver.receive(if token == TOKEN { busy } else { calm }, token);
            }
        }
    }
    drop(driver);
    writer.join().unwrap();
}
