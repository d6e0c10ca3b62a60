//! Tests of a connection without a socket: answers, order of sends, and what it rejects.

use super::*;
use crate::sheet::Shape;
use crate::wire::WireError;

fn terms(verify: bool) -> Terms {
    let shape = Shape { depth: 8, ..Shape::text(4) };
    Terms {
        upgrade: Upgrade::new("h:1", "/", false),
        sheet: Sheet::new(shape),
        verify,
        hear: false,
        count_only: false,
    }
}

fn open(terms: &Terms) -> Connection {
    let mut connection = Connection::connecting(3, terms);
    connection.connected();
    assert!(matches!(
        connection.next_outgoing(&terms.sheet, &mut Traffic::default()),
        Some(Outgoing::Request)
    ));
    connection.stage = Stage::Open;
    connection
}

fn echo(terms: &Terms, variant: u32) -> Vec<u8> {
    let mut frame = vec![0x81, 4];
    frame.extend_from_slice(terms.sheet.expected(variant));
    frame
}

#[test]
fn the_answer_may_come_in_pieces_and_bring_frames() {
    let terms = terms(true);
    let request = String::from_utf8(terms.upgrade.request(3).to_vec()).unwrap();
    let key = request.split("Key: ").nth(1).unwrap().lines().next().unwrap();
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    bytes.extend(echo(&terms, 3));
    for cut in 0..=bytes.len() {
        let mut connection = Connection::connecting(3, &terms);
        connection.connected();
        let first = connection.receive(&bytes[..cut], &terms, &mut Tools::default()).unwrap();
        let second = connection.receive(&bytes[cut..], &terms, &mut Tools::default()).unwrap();
        assert!(first.opened ^ second.opened, "cut {cut}");
        assert_eq!(first.messages + second.messages, 1, "cut {cut}");
    }
}

#[test]
fn verified_echoes_must_come_in_order() {
    let terms = terms(true);
    let mut connection = open(&terms);
    assert_eq!(
        connection.receive(&echo(&terms, 3), &terms, &mut Tools::default()).unwrap().messages,
        1
    );
    let swapped = connection.receive(&echo(&terms, 5), &terms, &mut Tools::default());
    assert!(matches!(swapped, Err(Fault::Corrupt(_))), "{swapped:?}");
    let mut connection = open(&terms);
    let short =
        connection.receive(&[0x81, 1, terms.sheet.expected(3)[0]], &terms, &mut Tools::default());
    assert!(matches!(short, Err(Fault::Corrupt(_))), "{short:?}");
    let mut connection = open(&terms);
    let mut binary = echo(&terms, 3);
    binary[0] = 0x82;
    assert!(matches!(
        connection.receive(&binary, &terms, &mut Tools::default()),
        Err(Fault::Corrupt(_))
    ));
}

#[test]
fn owed_messages_leave_in_batches_after_control_frames() {
    let terms = terms(false);
    let mut connection = open(&terms);
    connection.request_messages(11);
    let mut ping = vec![0x89, 2];
    ping.extend_from_slice(b"hi");
    connection.receive(&ping, &terms, &mut Tools::default()).unwrap();
    let Some(Outgoing::Frame(answer)) =
        connection.next_outgoing(&terms.sheet, &mut Traffic::default())
    else {
        panic!()
    };
    assert_eq!(*answer, *wire::masked(0x80 | opcode::PONG, CONTROL_MASK, b"hi"));
    let mut batches = Vec::new();
    while let Some(outgoing) = connection.next_outgoing(&terms.sheet, &mut Traffic::default()) {
        let Outgoing::Messages { variant, count } = outgoing else { panic!("{outgoing:?}") };
        batches.push((variant, count));
    }
    assert_eq!(batches, [(3, 8), (11, 3)]);
}

#[test]
fn a_close_ends_sending_and_waits_for_the_servers() {
    let terms = terms(false);
    let mut connection = open(&terms);
    connection.request_messages(5);
    connection.close();
    assert!(matches!(
        connection.next_outgoing(&terms.sheet, &mut Traffic::default()),
        Some(Outgoing::Frame(_))
    ));
    assert!(connection.next_outgoing(&terms.sheet, &mut Traffic::default()).is_none());
    let events = connection.receive(&[0x88, 2, 3, 232], &terms, &mut Tools::default()).unwrap();
    assert!(events.closed);
    assert_eq!(connection.stage, Stage::Closed);
}

