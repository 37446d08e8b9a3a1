//! What became of what was written.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, ProducerContext};

use super::client::{Cluster, Context};

/// How long to wait for room, each time.
const PATIENCE: Duration = Duration::from_millis(100);

/// Hears of each message whether it is there.
pub struct Deliveries {
    context: Context,
    failed: Mutex<Option<KafkaError>>,
}

impl Deliveries {
    /// Of a client of this cluster.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Deliveries {
        Deliveries { context: Context::of(cluster), failed: Mutex::new(None) }
    }

    /// Whether all that was written since this was last asked is there.
    ///
    /// # Errors
    /// With why one of them is not.
    pub fn outcome(&self) -> KafkaResult<()> {
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.context.generate_oauth_token(config)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
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

/// Hands a message to the producer, when it has room for it.
///
/// # Errors
/// When it does not take it, or another one before it has failed.
pub fn send(producer: &BaseProducer<Deliveries>, record: BaseRecord<'_, [u8], [u8]>) -> KafkaResult<()> {
    let mut waiting = record;
    loop {
        match producer.send(waiting) {
            Ok(()) => return Ok(()),
            Err((error, record)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                producer.poll(PATIENCE);
                waiting = record;
            }
            Err((error, _)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::producer::Producer;

    /// A producer whose broker is nowhere: what it takes has failed soon after.
    fn producer(more: &[(&str, &str)]) -> BaseProducer<Deliveries> {
        let cluster = Cluster { brokers: "127.0.0.1:1".to_owned(), properties: [].into() };
        let all = [&[("message.timeout.ms", "300")], more].concat();
        cluster.producer(Deliveries::of(&cluster), &[], &all).expect("librdkafka takes it")
    }

    fn record(topic: &str) -> BaseRecord<'_, [u8], [u8]> {
        BaseRecord::to(topic).key(&b"k"[..]).payload(&b"v"[..])
    }

    #[test]
    fn a_message_that_is_not_there_is_told_once() {
        let producer = producer(&[]);
        let deliveries = producer.context();
        assert!(deliveries.outcome().is_ok(), "nothing was written");
        send(&producer, record("t")).expect("it takes it");
        assert!(deliveries.outcome().is_ok(), "nobody knows yet");
        producer.flush(Duration::from_secs(10)).expect("it is given up");
        let error = deliveries.outcome().expect_err("no broker has it");
        assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::MessageTimedOut));
        assert!(deliveries.outcome().is_ok(), "that was told");
    }

    #[test]
    fn a_full_queue_is_waited_for_and_what_is_refused_is_not() {
        let producer = producer(&[("queue.buffering.max.messages", "1"), ("message.max.bytes", "1000")]);
        send(&producer, record("t")).expect("it takes the first");
        send(&producer, record("t")).expect("it takes the second when the first is gone");
        let refused = send(&producer, record("t").payload(&[0; 2000])).expect_err("it is too large");
        assert_eq!(refused.rdkafka_error_code(), Some(RDKafkaErrorCode::MessageSizeTooLarge));
    }
}
