//! Topics: read them, and again after a loss. One topic is a source; so are those together whose transactions are
//! told by one topic more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use pipeline::Mark;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::Offset;

use crate::dead_letters::{DeadLetterFile, DeadLetterWriter};
use crate::source::{Link, Problem, Source, SourceState, SourceTable};
use crate::topic::hold::{Held, Hold};
use crate::topic::in_time::InTime;
use crate::topic::options::{DeadLettersTo, Mode, OnDataLoss, Start, TopicRequest};
use crate::topic::pump::{Halt, Pump};
use crate::topic::thread::{Stopped, on_thread};
use crate::topic::transactions::Transactions;
use crate::topic::{Message, TopicPartition, TopicReader, TopicTable, TopicTables};

use super::client::{ANSWER_TIMEOUT, Cluster, Context};
use super::dead_letters::TopicWriter;
use super::describe::{Topic, TopicId, describe};
use super::error::{Response, describe as in_words, problem, response_to};
use super::inlet::{Inlet, Kept, view};
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

/// A topic of a cluster, or several whose transactions are told together, and the tables that they are read into.
pub struct KafkaTopic {
    name: String,
    cluster: Cluster,
    requests: Vec<TopicRequest>,
    tables: Vec<TopicTable>,
}

impl KafkaTopic {
    /// With the first of its tables.
    #[must_use]
    pub fn new(name: String, cluster: Cluster, request: TopicRequest) -> KafkaTopic {
        KafkaTopic { name, cluster, requests: vec![request], tables: Vec::new() }
    }

    /// Whether a table is read with those that it has: the same topic, from the same place, or one whose transactions
    /// are told by the same topic.
    #[must_use]
    pub fn reads_with(&self, cluster: &Cluster, name: &str, request: &TopicRequest) -> bool {
        let first = &self.requests[0];
        let is_same_topic =
            (&first.topic, first.start, first.on_data_loss) == (&request.topic, request.start, request.on_data_loss);
        self.cluster == *cluster
            && self.name == name
            && first.transactions == request.transactions
            && (is_same_topic || first.transactions.is_some())
    }

    /// Reads into this table too.
    pub fn add(&mut self, request: TopicRequest) {
        self.requests.push(request);
    }

    /// The topics, each with the first table that is read from it; that which tells of transactions is the last.
    fn topics(&self) -> Vec<(Arc<str>, &TopicRequest)> {
        let mut topics: Vec<(Arc<str>, &TopicRequest)> = Vec::new();
        let tellers = self.requests.iter().filter_map(|request| Some((request.transactions.as_ref()?, request)));
        for (topic, request) in self.requests.iter().map(|request| (&request.topic, request)).chain(tellers) {
            if !topics.iter().any(|(known, _)| **known == **topic) {
                topics.push((topic.as_str().into(), request));
            }
        }
        topics
    }

