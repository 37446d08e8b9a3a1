//! One database: copy, stream, and again after a loss.
//!
//! Until checkpoints exist the slot is temporary: it goes with its connection, so that nothing is
//! left on the server to grow. After a lost connection the tables are copied again *beside* the
//! state that is held, and whoever takes the events compares: only the difference goes on.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use pipeline::{Lsn, Mark};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::source::{Link, Problem, ReaderGone, Source, SourceEvent, SourceState, SourceTable};

use super::catalog::{DiscoveredTable, TableRequest, discover};
use super::connect::Target;
use super::decode::{Decoded, Decoder};
use super::error::{Response, SourceError, chain, response_to};
use super::options::problem;
use super::publication::{self, Naming, Publication};
use super::replication::{Frame, Reading, Replication, STATUS_INTERVAL};
use super::snapshot::{self, TableReader};

/// First wait after a failure; doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest wait.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// How often a copy reports its progress to the log.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// How to read a database.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// What it would be called.
    pub name: String,
    /// The publication, made when missing.
    pub publication: Publication,
    /// Beginning of the slots' names.
    pub slot: String,
}

/// A database, and the tables that a project reads there.
pub struct Postgres {
    target: Target,
    options: SourceOptions,
    requests: Vec<TableRequest>,
    /// As found, in the order of the requests; empty before anybody was asked.
    tables: Vec<DiscoveredTable>,
}

impl Postgres {
    /// A database with a first table to read.
    #[must_use]
    pub fn new(target: Target, options: SourceOptions, request: TableRequest) -> Postgres {
        Postgres { target, options, requests: vec![request], tables: Vec::new() }
    }

    /// Whether this is the same database, read the same way.
    #[must_use]
    pub fn reads_from(&self, target: &Target, options: &SourceOptions) -> bool {
        self.target.is_same(target)
            && self.options.publication == options.publication
            && self.options.slot == options.slot
    }

    /// What would stop the source at its start is told before.
    async fn check_publication(&self) -> Result<(), SourceError> {
        let client = self.target.sql().await?;
        publication::check(&self.target, &client, &self.options.publication, &self.tables).await
    }

    /// Reads one more table.
    pub fn add(&mut self, request: TableRequest) {
        self.requests.push(request);
    }
}

impl Source for Postgres {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn table_names(&self) -> Vec<&str> {
        self.requests.iter().map(|request| request.name.as_str()).collect()
    }

    fn discover(&mut self) -> BoxFuture<'_, Result<Vec<SourceTable>, Vec<Problem>>> {
        Box::pin(async move {
            let found = discover(&self.target, &self.requests).await;
            self.tables = found.map_err(|problems| -> Vec<Problem> {
                problems.into_iter().map(|found| problem(found.table, &found.error)).collect()
            })?;
            self.check_publication().await.map_err(|error| vec![problem(None, &error)])?;
            let table = |table: &DiscoveredTable| SourceTable {
                name: table.name.clone(),
                schema: table.schema.clone(),
                identity: table.identity.clone(),
            };
            Ok(self.tables.iter().map(table).collect())
        })
    }

    fn run(self: Box<Self>, link: Link) -> BoxFuture<'static, ()> {
        let Postgres { target, options, tables, .. } = *self;
        Box::pin(Running { target, options, tables, link }.run())
    }
}

/// A database being read.
struct Running {
    target: Target,
    options: SourceOptions,
    tables: Vec<DiscoveredTable>,
    link: Link,
}

enum Ended {
    Failed(SourceError),
    ReaderGone,
}

impl From<SourceError> for Ended {
    fn from(error: SourceError) -> Ended {
        Ended::Failed(error)
    }
}

impl From<ReaderGone> for Ended {
    fn from(_: ReaderGone) -> Ended {
        Ended::ReaderGone
    }
}

