//! The body of the fuzz target of answers.

use super::answer::{CallAnswer, HookAnswer, PublishAnswer};
use super::decode::{RawResponse, decode_answer};
use super::question::HookKind;

/// Any bytes, as the body of a response to each kind of question.
///
/// # Panics
/// An answer has a content that must not be passed on.
pub fn answers(body: &[u8]) {
    for kind in HookKind::ALL {
        let response = RawResponse { status: 200, body, unix_s: 1 };
        let application = "app".into();
        let Ok(decoded) = decode_answer(kind, response, 4096, &application) else { continue };
        assert!(body.len() <= 4096, "answers are bounded");
        if let HookAnswer::Publish(PublishAnswer::Replace(content))
        | HookAnswer::Call(CallAnswer::Content(content)) = decoded.answer
        {
            assert!(!content.contains(['\n', '\r']), "contents are on one line");
            let read = serde_json::from_str::<serde_json::Value>(&content);
            assert!(read.is_ok(), "every reader can represent them");
        }
    }
}
