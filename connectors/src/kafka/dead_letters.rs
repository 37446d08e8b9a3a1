//! Letters as messages of a topic: key and value as they came, the reason in headers, by the names
//! that Kafka Connect gives them.

use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::dead_letters::{DeadLetter, DeadLetterWriter};

use super::client::{ANSWER_TIMEOUT, Cluster};
use super::deliveries::{self, Deliveries};
use super::error::describe;

/// Writes letters to a topic of the cluster that they came from.
pub struct TopicWriter {
    cluster: Cluster,
    topic: String,
    producer: Option<BaseProducer<Deliveries>>,
}

impl TopicWriter {
    /// To this topic.
    #[must_use]
    pub fn new(cluster: Cluster, topic: String) -> TopicWriter {
        TopicWriter { cluster, topic, producer: None }
    }

    fn try_write(&mut self, letters: &[&DeadLetter]) -> Result<(), KafkaError> {
        let producer = match &self.producer {
            Some(producer) => producer,
            None => {
                let more = [("enable.idempotence", "true"), ("delivery.timeout.ms", "30000")];
                self.producer.insert(self.cluster.producer(
                    Deliveries::of(&self.cluster),
                    &[("linger.ms", "5")],
                    &more,
                )?)
            }
        };
        for letter in letters {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &letter.headers {
                headers = headers.insert(Header { key, value: value.as_ref() });
            }
            for (key, value) in letter.context() {
                headers = headers.insert(Header { key, value: Some(&value) });
            }
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic).headers(headers);
            record.key = letter.key.as_deref();
            record.payload = letter.value.as_deref();
            deliveries::send(producer, record)?;
        }
        producer.flush(ANSWER_TIMEOUT * 3)?;
        producer.context().outcome()
    }
}

impl DeadLetterWriter for TopicWriter {
    fn write(&mut self, letters: &[&DeadLetter]) -> Result<(), String> {
        self.try_write(letters).map_err(|error| {
            self.producer = None;
            let why = describe(&error, &self.cluster.brokers);
            format!("can't write dead letters to the topic {}: {why}", self.topic)
        })
    }
}
