//! The io_uring engine against real sockets, without a shard: each operation of the driver's
//! contract, and the rare ends of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall::driver::uring::{Peers, Uring, UringOptions, probe};
use seawall::driver::{Batch, Completion, Driver, Input, Received, Segment, Socket, Token, Wait};

const TOKEN: Token = Token { slot: 7, generation: 3 };

fn options(buffers: u32, buffer_bytes: u32) -> UringOptions {
    UringOptions {
        ring_entries: 64,
        completion_entries: 512,
        sockets_max: 64,
        buffers,
        buffer_bytes,
        min_wait_us: 0,
        min_wait_completions: 1,
        features: probe().unwrap(),
        epoch: Instant::now(),
    }
}

fn engine(shard: u16, peers: &Arc<Peers>, buffers: u32, buffer_bytes: u32) -> Uring {
    Uring::new(options(buffers, buffer_bytes), shard, peers.clone()).unwrap()
}

/// Turns until a completion comes; fails after some seconds without one.
fn next(driver: &mut Uring) -> Completion {
    for _ in 0..50 {
        if let Some(completion) = driver.next() {
            return completion;
        }
        let until = driver.now_ns() + 100_000_000;
        driver.submit(Wait::Until(until)).unwrap();
    }
    panic!("no completion came");
}

/// A driver with one accepted connection, and the client's end of it.
fn connected(driver: &mut Uring) -> (Socket, TcpStream, Option<SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    driver.listen(0, listener.into()).unwrap();
    driver.accept(0);
    driver.submit(Wait::No).unwrap();
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    match next(driver) {
        Completion::Accepted { listener: 0, socket, peer } => (socket, client, peer),
        other => panic!("{other:?}"),
    }
}

/// Receives until this many bytes are there.
fn receive(driver: &mut Uring, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        match next(driver) {
            Completion::Received { token, what: Received::Data(lease), .. } => {
                assert_eq!(token, TOKEN);
                bytes.extend_from_slice(driver.bytes(&lease));
                driver.release(lease);
            }
            other => panic!("{other:?}"),
        }
    }
    bytes
}

#[expect(clippy::unnecessary_box_returns, reason = "a driver takes its batches boxed")]
fn batch(segments: impl IntoIterator<Item = Vec<u8>>) -> Box<Batch> {
    let mut batch = Box::<Batch>::default();
    batch.token = TOKEN;
    segments.into_iter().for_each(|segment| batch.push(Segment::Owned(segment)));
    batch
}

#[test]
fn bytes_come_in_and_the_peer_is_known() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
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

#[test]
fn many_segments_leave_in_one_send() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    let segments: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n; 1 + usize::from(n)]).collect();
    let expected = segments.concat();
    driver.send(socket, batch(segments));
    match next(&mut driver) {
        Completion::Sent { batch, result } => {
            assert_eq!((batch.token, result), (TOKEN, Ok(expected.len())));
        }
        other => panic!("{other:?}"),
    }
    let mut got = vec![0; expected.len()];
    client.read_exact(&mut got).unwrap();
    assert_eq!(got, expected);
}

#[test]
fn a_send_to_a_peer_that_is_gone_fails_without_a_signal() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
    let (socket, client, _) = connected(&mut driver);
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    for _ in 0..10 {
        driver.send(socket, batch([vec![1; 10]]));
        if let Completion::Sent { result: Err(errno), .. } = next(&mut driver) {
            assert!(matches!(errno, libc::ECONNRESET | libc::EPIPE), "{errno}");
            return;
        }
    }
    panic!("sends to a reset connection continued");
}

/// Sends a batch quietly, and takes its completion, which comes with this submission.
fn send_quietly(
    driver: &mut Uring,
    socket: Socket,
    mut batch: Box<Batch>,
) -> (Box<Batch>, Result<usize, i32>) {
    batch.is_quiet = true;
    driver.send(socket, batch);
    driver.submit(Wait::No).unwrap();
    match driver.next() {
        Some(Completion::Sent { batch, result }) => (batch, result),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_quiet_send_succeeds_without_a_completion_of_its_own() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    driver.receive(socket, TOKEN);
    driver.submit(Wait::No).unwrap();
    for round in 0..3_u8 {
        let before = driver.counters();
        let segments: Vec<Vec<u8>> = (0..=round).map(|n| vec![n; 10]).collect();
        let expected = segments.concat();
        let (batch, result) = send_quietly(&mut driver, socket, batch(segments));
        assert_eq!((batch.token, result), (TOKEN, Ok(expected.len())));
        assert!(batch.left_ns().is_some_and(|left_ns| left_ns <= driver.now_ns()));
        let after = driver.counters();
        let calls = (after.enters - before.enters, after.completions - before.completions);
        assert_eq!(calls, (1, 0), "one call, and nothing from the kernel");
        let mut got = vec![0; expected.len()];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, expected);
    }
    client.write_all(b"more").unwrap();
    assert_eq!(receive(&mut driver, 4), b"more");
}