impl Running {
    /// Runs until the reader of the events is gone, or an operator is needed.
    async fn run(self) {
        let mut wait = RETRY_MIN;
        loop {
            self.link.state.send_replace(SourceState::Connecting);
            let started = Instant::now();
            let error = match self.once().await {
                Ended::ReaderGone => return,
                Ended::Failed(error) => error,
            };
            let shown = chain(&error);
            match response_to(&error) {
                Response::Stop(remedy) => {
                    tracing::error!(source = &*self.link.name, error = shown, remedy, "source stopped");
                    self.link.state.send_replace(SourceState::Stopped { error: shown, remedy });
                    return;
                }
                Response::Retry => {
                    // A connection that held for a while starts counting anew.
                    if started.elapsed() > RETRY_MAX {
                        wait = RETRY_MIN;
                    }
                    tracing::warn!(source = &*self.link.name, error = shown, retry_in = ?wait, "source lost; trying again");
                    self.link.state.send_replace(SourceState::Retrying { error: shown });
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = self.link.events.closed() => return,
                    }
                    wait = (wait * 2).min(RETRY_MAX);
                }
            }
        }
    }

    async fn once(&self) -> Ended {
        match self.copy_and_stream().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn copy_and_stream(&self) -> Result<Infallible, Ended> {
        let sql = self.target.sql().await?;
        let naming = publication::prepare(&self.target, &sql, &self.options.publication, &self.tables).await?;
        drop(sql);
        let mut replication = Replication::connect(&self.target).await?;
        let slot = replication.create_temporary_slot(&self.slot_name()).await?;
        tracing::info!(source = &*self.link.name, slot = slot.name, at = %slot.consistent_point, "copying tables");
        self.send(SourceEvent::CopyBegun).await?;
        let client = snapshot::open(&self.target, &slot.snapshot).await?;
        for i in 0..self.tables.len() {
            self.copy_table(&client, i).await?;
        }
        drop(client);
        self.send(SourceEvent::CopyDone { position: Mark::Lsn(slot.consistent_point) }).await?;
        replication.start(&slot, &self.options.publication.name).await?;
        tracing::info!(source = &*self.link.name, from = %slot.consistent_point, "streaming");
        self.link.state.send_replace(SourceState::Streaming);
        self.stream(replication, naming, slot.consistent_point).await
    }

    /// Another name each time: the server may not yet have noticed that our last connection is
    /// gone, and then keeps its slot for a while.
    fn slot_name(&self) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        // Postgres cuts names at 63 bytes, and what tells them apart stands at the end.
        let prefix: String = self.options.slot.chars().filter(char::is_ascii).take(38).collect();
        format!("{prefix}_{:x}_{:x}", std::process::id(), now.as_millis())
    }

    async fn copy_table(&self, client: &tokio_postgres::Client, i: usize) -> Result<(), Ended> {
        let table = &self.tables[i];
        let started = Instant::now();
        let mut reported = started;
        let mut copied = 0_u64;
        self.report_copy(table, copied);
        let mut reader = TableReader::start(&self.target, client, table).await?;
        while let Some(rows) = reader.next().await? {
            copied += rows.num_rows() as u64;
            self.send(SourceEvent::RowsCopied { table: i, rows }).await?;
            self.report_copy(table, copied);
            if reported.elapsed() > PROGRESS_INTERVAL {
                reported = Instant::now();
                log_progress(table, copied, started.elapsed());
            }
        }
        tracing::info!(table = table.name, rows = copied, seconds = started.elapsed().as_secs_f32(), "copied");
        Ok(())
    }

    fn report_copy(&self, table: &DiscoveredTable, rows: u64) {
        self.link.state.send_replace(SourceState::Copying {
            table: table.name.clone(),
            rows,
            estimated_rows: table.estimated_rows,
        });
    }

    async fn send(&self, event: SourceEvent) -> Result<(), ReaderGone> {
        self.link.events.send(event).await
    }

    /// How far the server may forget its log, as far as we are told.
    fn durable(&self) -> Lsn {
        match &*self.link.durable.borrow() {
            Some(Mark::Lsn(lsn)) => *lsn,
            Some(Mark::Offsets(_)) | None => Lsn(0),
        }
    }

    async fn stream(&self, mut replication: Replication, naming: Naming, start: Lsn) -> Result<Infallible, Ended> {
        let mut decoder = Decoder::new(&self.tables, naming, start)?;
        let mut confirmed = Confirmed { durable: start, sent: start, wal_end: start, open: false };
        let mut status = interval(STATUS_INTERVAL);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The transaction that waits for room. While there is one nothing is read, so memory stays
        // bounded; the server goes on hearing from us.
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            tokio::select! {
                frame = replication.next(), if waiting.is_none() => match frame? {
                    Frame::Data(bytes) => {
                        confirmed.open = true;
                        let mut decoded = decoder.decode(&bytes)?;
                        if let Decoded::UnknownRelation(relation) = decoded {
                            decoder.learn(relation, &publication::ancestors(&self.target, relation).await?);
                            decoded = decoder.decode(&bytes)?;
                        }
                        let Decoded::Transaction(transaction) = decoded else { continue };
                        confirmed.open = false;
                        if transaction.changes.is_empty() {
                            confirmed.wal_end = confirmed.wal_end.max(transaction.end);
                            continue;
                        }
                        confirmed.sent = transaction.end;
                        let event = SourceEvent::Transaction {
                            changes: transaction.changes,
                            position: Mark::Lsn(transaction.end),
                            commit_time: transaction.commit_time,
                        };
                        if let Err(event) = self.link.events.try_send(event) {
                            waiting = Some(Box::pin(self.link.events.send(event)));
                        }
                    }
                    Frame::Keepalive { wal_end, reply_requested } => {
                        if !confirmed.open {
                            confirmed.wal_end = wal_end;
                        }
                        if reply_requested {
                            confirmed.durable = self.durable();
                            replication.send_status(confirmed.lsn(start), reading(&waiting)).await?;
                        }
                    }
                },
                sent = until_sent(&mut waiting) => {
                    sent?;
                    waiting = None;
                }
                _ = status.tick() => {
                    confirmed.durable = self.durable();
                    replication.send_status(confirmed.lsn(start), reading(&waiting)).await?;
                }
                () = self.link.events.closed() => return Err(Ended::ReaderGone),
            }
        }
    }
}

