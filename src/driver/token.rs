//! User data of an operation: the 64 bits that the kernel returns with its completion.
//!
//! `op : 8 | generation : 24 | slot : 32` for operations of a connection, `op : 8 | value : 56` for
//! the rest. The generation keeps a late completion of a freed slot from reaching the slot's next
//! owner.

/// Generations count modulo 2^24.
pub const GENERATION_MASK: u32 = (1 << 24) - 1;

/// A connection's slot and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// Index in the shard's slab.
    pub slot: u32,
    /// The slot's generation, below 2^24.
    pub generation: u32,
}

impl Token {
    /// The token as a number below 2^56.
    pub fn value(self) -> u64 {
        debug_assert!(self.generation <= GENERATION_MASK, "generation is masked by its slot");
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// The inverse of [`Token::value`].
    pub fn from_value(value: u64) -> Self {
        Self { slot: value as u32, generation: (value >> 32) as u32 & GENERATION_MASK }
    }
}

/// The kind of operation that a completion ends or continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    Accept = 1,
    Receive,
    Send,
    SendLoan,
    Cancel,
    CancelSend,
    Shutdown,
    Close,
    Doorbell,
    DoorbellSent,
    Bell,
    Pass,
    PassClose,
    Arrived,
    Install,
    Measure,
    Adopt,
    StopListening,
}

impl Op {
    const ALL: [Op; 18] = [
        Op::Accept,
        Op::Receive,
        Op::Send,
        Op::SendLoan,
        Op::Cancel,
        Op::CancelSend,
        Op::Shutdown,
        Op::Close,
        Op::Doorbell,
        Op::DoorbellSent,
        Op::Bell,
        Op::Pass,
        Op::PassClose,
        Op::Arrived,
        Op::Install,
        Op::Measure,
        Op::Adopt,
        Op::StopListening,
    ];

    /// Packs the operation and a value below 2^56 into the kernel's user data.
    pub fn pack(self, value: u64) -> u64 {
        debug_assert!(value < 1 << 56, "a value has 56 bits");
        u64::from(self as u8) << 56 | value
    }

    /// The inverse of [`Op::pack`]; `None` for user data that no driver made.
    pub fn unpack(user_data: u64) -> Option<(Op, u64)> {
        let op = *Self::ALL.get(((user_data >> 56) as usize).checked_sub(1)?)?;
        Some((op, user_data & ((1 << 56) - 1)))
    }
}

const _: () = assert!(size_of::<Token>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_operation_survives_packing() {
        for (index, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, index + 1, "the table is in the order of the enum");
            assert_eq!(Op::unpack(op.pack(7)), Some((op, 7)));
        }
        assert_eq!(Op::unpack(0), None);
        assert_eq!(Op::unpack(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn a_token_survives_the_kernel(slot: u32, generation in 0..=GENERATION_MASK) {
            let token = Token { slot, generation };
            let (op, value) = Op::unpack(Op::Receive.pack(token.value())).unwrap();
            prop_assert_eq!((op, Token::from_value(value)), (Op::Receive, token));
        }
    }
}
