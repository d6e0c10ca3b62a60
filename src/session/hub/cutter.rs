//! Cuts a frame into its JSON objects, scanning a bounded number of bytes at a time.
//!
//! A frame holds objects, one after another; there may be a million of them, or one of megabytes.
//! This scan only finds their bounds: braces, brackets and strings. The reader of an object checks
//! whether it is valid JSON. An object above the size limit is skipped unread.
//!
//! Tested against the stream parser of `serde_json`, which does the same in one pass.

use std::ops::Range;

use crate::session::protocol::Framing;

/// Bytes of scanning that cost as much as one request.
const BYTES_OF_A_REQUEST: usize = 1024;

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The result of a search for the next object of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// An object in this range.
    Object(Range<usize>),
    /// An object above the size limit, which was skipped; its size (bytes).
    TooLarge(usize),
    /// No object: what follows is something else, or does not end.
    Invalid(&'static str),
    /// The end of the frame.
    End,
    /// The scan reached its limit before the end of an object.
    Unfinished,
}

/// The state of a scan, between two objects or within one.
#[derive(Clone, Debug, Default)]
pub(super) struct Cutter {
    framing: Framing,
    /// How far the frame was scanned.
    at: usize,
    /// The start of the current object, while `depth > 0`.
    start: usize,
    depth: u32,
    in_string: bool,
    /// At least one object was found; an empty frame is an error.
    any: bool,
}

impl Cutter {
    /// Starts at the beginning of a frame.
    pub(super) fn new(framing: Framing) -> Self {
        Self { framing, ..Self::default() }
    }

    /// Searches for the next object. `requests_max`: the limit of the scan, as the cost in
    /// requests.
    pub(super) fn next(&mut self, frame: &[u8], object_bytes_max: usize, requests_max: u32) -> Cut {
        if self.framing == Framing::WholeFrame {
            return self.next_whole(frame, object_bytes_max);
        }
        let end = self.end_of_look(frame, requests_max);
        while self.at < end {
            if self.in_string {
                self.skip_string(&frame[..end]);
                continue;
            }
            let byte = frame[self.at];
            match byte {
                blank if self.depth == 0 && is_blank(blank) => {}
                b'{' | b'[' => {
                    if self.depth == 0 {
                        self.start = self.at;
                    }
                    self.depth += 1;
                }
                b'}' | b']' if self.depth == 1 => {
                    self.depth = 0;
                    self.at += 1;
                    self.any = true;
                    let found = self.start..self.at;
                    if found.len() > object_bytes_max {
                        return Cut::TooLarge(found.len());
                    }
                    return Cut::Object(found);
                    // Braces and brackets are not matched by kind: the object's reader rejects a
                    // mismatch.
                }
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'"' if self.depth > 0 => self.in_string = true,
                _ if self.depth == 0 => {
                    return self.fail_frame(frame, "a frame holds JSON objects");
                }
                _ => {}
            }
            self.at += 1;
        }
        match (end < frame.len(), self.depth) {
            (true, _) => Cut::Unfinished,
            (false, 0) if self.any => Cut::End,
            (false, 0) => self.fail_frame(frame, "the frame is empty"),
            (false, _) => self.fail_frame(frame, "the frame ends within an object"),
        }
    }

    /// Returns where the scan has to stop, by the cost in requests. `at` may exceed it after an
    /// escape.
    fn end_of_look(&self, frame: &[u8], requests_max: u32) -> usize {
        let bytes = BYTES_OF_A_REQUEST.saturating_mul(requests_max as usize);
        frame.len().min(self.at.saturating_add(bytes))
    }

    /// Takes the next object if `read` can parse it in place; `read` returns its length. That saves
    /// the scan for its end. Otherwise the state is unchanged, and [`Self::next`] finds the same
    /// object within the same limits.
    pub(super) fn take_plain<'f, R>(
        &mut self,
        frame: &'f [u8],
        object_bytes_max: usize,
        requests_max: u32,
        read: impl FnOnce(&'f [u8]) -> Option<(R, usize)>,
    ) -> Option<(R, Range<usize>)> {
        if self.framing == Framing::WholeFrame || self.depth > 0 {
            return None;
        }
        let within = &frame[self.at..self.end_of_look(frame, requests_max)];
        let blanks = within.iter().take_while(|byte| is_blank(**byte)).count();
        let within = &within[blanks..];
        let (found, len) = read(&within[..within.len().min(object_bytes_max)])?;
        let start = self.at + blanks;
        debug_assert_eq!(frame[start], b'{', "only an object is read as it lies");
        self.at = start + len;
        self.any = true;
        Some((found, start..self.at))
    }

    /// Returns the whole frame as one request.
    fn next_whole(&mut self, frame: &[u8], object_bytes_max: usize) -> Cut {
        if std::mem::replace(&mut self.any, true) && self.at >= frame.len() {
            return Cut::End;
        }
        self.at = frame.len();
        if frame.len() > object_bytes_max {
            return Cut::TooLarge(frame.len());
        }
        Cut::Object(0..frame.len())
    }

    /// Skips to behind the end of the string, or to the end of the available bytes.
    fn skip_string(&mut self, frame: &[u8]) {
        match memchr::memchr2(b'"', b'\\', &frame[self.at..]) {
            Some(offset) if frame[self.at + offset] == b'"' => {
                self.at += offset + 1;
                self.in_string = false;
            }
            // The escaped byte is skipped; it may lie beyond the limit of this scan.
            Some(offset) => self.at += offset + 2,
            None => self.at = frame.len(),
        }
    }

