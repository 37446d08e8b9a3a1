//! A topic that is kept as a query has it.
//!
//! ```text
//!  events ──► Desk ──► Writer (a thread)
//!                        1. read the topic: what each key has there
//!                        2. write what differs from the rows that there are
//!                        3. each epoch's changes, a key's in order
//! ```
//!
//! Fluvio has no transactions: a reader sees each change at least once, and may see an epoch in parts.
//! A record has a partition by its key, so changes of a key stay in order. Step 1 is what makes a
//! restart harmless: what is in the topic is compared, never assumed. A record always has a value, so
//! an empty one says that its key is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use hashbrown::HashMap;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::format::encode::JsonEncoder;
use crate::sink::shape::{Shape, WrittenTopic, envelope};
use crate::sink::{Desk, Encoded, KeyChange, Lies, Pending, Sink, SinkLink, SinkRequest, taking};
use crate::source::{Counters, Problem, SourceState};
use crate::topic::thread::{Stopped, Waiting, on_thread};

use super::client::{Cluster, Remote};
use super::error::{Failure, problem};
use super::follow::{Came, Follower, Loss, Pace};
use super::log::{End, Log, Record};
use super::options;
use super::produce::Producer;

/// How long to wait for something to write before looking whether the program ends.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a server may take before that is told as trouble.
const SLOW: Duration = Duration::from_secs(5);
/// How long no record may come while the topic is read.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long to wait before what failed is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A topic that rows are written to.
pub struct FluvioSink {
    table: String,
    topic: String,
    cluster: Cluster,
    shape: Shape,
    encoder: JsonEncoder,
}

/// Opens a table that rows are written to.
///
/// # Errors
/// With what is wrong with its options.
pub fn open(mut request: SinkRequest) -> Result<Box<dyn Sink>, Problem> {
    let WrittenTopic { topic, shape, encoder } = WrittenTopic::read(&mut request)?;
    let mut table = request.table;
    let cluster = options::cluster(&mut table)?;
    Ok(Box::new(FluvioSink { table: table.name, topic, cluster, shape, encoder }))
}

impl Sink for FluvioSink {
    fn name(&self) -> &str {
        &self.table
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(async move {
            let described = Remote::new(self.cluster.clone(), self.topic.clone()).describe().await;
            described.map(|_| ()).map_err(|failure| problem(&self.table, &self.topic, &self.cluster.endpoint, &failure))
        })
    }

    fn run(self: Box<Self>, link: SinkLink) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let FluvioSink { topic, cluster, shape, encoder, .. } = *self;
            let SinkLink { name, events, state, counters } = link;
            let desk = Arc::new(Desk::default());
            let of_thread = Arc::clone(&desk);
            let taking = taking(&name, events, Arc::clone(&desk), Box::new(encoder));
            let writing = on_thread(format!("sink {name}"), move |waiting| {
                let log: Arc<dyn Log> = Arc::new(Remote::new(cluster.clone(), topic.clone()));
                Writer { name, topic, cluster, log, shape, desk: of_thread, state, counters, waiting }.run();
            });
            tokio::select! {
                () = taking => {}
                () = writing => {}
            }
        })
    }
}

/// Why writing by one producer ended.
enum Broken {
    /// The program ends.
    Over,
    /// To be tried again with another producer, or not.
    Failed(Failure),
}

