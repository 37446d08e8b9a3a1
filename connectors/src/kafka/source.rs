//! One topic: read it, and again after a loss.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use pipeline::Mark;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::Offset;

use crate::dead_letters::{DeadLetterFile, DeadLetterWriter};
use crate::format::Payload;
use crate::source::{Link, Problem, Source, SourceState, SourceTable};
use crate::topic::options::{DeadLettersTo, OnDataLoss, Start, TopicRequest};
use crate::topic::pump::{Halt, Pump};
use crate::topic::thread::{Stopped, on_thread};
use crate::topic::{Headers, Message, TopicReader, TopicTable};

use super::client::{ANSWER_TIMEOUT, Cluster, Context};
use super::dead_letters::TopicWriter;
use super::describe::{Topic, TopicId, describe};
use super::error::{Response, describe as in_words, problem, response_to};
use super::watch::Watch;

/// How long to wait for a message before looking at what else there is to do.
const POLL: Duration = Duration::from_millis(100);
/// Messages, and bytes of them, that are read at a time. Fewer when no more have come.
const BATCH_MESSAGES: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;
/// How often offsets are committed for those who look at the group.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait before what failed is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A topic of a cluster, and the tables that it is read into.
pub struct KafkaTopic {
    name: String,
    cluster: Cluster,
    requests: Vec<TopicRequest>,
    tables: Vec<TopicTable>,
}

impl KafkaTopic {
    /// A topic with the first of its tables.
    #[must_use]
    pub fn new(name: String, cluster: Cluster, request: TopicRequest) -> KafkaTopic {
        KafkaTopic { name, cluster, requests: vec![request], tables: Vec::new() }
    }

    /// Whether a table is read with those that it has: the same topic, from the same place.
    #[must_use]
    pub fn reads_with(&self, cluster: &Cluster, name: &str, request: &TopicRequest) -> bool {
        let first = &self.requests[0];
        self.cluster == *cluster
            && self.name == name
            && (&first.topic, first.start, first.on_data_loss) == (&request.topic, request.start, request.on_data_loss)
    }

    /// Reads the topic into this table too.
    pub fn add(&mut self, request: TopicRequest) {
        self.requests.push(request);
    }

    fn look(&mut self) -> Result<Vec<SourceTable>, Vec<Problem>> {
        let first = &self.requests[0];
        let brokers = self.cluster.brokers.clone();
        let found = self.cluster.consumer().and_then(|consumer| {
            describe(&consumer, &first.topic, ANSWER_TIMEOUT).map_err(|error| self.cluster.why(&consumer, error))
        });
        match found {
            Ok(_) => {}
            Err(error) if is_unknown(&error) => {
                let what = format!("{brokers} has no topic `{}`", first.topic);
                let remedy = "make the topic, or check its name".to_owned();
                return Err(vec![Problem { table: Some(first.name.clone()), what, remedy }]);
            }
            Err(error) => return Err(vec![problem(&first.name, &error, &brokers)]),
        }
        let mut problems = Vec::new();
        for request in &self.requests {
            match request.open() {
                Ok(table) => self.tables.push(table),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() {
            Ok(self.tables.iter().map(|table| table.table.clone()).collect())
        } else {
            Err(problems)
        }
    }
}

pub(super) fn is_unknown(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
    )
}

impl Source for KafkaTopic {
    fn name(&self) -> &str {
        &self.name
    }

    fn table_names(&self) -> Vec<&str> {
        self.requests.iter().map(|request| request.name.as_str()).collect()
    }

    fn declared(&self) -> Vec<Option<SourceTable>> {
        self.requests.iter().map(TopicRequest::declared).collect()
    }

    fn discover(&mut self) -> BoxFuture<'_, Result<Vec<SourceTable>, Vec<Problem>>> {
        Box::pin(async move {
            // Asking blocks; whoever else is looked for goes on.
            std::thread::scope(|scope| scope.spawn(|| self.look()).join()).unwrap_or_else(|_| Err(Vec::new()))
        })
    }

    fn run(self: Box<Self>, link: Link) -> BoxFuture<'static, ()> {
        let name = format!("kafka {}", self.name);
        on_thread(name, move |waiting| {
            let KafkaTopic { cluster, requests, tables, .. } = *self;
            let writers = requests.iter().map(|request| writer(&cluster, request)).collect();
            let first = &requests[0];
            let reader = TopicReader::new(first.topic.as_str().into(), tables);
            let pump = Pump::new(reader, writers, link, waiting);
            let (start, on_data_loss) = (first.start, first.on_data_loss);
            let mut reading = Reading { cluster, start, on_data_loss, pump, id: None, committed: None };
            match reading.run() {
                End::Stopped => {}
                End::Operator { error, remedy } => {
                    tracing::error!(source = &*reading.pump.link.name, error, remedy, "stopped");
                    reading.pump.set_state(SourceState::Stopped { error, remedy });
                }
            }
        })
    }
}

