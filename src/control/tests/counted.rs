//! An engine under another name: the drivers of `io_uring`, with their operations counted.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::driver::uring::{Uring, UringError, UringFactory};
use crate::driver::{
    Batch, Bell, Completion, Driver, DriverCounters, DriverFactory, EngineFacts, EngineFeature,
    Input, Lease, Loan, Socket, Token, Wait,
};

/// Calls of all drivers of a factory.
#[derive(Default)]
pub(super) struct CallCounts {
    pub(super) submits: AtomicU64,
    pub(super) sends: AtomicU64,
    pub(super) watches: AtomicU64,
    pub(super) closes: AtomicU64,
}

#[derive(Clone)]
pub(super) struct CountedFactory {
    pub(super) engine: UringFactory,
    pub(super) calls: Arc<CallCounts>,
}

impl DriverFactory for CountedFactory {
    type Driver = Counted;
    type Error = UringError;

    fn epoch(&self) -> Instant {
        self.engine.epoch()
    }

    fn make(&self, shard: u16) -> Result<Counted, UringError> {
        Ok(Counted { driver: self.engine.make(shard)?, calls: self.calls.clone() })
    }

    fn facts(&self) -> EngineFacts {
        EngineFacts {
            name: "counted",
            wait_call: "counted_wait",
            features: vec![EngineFeature {
                key: "counts",
                title: "counting",
                effect: "Shows that shards run on this engine",
                since: "6.1",
                is_available: true,
            }],
            sizes: Vec::new(),
            warnings: Vec::new(),
            ..self.engine.facts()
        }
    }
}

pub(super) struct Counted {
    driver: Uring,
    calls: Arc<CallCounts>,
}

/// Defines methods that forward to the wrapped driver.
macro_rules! pass_on {
    ($(fn $name:ident(&mut $this:ident $(, $argument:ident: $kind:ty)*) $(-> $result:ty)?;)*) => {
        $(fn $name(&mut $this $(, $argument: $kind)*) $(-> $result)? {
            $this.driver.$name($($argument),*)
        })*
    };
}

impl Driver for Counted {
    const WATCH_IS_CHEAPER: bool = false;

    pass_on! {
        fn now_ns(&mut self) -> u64;
        fn unix_ms(&mut self) -> u64;
        fn listen(&mut self, listener: u16, socket: OwnedFd) -> io::Result<()>;
        fn accept(&mut self, listener: u16);
        fn stop_listening(&mut self, listener: u16);
        fn receive(&mut self, socket: Socket, token: Token);
        fn receive_once(&mut self, socket: Socket, token: Token, input: Input);
        fn cancel_receive(&mut self, socket: Socket, token: Token);
        fn cancel_all(&mut self, socket: Socket, token: Token);
        fn shutdown(&mut self, socket: Socket, token: Token);
        fn doorbell(&mut self, shard: u16);
        fn pass(&mut self, socket: Socket, token: Token, shard: u16, key: u64);
        fn measure(&mut self, socket: Socket, token: Token);
        fn duplicate(&mut self, socket: Socket, token: Token);
        fn adopt(&mut self, descriptors: Vec<OwnedFd>, token: Token);
        fn next(&mut self) -> Option<Completion>;
        fn bytes(&mut self, lease: &Lease) -> &mut [u8];
        fn release(&mut self, lease: Lease);
        fn trim(&mut self);
    }

    fn watch(&mut self, socket: Socket, token: Token) {
        self.calls.watches.fetch_add(1, Ordering::Relaxed);
        self.driver.watch(socket, token);
    }

    fn send(&mut self, socket: Socket, batch: Box<Batch>) {
        self.calls.sends.fetch_add(1, Ordering::Relaxed);
        self.driver.send(socket, batch);
    }

    fn send_loan(&mut self, socket: Socket, loan: Loan) {
        self.calls.sends.fetch_add(1, Ordering::Relaxed);
        self.driver.send_loan(socket, loan);
    }

    fn close(&mut self, socket: Socket, token: Token) {
        self.calls.closes.fetch_add(1, Ordering::Relaxed);
        self.driver.close(socket, token);
    }

    fn submit(&mut self, wait: Wait) -> io::Result<()> {
        self.calls.submits.fetch_add(1, Ordering::Relaxed);
        self.driver.submit(wait)
    }

    fn is_listening(&self) -> bool {
        self.driver.is_listening()
    }

    fn may_lend(&self) -> bool {
        self.driver.may_lend()
    }

    fn may_have_more(&self, handled: u32) -> bool {
        self.driver.may_have_more(handled)
    }

    fn has_buffers(&self) -> bool {
        self.driver.has_buffers()
    }

    fn bell(&self) -> Arc<dyn Bell> {
        self.driver.bell()
    }

    fn counters(&self) -> DriverCounters {
        self.driver.counters()
    }
}
