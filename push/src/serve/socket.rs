//! One WebSocket: bytes to events, messages to bytes, and deadlines. Knows no session.
//!
//! ```text
//!  stream ──► Decoder ──► Talker::receive                what was asked
//!  stream ◄── frames  ◄── Outbox ◄── Message, Image           shared memory, written from where it lies
//! ```
//!
//! - **Nothing is held while nothing happens.** Bytes are read into a buffer of the thread; what a
//!   client sends is looked at there, and answered before the next client's turn.
//! - **A slow client holds one turn's worth of frames** ([`WRITE_BYTES`] or one message, if that is longer), parts
//!   of images not made yet, and a few answers: above that nothing is read from it, so that it can ask
//!   no more than it takes.
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

/// Bytes read at once; one buffer a thread.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of frames written at once, at least one frame.
pub const WRITE_BYTES: usize = 64 * 1024;
/// Frames written at once.
pub const FRAMES_MAX: usize = 32;
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

/// Who is behind a socket: hears what comes, and says what is to go.
pub trait Talker {
    /// Something came.
    ///
    /// # Errors
    /// When that ends the conversation.
    fn receive(&mut self, received: Received<'_>, outbox: &mut Outbox) -> Result<(), End>;

    /// The next message. There may be none for the moment though [`Talker::has_next`].
    fn next_message(&mut self) -> Option<Message>;

    /// Whether there is more to say.
    fn has_next(&self) -> bool;

    /// Whether so much waits to be said that nothing more is to be heard.
    fn is_crowded(&self) -> bool;
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
    /// The token has expired, and no new one came in time.
    pub const EXPIRED: Close = Close { code: 4001, reason: "the token has expired" };
    /// The subject was cut off.
    pub const REVOKED: Close = Close { code: 4501, reason: "the token has been revoked" };
    /// More sessions of one subject than may be.
    pub const TOO_MANY_OF_SUBJECT: Close = Close { code: 4502, reason: "too many sessions of this subject" };
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
    /// The answer to the last ping, when the frames of this turn are full.
    pong: Option<Box<Bytes>>,
    /// Whether the client can inflate.
    deflates: bool,
    sent: Sent,
}

impl Outbox {
    /// Appends a frame as it is.
    pub fn push_frame(&mut self, frame: Bytes) {
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

    /// Whether nothing waits to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.pong.is_none()
    }

    fn frame_of(&self, message: &Message) -> Bytes {
        let deflated = if self.deflates { message.deflated() } else { None };
        deflated.unwrap_or(message.frame()).clone()
    }

