//! WebSocket frames (RFC 6455), the server's side of them. No I/O.
//!
//! ```text
//!                      ┌─────────┐
//!  bytes as they come ─►│ Decoder │─► Event: a text, a ping, a part of a message …
//!  (borrowed, unmasked  └─────────┘   or Violation: what to close with
//!   where they lie)
//!  a payload ──► frame, close ──► the bytes of a frame, the same for every client
//! ```
//!
//! A message that lies whole in what was read is handed out where it lies; only one that is cut,
//! by reads or into fragments, is gathered, and then given away. Between messages a decoder holds
//! no memory but itself.
//!
//! Each frame that ends is an event, [`Event::Part`] if nothing else: whoever counts events against
//! a rate has counted every frame, so that endless empty fragments are noticed as a flood of texts is.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::mem;
use std::str::from_utf8;

use bytes::Bytes;

use super::deflate::{self, InflateError};

/// Bytes of the longest header that a server sends: it has no mask.
pub const SERVER_HEADER_BYTES_MAX: usize = 10;
/// Bytes of the longest header that a client sends.
const CLIENT_HEADER_BYTES_MAX: usize = 14;
/// Bytes that the payload of a ping, a pong or a close may have (section 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// What a frame is (section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message before.
    Continuation,
    /// A message of UTF-8, or its beginning.
    Text,
    /// A message of bytes, or its beginning.
    Binary,
    /// The end.
    Close,
    /// To be answered with a pong.
    Ping,
    /// Answers a ping.
    Pong,
}

