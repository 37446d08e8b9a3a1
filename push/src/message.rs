//! One message to clients: made once, sent to many.
//!
//! A server's frames bear no mask, so a message's frame is the same bytes for everybody who is sent
//! it; compressed without context, the compressed one is too. Both are made once, and every socket
//! writes from the same memory.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;

use crate::held::counted;
use crate::serve::codec::{Opcode, SERVER_HEADER_BYTES_MAX, header};
use crate::serve::deflate::deflate;

/// Bytes of a message below which compressing gains too little: a lone row of 200 bytes loses 6 in a
/// hundred, and costs twice what writing it does.
const DEFLATED_BYTES_MIN: usize = 512;

/// One JSON text for clients. Clones are the same message.
#[derive(Clone, Debug)]
pub struct Message(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    frame: Bytes,
    header_bytes: usize,
    /// Made when the first client that can inflate is sent it; `None` in it when it is not worth while.
    deflated: OnceLock<Option<Bytes>>,
}

impl Message {
    /// A message of this JSON, which is UTF-8. Copies it when it has no capacity left for a header; a
    /// [`Draft`] always has.
    #[must_use]
    pub fn new(mut json: Vec<u8>) -> Message {
        let (header, header_bytes) = header(Opcode::Text, false, json.len());
        json.splice(0..0, header[SERVER_HEADER_BYTES_MAX - header_bytes..].iter().copied());
        Message::of_frame(counted(json), header_bytes)
    }

    fn of_frame(frame: Bytes, header_bytes: usize) -> Message {
        Message(Arc::new(Shared { frame, header_bytes, deflated: OnceLock::new() }))
    }

    /// The message as long as somebody is sent it.
    #[must_use]
    pub fn downgrade(&self) -> WeakMessage {
        WeakMessage(Arc::downgrade(&self.0))
    }

    /// The JSON.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.0.frame[self.0.header_bytes..]
    }

    /// A complete text frame.
    #[must_use]
    pub fn frame(&self) -> &Bytes {
        &self.0.frame
    }

    /// A complete text frame for clients with which permessage-deflate was agreed on without context
    /// takeover; `None` when it would not be smaller. Compressed at the first call: others wait for it.
    #[must_use]
    pub fn deflated(&self) -> Option<&Bytes> {
        let make = || {
            let mut frame = vec![0; SERVER_HEADER_BYTES_MAX];
            let is_smaller = self.json().len() >= DEFLATED_BYTES_MIN && deflate(self.json(), &mut frame);
            // It stays as long as the message: without the room that it did not need.
            frame.shrink_to_fit();
            is_smaller.then(|| with_header(frame, true).0)
        };
        self.0.deflated.get_or_init(make).as_ref()
    }
}

/// A message that goes when the last one has been sent it.
#[derive(Clone, Debug)]
pub struct WeakMessage(Weak<Shared>);

impl WeakMessage {
    /// The message, if it is there still.
    #[must_use]
    pub fn upgrade(&self) -> Option<Message> {
        self.0.upgrade().map(Message)
    }
}

impl From<Vec<u8>> for Message {
    fn from(json: Vec<u8>) -> Message {
        Message::new(json)
    }
}

impl From<String> for Message {
    fn from(json: String) -> Message {
        Message::new(json.into())
    }
}

/// A message in the making: JSON is appended to it as to any `Vec<u8>`, and nothing that stands in it
/// is removed. It begins with room for a frame's header, so that making the message copies nothing.
#[derive(Debug)]
pub struct Draft(Vec<u8>);

impl Draft {
    /// An empty one.
    #[must_use]
    pub fn new() -> Draft {
        Draft(vec![0; SERVER_HEADER_BYTES_MAX])
    }

    /// The message.
    #[must_use]
    pub fn finish(self) -> Message {
        let (frame, header_bytes) = with_header(self.0, false);
        Message::of_frame(frame, header_bytes)
    }
}

impl Default for Draft {
    fn default() -> Draft {
        Draft::new()
    }
}

impl Deref for Draft {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Draft {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

/// Makes a frame of a payload that stands behind room for a header.
fn with_header(mut frame: Vec<u8>, is_deflated: bool) -> (Bytes, usize) {
    let (header, bytes) = header(Opcode::Text, is_deflated, frame.len() - SERVER_HEADER_BYTES_MAX);
    frame[..SERVER_HEADER_BYTES_MAX].copy_from_slice(&header);
    (counted(frame).slice(SERVER_HEADER_BYTES_MAX - bytes..), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::serve::deflate::inflate;
    use crate::testing::text;

    fn json(bytes: usize) -> Vec<u8> {
        format!("{{\"op\":\"{}\"}}", "diff".repeat(bytes)).into_bytes()[..bytes].to_vec()
    }

    #[test]
    fn a_message_is_its_json_behind_a_header() {
        for (bytes, header) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (65535, &[0x81, 126, 0xFF, 0xFF]),
            (65536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut draft = Draft::new();
            draft.extend_from_slice(&json(bytes));
            for message in [Message::new(json(bytes)), draft.finish()] {
                assert_eq!(message.json(), json(bytes));
                assert_eq!(message.frame()[..], [header, &json(bytes)].concat());
            }
        }
        assert_eq!(text(Message::from("{}".to_owned()).json()), "{}");
        assert_eq!(text(Message::from(b"{}".to_vec()).json()), "{}");
        assert!(Draft::default().finish().json().is_empty());
    }

    /// What is written into a draft is where the frame is.
    #[test]
    fn a_draft_is_not_copied() {
        let mut draft = Draft::new();
        draft.reserve(1000);
        draft.extend_from_slice(b"{\"op\":\"ping\"}");
        let written = draft[SERVER_HEADER_BYTES_MAX..].as_ptr();
        let message = draft.finish();
        assert_eq!(message.json().as_ptr(), written);
        assert_eq!(message.clone().frame().as_ptr(), message.frame().as_ptr());
    }

    #[test]
    fn a_message_is_compressed_once_for_all() {
        let message = Message::new(json(1000));
        let other = message.clone();
        let frame = message.deflated().expect("it is smaller");
        assert_eq!(frame.as_ptr(), other.deflated().expect("it is smaller").as_ptr());
        assert_eq!(frame[0], 0xC1);
        assert_eq!(usize::from(frame[1]), frame.len() - 2);
        assert_eq!(inflate(&frame[2..], 1000), Ok(json(1000)));
        // The length of a frame is that of its payload, whatever the header has.
        let long = Message::new(json(1 << 20));
        let frame = long.deflated().expect("it is smaller");
        assert_eq!((frame[1], usize::from(u16::from_be_bytes([frame[2], frame[3]]))), (126, frame.len() - 4));
    }

    #[test]
    fn what_is_short_or_gains_nothing_stays_plain() {
        assert!(Message::new(json(511)).deflated().is_none());
        assert!(Message::new(json(512)).deflated().is_some());
        let mut random = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = (0..1000).map(|_| random.u8(..)).collect();
        assert!(Message::new(noise).deflated().is_none());
    }
}
