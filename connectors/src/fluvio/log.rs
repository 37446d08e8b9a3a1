//! What is asked of a topic, by whoever reads it.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::error::Failure;

/// A record as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number in the partition.
    pub offset: i64,
    /// When it was written, in milliseconds since 1970-01-01 UTC, as its producer says.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; a log has no record without one, and an empty one stands for that.
    pub value: Bytes,
}

impl Record {
    /// Bytes of its key and value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.value.len() + self.key.as_ref().map_or(0, Bytes::len)
    }
}

/// Records that were written together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The offset of the first.
    pub first: i64,
    /// How many its writer says there are. An answer may end before the last of them: then `records`
    /// has fewer, and nothing else tells.
    pub count: usize,
    /// They, in their order.
    pub records: Vec<Record>,
}

/// A partition as the cluster's controller has it, which may be a little behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub id: i32,
    /// The offset of the oldest record that there is.
    pub begin: i64,
    /// Where it ends; `None` when the controller does not know.
    pub end: Option<End>,
    /// Whether there is somebody to read it from.
    pub is_online: bool,
}

/// Where a partition ends: offsets of what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// To whoever reads.
    pub readable: i64,
    /// In the log. What stands between has not come to all replicas, or its server has been started
    /// again and has forgotten that it did.
    pub written: i64,
}

/// What comes of a partition. It may begin before the offset that was asked for, with the run that
/// has it, and may leave records out: whoever reads has to look.
pub type Runs = BoxStream<'static, Result<Run, Failure>>;

/// A topic.
pub trait Log: Send + Sync {
    /// Its partitions, ascending.
    fn describe(&self) -> BoxFuture<'_, Result<Vec<Partition>, Failure>>;

    /// Reads a partition from an offset on. An answer has about so many bytes at most.
    fn open(&self, partition: i32, from: i64, bytes_max: i32) -> BoxFuture<'_, Result<Runs, Failure>>;
}
