//! Letters as messages of a topic: key and value as they came, the reason in headers, by the names
//! that Kafka Connect gives them.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::dead_letters::{DeadLetter, DeadLetterWriter};

use super::client::{ANSWER_TIMEOUT, Cluster, Context};
use super::error::describe;

/// Writes letters to a topic of the cluster that they came from.
pub struct TopicWriter {
    cluster: Cluster,
    topic: String,
    producer: Option<BaseProducer<Deliveries>>,
}

/// What became of what was written.
#[derive(Clone)]
struct Deliveries {
    context: Context,
    failed: Arc<Mutex<Option<KafkaError>>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        }
    }
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
                let context = Deliveries { context: Context::of(&self.cluster), failed: Arc::default() };
                let more = [("enable.idempotence", "true"), ("delivery.timeout.ms", "30000")];
                self.producer.insert(self.cluster.producer(context, &[("linger.ms", "5")], &more)?)
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
            let mut waiting = record;
            loop {
                match producer.send(waiting) {
                    Ok(()) => break,
                    Err((error, record))
                        if error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull) =>
                    {
                        producer.poll(ANSWER_TIMEOUT);
                        waiting = record;
                    }
                    Err((error, _)) => return Err(error),
                }
            }
            producer.poll(std::time::Duration::ZERO);
        }
        producer.flush(ANSWER_TIMEOUT * 3)?;
        match producer.context().failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
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