    fn look(&mut self) -> Result<Vec<SourceTable>, Vec<Problem>> {
        let brokers = self.cluster.brokers.clone();
        let consumer = match self.cluster.consumer() {
            Ok(consumer) => consumer,
            Err(error) => return Err(vec![problem(&self.requests[0].name, &error, &brokers)]),
        };
        let mut problems = Vec::new();
        for (topic, request) in self.topics() {
            let found = describe(&consumer, &topic, ANSWER_TIMEOUT).map_err(|error| self.cluster.why(&consumer, error));
            match found {
                Ok(found) if found.partitions.len() > 1 && *topic != *request.topic => problems.push(Problem {
                    table: Some(request.name.clone()),
                    what: in_several_partitions(&topic, found.partitions.len()),
                    remedy: ONE_PARTITION.to_owned(),
                }),
                Ok(_) => {}
                Err(error) if is_unknown(&error) => {
                    let what = format!("{brokers} has no topic `{topic}`");
                    let remedy = if *topic == *request.topic {
                        "make the topic, or check its name"
                    } else {
                        "set provide.transaction.metadata=true in Debezium's connector, which then writes it with its next transaction; or check its name"
                    };
                    problems.push(Problem { table: Some(request.name.clone()), what, remedy: remedy.to_owned() });
                }
                // Who does not answer would not answer about another.
                Err(error) => return Err(vec![problem(&request.name, &error, &brokers)]),
            }
        }
        let on_data_loss = self.requests[0].on_data_loss;
        for request in &self.requests {
            problems.extend(self.letters_can_go(request, &consumer));
            if request.on_data_loss != on_data_loss {
                let what =
                    "its transactions are told with those of other tables, and on_data_loss is another than theirs";
                let remedy = "write the same on_data_loss for all of them".to_owned();
                problems.push(Problem { table: Some(request.name.clone()), what: what.to_owned(), remedy });
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
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

impl KafkaTopic {
    /// Where letters of a table are to go must be there: a source would wait for it with the first one.
    fn letters_can_go(&self, request: &TopicRequest, consumer: &BaseConsumer<Context>) -> Option<Problem> {
        let (what, remedy) = match request.dead_letters.as_ref()? {
            DeadLettersTo::File(path) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty())?;
                if folder.is_dir() {
                    return None;
                }
                (
                    format!("there is no folder {} for dead letters", folder.display()),
                    "make the folder, or check its name",
                )
            }
            DeadLettersTo::Topic(topic) => {
                let brokers = &self.cluster.brokers;
                match describe(consumer, topic, ANSWER_TIMEOUT) {
                    Err(error) if is_unknown(&error) => (
                        format!("{brokers} has no topic `{topic}` for dead letters"),
                        "make the topic, or check its name",
                    ),
                    _ => return None,
                }
            }
        };
        Some(Problem { table: Some(request.name.clone()), what, remedy: remedy.to_owned() })
    }

    /// Where letters go, said beside the offsets that are committed.
    fn letters_go_to(&self) -> String {
        let to = |request: &TopicRequest| request.dead_letters.as_ref().map(|to| format!("{} to {to:?}", request.name));
        let all: Vec<String> = self.requests.iter().filter_map(to).collect();
        let text = if all.is_empty() { "none are written".to_owned() } else { all.join(", ") };
        // Brokers take 4 KiB at most.
        format!("dead letters: {}", text.chars().take(900).collect::<String>())
    }
}

/// Its messages are in no order then.
fn in_several_partitions(topic: &str, partitions: usize) -> String {
    format!("topic {topic} has {partitions} partitions, so it does not tell in which order transactions were committed")
}

const ONE_PARTITION: &str = "make it again with one partition: Debezium's connector makes it so with topic.creation.groups=transactions, topic.creation.transactions.include=.*transaction and topic.creation.transactions.partitions=1";

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
            let letters = self.letters_go_to();
            let names: Vec<Arc<str>> = self.topics().into_iter().map(|(topic, _)| topic).collect();
            let KafkaTopic { cluster, requests, tables, .. } = *self;
            let writers = requests.iter().map(|request| writer(&cluster, request)).collect();
            let first = &requests[0];
            let has_teller = first.transactions.is_some();
            let held: Option<Box<dyn Hold<Kept>>> =
                if has_teller { Some(Box::new(Transactions::new(&names, names.len() - 1))) } else { None };
            let is_keyed = requests.iter().any(|request| request.mode != Mode::Append);
            let mut topics: Vec<TopicTables> =
                names.into_iter().map(|topic| TopicTables { topic, tables: Vec::new() }).collect();
            for (place, (table, request)) in tables.into_iter().zip(&requests).enumerate() {
                if let Some(of_topic) = topics.iter_mut().find(|of| *of.topic == *request.topic) {
                    of_topic.tables.push((place, table));
                }
            }
            let ids = vec![None; topics.len()];
            let pump = Pump::new(TopicReader::new(topics), writers, link, waiting);
            let (start, on_data_loss) = (first.start, first.on_data_loss);
            let mut reading = Reading {
                cluster,
                start,
                on_data_loss,
                pump,
                ids,
                held,
                has_teller,
                is_keyed,
                letters,
                committed: None,
            };
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

/// Topics while they are read.
struct Reading {
    cluster: Cluster,
    start: Start,
    on_data_loss: OnDataLoss,
    pump: Pump,
    /// The id that each topic had when its first message was read.
    ids: Vec<Option<TopicId>>,
    /// Where messages wait for others, if they do.
    held: Option<Box<dyn Hold<Kept>>>,
    /// Whether the last topic tells of transactions.
    has_teller: bool,
    /// Whether what a key had last is what it has, so that the order between partitions may count.
    is_keyed: bool,
    /// Where dead letters go. Those of messages that were read while they went elsewhere have not been written there.
    letters: String,
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
        let mut inlet = None;
        let names: Vec<String> = self.pump.reader.topics().iter().map(|of| of.topic.to_string()).collect();
        for (topic, name) in names.iter().enumerate() {
            let described = describe(&consumer, name, ANSWER_TIMEOUT)
                .map_err(|error| self.broken_of(topic, &self.cluster.why(&consumer, error)))?;
            self.is_the_same(topic, &described)?;
            if self.is_keyed && !self.pump.is_loaded() && described.partitions.len() > 1 && self.held.is_none() {
                self.held = Some(Box::new(InTime::default()));
            }
            if let Some(held) = self.held.as_mut().filter(|_| inlet.is_none()) {
                held.clear();
                inlet = Some(Inlet::new(Arc::clone(&consumer)));
            }
            self.assign(&consumer, topic, &described.partitions, inlet.as_mut())?;
        }
        self.tell_loaded()?;
        self.pump.set_well();
        let watches: Result<Vec<Watch>, std::io::Error> =
            names.into_iter().map(|name| Watch::start(Arc::clone(&consumer), name)).collect();
        let watches = watches.map_err(|error| Broken::Retry(error.to_string()))?;
        loop {
            self.pump.waiting.go_on()?;
            match &mut inlet {
                None => self.take_batch(&consumer, &watches)?,
                Some(inlet) => self.take_whole(inlet, &watches)?,
            }
            for (topic, watch) in watches.iter().enumerate() {
                match watch.news() {
                    Some(Ok(described)) => {
                        self.is_the_same(topic, &described)?;
                        self.assign(&consumer, topic, &described.partitions, inlet.as_mut())?;
                        self.set_well();
                        self.count_lag(&watches);
                    }
                    Some(Err(error)) => {
                        let error = self.in_words_of(topic, &error);
                        self.pump.set_state(SourceState::Retrying { error });
                    }
                    None => {}
                }
            }
            self.commit(&consumer);
        }
    }

    /// Says that what there was has been read, when it has: nothing waits for it any more.
    fn tell_loaded(&mut self) -> Result<(), Broken> {
        self.pump.tell_loaded()?;
        if self.pump.is_loaded()
            && let Some(held) = &mut self.held
        {
            held.backlog_is_read();
        }
        Ok(())
    }

    /// The brokers answer; what is not whole is said.
    fn set_well(&mut self) {
        match self.held.as_ref().and_then(|held| held.waits_for()) {
            Some(error) => self.pump.set_state(SourceState::Retrying { error }),
            None => self.pump.set_well(),
        }
    }

    /// Reads what has come, up to a batch; waits a little if nothing has.
    fn take_batch(&mut self, consumer: &BaseConsumer<Context>, watches: &[Watch]) -> Result<(), Broken> {
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
            let views: Vec<Message<'_>> = messages
                .iter()
                .map(|message| view(message, TopicPartition::of_only_topic(message.partition())))
                .collect();
            self.pump.take(&views).map_err(stopped)?;
        }
        for partition in at_end {
            self.pump.at_end(TopicPartition::of_only_topic(partition))?;
            self.pump.set_well();
        }
        failed.map_or(Ok(()), |error| self.failed(&error, consumer, watches))
    }

