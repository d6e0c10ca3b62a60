//! Who is let in, and how much each may do: counts and rates that all shards share.
//!
//! Nothing here waits or locks. Counts of connections by address and by user, and rates by either,
//! lie in [`tables`] of fixed size whose entries are single atomic words; what each limiter lets
//! pass is decided by one calculation ([`rate`]). A message of a user with a limit takes from the
//! user's entry itself: portions kept by connections would add up to more than the burst, and
//! asking another shard for them would make a message wait for it, which no message does.
//!
//! What is rejected here is rejected before the upgrade, with 503 or 429 and `Retry-After`.

pub mod limiter;
pub mod rate;
pub mod tables;

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::proto::http::{Denial, Refusal};
use limiter::RateKind;
use rate::Rate;
use tables::{Counts, Entered, Rates, SharedRate};

/// Routes that may be counted, and so may be written.
pub const ROUTES_MAX: usize = 1000;

/// Why a connection is not let in, each with a counter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The shard has all the connections it may have.
    ShardFull,
    /// Too many connections have not finished their handshake.
    Handshakes,
    /// The node has all the connections it may have.
    NodeFull,
    /// More connections come in a second than may.
    NodeRate,
    /// The address has all the connections it may have.
    AddressFull,
    /// The address opens more connections in a second than it may.
    AddressRate,
    /// The route has all the connections it may have.
    RouteFull,
    /// The user has all the connections it may have.
    UserFull,
    /// Memory is short.
    Memory,
}

impl Denied {
    /// Every reason, in their order.
    pub const ALL: [Self; 9] = [
        Self::ShardFull,
        Self::Handshakes,
        Self::NodeFull,
        Self::NodeRate,
        Self::AddressFull,
        Self::AddressRate,
        Self::RouteFull,
        Self::UserFull,
        Self::Memory,
    ];

    /// The name in metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::ShardFull => "shard_full",
            Self::Handshakes => "handshakes",
            Self::NodeFull => "node_full",
            Self::NodeRate => "node_rate",
            Self::AddressFull => "address_full",
            Self::AddressRate => "address_rate",
            Self::RouteFull => "route_full",
            Self::UserFull => "user_full",
            Self::Memory => "memory",
        }
    }

    /// The answer to an upgrade: 429 where the client itself asks for too much.
    pub fn denial(self, retry_after_s: u32) -> Denial {
        let (refusal, message) = match self {
            Self::ShardFull | Self::NodeFull => (
                Refusal::Unavailable,
                "server has all the connections it may have: try again later",
            ),
            Self::Handshakes => {
                (Refusal::Unavailable, "too many connections are being opened: try again later")
            }
            Self::NodeRate => (
                Refusal::Unavailable,
                "more connections come in a second than the server takes: try again later",
            ),
            Self::AddressFull => (
                Refusal::TooManyRequests,
                "this address has all the connections it may have: close one first",
            ),
            Self::AddressRate => (
                Refusal::TooManyRequests,
                "this address opens connections too fast: wait before the next one",
            ),
            Self::RouteFull => (
                Refusal::Unavailable,
                "this path has all the connections it may have: try again later",
            ),
            Self::UserFull => (
                Refusal::TooManyRequests,
                "this user has all the connections it may have: close one first",
            ),
            Self::Memory => (Refusal::Unavailable, "server is short of memory: try again later"),
        };
        Denial { refusal, message, retry_after_s }
    }
}

/// How many connections there may be; 0 = no limit of that kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub connections_max: u32,
    pub connections_per_address_max: u32,
    pub connections_per_user_max: u32,
    /// New ones in a second.
    pub connections_per_second_max: u32,
    pub connections_per_address_second_max: u32,
    /// Bits of an address that tell clients apart.
    pub address_prefix_v4: u8,
    pub address_prefix_v6: u8,
    /// See [`Admission::weigh`].
    pub memory_bytes_max: u64,
}

/// How a connection is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not yet: its address is not known before its request.
    Waiting,
    /// By the node alone.
    Node,
    /// By its address as well.
    Address,
    /// It is here to be refused.
    Refused(Denied),
}

/// What is given up when memory is short, in this order; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortage {
    None,
    /// Compression contexts of single connections.
    Contexts,
    /// New connections.
    Connections,
    /// Publishes and subscriptions.
    Work,
}

impl Shortage {
    /// What is refused, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Contexts => "compression contexts",
            Self::Connections => "compression contexts, connections",
            Self::Work => "compression contexts, connections, publishes, subscriptions",
        }
    }
}

