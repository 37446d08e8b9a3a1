//! One WebSocket: bytes to events, messages to bytes, and deadlines. Knows no session.
//!
//! ```text
//!  stream ──► Decoder ──► handle(Received, &mut Outbox)       what was asked, and the answers
//!  stream ◄── frames  ◄── Outbox ◄── Message, Image           shared memory, written from where it lies
//! ```
//!
//! - **Nothing is held while nothing happens.** Bytes are read into a buffer of the thread; what a
//!   client sends is looked at there, and answered before the next client's turn.
//! - **A slow client holds one turn's worth of frames** ([`WRITE_BYTES`] or one message, if that is longer), parts
//!   of images not made yet, and [`QUEUE_MAX`] messages: above that nothing is read from it, so that it
//!   can ask no more than it takes.
//! - **A deadline counts from the last progress**, which is [`PROGRESS_BYTES`] taken, or all that there
//!   was. So a slow client is served, one that takes a byte now and then is not, and what any of them
//!   can hold for how long has a bound.
//! - **Of pings that come faster than their answers go out only the last is answered** (RFC 6455,
//!   section 5.5.3): a flood of them costs the memory of [`FRAMES_MAX`].
//! - **Each frame counts against the rate of messages**, pings and empty fragments too.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::ServeOptions;
use super::codec::{self, Decoder, Event, Opcode};
use crate::message::Message;
use crate::session::Outgoing;

/// Bytes read at once; one buffer a thread.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of frames written at once, at least one frame.
const WRITE_BYTES: usize = 64 * 1024;
/// Frames written at once.
const FRAMES_MAX: usize = 32;
/// Answers that wait for those before them; while there are as many nothing is read. One read may
/// bring more requests than that, up to the burst that the rate of messages allows.
pub const QUEUE_MAX: usize = 4;
/// What a client must take within the write timeout, unless there is less: at 30 s, 550 bytes a
/// second.
pub const PROGRESS_BYTES: usize = 16 * 1024;
/// Bytes that a client may go on sending once it has been told that it is over.
const DISCARDED_BYTES_MAX: usize = 1 << 20;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// What a client sent, for whoever answers it.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A message of text.
    Text(&'a str),
    /// A message of bytes.
    Binary(&'a [u8]),
}

/// A code and a reason to close with; `docs/protocol.md` has them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// What programs go by.
    pub code: u16,
    /// What people read.
    pub reason: &'static str,
}

impl Close {
    /// The server stops.
    pub const GOING_AWAY: Close = Close { code: 1001, reason: "the server stops" };
    /// A message was of bytes.
    pub const BINARY: Close = Close { code: 1003, reason: "messages are JSON text" };
    /// Subscribed to nothing, and said nothing.
    pub const IDLE: Close = Close { code: 4000, reason: "nothing was subscribed to for too long" };
    /// More than the rate of messages allows.
    pub const TOO_MANY_MESSAGES: Close = Close { code: 4500, reason: "too many messages" };
}

/// Why no more is exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client is gone.
    Gone,
    /// The client did not take what it was sent.
    Stalled,
    /// The client is to be told.
    Close(Close),
    /// The client said goodbye, with this code.
    Left(Option<u16>),
}

/// What a stream's error means. The kernel keeps time as well, and the same: what was sent has been
/// waiting for that long.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn end_of(error: io::Error) -> End {
    if error.kind() == io::ErrorKind::TimedOut { End::Stalled } else { End::Gone }
}

/// What went out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Messages, of one frame each.
    pub messages: u64,
    /// Bytes that the socket took, headers and all.
    pub bytes: u64,
}

/// What is to be written, in order.
#[derive(Default)]
pub struct Outbox {
    /// Frames of this turn; the first may have been written in part.
    frames: VecDeque<Bytes>,
    /// What is not frames yet.
    queue: VecDeque<Outgoing>,
    /// The answer to the last ping, when the frames of this turn are full.
    pong: Option<Box<Bytes>>,
    /// Whether the client can inflate.
    deflates: bool,
    sent: Sent,
}

impl Outbox {
    /// Appends what a session wants to send.
    pub fn push(&mut self, outgoing: Outgoing) {
        self.queue.push_back(outgoing);
    }

    /// Appends a frame as it is.
    pub fn push_frame(&mut self, frame: Bytes) {
        // What waits comes first.
        while self.make_frame() {}
        self.frames.push_back(frame);
    }

    fn push_pong(&mut self, payload: &[u8]) {
        let pong = codec::frame(Opcode::Pong, payload);
        if self.frames.len() < FRAMES_MAX {
            self.frames.push_back(pong);
        } else {
            self.pong = Some(Box::new(pong));
        }
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.queue.is_empty() && self.pong.is_none()
    }

    fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE_MAX
    }

    /// Makes the next frame of what waits; `false` when nothing does.
    fn make_frame(&mut self) -> bool {
        let message = loop {
            match self.queue.front_mut() {
                None => return false,
                Some(Outgoing::Message(message)) => {
                    let message = message.clone();
                    self.queue.pop_front();
                    break message;
                }
                Some(Outgoing::Image(image)) => match image.next_message() {
                    Some(message) => break message,
                    None => drop(self.queue.pop_front()),
                },
            }
        };
        self.sent.messages += 1;
        self.frames.push_back(self.frame_of(&message));
        true
    }

    fn frame_of(&self, message: &Message) -> Bytes {
        let deflated = if self.deflates { message.deflated() } else { None };
        deflated.unwrap_or(message.frame()).clone()
    }

    /// Takes a turn's worth of frames, when those of the turn before are out.
    fn fill(&mut self) {
        if !self.frames.is_empty() {
            return;
        }
        self.frames.extend(self.pong.take().map(|pong| *pong));
        let mut bytes = 0;
        while bytes < WRITE_BYTES && self.frames.len() < FRAMES_MAX && self.make_frame() {
            bytes += self.frames.back().map_or(0, Bytes::len);
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    /// So many bytes went out.
    fn written(&mut self, mut bytes: usize) {
        self.sent.bytes += bytes as u64;
        while let Some(front) = self.frames.front_mut() {
            if bytes < front.len() {
                front.advance(bytes);
                return;
            }
            bytes -= front.len();
            self.frames.pop_front();
        }
        self.frames = VecDeque::new();
    }

    /// Lets what waits go, and ends with a close frame.
    fn close(&mut self, frame: Bytes) {
        self.fill();
        self.queue = VecDeque::new();
        self.pong = None;
        self.frames.push_back(frame);
    }
}

/// When a client that takes nothing is given up.
struct Stall {
    at: Instant,
    taken: usize,
}

/// A client may write so much, and earns it back with time.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn take(&mut self, options: &ServeOptions, now: Instant) -> bool {
        let earned = now.duration_since(self.at).as_secs_f64() * f64::from(options.messages_per_second);
        self.left = (self.left + earned).min(f64::from(options.messages_burst));
        self.at = now;
        self.left -= 1.0;
        self.left >= 0.0
    }
}

/// A server's end of a WebSocket, after the handshake.
pub struct Socket<S> {
    stream: S,
    options: Arc<ServeOptions>,
    decoder: Decoder,
    allowance: Allowance,
    /// What is to be written.
    pub outbox: Outbox,
    /// `None` while the client takes what there is.
    stall: Option<Box<Stall>>,
    /// Whether something was written that the stream may hold back.
    needs_flush: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Of a stream behind its handshake; `deflates` when permessage-deflate was agreed on there.
    pub fn new(stream: S, options: Arc<ServeOptions>, deflates: bool) -> Socket<S> {
        let decoder = Decoder::new(options.message_bytes_max, deflates);
        let allowance = Allowance { left: f64::from(options.messages_burst), at: Instant::now() };
        let outbox = Outbox { deflates, ..Outbox::default() };
        Socket { stream, options, decoder, allowance, outbox, stall: None, needs_flush: false }
    }

