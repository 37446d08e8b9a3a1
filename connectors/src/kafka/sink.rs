//! A topic that is kept as a query has it.
//!
//! ```text
//!  events ──► Desk ──► Writer (a thread)
//!                        1. fence whoever wrote before (init_transactions)
//!                        2. read the topic: what each key has there
//!                        3. write what differs from the rows that there are
//!                        4. each epoch in a transaction, with its number beside it
//! ```
//!
//! Step 2 is what makes a restart, and a write whose outcome was never heard of, harmless: what is in
//! the topic is compared, never assumed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use hashbrown::HashMap;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::Offset;

use crate::format::encode::JsonEncoder;
use crate::sink::shape::{Shape, WrittenTopic, envelope};
use crate::sink::{Desk, Encoded, KeyChange, Lies, Pending, Sink, SinkLink, SinkRequest, taking};
use crate::source::{Counters, Problem, SourceState};
use crate::topic::thread::{Stopped, Waiting, on_thread};

use super::client::{ANSWER_TIMEOUT, Cluster, Context};
use super::deliveries::Deliveries;
use super::describe::{Topic, TopicId, describe};
use super::error::{Response, describe as in_words, problem, response_to};
use super::options;
use super::source::is_unknown;
use super::watch::Watch;

/// How long to wait for something to write before looking whether the program ends.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a transaction may take before it is given up and begun anew.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait before what failed is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What a reader of the topic can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// It sees all of an epoch or none, each change once.
    Transactional,
    /// It sees each change at least once, as soon as it is written.
    AtLeastOnce,
}

/// A topic that rows are written to.
pub struct KafkaSink {
    table: String,
    topic: String,
    cluster: Cluster,
    shape: Shape,
    delivery: Delivery,
    transactional_id: String,
    encoder: JsonEncoder,
}

/// Opens a table that rows are written to.
///
/// # Errors
/// With what is wrong with its options.
pub fn open(mut request: SinkRequest) -> Result<Box<dyn Sink>, Problem> {
    let WrittenTopic { topic, shape, encoder } = WrittenTopic::read(&mut request)?;
    let SinkRequest { mut table, project, .. } = request;
    let delivery = match table.options.get("delivery").map(String::as_str) {
        None | Some("transactional") => Delivery::Transactional,
        Some("at_least_once") => Delivery::AtLeastOnce,
        Some(other) => {
            return Err(Problem {
                what: format!("`{other}` is no delivery"),
                table: Some(table.name),
                remedy: "write delivery = 'transactional' or 'at_least_once'".to_owned(),
            });
        }
    };
    // Two that write one topic undo each other's rows, whatever projects they are of: one of them is fenced.
    let given = table.options.get("transactional_id").cloned();
    let transactional_id = given.unwrap_or_else(|| format!("deltafront_{topic}"));
    let cluster = options::cluster(&project, &mut table)?;
    Ok(Box::new(KafkaSink { table: table.name, topic, cluster, shape, delivery, transactional_id, encoder }))
}

impl Sink for KafkaSink {
    fn name(&self) -> &str {
        &self.table
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(async move {
            let look = || match self
                .cluster
                .consumer()
                .and_then(|consumer| describe(&consumer, &self.topic, ANSWER_TIMEOUT))
            {
                Ok(_) => Ok(()),
                Err(error) if is_unknown(&error) => Err(Problem {
                    table: Some(self.table.clone()),
                    what: format!("{} has no topic `{}`", self.cluster.brokers, self.topic),
                    remedy: "make it, with cleanup.policy=compact for a table that is read by its keys".to_owned(),
                }),
                Err(error) => Err(problem(&self.table, &error, &self.cluster.brokers)),
            };
            thread::scope(|scope| scope.spawn(look).join()).unwrap_or(Ok(()))
        })
    }

    fn run(self: Box<Self>, link: SinkLink) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let KafkaSink { topic, cluster, shape, delivery, transactional_id, encoder, .. } = *self;
            let SinkLink { name, events, state, counters } = link;
            let run = format!("{:x}", run_id());
            let desk = Arc::new(Desk::default());
            let of_thread = Arc::clone(&desk);
            let taking = taking(&name, events, Arc::clone(&desk), Box::new(encoder));
            let writing = on_thread(format!("sink {name}"), move |waiting| {
                let mut writer = Writer {
                    name,
                    topic,
                    cluster,
                    shape,
                    delivery,
                    transactional_id,
                    desk: of_thread,
                    state,
                    counters,
                    waiting,
                    run,
                    in_doubt: None,
                    id: None,
                };
                writer.run();
            });
            tokio::select! {
                () = taking => {}
                () = writing => {}
            }
        })
    }
}

