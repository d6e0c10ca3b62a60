//! An operator who lists connections and inspects some of them, while they come and go.

use seawall::hub::ConnectionId;
use seawall::shard::mail::Mail;
use seawall::shard::mail::{ConnectionInfo, Filter, HubMail, Listed};
use tokio::sync::oneshot::{self, Receiver};

use crate::world::World;

#[derive(Default)]
pub(super) struct Operator {
    lists: Vec<(u16, Receiver<Listed>)>,
    looks: Vec<Receiver<Option<Box<ConnectionInfo>>>>,
    /// Connections that were seen with what TCP says of them.
    seen: usize,
}

impl Operator {
    /// Takes what has been answered, and asks for more.
    pub(super) fn act(&mut self, world: &World, shards: u16) {
        for (shard, listed) in self.lists.extract_if(.., |(_, list)| !list.is_empty()) {
            let listed = { listed }.try_recv().expect("it has come");
            for one in listed.connections {
                let id = ConnectionId::parse(&one.connection).expect("ids are parsed");
                // Two inspect at once.
                for _ in 0..2 {
                    let (reply, received) = oneshot::channel();
                    world.post(shard, Mail::Hub(Box::new(HubMail::Look { id, reply })));
                    self.looks.push(received);
                }
            }
        }
        self.look();
        if self.looks.is_empty() {
            let shard = world.network.random_below(u64::from(shards)) as u16;
            let filter = Box::new(Filter { limit: 10, ..Filter::default() });
            let (reply, received) = oneshot::channel();
            world.post(shard, Mail::Hub(Box::new(HubMail::List { filter, reply })));
            self.lists.push((shard, received));
        }
    }

    fn look(&mut self) {
        for look in self.looks.extract_if(.., |look| !look.is_empty()) {
            let look = { look }.try_recv().expect("it has come");
            self.seen += usize::from(look.is_some_and(|info| info.tcp.is_some()));
        }
    }

    /// Checks that every request is answered; returns how many were.
    pub(super) fn finish(mut self, seed: u64) -> usize {
        self.look();
        assert!(self.looks.is_empty(), "seed {seed}: {} looks are unanswered", self.looks.len());
        self.seen
    }
}