    /// Whether everything went out.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.outbox.is_empty() && !self.needs_flush
    }

    /// When the client is to be given up, if it takes nothing until then. Who drives the socket keeps
    /// the time, and calls [`Socket::check_progress`] when it is over.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.stall.as_ref().map(|stall| stall.at)
    }

    /// # Errors
    /// When the client has taken too little for too long.
    pub fn check_progress(&self) -> Result<(), End> {
        if self.deadline().is_some_and(|deadline| deadline <= Instant::now()) { Err(End::Stalled) } else { Ok(()) }
    }

    /// What went out since this was asked last.
    pub fn take_sent(&mut self) -> Sent {
        std::mem::take(&mut self.outbox.sent)
    }

    /// Writes what is to be written, and reads what there is; ready when something came, or all is out.
    ///
    /// # Errors
    /// When there is no more to exchange; [`Socket::close`] and [`Socket::poll_closed`] are next.
    pub fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        handle: &mut dyn FnMut(Received<'_>, &mut Outbox) -> Result<(), End>,
    ) -> Poll<Result<(), End>> {
        let was_flushed = self.is_flushed();
        let is_flushed = self.poll_write(cx)?.is_ready();
        if !self.outbox.is_full() && self.poll_read(cx, handle)?.is_ready() {
            // The answers, if there is room for them: then who drives us need not call again.
            let _ = self.poll_write(cx)?;
            return Poll::Ready(Ok(()));
        }
        if is_flushed && !was_flushed { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ready when all is out.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        loop {
            self.outbox.fill();
            let frames = &self.outbox.frames;
            let stream = Pin::new(&mut self.stream);
            let polled = match frames.len() {
                0 => {
                    if self.needs_flush {
                        ready!(stream.poll_flush(cx)).map_err(end_of)?;
                        self.needs_flush = false;
                    }
                    self.stall = None;
                    return Poll::Ready(Ok(()));
                }
                1 => stream.poll_write(cx, &frames[0]),
                _ => {
                    let mut slices = [IoSlice::new(&[]); FRAMES_MAX];
                    for (slice, frame) in slices.iter_mut().zip(frames) {
                        *slice = IoSlice::new(frame);
                    }
                    stream.poll_write_vectored(cx, &slices[..frames.len().min(FRAMES_MAX)])
                }
            };
            let timeout = self.options.write_timeout;
            match polled {
                Poll::Ready(Ok(bytes)) if bytes > 0 => {
                    self.outbox.written(bytes);
                    self.needs_flush = true;
                    if let Some(stall) = &mut self.stall {
                        stall.taken += bytes;
                        if stall.taken >= PROGRESS_BYTES {
                            **stall = Stall { at: Instant::now() + timeout, taken: 0 };
                        }
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(end_of(error))),
                Poll::Ready(Ok(_)) => return Poll::Ready(Err(End::Gone)),
                Poll::Pending => {
                    self.stall.get_or_insert_with(|| Box::new(Stall { at: Instant::now() + timeout, taken: 0 }));
                    return Poll::Pending;
                }
            }
        }
    }

    /// Ready when something was read.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        handle: &mut dyn FnMut(Received<'_>, &mut Outbox) -> Result<(), End>,
    ) -> Poll<Result<(), End>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)).map_err(end_of)?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(End::Gone));
            }
            Poll::Ready(self.receive(buffer.filled_mut(), handle))
        })
    }

    /// Takes in bytes that were read.
    ///
    /// # Errors
    /// When there is no more to exchange: what follows in `bytes` is passed over.
    pub fn receive(
        &mut self,
        mut bytes: &mut [u8],
        handle: &mut dyn FnMut(Received<'_>, &mut Outbox) -> Result<(), End>,
    ) -> Result<(), End> {
        let now = Instant::now();
        loop {
            let event = match self.decoder.next(&mut bytes) {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                Err(violation) => {
                    let (code, reason) = violation.close();
                    return Err(End::Close(Close { code, reason }));
                }
            };
            if !self.allowance.take(&self.options, now) {
                return Err(End::Close(Close::TOO_MANY_MESSAGES));
            }
            match event {
                Event::Text(text) => handle(Received::Text(&text), &mut self.outbox)?,
                Event::Binary(bytes) => handle(Received::Binary(&bytes), &mut self.outbox)?,
                Event::Ping(payload) => self.outbox.push_pong(&payload),
                Event::Part | Event::Pong => {}
                Event::Close(code) => return Err(End::Left(code)),
            }
        }
    }

    /// Begins to close, and tells how long [`Socket::poll_closed`] may take; `None` when there is nobody
    /// to tell.
    pub fn close(&mut self, end: End) -> Option<Duration> {
        let frame = match end {
            End::Gone | End::Stalled => return None,
            End::Close(Close { code, reason }) => codec::close(code, reason),
            End::Left(Some(code)) => codec::close(code, ""),
            End::Left(None) => codec::frame(Opcode::Close, &[]),
        };
        self.outbox.close(frame);
        Some(self.options.close_timeout)
    }

    /// Ready when the closing handshake is over: the close frame is out, and the client has answered or
    /// is gone. What else it sends is thrown away.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>, discarded: &mut usize) -> Poll<()> {
        // Errors: it is gone, which is what was wanted.
        if ready!(self.poll_write(cx)).is_err() {
            return Poll::Ready(());
        }
        // Who said goodbye hears ours. Who sent what it may not would go on: our side ends now, and what
        // is on its way is read, since closing on it would take the close frame back on its way too.
        let is_done = self.decoder.is_over();
        if is_done && ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        READ_BUFFER.with_borrow_mut(|buffer| {
            loop {
                let mut buffer = ReadBuf::new(buffer);
                let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
                *discarded += buffer.filled().len();
                if read.is_err() || buffer.filled().is_empty() || *discarded > DISCARDED_BYTES_MAX {
                    return Poll::Ready(());
                }
                let mut bytes = buffer.filled_mut();
                while !bytes.is_empty() {
                    let _ = self.decoder.next(&mut bytes);
                }
                if self.decoder.is_over() && !is_done {
                    return Poll::Ready(());
                }
            }
        })
    }
}