impl Opcode {
    fn of(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Opcode::Continuation => 0,
            Opcode::Text => 1,
            Opcode::Binary => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// A frame that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A message of text, whole.
    Text(Cow<'a, str>),
    /// A message of bytes, whole.
    Binary(Cow<'a, [u8]>),
    /// A fragment that its message does not end with.
    Part,
    /// To be answered with a pong of the same payload.
    Ping(Cow<'a, [u8]>),
    /// An answer to a ping.
    Pong,
    /// The client closes, with this code if any. Nothing that follows is looked at.
    Close(Option<u16>),
}

/// What a client may not send. Nothing that follows is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A frame that the RFC does not allow, and why.
    Frame(&'static str),
    /// A text, or the reason of a close frame, is not UTF-8.
    NotUtf8,
    /// What is said to be compressed is not.
    NotDeflate,
    /// A message is longer than allowed, as it came or inflated.
    TooLong,
}

impl Violation {
    /// The code to close with (section 7.4.1), and what to tell people.
    #[must_use]
    pub fn close(self) -> (u16, &'static str) {
        match self {
            Violation::Frame(why) => (1002, why),
            Violation::NotUtf8 => (1007, "a text is not UTF-8"),
            Violation::NotDeflate => (1007, "a compressed message can't be inflated"),
            Violation::TooLong => (1009, "a message is longer than message_bytes_max"),
        }
    }
}

/// Makes events of the bytes that a client sends.
pub struct Decoder {
    /// Bytes that a message may have, over all its fragments; compressed, and again when inflated.
    message_bytes_max: usize,
    /// Whether messages may be compressed: permessage-deflate was agreed on.
    inflates: bool,
    /// Nothing more is looked at: the client closed, or what it sent was a violation.
    is_over: bool,
    /// The header in hand, as far as it has come.
    header: [u8; CLIENT_HEADER_BYTES_MAX],
    header_bytes: u8,
    /// The frame in hand, once its header is there.
    frame: Option<Frame>,
    /// The message in hand, when it did not come in one piece.
    message: Option<Box<Gathered>>,
    /// The payload of the control frame in hand, when it did not come in one piece.
    control: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Frame {
    opcode: Opcode,
    is_final: bool,
    is_deflated: bool,
    /// As the next byte of the payload wants it.
    mask: [u8; 4],
    /// Bytes of the payload that are still to come.
    left: usize,
}

/// A message of which more is to come.
struct Gathered {
    is_text: bool,
    is_deflated: bool,
    bytes: Vec<u8>,
    utf8: Utf8,
}

impl Decoder {
    /// For a client that has sent nothing yet. `message_bytes_max` bounds a message over all its
    /// fragments, as it comes and again as it inflates; `inflates` says whether permessage-deflate
    /// was agreed on.
    #[must_use]
    pub fn new(message_bytes_max: usize, inflates: bool) -> Decoder {
        Decoder {
            message_bytes_max,
            inflates,
            is_over: false,
            header: [0; CLIENT_HEADER_BYTES_MAX],
            header_bytes: 0,
            frame: None,
            message: None,
            control: Vec::new(),
        }
    }

    /// The next frame that ends within `input`, which loses what was looked at; `None` when all of it
    /// was. What is cut is remembered, and goes on with the next call.
    ///
    /// # Errors
    /// What the client may not send, as soon as that is certain: from then on, and after
    /// [`Event::Close`], all input is passed over.
    pub fn next<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Event<'a>>, Violation> {
        let event = if self.is_over { Ok(None) } else { self.step(input) };
        if matches!(event, Err(_) | Ok(Some(Event::Close(_)))) {
            *self = Decoder { is_over: true, ..Decoder::new(self.message_bytes_max, self.inflates) };
        }
        if self.is_over {
            *input = &mut [];
        }
        event
    }

    /// Whether the client has closed, or has sent what it may not.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    fn step<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Event<'a>>, Violation> {
        let (mut frame, is_fresh) = match self.frame.take() {
            Some(frame) => (frame, false),
            None => match self.take_header(input)? {
                Some(frame) => (frame, true),
                None => return Ok(None),
            },
        };
        let taken = frame.left.min(input.len());
        let (payload, rest) = mem::take(input).split_at_mut(taken);
        *input = rest;
        unmask(payload, frame.mask);
        frame.mask.rotate_left(payload.len() % 4);
        frame.left -= payload.len();
        let is_end = frame.left == 0;
        if !is_end {
            self.frame = Some(frame);
        }
        if frame.opcode.is_control() {
            self.take_control(frame.opcode, payload, is_end)
        } else if is_fresh && is_end && frame.is_final && self.message.is_none() {
            // The usual case: all of a message at once.
            self.whole(frame.opcode == Opcode::Text, frame.is_deflated, Cow::Borrowed(payload)).map(Some)
        } else {
            self.gather(frame, payload, is_end)
        }
    }

    /// Takes the header's bytes; `None` when more are to come. What they have wrong is told as early
    /// as they tell it.
    fn take_header(&mut self, input: &mut &mut [u8]) -> Result<Option<Frame>, Violation> {
        let mut take_up_to = |decoder: &mut Decoder, wanted: usize| {
            let have = usize::from(decoder.header_bytes);
            let taken = wanted.saturating_sub(have).min(input.len());
            let (bytes, rest) = mem::take(input).split_at_mut(taken);
            *input = rest;
            decoder.header[have..have + taken].copy_from_slice(bytes);
            decoder.header_bytes += taken as u8;
            have + taken >= wanted
        };
        if !take_up_to(self, 2) {
            return Ok(None);
        }
        let (opcode, is_final, is_deflated) = self.check_start()?;
        let length_bytes = match self.header[1] & 0x7F {
            127 => 8,
            126 => 2,
            _ => 0,
        };
        if !take_up_to(self, 2 + length_bytes) {
            return Ok(None);
        }
        let left = self.check_length(length_bytes, opcode)?;
        if !take_up_to(self, 2 + length_bytes + 4) {
            return Ok(None);
        }
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.header[2 + length_bytes..2 + length_bytes + 4]);
        self.header_bytes = 0;
        Ok(Some(Frame { opcode, is_final, is_deflated, mask, left }))
    }

    /// What the first two bytes of a header say.
    fn check_start(&self) -> Result<(Opcode, bool, bool), Violation> {
        let [first, second, ..] = self.header;
        let (is_final, rsv1) = (first & 0x80 != 0, first & 0x40 != 0);
        let opcode = Opcode::of(first & 0x0F).ok_or(Violation::Frame("a frame has a reserved opcode"))?;
        if first & 0x30 != 0 || (rsv1 && !(self.inflates && matches!(opcode, Opcode::Text | Opcode::Binary))) {
            return Err(Violation::Frame("a frame has a reserved bit set"));
        }
        if second & 0x80 == 0 {
            return Err(Violation::Frame("a frame has no mask"));
        }
        if opcode.is_control() {
            if !is_final {
                return Err(Violation::Frame("a control frame is fragmented"));
            }
            if usize::from(second & 0x7F) > CONTROL_BYTES_MAX {
                return Err(Violation::Frame("a control frame is longer than 125 bytes"));
            }
        } else if (opcode == Opcode::Continuation) != self.message.is_some() {
            return Err(Violation::Frame(if opcode == Opcode::Continuation {
                "a continuation has no message"
            } else {
                "a message begins within another"
            }));
        }
        Ok((opcode, is_final, rsv1))
    }

    /// How long the payload is.
    fn check_length(&self, length_bytes: usize, opcode: Opcode) -> Result<usize, Violation> {
        let mut length = u64::from(self.header[1] & 0x7F);
        if length_bytes > 0 {
            length = self.header[2..2 + length_bytes].iter().fold(0, |length, &byte| length << 8 | u64::from(byte));
            // Section 5.2: the least number of bytes, and the most significant bit 0.
            let least = if length_bytes == 2 { 126 } else { 1 << 16 };
            if length < least || length >> 63 != 0 {
                return Err(Violation::Frame("the length of a frame is not written as it must be"));
            }
        }
        let gathered = self.message.as_ref().map_or(0, |message| message.bytes.len());
        match usize::try_from(length) {
            Ok(length) if opcode.is_control() || length <= self.message_bytes_max - gathered => Ok(length),
            _ => Err(Violation::TooLong),
        }
    }

    fn take_control<'a>(
        &mut self,
        opcode: Opcode,
        payload: &'a [u8],
        is_end: bool,
    ) -> Result<Option<Event<'a>>, Violation> {
        let payload = if is_end && self.control.is_empty() {
            Cow::Borrowed(payload)
        } else {
            self.control.extend_from_slice(payload);
            if !is_end {
                return Ok(None);
            }
            Cow::Owned(mem::take(&mut self.control))
        };
        Ok(Some(match opcode {
            Opcode::Ping => Event::Ping(payload),
            Opcode::Close => Event::Close(close_code(&payload)?),
            _ => Event::Pong,
        }))
    }

