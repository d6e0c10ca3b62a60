//! Describes one connection in full for an operator: the shard's data, and TCP's state, which the
//! driver reads with an operation.

use std::collections::HashMap;

use super::Hub;
use crate::driver::{Driver, TcpInfo, Token};
use crate::hub::ConnectionId;
use crate::shard::connections::Connections;
use crate::shard::mail::{ConnectionInfo, LookReply};

/// A described connection, with the sender of the reply.
pub(in crate::shard) struct Look {
    index: u32,
    described: (Box<ConnectionInfo>, LookReply),
}

impl Look {
    /// Makes one.
    pub(in crate::shard) fn new(index: u32, info: ConnectionInfo, reply: LookReply) -> Self {
        Self { index, described: (Box::new(info), reply) }
    }
}

impl Hub {
    /// Describes a connection; the reply is sent when TCP's state has been read.
    pub(super) fn inspect_connection(
        &mut self,
        connections: &Connections,
        id: ConnectionId,
        reply: LookReply,
    ) {
        let index = self.slot_of(id);
        let found =
            index.and_then(|index| Some((index, self.describe_connection(connections, index)?)));
        match found {
            Some((index, info)) => {
                self.looks.push(Look::new(index, info, reply));
            }
            // The requester may be gone: ignore the error.
            None => drop(reply.send(None)),
        }
    }
}

/// Descriptions that wait for TCP's state, by connection.
#[derive(Default)]
pub(in crate::shard) struct Looks(HashMap<Token, Vec<(Box<ConnectionInfo>, LookReply)>>);

impl Looks {
    /// Requests TCP's state, once for all concurrent requests about the connection.
    pub(in crate::shard) fn request_tcp_state(
        &mut self,
        connections: &mut Connections,
        driver: &mut impl Driver,
        look: Look,
    ) {
        let Look { index, described } = look;
        // The connection may have ended within the turn: reply without TCP's state.
        if !connections.has_socket(index) {
            return drop(described.1.send(Some(described.0)));
        }
        let waiting = self.0.entry(connections.token(index)).or_default();
        waiting.push(described);
        if waiting.len() == 1 {
            connections.request_tcp_info(driver, index);
        }
    }

    /// Completes the descriptions of a connection with TCP's state.
    pub(in crate::shard) fn complete_looks(&mut self, token: Token, result: Result<TcpInfo, i32>) {
        for (mut info, reply) in self.0.remove(&token).into_iter().flatten() {
            match result {
                Ok(tcp) => info.tcp = Some(tcp),
                Err(errno) => {
                    let error = std::io::Error::from_raw_os_error(errno);
                    info.tcp_error = Some(format!("TCP_INFO unavailable: {error}"));
                }
            }
            // The requester may be gone: ignore the error.
            drop(reply.send(Some(info)));
        }
    }
}
