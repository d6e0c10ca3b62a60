//! Admission and rate limits: counts and rates that all shards share.
//!
//! Nothing here waits or locks. Counts of connections by address and user, and rates by either, are
//! in [`tables`] of fixed size whose entries are single atomic words; one calculation decides what
//! each limiter passes ([`rate`]). A message of a user with a limit takes from the user's entry
//! itself: shares held by connections would add up to more than the burst, and asking another shard
//! for a share would delay the message, which must not happen.
//!
//! Clients over a limit are rejected before the upgrade, with 503 or 429 and `Retry-After`.

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

/// Routes that can be counted, and so configured.
pub const ROUTES_MAX: usize = 1000;

/// Why a connection is rejected; each reason has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The shard is at its connection limit.
    ShardFull,
    /// Too many connections are in their handshake.
    Handshakes,
    /// The node is at its connection limit.
    NodeFull,
    /// The node's rate of new connections is exceeded.
    NodeRate,
    /// The address is at its connection limit.
    AddressFull,
    /// The address exceeds its rate of new connections.
    AddressRate,
    /// The route is at its connection limit.
    RouteFull,
    /// The user is at its connection limit.
    UserFull,
    /// The server is low on memory.
    Memory,
}

impl Denied {
    /// All reasons, in their order.
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

    /// Name in metric labels.
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

    /// The answer to an upgrade: 429 where the client itself exceeds a limit, else 503.
    pub fn denial(self, retry_after_s: u32) -> Denial {
        let (refusal, message) = match self {
            Self::ShardFull | Self::NodeFull => {
                (Refusal::Unavailable, "server is at its connection limit; retry later")
            }
            Self::Handshakes => {
                (Refusal::Unavailable, "too many connections are being opened; retry later")
            }
            Self::NodeRate => (Refusal::Unavailable, "connection rate limit reached; retry later"),
            Self::AddressFull => {
                (Refusal::TooManyRequests, "address is at its connection limit; close one first")
            }
            Self::AddressRate => (
                Refusal::TooManyRequests,
                "address exceeds its connection rate; wait before the next one",
            ),
            Self::RouteFull => {
                (Refusal::Unavailable, "path is at its connection limit; retry later")
            }
            Self::UserFull => {
                (Refusal::TooManyRequests, "user is at its connection limit; close one first")
            }
            Self::Memory => (Refusal::Unavailable, "server is low on memory; retry later"),
        };
        Denial { refusal, message, retry_after_s }
    }
}

/// Connection limits; 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub connections_max: u32,
    pub connections_per_address_max: u32,
    pub connections_per_user_max: u32,
    /// New connections per second.
    pub connections_per_second_max: u32,
    pub connections_per_address_second_max: u32,
    /// Bits of an address that identify a client.
    pub address_prefix_v4: u8,
    pub address_prefix_v6: u8,
    /// See [`Admission::update_shortage`].
    pub memory_bytes_max: u64,
}

/// How a connection is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not yet: behind a proxy, its address is known only with its request.
    Waiting,
    /// By the node only.
    Node,
    /// By its address as well.
    Address,
    /// It only takes a slot for rejections.
    Refused(Denied),
}

/// What is rejected at each level of memory shortage; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortage {
    None,
    /// Compression contexts of connections.
    Contexts,
    /// New connections.
    Connections,
    /// Publishes and subscriptions.
    Work,
}

impl Shortage {
    /// The rejected work, as text for logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Contexts => "compression contexts",
            Self::Connections => "compression contexts, connections",
            Self::Work => "compression contexts, connections, publishes, subscriptions",
        }
    }
}

