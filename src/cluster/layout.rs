//! The place of channels in the engine: partition, instance and names of keys.
//!
//! A channel belongs to one of 1,024 partitions, by the SHA-256 of its name, and a partition to one
//! of the configured instances, by rendezvous hash: an instance that is added takes an equal share
//! from each of the others, and moves nothing else.
//!
//! All keys of a channel contain the tag of its partition in braces. The tags are chosen such that
//! their CRC-16 spreads the partitions evenly over the 16,384 slots of a Redis Cluster, so the
//! names need not change for one.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

use crate::hub::ChannelName;

/// A life of a node in the engine: whatever it lists ends with it. A node begins another one when
/// the engine may have lost some of its writes, or has counted it as dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Incarnation {
    /// Parses what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

const PARTITIONS: usize = 1024;
const SLOTS: usize = 16_384;

/// The place of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub partition: u16,
    /// The index of its instance among the configured URLs.
    pub instance: u8,
}

/// The names of keys and topics, and the instance of each partition. Equal on all nodes with equal
/// options.
#[derive(Debug)]
pub struct Layout {
    prefix: String,
    tags: Vec<u32>,
    instances: Vec<u8>,
}

impl Layout {
    /// Makes the layout for these instances. `names`: the instances, such as `host:port`; their
    /// order does not matter for the place of a channel.
    pub fn new(prefix: &str, names: &[String]) -> Self {
        assert!((1..=usize::from(u8::MAX)).contains(&names.len()), "the number was validated");
        let instances = (0..PARTITIONS).map(|partition| choose_instance(partition, names));
        Self { prefix: prefix.to_owned(), tags: make_tags(), instances: instances.collect() }
    }

    /// Returns the place of a channel.
    pub fn place_of(&self, channel: &str) -> Place {
        let hash = digest(&SHA256, channel.as_bytes());
        let first = u16::from_be_bytes([hash.as_ref()[0], hash.as_ref()[1]]);
        let partition = first >> 6;
        Place { partition, instance: self.instances[usize::from(partition)] }
    }

    fn key(&self, kind: &str, place: Place, rest: &[u8]) -> Vec<u8> {
        let tag = self.tags[usize::from(place.partition)];
        let mut key = format!("{}:{kind}{{{tag}}}", self.prefix).into_bytes();
        key.extend(rest);
        key
    }

    /// The key of a channel's epoch, offset and lineage.
    pub fn meta_key(&self, place: Place, channel: &ChannelName) -> Vec<u8> {
        self.key("m", place, channel.as_str().as_bytes())
    }

    /// The key of a channel's messages.
    pub fn list_key(&self, place: Place, channel: &ChannelName) -> Vec<u8> {
        self.key("l", place, channel.as_str().as_bytes())
    }

    /// The key of an idempotency key.
    pub fn seen_key(&self, place: Place, digest: &[u8; 16]) -> Vec<u8> {
        self.key("k", place, digest)
    }

    /// The keys of a channel's members on all nodes: the lists, their order, and the seats.
    pub fn roster_keys(&self, place: Place, channel: &ChannelName) -> [Vec<u8>; 3] {
        ["p", "o", "q"].map(|kind| self.key(kind, place, channel.as_str().as_bytes()))
    }

    /// The key of all that an incarnation of a node lists in the partition of a place.
    pub fn listed_key(&self, place: Place, incarnation: Incarnation) -> Vec<u8> {
        self.key("x", place, incarnation.to_string().as_bytes())
    }

    /// Returns the places of all partitions, with their tags.
    pub fn places(&self) -> impl Iterator<Item = (Place, u32)> {
        let all = self.instances.iter().zip(&self.tags).enumerate();
        all.map(|(partition, (instance, tag))| {
            (Place { partition: partition as u16, instance: *instance }, *tag)
        })
    }

    /// The beginning of all keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The topic of a channel.
    pub fn topic(&self, place: Place, channel: &ChannelName) -> Vec<u8> {
        self.key("c", place, channel.as_str().as_bytes())
    }

