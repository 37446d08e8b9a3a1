//! What the bytes of messages mean.
//!
//! ```text
//!  payloads ──► RowDecoder ──► rows, one a payload      json, csv, text, bytes, avro, protobuf
//!                   │
//!  messages ──► MessageDecoder ──► rows with ops        append: each message is a row
//!                                                       upsert: the key replaces, no value deletes
//!                                                       debezium: before and after
//! ```
//!
//! Decoding goes a batch at a time, column by column. A message that can't be read loses itself
//! alone: it is told as [`Bad`] beside the rows of the others, and nothing of it is left in them.

pub mod append; // each message is a row
pub mod upsert; // the key replaces, no value deletes
pub mod columns; // columns that grow, and give back what a bad message has put in
pub mod json; // an object a payload
pub mod debezium; // what happened to a row, in JSON
pub mod csv; // a record a payload
pub mod text; // a value a payload, as text or as bytes
pub mod encode; // rows as JSON, for topics that are written
pub mod choice; // which of them a table has
pub mod registry; // where schemas come from
pub mod avro; // records whose schema a registry has
pub mod protobuf; // messages whose schema a registry has
#[cfg(test)]
mod testing; // decoders that are easy to follow

use arrow::array::ArrayRef;
use pipeline::Op;

pub use choice::{Formats, Wanted, moment_millis};

/// Nanoseconds in microseconds, half to even: clocks that tell more than a column has are taken for
/// what it can hold, as Postgres takes them.
pub(crate) fn rounded_micros(nanos: i64) -> i64 {
    let (micros, rest) = (nanos.div_euclid(1000), nanos.rem_euclid(1000));
    micros + i64::from(rest > 500 || rest == 500 && micros % 2 != 0)
}

/// A message that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Its place among those that were to be decoded.
    pub message: usize,
    /// What is wrong with it, for people.
    pub reason: String,
}

/// Nothing can be decoded now: no fault of a message.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The schema registry does not answer, or not in a way that can be understood. To be tried again.
    #[error("the schema registry does not answer: {0}")]
    Registry(String),
    /// A mistake of ours.
    #[error("{0}")]
    Internal(#[from] arrow::error::ArrowError),
}

/// Rows made of payloads.
#[derive(Debug, Default)]
pub struct Rows {
    /// The wanted columns, in their order, of exactly the wanted types and of equal length.
    pub columns: Vec<ArrayRef>,
    /// For each row, the place of the payload that it was made of; ascending.
    pub from: Vec<usize>,
    /// The payloads that no row was made of; ascending.
    pub bad: Vec<Bad>,
}

/// Makes a row of each payload. It is made for the columns that are wanted; one that a payload does
/// not have is NULL.
pub trait RowDecoder: Send {
    /// Decodes payloads.
    ///
    /// # Errors
    /// When none can be decoded now.
    fn decode(&mut self, payloads: &[&[u8]]) -> Result<Rows, FormatError>;
}

/// What a message consists of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Payload<'a> {
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; in a compacted topic a message without one takes its key away.
    pub value: Option<&'a [u8]>,
}

/// Rows and what happened to them.
#[derive(Debug, Default)]
pub struct Events {
    /// The table's columns that messages fill, in their order.
    pub columns: Vec<ArrayRef>,
    /// What each row means.
    pub ops: Vec<Op>,
    /// For each row, the place of the message that told it; ascending.
    pub from: Vec<usize>,
    /// `(row, column)` pairs, ascending, of updates whose value was not sent because it did not change; as in
    /// [`pipeline::Changes::unchanged`].
    pub unchanged: Vec<(u32, u32)>,
    /// When the last of these was committed at their source, in microseconds since 1970, where messages tell.
    pub commit_time: Option<i64>,
    /// The messages that told nothing that can be read; ascending.
    pub bad: Vec<Bad>,
}

/// Makes what happened to a table of the messages of its topic.
pub trait MessageDecoder: Send {
    /// Decodes messages, in their order.
    ///
    /// # Errors
    /// When none can be decoded now.
    fn decode(&mut self, messages: &[Payload<'_>]) -> Result<Events, FormatError>;
}

#[cfg(test)]
mod tests {
    use super::rounded_micros;

    #[test]
    fn nanoseconds_are_rounded_half_to_even() {
        let cases = [(0, 0), (1499, 1), (1500, 2), (2500, 2), (2501, 3), (-1, 0), (-1500, -2), (-500, 0), (-501, -1)];
        for (nanos, micros) in cases {
            assert_eq!(rounded_micros(nanos), micros, "{nanos}");
        }
    }
}
