//! What is served now, and how it came to be.
//!
//! The hub holds the rows of each projection as JSON, by key, and a bounded log of the last
//! epochs' diffs. Each changed row is encoded once, however many clients see it. The maps are
//! persistent (shared between versions), so that an image is taken by cloning a pointer under a
//! short lock and is written out at leisure, however slow the client.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use imbl::OrdMap;
use pipeline::{Delta, Epoch, Position};
use tokio::sync::watch;

use crate::json::write_row;

/// Bytes of encoded diffs that the log keeps. A client that is further behind is sent its images
/// anew: at that distance they are mostly smaller than the diffs.
pub const LOG_BYTES_MAX: usize = 64 << 20;
/// Epochs that the log keeps, whatever their size, so that merging stays quick.
pub const LOG_EPOCHS_MAX: usize = 100_000;

/// A projection of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectionId(pub usize);

/// What clients are told about a projection.
#[derive(Debug)]
pub struct Projection {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Its columns.
    pub schema: SchemaRef,
    /// Columns by which clients merge; `None` when a row is told apart only by all of it.
    pub key: Option<Vec<usize>>,
    /// Columns by which people expect to see the rows sorted, and whether largest first.
    pub order: Vec<(usize, bool)>,
    /// At least this long between two diffs to a client.
    pub batch: Duration,
}

/// The rows of a projection: by the JSON of its key, or of the whole row.
pub type Rows = OrdMap<Bytes, Row>;

/// A row as served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `[value, …]`.
    pub json: Bytes,
    /// More than 1 only where the whole row is the identity.
    pub count: i64,
}

/// Where an epoch stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The epoch.
    pub epoch: Epoch,
    /// How far each source had been read.
    pub position: Position,
    /// When its last transaction was committed, in microseconds since 1970 UTC.
    pub commit_time: i64,
}

/// What one epoch changed.
#[derive(Debug)]
pub struct Record {
    /// The epoch.
    pub stamp: Stamp,
    /// Ascending by projection.
    pub changes: Vec<(ProjectionId, Arc<Changes>)>,
    bytes: usize,
}

/// What one epoch changed in one projection.
#[derive(Debug)]
pub struct Changes {
    /// By key, or by whole row where that is the identity.
    pub rows: Vec<Change>,
    /// The same as members of a diff object, encoded once for all who see it.
    pub json: Bytes,
}

/// What became of one key, or of one whole row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key has this row now.
    Upsert {
        /// `[value, …]` of the key columns.
        key: Bytes,
        /// `[value, …]` of the row.
        row: Bytes,
    },
    /// The key has no row any more.
    Delete {
        /// `[value, …]` of the key columns.
        key: Bytes,
    },
    /// The row stands there so many times more, or fewer.
    Count {
        /// `[value, …]` of the row.
        row: Bytes,
        /// Never zero.
        by: i64,
    },
}

/// What a projection publishes at the end of an epoch.
#[derive(Debug)]
pub enum Publication {
    /// Its net change.
    Diff(Delta),
    /// It can't be served until something is put right.
    Failed(String),
}

/// All projections, and who watches them.
pub struct Hub {
    projections: Vec<Arc<Projection>>,
    state: Mutex<State>,
    changed: watch::Sender<Epoch>,
}

struct State {
    stamp: Stamp,
    rows: Vec<Rows>,
    failed: Vec<Option<Arc<str>>>,
    log: VecDeque<Arc<Record>>,
    log_bytes: usize,
    log_bytes_max: usize,
}

/// What happened since an epoch.
pub struct Since {
    /// Where the hub is now.
    pub stamp: Stamp,
    /// The epochs in between that changed anything; `None` when the log does not reach back.
    pub records: Option<Vec<Arc<Record>>>,
    /// The rows asked for, as they are now.
    pub images: Vec<Rows>,
    /// Why a projection can't be served, for those that can't.
    pub failed: BTreeMap<ProjectionId, Arc<str>>,
}

impl Hub {
    /// A hub with no rows, at epoch 0.
    #[must_use]
    pub fn new(projections: Vec<Projection>) -> Hub {
        Hub::with_log(projections, LOG_BYTES_MAX)
    }

