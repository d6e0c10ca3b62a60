//! Two kinds of load in one run: those that make trouble, and those that measure it. Their rings
//! are separate, so that the generator itself does not pass the trouble on.

use std::io;

use super::{Ending, Fleet, Load, Turn};

/// One of two loads.
pub enum Either<A, B> {
    Left(A),
    Right(B),
}

impl<A: Load, B: Load> Load for Either<A, B> {
    fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn> {
        match self {
            Self::Left(load) => load.turn(fleet, now_ns),
            Self::Right(load) => load.turn(fleet, now_ns),
        }
    }

    fn opened(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()> {
        match self {
            Self::Left(load) => load.opened(fleet, slot, now_ns),
            Self::Right(load) => load.opened(fleet, slot, now_ns),
        }
    }

    fn messages(
        &mut self,
        fleet: &mut Fleet,
        slot: u32,
        count: u32,
        now_ns: u64,
    ) -> io::Result<()> {
        match self {
            Self::Left(load) => load.messages(fleet, slot, count, now_ns),
            Self::Right(load) => load.messages(fleet, slot, count, now_ns),
        }
    }

    fn heard(&mut self, fleet: &mut Fleet, slot: u32, text: &[u8], now_ns: u64) -> io::Result<()> {
        match self {
            Self::Left(load) => load.heard(fleet, slot, text, now_ns),
            Self::Right(load) => load.heard(fleet, slot, text, now_ns),
        }
    }

    fn ponged(&mut self, slot: u32, count: u32) {
        match self {
            Self::Left(load) => load.ponged(slot, count),
            Self::Right(load) => load.ponged(slot, count),
        }
    }

    fn pinged(&mut self, slot: u32, count: u32) {
        match self {
            Self::Left(load) => load.pinged(slot, count),
            Self::Right(load) => load.pinged(slot, count),
        }
    }

    fn ended(
        &mut self,
        fleet: &mut Fleet,
        slot: u32,
        ending: Ending,
        now_ns: u64,
    ) -> io::Result<()> {
        match self {
            Self::Left(load) => load.ended(fleet, slot, ending, now_ns),
            Self::Right(load) => load.ended(fleet, slot, ending, now_ns),
        }
    }
}