    /// Takes a turn's worth of frames.
    fn fill(&mut self, talker: &mut dyn Talker) {
        self.frames.extend(self.pong.take().map(|pong| *pong));
        let mut bytes = 0;
        while bytes < WRITE_BYTES
            && self.frames.len() < FRAMES_MAX
            && let Some(message) = talker.next_message()
        {
            let frame = self.frame_of(&message);
            bytes += frame.len();
            self.sent.messages += 1;
            self.frames.push_back(frame);
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

    /// Lets what is being written go, and ends with a close frame.
    fn close(&mut self, frame: Bytes) {
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
    pub fn poll_exchange(&mut self, cx: &mut Context<'_>, talker: &mut dyn Talker) -> Poll<Result<(), End>> {
        let was_flushed = self.is_flushed() && !talker.has_next();
        let is_flushed = self.poll_write(cx, Some(talker))?.is_ready();
        if !talker.is_crowded() && self.poll_read(cx, talker)?.is_ready() {
            // The answers, if there is room for them: then who drives us need not call again.
            let _ = self.poll_write(cx, Some(talker))?;
            return Poll::Ready(Ok(()));
        }
        if is_flushed && !was_flushed { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ready when all is out. After each turn others are asked whether they have something to say, or
    /// one large image would keep them waiting.
    fn poll_write(&mut self, cx: &mut Context<'_>, talker: Option<&mut dyn Talker>) -> Poll<Result<(), End>> {
        let mut turns = 0;
        let mut talker = talker;
        loop {
            if let Some(talker) = talker.as_deref_mut().filter(|_| self.outbox.frames.is_empty()) {
                if turns == 0 || !talker.has_next() {
                    self.outbox.fill(talker);
                }
                if self.outbox.frames.is_empty() && talker.has_next() {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                turns += 1;
            }
            let frames = &self.outbox.frames;
            let stream = Pin::new(&mut self.stream);
            let polled = match frames.len() {
                0 if self.needs_flush => match stream.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {
                        self.needs_flush = false;
                        continue;
                    }
                    other => other.map_ok(|()| 0),
                },
                0 => {
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
    fn poll_read(&mut self, cx: &mut Context<'_>, talker: &mut dyn Talker) -> Poll<Result<(), End>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)).map_err(end_of)?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(End::Gone));
            }
            Poll::Ready(self.receive(buffer.filled_mut(), talker))
        })
    }

    /// Takes in bytes that were read.
    ///
    /// # Errors
    /// When there is no more to exchange: what follows in `bytes` is passed over.
    pub fn receive(&mut self, mut bytes: &mut [u8], talker: &mut dyn Talker) -> Result<(), End> {
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
                Event::Text(text) => talker.receive(Received::Text(&text), &mut self.outbox)?,
                Event::Binary(bytes) => talker.receive(Received::Binary(&bytes), &mut self.outbox)?,
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
        if ready!(self.poll_write(cx, None)).is_err() {
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

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::advance;

    use crate::serve::codec::tests::client_frame;

    /// Says what it is told to, and hears nothing unless it may.
    #[derive(Default)]
    struct Said {
        queue: VecDeque<Message>,
        may_hear: bool,
    }

    impl Said {
        fn these(texts: impl IntoIterator<Item = String>) -> Said {
            Said { queue: texts.into_iter().map(Message::from).collect(), may_hear: false }
        }
    }

    impl Talker for Said {
        fn receive(&mut self, received: Received<'_>, _: &mut Outbox) -> Result<(), End> {
            assert!(self.may_hear, "nobody sent {received:?}");
            Ok(())
        }

        fn next_message(&mut self) -> Option<Message> {
            self.queue.pop_front()
        }

        fn has_next(&self) -> bool {
            !self.queue.is_empty()
        }

        fn is_crowded(&self) -> bool {
            self.queue.len() >= 4
        }
    }

    /// A socket over a pipe that holds so many bytes, and the client's end.
    fn socket(pipe_bytes: usize, options: ServeOptions) -> (Socket<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(pipe_bytes);
        (Socket::new(near, Arc::new(options), false), far)
    }

    /// One look: what came of it, and never a wait.
    async fn look(socket: &mut Socket<DuplexStream>, talker: &mut Said) -> Poll<Result<(), End>> {
        // Else tokio would find after some looks that this task has had its share.
        tokio::task::yield_now().await;
        poll_fn(|cx| Poll::Ready(socket.poll_exchange(cx, talker))).await
    }

    /// How many of 1000 messages are taken, each so long after the one before.
    fn taken(apart: Duration) -> usize {
        let (options, start) = (ServeOptions::default(), Instant::now());
        let mut allowance = Allowance { left: 300.0, at: start };
        (0..1000).filter(|&i| allowance.take(&options, start + apart * i)).count()
    }

    #[test]
    fn a_flood_is_noticed_and_a_talker_is_not() {
        assert_eq!(taken(Duration::ZERO), 300);
        assert_eq!(taken(Duration::from_millis(20)), 1000, "50 a second");
        // 100 a second: 300 at once, and then every other one is earned back while none is taken.
        let hasty = taken(Duration::from_millis(10));
        assert!((598..=602).contains(&hasty), "{hasty}");
    }

    /// What was not used is not saved up beyond a burst.
    #[test]
    fn silence_earns_no_more_than_a_burst() {
        let (options, start) = (ServeOptions::default(), Instant::now());
        let mut allowance = Allowance { left: 300.0, at: start };
        assert!(allowance.take(&options, start));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| allowance.take(&options, later)).count(), 300);
    }

    /// A ping's answer waits beside the frames of a turn that are too many already, and counts like them.
    #[test]
    fn an_outbox_is_empty_when_nothing_waits() {
        let mut outbox = Outbox::default();
        assert!(outbox.is_empty());
        outbox.push_frame(Bytes::from_static(b"frame"));
        assert!(!outbox.is_empty());
        outbox.written(5);
        assert!(outbox.is_empty());
        outbox.pong = Some(Box::new(Bytes::from_static(b"pong")));
        assert!(!outbox.is_empty());
    }

    /// A stream that takes nothing and says that it has: nobody is at its other end.
    struct Void;

    impl AsyncRead for Void {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Void {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(0))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn who_takes_nothing_at_all_is_gone() {
        let mut socket = Socket::new(Void, Arc::new(ServeOptions::default()), false);
        let mut said = Said::these(["{}".to_owned()]);
        let exchanged = poll_fn(|cx| Poll::Ready(socket.poll_exchange(cx, &mut said))).await;
        assert_eq!(exchanged, Poll::Ready(Err(End::Gone)));
    }

    /// What waits goes out in order and in one piece, however little is taken at a time.
    #[tokio::test]
    async fn frames_go_out_whole_and_in_order() {
        for pipe_bytes in [1, 7, 100, 1 << 20] {
            let (mut socket, mut far) = socket(pipe_bytes, ServeOptions::default());
            let texts = || (0..100).map(|i| format!("{i} ").repeat(i));
            let mut said = Said::these(texts());
            let expected: Vec<u8> = texts().flat_map(|text| Message::from(text).frame().to_vec()).collect();
            let mut told = vec![0; expected.len()];
            let writing = poll_fn(|cx| {
                let _ = socket.poll_exchange(cx, &mut said)?;
                if socket.is_flushed() && !said.has_next() { Poll::Ready(Ok::<_, End>(())) } else { Poll::Pending }
            });
            let (written, read) = tokio::join!(writing, far.read_exact(&mut told));
            assert_eq!((written, read.expect("bytes")), (Ok(()), expected.len()));
            assert!(told == expected, "{pipe_bytes}");
            assert_eq!(socket.take_sent(), Sent { messages: 100, bytes: expected.len() as u64 });
            assert_eq!(socket.take_sent(), Sent::default());
            assert_eq!(socket.outbox.frames.capacity(), 0, "nothing is held");
        }
    }

    /// While a client takes nothing, a turn's frames are made and no more, and when enough waits for it
    /// nothing is read from it.
    #[tokio::test]
    async fn what_is_made_for_a_slow_client_has_a_bound() {
        let (mut socket, mut far) = socket(1000, ServeOptions::default());
        let mut said = Said::these((0..100).map(|_| "x".repeat(10_000)));
        assert!(look(&mut socket, &mut said).await.is_pending());
        assert_eq!((socket.outbox.frames.len(), said.queue.len()), (7, 93), "of 64 KiB");
        far.write_all(&client_frame(0x81, b"{}", [0; 4])).await.expect("sent");
        assert!(look(&mut socket, &mut said).await.is_pending(), "it is not read");
        let (mut small, _far) = self::socket(10, ServeOptions::default());
        let mut said = Said::these((0..100).map(|_| "x".to_owned()));
        assert!(look(&mut small, &mut said).await.is_pending());
        assert_eq!(said.queue.len(), 100 - FRAMES_MAX);
    }

    /// Of pings that are not taken the last is answered, after those that are on their way.
    #[tokio::test]
    async fn of_a_flood_of_pings_the_last_is_answered() {
        let (mut socket, mut far) = socket(64, ServeOptions::default());
        let mut said = Said::these(["x".repeat(100)]);
        assert!(look(&mut socket, &mut said).await.is_pending());
        for i in 0..200_u8 {
            far.write_all(&client_frame(0x89, &[i], [0; 4])).await.expect("sent");
            assert_eq!(look(&mut socket, &mut said).await, Poll::Ready(Ok(())));
        }
        assert_eq!(socket.outbox.frames.len(), FRAMES_MAX);
        let mut told = vec![0; 102 + 3 * FRAMES_MAX];
        let writing = poll_fn(|cx| {
            let _ = socket.poll_exchange(cx, &mut said)?;
            if socket.is_flushed() { Poll::Ready(Ok::<_, End>(())) } else { Poll::Pending }
        });
        let (written, _) = tokio::join!(writing, far.read_exact(&mut told));
        assert_eq!(written, Ok(()));
        let pongs: Vec<u8> = told[102..].chunks(3).map(|pong| pong[2]).collect();
        assert_eq!((pongs[0], pongs[30], pongs[31]), (0, 30, 199));
        assert_eq!(socket.take_sent().messages, 1, "a pong is no message");
    }

    /// The deadline moves when enough was taken, and is over with the last byte.
    #[tokio::test(start_paused = true)]
    async fn time_is_counted_from_progress() {
        let second = Duration::from_secs(1);
        let options = ServeOptions { write_timeout: 30 * second, ..ServeOptions::default() };
        let (mut socket, mut far) = socket(20_000, options);
        let mut said = Said::default();
        assert_eq!((look(&mut socket, &mut said).await, socket.deadline()), (Poll::Pending, None));
        said.queue.push_back(Message::from("x".repeat(60_000 - 4)));
        let start = Instant::now();
        assert!(look(&mut socket, &mut said).await.is_pending());
        assert_eq!(socket.deadline(), Some(start + 30 * second));
        advance(20 * second).await;
        far.read_exact(&mut [0; 10_000]).await.expect("bytes");
        assert!(look(&mut socket, &mut said).await.is_pending());
        assert_eq!(socket.deadline(), Some(start + 30 * second), "10 KB are no progress");
        far.read_exact(&mut [0; 10_000]).await.expect("bytes");
        assert!(look(&mut socket, &mut said).await.is_pending());
        assert_eq!(socket.deadline(), Some(start + 50 * second), "20 KB are");
        advance(29 * second).await;
        assert_eq!(socket.check_progress(), Ok(()));
        advance(second).await;
        assert_eq!(socket.check_progress(), Err(End::Stalled));
        assert_eq!(socket.close(End::Stalled), None, "there is nobody to tell");
        far.read_exact(&mut [0; 20_000]).await.expect("bytes");
        assert_eq!(look(&mut socket, &mut said).await, Poll::Ready(Ok(())), "all is out");
        assert_eq!((socket.deadline(), socket.check_progress()), (None, Ok(())));
    }

    /// A stream that holds back what it was given, as TLS may, is given as much time to let it go.
    #[tokio::test(start_paused = true)]
    async fn time_is_counted_while_a_stream_holds_back() {
        let (near, mut far) = duplex(1);
        let stream = tokio::io::BufStream::new(near);
        let mut socket = Socket::new(stream, Arc::new(ServeOptions::default()), false);
        let mut said = Said::these(["{}".to_owned()]);
        let polled = poll_fn(|cx| Poll::Ready(socket.poll_exchange(cx, &mut said))).await;
        assert!(polled.is_pending() && !socket.is_flushed() && socket.outbox.is_empty());
        assert_eq!(socket.deadline(), Some(Instant::now() + Duration::from_secs(30)));
        let writing = poll_fn(|cx| {
            let _ = socket.poll_exchange(cx, &mut said)?;
            if socket.is_flushed() { Poll::Ready(Ok::<_, End>(())) } else { Poll::Pending }
        });
        let mut told = [0; 4];
        let (written, _) = tokio::join!(writing, far.read_exact(&mut told));
        assert_eq!((written, told, socket.deadline()), (Ok(()), [0x81, 2, b'{', b'}'], None));
    }

    /// What a client hears, and whether the socket then waits for it.
    async fn closing(sent: &[u8], end: Option<Close>) -> (Vec<u8>, bool) {
        let (mut socket, mut far) = socket(1000, ServeOptions::default());
        far.write_all(sent).await.expect("sent");
        let mut said = Said { may_hear: true, ..Said::default() };
        let ended = poll_fn(|cx| Poll::Ready(socket.poll_exchange(cx, &mut said))).await;
        let end = match ended {
            Poll::Ready(Err(end)) => end,
            _ => End::Close(end.expect("an end")),
        };
        socket.close(end).expect("somebody to tell");
        let mut discarded = 0;
        let is_closed = poll_fn(|cx| Poll::Ready(socket.poll_closed(cx, &mut discarded))).await.is_ready();
        drop(socket);
        let mut told = Vec::new();
        far.read_to_end(&mut told).await.expect("bytes");
        (told, !is_closed)
    }

    #[tokio::test]
    async fn goodbyes_are_answered_and_said() {
        let left = client_frame(0x88, &[0x03, 0xE8], [1, 2, 3, 4]);
        assert_eq!(closing(&left, None).await, (b"\x88\x02\x03\xE8".to_vec(), true), "for the end of the stream");
        let left = client_frame(0x88, b"", [1, 2, 3, 4]);
        assert_eq!(closing(&left, None).await, (b"\x88\x00".to_vec(), true));
        // A ping before it is answered still.
        let left = [client_frame(0x89, b"x", [0; 4]), left].concat();
        assert_eq!(closing(&left, None).await, (b"\x8A\x01x\x88\x00".to_vec(), true));
        let wrong = closing(&[0x81, 0x00], None).await;
        assert_eq!(wrong, (b"\x88\x15\x03\xEAa frame has no mask".to_vec(), true));
        let idle = closing(b"", Some(Close::IDLE)).await;
        assert_eq!((&idle.0[..4], idle.1), (&b"\x88\x28\x0F\xA0"[..], true), "for the client's goodbye");
    }

    /// Who was told to go answers, or ends, or goes on for a megabyte: then it is over.
    #[tokio::test]
    async fn closing_has_an_end() {
        for (sent, times, is_over) in [
            (client_frame(0x88, &[0x0F, 0xA0], [0; 4]), 1, true),
            (client_frame(0x81, b"more", [0; 4]), 1, false),
            (client_frame(0x82, &[0; 50_000], [0; 4]), 20, false),
            (client_frame(0x82, &[0; 50_000], [0; 4]), 22, true),
        ] {
            let (mut socket, mut far) = socket(2 << 20, ServeOptions::default());
            assert_eq!(socket.close(End::Close(Close::IDLE)), Some(Duration::from_secs(5)));
            far.write_all(&sent.repeat(times)).await.expect("sent");
            let mut discarded = 0;
            let closed = poll_fn(|cx| Poll::Ready(socket.poll_closed(cx, &mut discarded))).await;
            assert_eq!(closed.is_ready(), is_over, "{} bytes {times} times", sent.len());
            drop(far);
            let closed = poll_fn(|cx| Poll::Ready(socket.poll_closed(cx, &mut discarded))).await;
            assert!(closed.is_ready(), "the client has gone");
        }
    }
}
