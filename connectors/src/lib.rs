//! Sources: what happens elsewhere, as Arrow, a whole transaction at a time.
//!
//! ```text
//!  WAL ──► postgres::replication ──► postgres::decode ──► SourceEvent ──► (bounded channel)
//!            the socket and its        pgoutput text into    copies, whole transactions,
//!            deadlines                 Arrow builders        states
//! ```
//!
//! A source never drops a change to catch up and never buffers without bound: while its reader is
//! busy it stops reading its socket, and goes on telling the server that it lives.

pub mod postgres;
