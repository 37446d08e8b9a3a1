//! What the program says of itself.

use std::sync::{Arc, Mutex, PoisonError};

use connectors::postgres::SourceState;
use pipeline::expr::Withheld;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use push::Health;
use tokio::sync::watch;

/// Collects what sources and engine report.
#[derive(Debug)]
pub struct HealthBoard {
    health: watch::Sender<Health>,
    progress: Mutex<Progress>,
}

/// What readiness is made of. Once ready, a program stays so: while a source is lost, what was
/// read before is still served.
#[derive(Debug)]
struct Progress {
    has_published: bool,
    has_streamed: Vec<bool>,
}

impl Progress {
    fn is_ready(&self) -> bool {
        self.has_published && self.has_streamed.iter().all(|streamed| *streamed)
    }
}

impl HealthBoard {
    /// A board with these sources, none of them started.
    #[must_use]
    pub fn new(sources: &[Arc<str>], projections: usize) -> HealthBoard {
        let health = Health {
            is_ready: false,
            sources: sources.iter().map(|name| (name.to_string(), show_state(&SourceState::Connecting))).collect(),
            withheld: vec![(0, None); projections],
        };
        let progress = Progress { has_published: false, has_streamed: vec![false; sources.len()] };
        HealthBoard { health: watch::Sender::new(health), progress: Mutex::new(progress) }
    }

    /// Follows the board.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Reports a source's state.
    pub fn set_source(&self, i: usize, state: &SourceState) {
        self.health.send_modify(|health| {
            // Inside, so that an older answer never overwrites a newer one.
            let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.has_streamed[i] |= *state == SourceState::Streaming;
            health.sources[i].1 = show_state(state);
            health.is_ready = progress.is_ready();
        });
    }

    /// Reports, at the end of an epoch, the rows withheld in each projection.
    pub fn set_withheld(&self, withheld: Vec<Withheld>) {
        let withheld: Vec<(i64, Option<String>)> = withheld.into_iter().map(|it| (it.rows, it.reason.map(|reason| reason.0))).collect();
        self.health.send_if_modified(|health| {
            let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.has_published = true;
            let is_ready = progress.is_ready();
            let changed = health.is_ready != is_ready || health.withheld != withheld;
            health.is_ready = is_ready;
            health.withheld = withheld;
            changed
        });
    }

    /// Adds the board's figures to the metrics page.
    pub fn register(&self, registry: &mut Registry, projections: &[String]) {
        let health = self.health.borrow();
        let streaming = Family::<Vec<(String, String)>, Gauge>::default();
        for (name, state) in &health.sources {
            let is_streaming = *state == show_state(&SourceState::Streaming);
            streaming.get_or_create(&vec![("source".to_owned(), name.clone())]).set(is_streaming.into());
        }
        registry.register("source_streaming", "1 while the source's changes are read as they come", streaming);
        let withheld = Family::<Vec<(String, String)>, Gauge>::default();
        for (name, (rows, _)) in projections.iter().zip(&health.withheld) {
            withheld.get_or_create(&vec![("projection".to_owned(), name.clone())]).set(*rows);
        }
        registry.register("projection_withheld_rows", "Rows withheld because an expression failed", withheld);
    }
}

/// A line for people.
fn show_state(state: &SourceState) -> String {
    match state {
        SourceState::Connecting => "connecting".to_owned(),
        SourceState::Copying { table, rows, estimated_rows: Some(estimate) } if *estimate > 0 => {
            format!("copying {table}: {rows} of about {} rows", estimate.max(rows))
        }
        SourceState::Copying { table, rows, .. } => format!("copying {table}: {rows} rows"),
        SourceState::Streaming => "streaming".to_owned(),
        SourceState::Retrying { error } => format!("trying again after: {error}"),
        SourceState::Stopped { error, remedy } => format!("stopped: {error}; {remedy}"),
    }
}