/// The counts and rates that all shards share.
#[derive(Debug)]
pub struct Admission {
    random: RandomState,
    connections: AtomicU32,
    addresses: Counts,
    users: Counts,
    /// Connections of each route.
    routes: Box<[AtomicU32]>,
    /// Connections of all routes that share a number: the routes that one path has had over time.
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

/// The network by which an address is counted.
fn network_of(address: IpAddr, limits: &Limits) -> IpAddr {
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
    /// Counts a connection; the address is `None` for Unix sockets.
    ///
    /// # Errors
    /// Why the connection is rejected; then it is not counted.
    pub fn enter(
        &self,
        limits: &Limits,
        address: Option<IpAddr>,
        now_ns: u64,
    ) -> Result<Standing, Denied> {
        let key = address.map(|address| self.random.hash_one(network_of(address, limits)));
        if let (Some(key), 1..) = (key, limits.connections_per_address_second_max) {
            let rate = Rate::with_burst_of_a_second(limits.connections_per_address_second_max);
            let rates = self.address_rates.get_or_init(Rates::new);
            rates.take_tokens(key, rate, 1, now_ns).map_err(|_| Denied::AddressRate)?;
        }
        if limits.connections_per_second_max > 0 {
            let rate = Rate::with_burst_of_a_second(limits.connections_per_second_max);
            self.node_rate.take_tokens(rate, 1, now_ns).map_err(|_| Denied::NodeRate)?;
        }
        if !try_increment(&self.connections, limits.connections_max) {
            return Err(Denied::NodeFull);
        }
        let Some(key) = key else { return Ok(Standing::Node) };
        match self.addresses.increment(key, limits.connections_per_address_max) {
            Entered::Counted => Ok(Standing::Address),
            Entered::NoRoom => Ok(Standing::Node),
            Entered::Full => {
                self.connections.fetch_sub(1, Ordering::Relaxed);
                Err(Denied::AddressFull)
            }
        }
    }

    /// Reverses [`Self::enter`].
    pub fn leave(&self, limits: &Limits, standing: Standing, address: Option<IpAddr>) {
        if !matches!(standing, Standing::Node | Standing::Address) {
            return;
        }
        self.connections.fetch_sub(1, Ordering::Relaxed);
        if let (Standing::Address, Some(address)) = (standing, address) {
            self.addresses.decrement(self.random.hash_one(network_of(address, limits)));
        }
    }

    /// Counts a connection of a route, and under its number; returns false at the limit.
    pub fn enter_route(&self, route: usize, number: u16, connections_max: u32) -> bool {
        let within = try_increment(&self.paths[usize::from(number)], connections_max);
        if within {
            self.routes[route].fetch_add(1, Ordering::AcqRel);
        }
        within
    }

    /// Reverses [`Self::enter_route`].
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
        self.users.increment(self.random.hash_one(user), connections_max)
    }

    /// Reverses [`Self::enter_user`], if that returned [`Entered::Counted`].
    pub fn leave_user(&self, user: &str) {
        self.users.decrement(self.random.hash_one(user));
    }

    /// Whether a user is below this limit at the moment.
    pub fn has_room_for(&self, user: &str, connections_max: u32) -> bool {
        connections_max == 0 || self.users.count(self.random.hash_one(user)) < connections_max
    }

    /// All counted connections.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Takes `times` from a user's rate; the error is the time until a retry can succeed (ns).
    fn take_from_user(
        &self,
        kind: RateKind,
        user: &str,
        rate: Rate,
        times: u32,
        now_ns: u64,
    ) -> Result<(), u64> {
        let rates = self.user_rates[kind as usize].get_or_init(Rates::new);
        rates.take_tokens(self.random.hash_one(user), rate, times, now_ns)
    }

    /// The present level of memory shortage.
    pub fn shortage(&self) -> Shortage {
        match self.shortage.load(Ordering::Relaxed) {
            0 => Shortage::None,
            1 => Shortage::Contexts,
            2 => Shortage::Connections,
            _ => Shortage::Work,
        }
    }

    /// Updates the level of shortage from the memory in use: the first level starts at 90 % of the
    /// limit, the second at 95 %, the third at the limit. 0 = no limit.
    pub fn update_shortage(&self, used_bytes: u64, memory_bytes_max: u64) -> Shortage {
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

/// Adds one, unless the count is `most` (0 = no limit). A failed attempt changes nothing, so it
/// cannot make another one fail.
fn try_increment(count: &AtomicU32, most: u32) -> bool {
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
        assert_eq!(admission.connections(), 1, "a rejected connection is not counted");
        admission.leave(&wide, Standing::Address, Some("192.0.2.9".parse().unwrap()));
        assert_eq!(enter(&admission, &wide, "192.0.2.1"), Ok(Standing::Address));
    }

    #[test]
    fn a_node_limits_connections_and_their_rate() {
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
        assert_eq!(let_in, 19, "a burst of one second, then ten per second");
    }

    #[test]
    fn memory_shortage_rises_in_order() {
        let admission = Admission::default();
        let steps = [(0, Shortage::None), (90, Shortage::Contexts), (95, Shortage::Connections)];
        for (used, shortage) in steps.into_iter().chain([(100, Shortage::Work)]) {
            assert_eq!(admission.update_shortage(used, 100), shortage);
            assert_eq!(admission.shortage(), shortage);
        }
        assert_eq!(admission.update_shortage(u64::MAX, 0), Shortage::None);
    }
}
