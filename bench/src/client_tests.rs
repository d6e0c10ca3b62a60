//! The connection without a socket: its answers, its order of sending, and what it refuses.

use super::*;
use crate::sheet::Shape;

fn terms(verify: bool) -> Terms {
    let shape = Shape { size: 4, text: true, raw: false, depth: 8 };
    Terms { upgrade: Upgrade::new("h:1", "/"), sheet: Sheet::new(shape), verify }
}

fn open(terms: &Terms) -> Connection {
    let mut connection = Connection::connecting(3, terms);
    connection.connected();
    assert!(matches!(connection.next_outgoing(&terms.sheet), Some(Outgoing::Request)));
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
        let first = connection.receive(&bytes[..cut], &terms).unwrap();
        let second = connection.receive(&bytes[cut..], &terms).unwrap();
        assert!(first.opened ^ second.opened, "cut {cut}");
        assert_eq!(first.messages + second.messages, 1, "cut {cut}");
    }
}

#[test]
fn verified_echoes_must_come_in_order() {
    let terms = terms(true);
    let mut connection = open(&terms);
    assert_eq!(connection.receive(&echo(&terms, 3), &terms).unwrap().messages, 1);
    let swapped = connection.receive(&echo(&terms, 5), &terms);
    assert!(matches!(swapped, Err(Fault::Corrupt(_))), "{swapped:?}");
    let mut connection = open(&terms);
    let short = connection.receive(&[0x81, 1, terms.sheet.expected(3)[0]], &terms);
    assert!(matches!(short, Err(Fault::Corrupt(_))), "{short:?}");
    let mut connection = open(&terms);
    let mut binary = echo(&terms, 3);
    binary[0] = 0x82;
    assert!(matches!(connection.receive(&binary, &terms), Err(Fault::Corrupt(_))));
}

#[test]
fn owed_messages_leave_in_batches_after_control_frames() {
    let terms = terms(false);
    let mut connection = open(&terms);
    connection.owe(11);
    let mut ping = vec![0x89, 2];
    ping.extend_from_slice(b"hi");
    connection.receive(&ping, &terms).unwrap();
    let Some(Outgoing::Control(answer)) = connection.next_outgoing(&terms.sheet) else { panic!() };
    assert_eq!(answer, wire::masked(0x80 | opcode::PONG, CONTROL_MASK, b"hi"));
    let mut batches = Vec::new();
    while let Some(outgoing) = connection.next_outgoing(&terms.sheet) {
        let Outgoing::Messages { variant, count } = outgoing else { panic!("{outgoing:?}") };
        batches.push((variant, count));
    }
    assert_eq!(batches, [(3, 8), (11, 3)]);
}

#[test]
fn a_close_ends_sending_and_waits_for_the_servers() {
    let terms = terms(false);
    let mut connection = open(&terms);
    connection.owe(5);
    connection.close();
    assert!(matches!(connection.next_outgoing(&terms.sheet), Some(Outgoing::Control(_))));
    assert!(connection.next_outgoing(&terms.sheet).is_none());
    let events = connection.receive(&[0x88, 2, 3, 232], &terms).unwrap();
    assert!(events.closed);
    assert_eq!(connection.stage, Stage::Closed);
}

#[test]
fn an_uninvited_close_is_a_fault_with_its_code() {
    let terms = terms(false);
    let fault = open(&terms).receive(&[0x88, 2, 0x03, 0xF1], &terms).unwrap_err();
    assert_eq!(fault, Fault::ClosedByServer(Some(1009)));
    let fault = open(&terms).receive(&[0x81, 0x84], &terms).unwrap_err();
    assert_eq!(fault, Fault::Wire(WireError::Masked));
}