    /// A key that belongs to no channel.
    pub fn plain_key(&self, name: &str) -> Vec<u8> {
        format!("{}:{name}", self.prefix).into_bytes()
    }

    /// The topic of messages to a node, or to all.
    pub fn node_topic(&self, node: Option<u32>) -> Vec<u8> {
        match node {
            Some(node) => format!("{}:n:{node:08x}", self.prefix).into_bytes(),
            None => format!("{}:n:all", self.prefix).into_bytes(),
        }
    }

    /// The topic by which a node checks that its subscription works.
    pub fn probe_topic(&self, origin: u64) -> Vec<u8> {
        format!("{}:probe:{origin:016x}", self.prefix).into_bytes()
    }
}

/// CRC-16 as in Redis Cluster: XMODEM, polynomial 0x1021.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    })
}

/// The tag of each partition: the least number whose CRC-16 is in the partition's slot.
fn make_tags() -> Vec<u32> {
    let mut tags = vec![None; PARTITIONS];
    let (mut missing, mut number) = (PARTITIONS, 0);
    while missing > 0 {
        let slot = usize::from(crc16(u32::to_string(&number).as_bytes())) % SLOTS;
        let tag = &mut tags[slot * PARTITIONS / SLOTS];
        if slot.is_multiple_of(SLOTS / PARTITIONS) && tag.is_none() {
            *tag = Some(number);
            missing -= 1;
        }
        number += 1;
    }
    tags.into_iter().flatten().collect()
}

/// The instance with the highest hash together with the partition.
fn choose_instance(partition: usize, names: &[String]) -> u8 {
    let score = |name: &String| {
        let text = format!("{partition}:{name}");
        digest(&SHA256, text.as_bytes()).as_ref().to_owned()
    };
    let best = (0..names.len()).max_by_key(|at| score(&names[*at]));
    best.expect("there is an instance") as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make_names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("redis{n}:6379")).collect()
    }

    #[test]
    fn partitions_have_equal_shares_of_the_slots() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "the check value of CRC-16/XMODEM");
        let layout = Layout::new("seawall", &make_names(1));
        for (partition, tag) in layout.tags.iter().enumerate() {
            assert_eq!(usize::from(crc16(tag.to_string().as_bytes())) % SLOTS, 16 * partition);
        }
    }

    #[test]
    fn keys_name_their_channel_and_share_its_tag() {
        let layout = Layout::new("app", &make_names(1));
        let channel = ChannelName::new("chat:1");
        let place = layout.place_of("chat:1");
        let tag = layout.tags[usize::from(place.partition)];
        for (key, kind) in [
            (layout.meta_key(place, &channel), "m"),
            (layout.list_key(place, &channel), "l"),
            (layout.topic(place, &channel), "c"),
        ] {
            assert_eq!(key, format!("app:{kind}{{{tag}}}chat:1").into_bytes());
        }
        let seen = layout.seen_key(place, &[7; 16]);
        assert!(seen.starts_with(format!("app:k{{{tag}}}").as_bytes()));
    }

    #[test]
    fn an_instance_that_is_added_takes_an_equal_share_from_each_other() {
        let layouts = [3, 4].map(|count| Layout::new("seawall", &make_names(count)).instances);
        let moved = layouts[0].iter().zip(&layouts[1]).filter(|(before, now)| before != now);
        let (mut from, mut count) = ([0; 3], 0);
        for (before, now) in moved {
            assert_eq!(*now, 3, "nothing moves between the others");
            from[usize::from(*before)] += 1;
            count += 1;
        }
        assert!((200..312).contains(&count), "{count} of 1,024");
        assert!(from.iter().all(|share| (50..120).contains(share)), "{from:?}");
        let mut turned = make_names(4);
        turned.rotate_left(1);
        let turned = Layout::new("seawall", &turned).instances;
        assert!(turned.iter().zip(&layouts[1]).all(|(a, b)| (a + 1) % 4 == *b));
    }
}
