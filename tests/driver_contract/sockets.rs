//! Sockets on their way: accepted, passed on, duplicated, adopted, closed; and bells.

use super::*;

on_both! {
    a_cancelled_socket_can_be_closed_and_its_place_is_used_again
    a_socket_goes_from_driver_to_driver
    a_refused_handover_leaves_the_socket_where_it_was
    a_socket_leaves_as_a_descriptor_and_comes_back
    sockets_beyond_the_table_are_not_adopted
    tcp_is_asked_about_a_connection_that_goes_on
    a_bell_and_a_doorbell_wake_a_waiting_driver
    a_listener_that_stops_cancels_its_accepts_and_frees_the_port
    a_closed_socket_reports_nothing_more
    a_shared_listener_brings_each_connection_once
}

fn a_cancelled_socket_can_be_closed_and_its_place_is_used_again<D: Engine>() {
    let mut driver = D::alone(16, 1024);
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

fn a_socket_goes_from_driver_to_driver<D: Engine>() {
    let peers = D::peers(2);
    let (mut one, mut two) = (D::make(0, &peers, 16, 1024), D::make(1, &peers, 16, 1024));
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

fn a_refused_handover_leaves_the_socket_where_it_was<D: Engine>() {
    let mut driver = D::make(0, &D::peers(2), 16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    driver.pass(socket, TOKEN, 1, 1);
    assert!(matches!(next(&mut driver), Completion::Passed { result: Err(_), .. }));
    client.write_all(b"here").unwrap();
    driver.receive(socket, TOKEN);
    assert_eq!(receive(&mut driver, 4), b"here");
}

fn a_socket_leaves_as_a_descriptor_and_comes_back<D: Engine>() {
    let mut driver = D::alone(16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    driver.duplicate(socket, TOKEN);
    let descriptor: OwnedFd = match next(&mut driver) {
        Completion::Duplicated { token: TOKEN, result } => result.unwrap(),
        other => panic!("{other:?}"),
    };
    // The socket has stayed, and the connection outlives it.
    driver.close(socket, TOKEN);
    assert!(matches!(next(&mut driver), Completion::Closed { token: TOKEN }));
    let mut plain = TcpStream::from(descriptor);
    plain.write_all(b"outside").unwrap();
    let mut got = [0; 7];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"outside");
    let (near, mut far) = UnixStream::pair().unwrap();
    driver.adopt(vec![plain.into(), near.into()], TOKEN);
    let sockets = match next(&mut driver) {
        Completion::Adopted { token: TOKEN, sockets, failure: None } => sockets,
        other => panic!("{other:?}"),
    };
    assert_eq!(sockets.len(), 2);
    client.write_all(b"inside").unwrap();
    driver.receive(sockets[0], TOKEN);
    assert_eq!(receive(&mut driver, 6), b"inside");
    far.write_all(b"too").unwrap();
    driver.receive(sockets[1], TOKEN);
    assert_eq!(receive(&mut driver, 3), b"too");
}

fn tcp_is_asked_about_a_connection_that_goes_on<D: Engine>() {
    let mut driver = D::alone(16, 1024);
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

fn a_bell_and_a_doorbell_wake_a_waiting_driver<D: Engine>() {
    let peers = D::peers(2);
    let (mut one, mut two) = (D::make(0, &peers, 16, 1024), D::make(1, &peers, 16, 1024));
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
fn a_minimum_wait_gathers_completions_and_still_ends() {
    let peers = Uring::peers(1);
    let options =
        UringOptions { min_wait_us: 20_000, min_wait_completions: 4, ..uring_options(16, 1024) };
    let mut driver = Uring::new(options, 0, peers).unwrap();
    let (socket, mut client, _) = connected(&mut driver);
    driver.receive(socket, TOKEN);
    driver.submit(Wait::No).unwrap();
    client.write_all(b"alone").unwrap();
    // One completion, fewer than are worth waiting for: it comes all the same.
    assert_eq!(receive(&mut driver, 5), b"alone");
}

fn a_listener_that_stops_cancels_its_accepts_and_frees_the_port<D: Engine>() {
    let mut driver = D::alone(16, 1024);
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

fn sockets_beyond_the_table_are_not_adopted<D: Engine>() {
    let mut driver = D::alone(16, 1024);
    let pairs: Vec<_> = (0..40).map(|_| UnixStream::pair().unwrap()).collect();
    let (near, mut far): (Vec<OwnedFd>, Vec<_>) =
        pairs.into_iter().map(|(near, far)| (near.into(), far)).unzip();
    driver.adopt(near, TOKEN);
    let (sockets, failure) = match next(&mut driver) {
        Completion::Adopted { token: TOKEN, sockets, failure } => (sockets, failure),
        other => panic!("{other:?}"),
    };
    assert!(sockets.len() >= 16, "{sockets:?}");
    assert_eq!(failure.is_none(), sockets.len() == 40, "{failure:?}");
    for (index, socket) in sockets.iter().enumerate() {
        far[index].write_all(&[index as u8]).unwrap();
        driver.receive(*socket, TOKEN);
        assert_eq!(receive(&mut driver, 1), [index as u8], "in their order");
    }
    for far in &mut far[sockets.len()..] {
        assert_eq!(far.read(&mut [0]).unwrap(), 0, "the others were closed");
    }
}

/// Events of a socket that was closed say nothing about the next one at its place, also where a
/// duplicate keeps the connection open.
fn a_closed_socket_reports_nothing_more<D: Engine>() {
    let mut driver = D::alone(16, 1024);
    let (near, mut far) = UnixStream::pair().unwrap();
    let duplicate = near.try_clone().unwrap();
    driver.adopt(vec![near.into()], TOKEN);
    let Completion::Adopted { sockets, .. } = next(&mut driver) else { panic!() };
    let first = sockets[0];
    far.write_all(b"for the first").unwrap();
    driver.close(first, TOKEN);
    assert!(matches!(next(&mut driver), Completion::Closed { .. }));
    let (second, mut client, _) = connected(&mut driver);
    driver.watch(second, TOKEN);
    far.write_all(b"again").unwrap();
    driver.submit(Wait::No).unwrap();
    assert!(driver.next().is_none(), "nothing has come for the second");
    client.write_all(b"x").unwrap();
    assert!(readable(&next(&mut driver)));
    drop(duplicate);
}

/// Two shards share a listener of a Unix socket: each connection goes to one of them, also while
/// one takes none.
fn a_shared_listener_brings_each_connection_once<D: Engine>() {
    let peers = D::peers(2);
    let (mut one, mut two) = (D::make(0, &peers, 16, 1024), D::make(1, &peers, 16, 1024));
    let name = format!("seawall-contract-{}-{:?}", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path).unwrap();
    one.listen(0, listener.try_clone().unwrap().into()).unwrap();
    two.listen(0, listener.into()).unwrap();
    let mut clients = Vec::new();
    let (mut by_one, mut by_two) = (0, 0);
    for round in 0..40 {
        // The first takes none in the second half.
        if round < 20 {
            one.accept(0);
        }
        two.accept(0);
        clients.push(UnixStream::connect(&path).unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while by_one + by_two < clients.len() {
            assert!(Instant::now() < deadline, "connection {round} is not accepted");
            for (driver, count) in [(&mut one, &mut by_one), (&mut two, &mut by_two)] {
                driver.submit(Wait::No).unwrap();
                while let Some(completion) = driver.next() {
                    let is_accepted = matches!(completion, Completion::Accepted { peer: None, .. });
                    assert!(is_accepted, "{completion:?}");
                    *count += 1;
                }
            }
        }
    }
    assert_eq!(by_one + by_two, 40);
    std::fs::remove_file(path).unwrap();
}
