//! Against a real cluster: what the client and its servers do is not for us to script.
//!
//! `DELTAFRONT_TEST_FLUVIO=host:port` names its controller. One without a server for partitions gets
//! the one at `DELTAFRONT_TEST_FLUVIO_SPU=host:public port:private port`. The shell command
//! `DELTAFRONT_TEST_FLUVIO_RESTART` kills that one and starts it again.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use fluvio::Fluvio;
use fluvio::metadata::customspu::CustomSpuSpec;
use fluvio::metadata::spu::SpuSpec;
use fluvio::metadata::topic::TopicSpec;
use futures_util::future::BoxFuture;
use pipeline::projection::Pair;
use pipeline::{DiffPart, Epoch, Op, Position};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::client::{Cluster, Remote};
use super::error::Failure;
use super::follow::{Came, Follower, Pace};
use super::log::{End, Log, Partition, Runs};
use super::options::CONNECTOR;
use super::sink::read_topic;
use crate::dead_letters::DeadLetterSender;
use crate::sink::shape::Shape;
use crate::sink::{SinkEvent, SinkLink, SinkRequest};
use crate::source::{Counters, EventReceiver, Link, SourceEvent, SourceState, TableRequest, event_queue};

const RECORDS: i64 = 200_000;
const PATIENCE: Duration = Duration::from_secs(30);

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("set {name}: see the module"))
}

fn cluster() -> Cluster {
    let tls = fluvio::config::TlsPolicy::Disabled;
    Cluster { endpoint: setting("DELTAFRONT_TEST_FLUVIO"), tls }
}

/// A client of a cluster that has somebody to keep partitions.
async fn client() -> Fluvio {
    let client = cluster().connect().await.expect("a cluster");
    let admin = client.admin().await;
    if admin.all::<SpuSpec>().await.expect("a list").is_empty() {
        let place = setting("DELTAFRONT_TEST_FLUVIO_SPU");
        let mut parts = place.split(':');
        let mut part = || parts.next().expect("host:port:port");
        let (host, public, private) = (part().to_owned(), part(), part());
        let mut spu = CustomSpuSpec { id: 5001, ..CustomSpuSpec::default() };
        spu.public_endpoint.port = public.parse().expect("a port");
        spu.public_endpoint.ingress = vec![Default::default()];
        spu.public_endpoint.ingress[0].hostname = Some(host.clone());
        spu.private_endpoint.port = private.parse().expect("a port");
        spu.private_endpoint.host = host;
        admin.create("custom-spu-5001".to_owned(), false, spu).await.expect("registered");
    }
    client
}

