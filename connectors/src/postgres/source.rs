//! One database: copy, stream, and again after a loss.
//!
//! Until checkpoints exist the slot is temporary: it goes with its connection, so that nothing is
//! left on the server to grow. After a lost connection the tables are copied again *beside* the
//! state that is held, and whoever takes the events compares: only the difference goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use pipeline::{Changes, Lsn};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::catalog::{DiscoveredTable, prepare_publication};
use super::connect::Target;
use super::decode::{Decoder, Transaction};
use super::error::{Response, SourceError, chain, response_to};
use super::replication::{Frame, Reading, Replication, STATUS_INTERVAL};
use super::snapshot::{self, TableReader};

/// First wait after a failure; doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest wait.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// How often a copy reports its progress to the log.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// What a source tells.
#[derive(Debug)]
pub enum SourceEvent {
    /// All tables are about to be copied anew.
    CopyStarted,
    /// Rows of a table, by its place in the list of tables.
    Copied {
        /// The table.
        table: usize,
        /// The rows.
        rows: RecordBatch,
    },
    /// The copy is whole, and is the state of the database at this point.
    CopyFinished {
        /// The slot's consistent point.
        position: Lsn,
    },
    /// A transaction, whole.
    Transaction {
        /// What changed, by the table's place in the list of tables.
        changes: Vec<(usize, Changes)>,
        /// Where the log goes on after it.
        end: Lsn,
        /// When it was committed, in microseconds since 1970-01-01 UTC.
        commit_time: i64,
    },
}

/// What a source is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// Making its connections.
    Connecting,
    /// Copying tables.
    Copying {
        /// The table, by its name in the project.
        table: String,
        /// Rows of it so far.
        rows: u64,
        /// Rows that Postgres thinks it has.
        estimated_rows: Option<u64>,
    },
    /// Reading changes as they come.
    Streaming,
    /// Failed, and about to try again.
    Retrying {
        /// Why.
        error: String,
    },
    /// Failed, until an operator does something.
    Stopped {
        /// Why.
        error: String,
        /// What to do.
        remedy: String,
    },
}

/// How to read a database.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Goes with each event, so that one reader can serve several sources.
    pub index: usize,
    /// Name in positions and metrics.
    pub name: Arc<str>,
    /// The publication, made when missing.
    pub publication: String,
    /// Beginning of the slots' names.
    pub slot: String,
}

/// A database being read.
pub struct Source {
    target: Target,
    options: SourceOptions,
    tables: Vec<DiscoveredTable>,
    events: mpsc::Sender<(usize, SourceEvent)>,
    state: watch::Sender<SourceState>,
    applied: watch::Receiver<Lsn>,
}

/// Whoever takes the events is gone: the program ends.
struct ReaderGone;

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

impl Source {
    /// A source that sends to `events`, and tells the server that the log up to `applied` is not
    /// needed any more.
    #[must_use]
    pub fn new(
        target: Target,
        options: SourceOptions,
        tables: Vec<DiscoveredTable>,
        events: mpsc::Sender<(usize, SourceEvent)>,
        state: watch::Sender<SourceState>,
        applied: watch::Receiver<Lsn>,
    ) -> Source {
        Source { target, options, tables, events, state, applied }
    }

