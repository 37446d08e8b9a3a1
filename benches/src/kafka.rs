//! `cargo xtask bench kafka`: topics in and out, beside librdkafka by itself.
//!
//! - **Reading** ([`reading`]): a topic of a million messages of some 200 bytes is there; time is counted
//!   until a projection over all of it is served. Beside it, in turn and on the same topic: a bare
//!   consumer that polls and counts.
//! - **Latency** ([`latency`]): single messages at a rate, from before they are handed to the producer
//!   until a WebSocket client has parsed them; beside it a bare consumer that passes each message on
//!   over one WebSocket hop.
//! - **Writing** ([`writing`]): rows as upserts, in transactions and without, beside a bare idempotent
//!   producer of the same messages.

mod latency;
mod messages; // what is in the topics
mod reading;
mod writing;

use std::time::Duration;

use anyhow::Result;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use xtask::kafka::{PrivateKafka, PrivateRegistry};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// All of it, or one part: reading, latency, writing.
pub fn run(part: Option<&str>) -> Result<()> {
    let kafka = PrivateKafka::start()?;
    let bench = Bench { client: config(kafka.bootstrap()), brokers: kafka.bootstrap().to_owned() };
    tokio::runtime::Runtime::new()?.block_on(async {
        let wants = |name: &str| part.is_none_or(|part| part == name);
        if wants("reading") {
            let registry = PrivateRegistry::start()?;
            reading::measure(&bench, &registry).await?;
        }
        if wants("latency") {
            latency::measure(&bench).await?;
        }
        if wants("writing") {
            writing::measure(&bench).await?;
        }
        Ok(())
    })
}

/// A broker, and how to reach it.
struct Bench {
    client: ClientConfig,
    brokers: String,
}

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "none").set("enable.auto.commit", "false");
    config
}

impl Bench {
    async fn make_topic(&self, topic: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client.create()?;
        let wanted = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        admin.create_topics([&wanted], &AdminOptions::new()).await?;
        let consumer: BaseConsumer = self.client.create()?;
        // It is known some time after the answer.
        while consumer.fetch_watermarks(topic, 0, PATIENCE).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn producer(&self, settings: &[(&str, &str)]) -> Result<BaseProducer> {
        let mut config = self.client.clone();
        config.remove("group.id").remove("enable.auto.commit");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        Ok(config.create()?)
    }

    /// Writes messages as fast as librdkafka takes them, and waits until they are there.
    fn fill<'a>(&self, topic: &str, messages: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<()> {
        let producer =
            self.producer(&[("enable.idempotence", "true"), ("linger.ms", "5"), ("compression.type", "lz4")])?;
        for (key, value) in messages {
            send(&producer, topic, key, value)?;
        }
        Ok(producer.flush(PATIENCE)?)
    }
}

fn send(producer: &BaseProducer, topic: &str, key: &[u8], value: &[u8]) -> Result<()> {
    let mut record = BaseRecord::to(topic).key(key).payload(value);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(Duration::from_millis(10));
                record = back;
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// The middle one.
fn median(samples: &[f64]) -> f64 {
    crate::numbers::percentile(samples, 50.0)
}
