//! The oracle: the live answer is the batch answer (promise 1).
//!
//! Each seed makes a small project (tables, views of several queries that share subplans) and a
//! series of random transactions over tiny domains full of NULLs: both sides of a join change at
//! once, keys move, rows are deleted that were just inserted, tables are truncated. After every
//! transaction the accumulated diffs of each query are compared with DataFusion's own answer to
//! the same SQL over the same tables, in a session that knows nothing of ours.
//!
//! Beside the program that sees a transaction at a time runs one that sees them cut up and merged
//! at random: nothing but the number of epochs may differ.
//!
//! A failure prints its seed; `ORACLE_SEED=… cargo xtask test oracle` runs that one alone.

mod check;
mod generate;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// Transactions in each seed's series.
const TRANSACTIONS_PER_SEED: u64 = 100;
/// 200 series of 100: the 20,000 transactions that a run of the suite owes.
const SEEDS: u64 = 200;

#[test]
fn live_equals_batch() {
    if let Ok(seed) = std::env::var("ORACLE_SEED") {
        let seed = seed.parse().expect("ORACLE_SEED is a number");
        check::simulate(seed, TRANSACTIONS_PER_SEED);
        return;
    }
    let first = 1;
    let next = AtomicU64::new(first);
    let transactions = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + SEEDS {
                        return;
                    }
                    let outcome = catch_unwind(AssertUnwindSafe(|| check::simulate(seed, TRANSACTIONS_PER_SEED)));
                    if outcome.is_err() {
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                        panic!("seed {seed} failed; replay it alone with ORACLE_SEED={seed}");
                    }
                    transactions.fetch_add(TRANSACTIONS_PER_SEED, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(transactions.into_inner(), SEEDS * TRANSACTIONS_PER_SEED);
}
