//! How a session hears that something concerns it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;

/// Wakes the one task that runs a session. Who has been told is not woken again before it has looked:
/// a client that does not read costs nothing, however much happens.
#[derive(Debug, Default)]
pub struct Signal {
    flags: AtomicU8,
    waker: AtomicWaker,
}

/// Something concerns the session.
const TOLD: u8 = 1;
/// The session must end, since its subject was cut off.
const CUT: u8 = 2;
/// The connection must end, since it takes nothing and too much is held for those who do not.
const SHED: u8 = 4;

impl Signal {
    /// Tells that there is something to look at.
    pub fn tell(&self) {
        self.raise(TOLD);
    }

    /// Tells that the session must end, since its subject was cut off.
    pub fn cut(&self) {
        self.raise(CUT);
    }

    /// Tells that the connection must end, since it takes nothing and others need the memory.
    pub fn shed(&self) {
        self.raise(SHED);
    }

    fn raise(&self, flag: u8) {
        if self.flags.fetch_or(flag, Ordering::AcqRel) & flag == 0 {
            self.wake();
        }
    }

    /// Wakes the session for another reason, which it will find.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Who is to be woken from now on: to be said before looking.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Whether there is something to look at, which is looked at now.
    #[must_use]
    pub fn take(&self) -> bool {
        self.flags.fetch_and(!TOLD, Ordering::AcqRel) & TOLD != 0
    }

    /// Whether others need the memory.
    #[must_use]
    pub fn is_shed(&self) -> bool {
        self.flags.load(Ordering::Acquire) & SHED != 0
    }

    /// Whether the subject was cut off.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.flags.load(Ordering::Acquire) & CUT != 0
    }
}

/// Signals, each in a place of its own, which is free again when it is taken out.
#[derive(Debug, Default)]
pub struct Signals {
    places: Vec<Option<Arc<Signal>>>,
    free: Vec<usize>,
}

impl Signals {
    /// Adds a signal. Answers its place.
    pub fn add(&mut self, signal: &Arc<Signal>) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(Arc::clone(signal));
        place
    }

    /// Takes one out.
    pub fn remove(&mut self, place: usize) {
        self.places[place] = None;
        self.free.push(place);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Signal>> {
        self.places.iter().flatten()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::AtomicUsize;

    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A thousand epochs pass a phone that does not read: it is woken once.
    #[test]
    fn who_has_not_looked_is_not_woken_again() {
        let (signal, woken) = (Signal::default(), Arc::new(Woken(AtomicUsize::new(0))));
        let (waker, count) = (Waker::from(Arc::clone(&woken)), || woken.0.load(Ordering::SeqCst));
        signal.tell();
        signal.register(&waker);
        assert!(signal.take() && !signal.take(), "told before anybody listened, and once");
        for _ in 0..1000 {
            signal.tell();
            signal.register(&waker);
        }
        assert_eq!(count(), 1);
        signal.cut();
        assert_eq!((count(), signal.is_cut()), (2, true), "though it has not looked");
        assert!(signal.take() && signal.is_cut());
        signal.register(&waker);
        signal.tell();
        assert_eq!(count(), 3);
    }

    #[test]
    fn places_are_used_again() {
        let mut signals = Signals::default();
        let all = [0, 1, 2].map(|_| Arc::new(Signal::default()));
        assert_eq!(all.each_ref().map(|signal| signals.add(signal)), [0, 1, 2]);
        signals.remove(1);
        assert_eq!((signals.count(), signals.iter().count()), (2, 2));
        assert_eq!((signals.add(&all[1]), signals.add(&all[1])), (1, 3));
        assert!(Arc::ptr_eq(signals.iter().nth(1).expect("three"), &all[1]));
    }
}
