//! Letters as records of a topic. A record has no headers, so the reason stands in the value, with the
//! message as it came: a line of JSON, as in a file. The key is the message's.

use tokio::runtime::Handle;

use crate::dead_letters::{DeadLetter, DeadLetterWriter};

use super::client::Cluster;
use super::error::Failure;
use super::produce::Producer;

/// Writes letters to a topic of the cluster that they came from.
pub struct TopicWriter {
    cluster: Cluster,
    topic: String,
    runtime: Handle,
    producer: Option<Producer>,
}

impl TopicWriter {
    /// To this topic. The runtime is waited for by whoever writes.
    #[must_use]
    pub fn new(cluster: Cluster, topic: String, runtime: Handle) -> TopicWriter {
        TopicWriter { cluster, topic, runtime, producer: None }
    }

    async fn try_write(&mut self, letters: &[&DeadLetter]) -> Result<(), Failure> {
        let producer = match &self.producer {
            Some(producer) => producer,
            None => self.producer.insert(Producer::open(&self.cluster, &self.topic).await?),
        };
        let records: Vec<_> = letters.iter().map(|letter| (letter.key.as_deref(), letter.to_json())).collect();
        producer.write(records.iter().map(|(key, line)| (*key, line.as_bytes()))).await
    }
}

impl DeadLetterWriter for TopicWriter {
    fn write(&mut self, letters: &[&DeadLetter]) -> Result<(), String> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.try_write(letters)).map_err(|failure| {
            self.producer = None;
            format!("can't write dead letters to the topic {}: {failure}", self.topic)
        })
    }
}
