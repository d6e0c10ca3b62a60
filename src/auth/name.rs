//! Names of channels.

/// The longest name of a channel.
pub const CHANNEL_BYTES_MAX: usize = 200;

/// Whether a byte may stand in a channel's name.
pub(super) fn is_of_channel(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_=@,.;:/#-".contains(&byte)
}

/// Checks a channel's name: 1 to [`CHANNEL_BYTES_MAX`] bytes of `[A-Za-z0-9_=@,.;:/#-]`.
///
/// # Errors
/// What a name must look like.
pub fn check_channel(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > CHANNEL_BYTES_MAX {
        return Err("a channel's name has 1 to 200 bytes");
    }
    if !name.bytes().all(is_of_channel) {
        return Err("a channel's name consists of A-Z a-z 0-9 and _ = @ , . ; : / # -");
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
