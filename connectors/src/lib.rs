//! Sources: what happens elsewhere, as Arrow, a whole transaction at a time.
//!
//! ```text
//!  WAL ──► postgres::replication ──► postgres::decode ──► source::SourceEvent ──► (bounded queue)
//!            the socket and its        pgoutput text into    copies, whole transactions,
//!            deadlines                 Arrow builders        states
//! ```
//!
//! A source never drops a change to catch up and never buffers without bound: while its reader is
//! busy it stops reading its socket, and goes on telling the server that it lives.
//!
//! Read [`source`] first: it has the words that all sources share.

pub mod source; // the words that all sources share
pub mod postgres; // a database by its log
pub mod generator; // worlds that are made up, for those who have no database at hand
pub mod format; // what the bytes of messages mean
#[cfg(feature = "kafka")]
pub mod kafka; // topics of a cluster
#[cfg(feature = "fluvio")]
pub mod fluvio; // the same, of a Fluvio cluster
pub mod topic; // messages of a topic into changes of tables
pub mod sink; // the words that all sinks share
pub mod dead_letters; // messages that could not be read

pub use source::{
    Connector, EventReceiver, EventSender, Link, Source, SourceEvent, SourceState, TableOption, event_queue,
};