#[test]
fn a_quiet_send_that_finds_too_little_room_is_reported_with_what_it_took() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    let segments: Vec<Vec<u8>> = (0..8_u8).map(|n| vec![n; 4 << 20]).collect();
    let expected = segments.concat();
    let mut batch = batch(segments);
    let mut taken = 0;
    // The client reads nothing, so there is no room for more sooner or later.
    loop {
        let (back, result) = send_quietly(&mut driver, socket, batch);
        batch = back;
        assert_eq!(batch.left_ns(), None, "it did not leave whole");
        match result {
            Ok(sent) => {
                assert!(sent > 0 && taken + sent < expected.len());
                batch.advance(sent, |_| {});
                taken += sent;
            }
            Err(errno) => break assert_eq!(errno, libc::EAGAIN, "it does not wait"),
        }
    }
    assert!(taken > 0);
    let expected_len = expected.len();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; expected_len];
        client.read_exact(&mut got).unwrap();
        (client, got)
    });
    batch.is_quiet = false;
    while !batch.is_empty() {
        driver.send(socket, batch);
        match next(&mut driver) {
            Completion::Sent { batch: back, result } => {
                batch = back;
                batch.advance(result.unwrap(), |_| {});
            }
            other => panic!("{other:?}"),
        }
    }
    let (client, got) = reader.join().unwrap();
    assert!(got == expected, "nothing is lost or doubled");
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    // The reset may still be on its way.
    let failed = (0..50).find_map(|_| {
        let (_, result) = send_quietly(&mut driver, socket, self::batch([b"x".to_vec()]));
        result.err()
    });
    assert!(matches!(failed, Some(libc::EPIPE | libc::ECONNRESET)), "{failed:?}");
}

#[test]
fn cancelling_a_receive_loses_no_byte() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
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

#[test]
fn a_cancelled_socket_can_be_closed_and_its_place_is_used_again() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
    // More connections than the table has places, one after the other.
    for _ in 0..80 {
        let (socket, mut client, _) = connected(&mut driver);
        driver.receive(socket, TOKEN);
        driver.submit(Wait::No).unwrap();
        driver.cancel_all(socket, TOKEN);
        let mut left = 2;
        while left > 0 {
            match next(&mut driver) {
                Completion::CancelRan { .. }
                | Completion::Received { armed: false, what: Received::Cancelled, .. } => left -= 1,
                other => panic!("{other:?}"),
            }
        }
        driver.close(socket, TOKEN);
        assert!(matches!(next(&mut driver), Completion::Closed { token: TOKEN }));
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0, "the client sees a FIN");
    }
}

#[test]
fn a_shut_down_socket_still_receives() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    driver.shutdown(socket, TOKEN);
    assert!(matches!(next(&mut driver), Completion::ShutDown { token: TOKEN }));
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    driver.receive(socket, TOKEN);
    client.write_all(b"late").unwrap();
    assert_eq!(receive(&mut driver, 4), b"late");
}

#[test]
fn a_socket_goes_from_ring_to_ring() {
    let peers = Peers::new(2);
    let (mut one, mut two) = (engine(0, &peers, 16, 1024), engine(1, &peers, 16, 1024));
    let (socket, mut client, _) = connected(&mut one);
    one.pass(socket, TOKEN, 1, 0xABCD);
    one.submit(Wait::No).unwrap();
    let arrived = match next(&mut two) {
        Completion::Arrived { key: 0xABCD, socket } => socket,
        other => panic!("{other:?}"),
    };
    assert!(matches!(next(&mut one), Completion::Passed { token: TOKEN, result: Ok(()) }));
    client.write_all(b"moved").unwrap();
    two.receive(arrived, TOKEN);
    assert_eq!(receive(&mut two, 5), b"moved");
}

#[test]
fn a_refused_handover_leaves_the_socket_where_it_was() {
    let mut driver = engine(0, &Peers::new(2), 16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    driver.pass(socket, TOKEN, 1, 1);
    assert!(matches!(next(&mut driver), Completion::Passed { result: Err(_), .. }));
    client.write_all(b"here").unwrap();
    driver.receive(socket, TOKEN);
    assert_eq!(receive(&mut driver, 4), b"here");
}

#[test]
fn a_socket_leaves_as_a_descriptor_and_comes_back() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    driver.detach(socket, TOKEN);
    let descriptor: OwnedFd = match next(&mut driver) {
        Completion::Detached { token: TOKEN, result } => result.unwrap(),
        other => panic!("{other:?}"),
    };
    let mut plain = TcpStream::from(descriptor);
    plain.write_all(b"outside").unwrap();
    let mut got = [0; 7];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"outside");
    driver.adopt(plain.into(), TOKEN);
    let socket = match next(&mut driver) {
        Completion::Adopted { token: TOKEN, result } => result.unwrap(),
        other => panic!("{other:?}"),
    };
    client.write_all(b"inside").unwrap();
    driver.receive(socket, TOKEN);
    assert_eq!(receive(&mut driver, 6), b"inside");
}

