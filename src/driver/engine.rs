//! An engine as the server sees it: it makes the drivers of all shards, and describes itself as
//! data.
//!
//! Shards are generic over their driver, so starting them is generic over a [`DriverFactory`].
//! Whatever shows an engine to operators reads its [`EngineFacts`], and knows no engine by name.

use std::fmt;
use std::time::Instant;

use super::Driver;

/// Makes one driver a shard. All clones make drivers of the same server, which reach each other.
pub trait DriverFactory: Clone + Send + 'static {
    type Driver: Driver;
    /// Why a driver cannot be made, with the remedy.
    type Error: fmt::Display;

    /// Where the clocks of all its drivers begin.
    fn epoch(&self) -> Instant;
    /// Makes the driver of a shard, on the thread that will drive it. Once per shard.
    ///
    /// # Errors
    /// When the kernel refuses what the driver needs.
    fn make(&self, shard: u16) -> Result<Self::Driver, Self::Error>;
    /// Describes the engine, with the sizes that the drivers made so far were granted.
    fn facts(&self) -> EngineFacts;
}

/// What an engine says of itself.
#[derive(Clone, Debug)]
pub struct EngineFacts {
    pub name: &'static str,
    /// The system call by which its drivers submit and wait.
    pub wait_call: &'static str,
    /// System calls of a shard that serves, beyond those of every thread.
    pub system_calls: &'static [i64],
    /// What it uses where the kernel has it.
    pub features: Vec<EngineFeature>,
    /// Sizes of each driver.
    pub sizes: Vec<EngineSize>,
    /// What the operator should change, as sentences.
    pub warnings: Vec<String>,
}

/// An ability of the kernel that the engine can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineFeature {
    /// Its name in JSON.
    pub key: &'static str,
    /// Its name in text.
    pub title: &'static str,
    /// What it is good for.
    pub effect: &'static str,
    /// The first Linux that has it.
    pub since: &'static str,
    pub is_available: bool,
}

/// A size of each driver: as configured, and as the kernel granted it to the smallest of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineSize {
    /// Its name in JSON.
    pub key: &'static str,
    /// What is counted, in text.
    pub title: &'static str,
    pub configured: u64,
    pub granted: u64,
}

impl EngineFacts {
    /// The granted size of this name in JSON, if the engine has one.
    pub fn granted(&self, key: &str) -> Option<u64> {
        self.sizes.iter().find(|size| size.key == key).map(|size| size.granted)
    }
}
