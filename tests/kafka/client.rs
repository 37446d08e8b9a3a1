//! What a test does to a broker beside the server: topics, and messages in and out.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tests::PATIENCE;

/// A client's settings, for everyone's listener.
pub fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

/// A name that no other test has: the broker may be one that tests share.
pub fn unique(name: &str) -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed))
}

/// Makes a topic, with settings such as `("cleanup.policy", "compact")`, and waits until the broker knows it, which is
/// some time after it has answered.
pub async fn create_topic(config: &ClientConfig, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = config.create().expect("a client");
    let mut wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (name, value) in settings {
        wanted = wanted.set(name, value);
    }
    let made = admin.create_topics([&wanted], &AdminOptions::new()).await.expect("an answer");
    assert_eq!(made, [Ok(topic.to_owned())]);
    let consumer = consumer(config);
    let started = Instant::now();
    for partition in 0..partitions {
        while let Err(error) = consumer.fetch_watermarks(topic, partition, PATIENCE) {
            assert!(started.elapsed() < PATIENCE, "{topic} is not known: {error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A producer that remembers which messages were not taken.
pub struct Sender(BaseProducer<Refusals>);

#[derive(Default)]
struct Refusals(Mutex<Vec<KafkaError>>);

impl ClientContext for Refusals {}

impl ProducerContext for Refusals {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().expect("nobody panics with it").push(error.clone());
        }
    }
}

impl Sender {
    pub fn new(config: &ClientConfig) -> Sender {
        Sender(config.create_with_context(Refusals::default()).expect("a producer"))
    }

    /// Sends messages, key and value, and waits until the broker has them, or has refused one.
    pub fn send(&self, topic: &str, messages: &[(&str, &str)]) -> Result<(), KafkaError> {
        for (key, value) in messages {
            self.0.send(BaseRecord::to(topic).key(*key).payload(*value)).map_err(|(error, _)| error)?;
        }
        self.0.flush(PATIENCE)?;
        let refused = std::mem::take(&mut *self.0.context().0.lock().expect("nobody panics with it"));
        refused.into_iter().next().map_or(Ok(()), Err)
    }
}

/// A consumer that commits nothing and is in no group, whatever its setting says.
pub fn consumer(config: &ClientConfig) -> BaseConsumer {
    config.clone().set("group.id", "none").set("enable.auto.commit", "false").create().expect("a consumer")
}

/// The first messages of a topic's partition 0.
pub fn first_messages(config: &ClientConfig, topic: &str, count: usize) -> Vec<OwnedMessage> {
    let consumer = consumer(config);
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&assignment).expect("an assignment");
    let mut messages = Vec::new();
    let started = Instant::now();
    while messages.len() < count {
        assert!(started.elapsed() < PATIENCE, "{} of {count} messages of {topic} came", messages.len());
        // A broker that starts, or a topic that is new, passes.
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            messages.push(message.detach());
        }
    }
    messages
}

/// A message's value as text.
pub fn text(message: &OwnedMessage) -> &str {
    message.payload_view::<str>().expect("a value").expect("UTF-8")
}