/// A topic that nobody has used, whose partitions are there.
async fn topic(name: &str, partitions: u32) -> String {
    let topic = format!("{name}-{}", std::process::id());
    let admin = client().await.admin().await;
    admin.create(topic.clone(), false, TopicSpec::new_computed(partitions, 1, None)).await.expect("made");
    let log = Remote::new(cluster(), topic.clone());
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "partitions of {topic} come to be");
        match log.describe().await {
            Ok(there)
                if there.iter().filter(|there| there.is_online && there.end.is_some()).count()
                    == partitions as usize =>
            {
                return topic;
            }
            _ => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A value that tells its number, as long as they were when the loss was measured.
fn value(number: i64) -> String {
    format!("{number:0180}")
}

/// As others write: by the client's producer as it comes, at full speed.
async fn produce(topic: &str, numbers: std::ops::Range<i64>) {
    let producer = client().await.topic_producer(topic).await.expect("a producer");
    let (begun, count) = (Instant::now(), numbers.end - numbers.start);
    for number in numbers {
        let value = value(number);
        producer.send(value[170..].to_owned(), value).await.expect("taken");
    }
    producer.flush().await.expect("written");
    println!("{count} records of 180 bytes written in {:?}", begun.elapsed());
}

fn request(topic: &str, options: &[(&str, &str)], columns: &[(&str, DataType)], key: &[&str]) -> TableRequest {
    let endpoint = setting("DELTAFRONT_TEST_FLUVIO");
    let all = [("endpoint", endpoint.as_str()), ("topic", topic)];
    TableRequest {
        name: "t".to_owned(),
        options: all.iter().chain(options).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        columns: Some(columns.iter().map(|(name, of)| ((*name).to_owned(), of.clone())).collect()),
        key: key.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// A source that runs, until this is dropped.
struct Running {
    topic: String,
    events: EventReceiver,
    state: watch::Receiver<SourceState>,
    counters: Arc<Counters>,
    task: tokio::task::JoinHandle<()>,
    _durable: watch::Sender<Option<pipeline::Mark>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(topic: &str, options: &[(&str, &str)]) -> Running {
    let columns = [("value", DataType::Utf8), ("p", DataType::Int32), ("o", DataType::Int64)];
    let columns_of = [("format", "text"), ("partition_column", "p"), ("offset_column", "o")];
    let options: Vec<_> = columns_of.iter().chain(options).copied().collect();
    let opened = (CONNECTOR.open)("test", vec![request(topic, &options, &columns, &[])]);
    assert!(opened.problems.is_empty(), "{:?}", opened.problems);
    let mut source = opened.sources.into_iter().next().expect("a source");
    source.discover().await.expect("its table");
    let (events, receiver) = event_queue(64 << 20);
    let (state, states) = watch::channel(SourceState::Connecting);
    let (durable, marks) = watch::channel(None);
    let counters = Arc::new(Counters::default());
    let link = Link {
        name: topic.into(),
        events,
        state,
        durable: marks,
        dead_letters: DeadLetterSender::default(),
        counters: Arc::clone(&counters),
    };
    let task = tokio::spawn(source.run(link));
    Running { topic: topic.to_owned(), events: receiver, state: states, counters, task, _durable: durable }
}

impl Running {
    /// Takes records until there are so many: each is the next of its partition, and tells its number.
    /// Answers the numbers, in the order in which they came, and whether all was said to be loaded.
    async fn take(&mut self, count: usize, next: &mut BTreeMap<i32, i64>) -> (Vec<i64>, bool) {
        let (mut numbers, mut is_loaded) = (Vec::new(), false);
        while numbers.len() < count {
            let Ok(Some(event)) = timeout(PATIENCE, self.events.recv()).await else {
                let there = Remote::new(cluster(), self.topic.clone()).describe().await;
                panic!("{} came of {count}, {:?}, there is {there:?}", numbers.len(), *self.state.borrow());
            };
            match event.event {
                SourceEvent::Transaction { changes, .. } => {
                    for (_, changes) in changes {
                        assert!(changes.ops.iter().all(|op| *op == Op::Insert));
                        let rows = &changes.rows;
                        for row in 0..rows.num_rows() {
                            let partition = rows.column(1).as_primitive::<Int32Type>().value(row);
                            let offset = rows.column(2).as_primitive::<Int64Type>().value(row);
                            let expected = next.entry(partition).or_insert(0);
                            assert_eq!(offset, *expected, "of partition {partition}");
                            *expected += 1;
                            numbers.push(rows.column(0).as_string::<i32>().value(row).parse().expect("a number"));
                        }
                    }
                }
                SourceEvent::CopyDone { .. } => is_loaded = true,
                other => panic!("{other:?}"),
            }
        }
        (numbers, is_loaded)
    }
}

/// Counts how often streams are opened.
struct Counting(Remote, AtomicU64);

impl Log for Counting {
    fn describe(&self) -> BoxFuture<'_, Result<Vec<Partition>, Failure>> {
        self.0.describe()
    }

    fn open(&self, partition: i32, from: i64, bytes_max: i32) -> BoxFuture<'_, Result<Runs, Failure>> {
        self.1.fetch_add(1, Relaxed);
        self.0.open(partition, from, bytes_max)
    }
}

mod source {
    use super::*;

    /// Follows a partition with the answers that each of so many would have.
    async fn follow_as_one_of(partitions: usize, topic: &str) {
        let log = Arc::new(Counting(Remote::new(cluster(), topic.to_owned()), AtomicU64::new(0)));
        let (tell, mut told) = mpsc::channel(16);
        let (_ends, ends) = watch::channel([(0, End { readable: RECORDS, written: RECORDS })].into());
        let follower = Follower::new(Arc::clone(&log) as _, 0, 0, partitions, ends, Pace::default());
        let begun = Instant::now();
        let following = tokio::spawn(follower.run(tell, |came| came));
        let mut next = 0;
        while next < RECORDS {
            match timeout(PATIENCE, told.recv()).await.expect("in time").expect("it runs") {
                Came::Records(records) => {
                    for record in records {
                        assert_eq!((record.offset, &record.value[..]), (next, value(next).as_bytes()));
                        next += 1;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        following.abort();
        let gaps = log.1.load(Relaxed) - 1;
        println!("{RECORDS} records, {gaps} times left out and asked for again, in {:?}", begun.elapsed());
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a Fluvio server: DELTAFRONT_TEST_FLUVIO=host:port"]
    async fn what_the_client_leaves_out_is_asked_for_again() {
        let topic = topic("gaps", 1).await;
        produce(&topic, 0..RECORDS).await;
        follow_as_one_of(16, &topic).await;
        follow_as_one_of(1, &topic).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a Fluvio server: DELTAFRONT_TEST_FLUVIO=host:port"]
    async fn all_records_come_once_and_in_order() {
        let topic = topic("all", 1).await;
        produce(&topic, 0..RECORDS).await;
        let begun = Instant::now();
        let mut running = read(&topic, &[]).await;
        let (numbers, _) = running.take(RECORDS as usize, &mut BTreeMap::new()).await;
        println!("all read in {:?}", begun.elapsed());
        assert!(numbers.iter().copied().eq(0..RECORDS));
        let end = timeout(PATIENCE, running.state.wait_for(|state| *state == SourceState::Streaming)).await;
        end.expect("it streams").expect("it runs");
        assert_eq!(running.counters.messages.load(Relaxed), RECORDS as u64);
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a Fluvio server: DELTAFRONT_TEST_FLUVIO=host:port"]
    async fn all_records_come_while_they_are_written() {
        let topic = topic("live", 3).await;
        let mut running = read(&topic, &[]).await;
        let writing = tokio::spawn({
            let topic = topic.clone();
            async move { produce(&topic, 0..RECORDS).await }
        });
        let begun = Instant::now();
        let (mut numbers, _) = running.take(RECORDS as usize, &mut BTreeMap::new()).await;
        println!("all read in {:?}", begun.elapsed());
        writing.await.expect("written");
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..RECORDS));
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a Fluvio server: DELTAFRONT_TEST_FLUVIO=host:port"]
    async fn a_server_that_is_killed_and_started_again_loses_us_nothing() {
        let topic = topic("killed", 1).await;
        produce(&topic, 0..RECORDS / 2).await;
        let mut running = read(&topic, &[]).await;
        let mut next = BTreeMap::new();
        let (mut numbers, _) = running.take(RECORDS as usize / 4, &mut next).await;
        let mut state = running.state.clone();
        let retried =
            tokio::spawn(
                async move { state.wait_for(|state| matches!(state, SourceState::Retrying { .. })).await.is_ok() },
            );
        let restart = setting("DELTAFRONT_TEST_FLUVIO_RESTART");
        let status = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &restart]).status()).await;
        assert!(status.expect("joins").expect("a shell").success());
        let begun = Instant::now();
        numbers.extend(running.take(RECORDS as usize / 2 - numbers.len(), &mut next).await.0);
        println!("the rest of what there was came {:?} after the restart", begun.elapsed());
        produce(&topic, RECORDS / 2..RECORDS).await;
        numbers.extend(running.take(RECORDS as usize / 2, &mut next).await.0);
        println!("all came {:?} after the restart", begun.elapsed());
        assert!(numbers.into_iter().eq(0..RECORDS));
        assert!(
            timeout(PATIENCE, retried).await.expect("in time").expect("joins"),
            "it was told that the server is gone"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a Fluvio server: DELTAFRONT_TEST_FLUVIO=host:port"]
    async fn a_topic_made_again_stops_the_source() {
        let topic = topic("again", 1).await;
        produce(&topic, 0..10).await;
        let mut running = read(&topic, &[]).await;
        running.take(10, &mut BTreeMap::new()).await;
        let admin = client().await.admin().await;
        admin.delete::<TopicSpec>(topic.clone()).await.expect("deleted");
        sleep(Duration::from_secs(5)).await;
        admin.create(topic.clone(), false, TopicSpec::new_computed(1, 1, None)).await.expect("made");
        let stopped = running.state.wait_for(|state| matches!(state, SourceState::Stopped { .. }));
        let state = timeout(PATIENCE, stopped).await.expect("in time").expect("it runs").clone();
        let SourceState::Stopped { error, .. } = state else { panic!("{state:?}") };
        assert!(error.contains("deleted and made again"), "{error}");
    }
}

mod sink {
    use super::*;

    fn rows(rows: &[(i64, &str)]) -> RecordBatch {
        let ids: ArrayRef = Arc::new(rows.iter().map(|(id, _)| *id).collect::<Int64Array>());
        let names: ArrayRef = Arc::new(rows.iter().map(|(_, name)| Some(*name)).collect::<StringArray>());
        RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("name", names, true)]).expect("rows")
    }

    /// A sink that runs, until this is dropped.
    struct Writing {
        events: mpsc::UnboundedSender<SinkEvent>,
        state: watch::Receiver<SourceState>,
        counters: Arc<Counters>,
        epoch: u64,
        task: tokio::task::JoinHandle<()>,
    }

    impl Drop for Writing {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    async fn start(topic: &str) -> Writing {
        let schema = rows(&[]).schema();
        let table = request(topic, &[("format", "json")], &[], &["id"]);
        let open = CONNECTOR.open_sink.expect("it writes");
        let mut sink =
            open(SinkRequest { table, project: "test".to_owned(), schema, key: Some(vec![0]) }).expect("options");
        sink.check().await.expect("its topic");
        let (tell, events) = mpsc::unbounded_channel();
        let (state, states) = watch::channel(SourceState::Connecting);
        let counters = Arc::new(Counters::default());
        let link = SinkLink { name: "t".into(), events, state, counters: Arc::clone(&counters) };
        Writing { events: tell, state: states, counters, epoch: 0, task: tokio::spawn(sink.run(link)) }
    }

    impl Writing {
        fn write(&mut self, part: DiffPart) {
            self.epoch += 1;
            let (epoch, change) = (Epoch(self.epoch), Ok(vec![part]));
            let event = SinkEvent { epoch, position: Position::default(), commit_time: 1_000_000, change };
            self.events.send(event).expect("it runs");
        }
    }

    fn all(all: &[(i64, &str)]) -> DiffPart {
        let pairs = (0..all.len() as u32).map(|row| Pair { old: None, new: Some(row) }).collect();
        DiffPart { batch: rows(all), weights: vec![1; all.len()], pairs }
    }

    /// Writes these rows as all that there are, by a sink that is started for it, and then these
    /// changes. Answers how many records it wrote.
    async fn write(topic: &str, first: &[(i64, &str)], change: Option<DiffPart>) -> u64 {
        let mut writing = start(topic).await;
        for part in [Some(all(first)), change].into_iter().flatten() {
            writing.write(part);
            sleep(Duration::from_secs(2)).await;
        }
        writing.counters.messages.load(Relaxed)
    }

    /// What the topic has.
    async fn there(topic: &str) -> BTreeMap<String, String> {
        let log = Arc::new(Remote::new(cluster(), topic.to_owned()));
        let text = |bytes: Box<[u8]>| String::from_utf8(bytes.into()).expect("JSON");
        let there = read_topic(log, Shape::Upsert, Pace::default()).await.expect("it reads");
        there.into_iter().map(|(key, row)| (text(key), text(row))).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a Fluvio server: DELTAFRONT_TEST_FLUVIO=host:port"]
    async fn a_server_that_is_killed_and_started_again_has_the_newest_of_each_key() {
        let topic = topic("sink-killed", 2).await;
        let mut writing = start(&topic).await;
        writing.write(all(&[(1, "0"), (2, "0"), (3, "0")]));
        sleep(Duration::from_secs(2)).await;
        let restart = setting("DELTAFRONT_TEST_FLUVIO_RESTART");
        let restarting = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &restart]).status());
        for number in 1..=100 {
            let (old, new) = ((number - 1).to_string(), number.to_string());
            let batch = rows(&[(1, &old), (1, &new), (2, &old), (2, &new), (3, &old), (3, &new)]);
            let pairs = [0, 2, 4].map(|row| Pair { old: Some(row), new: Some(row + 1) }).into();
            writing.write(DiffPart { batch, weights: vec![-1, 1, -1, 1, -1, 1], pairs });
            sleep(Duration::from_millis(50)).await;
        }
        assert!(restarting.await.expect("joins").expect("a shell").success());
        let well = writing.state.wait_for(|state| *state == SourceState::Streaming);
        timeout(PATIENCE, well).await.expect("in time").expect("it runs");
        // Longer than whatever a producer that was given up could still have under way.
        sleep(Duration::from_secs(10)).await;
        let expected = [1, 2, 3].map(|id| (format!(r#"{{"id":{id}}}"#), format!(r#"{{"id":{id},"name":"100"}}"#)));
        assert_eq!(there(&topic).await, BTreeMap::from(expected));
        println!("{} records written for 303 changes", writing.counters.messages.load(Relaxed));
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a Fluvio server: DELTAFRONT_TEST_FLUVIO=host:port"]
    async fn a_restart_writes_only_what_differs() {
        let topic = topic("sink", 2).await;
        let change = DiffPart {
            batch: rows(&[(1, "a"), (1, "A"), (2, "b")]),
            weights: vec![-1, 1, -1],
            pairs: vec![Pair { old: Some(0), new: Some(1) }, Pair { old: Some(2), new: None }],
        };
        assert_eq!(write(&topic, &[(1, "a"), (2, "b"), (3, "c")], Some(change)).await, 5);
        assert_eq!(write(&topic, &[(1, "A"), (3, "c")], None).await, 0, "all is as it is to be");
        assert_eq!(write(&topic, &[(1, "A"), (4, "d")], None).await, 2, "3 goes, 4 comes");
    }
}