    /// More of a message that did not come in one piece.
    fn gather<'a>(&mut self, frame: Frame, payload: &[u8], is_end: bool) -> Result<Option<Event<'a>>, Violation> {
        let message = self.message.get_or_insert_with(|| {
            Box::new(Gathered {
                is_text: frame.opcode == Opcode::Text,
                is_deflated: frame.is_deflated,
                bytes: Vec::new(),
                utf8: Utf8::default(),
            })
        });
        if message.is_text && !message.is_deflated {
            message.utf8.take(payload)?;
        }
        message.bytes.extend_from_slice(payload);
        if !(is_end && frame.is_final) {
            return Ok(is_end.then_some(Event::Part));
        }
        let message = self.message.take().expect("it was just there");
        self.whole(message.is_text, message.is_deflated, Cow::Owned(message.bytes)).map(Some)
    }

    /// A message of which nothing is missing.
    fn whole<'a>(&self, is_text: bool, is_deflated: bool, bytes: Cow<'a, [u8]>) -> Result<Event<'a>, Violation> {
        let bytes = if is_deflated {
            Cow::Owned(deflate::inflate(&bytes, self.message_bytes_max).map_err(|error| match error {
                InflateError::Broken => Violation::NotDeflate,
                InflateError::TooLong => Violation::TooLong,
            })?)
        } else {
            bytes
        };
        if !is_text {
            return Ok(Event::Binary(bytes));
        }
        Ok(Event::Text(match bytes {
            Cow::Borrowed(bytes) => Cow::Borrowed(from_utf8(bytes).map_err(|_| Violation::NotUtf8)?),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).map_err(|_| Violation::NotUtf8)?),
        }))
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for chunk in payload.chunks_mut(4) {
        for (byte, mask) in chunk.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
}

/// What a close frame says (sections 5.5.1 and 7.4).
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(Violation::Frame("a close frame has half a code")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    // 1004 to 1006 and 1015 are never sent; up to 2999 only those that the RFC and its registry have.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Frame("a close frame has a code that none may send"));
    }
    from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
    Ok(Some(code))
}

/// Whether bytes that come piece by piece are UTF-8, told at the first byte that is not.
#[derive(Default)]
struct Utf8 {
    /// A character that was cut.
    cut: [u8; 4],
    cut_bytes: usize,
}

impl Utf8 {
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while self.cut_bytes > 0
            && let Some((&byte, rest)) = bytes.split_first()
        {
            self.cut[self.cut_bytes] = byte;
            self.cut_bytes += 1;
            bytes = rest;
            match from_utf8(&self.cut[..self.cut_bytes]) {
                Ok(_) => self.cut_bytes = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Violation::NotUtf8),
            }
        }
        if let Err(error) = from_utf8(bytes) {
            if error.error_len().is_some() {
                return Err(Violation::NotUtf8);
            }
            let cut = &bytes[error.valid_up_to()..];
            self.cut[..cut.len()].copy_from_slice(cut);
            self.cut_bytes = cut.len();
        }
        Ok(())
    }
}

