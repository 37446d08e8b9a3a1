//! An HTTP connection whose answers must be taken.
//!
//! hyper keeps time while it reads a head, and none while it writes: who asks and does not read held
//! its connection for good.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::socket::PROGRESS_BYTES;
use super::stalled::{Place, Stalled};
use crate::signal::Signal;

/// A socket that fails when the peer takes less than [`PROGRESS_BYTES`] within a timeout, while there
/// is that much to take.
pub struct HttpStream {
    tcp: TcpStream,
    timeout: Duration,
    stalled: Arc<Stalled>,
    /// While the peer takes nothing.
    stall: Option<Box<Stall>>,
    /// Bytes taken since the timer of `stall` was set.
    taken: usize,
}

/// A peer that takes nothing.
struct Stall {
    timer: Pin<Box<Sleep>>,
    /// Told when others need the memory.
    signal: Arc<Signal>,
    _place: Place,
}

impl HttpStream {
    pub fn new(tcp: TcpStream, timeout: Duration, stalled: Arc<Stalled>) -> HttpStream {
        HttpStream { tcp, timeout, stalled, stall: None, taken: 0 }
    }

    pub fn into_inner(self) -> TcpStream {
        self.tcp
    }

    /// `polled` is what became of writing `bytes`.
    fn keep_time(
        &mut self,
        cx: &mut Context<'_>,
        bytes: usize,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Ok(taken)) => {
                self.taken += taken;
                if taken == bytes || self.taken >= PROGRESS_BYTES {
                    self.stall = None;
                }
                polled
            }
            Poll::Ready(Err(_)) => polled,
            Poll::Pending => {
                let HttpStream { timeout, stalled, stall, taken, .. } = self;
                let stall = stall.get_or_insert_with(|| {
                    *taken = 0;
                    let (timer, signal) = (Box::pin(sleep(*timeout)), Arc::default());
                    let place = stalled.enter(timer.deadline(), &signal);
                    Box::new(Stall { timer, signal, _place: place })
                });
                stall.signal.register(cx.waker());
                if stall.signal.is_shed() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                stall.timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.keep_time(cx, bytes.len(), polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        self.keep_time(cx, slices.iter().map(|slice| slice.len()).sum(), polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
