//! The engine as the server sees it: a factory of drivers that describes itself as data.
//!
//! Shards are generic over their driver, so starting them is generic over a [`DriverFactory`]. Code
//! that shows an engine to operators reads its [`EngineFacts`], and knows no engine by name.

use std::fmt;
use std::time::Instant;

use super::Driver;

/// Makes one driver per shard. Drivers of all clones belong to one server, and reach each other.
pub trait DriverFactory: Clone + Send + 'static {
    type Driver: Driver;
    /// Why a driver cannot be made, with the remedy.
    type Error: fmt::Display;

    /// The instant at which the clocks of all its drivers start.
    fn epoch(&self) -> Instant;
    /// Makes the driver of a shard, on the thread that will use it. Called once per shard.
    ///
    /// # Errors
    /// When the kernel refuses a resource that the driver needs.
    fn make(&self, shard: u16) -> Result<Self::Driver, Self::Error>;
    /// Describes the engine, with the sizes granted to the drivers made so far.
    fn facts(&self) -> EngineFacts;
}

/// An engine's description of itself, for operators.
#[derive(Clone, Debug)]
pub struct EngineFacts {
    pub name: &'static str,
    /// Why this engine runs.
    pub reason: String,
    /// The system call by which its drivers submit and wait.
    pub wait_call: &'static str,
    /// System calls of a serving shard beyond those of every thread.
    pub system_calls: &'static [i64],
    /// Features that it uses where the kernel has them.
    pub features: Vec<EngineFeature>,
    /// Receive buffers of each driver.
    pub buffers: u32,
    /// Sizes of each driver.
    pub sizes: Vec<EngineSize>,
    /// Advice to the operator, as sentences.
    pub warnings: Vec<String>,
}

/// A kernel feature that the engine can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineFeature {
    /// Name in JSON.
    pub key: &'static str,
    /// Name in text.
    pub title: &'static str,
    /// What it improves.
    pub effect: &'static str,
    /// The first Linux version that has it.
    pub since: &'static str,
    pub is_available: bool,
}

/// A size of each driver: as configured, and the smallest that the kernel granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineSize {
    /// Name in JSON.
    pub key: &'static str,
    /// The counted thing, in text.
    pub title: &'static str,
    pub configured: u64,
    pub granted: u64,
}

impl EngineFacts {
    /// The granted size with this JSON name, if the engine has it.
    pub fn granted_size(&self, key: &str) -> Option<u64> {
        self.sizes.iter().find(|size| size.key == key).map(|size| size.granted)
    }
}