#[test]
fn tcp_is_asked_about_a_connection_that_goes_on() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    driver.receive(socket, TOKEN);
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open_files();
    for _ in 0..100 {
        driver.measure(socket, TOKEN);
        match next(&mut driver) {
            Completion::Measured { token: TOKEN, result } => {
                let tcp = result.unwrap();
                assert!(tcp.segment_bytes >= 536 && tcp.congestion_window > 0, "{tcp:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    // Other tests of this process open and close some meanwhile.
    assert!(open_files() < before + 50, "descriptors do not stay");
    client.write_all(b"still here").unwrap();
    assert_eq!(receive(&mut driver, 10), b"still here");
}

#[test]
fn a_bell_and_a_doorbell_wake_a_waiting_ring() {
    let peers = Peers::new(2);
    let (mut one, mut two) = (engine(0, &peers, 16, 1024), engine(1, &peers, 16, 1024));
    let bell = one.bell();
    for _ in 0..3 {
        let bell = bell.clone();
        let ringing = std::thread::spawn(move || bell.ring());
        one.submit(Wait::Forever).unwrap();
        assert!(matches!(one.next(), Some(Completion::Doorbell)));
        ringing.join().unwrap();
        two.doorbell(0);
        two.submit(Wait::No).unwrap();
        assert!(matches!(next(&mut one), Completion::Doorbell));
    }
    assert_eq!(two.counters().doorbells_failed, 0);
}

#[test]
fn starved_receives_are_reported_and_buffers_are_all_accounted_for() {
    let mut driver = engine(0, &Peers::new(1), 8, 1024);
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
    assert_eq!((counters.buffers_lent, counters.buffers_published), (8, 0));
    assert!(counters.starvations >= 1 && !driver.has_buffers());
    leases.into_iter().for_each(|lease| driver.release(lease));
    assert!(driver.has_buffers());
    driver.receive(socket, TOKEN);
    assert_eq!(receive(&mut driver, 1024)[..1024], [9; 1024]);
}

#[test]
fn a_minimum_wait_gathers_completions_and_still_ends() {
    let peers = Peers::new(1);
    let options =
        UringOptions { min_wait_us: 20_000, min_wait_completions: 4, ..options(16, 1024) };
    let mut driver = Uring::new(options, 0, peers).unwrap();
    let (socket, mut client, _) = connected(&mut driver);
    driver.receive(socket, TOKEN);
    driver.submit(Wait::No).unwrap();
    client.write_all(b"alone").unwrap();
    // One completion, fewer than are worth waiting for: it comes all the same.
    assert_eq!(receive(&mut driver, 5), b"alone");
}

#[test]
fn a_listener_that_stops_cancels_its_accepts_and_frees_the_port() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    driver.listen(0, listener.into()).unwrap();
    (0..16).for_each(|_| driver.accept(0));
    driver.submit(Wait::No).unwrap();
    driver.stop_listening(0);
    for _ in 0..50 {
        let until = driver.now_ns() + 10_000_000;
        driver.submit(Wait::Until(until)).unwrap();
        assert!(driver.next().is_none(), "a cancelled accept is not reported");
        if TcpListener::bind(address).is_ok() {
            return;
        }
    }
    panic!("the listener was not closed");
}

#[test]
fn memory_of_idle_buffers_goes_back() {
    let mut driver = engine(0, &Peers::new(1), 256, 64 * 1024);
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
fn received_until(driver: &mut Uring, mut end: impl FnMut(&Completion) -> bool) -> Vec<u8> {
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
fn stop_receiving(driver: &mut Uring, socket: Socket) -> Vec<u8> {
    driver.cancel_receive(socket, TOKEN);
    let (mut cancelled, mut ended) = (false, false);
    received_until(driver, |completion| {
        cancelled |= matches!(completion, Completion::CancelRan { .. });
        ended |= matches!(completion, Completion::Received { armed: false, .. });
        cancelled && ended
    })
}

fn readable(completion: &Completion) -> bool {
    matches!(completion, Completion::Received { armed: false, what: Received::Readable { .. }, .. })
}

/// What may be armed to hear of input, each replaced by the next while the client keeps writing:
/// every byte arrives once and in order.
#[test]
fn nothing_is_lost_between_receive_watch_and_receive() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
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

#[test]
fn a_watch_tells_of_the_peers_end() {
    let mut driver = engine(0, &Peers::new(1), 16, 1024);
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
#[test]
fn a_receive_that_may_wait_needs_no_buffer_before_something_comes() {
    let mut driver = engine(0, &Peers::new(1), 8, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    let mut leases = Vec::new();
    for _ in 0..8 {
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
