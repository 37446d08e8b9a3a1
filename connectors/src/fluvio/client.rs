//! What is asked of a topic, asked of a cluster.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fluvio::config::TlsPolicy;
use fluvio::dataplane::record::Batch;
use fluvio::metadata::objects::Metadata;
use fluvio::metadata::partition::PartitionSpec;
use fluvio::metadata::topic::TopicSpec;
use fluvio::{ConsumerConfig, Fluvio, FluvioAdmin, FluvioClusterConfig, Isolation, Offset};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryFutureExt};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::error::Failure;
use super::log::{End, Log, Partition, Record, Run, Runs};

/// How long a server may take to answer a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A cluster, as a project names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Host and port of its controller's public side.
    pub endpoint: String,
    /// How its connections are secured.
    pub tls: TlsPolicy,
}

impl Cluster {
    /// A client with connections of its own.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn connect(&self) -> Result<Fluvio, Failure> {
        let mut config = FluvioClusterConfig::new(&self.endpoint).with_tls(self.tls.clone());
        config.client_id = Some("deltafront".to_owned());
        in_time(Fluvio::connect_with_config(&config).map_err(|error| Failure::of(&*error))).await
    }
}

/// Answers, or says that nobody did.
async fn in_time<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Failure::Passing(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()));
    timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| Err(late()))
}

/// A topic of a cluster.
pub struct Remote {
    cluster: Cluster,
    topic: String,
    /// Kept for the next question, until one is not answered.
    admin: Mutex<Option<Arc<FluvioAdmin>>>,
    /// Whether a partition is kept by more than one server, as last heard. What they may still lose is
    /// not read then: it would be taken back without a word. One that is kept by one has nothing of the
    /// kind; and its server writes down now and then only what it has promised, so that after a crash
    /// it would not show what it has, until somebody writes.
    is_replicated: AtomicBool,
}

impl Remote {
    /// Nobody is asked yet.
    #[must_use]
    pub fn new(cluster: Cluster, topic: String) -> Remote {
        Remote { cluster, topic, admin: Mutex::new(None), is_replicated: AtomicBool::new(true) }
    }

    async fn try_describe(&self) -> Result<Vec<Partition>, Failure> {
        let mut kept = self.admin.lock().await;
        let admin = match kept.take() {
            Some(admin) => admin,
            None => Arc::new(self.cluster.connect().await?.admin().await),
        };
        let topics = in_time(admin.all::<TopicSpec>().map_err(|error| Failure::of(&*error))).await?;
        let partitions = in_time(admin.all::<PartitionSpec>().map_err(|error| Failure::of(&*error))).await?;
        *kept = Some(admin);
        if !topics.iter().any(|topic| topic.name == self.topic) {
            return Err(Failure::NoTopic);
        }
        let own = partitions.into_iter().filter_map(|partition| {
            // `topic-0`; a topic's own name may have dashes too.
            let (topic, id) = partition.name.rsplit_once('-')?;
            let id = id.parse().ok()?;
            (topic == self.topic && !partition.status.is_being_deleted).then_some((id, partition))
        });
        let own: Vec<(i32, _)> = own.collect();
        let is_replicated = own.iter().any(|(_, partition)| partition.spec.replicas.len() > 1);
        self.is_replicated.store(is_replicated, Relaxed);
        let partition = |(id, partition): (i32, Metadata<PartitionSpec>)| {
            let (status, leader) = (&partition.status, &partition.status.leader);
            let readable = if is_replicated { leader.hw } else { leader.leo };
            Partition {
                id,
                begin: status.base_offset.max(0),
                end: (readable >= 0).then_some(End { readable, written: leader.leo }),
                is_online: status.is_readable(),
            }
        };
        let mut found: Vec<Partition> = own.into_iter().map(partition).collect();
        found.sort_by_key(|partition| partition.id);
        Ok(found)
    }

    async fn try_open(&self, partition: i32, from: i64, bytes_max: i32) -> Result<Runs, Failure> {
        let partition = u32::try_from(partition).map_err(|_| Failure::NoTopic)?;
        let from = Offset::absolute(from).map_err(|error| Failure::of(&error))?;
        // A connection of its own for each partition, and a new one each time. Streams of one
        // connection wait for each other: one that is not read from holds up the answers of all, also
        // the one that another stream is being opened with. And a stream that is left stays open at the
        // server until its connection ends.
        let client = self.cluster.connect().await?;
        // Deprecated for what has no batches: and only a batch tells how many records it should have.
        #[expect(deprecated, reason = "the successor hands out records alone, and retries by itself")]
        let consumer =
            client.partition_consumer(self.topic.as_str(), partition).await.map_err(|error| Failure::of(&*error))?;
        let is_replicated = self.is_replicated.load(Relaxed);
        let isolation = if is_replicated { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
        let config = ConsumerConfig::builder()
            .max_bytes(bytes_max)
            .isolation(isolation)
            .build()
            .map_err(|error| Failure::of(&*error))?;
        let batches = consumer.stream_batches_with_config(from, config).await.map_err(|error| Failure::of(&*error))?;
        let runs = batches.map(move |batch| {
            // Lives as long as the stream.
            let _ = (&client, &consumer);
            batch.map(run).map_err(|code| Failure::from(&code))
        });
        Ok(runs.boxed())
    }
}

impl Log for Remote {
    fn describe(&self) -> BoxFuture<'_, Result<Vec<Partition>, Failure>> {
        self.try_describe().boxed()
    }

    fn open(&self, partition: i32, from: i64, bytes_max: i32) -> BoxFuture<'_, Result<Runs, Failure>> {
        in_time(self.try_open(partition, from, bytes_max)).boxed()
    }
}

fn run(batch: Batch) -> Run {
    let (first, count, written) = (batch.get_base_offset(), batch.records_len(), batch.get_base_timestamp());
    let records = batch.own_records().into_iter().zip(0..).map(|(record, place)| Record {
        offset: first.saturating_add(place),
        timestamp: (written > 0).then(|| written.saturating_add(record.timestamp_delta())),
        key: record.key.as_ref().map(|key| (**key).clone()),
        value: (*record.value).clone(),
    });
    Run { first, count, records: records.collect() }
}
