//! Sends: at once, quietly, and where there is no room.

use super::*;

on_both! {
    many_segments_leave_in_one_send
    a_send_to_a_peer_that_is_gone_fails_without_a_signal
    a_quiet_send_succeeds_without_a_completion_of_its_own
    a_quiet_send_that_finds_too_little_room_is_reported_with_what_it_took
    a_peer_that_ends_its_side_is_still_answered
    a_send_waits_for_room_and_is_cancelled_with_the_receive
    a_send_that_waited_continues_when_the_peer_reads
}

fn many_segments_leave_in_one_send<D: Engine>() {
    let mut driver = D::alone(16, 1024);
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

fn a_send_to_a_peer_that_is_gone_fails_without_a_signal<D: Engine>() {
    let mut driver = D::alone(16, 1024);
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
    driver: &mut impl Driver,
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

fn a_quiet_send_succeeds_without_a_completion_of_its_own<D: Engine>() {
    let mut driver = D::alone(16, 1024);
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

fn a_quiet_send_that_finds_too_little_room_is_reported_with_what_it_took<D: Engine>() {
    let mut driver = D::alone(16, 1024);
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

fn a_peer_that_ends_its_side_is_still_answered<D: Engine>() {
    let mut driver = D::alone(16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    driver.receive(socket, TOKEN);
    client.write_all(b"last").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(receive(&mut driver, 4), b"last");
    let end = next(&mut driver);
    assert!(
        matches!(end, Completion::Received { armed: false, what: Received::End, .. }),
        "{end:?}"
    );
    driver.send(socket, batch([b"answer".to_vec()]));
    assert!(matches!(next(&mut driver), Completion::Sent { result: Ok(6), .. }));
    let mut got = [0; 6];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"answer");
}

/// Sends until there is no more room; returns what rests, unsent.
fn fill_up(driver: &mut impl Driver, socket: Socket) {
    let mut rest = batch([vec![7; 64 << 20]]);
    driver.send(socket, rest);
    loop {
        driver.submit(Wait::No).unwrap();
        let Some(Completion::Sent { batch, result }) = driver.next() else { return };
        rest = batch;
        rest.advance(result.unwrap(), |_| {});
        driver.send(socket, rest);
    }
}

fn a_send_waits_for_room_and_is_cancelled_with_the_receive<D: Engine>() {
    let mut driver = D::alone(16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    fill_up(&mut driver, socket);
    driver.receive(socket, TOKEN);
    driver.submit(Wait::No).unwrap();
    // The kernel may have found some more room meanwhile.
    while let Some(completion) = driver.next() {
        let Completion::Sent { mut batch, result } = completion else { panic!("{completion:?}") };
        batch.advance(result.unwrap(), |_| {});
        driver.send(socket, batch);
        driver.submit(Wait::No).unwrap();
    }
    driver.cancel_all(socket, TOKEN);
    let (mut sent, mut received, mut ran) = (0, 0, 0);
    while (sent, received, ran) != (1, 1, 1) {
        match next(&mut driver) {
            // It may have been about to end.
            Completion::Sent { result: Err(libc::ECANCELED) | Ok(_), .. } => sent += 1,
            Completion::Received { armed: false, what: Received::Cancelled, .. } => received += 1,
            Completion::CancelRan { found: true, .. } => ran += 1,
            other => panic!("{other:?}"),
        }
    }
    driver.close(socket, TOKEN);
    assert!(matches!(next(&mut driver), Completion::Closed { .. }));
    assert!(client.read(&mut [0; 8]).unwrap() > 0, "what had left arrives");
}

fn a_send_that_waited_continues_when_the_peer_reads<D: Engine>() {
    let mut driver = D::alone(16, 1024);
    let (socket, mut client, _) = connected(&mut driver);
    fill_up(&mut driver, socket);
    let reader = std::thread::spawn(move || {
        let (mut got, mut chunk) = (0, vec![0; 1 << 20]);
        while got < 64 << 20 {
            let len = client.read(&mut chunk).unwrap();
            assert!(len > 0 && chunk[..len].iter().all(|byte| *byte == 7));
            got += len;
        }
    });
    loop {
        let Completion::Sent { mut batch, result } = next(&mut driver) else { unreachable!() };
        batch.advance(result.unwrap(), |_| {});
        if batch.is_empty() {
            break;
        }
        driver.send(socket, batch);
    }
    reader.join().unwrap();
}
