//! One topic: read it, and again after a loss.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::dead_letters::{DeadLetterFile, DeadLetterWriter};
use crate::format::Payload;
use crate::source::{Link, Problem, Source, SourceState, SourceTable};
use crate::topic::options::{DeadLettersTo, Mode, OnDataLoss, Start, TopicRequest};
use crate::topic::pump::{Halt, Pump};
use crate::topic::thread::{Stopped, on_thread};
use crate::topic::{Message, TopicPartition, TopicReader, TopicTable, TopicTables};

use super::client::{Cluster, Remote};
use super::dead_letters::TopicWriter;
use super::error::{Failure, problem};
use super::follow::{Came, Ends, Follower, Loss, Pace};
use super::log::{self, Log, Partition, Record};

/// Records, and bytes of them, that are read at a time. Fewer when no more have come.
const BATCH_RECORDS: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;
/// Runs that wait to be read, of all partitions. When there are so many, partitions wait, and with
/// them their servers.
const RUNS_WAITING_MAX: usize = 16;
/// How often the topic is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A topic of a cluster, and the tables that it is read into.
pub struct FluvioTopic {
    name: String,
    cluster: Cluster,
    requests: Vec<TopicRequest>,
    tables: Vec<TopicTable>,
}

impl FluvioTopic {
    /// A topic with the first of its tables.
    #[must_use]
    pub fn new(name: String, cluster: Cluster, request: TopicRequest) -> FluvioTopic {
        FluvioTopic { name, cluster, requests: vec![request], tables: Vec::new() }
    }

    /// Whether a table is read with those that it has: the same topic, from the same place, and with
    /// the same meaning of a record without a value.
    #[must_use]
    pub fn reads_with(&self, cluster: &Cluster, name: &str, request: &TopicRequest) -> bool {
        let first = &self.requests[0];
        self.cluster == *cluster
            && self.name == name
            && (&first.topic, first.start, first.on_data_loss) == (&request.topic, request.start, request.on_data_loss)
            && (first.mode == Mode::Append) == (request.mode == Mode::Append)
    }

    /// Reads the topic into this table too.
    pub fn add(&mut self, request: TopicRequest) {
        self.requests.push(request);
    }

    fn open_tables(&mut self) -> Result<Vec<SourceTable>, Vec<Problem>> {
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

impl Source for FluvioTopic {
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
            let first = &self.requests[0];
            if let Err(failure) = Remote::new(self.cluster.clone(), first.topic.clone()).describe().await {
                return Err(vec![problem(&first.name, &first.topic, &self.cluster.endpoint, &failure)]);
            }
            // Asking a schema registry blocks; whoever else is looked for goes on.
            std::thread::scope(|scope| scope.spawn(|| self.open_tables()).join()).unwrap_or_else(|_| Err(Vec::new()))
        })
    }

    fn run(self: Box<Self>, link: Link) -> BoxFuture<'static, ()> {
        let log: Arc<dyn Log> = Arc::new(Remote::new(self.cluster.clone(), self.requests[0].topic.clone()));
        read(*self, log, Pace::default(), LOOK_INTERVAL, link)
    }
}