/// The header of a server's frame that is a message's only one, or a control frame: it stands at the
/// end of the array, and has so many bytes.
#[must_use]
pub fn header(opcode: Opcode, is_deflated: bool, payload_bytes: usize) -> ([u8; SERVER_HEADER_BYTES_MAX], usize) {
    let mut header = [0; SERVER_HEADER_BYTES_MAX];
    let (length, bytes) = match payload_bytes {
        0..=125 => (payload_bytes as u8, 2),
        126..=0xFFFF => (126, 4),
        _ => (127, 10),
    };
    header[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
    let start = &mut header[SERVER_HEADER_BYTES_MAX - bytes..];
    start[0] = 0x80 | if is_deflated { 0x40 } else { 0 } | opcode.bits();
    start[1] = length;
    (header, bytes)
}

/// A server's frame. Control frames may have 125 bytes.
#[must_use]
pub fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let (header, bytes) = header(opcode, false, payload.len());
    Bytes::from([&header[SERVER_HEADER_BYTES_MAX - bytes..], payload].concat())
}

/// A close frame; a reason that is too long for one is cut.
#[must_use]
pub fn close(code: u16, reason: &str) -> Bytes {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    frame(Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    use expect_test::{Expect, expect};
    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_websockets::{ClientBuilder, Message};

    use crate::serve::deflate::deflate;

    /// A client's frame: `first` is FIN, the reserved bits and the opcode.
    pub(crate) fn client_frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let (header, bytes) = header(Opcode::Text, false, payload.len());
        let mut frame = header[SERVER_HEADER_BYTES_MAX - bytes..].to_vec();
        frame[0] = first;
        frame[1] |= 0x80;
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// Frames as lines: `text` and `binary`, `more` to continue; with `…` behind it another
    /// fragment follows, with `z` before it the payload is compressed. `hex` is bytes as they are.
    fn frames(lines: &str) -> Vec<u8> {
        lines.lines().map(str::trim).flat_map(frame_of).collect()
    }

    fn frame_of(line: &str) -> Vec<u8> {
        let (what, payload) = line.split_once(' ').unwrap_or((line, ""));
        let unhex = |hex: &str| -> Vec<u8> {
            hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect()
        };
        if what == "hex" {
            return unhex(payload);
        }
        let mut payload = match payload.strip_prefix("0x ") {
            Some(hex) => unhex(hex),
            None => payload.as_bytes().to_vec(),
        };
        let (what, is_final) = what.strip_suffix('…').map_or((what, true), |what| (what, false));
        let (what, is_deflated) = what.strip_prefix('z').map_or((what, false), |what| (what, true));
        let opcode = match what {
            "more" => Opcode::Continuation,
            "text" => Opcode::Text,
            "binary" => Opcode::Binary,
            "ping" => Opcode::Ping,
            "pong" => Opcode::Pong,
            "close" => Opcode::Close,
            other => panic!("no frame is called {other}"),
        };
        if is_deflated {
            let message = mem::take(&mut payload);
            deflate(&message, &mut payload);
        }
        let first = if is_final { 0x80 } else { 0 } | if is_deflated { 0x40 } else { 0 } | opcode.bits();
        client_frame(first, &payload, [0x37, 0xFA, 0x21, 0x3D])
    }

    /// What a decoder makes of bytes that come in these pieces.
    fn events(decoder: &mut Decoder, pieces: &mut [Vec<u8>]) -> Vec<Result<Event<'static>, Violation>> {
        let mut events = Vec::new();
        for piece in pieces {
            let mut input = &mut piece[..];
            loop {
                match decoder.next(&mut input) {
                    Ok(Some(event)) => events.push(Ok(owned(event))),
                    Ok(None) => break,
                    Err(violation) => events.push(Err(violation)),
                }
            }
            assert!(input.is_empty(), "all of it was looked at");
        }
        events
    }

    fn owned(event: Event<'_>) -> Event<'static> {
        match event {
            Event::Text(text) => Event::Text(Cow::Owned(text.into_owned())),
            Event::Binary(bytes) => Event::Binary(Cow::Owned(bytes.into_owned())),
            Event::Ping(bytes) => Event::Ping(Cow::Owned(bytes.into_owned())),
            Event::Part => Event::Part,
            Event::Pong => Event::Pong,
            Event::Close(code) => Event::Close(code),
        }
    }

    /// What a decoder that allows 1000 bytes and inflates makes of frames: the same whole, and byte
    /// by byte.
    fn check(lines: &str, expected: Expect) {
        let bytes = frames(lines);
        let told = |pieces: &mut [Vec<u8>]| -> String {
            let mut decoder = Decoder::new(1000, true);
            let events = events(&mut decoder, pieces);
            assert_eq!(decoder.is_over(), matches!(events.last(), Some(Err(_) | Ok(Event::Close(_)))));
            events.iter().map(|event| format!("{}\n", show(event))).collect()
        };
        let whole = told(&mut [bytes.clone()]);
        expected.assert_eq(&whole);
        assert_eq!(told(&mut bytes.iter().map(|&byte| vec![byte]).collect::<Vec<_>>()), whole);
    }

    fn show(event: &Result<Event<'static>, Violation>) -> String {
        match event {
            Ok(Event::Text(text)) if text.len() > 100 => format!("text of {} bytes", text.len()),
            Ok(Event::Text(text)) => format!("text {text}"),
            Ok(Event::Binary(bytes)) => format!("binary {bytes:X?}"),
            Ok(Event::Ping(bytes)) => format!("ping {}", String::from_utf8_lossy(bytes)),
            Ok(other) => format!("{other:?}"),
            Err(violation) => format!("{:?}", violation.close()),
        }
    }

    #[test]
    fn messages_are_read() {
        check(
            "text hello
             text
             binary 0x 00 FF
             text… hel
             ping are you there
             more…
             more lo
             pong unasked
             binary… 0x 01
             more 0x 02
             text and on",
            expect![[r#"
                text hello
                text 
                binary [0, FF]
                Part
                ping are you there
                Part
                text hello
                Pong
                Part
                binary [1, 2]
                text and on
            "#]],
        );
    }

    /// The examples of section 5.7.
    #[test]
    fn frames_of_the_rfc() {
        check(
            "hex 81 85 37 fa 21 3d 7f 9f 4d 51 58
             hex 8a 85 37 fa 21 3d 7f 9f 4d 51 58",
            expect![[r#"
                text Hello
                Pong
            "#]],
        );
        assert_eq!(frame(Opcode::Text, b"Hello")[..], [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(frame(Opcode::Ping, b"Hello")[..], [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(frame(Opcode::Binary, &[7; 256])[..5], [0x82, 0x7E, 0x01, 0x00, 7]);
        assert_eq!(frame(Opcode::Binary, &[7; 65536])[..11], [0x82, 0x7F, 0, 0, 0, 0, 0, 0x01, 0, 0, 7]);
        assert_eq!(frame(Opcode::Pong, &[7; 125])[..3], [0x8A, 0x7D, 7]);
        assert_eq!(frame(Opcode::Binary, &[7; 126])[..5], [0x82, 0x7E, 0x00, 0x7E, 7]);
        assert_eq!(frame(Opcode::Binary, &[7; 65535])[..5], [0x82, 0x7E, 0xFF, 0xFF, 7]);
        assert_eq!(frame(Opcode::Continuation, b"")[..], [0x80, 0]);
    }

    /// The examples of RFC 7692, section 7.2.3: one block, fragments, stored, the last block marked as
    /// such, and two blocks.
    #[test]
    fn compressed_messages_are_inflated() {
        check(
            "hex c1 87 00 00 00 00 f2 48 cd c9 c9 07 00
             hex 41 83 00 00 00 00 f2 48 cd
             ping
             hex 80 84 00 00 00 00 c9 c9 07 00
             hex c1 8b 00 00 00 00 00 05 00 fa ff 48 65 6c 6c 6f 00
             hex c1 88 00 00 00 00 f3 48 cd c9 c9 07 00 00
             hex c1 8d 00 00 00 00 f2 48 05 00 00 00 ff ff ca c9 c9 07 00
             zbinary 0x 01 02
             hex c2 81 00 00 00 00 00
             ztext and on",
            expect![[r#"
                text Hello
                Part
                ping 
                text Hello
                text Hello
                text Hello
                text Hello
                binary [1, 2]
                binary []
                text and on
            "#]],
        );
    }

    #[test]
    fn the_client_says_goodbye() {
        for (code, reason, expected) in [
            ("", "", Ok(Event::Close(None))),
            ("03 E8", "bye", Ok(Event::Close(Some(1000)))),
            ("03 EB", "", Ok(Event::Close(Some(1003)))),
            ("03 EF", "", Ok(Event::Close(Some(1007)))),
            ("03 F6", "", Ok(Event::Close(Some(1014)))),
            ("0B B8", "", Ok(Event::Close(Some(3000)))),
            ("13 87", "", Ok(Event::Close(Some(4999)))),
            ("03", "", Err(Violation::Frame("a close frame has half a code"))),
            ("03 E7", "", Err(Violation::Frame("a close frame has a code that none may send"))),
            ("03 EC", "", Err(Violation::Frame("a close frame has a code that none may send"))),
            ("03 EE", "", Err(Violation::Frame("a close frame has a code that none may send"))),
            ("03 F7", "", Err(Violation::Frame("a close frame has a code that none may send"))),
            ("0B B7", "", Err(Violation::Frame("a close frame has a code that none may send"))),
            ("13 88", "", Err(Violation::Frame("a close frame has a code that none may send"))),
            ("03 E8 C3 28", "", Err(Violation::NotUtf8)),
        ] {
            let mut payload: Vec<u8> =
                code.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
            payload.extend_from_slice(reason.as_bytes());
            // What follows a close frame is passed over.
            let bytes = [client_frame(0x88, &payload, [1, 2, 3, 4]), frames("text more")].concat();
            assert_eq!(events(&mut Decoder::new(1000, false), &mut [bytes]), [expected], "{code} {reason}");
        }
    }

    /// What is not allowed is told at the first byte that tells it, and the rest is passed over.
    #[test]
    fn what_no_client_may_send() {
        let no_deflate = |bytes: &[u8]| events(&mut Decoder::new(1000, false), &mut [bytes.to_vec()]);
        let rsv = || Err(Violation::Frame("a frame has a reserved bit set"));
        assert_eq!(no_deflate(&frames("ztext hello")), [rsv()]);
        let inflates = |bytes: &[u8]| events(&mut Decoder::new(1000, true), &mut [bytes.to_vec()]);
        for (hex, expected) in [
            ("A1 80", rsv()),
            ("91 80", rsv()),
            ("C9 80", rsv()),
            ("C0 80", rsv()),
            ("83 80", Err(Violation::Frame("a frame has a reserved opcode"))),
            ("8B 80", Err(Violation::Frame("a frame has a reserved opcode"))),
            ("81 02", Err(Violation::Frame("a frame has no mask"))),
            ("09 80", Err(Violation::Frame("a control frame is fragmented"))),
            ("89 FE", Err(Violation::Frame("a control frame is longer than 125 bytes"))),
            ("80 80", Err(Violation::Frame("a continuation has no message"))),
            ("01 80 00 00 00 00 82 80", Err(Violation::Frame("a message begins within another"))),
            ("81 FE 00 7D", Err(Violation::Frame("the length of a frame is not written as it must be"))),
            (
                "81 FF 00 00 00 00 00 00 FF FF",
                Err(Violation::Frame("the length of a frame is not written as it must be")),
            ),
            (
                "81 FF 80 00 00 00 00 01 00 00",
                Err(Violation::Frame("the length of a frame is not written as it must be")),
            ),
            ("81 FF 00 00 00 00 00 01 00 00", Err(Violation::TooLong)),
            ("81 FE 03 E9", Err(Violation::TooLong)),
            ("C1 82 00 00 00 00 FF FF", Err(Violation::NotDeflate)),
        ] {
            let bytes = frames(&format!("hex {hex}"));
            let told = inflates(&bytes);
            assert_eq!(told.last(), Some(&expected), "{hex}");
            assert_eq!(inflates(&bytes[..bytes.len() - 1]).len() + 1, told.len(), "{hex}: not before its last byte");
            assert_eq!(inflates(&[bytes, frames("text more")].concat()), told, "{hex}");
        }
    }

    /// The limit is on the message, however many fragments it comes in, and on what it inflates to.
    #[test]
    fn a_message_has_a_length() {
        let long = |bytes| "x".repeat(bytes);
        check(&format!("text {}", long(1000)), expect!["text of 1000 bytes\n"]);
        check(
            &format!("text {}", long(1001)),
            expect![[r#"
            (1009, "a message is longer than message_bytes_max")
        "#]],
        );
        check(
            &format!("text… {}\nping {}\nmore… {}\nmore x", long(900), long(125), long(100)),
            expect![[r#"
                Part
                ping xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
                Part
                (1009, "a message is longer than message_bytes_max")
            "#]],
        );
        check(
            &format!("ztext {}\nztext {}", long(1000), long(1001)),
            expect![[r#"
                text of 1000 bytes
                (1009, "a message is longer than message_bytes_max")
            "#]],
        );
    }

    /// At the first byte that no text has in its place, wherever reads and fragments cut it.
    #[test]
    fn text_that_is_not_utf8_is_told_at_once() {
        check(
            "text 0x C3 28",
            expect![[r#"
            (1007, "a text is not UTF-8")
        "#]],
        );
        check(
            "ztext 0x C3 28",
            expect![[r#"
            (1007, "a text is not UTF-8")
        "#]],
        );
        check(
            "binary 0x C3 28",
            expect![[r#"
            binary [C3, 28]
        "#]],
        );
        check(
            "text 0x C3",
            expect![[r#"
            (1007, "a text is not UTF-8")
        "#]],
        );
        check(
            "text… 0x E2 82
             more… 0x AC F0
             more… 0x 9F
             more 0x 98 80
             text… 0x F4
             more 0x 90 80 80",
            expect![[r#"
                Part
                Part
                Part
                text €😀
                Part
                (1007, "a text is not UTF-8")
            "#]],
        );
        // The text is announced to be longer, and what came of it is wrong already.
        for (hex, is_wrong) in [
            ("F4 90", true),
            ("ED A0", true),
            ("C0", true),
            ("61 80", true),
            ("F4 8F", false),
            ("ED 9F", false),
            ("E2 82 AC E2", false),
        ] {
            let whole = client_frame(0x81, &[b'x'; 20], [0; 4]);
            let mut pieces = [whole[..6].to_vec(), frames(&format!("hex {hex}"))];
            let expected: &[_] = if is_wrong { &[Err(Violation::NotUtf8)] } else { &[] };
            assert_eq!(events(&mut Decoder::new(1000, false), &mut pieces), expected, "{hex}");
        }
    }

    /// A megabyte of zeros is a kilobyte compressed: what is made of it stays at the limit.
    #[test]
    fn a_bomb_stops_at_the_limit() {
        let mut bomb = Vec::new();
        assert!(deflate(&vec![0; 8 << 20], &mut bomb));
        assert!(bomb.len() < 1 << 17, "{}", bomb.len());
        let mut decoder = Decoder::new(1 << 20, true);
        let told = events(&mut decoder, &mut [client_frame(0xC1, &bomb, [1, 2, 3, 4])]);
        assert_eq!(told, [Err(Violation::TooLong)]);
    }

    /// Between messages nothing is held, and a decoder is small: there is one a connection.
    #[test]
    fn a_decoder_holds_nothing_between_messages() {
        let mut decoder = Decoder::new(1000, true);
        let mut bytes = frames("text… hello\nping x\nmore world\nztext hello\npong x");
        events(&mut decoder, &mut bytes.drain(..).map(|byte| vec![byte]).collect::<Vec<_>>());
        assert!(decoder.message.is_none() && decoder.frame.is_none() && decoder.control.capacity() == 0);
        // And none that an end left behind.
        events(&mut decoder, &mut [frames("text… hello\ntext x")]);
        assert!(decoder.message.is_none());
        assert!(size_of::<Decoder>() <= 96, "{}", size_of::<Decoder>());
    }

    #[test]
    fn a_reason_is_cut_to_what_a_close_frame_holds() {
        assert_eq!(close(1000, "bye")[..], *b"\x88\x05\x03\xE8bye");
        let long = close(1008, &"é".repeat(100));
        assert_eq!((long.len(), long[1], from_utf8(&long[4..])), (2 + 2 + 122, 124, Ok(&*"é".repeat(61))));
        assert_eq!(close(1008, &"e".repeat(123)).len(), 127);
    }

    /// Frames of all kinds, right and sometimes wrong.
    fn random_frames(random: &mut fastrand::Rng) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut is_within = false;
        for _ in 0..random.usize(1..12) {
            let length = [0, 1, 3, 4, 5, 125, 126, 127, 300][random.usize(..9)];
            let text: String = (0..length).map(|_| ['a', 'é', '€', '😀'][random.usize(..4)]).collect();
            let mut payload = text.into_bytes();
            let opcode = if random.u8(..4) == 0 {
                payload.truncate(random.usize(..126));
                8 + random.u8(..3)
            } else if is_within {
                0
            } else {
                1 + random.u8(..2)
            };
            let mut first = opcode | 0x80;
            if opcode < 8 {
                is_within = random.bool();
                first = opcode | if is_within { 0 } else { 0x80 };
                if opcode > 0 && random.bool() {
                    let message = mem::take(&mut payload);
                    deflate(&message, &mut payload);
                    first |= 0x40;
                }
            }
            if random.u8(..40) == 0 {
                first ^= 1 << random.u8(..8);
            }
            if random.u8(..40) == 0 && !payload.is_empty() {
                let at = random.usize(..payload.len());
                payload[at] ^= 1 << random.u8(..8);
            }
            bytes.extend(client_frame(first, &payload, random.u32(..).to_be_bytes()));
        }
        bytes
    }

    /// Wherever reads cut what a client sends, it says the same.
    #[test]
    fn cuts_change_nothing() {
        let (mut messages, mut violations) = (0, 0);
        for seed in 0..3000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let bytes = random_frames(&mut random);
            let whole = events(&mut Decoder::new(1200, true), &mut [bytes.clone()]);
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let longest = 1 << random.u32(..10);
                let (piece, more) = rest.split_at(random.usize(1..=rest.len().min(longest)));
                pieces.push(piece.to_vec());
                rest = more;
            }
            assert_eq!(events(&mut Decoder::new(1200, true), &mut pieces), whole, "seed {seed}");
            messages += whole.iter().filter(|event| matches!(event, Ok(Event::Text(_) | Event::Binary(_)))).count();
            violations += whole.iter().filter(|event| event.is_err()).count();
        }
        assert!(messages > 1000 && violations > 1000, "{messages} messages, {violations} violations");
    }

    /// Any bytes at all: no panic, and no memory beyond the limit.
    #[test]
    fn noise_is_survived() {
        for seed in 0..3000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut decoder = Decoder::new(1200, true);
            for _ in 0..20 {
                let mut bytes: Vec<u8> = (0..random.usize(1..200)).map(|_| random.u8(..)).collect();
                // Else most of it would end at the first byte.
                bytes[0] &= 0xCF;
                events(&mut decoder, &mut [bytes]);
                assert!(decoder.message.as_ref().is_none_or(|message| message.bytes.len() <= 1200));
            }
        }
    }

    /// A client of another make understands what we send, and we what it sends.
    #[tokio::test]
    async fn another_codec_agrees() {
        let mut random = fastrand::Rng::with_seed(7);
        let (near, mut far) = duplex(1 << 20);
        let mut client = ClientBuilder::new().take_over(near);
        let mut decoder = Decoder::new(1 << 20, true);
        for length in (0..300).chain([65535, 65536, 200_000]) {
            let text: String = (0..length).map(|_| random.alphanumeric()).collect();
            client.send(Message::text(text.clone())).await.expect("sent");
            client.send(Message::ping(text.as_bytes()[..length.min(125)].to_vec())).await.expect("sent");
            let mut told = Vec::new();
            while told.len() < 2 {
                let mut bytes = vec![0; random.usize(1..5000)];
                let taken = far.read(&mut bytes).await.expect("bytes");
                bytes.truncate(taken);
                told.extend(events(&mut decoder, &mut [bytes]));
                // After a violation nothing more would come.
                assert!(told.iter().all(Result::is_ok), "{length}: {told:?}");
            }
            let ping = Event::Ping(Cow::Owned(text.as_bytes()[..length.min(125)].to_vec()));
            assert_eq!(told, [Ok(Event::Text(Cow::Owned(text.clone()))), Ok(ping)]);
            far.write_all(&frame(Opcode::Pong, b"here")).await.expect("sent");
            far.write_all(&frame(Opcode::Text, text.as_bytes())).await.expect("sent");
            assert!(client.next().await.expect("a frame").expect("a right one").is_pong());
            assert_eq!(client.next().await.expect("a frame").expect("a right one").as_text(), Some(&*text));
        }
        far.write_all(&close(4000, "come back")).await.expect("sent");
        let closed = client.next().await.expect("a frame").expect("a right one");
        assert_eq!(closed.as_close().map(|(code, reason)| (code.into(), reason)), Some((4000_u16, "come back")));
    }
}
