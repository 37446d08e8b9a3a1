//! The thread that owns the program.
//!
//! It takes what sources tell, in order, and ends an epoch whenever it has caught up: one
//! transaction an epoch while there is time, many when there is not. So latency is that of one
//! step while idle, and throughput that of large batches under load, without a setting.
//!
//! ```text
//!  Delivery ──► Engine ──► Dataflow ────► the program        (all calls of it)
//!                 │   └──► Readiness      which projections have all that they read
//!                 │   └──► Progress       how far each source is, and what is durable
//!                 └──► hub, health, sources
//! ```

mod dataflow; // the program: what goes in, what comes out
mod progress; // how far each source has been read
mod readiness; // which projections may be shown

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use connectors::sink::SinkEvent;
use connectors::source::{Delivery, EventReceiver, SourceEvent};
use pipeline::program::StepError;
use pipeline::{Mark, Program, ProjectionId, TableId};
use push::Hub;
use tokio::sync::{mpsc, watch};

use crate::health::HealthBoard;
use dataflow::{Dataflow, Published};
use progress::Progress;

/// Changed rows that one epoch takes in before it ends, though more are waiting: clients are not
/// kept waiting for a backlog to be gone.
const EPOCH_ROWS_MAX: usize = 20_000;

/// Events that one epoch takes in: a copy has many and no end, and others want to be seen meanwhile.
const EPOCH_EVENTS_MAX: usize = 256;

/// How often, at most, state is measured for those who watch it.
const MEASURE_INTERVAL: Duration = Duration::from_secs(2);

/// One source as the engine sees it.
pub struct EngineSource {
    /// Name in positions.
    pub name: Arc<str>,
    /// The program's tables, in the order of the source's.
    pub tables: Vec<TableId>,
    /// Told what is durable.
    pub durable: watch::Sender<Option<Mark>>,
}

/// One sink as the engine sees it.
pub struct EngineSink {
    /// What is written to it.
    pub projection: ProjectionId,
    /// Told what changes.
    pub events: mpsc::UnboundedSender<SinkEvent>,
}

/// The program and what goes with it.
pub struct Engine {
    dataflow: Dataflow,
    progress: Progress,
    durable: Vec<watch::Sender<Option<Mark>>>,
    sinks: Vec<mpsc::UnboundedSender<SinkEvent>>,
    hub: Arc<Hub>,
    health: Arc<HealthBoard>,
    /// When state was last measured.
    measured: Option<Instant>,
}

impl Engine {
    /// An engine that publishes to `hub`, whose projections are those of the program in this order, and
    /// that tells sinks what is theirs.
    #[must_use]
    pub fn new(
        program: Program,
        sources: Vec<EngineSource>,
        hub: Arc<Hub>,
        health: Arc<HealthBoard>,
        projections: Vec<ProjectionId>,
        sinks: Vec<EngineSink>,
    ) -> Engine {
        let progress = Progress::new(sources.iter().map(|source| Arc::clone(&source.name)).collect());
        let (tables, durable) = sources.into_iter().map(|source| (source.tables, source.durable)).unzip();
        let (written, sinks): (Vec<ProjectionId>, _) =
            sinks.into_iter().map(|sink| (sink.projection, sink.events)).unzip();
        let dataflow = Dataflow::new(program, tables, projections, &written);
        Engine { dataflow, progress, durable, sinks, hub, health, measured: None }
    }

    /// Runs until all sources are gone.
    ///
    /// # Errors
    /// For mistakes of ours only: the program must not go on then.
    pub fn run(mut self, mut events: EventReceiver) -> anyhow::Result<()> {
        while let Some(first) = events.blocking_recv() {
            self.take(first)?;
            let mut taken = 1;
            while self.dataflow.waiting_rows() < EPOCH_ROWS_MAX
                && taken < EPOCH_EVENTS_MAX
                && let Ok(next) = events.try_recv()
            {
                self.take(next)?;
                taken += 1;
            }
            self.dataflow.flush()?;
            self.confirm();
            self.publish()?;
        }
        Ok(())
    }

    fn take(&mut self, delivery: Delivery) -> Result<(), StepError> {
        let Delivery { source, event, room } = delivery;
        match event {
            SourceEvent::CopyBegun => self.dataflow.begin_copy(source)?,
            SourceEvent::RowsCopied { table, rows } => self.dataflow.copy(source, table, rows)?,
            SourceEvent::CopyDone { position } => {
                self.dataflow.finish_copy(source)?;
                self.progress.moved(source, position, unix_micros());
            }
            SourceEvent::Transaction { changes, position, commit_time } => {
                self.dataflow.take(source, changes, room);
                self.progress.moved(source, position, commit_time);
            }
        }
        Ok(())
    }

    /// Whatever else is being copied: what is durable need not be kept by its server.
    fn confirm(&mut self) {
        for (source, mark) in self.progress.newly_durable() {
            self.durable[source].send_replace(Some(mark));
        }
    }

    /// Ends an epoch, if anything moved and there is a projection to show.
    fn publish(&mut self) -> anyhow::Result<()> {
        if !self.progress.has_moved() || !self.dataflow.shows_any() {
            return Ok(());
        }
        let Published { shown, written } = self.dataflow.publish()?;
        let stamp = self.progress.end_epoch();
        for (sink, change) in written {
            let (epoch, position, commit_time) = (stamp.epoch, stamp.position.clone(), stamp.commit_time);
            // One that has stopped has said why.
            let _ = self.sinks[sink].send(SinkEvent { epoch, position, commit_time, change });
        }
        self.hub.publish(stamp, shown)?;
        self.health.epoch_ended(self.dataflow.withheld_changed()?, self.dataflow.shows_all());
        if self.measured.is_none_or(|at| at.elapsed() > MEASURE_INTERVAL) {
            self.measured = Some(Instant::now());
            let (sizes, explained) = self.dataflow.sizes();
            self.health.measured(sizes, explained);
        }
        Ok(())
    }
}

fn unix_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}
