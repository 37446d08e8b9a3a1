//! Writing, and knowing when it has ended.
//!
//! The client's producer writes from tasks of its own, which go on after it was dropped: one that waits
//! for a server writes when the server is back, and an old row would then come after the newer one that
//! was written meanwhile. So whoever writes rows waits for [`Producer::settle`] before it goes on with
//! another.

use std::time::Duration;

use fluvio::{Fluvio, Isolation, RecordKey, TopicProducerConfigBuilder, TopicProducerPool};
use tokio::time::sleep;

use super::client::Cluster;
use super::error::Failure;

/// Records, and bytes of them, that are handed to the producer before it is waited for.
const CHUNK_RECORDS: usize = 4096;
const CHUNK_BYTES: usize = 4 << 20;
/// More than a chunk has: a producer whose queue is full spins until it is not, which nothing can stop.
const QUEUE_BATCHES: usize = 2 * CHUNK_RECORDS;
/// Bytes that are written as one.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes that a row may have. The topic's own limit may be lower.
const RECORD_BYTES_MAX: usize = 16 << 20;
/// How long to wait for more before something is written.
const LINGER: Duration = Duration::from_millis(5);
/// How long replicas may take to have what is written.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before a server that failed is asked again.
const RETRY: Duration = Duration::from_millis(100);

/// Writes to a topic.
pub struct Producer {
    producer: TopicProducerPool,
    /// Tells the producer who leads a partition.
    _client: Fluvio,
}

impl Producer {
    /// With connections of its own.
    ///
    /// # Errors
    /// When nobody answers, or there is no such topic.
    pub async fn open(cluster: &Cluster, topic: &str) -> Result<Producer, Failure> {
        let client = cluster.connect().await?;
        let config = TopicProducerConfigBuilder::default()
            .batch_size(BATCH_BYTES)
            .max_request_size(RECORD_BYTES_MAX)
            .batch_queue_size(QUEUE_BATCHES)
            .linger(LINGER)
            .isolation(Isolation::ReadCommitted)
            .timeout(REPLICAS_TIMEOUT)
            .build()
            .map_err(|error| Failure::of(&error))?;
        let producer = client.topic_producer_with_config(topic, config).await.map_err(|error| Failure::of(&*error))?;
        Ok(Producer { producer, _client: client })
    }

    /// Writes keys and values, of each key in their order. All are there when this answers.
    ///
    /// # Errors
    /// When some may not be there. Until [`Producer::settle`] has answered some may still come to be.
    pub async fn write<'a>(
        &self,
        records: impl IntoIterator<Item = (Option<&'a [u8]>, &'a [u8])>,
    ) -> Result<(), Failure> {
        let mut under_way = Vec::new();
        let mut bytes = 0;
        let mut records = records.into_iter().peekable();
        while let Some((key, value)) = records.next() {
            bytes += value.len() + key.map_or(0, <[u8]>::len);
            let key = key.map_or(RecordKey::NULL, RecordKey::from);
            under_way.push(self.producer.send(key, value).await.map_err(|error| Failure::of(&*error))?);
            if under_way.len() == CHUNK_RECORDS || bytes >= CHUNK_BYTES || records.peek().is_none() {
                self.producer.flush().await.map_err(|error| Failure::of(&*error))?;
                // A server's refusal is told here, and nowhere else.
                for output in under_way.drain(..) {
                    output.wait().await.map_err(|error| Failure::of(&error))?;
                }
                bytes = 0;
            }
        }
        Ok(())
    }

    /// Answers when nothing is under way any more, however long its server is gone.
    pub async fn settle(&self) {
        loop {
            self.producer.clear_errors().await;
            if self.producer.flush().await.is_ok() {
                return;
            }
            sleep(RETRY).await;
        }
    }
}
