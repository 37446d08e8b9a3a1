//! The thread that owns the program.
//!
//! It takes what sources tell, in order, and ends an epoch whenever it has caught up: one
//! transaction an epoch while there is time, many when there is not. So latency is that of one
//! step while idle, and throughput that of large batches under load, without a setting.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use connectors::postgres::SourceEvent;
use pipeline::program::StepError;
use pipeline::table::TableCopy;
use pipeline::{Changes, Epoch, Lsn, Mark, Program, Published, TableId};
use push::Hub;
use push::hub::{Publication, Stamp};
use tokio::sync::{mpsc, watch};

use crate::health::HealthBoard;

/// Changed rows that one epoch takes in before it ends, though more are waiting: clients are not
/// kept waiting for a backlog to be gone.
const EPOCH_ROWS_MAX: usize = 20_000;

/// Events that one epoch takes in: a copy has many and no end, and others want to be seen meanwhile.
const EPOCH_EVENTS_MAX: usize = 256;

/// One source as the engine sees it.
pub struct EngineSource {
    /// Name in positions.
    pub name: Arc<str>,
    /// The program's tables, in the order of the source's.
    pub tables: Vec<TableId>,
    /// Told what has been taken in.
    pub applied: watch::Sender<Lsn>,
}

/// The program and what goes with it.
pub struct Engine {
    program: Program,
    sources: Vec<SourceProgress>,
    hub: Arc<Hub>,
    health: Arc<HealthBoard>,
    projections: Vec<pipeline::ProjectionId>,
    stamp: Stamp,
    /// Taken in, and not yet sent through the program.
    waiting: Vec<(TableId, Changes)>,
    waiting_rows: usize,
    /// Sent through the program, and not yet published.
    dirty: bool,
}

struct SourceProgress {
    source: EngineSource,
    copies: Vec<TableCopy>,
    is_loaded: bool,
    end: Lsn,
}

impl Engine {
    /// An engine that publishes to `hub`, whose projections are those of the program in this order.
    #[must_use]
    pub fn new(
        program: Program,
        sources: Vec<EngineSource>,
        hub: Arc<Hub>,
        health: Arc<HealthBoard>,
        projections: Vec<pipeline::ProjectionId>,
    ) -> Engine {
        let sources =
            sources.into_iter().map(|source| SourceProgress { source, copies: Vec::new(), is_loaded: false, end: Lsn(0) }).collect();
        Engine { program, sources, hub, health, projections, stamp: Stamp::default(), waiting: Vec::new(), waiting_rows: 0, dirty: false }
    }

    /// Runs until all sources are gone.
    ///
    /// # Errors
    /// For mistakes of ours only: the program must not go on then.
    pub fn run(mut self, mut events: mpsc::Receiver<(usize, SourceEvent)>) -> Result<(), StepError> {
        while let Some((source, event)) = events.blocking_recv() {
            self.take(source, event)?;
            let mut taken = 1;
            while self.waiting_rows < EPOCH_ROWS_MAX
                && taken < EPOCH_EVENTS_MAX
                && let Ok((source, event)) = events.try_recv()
            {
                self.take(source, event)?;
                taken += 1;
            }
            self.flush()?;
            // Whatever else is being copied: what was taken in need not be kept by its server.
            for source in &self.sources {
                source.source.applied.send_replace(source.end);
            }
            self.publish()?;
        }
        Ok(())
    }

    fn take(&mut self, i: usize, event: SourceEvent) -> Result<(), StepError> {
        match event {
            SourceEvent::CopyStarted => {
                self.flush()?;
                let tables = self.sources[i].source.tables.len();
                self.sources[i].copies = std::iter::repeat_with(TableCopy::default).take(tables).collect();
            }
            SourceEvent::Copied { table, rows } => {
                let source = &mut self.sources[i];
                let id = source.source.tables[table];
                self.program
                    .table(id)
                    .copy(&mut source.copies[table], &rows)
                    .map_err(|cause| StepError::Node { node: format!("copy of table {table} of {}", source.source.name), cause })?;
            }
            SourceEvent::CopyFinished { position } => {
                let copies = std::mem::take(&mut self.sources[i].copies);
                let tables = self.sources[i].source.tables.clone();
                for (id, copy) in tables.into_iter().zip(copies) {
                    self.program.finish_copy(id, copy)?;
                }
                self.moved(i, position, unix_micros());
                self.sources[i].is_loaded = true;
            }
            SourceEvent::Transaction { changes, end, commit_time } => {
                for (table, changes) in changes {
                    self.waiting_rows += changes.ops.len();
                    self.waiting.push((self.sources[i].source.tables[table], changes));
                }
                self.moved(i, end, commit_time);
            }
        }
        Ok(())
    }

    fn moved(&mut self, i: usize, end: Lsn, commit_time: i64) {
        self.sources[i].end = end;
        self.stamp.position.marks.insert(Arc::clone(&self.sources[i].source.name), Mark::Lsn(end));
        self.stamp.commit_time = self.stamp.commit_time.max(commit_time);
        self.dirty = true;
    }

    /// Sends what was taken in through the program.
    fn flush(&mut self) -> Result<(), StepError> {
        if !self.waiting.is_empty() {
            let changes = std::mem::take(&mut self.waiting);
            self.waiting_rows = 0;
            self.program.apply(&changes)?;
        }
        Ok(())
    }

    /// Ends an epoch, if there is anything to show and every table has been copied once.
    fn publish(&mut self) -> Result<(), StepError> {
        if !self.dirty || !self.sources.iter().all(|source| source.is_loaded) {
            return Ok(());
        }
        self.dirty = false;
        if self.stamp.epoch == Epoch(0) {
            // A program whose tables are all empty has not made a step yet.
            self.program.step(Vec::new())?;
        }
        let publications = self
            .program
            .publish()?
            .into_iter()
            .filter_map(|(id, published)| {
                let place = push::ProjectionId(self.projections.iter().position(|known| *known == id)?);
                match published {
                    Published::Unchanged => None,
                    Published::Diff(delta) => Some((place, Publication::Diff(delta))),
                    Published::KeyConflict { key } => Some((place, Publication::Failed(format!("two rows have the declared key {key}")))),
                }
            })
            .collect();
        self.stamp.epoch = self.stamp.epoch.next();
        self.hub.publish(self.stamp.clone(), publications);
        let withheld = self.projections.iter().map(|id| self.program.withheld(*id)).collect();
        self.health.set_withheld(withheld);
        Ok(())
    }
}

fn unix_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}