fn writer(cluster: &Cluster, request: &TopicRequest) -> Option<Box<dyn DeadLetterWriter>> {
    Some(match request.dead_letters.clone()? {
        DeadLettersTo::File(path) => Box::new(DeadLetterFile::new(path)),
        DeadLettersTo::Topic(topic) => Box::new(TopicWriter::new(cluster.clone(), topic)),
    })
}

/// Why reading ended for good.
enum End {
    Stopped,
    Operator { error: String, remedy: String },
}

/// Why reading by one client ended.
enum Broken {
    End(End),
    /// To be tried again with another client.
    Retry(String),
}

impl From<Stopped> for Broken {
    fn from(_: Stopped) -> Broken {
        Broken::End(End::Stopped)
    }
}

/// A topic while it is read.
struct Reading {
    cluster: Cluster,
    start: Start,
    on_data_loss: OnDataLoss,
    pump: Pump,
    /// The id that the topic had when its first message was read.
    id: Option<TopicId>,
    committed: Option<(Instant, Mark)>,
}

impl Reading {
    fn run(&mut self) -> End {
        let mut delay = RETRY.0;
        loop {
            let begun = Instant::now();
            let error = match self.read() {
                Broken::End(end) => return end,
                Broken::Retry(error) => error,
            };
            tracing::warn!(source = &*self.pump.link.name, error, "trying again");
            self.pump.set_state(SourceState::Retrying { error });
            if begun.elapsed() > RETRY.1 {
                delay = RETRY.0;
            }
            if self.pump.waiting.sleep(delay).is_err() {
                return End::Stopped;
            }
            delay = (delay * 2).min(RETRY.1);
        }
    }

    /// Reads with one client, until it is of no use any more.
    fn read(&mut self) -> Broken {
        match self.try_read() {
            Ok(never) => match never {},
            Err(broken) => broken,
        }
    }

    fn try_read(&mut self) -> Result<std::convert::Infallible, Broken> {
        let consumer = self.cluster.consumer().map_err(|error| self.broken(&error))?;
        let consumer = Arc::new(consumer);
        let topic = self.pump.reader.topic().to_string();
        let described = describe(&consumer, &topic, ANSWER_TIMEOUT)
            .map_err(|error| self.broken(&self.cluster.why(&consumer, error)))?;
        self.is_the_same(&described)?;
        self.assign(&consumer, &described.partitions)?;
        self.pump.tell_loaded()?;
        self.pump.set_well();
        let watch = Watch::start(Arc::clone(&consumer), topic).map_err(|error| Broken::Retry(error.to_string()))?;
        loop {
            self.pump.waiting.go_on()?;
            self.take_batch(&consumer, &watch)?;
            match watch.news() {
                Some(Ok(described)) => {
                    self.is_the_same(&described)?;
                    self.assign(&consumer, &described.partitions)?;
                    self.pump.set_well();
                    self.count_lag(&watch);
                }
                Some(Err(error)) => self.pump.set_state(SourceState::Retrying { error: self.in_words(&error) }),
                None => {}
            }
            self.commit(&consumer);
        }
    }

