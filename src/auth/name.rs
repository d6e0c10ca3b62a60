//! Channel names.

/// The longest channel name (bytes).
pub const CHANNEL_BYTES_MAX: usize = 200;

/// The bytes that a channel name may contain; a table, because each publish checks a name.
static ALLOWED: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        allowed[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let (others, mut at) = (b"_=@,.;:/#-", 0);
    while at < others.len() {
        allowed[others[at] as usize] = true;
        at += 1;
    }
    allowed
};

/// Returns whether a channel name may contain this byte.
pub(super) fn is_allowed(byte: u8) -> bool {
    ALLOWED[usize::from(byte)]
}

/// Validates a channel name: 1 to [`CHANNEL_BYTES_MAX`] bytes of `[A-Za-z0-9_=@,.;:/#-]`.
///
/// # Errors
/// The text that states what a name must be.
pub fn check_channel(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > CHANNEL_BYTES_MAX {
        return Err("a channel's name must have 1 to 200 bytes");
    }
    if !name.bytes().all(is_allowed) {
        return Err("a channel's name may only contain A-Z a-z 0-9 and _ = @ , . ; : / # -");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_within_the_alphabet_pass_and_others_do_not() {
        for name in ["a", "chat:room-1", "news/2026;x=1,y.z#top@home_", &"a".repeat(200)] {
            assert_eq!(check_channel(name), Ok(()), "{name}");
        }
        for name in ["", "a b", "chat:*", "ä", "a\n", "a\0", "{a}", "a?", "%41", &"a".repeat(201)]
        {
            assert!(check_channel(name).is_err(), "{name}");
        }
    }
}
