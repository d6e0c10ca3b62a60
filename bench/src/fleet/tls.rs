//! Connections over TLS: what is sent is sealed when it is passed to the kernel, and what is
//! received is opened before the connection sees it.

use crate::client::{Connection, Events, Fault, Outgoing, Stage, Terms, Tools};
use crate::tls::Tls;

/// Seals what is to be sent, and returns what goes to the wire: also what TLS itself has to send.
pub(super) fn seal(
    tls: &mut Tls,
    connection: &Connection,
    outgoing: Option<&Outgoing>,
    terms: &Terms,
) -> Option<Outgoing> {
    match outgoing {
        Some(outgoing) => tls.seal(connection.outgoing_bytes(outgoing, terms)),
        None if connection.stage == Stage::Closed => tls.finish(),
        None => {}
    }
    tls.take_output().map(Outgoing::Frame)
}

/// Passes bytes from the wire to a connection, opened if it has TLS.
pub(super) fn receive(
    tls: Option<&mut Tls>,
    connection: &mut Connection,
    wire: &[u8],
    terms: &Terms,
    tools: &mut Tools,
) -> Result<Events, Fault> {
    let Some(tls) = tls else { return connection.receive(wire, terms, tools) };
    let mut plain = std::mem::take(&mut tools.plain);
    plain.clear();
    let opened = tls.open(wire, &mut plain);
    let events = opened.and_then(|()| connection.receive(&plain, terms, tools));
    tools.plain = plain;
    events
}
