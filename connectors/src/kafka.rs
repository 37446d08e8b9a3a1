//! Kafka: topics in, topics out, by librdkafka.
//!
//! ```text
//!  KafkaTopic (a thread) ──poll──► topic::pump ──► the engine
//!    assign, not subscribe            │
//!    ▲                                └──► dead letters: a topic of the same cluster, or a file
//!    └── Watch (a thread): new partitions, another topic of the same name, how much there is
//! ```
//!
//! Offsets are part of *our* position. They are committed to a group too, for tools that look there;
//! nothing is read back from it but which dead letters have been written.

pub mod options; // what a project says, and which tables are read together
pub mod client; // what librdkafka is told, and what it says
pub mod error; // what can go wrong, and whose move it is
pub mod describe; // what a topic is: its id, its partitions, where they begin and end
pub mod watch; // what changes about a topic while it is read
pub mod inlet; // several topics by one client
pub mod source; // topics: read them, and again after a loss
pub mod sink; // a topic that is kept as a query has it
pub mod deliveries; // what became of what was written
pub mod dead_letters; // letters as messages of a topic

pub use options::CONNECTOR;
