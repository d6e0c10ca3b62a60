//! The tag of a published message: publisher, number, and intended time.
//!
//! The content is a JSON string that begins with the tag, the same bytes in every dialect. A tag
//! has a fixed length and a byte that occurs nowhere else in a delivery, so that a subscriber finds
//! it in any envelope, usually at the offset of the previous one.

/// The first byte of a tag.
const MARK: u8 = b'~';
/// Digits of each field; a digit is four bits, from `@` on.
const CHANNEL: usize = 6;
const PUBLISHER: usize = 4;
const NUMBER: usize = 8;
const DUE: usize = 12;
/// Bytes of a tag.
const LEN: usize = 1 + CHANNEL + PUBLISHER + NUMBER + DUE;
/// Bytes of the shortest content: a tag in quotes.
pub const CONTENT_MIN: usize = LEN + 2;

/// Most channels and publishers that a tag can name.
pub const CHANNELS_MAX: u32 = 1 << 20;
pub const PUBLISHERS_MAX: u32 = 1 << 16;

/// A message's tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    pub channel: u32,
    pub publisher: u32,
    /// Number of the message among those of this publisher on this channel.
    pub number: u32,
    /// Intended send time, by the run's clock.
    pub due_ns: u64,
}

impl Tag {
    /// Appends a content of `size` bytes.
    pub fn content(&self, size: usize, out: &mut Vec<u8>) {
        let end = out.len() + size.max(CONTENT_MIN) - 1;
        out.extend_from_slice(b"\"~");
        put(out, self.channel.into(), CHANNEL);
        put(out, self.publisher.into(), PUBLISHER);
        put(out, self.number.into(), NUMBER);
        put(out, self.due_ns, DUE);
        out.resize(end, b'x');
        out.push(b'"');
    }

    fn read(bytes: &[u8; LEN]) -> Self {
        let mut rest = &bytes[1..];
        let mut take = |digits: usize| {
            let (now, later) = rest.split_at(digits);
            rest = later;
            now.iter().fold(0, |sum: u64, digit| sum << 4 | u64::from(digit & 0x0F))
        };
        Self {
            channel: take(CHANNEL) as u32,
            publisher: take(PUBLISHER) as u32,
            number: take(NUMBER) as u32,
            due_ns: take(DUE),
        }
    }
}

fn put(out: &mut Vec<u8>, value: u64, digits: usize) {
    out.extend((0..digits).rev().map(|digit| b'@' + (value >> (4 * digit) & 0x0F) as u8));
}

/// Finds tags; remembers the offset of the last one.
#[derive(Debug)]
pub struct Finder {
    size: usize,
    place: usize,
}

impl Finder {
    /// A finder for contents of `size` bytes.
    pub fn new(size: usize) -> Self {
        Self { size: size.max(CONTENT_MIN), place: 0 }
    }

    /// Finds the first tag of `text`; also returns the rest, which may contain more.
    pub fn next<'a>(&mut self, text: &'a [u8]) -> Option<(Tag, &'a [u8])> {
        if text.len() < LEN {
            return None;
        }
        if text.get(self.place) != Some(&MARK) {
            self.place = text.iter().position(|byte| *byte == MARK)?;
        }
        let tag = Tag::read(text[self.place..].first_chunk()?);
        let rest = &text[self.place + LEN..];
        // Most frames have one delivery: another would need this much.
        Some((tag, if rest.len() > self.size { rest } else { &[] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(number: u32) -> Tag {
        Tag { channel: 999_999, publisher: 65_535, number, due_ns: 123_456_789_012_345 }
    }

    fn all(finder: &mut Finder, mut text: &[u8]) -> Vec<Tag> {
        let mut found = Vec::new();
        while let Some((tag, rest)) = finder.next(text) {
            found.push(tag);
            text = rest;
        }
        found
    }

    #[test]
    fn a_content_is_json_of_its_size_and_gives_its_tag_back() {
        for size in [0, CONTENT_MIN, 34, 1_000] {
            let mut content = Vec::new();
            tag(7).content(size, &mut content);
            assert_eq!(content.len(), size.max(CONTENT_MIN));
            serde_json::from_slice::<String>(&content).unwrap();
            assert_eq!(all(&mut Finder::new(size), &content), [tag(7)]);
        }
    }

    #[test]
    fn tags_are_found_wherever_they_stand_and_several_in_one_text() {
        let mut finder = Finder::new(50);
        for envelope in ["", "{\"type\":\"message\",\"content\":", "{"] {
            let mut text = envelope.as_bytes().to_vec();
            tag(1).content(50, &mut text);
            assert_eq!(all(&mut finder, &text), [tag(1)], "{envelope}");
            text.extend_from_slice(b"}\n{\"content\":");
            tag(2).content(50, &mut text);
            assert_eq!(all(&mut finder, &text), [tag(1), tag(2)], "{envelope}");
        }
        assert_eq!(finder.next(b"{\"type\":\"subscribed\",\"channel\":\"bench:1\"}"), None);
        assert_eq!(finder.next(b"~cut"), None);
    }
}
