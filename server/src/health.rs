//! What the program says of itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use connectors::SourceState;
use connectors::source::Counters;
use pipeline::state::Size;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use push::{Health, WithheldNow};
use tokio::sync::watch;

/// What a sink does when all is well.
const WRITING: &str = "writing";

/// Collects what sources and engine report.
#[derive(Debug)]
pub struct HealthBoard {
    health: watch::Sender<Health>,
    progress: Mutex<Progress>,
    sizes: Mutex<Vec<(String, Size)>>,
}

/// What readiness is made of. Once ready, a program stays so: while a source is lost, what was
/// read before is still served.
#[derive(Debug)]
struct Progress {
    shows_all: bool,
    has_streamed: Vec<bool>,
}

impl Progress {
    fn is_ready(&self) -> bool {
        self.shows_all && self.has_streamed.iter().all(|streamed| *streamed)
    }
}

impl HealthBoard {
    /// A board with these sources, none of them started.
    #[must_use]
    pub fn new(sources: &[Arc<str>], projections: usize) -> HealthBoard {
        let health = Health {
            is_ready: false,
            sources: sources.iter().map(|name| (name.to_string(), show_state(&SourceState::Connecting))).collect(),
            withheld: vec![WithheldNow::default(); projections],
            explained: Vec::new(),
        };
        let progress = Progress { shows_all: false, has_streamed: vec![false; sources.len()] };
        HealthBoard {
            health: watch::Sender::new(health),
            progress: Mutex::new(progress),
            sizes: Mutex::new(Vec::new()),
        }
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

    /// Reports a sink's state: it stands among the sources, and readiness does not wait for it.
    pub fn set_sink(&self, name: &str, state: &SourceState) {
        let name = format!("INSERT INTO {name}");
        let shown = match state {
            SourceState::Streaming => WRITING.to_owned(),
            state => show_state(state),
        };
        self.health.send_modify(|health| match health.sources.iter_mut().find(|(of, _)| *of == name) {
            Some((_, there)) => *there = shown,
            None => health.sources.push((name, shown)),
        });
    }

    /// Reports the end of an epoch: the rows withheld in the projections that it touched, by their
    /// place, and whether every projection has been shown.
    pub fn epoch_ended(&self, withheld: Vec<(usize, WithheldNow)>, shows_all: bool) {
        self.health.send_if_modified(|health| {
            let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.shows_all |= shows_all;
            let mut changed = std::mem::replace(&mut health.is_ready, progress.is_ready()) != health.is_ready;
            for (place, now) in withheld {
                changed |= health.withheld[place] != now;
                health.withheld[place] = now;
            }
            changed
        });
    }

    /// Reports how large state is, store by store, and each projection's operators with theirs.
    pub fn measured(&self, sizes: Vec<(String, Size)>, explained: Vec<Arc<str>>) {
        *self.sizes.lock().unwrap_or_else(PoisonError::into_inner) = sizes;
        // Nobody waits for this.
        self.health.send_if_modified(|health| {
            health.explained = explained;
            false
        });
    }

    /// Adds the board's figures to the metrics page.
    pub fn register(&self, registry: &mut Registry, projections: &[String]) {
        let health = self.health.borrow();
        let streaming = Family::<Vec<(String, String)>, Gauge>::default();
        for (name, state) in &health.sources {
            let is_streaming = *state == show_state(&SourceState::Streaming) || state == WRITING;
            streaming.get_or_create(&vec![("source".to_owned(), name.clone())]).set(is_streaming.into());
        }
        registry.register("source_streaming", "1 while the source's changes are read as they come", streaming);
        let withheld = Family::<Vec<(String, String)>, Gauge>::default();
        for (name, now) in projections.iter().zip(&health.withheld) {
            withheld.get_or_create(&vec![("projection".to_owned(), name.clone())]).set(now.rows);
        }
        registry.register("projection_withheld_rows", "Rows withheld because an expression failed", withheld);
        let (rows, bytes) =
            (Family::<Vec<(String, String)>, Gauge>::default(), Family::<Vec<(String, String)>, Gauge>::default());
        for (label, size) in self.sizes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let labels = vec![
                ("of".to_owned(), label.clone()),
                ("part".to_owned(), size.name.part.to_owned()),
                ("id".to_owned(), size.name.of.to_string()),
            ];
            rows.get_or_create(&labels).set(i64::try_from(size.rows).unwrap_or(i64::MAX));
            bytes.get_or_create(&labels).set(i64::try_from(size.bytes).unwrap_or(i64::MAX));
        }
        registry.register("state_rows", "Keys of each store of the engine's state", rows);
        registry.register("state_bytes", "Bytes of each store of the engine's state", bytes);
    }
}

/// Adds what sources count to the metrics page.
pub fn register_counters(registry: &mut Registry, sources: &[(Arc<str>, Arc<Counters>)]) {
    let mut register = |name: &str, help: &str, of: fn(&Counters) -> &AtomicU64| {
        let family = Family::<Vec<(String, String)>, Counter>::default();
        for (source, counters) in sources {
            let labels = vec![("source".to_owned(), source.to_string())];
            family.get_or_create(&labels).inc_by(of(counters).load(Ordering::Relaxed));
        }
        registry.register(name, help, family);
    };
    register("source_messages", "Messages read, of sources that are topics", |counters| &counters.messages);
    register("source_bytes", "Bytes of keys and values of these messages", |counters| &counters.bytes);
    register("source_dead_letters", "Messages that could not be read", |counters| &counters.dead_letters);
    let lag = Family::<Vec<(String, String)>, Gauge>::default();
    for (source, counters) in sources {
        let messages = i64::try_from(counters.lag.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        lag.get_or_create(&vec![("source".to_owned(), source.to_string())]).set(messages);
    }
    registry.register("source_lag_messages", "Messages that are there and not read yet, as last seen", lag);
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
