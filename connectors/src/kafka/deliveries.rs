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