    /// Reads what has come, up to a batch; waits a little if nothing has.
    fn take_batch(&mut self, consumer: &BaseConsumer<Context>, watch: &Watch) -> Result<(), Broken> {
        let mut messages: Vec<BorrowedMessage<'_>> = Vec::new();
        let mut bytes = 0;
        let mut patience = POLL;
        let mut at_end = Vec::new();
        let mut failed = None;
        while messages.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            match consumer.poll(patience) {
                Some(Ok(message)) => {
                    bytes += message.payload_len() + message.key_len();
                    messages.push(message);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => at_end.push(partition),
                Some(Err(error)) => {
                    failed = Some(error);
                    break;
                }
                None => break,
            }
            patience = Duration::ZERO;
        }
        if !messages.is_empty() {
            let views: Vec<Message<'_>> = messages.iter().map(view).collect();
            match self.pump.take(&views) {
                Ok(()) => {}
                Err(Halt::Stopped) => return Err(Broken::End(End::Stopped)),
                Err(Halt::Unreadable(error)) => {
                    let remedy = "see to the message or to the table's columns, or write on_error = 'dead_letter' to go on without it; then restart".to_owned();
                    return Err(Broken::End(End::Operator { error, remedy }));
                }
                Err(Halt::Internal(error)) => {
                    let remedy = "please report this with the log".to_owned();
                    return Err(Broken::End(End::Operator { error, remedy }));
                }
            }
        }
        for partition in at_end {
            self.pump.at_end(partition)?;
            self.pump.set_well();
        }
        let Some(error) = failed else { return Ok(()) };
        match response_to(&error) {
            Response::Retry => {
                watch.look_now();
                self.pump.set_state(SourceState::Retrying { error: self.in_words(&error) });
                Ok(())
            }
            Response::Renew => Err(Broken::Retry(self.in_words(&error))),
            Response::Stop(remedy) => {
                Err(Broken::End(End::Operator { error: self.in_words(&error), remedy: remedy.to_owned() }))
            }
            Response::Lost => self.find_again(consumer),
        }
    }

    fn in_words(&self, error: &KafkaError) -> String {
        if is_unknown(error) {
            format!("{} has no topic `{}` now", self.cluster.brokers, self.pump.reader.topic())
        } else {
            in_words(error, &self.cluster.brokers)
        }
    }

    fn broken(&self, error: &KafkaError) -> Broken {
        match response_to(error) {
            Response::Stop(remedy) => {
                Broken::End(End::Operator { error: self.in_words(error), remedy: remedy.to_owned() })
            }
            _ => Broken::Retry(self.in_words(error)),
        }
    }

    /// A topic that was deleted and made again has other messages under the same offsets.
    fn is_the_same(&mut self, described: &Topic) -> Result<(), Broken> {
        let Some(id) = described.id else { return Ok(()) };
        let before = *self.id.get_or_insert(id);
        if before == id {
            return Ok(());
        }
        self.lost(&format!(
            "topic {} was deleted and made again (what came of the new one before this was noticed is read again)",
            self.pump.reader.topic()
        ))?;
        self.id = Some(id);
        self.start = if self.on_data_loss == OnDataLoss::Latest { Start::Latest } else { Start::Earliest };
        for partition in self.pump.reader.next().keys().copied().collect::<Vec<_>>() {
            self.pump.reader.forget(partition);
        }
        Err(Broken::Retry("the topic is another one".to_owned()))
    }

    /// Messages that were to be read are not there. Whether we go on is for the project to say.
    fn lost(&self, what: &str) -> Result<(), Broken> {
        match self.on_data_loss {
            OnDataLoss::Stop => {
                let remedy = "restart to read the topic from where it begins now; on_data_loss = 'earliest' or 'latest' goes on by itself".to_owned();
                Err(Broken::End(End::Operator { error: what.to_owned(), remedy }))
            }
            OnDataLoss::Earliest | OnDataLoss::Latest => {
                tracing::warn!(source = &*self.pump.link.name, "{what}; going on as on_data_loss says");
                Ok(())
            }
        }
    }

    /// Reads partitions that are not read yet.
    fn assign(&mut self, consumer: &BaseConsumer<Context>, partitions: &[i32]) -> Result<(), Broken> {
        let assigned: BTreeSet<i32> = match consumer.assignment() {
            Ok(assigned) => assigned.elements().iter().map(|element| element.partition()).collect(),
            Err(error) => return Err(self.broken(&error)),
        };
        let new: Vec<i32> = partitions.iter().copied().filter(|partition| !assigned.contains(partition)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let topic = Arc::clone(self.pump.reader.topic());
        let first_time = self.pump.reader.next().is_empty();
        if first_time {
            self.read_committed(consumer, &new);
        }
        let mut list = TopicPartitionList::new();
        for partition in new {
            let (begin, end) =
                consumer.fetch_watermarks(&topic, partition, ANSWER_TIMEOUT).map_err(|error| self.broken(&error))?;
            let offset = match self.pump.reader.next().get(&partition) {
                Some(next) => *next,
                None => {
                    // What came to be while we were reading is read whole.
                    let start = if first_time { self.start_of(consumer, partition, begin, end)? } else { begin };
                    self.pump.begin(partition, start, end);
                    if !first_time {
                        tracing::info!(source = &*self.pump.link.name, partition, "a new partition");
                    }
                    start
                }
            };
            list.add_partition_offset(&topic, partition, Offset::Offset(offset))
                .map_err(|error| self.broken(&error))?;
        }
        consumer.incremental_assign(&list).map_err(|error| self.broken(&error))
    }

    fn start_of(&self, consumer: &BaseConsumer<Context>, partition: i32, begin: i64, end: i64) -> Result<i64, Broken> {
        let millis = match self.start {
            Start::Earliest => return Ok(begin),
            Start::Latest => return Ok(end),
            Start::Timestamp(millis) => millis,
        };
        let topic = self.pump.reader.topic();
        let mut asked = TopicPartitionList::new();
        let found = asked
            .add_partition_offset(topic, partition, Offset::Offset(millis))
            .and_then(|()| consumer.offsets_for_times(asked, ANSWER_TIMEOUT))
            .map_err(|error| self.broken(&error))?;
        Ok(match found.find_partition(topic, partition).map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => offset,
            // None is as new.
            _ => end,
        })
    }