/// A number that no other run has.
fn run_id() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    now << 32 | u128::from(std::process::id())
}

/// Why writing by one producer ended.
enum Broken {
    /// The program ends.
    Over,
    /// To be tried again with another producer.
    Retry(String),
    /// An operator is needed.
    Operator { error: String, remedy: &'static str },
}

impl From<Stopped> for Broken {
    fn from(_: Stopped) -> Broken {
        Broken::Over
    }
}

/// What a committed group's offset says beside it: which of our epochs the topic has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Which run of the program wrote it: epochs are counted anew by each.
    pub run: String,
    /// The epoch.
    pub epoch: u64,
}

impl Written {
    fn parse(text: &str) -> Option<Written> {
        let (run, rest) = text.split_once(' ')?;
        let epoch = rest.split(' ').next()?.parse().ok()?;
        Some(Written { run: run.to_owned(), epoch })
    }
}

struct Writer {
    name: Arc<str>,
    topic: String,
    cluster: Cluster,
    shape: Shape,
    delivery: Delivery,
    transactional_id: String,
    desk: Arc<Desk>,
    state: tokio::sync::watch::Sender<SourceState>,
    counters: Arc<Counters>,
    waiting: Waiting,
    /// Tells the transactions of this run from those of others.
    run: String,
    /// What was being written when its producer failed: whether the topic has it, the next one finds out.
    in_doubt: Option<Pending>,
    /// The id that the topic had when it was written first.
    id: Option<TopicId>,
}

