//! The body of the fuzz target of requests: two readers of the same objects agree.

use super::{plain, request};
use crate::session::hub::fuzz::first_object;

/// Any bytes, as a frame of objects.
pub fn requests(frame: &[u8]) {
    if std::str::from_utf8(frame).is_ok() {
        compare_readers(frame);
    }
}

/// Reads the first object of a frame by both readers.
///
/// # Panics
/// They disagree.
pub(super) fn compare_readers(frame: &[u8]) {
    let blanks = frame.iter().take_while(|byte| b" \t\n\r".contains(byte)).count();
    let Some((plain, len)) = plain::read_plain(&frame[blanks..]) else { return };
    let range = first_object(frame).expect("what is plain is an object");
    assert_eq!(range, blanks..blanks + len, "both see where it ends");
    let object = std::str::from_utf8(&frame[range]).expect("what is plain is text");
    assert_eq!(format!("{plain:?}"), format!("{:?}", request::read_request(object)));
}
