//! What a test does to a broker beside the server: topics, and messages in and out.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use serde_json::Value;
use tests::{PATIENCE, Subscriber};
use xtask::kafka::PrivateKafka;

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
        self.flush()
    }

    /// Sends one message, of any bytes or none.
    pub fn send_raw(&self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>) {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
        (record.key, record.payload) = (key, value);
        self.0.send(record).map_err(|(error, _)| error).expect("room");
        self.flush().expect("taken");
    }

    /// Hands over a message of this partition; no value takes its key away.
    pub fn queue_to(&self, topic: &str, partition: i32, key: &str, value: Option<&str>) {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(partition).key(key.as_bytes());
        record.payload = value.map(str::as_bytes);
        assert!(self.0.send(record).is_ok(), "there is room");
    }

    /// Sends one message, and does not wait.
    pub fn queue(&self, topic: &str, key: &str, value: &str) {
        self.0.send(BaseRecord::to(topic).key(key).payload(value)).map_err(|(error, _)| error).expect("room");
        self.0.poll(Duration::ZERO);
    }

    /// Waits until the broker has all messages, or has refused one.
    pub fn flush(&self) -> Result<(), KafkaError> {
        self.0.flush(PATIENCE)?;
        let refused = std::mem::take(&mut *self.0.context().0.lock().expect("nobody panics with it"));
        refused.into_iter().next().map_or(Ok(()), Err)
    }
}

/// Sends one message to a partition.
pub fn send_to(config: &ClientConfig, topic: &str, partition: i32, key: &str, value: &[u8]) -> Result<(), KafkaError> {
    let sender = Sender::new(config.clone().set("message.timeout.ms", "2000"));
    let record: BaseRecord<'_, [u8], [u8]> =
        BaseRecord::to(topic).partition(partition).key(key.as_bytes()).payload(value);
    sender.0.send(record).map_err(|(error, _)| error)?;
    sender.flush()
}

/// The broker of all tests that neither kill it nor set it up their own way. It ends with the last of
/// them.
pub fn broker() -> Arc<PrivateKafka> {
    static SHARED: Mutex<Weak<PrivateKafka>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let kafka = Arc::new(PrivateKafka::start().expect("a broker"));
        *shared = Arc::downgrade(&kafka);
        kafka
    })
}

/// What changes topics.
pub fn admin(config: &ClientConfig) -> AdminClient<DefaultClientContext> {
    config.create().expect("a client")
}

/// Where a partition begins and ends.
pub fn watermarks(config: &ClientConfig, topic: &str, partition: i32) -> (i64, i64) {
    consumer(config).fetch_watermarks(topic, partition, PATIENCE).expect("an answer")
}

/// Waits until a subscriber has these rows, in any order.
pub async fn shows(client: &mut Subscriber, projection: &str, rows: Value) {
    let sorted = |mut rows: Vec<Value>| {
        rows.sort_by_key(Value::to_string);
        rows
    };
    let wanted = sorted(rows.as_array().expect("rows").clone());
    let mut last = Vec::new();
    let waiting = async {
        loop {
            last = sorted(client.rows(projection));
            if last == wanted {
                return;
            }
            client.next().await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(came.is_ok(), "{projection} has {last:?}, not {wanted:?}");
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