impl Writer {
    fn run(&mut self) {
        let mut delay = RETRY.0;
        loop {
            let begun = Instant::now();
            match self.write() {
                Broken::Over => return,
                Broken::Operator { error, remedy } => {
                    tracing::error!(sink = &*self.name, error, remedy, "stopped");
                    self.state.send_replace(SourceState::Stopped { error, remedy: remedy.to_owned() });
                    return;
                }
                Broken::Retry(error) => {
                    tracing::warn!(sink = &*self.name, error, "trying again");
                    self.state.send_replace(SourceState::Retrying { error });
                    if begun.elapsed() > RETRY.1 {
                        delay = RETRY.0;
                    }
                    if self.waiting.sleep(delay).is_err() {
                        return;
                    }
                    delay = (delay * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Writes with one producer, until it is of no use any more.
    fn write(&mut self) -> Broken {
        match self.try_write() {
            Ok(never) => match never {},
            Err(broken) => broken,
        }
    }

    fn try_write(&mut self) -> Result<std::convert::Infallible, Broken> {
        let producer = self.producer().map_err(|error| self.broken(&error))?;
        let mut own_group = self.cluster.clone();
        own_group.properties.insert("group.id".to_owned(), self.transactional_id.clone());
        let consumer = Arc::new(own_group.consumer().map_err(|error| self.broken(&error))?);
        let described = describe(&consumer, &self.topic, ANSWER_TIMEOUT).map_err(|error| self.broken(&error))?;
        self.is_the_same(&described)?;
        if self.delivery == Delivery::Transactional {
            // From here on nobody else can write under this name, and what was half written is gone.
            producer.init_transactions(TRANSACTION_TIMEOUT).map_err(|error| self.broken(&error))?;
        }
        let written = self.last_written(&consumer).map_err(|error| self.broken(&error))?;
        if let Some(in_doubt) = self.in_doubt.take()
            && written.is_none_or(|last| last.run != self.run || last.epoch < in_doubt.epoch.0)
        {
            self.desk.put_back(in_doubt);
        } else {
            self.state.send_replace(SourceState::Streaming);
        }
        let watch = Watch::start(Arc::clone(&consumer), self.topic.clone())
            .map_err(|error| Broken::Retry(error.to_string()))?;
        loop {
            self.waiting.go_on()?;
            match watch.news() {
                Some(Ok(described)) => {
                    self.is_the_same(&described)?;
                    self.set_state(SourceState::Streaming);
                }
                Some(Err(error)) => self.set_state(SourceState::Retrying { error: self.in_words(&error) }),
                None => {}
            }
            let pending = match self.desk.take(PATIENCE) {
                Lies::Work(pending) => pending,
                Lies::Nothing => continue,
                Lies::Held(reason) => {
                    self.set_state(SourceState::Retrying { error: reason });
                    self.waiting.sleep(PATIENCE)?;
                    continue;
                }
                Lies::Over => return Err(Broken::Over),
            };
            if let Err(error) = self.write_epoch(&producer, &consumer, &pending) {
                let broken = self.broken_by(&error, &pending);
                self.in_doubt = Some(pending);
                return Err(broken);
            }
            self.set_state(SourceState::Streaming);
        }
    }

    fn set_state(&self, now: SourceState) {
        self.state.send_if_modified(|state| {
            let is_new = *state != now;
            *state = now;
            is_new
        });
    }

    /// A topic that was deleted and made again has none of what was written, and only what changes would come.
    fn is_the_same(&mut self, described: &Topic) -> Result<(), Broken> {
        let Some(id) = described.id else { return Ok(()) };
        if *self.id.get_or_insert(id) == id {
            return Ok(());
        }
        Err(Broken::Operator {
            error: format!("topic {} was deleted and made again: what had been written to it is gone", self.topic),
            remedy: "restart, which writes all rows again",
        })
    }

    fn in_words(&self, error: &KafkaError) -> String {
        if is_unknown(error) {
            format!("{} has no topic `{}` now", self.cluster.brokers, self.topic)
        } else {
            in_words(error, &self.cluster.brokers)
        }
    }

    /// What could not be written, where that is why.
    fn broken_by(&self, error: &KafkaError, pending: &Pending) -> Broken {
        let size = |key: &Encoded, change: &KeyChange| key.len() + change.new.as_ref().map_or(0, |row| row.len());
        let largest = pending.changes.iter().max_by_key(|(key, change)| size(key, change));
        match (error.rdkafka_error_code(), largest) {
            (Some(RDKafkaErrorCode::MessageSizeTooLarge), Some((key, change))) => Broken::Retry(format!(
                "the row of key {} has {} bytes, more than topic {} takes: raise its max.message.bytes, or leave the row out",
                String::from_utf8_lossy(key),
                size(key, change),
                self.topic
            )),
            _ => self.broken(error),
        }
    }

    fn producer(&self) -> KafkaResult<BaseProducer<Deliveries>> {
        let defaults = [
            ("linger.ms", "5"),
            ("compression.type", "lz4"),
            ("partitioner", "murmur2_random"),
            ("queue.buffering.max.messages", "500000"),
            // What is too large is for the topic to say.
            ("message.max.bytes", "1000000000"),
        ];
        let transactional = [
            ("enable.idempotence", "true"),
            ("transactional.id", self.transactional_id.as_str()),
            ("transaction.timeout.ms", "300000"),
        ];
        let more = match self.delivery {
            Delivery::Transactional => &transactional[..],
            Delivery::AtLeastOnce => &transactional[..1],
        };
        self.cluster.producer(Deliveries::of(&self.cluster), &defaults, more)
    }

    fn broken(&self, error: &KafkaError) -> Broken {
        use RDKafkaErrorCode as Code;
        let code = match error {
            KafkaError::Transaction(error) => Some(error.code()),
            error => error.rdkafka_error_code(),
        };
        if let Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) = code {
            return Broken::Operator {
                error: format!("another program writes to {} as `{}`", self.topic, self.transactional_id),
                remedy: "run one of the two; or give each a transactional_id and a topic of its own. Restart this one to have it take over",
            };
        }
        if let Some(Code::TransactionalIdAuthorizationFailed) = code {
            return Broken::Operator {
                error: in_words(error, &self.cluster.brokers),
                remedy: "let the user write with this transactional id (an ACL), or write delivery = 'at_least_once'",
            };
        }
        match response_to(error) {
            Response::Stop(remedy) => Broken::Operator { error: self.in_words(error), remedy },
            _ => Broken::Retry(self.in_words(error)),
        }
    }

    /// What the last transaction said of itself.
    fn last_written(&self, consumer: &BaseConsumer<Context>) -> KafkaResult<Option<Written>> {
        if self.delivery == Delivery::AtLeastOnce {
            return Ok(None);
        }
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&self.topic, 0);
        let committed = consumer.committed_offsets(asked, ANSWER_TIMEOUT)?;
        let element = committed.find_partition(&self.topic, 0);
        Ok(element.and_then(|element| Written::parse(element.metadata())))
    }

    fn write_epoch(
        &self,
        producer: &BaseProducer<Deliveries>,
        consumer: &BaseConsumer<Context>,
        pending: &Pending,
    ) -> KafkaResult<()> {
        let is_transactional = self.delivery == Delivery::Transactional;
        let there = if pending.is_first { self.read_topic(consumer)? } else { HashMap::new() };
        if is_transactional {
            producer.begin_transaction()?;
        }
        let written = self.send_all(producer, pending, there).and_then(|()| {
            if !is_transactional {
                producer.flush(TRANSACTION_TIMEOUT)?;
                return producer.context().outcome();
            }
            let mut offsets = TopicPartitionList::new();
            let epoch = i64::try_from(pending.epoch.0).unwrap_or(i64::MAX);
            offsets.add_partition_offset(&self.topic, 0, Offset::Offset(epoch))?;
            if let Some(mut element) = offsets.find_partition(&self.topic, 0) {
                element.set_metadata(format!("{} {} deltafront", self.run, pending.epoch));
            }
            if let Some(group) = consumer.group_metadata() {
                producer.send_offsets_to_transaction(&offsets, &group, TRANSACTION_TIMEOUT)?;
            }
            loop {
                match producer.commit_transaction(TRANSACTION_TIMEOUT) {
                    Err(KafkaError::Transaction(error)) if error.is_retriable() => {}
                    committed => return committed,
                }
            }
        });
        if let Err(error) = &written
            && is_transactional
            && !matches!(error, KafkaError::Transaction(error) if error.is_fatal())
        {
            // Whether this succeeds is all the same: the next producer ends what is open.
            let _ = producer.abort_transaction(ANSWER_TIMEOUT);
        }
        written
    }

    /// Writes what is pending, but for what the topic has as it is to be; what it has beside that goes.
    fn send_all(
        &self,
        producer: &BaseProducer<Deliveries>,
        pending: &Pending,
        mut there: HashMap<Encoded, Encoded>,
    ) -> KafkaResult<()> {
        for (key, change) in &pending.changes {
            if pending.is_first {
                let before = there.remove(key);
                if before != change.new {
                    self.send(producer, key, &KeyChange { old: before, new: change.new.clone() }, pending)?;
                }
            } else {
                self.send(producer, key, change, pending)?;
            }
        }
        for (key, before) in there {
            self.send(producer, &key, &KeyChange { old: Some(before), new: None }, pending)?;
        }
        Ok(())
    }

    fn send(
        &self,
        producer: &BaseProducer<Deliveries>,
        key: &[u8],
        change: &KeyChange,
        pending: &Pending,
    ) -> KafkaResult<()> {
        match (self.shape, &change.new) {
            (Shape::Upsert, new) => self.send_message(producer, key, new.as_deref()),
            (Shape::Debezium, new) => {
                let envelope = envelope(&self.name, change, pending);
                self.send_message(producer, key, Some(envelope.as_bytes()))?;
                if new.is_none() { self.send_message(producer, key, None) } else { Ok(()) }
            }
        }
    }

    fn send_message(&self, producer: &BaseProducer<Deliveries>, key: &[u8], value: Option<&[u8]>) -> KafkaResult<()> {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic).key(key);
        record.payload = value;
        super::deliveries::send(producer, record)?;
        self.counters.messages.fetch_add(1, Relaxed);
        self.counters.bytes.fetch_add((key.len() + value.map_or(0, <[u8]>::len)) as u64, Relaxed);
        Ok(())
    }

    /// What each key has in the topic, as those see it who read what is committed.
    fn read_topic(&self, consumer: &BaseConsumer<Context>) -> KafkaResult<HashMap<Encoded, Encoded>> {
        let described = describe(consumer, &self.topic, ANSWER_TIMEOUT)?;
        let mut list = TopicPartitionList::new();
        let mut open = std::collections::BTreeSet::new();
        for &partition in &described.partitions {
            let (begin, end) = consumer.fetch_watermarks(&self.topic, partition, ANSWER_TIMEOUT)?;
            if begin < end {
                list.add_partition_offset(&self.topic, partition, Offset::Offset(begin))?;
                open.insert(partition);
            }
        }
        consumer.assign(&list)?;
        let mut there = HashMap::new();
        let mut heard = Instant::now();
        while !open.is_empty() {
            if self.waiting.go_on().is_err() || heard.elapsed() > TRANSACTION_TIMEOUT {
                return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
            }
            match consumer.poll(PATIENCE) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let Some(key) = message.key() else { continue };
                    match message.payload().and_then(|value| self.shape.row_in(value)) {
                        Some(row) => drop(there.insert(key.into(), row)),
                        None => drop(there.remove(key)),
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                Some(Err(error)) if response_to(&error) != Response::Retry => return Err(error),
                Some(Err(_)) | None => {}
            }
        }
        consumer.unassign()?;
        Ok(there)
    }
}