    /// As [`Hub::new`], keeping so many bytes of diffs.
    #[must_use]
    pub fn with_log(projections: Vec<Projection>, log_bytes_max: usize) -> Hub {
        let count = projections.len();
        let state = State {
            stamp: Stamp::default(),
            rows: vec![Rows::new(); count],
            failed: vec![None; count],
            log: VecDeque::new(),
            log_bytes: 0,
            log_bytes_max,
        };
        Hub {
            projections: projections.into_iter().map(Arc::new).collect(),
            state: Mutex::new(state),
            changed: watch::Sender::new(Epoch(0)),
        }
    }

    /// The projections, in the order of their ids.
    #[must_use]
    pub fn projections(&self) -> &[Arc<Projection>] {
        &self.projections
    }

    /// Looks a projection up.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<ProjectionId> {
        self.projections.iter().position(|projection| projection.name == name).map(ProjectionId)
    }

    /// Tells when there is a new epoch.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Epoch> {
        self.changed.subscribe()
    }

    /// Makes an epoch visible: all of it at once.
    ///
    /// # Panics
    /// When epochs do not ascend, which would be a mistake of ours.
    pub fn publish(&self, stamp: Stamp, publications: Vec<(ProjectionId, Publication)>) {
        // Encoding is the work; it is done before the lock is taken.
        let mut changes = Vec::with_capacity(publications.len());
        let mut failed = Vec::new();
        for (id, publication) in publications {
            match publication {
                Publication::Diff(delta) => changes.push((id, Arc::new(encode(&self.projections[id.0], &delta)))),
                Publication::Failed(reason) => failed.push((id, Arc::from(reason))),
            }
        }
        let bytes = changes.iter().map(|(_, changes)| changes.json.len() * 2 + changes.rows.len() * size_of::<Change>()).sum::<usize>()
            + size_of::<Record>();
        let epoch = stamp.epoch;
        let dropped = {
            let mut state = self.lock();
            assert!(state.stamp.epoch < epoch, "epoch {epoch} behind {}", state.stamp.epoch);
            state.stamp = stamp.clone();
            for (id, changes) in &changes {
                state.failed[id.0] = None;
                apply(&mut state.rows[id.0], &changes.rows);
            }
            for (id, reason) in failed {
                state.failed[id.0] = Some(reason);
            }
            state.log_bytes += bytes;
            state.log.push_back(Arc::new(Record { stamp, changes, bytes }));
            let mut dropped = Vec::new();
            while state.log_bytes > state.log_bytes_max || state.log.len() > LOG_EPOCHS_MAX {
                let Some(oldest) = state.log.pop_front() else { break };
                state.log_bytes -= oldest.bytes;
                dropped.push(oldest);
            }
            dropped
        };
        drop(dropped); // after the lock: freeing a large epoch takes a while
        self.changed.send_replace(epoch);
    }

    /// What happened since `epoch`, with the images asked for, all of one moment.
    #[must_use]
    pub fn since(&self, epoch: Epoch, images: &[ProjectionId]) -> Since {
        let state = self.lock();
        let reaches_back = epoch == state.stamp.epoch || state.log.front().is_some_and(|oldest| oldest.stamp.epoch <= epoch.next());
        let records = reaches_back.then(|| {
            let first = state.log.partition_point(|record| record.stamp.epoch <= epoch);
            state.log.range(first..).cloned().collect()
        });
        let failed = state.failed.iter().enumerate().filter_map(|(i, why)| why.clone().map(|why| (ProjectionId(i), why))).collect();
        Since { stamp: state.stamp.clone(), records, images: images.iter().map(|id| state.rows[id.0].clone()).collect(), failed }
    }

    /// Rows of each projection now.
    #[must_use]
    pub fn row_counts(&self) -> Vec<usize> {
        self.lock().rows.iter().map(OrdMap::len).collect()
    }

    /// Where the hub is now.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.lock().stamp.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(rows: &mut Rows, changes: &[Change]) {
    for change in changes {
        match change {
            // Copied: a slice would keep the buffer of its whole epoch for as long as it lives.
            Change::Upsert { key, row } => {
                rows.insert(Bytes::copy_from_slice(key), Row { json: Bytes::copy_from_slice(row), count: 1 });
            }
            Change::Delete { key } => {
                rows.remove(key);
            }
            Change::Count { row, by } => {
                let count = rows.get(row).map_or(0, |row| row.count) + by;
                if count == 0 {
                    rows.remove(row);
                } else {
                    let row = Bytes::copy_from_slice(row);
                    rows.insert(row.clone(), Row { json: row, count });
                }
            }
        }
    }
}