    /// Runs until the reader of the events is gone, or an operator is needed.
    pub async fn run(self) {
        let mut wait = RETRY_MIN;
        loop {
            self.state.send_replace(SourceState::Connecting);
            let started = Instant::now();
            let error = match self.once().await {
                Ended::ReaderGone => return,
                Ended::Failed(error) => error,
            };
            let shown = chain(&error);
            match response_to(&error) {
                Response::Stop(remedy) => {
                    tracing::error!(source = &*self.options.name, error = shown, remedy, "source stopped");
                    self.state.send_replace(SourceState::Stopped { error: shown, remedy });
                    return;
                }
                Response::Retry => {
                    // A connection that held for a while starts counting anew.
                    if started.elapsed() > RETRY_MAX {
                        wait = RETRY_MIN;
                    }
                    tracing::warn!(source = &*self.options.name, error = shown, retry_in = ?wait, "source lost; trying again");
                    self.state.send_replace(SourceState::Retrying { error: shown });
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = self.events.closed() => return,
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

    async fn copy_and_stream(&self) -> Result<std::convert::Infallible, Ended> {
        let sql = self.target.sql().await?;
        prepare_publication(&self.target, &sql, &self.options.publication, &self.tables).await?;
        drop(sql);
        let mut replication = Replication::connect(&self.target).await?;
        let slot = replication.create_temporary_slot(&self.slot_name()).await?;
        tracing::info!(source = &*self.options.name, slot = slot.name, at = %slot.consistent_point, "copying tables");
        self.send(SourceEvent::CopyStarted).await?;
        let client = snapshot::open(&self.target, &slot.snapshot).await?;
        for i in 0..self.tables.len() {
            self.copy_table(&client, i).await?;
        }
        drop(client);
        self.send(SourceEvent::CopyFinished { position: slot.consistent_point }).await?;
        replication.start(&slot, &self.options.publication).await?;
        tracing::info!(source = &*self.options.name, from = %slot.consistent_point, "streaming");
        self.state.send_replace(SourceState::Streaming);
        self.stream(replication, slot.consistent_point).await
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
            self.send(SourceEvent::Copied { table: i, rows }).await?;
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
        self.state.send_replace(SourceState::Copying { table: table.name.clone(), rows, estimated_rows: table.estimated_rows });
    }

    async fn send(&self, event: SourceEvent) -> Result<(), ReaderGone> {
        self.events.send((self.options.index, event)).await.map_err(|_| ReaderGone)
    }

    async fn stream(&self, mut replication: Replication, start: Lsn) -> Result<std::convert::Infallible, Ended> {
        let mut decoder = Decoder::new(&self.tables, start)?;
        let mut confirmed = Confirmed { applied: start, sent: start, wal_end: start, open: false };
        let mut status = interval(STATUS_INTERVAL);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The transaction that waits for room. While there is one nothing is read, so memory stays
        // bounded; the server goes on hearing from us.
        let mut waiting: Option<Transaction> = None;
        loop {
            tokio::select! {
                frame = replication.next(), if waiting.is_none() => match frame? {
                    Frame::Data(bytes) => {
                        confirmed.open = true;
                        if let Some(transaction) = decoder.decode(&bytes)? {
                            confirmed.open = false;
                            if transaction.changes.is_empty() {
                                confirmed.wal_end = confirmed.wal_end.max(transaction.end);
                            } else {
                                confirmed.sent = transaction.end;
                                waiting = Some(transaction);
                            }
                        }
                    }
                    Frame::Keepalive { wal_end, reply_requested } => {
                        if !confirmed.open {
                            confirmed.wal_end = wal_end;
                        }
                        if reply_requested {
                            confirmed.applied = *self.applied.borrow();
                            replication.send_status(confirmed.lsn(start), reading(&waiting)).await?;
                        }
                    }
                },
                permit = self.events.reserve(), if waiting.is_some() => {
                    let permit = permit.map_err(|_| ReaderGone)?;
                    if let Some(Transaction { changes, end, commit_time }) = waiting.take() {
                        permit.send((self.options.index, SourceEvent::Transaction { changes, end, commit_time }));
                    }
                }
                _ = status.tick() => {
                    confirmed.applied = *self.applied.borrow();
                    replication.send_status(confirmed.lsn(start), reading(&waiting)).await?;
                }
                () = self.events.closed() => return Err(Ended::ReaderGone),
            }
        }
    }
}

fn reading(waiting: &Option<Transaction>) -> Reading {
    if waiting.is_some() { Reading::Paused } else { Reading::Goes }
}

/// How far the server may forget its log.
struct Confirmed {
    /// End of the last transaction that the engine has taken in.
    applied: Lsn,
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
        let applied = self.applied.max(start);
        if !self.open && applied >= self.sent { applied.max(self.wal_end) } else { applied }
    }
}

fn log_progress(table: &DiscoveredTable, rows: u64, elapsed: Duration) {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
    let rate = (rows as f64 / elapsed.as_secs_f64()) as u64;
    let left = table.estimated_rows.and_then(|estimate| estimate.checked_sub(rows)).and_then(|left| left.checked_div(rate));
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
        let mut confirmed = Confirmed { applied: Lsn(0), sent: start, wal_end: Lsn(500), open: false };
        assert_eq!(confirmed.lsn(start), Lsn(500));
        confirmed.sent = Lsn(300);
        assert_eq!(confirmed.lsn(start), start, "a transaction is with the engine");
        confirmed.applied = Lsn(300);
        assert_eq!(confirmed.lsn(start), Lsn(500));
        confirmed.open = true;
        assert_eq!(confirmed.lsn(start), Lsn(300), "a transaction is half received");
    }
}