impl From<Stopped> for Broken {
    fn from(_: Stopped) -> Broken {
        Broken::Over
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Broken {
        Broken::Failed(failure)
    }
}

struct Writer {
    name: Arc<str>,
    topic: String,
    cluster: Cluster,
    log: Arc<dyn Log>,
    shape: Shape,
    desk: Arc<Desk>,
    state: watch::Sender<SourceState>,
    counters: Arc<Counters>,
    waiting: Waiting,
}

impl Writer {
    fn run(&mut self) {
        let mut delay = RETRY.0;
        loop {
            let begun = Instant::now();
            let broken = match self.write() {
                Ok(never) => match never {},
                Err(broken) => broken,
            };
            match broken {
                Broken::Over => return,
                Broken::Failed(Failure::Refused { error, remedy }) => {
                    tracing::error!(sink = &*self.name, error, remedy, "stopped");
                    self.state.send_replace(SourceState::Stopped { error, remedy: remedy.to_owned() });
                    return;
                }
                Broken::Failed(failure) => {
                    let error = format!("topic {} of {}: {failure}", self.topic, self.cluster.endpoint);
                    tracing::warn!(sink = &*self.name, error, "trying again");
                    self.set_state(SourceState::Retrying { error });
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

    fn set_state(&self, state: SourceState) {
        self.state.send_if_modified(|now| std::mem::replace(now, state.clone()) != state);
    }

    /// Waits for something that a server does. One that takes long is told, and waited for.
    fn patiently<T>(&mut self, done: impl Future<Output = T>) -> Result<T, Stopped> {
        let mut done = std::pin::pin!(done);
        loop {
            if let Ok(done) = self.waiting.until(async { timeout(SLOW, done.as_mut()).await })? {
                return Ok(done);
            }
            let error = format!("no answer of {} for {} s", self.cluster.endpoint, SLOW.as_secs());
            self.set_state(SourceState::Retrying { error });
        }
    }

    /// Writes with one producer, until it is of no use any more.
    fn write(&mut self) -> Result<std::convert::Infallible, Broken> {
        let (cluster, topic) = (self.cluster.clone(), self.topic.clone());
        let producer = self.patiently(Producer::open(&cluster, &topic))??;
        self.set_state(SourceState::Streaming);
        loop {
            self.waiting.go_on()?;
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
            if let Err(broken) = self.write_epoch(&producer, &pending) {
                self.desk.put_back(pending);
                if let Broken::Failed(failure) = &broken {
                    self.set_state(SourceState::Retrying { error: failure.to_string() });
                    // What is still under way would otherwise come after what is written next.
                    self.patiently(producer.settle())?;
                }
                return Err(broken);
            }
            self.set_state(SourceState::Streaming);
        }
    }

    fn write_epoch(&mut self, producer: &Producer, pending: &Pending) -> Result<(), Broken> {
        let log = Arc::clone(&self.log);
        let shape = self.shape;
        let mut there = HashMap::new();
        if pending.is_first {
            there = self.patiently(read_topic(log, shape, Pace::default()))??;
        }
        let records = to_write(&self.name, shape, pending, there);
        self.patiently(producer.write(records.iter().map(|(key, value)| (Some(&key[..]), &value[..]))))??;
        let bytes = records.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        self.counters.messages.fetch_add(records.len() as u64, Relaxed);
        self.counters.bytes.fetch_add(bytes as u64, Relaxed);
        Ok(())
    }
}

/// The records of what is pending, but for what the topic has as it is to be; what it has beside that
/// goes.
fn to_write(
    name: &str,
    shape: Shape,
    pending: &Pending,
    mut there: HashMap<Encoded, Encoded>,
) -> Vec<(Encoded, Encoded)> {
    let mut records = Vec::new();
    let mut write = |key: &Encoded, change: &KeyChange| {
        let none = || Encoded::default();
        match shape {
            Shape::Upsert => records.push((key.clone(), change.new.clone().unwrap_or_else(none))),
            Shape::Debezium => {
                records.push((key.clone(), envelope(name, change, pending).into_bytes().into()));
                if change.new.is_none() {
                    records.push((key.clone(), none()));
                }
            }
        }
    };
    for (key, change) in &pending.changes {
        if !pending.is_first {
            write(key, change);
            continue;
        }
        let before = there.remove(key);
        if before != change.new {
            write(key, &KeyChange { old: before, new: change.new.clone() });
        }
    }
    for (key, before) in there {
        write(&key, &KeyChange { old: Some(before), new: None });
    }
    records
}

/// What each key has in the topic.
pub(super) async fn read_topic(
    log: Arc<dyn Log>,
    shape: Shape,
    pace: Pace,
) -> Result<HashMap<Encoded, Encoded>, Failure> {
    let mut there = HashMap::new();
    let mut read: BTreeMap<i32, i64> = BTreeMap::new();
    loop {
        let partitions = log.describe().await?;
        let mut has_more = false;
        for partition in &partitions {
            let Some(end) = partition.end.filter(|_| partition.is_online) else {
                return Err(Failure::Passing(format!("partition {} is not online", partition.id)));
            };
            let end = end.readable;
            let next = read.entry(partition.id).or_insert(partition.begin);
            if *next < end {
                has_more = true;
                *next = read_partition(&log, partition.id, *next, end, pace, |record| {
                    let Some(key) = record.key else { return };
                    match (!record.value.is_empty()).then(|| shape.row_in(&record.value)).flatten() {
                        Some(row) => drop(there.insert(key[..].into(), row)),
                        None => drop(there.remove(&key[..])),
                    }
                })
                .await?;
            }
        }
        if !has_more {
            return Ok(there);
        }
    }
}

/// Reads a partition from `next` to `end`, and answers where that is.
async fn read_partition(
    log: &Arc<dyn Log>,
    partition: i32,
    mut next: i64,
    end: i64,
    pace: Pace,
    mut take: impl FnMut(Record),
) -> Result<i64, Failure> {
    while next < end {
        let (tell, mut told) = mpsc::channel(1);
        let (_ends, ends) = watch::channel([(partition, End { readable: end, written: end })].into());
        let follower = Follower::new(Arc::clone(log), partition, next, 1, ends, pace);
        let mut following = tokio::task::JoinSet::new();
        following.spawn(follower.run(tell, |came| came));
        while next < end {
            let silent = || Failure::Passing(format!("partition {partition} can't be read"));
            match timeout(SILENCE_MAX, told.recv()).await.map_err(|_| silent())? {
                Some(Came::Records(records)) => {
                    for record in records {
                        next = record.offset + 1;
                        take(record);
                    }
                }
                Some(Came::Trouble(error)) => tracing::debug!(partition, error, "reading what is there"),
                Some(Came::Well) => {}
                Some(Came::Lost(Loss::Evicted { begin })) => {
                    next = begin;
                    break;
                }
                Some(Came::Refused { error, remedy }) => return Err(Failure::Refused { error, remedy }),
                Some(Came::Lost(Loss::Deleted)) => return Err(Failure::Deleted),
                Some(Came::Lost(Loss::Short)) | None => return Err(silent()),
            }
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fluvio::log::{Partition, Run};
    use crate::fluvio::scripted::{Answer, Script};

    fn encoded(text: &str) -> Encoded {
        text.as_bytes().into()
    }

    fn pending(rows: &[(&str, &str)]) -> Pending {
        let change = |row: &str| KeyChange { old: None, new: Some(encoded(row)) };
        let changes = rows.iter().map(|(key, row)| (encoded(key), change(row))).collect();
        Pending { changes, is_first: true, ..Pending::default() }
    }

    fn run(records: &[(&str, &str)]) -> Run {
        let record = |(place, (key, value)): (usize, &(&str, &str))| Record {
            offset: place as i64,
            timestamp: None,
            key: Some(key.as_bytes().to_vec().into()),
            value: value.as_bytes().to_vec().into(),
        };
        Run { first: 0, count: records.len(), records: records.iter().enumerate().map(record).collect() }
    }

    async fn what_is_there(shape: Shape, records: &[(&str, &str)]) -> HashMap<Encoded, Encoded> {
        let end = End { readable: records.len() as i64, written: records.len() as i64 };
        let partition = Partition { id: 0, begin: 0, end: Some(end), is_online: true };
        // It is cut in the middle, as answers are.
        let mut cut = run(records);
        cut.records.truncate(1);
        let script = Script::new(vec![Answer::Runs(vec![cut]), Answer::Runs(vec![run(records)])]);
        read_topic(Arc::new(script.described(vec![Ok(vec![partition])])), shape, Pace::default())
            .await
            .expect("it reads")
    }

    #[tokio::test]
    async fn only_what_differs_from_the_topic_is_written() {
        let there = what_is_there(Shape::Upsert, &[("1", "a"), ("2", "b"), ("3", "c"), ("4", "d"), ("2", "")]).await;
        let mut records = to_write("t", Shape::Upsert, &pending(&[("1", "a"), ("3", "C"), ("5", "e")]), there);
        records.sort();
        let expected = [("3", "C"), ("4", ""), ("5", "e")].map(|(key, row)| (encoded(key), encoded(row)));
        assert_eq!(records, expected);
    }

    #[tokio::test]
    async fn envelopes_are_read_back_and_a_delete_has_an_empty_record_behind_it() {
        let written = to_write("t", Shape::Debezium, &pending(&[("1", r#"{"a":1}"#)]), HashMap::new());
        let text = |bytes: &Encoded| String::from_utf8_lossy(bytes).into_owned();
        let envelopes: Vec<_> = written.iter().map(|(key, value)| (text(key), text(value))).collect();
        let records: Vec<(&str, &str)> = envelopes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let there = what_is_there(Shape::Debezium, &records).await;
        assert_eq!(there.get(&encoded("1")), Some(&encoded(r#"{"a":1}"#)));
        assert!(to_write("t", Shape::Debezium, &pending(&[("1", r#"{"a":1}"#)]), there.clone()).is_empty());
        let gone = to_write("t", Shape::Debezium, &pending(&[]), there);
        assert!(text(&gone[0].1).contains(r#""op":"d""#));
        assert_eq!(gone[1], (encoded("1"), Encoded::default()));
    }

    #[tokio::test]
    async fn what_is_written_while_the_topic_is_read_is_read_too() {
        let one = |first: i64, key: &str| {
            let mut run = run(&[(key, "a")]);
            run.first = first;
            run.records[0].offset = first;
            Answer::Runs(vec![run])
        };
        let ends = |end: i64| {
            let end = End { readable: end, written: end };
            Ok(vec![Partition { id: 0, begin: 0, end: Some(end), is_online: true }])
        };
        let script = Script::new(vec![one(0, "1"), one(1, "2")]).described(vec![ends(1), ends(2)]);
        let there = read_topic(Arc::new(script), Shape::Upsert, Pace::default()).await.expect("it reads");
        assert_eq!(there.len(), 2);
        let empty = Script::default().described(vec![ends(0)]);
        assert!(read_topic(Arc::new(empty), Shape::Upsert, Pace::default()).await.expect("it ends").is_empty());
    }
}
