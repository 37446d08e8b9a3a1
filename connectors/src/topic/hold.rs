//! Where messages wait for others before they go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Message, TopicPartition};

/// A message that can be kept.
pub trait Held {
    /// The message.
    fn view(&self) -> Message<'_>;
}

/// Where messages of several partitions wait for others.
pub trait Hold<M>: Send {
    /// A partition is read.
    fn begin(&mut self, partition: TopicPartition);

    /// Takes a message, of each partition in order.
    ///
    /// # Errors
    /// When it is of the topic of transactions and tells of none.
    fn take(&mut self, message: M) -> Result<(), NoBoundary>;

    /// A partition is read to where it ends now.
    fn at_end(&mut self, partition: TopicPartition);

    /// Whether a partition had better not be read for a while, since what it has waits for others.
    fn is_full(&self, partition: TopicPartition) -> bool;

    /// What can go on now, up to about so many messages; nothing if nothing can. To be asked again and again, also
    /// while no messages come: `now` says how long none did.
    fn next(&mut self, at_most: usize, now: Instant) -> Whole<M>;

    /// Partitions that are read to where they end now, and of which nothing is held.
    fn empty_at_end(&self) -> Vec<TopicPartition>;

    /// What there was at the start has been read.
    fn backlog_is_read(&mut self) {}

    /// Forgets what is held: it will be read again, since it did not go on.
    fn clear(&mut self);

    /// What has been waited for, for long enough to say so.
    fn waits_for(&self) -> Option<String> {
        None
    }
}

/// A message of the topic of transactions that tells of none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("message {offset} of {topic} tells of no transaction: {reason}")]
pub struct NoBoundary {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its number in the partition.
    pub offset: i64,
    /// What is wrong with it.
    pub reason: String,
}

/// What goes on at once.
#[derive(Debug)]
pub struct Whole<M> {
    /// Whole transactions, and messages of none; of each partition in order.
    pub messages: Vec<M>,
    /// Messages that were passed over, since they had gone on before: where their partitions go on.
    pub passed: BTreeMap<TopicPartition, i64>,
}

impl<M> Default for Whole<M> {
    fn default() -> Whole<M> {
        Whole { messages: Vec::new(), passed: BTreeMap::new() }
    }
}
