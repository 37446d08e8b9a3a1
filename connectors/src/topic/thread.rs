//! A source on a thread of its own: for clients that block.

use std::thread;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::source::{EventSender, SourceEvent};

/// The program ends, or nobody listens any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Stopped;

/// How a thread waits for what is asynchronous, and learns that it is to end.
pub struct Waiting {
    runtime: Handle,
    stop: watch::Receiver<()>,
}

impl Waiting {
    /// Whether the thread is to end.
    ///
    /// # Errors
    /// When it is.
    pub fn go_on(&self) -> Result<(), Stopped> {
        self.stop.has_changed().map(|_| ()).map_err(|_| Stopped)
    }

    /// Waits for this long.
    ///
    /// # Errors
    /// As soon as the thread is to end.
    pub fn sleep(&mut self, time: Duration) -> Result<(), Stopped> {
        let stop = &mut self.stop;
        match self.runtime.block_on(async { timeout(time, stop.changed()).await }) {
            Err(_) => Ok(()),
            Ok(_) => Err(Stopped),
        }
    }

    /// Waits for something.
    ///
    /// # Errors
    /// As soon as the thread is to end.
    pub fn until<T>(&mut self, ready: impl Future<Output = T>) -> Result<T, Stopped> {
        let stop = &mut self.stop;
        self.runtime.block_on(async {
            tokio::select! {
                ready = ready => Ok(ready),
                _ = stop.changed() => Err(Stopped),
            }
        })
    }

    /// Sends an event when there is room for it.
    ///
    /// # Errors
    /// When nobody takes events, or the thread is to end.
    pub fn send(&mut self, events: &EventSender, event: SourceEvent) -> Result<(), Stopped> {
        match events.try_send(event) {
            Ok(()) => Ok(()),
            Err(event) => self.until(events.send(event))?.map_err(|_| Stopped),
        }
    }
}

/// Runs on a thread of its own. The thread is told to end when the future is dropped; a panic of it
/// is one of the future.
pub fn on_thread(name: String, run: impl FnOnce(Waiting) + Send + 'static) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let (_running, stop) = watch::channel(());
        let (done, ended) = oneshot::channel();
        let waiting = Waiting { runtime: Handle::current(), stop };
        let started = thread::Builder::new().name(name.clone()).spawn(move || {
            run(waiting);
            let _ = done.send(());
        });
        let has_ended = match started {
            Ok(_) => ended.await.is_ok(),
            Err(error) => panic!("can't start a thread: {error}"),
        };
        assert!(has_ended, "the thread of {name} panicked");
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_thread_ends_when_its_future_is_dropped() {
        let (ended, has_ended) = mpsc::channel();
        let running = tokio::spawn(on_thread("test".to_owned(), move |mut waiting| {
            assert_eq!(waiting.go_on(), Ok(()));
            assert_eq!(waiting.sleep(Duration::from_millis(1)), Ok(()));
            assert_eq!(waiting.until(async { 7 }), Ok(7));
            ended.send(waiting.sleep(Duration::from_secs(60))).expect("somebody waits");
            assert_eq!(waiting.go_on(), Err(Stopped));
        }));
        tokio::time::sleep(Duration::from_millis(50)).await;
        running.abort();
        let ended = tokio::task::spawn_blocking(move || has_ended.recv_timeout(Duration::from_secs(10)));
        assert_eq!(ended.await.expect("joins"), Ok(Err(Stopped)));
    }

    #[tokio::test]
    async fn a_panic_of_the_thread_is_one_of_the_future() {
        let running = tokio::spawn(on_thread("test".to_owned(), |_| panic!("as a test")));
        assert!(running.await.is_err_and(|error| error.is_panic()));
    }
}