/// Shared by all shards.
#[derive(Debug)]
pub struct Admission {
    random: RandomState,
    connections: AtomicU32,
    addresses: Counts,
    users: Counts,
    /// Connections of each route.
    routes: Box<[AtomicU32]>,
    /// Connections of all routes that share a number: those that one path has had in turn.
    paths: Box<[AtomicU32]>,
    node_rate: SharedRate,
    address_rates: OnceLock<Rates>,
    user_rates: [OnceLock<Rates>; RateKind::ALL.len()],
    shortage: AtomicU8,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            random: RandomState::new(),
            connections: AtomicU32::new(0),
            addresses: Counts::new(),
            users: Counts::new(),
            routes: (0..ROUTES_MAX).map(|_| AtomicU32::new(0)).collect(),
            paths: (0..ROUTES_MAX).map(|_| AtomicU32::new(0)).collect(),
            node_rate: SharedRate::default(),
            address_rates: OnceLock::new(),
            user_rates: Default::default(),
            shortage: AtomicU8::new(Shortage::None as u8),
        }
    }
}

/// The network that an address stands for.
fn network(address: IpAddr, limits: &Limits) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(limits.address_prefix_v4)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let bits = 128 - u32::from(limits.address_prefix_v6);
            Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(bits).unwrap_or(0)).into()
        }
    }
}

impl Admission {
    /// Counts a connection; `None` is the address of a Unix socket's peer.
    ///
    /// # Errors
    /// Why it may not come in; then it is not counted.
    pub fn enter(
        &self,
        limits: &Limits,
        address: Option<IpAddr>,
        now_ns: u64,
    ) -> Result<Standing, Denied> {
        let key = address.map(|address| self.random.hash_one(network(address, limits)));
        if let (Some(key), 1..) = (key, limits.connections_per_address_second_max) {
            let rate = Rate::with_burst_of_a_second(limits.connections_per_address_second_max);
            let rates = self.address_rates.get_or_init(Rates::new);
            rates.take(key, rate, 1, now_ns).map_err(|_| Denied::AddressRate)?;
        }
        if limits.connections_per_second_max > 0 {
            let rate = Rate::with_burst_of_a_second(limits.connections_per_second_max);
            self.node_rate.take(rate, 1, now_ns).map_err(|_| Denied::NodeRate)?;
        }
        if !step_in(&self.connections, limits.connections_max) {
            return Err(Denied::NodeFull);
        }
        let Some(key) = key else { return Ok(Standing::Node) };
        match self.addresses.enter(key, limits.connections_per_address_max) {
            Entered::Counted => Ok(Standing::Address),
            Entered::NoRoom => Ok(Standing::Node),
            Entered::Full => {
                self.connections.fetch_sub(1, Ordering::Relaxed);
                Err(Denied::AddressFull)
            }
        }
    }

    /// Counts a connection no more.
    pub fn leave(&self, limits: &Limits, standing: Standing, address: Option<IpAddr>) {
        if !matches!(standing, Standing::Node | Standing::Address) {
            return;
        }
        self.connections.fetch_sub(1, Ordering::Relaxed);
        if let (Standing::Address, Some(address)) = (standing, address) {
            self.addresses.leave(self.random.hash_one(network(address, limits)));
        }
    }

    /// Counts a connection of a route, and under its number; returns whether it may be.
    pub fn enter_route(&self, route: usize, number: u16, connections_max: u32) -> bool {
        let within = step_in(&self.paths[usize::from(number)], connections_max);
        if within {
            self.routes[route].fetch_add(1, Ordering::AcqRel);
        }
        within
    }