    /// Reads what has come, and takes the transactions that are whole; waits a little if nothing has come.
    fn take_whole(&mut self, inlet: &mut Inlet, watches: &[Watch]) -> Result<(), Broken> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let failed = inlet.take(&mut **held, (BATCH_MESSAGES, BATCH_BYTES), POLL);
        loop {
            let whole = held.next(BATCH_MESSAGES, Instant::now());
            if !whole.messages.is_empty() {
                let views: Vec<Message<'_>> = whole.messages.iter().map(Held::view).collect();
                self.pump.take(&views).map_err(stopped)?;
            }
            for (partition, next) in &whole.passed {
                if self.pump.reader.next().get(partition).is_none_or(|known| known < next) {
                    self.pump.reader.start_at(*partition, *next);
                }
            }
            if whole.messages.is_empty() {
                break;
            }
        }
        for partition in held.empty_at_end() {
            self.pump.at_end(partition)?;
        }
        self.tell_loaded()?;
        match failed {
            Ok(None) => {
                self.set_well();
                Ok(())
            }
            Ok(Some(error)) => self.failed(&error, inlet.consumer(), watches),
            Err(error) => {
                let remedy =
                    "name the topic that Debezium's connector writes with provide.transaction.metadata=true, mostly prefix.transaction"
                        .to_owned();
                Err(Broken::End(End::Operator { error: error.to_string(), remedy }))
            }
        }
    }

    /// What to do about what a client says.
    fn failed(
        &mut self,
        error: &KafkaError,
        consumer: &BaseConsumer<Context>,
        watches: &[Watch],
    ) -> Result<(), Broken> {
        match response_to(error) {
            Response::Retry => {
                watches.iter().for_each(Watch::look_now);
                self.pump.set_state(SourceState::Retrying { error: self.in_words(error) });
                Ok(())
            }
            Response::Renew => Err(Broken::Retry(self.in_words(error))),
            Response::Stop(remedy) => {
                Err(Broken::End(End::Operator { error: self.in_words(error), remedy: remedy.to_owned() }))
            }
            Response::Lost => self.find_again(consumer),
        }
    }

    /// Of whichever topic it is: where there are several, a client does not say.
    fn in_words(&self, error: &KafkaError) -> String {
        self.in_words_of(0, error)
    }

    fn in_words_of(&self, topic: usize, error: &KafkaError) -> String {
        if is_unknown(error) {
            format!("{} has no topic `{}` now", self.cluster.brokers, self.pump.reader.topic(topic))
        } else {
            in_words(error, &self.cluster.brokers)
        }
    }

    fn broken(&self, error: &KafkaError) -> Broken {
        self.broken_of(0, error)
    }

    fn broken_of(&self, topic: usize, error: &KafkaError) -> Broken {
        match response_to(error) {
            Response::Stop(remedy) => {
                Broken::End(End::Operator { error: self.in_words_of(topic, error), remedy: remedy.to_owned() })
            }
            _ => Broken::Retry(self.in_words_of(topic, error)),
        }
    }

    /// A topic that was deleted and made again has other messages under the same offsets.
    fn is_the_same(&mut self, topic: usize, described: &Topic) -> Result<(), Broken> {
        let Some(id) = described.id else { return Ok(()) };
        let before = *self.ids[topic].get_or_insert(id);
        if before == id {
            return Ok(());
        }
        self.lost(&format!(
            "topic {} was deleted and made again (what came of the new one before this was noticed is read again)",
            self.pump.reader.topic(topic)
        ))?;
        self.ids[topic] = Some(id);
        self.start = if self.on_data_loss == OnDataLoss::Latest { Start::Latest } else { Start::Earliest };
        self.pump.reader.forget(topic);
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
    fn assign(
        &mut self,
        consumer: &BaseConsumer<Context>,
        topic: usize,
        partitions: &[i32],
        mut inlet: Option<&mut Inlet>,
    ) -> Result<(), Broken> {
        let name = Arc::clone(self.pump.reader.topic(topic));
        let assigned: BTreeSet<i32> = match consumer.assignment() {
            Ok(assigned) => assigned.elements_for_topic(&name).iter().map(|element| element.partition()).collect(),
            Err(error) => return Err(self.broken(&error)),
        };
        let new: Vec<i32> = partitions.iter().copied().filter(|partition| !assigned.contains(partition)).collect();
        if new.is_empty() {
            return Ok(());
        }
        if self.has_teller && topic + 1 == self.ids.len() && partitions.len() > 1 {
            let error = in_several_partitions(&name, partitions.len());
            return Err(Broken::End(End::Operator { error, remedy: ONE_PARTITION.to_owned() }));
        }
        let first_time = !self.pump.reader.reads(topic);
        if first_time {
            self.read_committed(consumer, topic, &new);
        }
        let mut list = TopicPartitionList::new();
        for number in new {
            let partition = TopicPartition { topic, number };
            let (begin, end) =
                consumer.fetch_watermarks(&name, number, ANSWER_TIMEOUT).map_err(|error| self.broken(&error))?;
            let offset = match self.pump.reader.next().get(&partition) {
                Some(next) => *next,
                None => {
                    // What came to be while we were reading is read whole.
                    let start = if first_time { self.start_of(consumer, partition, begin, end)? } else { begin };
                    self.pump.begin(partition, start, end);
                    if !first_time {
                        tracing::info!(
                            source = &*self.pump.link.name,
                            topic = &*name,
                            partition = number,
                            "a new partition"
                        );
                    }
                    start
                }
            };
            if let (Some(inlet), Some(held)) = (&mut inlet, &mut self.held) {
                held.begin(partition);
                inlet.add(&name, partition);
            }
            list.add_partition_offset(&name, number, Offset::Offset(offset)).map_err(|error| self.broken(&error))?;
        }
        consumer.incremental_assign(&list).map_err(|error| self.broken(&error))
    }

    fn start_of(
        &self,
        consumer: &BaseConsumer<Context>,
        partition: TopicPartition,
        begin: i64,
        end: i64,
    ) -> Result<i64, Broken> {
        let millis = match self.start {
            Start::Earliest => return Ok(begin),
            Start::Latest => return Ok(end),
            Start::Timestamp(millis) => millis,
        };
        let topic = self.pump.reader.topic(partition.topic);
        let mut asked = TopicPartitionList::new();
        let found = asked
            .add_partition_offset(topic, partition.number, Offset::Offset(millis))
            .and_then(|()| consumer.offsets_for_times(asked, ANSWER_TIMEOUT))
            .map_err(|error| self.broken(&error))?;
        Ok(match found.find_partition(topic, partition.number).map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => offset,
            // None is as new.
            _ => end,
        })
    }

    /// Our place is no place of the log any more: which partition, and why.
    fn find_again(&mut self, consumer: &BaseConsumer<Context>) -> Result<(), Broken> {
        for topic in 0..self.pump.reader.topics().len() {
            let name = Arc::clone(self.pump.reader.topic(topic));
            let described = describe(consumer, &name, ANSWER_TIMEOUT).map_err(|error| self.broken_of(topic, &error))?;
            self.is_the_same(topic, &described)?;
        }
        let places: BTreeMap<TopicPartition, i64> = self.pump.reader.next().clone();
        for (place, next) in places {
            let (topic, partition) = (Arc::clone(self.pump.reader.topic(place.topic)), place.number);
            let (begin, end) = consumer
                .fetch_watermarks(&topic, partition, ANSWER_TIMEOUT)
                .map_err(|error| self.broken_of(place.topic, &error))?;
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
            self.pump.reader.start_at(place, if self.on_data_loss == OnDataLoss::Latest { end } else { begin });
        }
        Err(Broken::Retry(format!("looking for the place in {} again", self.pump.link.name)))
    }

    /// How far an earlier run had come, of which dead letters have been written.
    fn read_committed(&mut self, consumer: &BaseConsumer<Context>, topic: usize, partitions: &[i32]) {
        let name = Arc::clone(self.pump.reader.topic(topic));
        let mut asked = TopicPartitionList::new();
        for &partition in partitions {
            asked.add_partition(&name, partition);
        }
        // Where nobody may ask, letters are written once more.
        let Ok(committed) = consumer.committed_offsets(asked, ANSWER_TIMEOUT) else { return };
        for element in committed.elements() {
            if let Offset::Offset(offset) = element.offset()
                && element.metadata() == self.letters
            {
                let partition = TopicPartition { topic, number: element.partition() };
                self.pump.letters_written_before(partition, offset);
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
                    if let Some(mut element) = list.find_partition(topic, *partition) {
                        element.set_metadata(&*self.letters);
                    }
                }
            }
        }
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(source = &*self.pump.link.name, %error, "can't commit offsets");
        }
        self.committed = Some((Instant::now(), mark));
    }

    fn count_lag(&self, watches: &[Watch]) {
        let next = self.pump.reader.next();
        let ends = watches.iter().enumerate().flat_map(|(topic, watch)| {
            watch.ends().into_iter().map(move |(number, end)| (TopicPartition { topic, number }, end))
        });
        let lag = |(partition, end): (TopicPartition, i64)| {
            u64::try_from(end - next.get(&partition).copied().unwrap_or(0)).unwrap_or(0)
        };
        self.pump.link.counters.lag.store(ends.map(lag).sum(), Relaxed);
    }
}

/// Why the pump stands still, for those who look.
fn stopped(halt: Halt) -> Broken {
    let (error, remedy) = match halt {
        Halt::Stopped => return Broken::End(End::Stopped),
        Halt::Unreadable(error) => (
            error,
            "see to the message or to the table's columns, or write on_error = 'dead_letter' to go on without it; then restart",
        ),
        Halt::Internal(error) => (error, "please report this with the log"),
    };
    Broken::End(End::Operator { error, remedy: remedy.to_owned() })
}
