//! Letters as messages of a topic: key and value as they came, the reason in headers, by the names
//! that Kafka Connect gives them.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::dead_letters::{DeadLetter, DeadLetterWriter};

use super::client::Cluster;
use super::deliveries::{self, Deliveries};
use super::error::describe;

/// How long a broker may take, a part of the time that a program has to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of a letter that its topic does not take: its key and value up to so many bytes, and none of its headers.
const CUT: usize = 4 << 10;
/// Says of a letter that it was cut, and how long it was.
const CUT_HEADER: &str = "__deltafront.cut";

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

    /// Cut letters are for a topic that has not taken them whole.
    fn try_write(&mut self, letters: &[&DeadLetter], are_cut: bool) -> Result<(), KafkaError> {
        let producer = match &self.producer {
            Some(producer) => producer,
            None => {
                let timeout = PATIENCE.as_millis().to_string();
                let more = [
                    ("enable.idempotence", "true"),
                    ("delivery.timeout.ms", timeout.as_str()),
                    // What is too large is for the topic to say.
                    ("message.max.bytes", "1000000000"),
                ];
                self.producer.insert(self.cluster.producer(
                    Deliveries::of(&self.cluster),
                    &[("linger.ms", "5")],
                    &more,
                )?)
            }
        };
        for letter in letters {
            let mut headers = OwnedHeaders::new();
            let is_cut = are_cut && letter.bytes() > CUT;
            for (key, value) in letter.headers.iter().filter(|_| !is_cut) {
                headers = headers.insert(Header { key, value: value.as_ref() });
            }
            if is_cut {
                let said = format!("{} bytes, of which {CUT} of key and value each are here", letter.bytes());
                headers = headers.insert(Header { key: CUT_HEADER, value: Some(&said) });
            }
            let part = |bytes: &'_ Vec<u8>| if is_cut { bytes.len().min(CUT) } else { bytes.len() };
            for (key, value) in letter.context() {
                headers = headers.insert(Header { key, value: Some(&value) });
            }
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic).headers(headers);
            record.key = letter.key.as_ref().map(|key| &key[..part(key)]);
            record.payload = letter.value.as_ref().map(|value| &value[..part(value)]);
            deliveries::send(producer, record)?;
        }
        producer.flush(PATIENCE * 2)?;
        producer.context().outcome()
    }
}

impl DeadLetterWriter for TopicWriter {
    fn write(&mut self, letters: &[&DeadLetter]) -> Result<(), String> {
        let written = match self.try_write(letters, false) {
            // It would be in the way for ever.
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                tracing::warn!(topic = self.topic, "dead letters are larger than their topic takes: written cut");
                self.try_write(letters, true)
            }
            written => written,
        };
        written.map_err(|error| {
            self.producer = None;
            let why = describe(&error, &self.cluster.brokers);
            format!("can't write dead letters to the topic {}: {why}", self.topic)
        })
    }
}
