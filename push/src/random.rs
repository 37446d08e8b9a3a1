//! Numbers that nobody knows before.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A number. Hash keys of the standard library come from the system's randomness.
pub fn number() -> u64 {
    RandomState::new().hash_one(())
}

/// A time between these.
pub fn some_time(least: Duration, most: Duration) -> Duration {
    least + (most - least).mul_f64((number() % 1024) as f64 / 1024.0)
}
