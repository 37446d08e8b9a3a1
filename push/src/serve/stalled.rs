//! Connections whose clients do not take what they are sent, and who of them goes when all together
//! hold too much.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::held;
use crate::signal::Signal;

/// Connections that have taken nothing for a while, those that will be given up first first.
pub struct Stalled {
    /// Bytes that may be held for clients.
    held_max: usize,
    by_deadline: Mutex<BTreeMap<Key, Arc<Signal>>>,
    ids: AtomicU64,
    /// How many were given up early.
    shed: Counter,
}

/// When a connection is to be given up, and which one it is.
type Key = (Instant, u64);

/// A connection's place among the stalled; given back when it is dropped.
pub struct Place {
    of: Arc<Stalled>,
    key: Key,
}

impl Stalled {
    pub fn new(held_max: usize, shed: Counter) -> Arc<Stalled> {
        Arc::new(Stalled { held_max, by_deadline: Mutex::default(), ids: AtomicU64::new(0), shed })
    }

    /// A connection takes nothing, and is given up at `deadline`. If too much is held, the one that
    /// would be given up first is given up now.
    pub fn enter(self: &Arc<Self>, deadline: Instant, signal: &Arc<Signal>) -> Place {
        let key = (deadline, self.ids.fetch_add(1, Ordering::Relaxed));
        let first = {
            let mut by_deadline = self.lock();
            by_deadline.insert(key, Arc::clone(signal));
            if held::bytes() > self.held_max { by_deadline.pop_first() } else { None }
        };
        if let Some((_, signal)) = first {
            self.shed.inc();
            signal.shed();
        }
        Place { of: Arc::clone(self), key }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Signal>>> {
        self.by_deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// When the connection is to be given up.
    pub fn deadline(&self) -> Instant {
        self.key.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.lock().remove(&self.key);
    }
}