/// Encodes a consolidated delta, each row once.
fn encode(projection: &Projection, delta: &Delta) -> Changes {
    let columns = delta.batch.columns();
    // One buffer for the whole epoch, cut into slices that share it.
    let mut buffer: Vec<u8> = Vec::with_capacity(delta.len() * 64);
    let mut spans: Vec<(usize, usize, usize)> = Vec::with_capacity(delta.len());
    for row in 0..delta.len() {
        let start = buffer.len();
        if let Some(key) = &projection.key {
            write_row(&mut buffer, key.iter().map(|&column| &columns[column]), row);
        }
        let middle = buffer.len();
        // Of a row that goes, where there is a key, only the key is told.
        if delta.weights[row] > 0 || projection.key.is_none() {
            write_row(&mut buffer, columns.iter().collect::<Vec<&ArrayRef>>(), row);
        }
        spans.push((start, middle, buffer.len()));
    }
    let buffer = Bytes::from(buffer);
    let mut rows: Vec<Change> = Vec::with_capacity(delta.len());
    if projection.key.is_none() {
        rows.extend(spans.iter().zip(&delta.weights).map(|(&(_, start, end), &by)| Change::Count { row: buffer.slice(start..end), by }));
    } else {
        let mut by_key: BTreeMap<&[u8], usize> = BTreeMap::new();
        for (row, &(start, middle, end)) in spans.iter().enumerate() {
            let key = buffer.slice(start..middle);
            let change =
                if delta.weights[row] > 0 { Change::Upsert { key, row: buffer.slice(middle..end) } } else { Change::Delete { key } };
            match by_key.get(&buffer[start..middle]) {
                // The old and the new row of one key: the new one is what counts.
                Some(&earlier) => {
                    if matches!(change, Change::Upsert { .. }) {
                        rows[earlier] = change;
                    }
                }
                None => {
                    by_key.insert(&buffer[start..middle], rows.len());
                    rows.push(change);
                }
            }
        }
    }
    let json = Bytes::from(diff_members(rows.iter()));
    Changes { rows, json }
}

/// Changes as the members of a diff object: `"upsert":[row,…],"delete":[key,…]`, or
/// `"count":[[by,row],…]`.
pub fn diff_members<'a>(changes: impl Iterator<Item = &'a Change>) -> Vec<u8> {
    let (mut upserts, mut deletes, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    let separate = |out: &mut Vec<u8>| {
        if !out.is_empty() {
            out.push(b',');
        }
    };
    for change in changes {
        match change {
            Change::Upsert { row, .. } => {
                separate(&mut upserts);
                upserts.extend_from_slice(row);
            }
            Change::Delete { key } => {
                separate(&mut deletes);
                deletes.extend_from_slice(key);
            }
            Change::Count { row, by } => {
                separate(&mut counts);
                counts.push(b'[');
                counts.extend_from_slice(itoa::Buffer::new().format(*by).as_bytes());
                counts.push(b',');
                counts.extend_from_slice(row);
                counts.push(b']');
            }
        }
    }
    let mut out = Vec::with_capacity(upserts.len() + deletes.len() + counts.len() + 32);
    for (name, list) in [("upsert", upserts), ("delete", deletes), ("count", counts)] {
        if !list.is_empty() {
            separate(&mut out);
            out.extend_from_slice(format!("\"{name}\":[").as_bytes());
            out.extend_from_slice(&list);
            out.push(b']');
        }
    }
    out
}

/// What several epochs changed in one projection, net, by key.
#[must_use]
pub fn merge<'a>(changes: impl Iterator<Item = &'a Changes>) -> Vec<Change> {
    let mut net: BTreeMap<&Bytes, Change> = BTreeMap::new();
    for change in changes.flat_map(|changes| &changes.rows) {
        match change {
            Change::Upsert { key, .. } | Change::Delete { key } => {
                net.insert(key, change.clone());
            }
            Change::Count { row, by } => {
                let sum = match net.get(row) {
                    Some(Change::Count { by: so_far, .. }) => so_far + by,
                    _ => *by,
                };
                net.insert(row, Change::Count { row: row.clone(), by: sum });
            }
        }
    }
    net.into_values().filter(|change| !matches!(change, Change::Count { by: 0, .. })).collect()
}
