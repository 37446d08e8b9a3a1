//! What clients hold: bytes of messages and images that wait for sockets, each counted once however
//! many clients are sent it, from when it is made until the last of them has it.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Of the whole process: that is what runs out of memory.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes that are counted as long as they are there.
struct Counted(Vec<u8>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0.capacity(), Ordering::Relaxed);
    }
}

/// Shares these bytes, and counts them until the last who has them lets go.
#[must_use]
pub fn counted(bytes: Vec<u8>) -> Bytes {
    if bytes.is_empty() {
        return Bytes::new();
    }
    HELD.fetch_add(bytes.capacity(), Ordering::Relaxed);
    Bytes::from_owner(Counted(bytes))
}

/// Bytes that are held now.
#[must_use]
pub fn bytes() -> usize {
    HELD.load(Ordering::Relaxed)
}