    /// See [`Self::enter_route`].
    pub fn leave_route(&self, route: usize, number: u16) {
        self.paths[usize::from(number)].fetch_sub(1, Ordering::Relaxed);
        self.routes[route].fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether a route has connections.
    pub fn has_connections(&self, route: usize) -> bool {
        self.routes[route].load(Ordering::Acquire) > 0
    }

    /// Counts a connection of a user.
    pub fn enter_user(&self, user: &str, connections_max: u32) -> Entered {
        self.users.enter(self.random.hash_one(user), connections_max)
    }

    /// Counts a connection of a user no more, if it was [`Entered::Counted`].
    pub fn leave_user(&self, user: &str) {
        self.users.leave(self.random.hash_one(user));
    }

    /// Whether a user may have one more connection, as things are now.
    pub fn has_room_for(&self, user: &str, connections_max: u32) -> bool {
        connections_max == 0 || self.users.count(self.random.hash_one(user)) < connections_max
    }

    /// All connections that are counted.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Takes `times` from a user's rate; the error is after how many nanoseconds to try again.
    fn take_from_user(
        &self,
        kind: RateKind,
        user: &str,
        rate: Rate,
        times: u32,
        now_ns: u64,
    ) -> Result<(), u64> {
        let rates = self.user_rates[kind as usize].get_or_init(Rates::new);
        rates.take(self.random.hash_one(user), rate, times, now_ns)
    }

    /// What has to be given up for want of memory.
    pub fn shortage(&self) -> Shortage {
        match self.shortage.load(Ordering::Relaxed) {
            0 => Shortage::None,
            1 => Shortage::Contexts,
            2 => Shortage::Connections,
            _ => Shortage::Work,
        }
    }

    /// Decides what is given up, of this much memory in use: the first at nine tenths of the
    /// bound, the second at 95 of 100, everything new at the bound. 0 = no bound.
    pub fn weigh(&self, used_bytes: u64, memory_bytes_max: u64) -> Shortage {
        let hundredths = match memory_bytes_max {
            0 => 0,
            most => used_bytes.saturating_mul(100) / most,
        };
        let shortage = match hundredths {
            0..90 => Shortage::None,
            90..95 => Shortage::Contexts,
            95..100 => Shortage::Connections,
            _ => Shortage::Work,
        };
        self.shortage.store(shortage as u8, Ordering::Relaxed);
        shortage
    }
}

/// Adds one, unless the count is `most` (0 = no limit). A rejected attempt changes nothing, so it
/// cannot make another one fail.
fn step_in(count: &AtomicU32, most: u32) -> bool {
    let most = if most == 0 { u32::MAX } else { most };
    let within = |count| (count < most).then(|| count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connections_max: 0,
        connections_per_address_max: 0,
        connections_per_user_max: 0,
        connections_per_second_max: 0,
        connections_per_address_second_max: 0,
        address_prefix_v4: 32,
        address_prefix_v6: 64,
        memory_bytes_max: 0,
    };

    fn enter(admission: &Admission, limits: &Limits, address: &str) -> Result<Standing, Denied> {
        admission.enter(limits, Some(address.parse().unwrap()), 0)
    }

    #[test]
    fn an_address_is_its_network() {
        let one = Limits { connections_per_address_max: 1, ..LIMITS };
        let admission = Admission::default();
        assert_eq!(enter(&admission, &one, "2001:db8::1"), Ok(Standing::Address));
        assert_eq!(enter(&admission, &one, "2001:db8::ffff:2"), Err(Denied::AddressFull));
        assert_eq!(enter(&admission, &one, "2001:db8:0:1::1"), Ok(Standing::Address));
        assert_eq!(enter(&admission, &one, "10.0.0.1"), Ok(Standing::Address));
        assert_eq!(enter(&admission, &one, "::ffff:10.0.0.1"), Err(Denied::AddressFull));
        let wide = Limits { address_prefix_v4: 0, address_prefix_v6: 0, ..one };
        let admission = Admission::default();
        assert_eq!(enter(&admission, &wide, "10.0.0.1"), Ok(Standing::Address));
        assert_eq!(enter(&admission, &wide, "192.0.2.1"), Err(Denied::AddressFull));
        assert_eq!(admission.connections(), 1, "who is refused is not counted");
        admission.leave(&wide, Standing::Address, Some("192.0.2.9".parse().unwrap()));
        assert_eq!(enter(&admission, &wide, "192.0.2.1"), Ok(Standing::Address));
    }

    #[test]
    fn a_node_has_room_for_so_many_and_takes_so_many_a_second() {
        let two = Limits { connections_max: 2, ..LIMITS };
        let admission = Admission::default();
        assert_eq!(admission.enter(&two, None, 0), Ok(Standing::Node));
        assert!(enter(&admission, &two, "10.0.0.1").is_ok());
        assert_eq!(enter(&admission, &two, "10.0.0.2"), Err(Denied::NodeFull));
        admission.leave(&two, Standing::Node, None);
        assert!(enter(&admission, &two, "10.0.0.2").is_ok());

        let slow = Limits { connections_per_second_max: 10, ..LIMITS };
        let admission = Admission::default();
        let at = |ms: u64| admission.enter(&slow, None, ms * 1_000_000);
        let let_in = (0..1000).filter(|ms| at(*ms).is_ok()).count();
        assert_eq!(let_in, 19, "a second's worth at once, then ten a second");
    }

    #[test]
    fn memory_is_given_up_in_order() {
        let admission = Admission::default();
        let steps = [(0, Shortage::None), (90, Shortage::Contexts), (95, Shortage::Connections)];
        for (used, shortage) in steps.into_iter().chain([(100, Shortage::Work)]) {
            assert_eq!(admission.weigh(used, 100), shortage);
            assert_eq!(admission.shortage(), shortage);
        }
        assert_eq!(admission.weigh(u64::MAX, 0), Shortage::None);
    }
}
