//! Fluvio: topics in, topics out.
//!
//! ```text
//!  Log (what a topic is) ──► follow (a task per partition) ──► FluvioTopic (a thread) ──► topic::pump
//!   the client, or a          requires each offset once         new partitions, losses
//!   script in tests
//! ```
//!
//! The client is used with care. It was measured to leave records out without a word where an answer
//! ends in the middle of a batch, and its own retries step over what was deleted. Offsets of a
//! partition have no holes, so [`follow`] requires each, and asks again for what is missing.
//!
//! Offsets are part of *our* position; none are kept in the cluster.

pub mod options; // what a project says, and which tables are read together
pub mod log; // what is asked of a topic
pub mod error; // what can go wrong, and whose move it is
pub mod client; // the same, asked of a cluster
pub mod follow; // one partition, each record once
pub mod source; // one topic: read it, and again after a loss
pub mod produce; // writing, and knowing when it has ended
pub mod sink; // a topic that is kept as a query has it
pub mod dead_letters; // letters as records of a topic
#[cfg(test)]
mod scripted; // a log that does what it is told
#[cfg(test)]
mod cluster_tests; // against a real one

pub use options::CONNECTOR;