/// An event on its way. Kept until it is there: who gives up waiting goes to the end of the line.
type Waiting<'a> = Pin<Box<dyn Future<Output = Result<(), ReaderGone>> + Send + 'a>>;

async fn until_sent(waiting: &mut Option<Waiting<'_>>) -> Result<(), ReaderGone> {
    match waiting {
        Some(sending) => sending.await,
        None => std::future::pending().await,
    }
}

fn reading(waiting: &Option<Waiting<'_>>) -> Reading {
    if waiting.is_some() { Reading::Paused } else { Reading::Goes }
}

/// How far the server may forget its log.
struct Confirmed {
    /// What survives us, as the engine says.
    durable: Lsn,
    /// End of the last transaction handed to the engine.
    sent: Lsn,
    /// How far the server has looked for transactions of ours.
    wal_end: Lsn,
    /// Whether a transaction is half received.
    open: bool,
}

impl Confirmed {
    /// The log of an idle database moves too: when nothing is under way, all of it is behind us.
    fn lsn(&self, start: Lsn) -> Lsn {
        let durable = self.durable.max(start);
        if !self.open && durable >= self.sent { durable.max(self.wal_end) } else { durable }
    }
}

fn log_progress(table: &DiscoveredTable, rows: u64, elapsed: Duration) {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "for people"
    )]
    let rate = (rows as f64 / elapsed.as_secs_f64()) as u64;
    let left =
        table.estimated_rows.and_then(|estimate| estimate.checked_sub(rows)).and_then(|left| left.checked_div(rate));
    match left {
        Some(left) => tracing::info!(table = table.name, rows, rows_per_second = rate, seconds_left = left, "copying"),
        None => tracing::info!(table = table.name, rows, rows_per_second = rate, "copying"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_log_is_confirmed_and_a_busy_one_is_not() {
        let start = Lsn(100);
        let mut confirmed = Confirmed { durable: Lsn(0), sent: start, wal_end: Lsn(500), open: false };
        assert_eq!(confirmed.lsn(start), Lsn(500));
        confirmed.sent = Lsn(300);
        assert_eq!(confirmed.lsn(start), start, "a transaction is with the engine");
        confirmed.durable = Lsn(300);
        assert_eq!(confirmed.lsn(start), Lsn(500));
        confirmed.open = true;
        assert_eq!(confirmed.lsn(start), Lsn(300), "a transaction is half received");
    }
}
