//! Which projections show what may be old: those of whose sources one is not being read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use connectors::SourceState;
use push::{Hub, ProjectionId};

/// Tells the hub what the state of sources means for projections.
pub struct Staleness {
    hub: Arc<Hub>,
    /// The sources that each projection reads, by its place.
    reads: Vec<BTreeSet<usize>>,
    lost: Mutex<Vec<Option<&'static str>>>,
}

impl Staleness {
    /// Of projections that read these sources, by their places.
    #[must_use]
    pub fn new(hub: Arc<Hub>, reads: Vec<BTreeSet<usize>>, sources: usize) -> Staleness {
        Staleness { hub, reads, lost: Mutex::new(vec![None; sources]) }
    }

    /// Reports a source's state. Clients are told what it means for them, and not what went wrong: an
    /// error names hosts and users.
    pub fn set_source(&self, source: usize, state: &SourceState) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost[source] = match state {
            SourceState::Retrying { .. } => Some("its source is lost, and is being connected to again"),
            SourceState::Stopped { .. } => Some("its source has stopped, until an operator has seen to it"),
            SourceState::Streaming => None,
            // On its way back, if it was lost.
            SourceState::Connecting | SourceState::Copying { .. } => lost[source],
        };
        let stale = self.reads.iter().enumerate().filter_map(|(place, sources)| {
            let reason = sources.iter().find_map(|source| lost[*source])?;
            Some((ProjectionId(place), Arc::from(reason)))
        });
        self.hub.set_stale(stale.collect());
    }
}