/// Reads a topic by this log.
fn read(source: FluvioTopic, log: Arc<dyn Log>, pace: Pace, look: Duration, link: Link) -> BoxFuture<'static, ()> {
    on_thread(format!("fluvio {}", source.name), move |mut waiting| {
        let FluvioTopic { cluster, requests, tables, .. } = source;
        let Ok(runtime) = waiting.until(async { Handle::current() }) else { return };
        let writers = requests.iter().map(|request| writer(&cluster, &runtime, request)).collect();
        let first = &requests[0];
        let tables = tables.into_iter().enumerate().collect();
        let reader = TopicReader::new(vec![TopicTables { topic: first.topic.as_str().into(), tables }]);
        let pump = Pump::new(reader, writers, link, waiting);
        let (tell, told) = mpsc::channel(RUNS_WAITING_MAX);
        let mut reading = Reading {
            log,
            runtime,
            endpoint: cluster.endpoint,
            start: first.start,
            on_data_loss: first.on_data_loss,
            empty_is_none: first.mode != Mode::Append,
            pace,
            look,
            pump,
            tell,
            told,
            ends: watch::Sender::default(),
            following: BTreeMap::new(),
            loading: BTreeMap::new(),
            skipping: BTreeSet::new(),
            unread: BTreeSet::new(),
            troubled: BTreeMap::new(),
            is_another: false,
            generation: 0,
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

fn writer(cluster: &Cluster, runtime: &Handle, request: &TopicRequest) -> Option<Box<dyn DeadLetterWriter>> {
    Some(match request.dead_letters.clone()? {
        DeadLettersTo::File(path) => Box::new(DeadLetterFile::new(path)),
        DeadLettersTo::Topic(topic) => Box::new(TopicWriter::new(cluster.clone(), topic, runtime.clone())),
    })
}

/// Why reading ended for good.
enum End {
    Stopped,
    Operator { error: String, remedy: String },
}

impl From<Stopped> for End {
    fn from(_: Stopped) -> End {
        End::Stopped
    }
}

/// What is told to whoever reads.
enum News {
    /// How the topic is now.
    Topic(Result<Vec<Partition>, Failure>),
    /// What came of a partition, when it was of this topic: others of the same name have other numbers.
    Came(u64, i32, Came),
}

/// Tasks that end with whoever started them.
struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Reading {
    log: Arc<dyn Log>,
    runtime: Handle,
    endpoint: String,
    start: Start,
    on_data_loss: OnDataLoss,
    /// Whether an empty value takes its key away: records of a log always have a value.
    empty_is_none: bool,
    pace: Pace,
    look: Duration,
    pump: Pump,
    tell: mpsc::Sender<News>,
    told: mpsc::Receiver<News>,
    ends: watch::Sender<Ends>,
    /// The partitions that are read.
    following: BTreeMap<i32, Following>,
    /// Partitions that have not been read to where they ended at the start.
    loading: BTreeMap<i32, i64>,
    /// Partitions of which all so far was older than what is to be read.
    skipping: BTreeSet<i32>,
    /// Partitions of which nothing has been read: what is not there was not there before us.
    unread: BTreeSet<i32>,
    /// Partitions that can't be read now, with why.
    troubled: BTreeMap<i32, String>,
    /// The topic was gone: the next of this name is another one.
    is_another: bool,
    /// How many topics of this name there have been.
    generation: u64,
}

impl Reading {
    fn run(&mut self) -> End {
        let (log, tell, look) = (Arc::clone(&self.log), self.tell.clone(), self.look);
        let _looking = Following(
            self.runtime
                .spawn(async move {
                    while tell.send(News::Topic(log.describe().await)).await.is_ok() {
                        sleep(look).await;
                    }
                })
                .abort_handle(),
        );
        loop {
            if let Err(end) = self.take_news() {
                return end;
            }
        }
    }

    /// Takes what was told: at least one thing, and then what else is there, up to a batch.
    fn take_news(&mut self) -> Result<(), End> {
        let told = &mut self.told;
        // The sender of it is ours, so there is always somebody who might.
        let Some(mut news) = self.pump.waiting.until(told.recv())? else { return Err(End::Stopped) };
        let mut records: Vec<(i32, Record)> = Vec::new();
        let mut bytes = 0;
        loop {
            match news {
                News::Came(generation, ..) if generation != self.generation => {}
                News::Came(_, partition, Came::Records(came)) => {
                    bytes += came.iter().map(Record::bytes).sum::<usize>();
                    records.extend(came.into_iter().map(|record| (partition, record)));
                }
                other => {
                    // What came before comes first.
                    self.take_records(&std::mem::take(&mut records))?;
                    match other {
                        News::Topic(topic) => self.take_topic(topic)?,
                        News::Came(_, partition, came) => self.take_other(partition, came)?,
                    }
                }
            }
            if records.len() >= BATCH_RECORDS || bytes >= BATCH_BYTES {
                break;
            }
            match self.told.try_recv() {
                Ok(next) => news = next,
                Err(_) => break,
            }
        }
        self.take_records(&records)
    }

    fn take_records(&mut self, records: &[(i32, Record)]) -> Result<(), End> {
        if records.is_empty() {
            return Ok(());
        }
        let mut messages = Vec::with_capacity(records.len());
        for (partition, record) in records {
            self.unread.remove(partition);
            self.troubled.remove(partition);
            if self.is_too_old(*partition, record) {
                self.pump.reader.start_at(TopicPartition::of_only_topic(*partition), record.offset + 1);
            } else {
                messages.push(view(*partition, record, self.empty_is_none));
            }
        }
        if !messages.is_empty() {
            match self.pump.take(&messages) {
                Ok(()) => {}
                Err(Halt::Stopped) => return Err(End::Stopped),
                Err(Halt::Unreadable(error)) => {
                    let remedy = "see to the message or to the table's columns, or write on_error = 'dead_letter' to go on without it; then restart".to_owned();
                    return Err(End::Operator { error, remedy });
                }
                Err(Halt::Internal(error)) => {
                    let remedy = "please report this with the log".to_owned();
                    return Err(End::Operator { error, remedy });
                }
            }
        }
        self.tell_loaded()?;
        self.tell_trouble();
        self.count_lag();
        Ok(())
    }

    /// Says of partitions that they have been read to where they ended, when they have.
    fn tell_loaded(&mut self) -> Result<(), End> {
        let next = self.pump.reader.next();
        let is_loaded = |(partition, end): (&i32, &i64)| {
            next.get(&TopicPartition::of_only_topic(*partition)).is_some_and(|next| next >= end)
        };
        let loaded: Vec<i32> =
            self.loading.iter().filter(|entry| is_loaded(*entry)).map(|(partition, _)| *partition).collect();
        for partition in loaded {
            self.loading.remove(&partition);
            self.pump.at_end(TopicPartition::of_only_topic(partition))?;
        }
        Ok(())
    }

    /// A source of which a part can't be read is not well, whatever comes of the others.
    fn tell_trouble(&mut self) {
        if let Some((partition, error)) = self.troubled.first_key_value() {
            let error = format!("partition {partition} of {}: {error}", self.pump.reader.topic(0));
            self.pump.set_state(SourceState::Retrying { error });
        }
    }

    /// Whether a record is before the time to start at. No record is once one was not.
    fn is_too_old(&mut self, partition: i32, record: &Record) -> bool {
        let Start::Timestamp(millis) = self.start else { return false };
        let is_too_old = self.skipping.contains(&partition) && record.timestamp.is_none_or(|written| written < millis);
        if !is_too_old {
            self.skipping.remove(&partition);
        }
        is_too_old
    }

    /// What the controller says of the topic.
    fn take_topic(&mut self, topic: Result<Vec<Partition>, Failure>) -> Result<(), End> {
        let partitions = match topic {
            Ok(partitions) => partitions,
            Err(Failure::NoTopic) => {
                // Deleted, and whatever comes to have its name is another one.
                self.is_another |= !self.pump.reader.next().is_empty();
                let error = format!("{} has no topic `{}` now", self.endpoint, self.pump.reader.topic(0));
                self.pump.set_state(SourceState::Retrying { error });
                return Ok(());
            }
            Err(Failure::Refused { error, remedy }) => {
                return Err(End::Operator { error, remedy: remedy.to_owned() });
            }
            // Who reads partitions does not need the controller.
            Err(failure) if !self.following.is_empty() => {
                tracing::debug!(source = &*self.pump.link.name, %failure, "the controller does not answer");
                return Ok(());
            }
            Err(failure) => {
                let error = format!("no Fluvio cluster answers at {}: {failure}", self.endpoint);
                self.pump.set_state(SourceState::Retrying { error });
                return Ok(());
            }
        };
        if std::mem::take(&mut self.is_another) {
            self.begin_anew()?;
        }
        let ends = partitions.iter().filter(|partition| partition.is_online);
        self.ends.send_replace(ends.filter_map(|partition| Some((partition.id, partition.end?))).collect());
        self.follow_new(&partitions)?;
        self.count_lag();
        Ok(())
    }

    /// The topic is another one of the same name: other records under the same offsets.
    fn begin_anew(&mut self) -> Result<(), End> {
        self.lost(&format!("topic {} was deleted and made again", self.pump.reader.topic(0)))?;
        self.following.clear();
        self.generation += 1;
        self.troubled.clear();
        self.start = if self.on_data_loss == OnDataLoss::Latest { Start::Latest } else { Start::Earliest };
        self.skipping.clear();
        self.pump.reader.forget(0);
        Ok(())
    }

    /// Reads partitions that are not read yet.
    fn follow_new(&mut self, partitions: &[Partition]) -> Result<(), End> {
        let known: BTreeSet<i32> = self.following.keys().copied().collect();
        let first_time = known.is_empty() && self.pump.reader.next().is_empty();
        // Where they end says what there is to load: all have to tell, when we begin.
        let is_known = |partition: &Partition| partition.end.is_some() && partition.is_online;
        if first_time && (partitions.is_empty() || !partitions.iter().all(is_known)) {
            let error = format!("not all partitions of {} are online", self.pump.reader.topic(0));
            self.pump.set_state(SourceState::Retrying { error });
            return Ok(());
        }
        for partition in partitions.iter().filter(|partition| !known.contains(&partition.id)) {
            let Some(end) = partition.end.map(|end| end.readable) else { continue };
            let next = match self.pump.reader.next().get(&TopicPartition::of_only_topic(partition.id)) {
                Some(next) => *next,
                None => {
                    // What came to be while we were reading is read whole.
                    let is_latest = first_time && self.start == Start::Latest;
                    let start = if is_latest { end } else { partition.begin.min(end) };
                    self.pump.begin(TopicPartition::of_only_topic(partition.id), start, end);
                    self.loading.insert(partition.id, end);
                    self.unread.insert(partition.id);
                    if first_time && matches!(self.start, Start::Timestamp(_)) {
                        self.skipping.insert(partition.id);
                    }
                    if !first_time {
                        tracing::info!(source = &*self.pump.link.name, partition = partition.id, "a new partition");
                    }
                    start
                }
            };
            self.follow(partition.id, next, partitions.len());
        }
        if first_time {
            self.pump.tell_loaded()?;
            self.pump.set_well();
        }
        Ok(())
    }

    fn follow(&mut self, partition: i32, next: i64, partitions: usize) {
        let log = Arc::clone(&self.log);
        let follower = Follower::new(log, partition, next, partitions, self.ends.subscribe(), self.pace);
        let generation = self.generation;
        let word = move |came| News::Came(generation, partition, came);
        let task = self.runtime.spawn(follower.run(self.tell.clone(), word));
        self.following.insert(partition, Following(task.abort_handle()));
    }

    /// What came of a partition besides records.
    fn take_other(&mut self, partition: i32, came: Came) -> Result<(), End> {
        match came {
            Came::Records(_) => Ok(()),
            Came::Well => {
                self.troubled.remove(&partition);
                if self.troubled.is_empty() {
                    self.pump.set_well();
                }
                Ok(())
            }
            Came::Trouble(error) => {
                self.troubled.insert(partition, error);
                self.tell_trouble();
                Ok(())
            }
            Came::Refused { error, remedy } => Err(End::Operator { error, remedy: remedy.to_owned() }),
            Came::Lost(loss) => self.find_again(partition, loss),
        }
    }

    /// Our place is no place of the partition any more.
    fn find_again(&mut self, partition: i32, loss: Loss) -> Result<(), End> {
        self.following.remove(&partition);
        let topic = Arc::clone(self.pump.reader.topic(0));
        let next = self.pump.reader.next().get(&TopicPartition::of_only_topic(partition)).copied().unwrap_or(0);
        let end = self.ends.borrow().get(&partition).map(|end| end.readable);
        let (what, begin) = match loss {
            Loss::Deleted => {
                // Whether there is another one is seen when the topic is looked at next.
                self.is_another = true;
                self.pump.set_state(SourceState::Retrying { error: format!("topic {topic} was deleted") });
                return Ok(());
            }
            Loss::Evicted { begin } => (
                format!(
                    "records {next} to {} of partition {partition} of {topic} were deleted before they were read",
                    begin - 1
                ),
                begin,
            ),
            Loss::Short => (
                format!(
                    "partition {partition} of {topic} ends before {next}, and was read up to there: its server has lost records, or the topic was made again"
                ),
                0,
            ),
        };
        if !self.unread.contains(&partition) {
            self.lost(&what)?;
        }
        let place = if self.on_data_loss == OnDataLoss::Latest { end.unwrap_or(begin).max(begin) } else { begin };
        self.pump.reader.start_at(TopicPartition::of_only_topic(partition), place);
        self.follow(partition, place, self.following.len() + 1);
        self.tell_loaded()
    }

    /// Records that were to be read are not there. Whether we go on is for the project to say.
    fn lost(&self, what: &str) -> Result<(), End> {
        match self.on_data_loss {
            OnDataLoss::Stop => {
                let remedy = "restart to read the topic from where it begins now; on_data_loss = 'earliest' or 'latest' goes on by itself".to_owned();
                Err(End::Operator { error: what.to_owned(), remedy })
            }
            OnDataLoss::Earliest | OnDataLoss::Latest => {
                tracing::warn!(source = &*self.pump.link.name, "{what}; going on as on_data_loss says");
                Ok(())
            }
        }
    }

    fn count_lag(&self) {
        let next = self.pump.reader.next();
        let lag = |(partition, end): (&i32, &log::End)| {
            u64::try_from(end.readable - next.get(&TopicPartition::of_only_topic(*partition)).copied().unwrap_or(0))
                .unwrap_or(0)
        };
        self.pump.link.counters.lag.store(self.ends.borrow().iter().map(lag).sum(), Relaxed);
    }
}

fn view(partition: i32, record: &Record, empty_is_none: bool) -> Message<'_> {
    let value = (!(empty_is_none && record.value.is_empty())).then_some(&record.value[..]);
    Message {
        partition: TopicPartition::of_only_topic(partition),
        offset: record.offset,
        timestamp: record.timestamp,
        payload: Payload { key: record.key.as_deref(), value },
        headers: &(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Int64Type};
    use pipeline::Mark;
    use tokio::time::timeout;

    use crate::dead_letters::DeadLetterSender;
    use crate::fluvio::scripted::{Answer, Script, run};
    use crate::source::{Counters, EventReceiver, SourceEvent, TableRequest, event_queue};

    struct Running {
        events: EventReceiver,
        state: watch::Receiver<SourceState>,
        counters: Arc<Counters>,
        _durable: watch::Sender<Option<Mark>>,
    }

    fn start(options: &[(&str, &str)], script: Script) -> Running {
        let mut topic = FluvioTopic::new("t".to_owned(), cluster("nowhere:1"), request("t", options));
        topic.open_tables().expect("a table");
        let (events, receiver) = event_queue(1 << 20);
        let (state, states) = watch::channel(SourceState::Connecting);
        let (durable, marks) = watch::channel(None);
        let (dead_letters, counters) = (DeadLetterSender::default(), Arc::new(Counters::default()));
        let of_link = Arc::clone(&counters);
        let link = Link { name: "t".into(), events, state, durable: marks, dead_letters, counters: of_link };
        let soon = Duration::from_millis(5);
        let pace = Pace { retry: (soon, soon), quiet: soon * 10, silent: soon * 1000 };
        tokio::spawn(read(topic, Arc::new(script), pace, soon, link));
        Running { events: receiver, state: states, counters, _durable: durable }
    }

    fn cluster(endpoint: &str) -> Cluster {
        Cluster { endpoint: endpoint.to_owned(), tls: fluvio::config::TlsPolicy::Disabled }
    }

    fn request(name: &str, options: &[(&str, &str)]) -> TopicRequest {
        let all = [("topic", "t"), ("format", "json")];
        let mut table = TableRequest {
            name: name.to_owned(),
            options: all.iter().chain(options).map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            columns: Some(vec![("id".to_owned(), DataType::Int64)]),
            key: Vec::new(),
        };
        TopicRequest::read(&mut table).expect("options")
    }

    impl Running {
        /// The ids of the rows of the next transactions, until there are so many, with `-1` where all
        /// was said to be loaded.
        async fn take(&mut self, count: usize) -> Vec<i64> {
            let mut ids = Vec::new();
            while ids.len() < count {
                let event = timeout(Duration::from_secs(10), self.events.recv()).await;
                match event.unwrap_or_else(|_| panic!("{ids:?}, {:?}", *self.state.borrow())).expect("it runs").event {
                    SourceEvent::CopyDone { .. } => ids.push(-1),
                    SourceEvent::Transaction { changes, .. } => {
                        for (_, changes) in changes {
                            ids.extend(changes.rows.column(0).as_primitive::<Int64Type>().values());
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
            ids
        }

        async fn stopped(&mut self) -> String {
            let stopped = self.state.wait_for(|state| matches!(state, SourceState::Stopped { .. }));
            match timeout(Duration::from_secs(10), stopped).await.expect("in time").expect("it runs").clone() {
                SourceState::Stopped { error, .. } => error,
                other => panic!("{other:?}"),
            }
        }
    }

    fn partition(id: i32, begin: i64, end: i64) -> Partition {
        Partition { id, begin, end: Some(log::End { readable: end, written: end }), is_online: true }
    }

    #[tokio::test]
    async fn what_there_was_is_loaded_and_a_new_partition_is_read_whole() {
        let script = Script::new(vec![Answer::Runs(vec![run(2..4)]), Answer::Runs(vec![run(0..2)])]);
        let one = vec![partition(0, 2, 4)];
        let two = vec![partition(0, 2, 4), partition(1, 0, 2)];
        let mut running = start(&[], script.described(vec![Ok(one.clone()), Ok(one.clone()), Ok(one), Ok(two)]));
        assert_eq!(running.take(5).await, [2, 3, -1, 0, 1]);
    }

    #[tokio::test]
    async fn an_empty_topic_is_loaded_at_once_and_one_that_is_not_online_is_waited_for() {
        let off = Partition { is_online: false, ..partition(0, 0, 0) };
        let script = Script::default().described(vec![Ok(Vec::new()), Ok(vec![partition(0, 0, 0)])]);
        assert_eq!(start(&[], script).take(1).await, [-1]);
        let described = vec![Ok(Vec::new()), Ok(vec![off]), Ok(vec![partition(0, 0, 2)])];
        let script = Script::new(vec![Answer::Runs(vec![run(0..2)])]).described(described);
        assert_eq!(start(&[], script).take(3).await, [0, 1, -1], "what is not online may have records");
    }

    #[tokio::test]
    async fn what_was_deleted_before_it_was_read_stops_the_source_or_not_as_it_says() {
        let script = || {
            let evicted = Failure::Evicted { next: 7 };
            Script::new(vec![
                Answer::Ends(vec![run(0..2)]),
                Answer::Breaks(Vec::new(), evicted),
                Answer::Runs(vec![run(7..9)]),
            ])
            .described(vec![Ok(vec![partition(0, 0, 9)])])
        };
        let error = start(&[], script()).stopped().await;
        assert_eq!(error, "records 2 to 6 of partition 0 of t were deleted before they were read");
        assert_eq!(start(&[("on_data_loss", "earliest")], script()).take(5).await, [0, 1, 7, 8, -1]);
    }

    #[tokio::test]
    async fn what_was_deleted_before_the_first_record_is_no_loss() {
        let evicted = Answer::Breaks(Vec::new(), Failure::Evicted { next: 7 });
        let script = Script::new(vec![evicted, Answer::Runs(vec![run(7..9)])]);
        let mut running = start(&[], script.described(vec![Ok(vec![partition(0, 0, 9)])]));
        assert_eq!(running.take(3).await, [7, 8, -1]);
    }

    #[tokio::test]
    async fn a_topic_made_again_is_another_one() {
        let script = || {
            let there = || Ok(vec![partition(0, 0, 2)]);
            Script::new(vec![Answer::Breaks(vec![run(0..2)], Failure::Deleted), Answer::Runs(vec![run(0..2)])])
                .described(vec![there(), Err(Failure::NoTopic), Err(Failure::NoTopic), there()])
        };
        assert_eq!(start(&[], script()).stopped().await, "topic t was deleted and made again");
        assert_eq!(start(&[("on_data_loss", "earliest")], script()).take(5).await, [0, 1, -1, 0, 1]);
    }

    #[tokio::test]
    async fn records_before_the_time_to_start_at_are_passed_over() {
        // The record of an offset is written at 1000 ms and as many more.
        let options = [("start", "timestamp:1970-01-01T00:00:01.003Z")];
        let script = || Script::new(vec![Answer::Runs(vec![run(0..5)])]);
        let mut running = start(&options, script().described(vec![Ok(vec![partition(0, 0, 5)])]));
        assert_eq!(running.take(3).await, [3, 4, -1]);
        let mut running = start(
            &options,
            Script::new(vec![Answer::Runs(vec![run(0..2)])]).described(vec![Ok(vec![partition(0, 0, 2)])]),
        );
        assert_eq!(running.take(1).await, [-1], "all was older");
    }

    #[test]
    fn an_empty_value_is_none_where_keys_are_taken_away() {
        let mut record = crate::fluvio::scripted::record(1);
        record.value = bytes::Bytes::new();
        assert_eq!(view(0, &record, true).payload.value, None);
        assert_eq!(view(0, &record, false).payload.value, Some(&b""[..]));
    }

    #[test]
    fn tables_are_read_together_where_all_of_the_reading_is_the_same() {
        let mut topic = FluvioTopic::new("s".to_owned(), cluster("a:1"), request("t", &[]));
        assert!(topic.reads_with(&cluster("a:1"), "s", &request("u", &[("on_error", "stop")])));
        assert!(!topic.reads_with(&cluster("b:1"), "s", &request("u", &[])));
        assert!(!topic.reads_with(&cluster("a:1"), "other", &request("u", &[])));
        let differs = |change: fn(&mut TopicRequest)| {
            let mut other = request("u", &[]);
            change(&mut other);
            assert!(!topic.reads_with(&cluster("a:1"), "s", &other));
        };
        differs(|other| other.topic = "x".to_owned());
        differs(|other| other.start = Start::Latest);
        differs(|other| other.on_data_loss = OnDataLoss::Latest);
        differs(|other| other.mode = Mode::Upsert);
        topic.add(request("u", &[]));
        assert_eq!((topic.name(), topic.table_names()), ("s", vec!["t", "u"]));
        let names: Vec<_> = topic.declared().into_iter().map(|table| table.map(|table| table.name)).collect();
        assert_eq!(names, [Some("t".to_owned()), Some("u".to_owned())]);
    }

    #[tokio::test]
    async fn what_has_not_been_read_is_counted() {
        let script = Script::new(vec![Answer::Runs(vec![run(2..4)])]);
        let mut running = start(&[], script.described(vec![Ok(vec![partition(0, 2, 9)])]));
        assert_eq!(running.take(2).await, [2, 3]);
        let counted = async {
            while running.counters.lag.load(Relaxed) != 5 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), counted).await.expect("9 less 4");
    }

    #[tokio::test]
    async fn who_begins_at_the_end_has_all_and_reads_on() {
        let script = Script::new(vec![Answer::Runs(vec![run(4..6)])]);
        let mut running = start(&[("start", "latest")], script.described(vec![Ok(vec![partition(0, 0, 4)])]));
        assert_eq!(running.take(3).await, [-1, 4, 5]);
    }

    /// That it was deleted is told by the controller alone: its stream stays silent.
    #[tokio::test]
    async fn a_topic_that_is_gone_for_a_moment_is_another_one_unless_nothing_was_read_of_it() {
        let (there, gone) = (|| Ok(vec![partition(0, 0, 2)]), || Err(Failure::NoTopic));
        let script = || Script::new(vec![Answer::Runs(vec![run(0..2)])]);
        let mut running = start(&[], script().described(vec![there(), gone(), there()]));
        assert_eq!(running.stopped().await, "topic t was deleted and made again");
        let mut running = start(&[], script().described(vec![gone(), gone(), there()]));
        assert_eq!(running.take(3).await, [0, 1, -1]);
    }

    #[tokio::test]
    async fn a_controller_that_does_not_answer_is_trouble_until_partitions_are_read() {
        let away = || Err(Failure::Passing("connection refused".to_owned()));
        let mut running = start(&[], Script::default().described(vec![away()]));
        let retries = running.state.wait_for(|state| matches!(state, SourceState::Retrying { .. }));
        timeout(Duration::from_secs(10), retries).await.expect("in time").expect("it runs");
        let script = Script::new(vec![Answer::Runs(vec![run(0..2)])]);
        let mut running = start(&[], script.described(vec![Ok(vec![partition(0, 0, 2)]), away()]));
        assert_eq!(running.take(3).await, [0, 1, -1]);
        running.state.mark_unchanged();
        let says = running.state.wait_for(|state| matches!(state, SourceState::Retrying { .. }));
        assert!(timeout(Duration::from_millis(100), says).await.is_err(), "its servers are well");
    }

    #[tokio::test]
    async fn a_partition_that_comes_later_is_read_whole_whatever_the_time_to_start_at() {
        let script = Script::new(vec![Answer::Runs(vec![run(0..5)]), Answer::Runs(vec![run(0..2)])]);
        let one = || Ok(vec![partition(0, 0, 5)]);
        let script = script.described(vec![one(), one(), one(), Ok(vec![partition(0, 0, 5), partition(1, 0, 2)])]);
        let mut running = start(&[("start", "timestamp:1970-01-01T00:00:01.003Z")], script);
        assert_eq!(running.take(5).await, [3, 4, -1, 0, 1]);
    }

    #[tokio::test]
    async fn what_can_t_be_read_is_written_where_the_table_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("letters.jsonl");
        let mut bad = run(0..2);
        bad.records[0].value = bytes::Bytes::from_static(b"x");
        let script = Script::new(vec![Answer::Runs(vec![bad])]).described(vec![Ok(vec![partition(0, 0, 2)])]);
        let mut running = start(&[("dead_letters", &format!("file:{}", path.display()))], script);
        // The letter is there before the rows behind it are told.
        assert_eq!(running.take(2).await, [1, -1]);
        assert_eq!(std::fs::read_to_string(path).expect("a file").lines().count(), 1);
    }
}