    /// Our place is no place of the log any more: which partition, and why.
    fn find_again(&mut self, consumer: &BaseConsumer<Context>) -> Result<(), Broken> {
        let topic = Arc::clone(self.pump.reader.topic());
        let described = describe(consumer, &topic, ANSWER_TIMEOUT).map_err(|error| self.broken(&error))?;
        self.is_the_same(&described)?;
        let places: BTreeMap<i32, i64> = self.pump.reader.next().clone();
        for (partition, next) in places {
            let (begin, end) =
                consumer.fetch_watermarks(&topic, partition, ANSWER_TIMEOUT).map_err(|error| self.broken(&error))?;
            if next < begin {
                self.lost(&format!(
                    "messages {next} to {} of partition {partition} of {topic} were deleted before they were read",
                    begin - 1
                ))?;
            } else if next > end {
                self.lost(&format!(
                    "partition {partition} of {topic} ends at {end}, and was read up to {next}: its broker has lost messages, or the topic was made again"
                ))?;
            } else {
                continue;
            }
            self.pump.reader.start_at(partition, if self.on_data_loss == OnDataLoss::Latest { end } else { begin });
        }
        Err(Broken::Retry(format!("looking for the place in {topic} again")))
    }

    /// How far an earlier run had come, of which dead letters have been written.
    fn read_committed(&mut self, consumer: &BaseConsumer<Context>, partitions: &[i32]) {
        let topic = Arc::clone(self.pump.reader.topic());
        let mut asked = TopicPartitionList::new();
        for &partition in partitions {
            asked.add_partition(&topic, partition);
        }
        // Where nobody may ask, letters are written once more.
        let Ok(committed) = consumer.committed_offsets(asked, ANSWER_TIMEOUT) else { return };
        for element in committed.elements() {
            if let Offset::Offset(offset) = element.offset() {
                self.pump.letters_written_before(element.partition(), offset);
            }
        }
    }

    /// For those who look at the group. What the engine has is what we have read.
    fn commit(&mut self, consumer: &BaseConsumer<Context>) {
        if self.committed.as_ref().is_some_and(|(at, _)| at.elapsed() < COMMIT_INTERVAL) {
            return;
        }
        let Some(mark) = self.pump.link.durable.borrow().clone() else { return };
        if self.committed.as_ref().is_some_and(|(_, committed)| *committed == mark) {
            return;
        }
        let mut list = TopicPartitionList::new();
        if let Mark::Offsets(offsets) = &mark {
            for (topic, partitions) in &offsets.0 {
                for (partition, offset) in partitions {
                    let _ = list.add_partition_offset(topic, *partition, Offset::Offset(*offset));
                }
            }
        }
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(source = &*self.pump.link.name, %error, "can't commit offsets");
        }
        self.committed = Some((Instant::now(), mark));
    }

    fn count_lag(&self, watch: &Watch) {
        let next = self.pump.reader.next();
        let lag =
            |(partition, end): (i32, i64)| u64::try_from(end - next.get(&partition).copied().unwrap_or(0)).unwrap_or(0);
        self.pump.link.counters.lag.store(watch.ends().into_iter().map(lag).sum(), Relaxed);
    }
}

impl Headers for BorrowedMessage<'_> {
    fn each(&self, take: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for header in self.headers().into_iter().flat_map(|headers| headers.iter()) {
            take(header.key, header.value);
        }
    }
}

fn view<'a>(message: &'a BorrowedMessage<'_>) -> Message<'a> {
    Message {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        payload: Payload { key: message.key(), value: message.payload() },
        headers: message,
    }
}