    /// Ends the frame: nothing behind a syntax error can be interpreted.
    fn fail_frame(&mut self, frame: &[u8], why: &'static str) -> Cut {
        (self.at, self.depth, self.in_string, self.any) = (frame.len(), 0, false, true);
        Cut::Invalid(why)
    }

    /// Returns whether the frame ends behind the last object.
    pub(super) fn is_at_end(&self, frame: &[u8]) -> bool {
        self.any && self.depth == 0 && self.at >= frame.len()
    }

    /// Returns the offset of the first byte that is still needed.
    pub(super) fn needed_from(&self) -> usize {
        if self.depth > 0 { self.start } else { self.at }
    }

    /// Returns to an object that was cut but has to wait.
    pub(super) fn go_back(&mut self, object: &Range<usize>) {
        (self.at, self.depth) = (object.start, 0);
        // Needed if the frame is one request, which is then returned again. Between objects it
        // makes no difference, because this object is found again.
        self.any = false;
    }

    /// Adjusts the state to a frame whose first bytes were removed.
    pub(super) fn shift_back(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.needed_from());
        self.at -= bytes;
        self.start = self.start.saturating_sub(bytes);
    }

    /// Returns the cost of scanning an object of this size, in requests.
    pub(super) fn scan_cost(object_bytes: usize) -> u32 {
        (object_bytes / BYTES_OF_A_REQUEST) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn cut(frame: &str, requests_max: u32) -> (Vec<String>, bool) {
        let mut cutter = Cutter::default();
        let mut objects = Vec::new();
        let mut bytes = frame.as_bytes().to_vec();
        loop {
            match cutter.next(&bytes, usize::MAX, requests_max) {
                Cut::Object(range) => {
                    objects.push(String::from_utf8(bytes[range].to_vec()).unwrap());
                }
                Cut::Unfinished => {
                    // As between two turns.
                    let done = cutter.needed_from();
                    bytes.drain(..done);
                    cutter.shift_back(done);
                }
                Cut::End => return (objects, true),
                Cut::Invalid(_) => {
                    assert_eq!(cutter.next(&bytes, usize::MAX, 1), Cut::End);
                    return (objects, false);
                }
                Cut::TooLarge(_) => panic!("there is no bound"),
            }
        }
    }

    #[test]
    fn a_whole_frame_is_one_request_also_when_it_has_waited() {
        for frame in ["", "sub a", "{} {}"] {
            let frame = frame.as_bytes();
            let mut cutter = Cutter::new(Framing::WholeFrame);
            assert!(!cutter.is_at_end(frame));
            for _ in 0..3 {
                assert_eq!(cutter.next(frame, 100, 1), Cut::Object(0..frame.len()));
                assert!(cutter.is_at_end(frame));
                cutter.go_back(&(0..frame.len()));
                assert_eq!(cutter.needed_from(), 0);
                assert!(!cutter.is_at_end(frame));
            }
            assert_eq!(cutter.next(frame, 100, 1), Cut::Object(0..frame.len()));
            assert_eq!(cutter.next(frame, 100, 1), Cut::End);
        }
        let mut cutter = Cutter::new(Framing::WholeFrame);
        assert_eq!(cutter.next(b"too long", 7, 1), Cut::TooLarge(8));
        assert_eq!(cutter.next(b"too long", 7, 1), Cut::End);
    }

    #[test]
    fn long_objects_are_skipped() {
        let mut cutter = Cutter::default();
        let frame = br#"{"a":1} {"b":"xxxxxxxxxxxxxxxxxxxx"} {}"#;
        assert_eq!(cutter.next(frame, 10, 1), Cut::Object(0..7));
        assert_eq!(cutter.next(frame, 10, 1), Cut::TooLarge(28));
        assert_eq!(cutter.next(frame, 10, 1), Cut::Object(37..39));
        assert_eq!(cutter.next(frame, 10, 1), Cut::End);
    }

    #[test]
    fn what_is_no_object_ends_the_frame() {
        for frame in ["", "  ", "1", "nul", "\"a\"", "{", "[{}", "{\"", "{\"a\\\"", "}{}", "{}x"] {
            assert!(!cut(frame, 1).1, "{frame}");
        }
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i64>().prop_map(Into::into),
            "[\\PC\"\\\\{}\\[\\] ]{0,40}".prop_map(Into::into),
            "[a{}\"\\\\]{3000,5000}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("[a-c\"\\\\{]{0,3}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn borders_are_those_of_serde_json(
            values in prop::collection::vec((value(), 0..4usize), 1..8),
            cut_off in 0..20usize,
            requests_max in 1..4u32,
        ) {
            let objects = values.iter().filter(|(value, _)| value.is_object() || value.is_array());
            let frame = objects.fold(String::new(), |frame, (value, blanks)| {
                frame + &value.to_string() + &" \n\t"[..*blanks]
            });
            // Every other frame is cut off somewhere.
            let cut_off = if cut_off % 2 == 0 { 0 } else { cut_off };
            let mut len = frame.len().saturating_sub(cut_off);
            while !frame.is_char_boundary(len) {
                len -= 1;
            }
            let frame = &frame[..len];
            let stream = serde_json::Deserializer::from_str(frame).into_iter::<&RawValue>();
            let mut expected = Vec::new();
            let mut is_whole = true;
            for one in stream {
                match one {
                    Ok(raw) => expected.push(raw.get().to_owned()),
                    Err(_) => is_whole = false,
                }
            }
            is_whole &= !expected.is_empty();
            prop_assert_eq!(cut(frame, requests_max), (expected, is_whole));
        }
    }
}