#[test]
fn an_uninvited_close_is_answered_and_a_fault_with_its_code() {
    let terms = terms(false);
    let mut connection = open(&terms);
    connection.request_messages(3);
    let frame = [0x88, 2, 0x03, 0xF1];
    let events = connection.receive(&frame, &terms, &mut Tools::default()).unwrap();
    assert!(events.closed && connection.stage == Stage::Closed);
    assert_eq!(connection.verdict(), Some(Fault::ClosedByServer(Some(1009))));
    let mut next = || connection.next_outgoing(&terms.sheet, &mut Traffic::default());
    let Some(Outgoing::Frame(answer)) = next() else { panic!() };
    assert_eq!(*answer, *wire::masked(0x80 | opcode::CLOSE, CONTROL_MASK, &[0x03, 0xF1]));
    assert!(next().is_none(), "nothing is sent after a Close");
    let fault = open(&terms).receive(&[0x81, 0x84], &terms, &mut Tools::default()).unwrap_err();
    assert_eq!(fault, Fault::Wire(WireError::Masked));
}

#[test]
fn an_idle_connection_is_small() {
    let terms = terms(false);
    let mut connection = open(&terms);
    connection.queue_ping(b"alive?");
    connection.receive(b"\x89\x02hi", &terms, &mut Tools::default()).unwrap();
    let mut next = || connection.next_outgoing(&terms.sheet, &mut Traffic::default());
    assert!(next().is_some() && next().is_some() && next().is_none());
    assert!(connection.rare.is_none(), "finished work leaves no state");
    assert!(size_of::<Connection>() <= 88, "{}", size_of::<Connection>());
}

#[test]
fn compressed_echoes_are_inflated_and_compared() {
    let shape = Shape { deflate: true, ..Shape::text(300) };
    let upgrade = Upgrade::new("h:1", "/", true);
    let terms =
        Terms { upgrade, sheet: Sheet::new(shape), verify: true, hear: false, count_only: false };
    let echo = |payload: &[u8]| {
        let small = crate::deflate::compress(payload).unwrap();
        let len = small.len();
        assert!((126..65_536).contains(&len) || len < 126);
        let mut frame = vec![0xC1];
        if len < 126 {
            frame.push(len as u8);
        } else {
            frame.push(126);
            frame.extend((len as u16).to_be_bytes());
        }
        frame.extend(small);
        frame
    };
    let right = echo(terms.sheet.expected(3));
    for cut in [0, 1, right.len() / 2, right.len()] {
        let (mut connection, mut tools) = (open(&terms), Tools::default());
        connection.reader = Reader::Frames(FrameReader::new(true));
        let first = connection.receive(&right[..cut], &terms, &mut tools).unwrap();
        let second = connection.receive(&right[cut..], &terms, &mut tools).unwrap();
        assert_eq!(first.messages + second.messages, 1);
        assert_eq!((tools.traffic.compressed, tools.traffic.compressed_bytes), (1, 300));
        assert!(tools.traffic.compressed_wire_bytes < 300);
    }
    let mut connection = open(&terms);
    connection.reader = Reader::Frames(FrameReader::new(true));
    let wrong = echo(terms.sheet.expected(4));
    let outcome = connection.receive(&wrong, &terms, &mut Tools::default());
    assert!(matches!(outcome, Err(Fault::Corrupt(_))), "{outcome:?}");
}

#[test]
fn messages_are_heard_whole_however_they_are_split() {
    let mut terms = terms(false);
    terms.hear = true;
    let texts: [&[u8]; 4] = [b"one", b"", b"three, longer than the others", b"4"];
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend_from_slice(&[0x81, text.len() as u8]);
        bytes.extend_from_slice(text);
        // A ping in between changes nothing.
        bytes.extend_from_slice(&[0x89, 1, b'!']);
    }
    for size in 1..=bytes.len() {
        let mut connection = Connection::connecting(0, &terms);
        connection.stage = Stage::Open;
        let (mut tools, mut heard) = (Tools::default(), Vec::new());
        for part in bytes.chunks(size) {
            connection.receive(part, &terms, &mut tools).unwrap();
            heard.extend(tools.heard.messages().map(<[u8]>::to_vec));
            tools.heard.clear();
        }
        assert_eq!(heard, texts, "in pieces of {size}");
    }
}
