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
use pipeline::{DiffPart, Epoch, Position};
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
    /// The key, which had no row, has this one.
    Insert {
        /// `[value, …]` of the key columns.
        key: Bytes,
        /// `[value, …]` of the row.
        row: Bytes,
    },
    /// The key has this row in place of another.
    Update {
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
    /// Its net change, which may be nothing.
    Diff(Vec<DiffPart>),
    /// It can't be served until something is put right.
    Failed(String),
}

/// All projections, and who watches them.
pub struct Hub {
    projections: Vec<Arc<Projection>>,
    state: Mutex<State>,
    changed: watch::Sender<Epoch>,
    /// What a test lets happen after each look: who looks twice is to see two moments.
    #[cfg(test)]
    after_look: Mutex<Option<AfterLook>>,
}

#[cfg(test)]
type AfterLook = Box<dyn Fn(&Hub) + Send>;

struct State {
    stamp: Stamp,
    rows: Vec<Rows>,
    /// Whether a projection's rows are there. Until then it has none to show, which is not the same
    /// as having none.
    is_ready: Vec<bool>,
    failed: BTreeMap<ProjectionId, Arc<str>>,
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
    /// The rows asked for, as they are now; `None` for a projection that is not ready.
    pub images: Vec<Option<Rows>>,
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
            is_ready: vec![false; count],
            failed: BTreeMap::new(),
            log: VecDeque::new(),
            log_bytes: 0,
            log_bytes_max,
        };
        Hub {
            projections: projections.into_iter().map(Arc::new).collect(),
            state: Mutex::new(state),
            changed: watch::Sender::new(Epoch(0)),
            #[cfg(test)]
            after_look: Mutex::default(),
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

    /// Makes an epoch visible: all of it at once. A projection is ready from its first diff on, which
    /// may be empty.
    ///
    /// # Panics
    /// When epochs do not ascend, which would be a mistake of ours.
    pub fn publish(&self, stamp: Stamp, publications: Vec<(ProjectionId, Publication)>) {
        // Encoding is the work; it is done before the lock is taken.
        let mut changes = Vec::with_capacity(publications.len());
        let mut failed = Vec::new();
        for (id, publication) in publications {
            match publication {
                Publication::Diff(parts) => changes.push((id, Arc::new(encode(&self.projections[id.0], &parts)))),
                Publication::Failed(reason) => failed.push((id, Arc::from(reason))),
            }
        }
        let bytes = changes
            .iter()
            .map(|(_, changes)| changes.json.len() * 2 + changes.rows.len() * size_of::<Change>())
            .sum::<usize>()
            + size_of::<Record>();
        let epoch = stamp.epoch;
        let dropped = {
            let mut state = self.lock();
            assert!(state.stamp.epoch < epoch, "epoch {epoch} behind {}", state.stamp.epoch);
            state.stamp = stamp.clone();
            for (id, changes) in &changes {
                state.failed.remove(id);
                state.is_ready[id.0] = true;
                apply(&mut state.rows[id.0], &changes.rows);
            }
            for (id, reason) in failed {
                state.failed.insert(id, reason);
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
        let reaches_back =
            epoch == state.stamp.epoch || state.log.front().is_some_and(|oldest| oldest.stamp.epoch <= epoch.next());
        let records = reaches_back.then(|| {
            let first = state.log.partition_point(|record| record.stamp.epoch <= epoch);
            state.log.range(first..).cloned().collect()
        });
        let image = |id: &ProjectionId| state.is_ready[id.0].then(|| state.rows[id.0].clone());
        let images = images.iter().map(image).collect();
        let since = Since { stamp: state.stamp.clone(), records, images, failed: state.failed.clone() };
        drop(state);
        #[cfg(test)]
        self.looked();
        since
    }

    #[cfg(test)]
    fn looked(&self) {
        if let Some(happens) = &*self.after_look.lock().unwrap_or_else(PoisonError::into_inner) {
            happens(self);
        }
    }

    /// From now on, something happens after each look.
    #[cfg(test)]
    pub(crate) fn after_each_look(&self, happens: impl Fn(&Hub) + Send + 'static) {
        *self.after_look.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(happens));
    }

    /// Rows of each projection now.
    #[must_use]
    pub fn row_counts(&self) -> Vec<usize> {
        self.lock().rows.iter().map(OrdMap::len).collect()
    }

    /// Whether each projection is ready.
    #[must_use]
    pub fn are_ready(&self) -> Vec<bool> {
        self.lock().is_ready.clone()
    }

    /// Where the hub is now.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.lock().stamp.clone()
    }

    /// For tests that begin with empty projections.
    #[cfg(test)]
    pub(crate) fn make_ready(&self) {
        self.lock().is_ready.fill(true);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(rows: &mut Rows, changes: &[Change]) {
    for change in changes {
        match change {
            // Copied: a slice would keep the buffer of its whole epoch for as long as it lives.
            Change::Insert { key, row } | Change::Update { key, row } => {
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

/// Encodes what an epoch changes, each row once.
fn encode(projection: &Projection, parts: &[DiffPart]) -> Changes {
    let mut rows: Vec<Change> = Vec::with_capacity(parts.iter().map(|part| part.weights.len()).sum());
    for part in parts {
        let columns = part.batch.columns();
        // One buffer for the part, cut into slices that share it.
        let mut buffer: Vec<u8> = Vec::with_capacity(part.weights.len() * 64);
        let whole_row =
            |buffer: &mut Vec<u8>, row: usize| write_row(buffer, columns.iter().collect::<Vec<&ArrayRef>>(), row);
        let Some(key) = &projection.key else {
            let mut ends = Vec::with_capacity(part.weights.len());
            for row in 0..part.weights.len() {
                let start = buffer.len();
                whole_row(&mut buffer, row);
                ends.push((start, buffer.len()));
            }
            let buffer = Bytes::from(buffer);
            rows.extend(
                ends.iter()
                    .zip(&part.weights)
                    .map(|(&(start, end), &by)| Change::Count { row: buffer.slice(start..end), by }),
            );
            continue;
        };
        let mut spans: Vec<(usize, usize, usize)> = Vec::with_capacity(part.pairs.len());
        for pair in &part.pairs {
            let Some(either) = pair.new.or(pair.old) else { continue };
            let start = buffer.len();
            write_row(&mut buffer, key.iter().map(|&column| &columns[column]), either as usize);
            let middle = buffer.len();
            // Of a row that goes only the key is told.
            if let Some(new) = pair.new {
                whole_row(&mut buffer, new as usize);
            }
            spans.push((start, middle, buffer.len()));
        }
        let buffer = Bytes::from(buffer);
        rows.extend(spans.iter().zip(&part.pairs).map(|(&(start, middle, end), pair)| {
            let (key, row) = (buffer.slice(start..middle), buffer.slice(middle..end));
            match (pair.old, pair.new) {
                (_, None) => Change::Delete { key },
                (None, Some(_)) => Change::Insert { key, row },
                (Some(_), Some(_)) => Change::Update { key, row },
            }
        }));
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
            Change::Insert { row, .. } | Change::Update { row, .. } => {
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
///
/// What is told of a key depends on whether it had a row before the first of these epochs, and
/// whether it has one after the last: a row that came and went again is not told at all. One that
/// changed and changed back is told as it was; who does not keep old rows can't know.
#[must_use]
pub fn merge<'a>(changes: impl Iterator<Item = &'a Changes>) -> Vec<Change> {
    let mut net: BTreeMap<&Bytes, Change> = BTreeMap::new();
    for change in changes.flat_map(|changes| &changes.rows) {
        let (Change::Insert { key, .. }
        | Change::Update { key, .. }
        | Change::Delete { key }
        | Change::Count { row: key, .. }) = change;
        let merged = match (net.get(key), change) {
            (Some(Change::Insert { .. }), Change::Delete { .. }) => None,
            (Some(Change::Insert { .. }), Change::Update { key, row }) => {
                Some(Change::Insert { key: key.clone(), row: row.clone() })
            }
            (Some(Change::Delete { .. }), Change::Insert { key, row }) => {
                Some(Change::Update { key: key.clone(), row: row.clone() })
            }
            (Some(Change::Count { by: so_far, .. }), Change::Count { row, by }) => {
                Some(Change::Count { row: row.clone(), by: so_far + by }).filter(|_| so_far + by != 0)
            }
            _ => Some(change.clone()),
        };
        match merged {
            Some(merged) => net.insert(key, merged),
            None => net.remove(key),
        };
    }
    net.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};

    use crate::testing::{ample_hub, fail, hub, not_ready, projection, publish, ready, stamp, text};

    /// The rows of both projections after these epochs, a line each, and what each epoch is sent as.
    fn check(epochs: &[&str], expected: Expect) {
        let hub = ample_hub();
        let mut told = String::new();
        for (epoch, changes) in (1..).zip(epochs) {
            publish(&hub, epoch, changes);
            let since = hub.since(Epoch(epoch - 1), &[]);
            for (id, changes) in &since.records.expect("the last epoch")[0].changes {
                let _ = writeln!(told, "{epoch}: {} {{{}}}", hub.projections()[id.0].name, text(&changes.json));
            }
        }
        let since = hub.since(hub.stamp().epoch, &[ProjectionId(0), ProjectionId(1)]);
        for (projection, rows) in hub.projections().iter().zip(&since.images) {
            let _ = write!(told, "{}:", projection.name);
            for (key, Row { json, count }) in rows.as_ref().expect("it is ready") {
                let _ = write!(told, " {}={}*{count}", text(key), text(json));
            }
            told.push('\n');
        }
        expected.assert_eq(&told);
    }

    #[test]
    fn rows_come_change_and_go_by_key() {
        check(
            &["+keyed(1,ann) +keyed(2,bob)", "-keyed(1,ann) +keyed(1,eve)", "-keyed(2,bob)"],
            expect![[r#"
                1: keyed {"upsert":[[1,"ann"],[2,"bob"]]}
                2: keyed {"upsert":[[1,"eve"]]}
                3: keyed {"delete":[[2]]}
                keyed: [1]=[1,"eve"]*1
                bag:
            "#]],
        );
    }

    /// The net change of a projection is a set of rows in no order: the old row of a key may come
    /// after the new one, and a key whose row only changed must not be told as gone.
    #[test]
    fn the_old_row_may_come_after_the_new_one() {
        check(
            &["+keyed(1,ann)", "+keyed(1,eve) -keyed(1,ann)"],
            expect![[r#"
                1: keyed {"upsert":[[1,"ann"]]}
                2: keyed {"upsert":[[1,"eve"]]}
                keyed: [1]=[1,"eve"]*1
                bag:
            "#]],
        );
    }

    #[test]
    fn a_whole_row_counts() {
        check(
            &["+2bag(5,x) +bag(6,y)", "-bag(5,x) +3bag(7,z)", "-bag(6,y) -3bag(7,z)"],
            expect![[r#"
                1: bag {"count":[[2,[5,"x"]],[1,[6,"y"]]]}
                2: bag {"count":[[-1,[5,"x"]],[3,[7,"z"]]]}
                3: bag {"count":[[-1,[6,"y"]],[-3,[7,"z"]]]}
                keyed:
                bag: [5,"x"]=[5,"x"]*1
            "#]],
        );
    }

    /// How many records the log holds, and what it weighs.
    fn log_of(hub: &Hub) -> (usize, usize) {
        let state = hub.lock();
        (state.log.len(), state.log_bytes)
    }

    /// Everything between two epochs, by where the client is. The hub's log here is as long as two
    /// of these records.
    #[test]
    fn the_log_reaches_back_to_the_epoch_before_its_oldest_record() {
        let weight = {
            let hub = ample_hub();
            publish(&hub, 1, "+keyed(1,ann)");
            log_of(&hub).1
        };
        let hub = hub(2 * weight);
        assert_eq!(weight, 2 * r#""upsert":[[1,"ann"]]"#.len() + size_of::<Change>() + size_of::<Record>());
        let mut told = String::new();
        for epoch in 1..=4 {
            publish(&hub, epoch, &format!("+keyed({epoch},ann)"));
            let _ = write!(told, "at {epoch}:");
            for from in 0..=epoch {
                let records = hub.since(Epoch(from), &[]).records;
                let epochs =
                    records.map(|records| records.iter().map(|record| record.stamp.epoch.0).collect::<Vec<_>>());
                let _ = write!(told, " {from}→{}", epochs.map_or("images".to_owned(), |epochs| format!("{epochs:?}")));
            }
            told.push('\n');
        }
        expect![[r#"
            at 1: 0→[1] 1→[]
            at 2: 0→[1, 2] 1→[2] 2→[]
            at 3: 0→images 1→[2, 3] 2→[3] 3→[]
            at 4: 0→images 1→images 2→[3, 4] 3→[4] 4→[]
        "#]]
        .assert_eq(&told);
    }

    /// A client that is where the hub is has missed nothing, even when the log holds nothing.
    #[test]
    fn who_is_up_to_date_needs_no_log() {
        let hub = hub(0);
        assert!(hub.since(Epoch(0), &[]).records.is_some_and(|records| records.is_empty()));
        publish(&hub, 1, "+keyed(1,ann)");
        assert!(hub.since(Epoch(1), &[]).records.is_some_and(|records| records.is_empty()));
        assert!(hub.since(Epoch(0), &[]).records.is_none());
    }

    /// What a record weighs: its JSON, which is there as slices and joined, the changes that point
    /// into it, and itself. The log knows the sum of what it holds, and after dropping too.
    #[test]
    fn the_log_knows_what_it_weighs() {
        let wide = ample_hub();
        publish(&wide, 1, "+keyed(1,ann) +keyed(2,bob) +bag(5,x)");
        let (keyed, bag) = (r#""upsert":[[1,"ann"],[2,"bob"]]"#, r#""count":[[1,[5,"x"]]]"#);
        let first = 2 * (keyed.len() + bag.len()) + 3 * size_of::<Change>() + size_of::<Record>();
        assert_eq!(log_of(&wide).1, first);
        publish(&wide, 2, "");
        assert_eq!(log_of(&wide).1, first + size_of::<Record>());

        let hub = hub(first + size_of::<Record>());
        publish(&hub, 1, "");
        publish(&hub, 2, "+keyed(1,ann) +keyed(2,bob) +bag(5,x)");
        assert_eq!(log_of(&hub), (2, first + size_of::<Record>()), "just as much as may be");
        publish(&hub, 3, "");
        assert_eq!(log_of(&hub), (2, first + size_of::<Record>()), "one in, one out");
    }

    #[test]
    fn the_log_has_a_number_of_epochs_too() {
        let hub = Hub::new(vec![projection("keyed", Some(vec![0]))]);
        let last = LOG_EPOCHS_MAX as u64 + 1;
        (1..=last).for_each(|epoch| hub.publish(stamp(epoch), Vec::new()));
        assert!(hub.since(Epoch(0), &[]).records.is_none());
        assert_eq!(hub.since(Epoch(1), &[]).records.map(|records| records.len()), Some(LOG_EPOCHS_MAX));
    }

    #[test]
    #[should_panic(expected = "epoch 3 behind 3")]
    fn epochs_ascend() {
        let hub = ample_hub();
        publish(&hub, 3, "+keyed(1,ann)");
        publish(&hub, 3, "+keyed(2,bob)");
    }

    /// Who waits is told after the epoch is there to be read.
    #[test]
    fn a_new_epoch_is_told() {
        let hub = ample_hub();
        let mut watching = hub.watch();
        assert!(!watching.has_changed().expect("the hub is there"));
        publish(&hub, 1, "+keyed(1,ann)");
        assert!(watching.has_changed().expect("the hub is there"));
        assert_eq!((*watching.borrow_and_update(), hub.stamp()), (Epoch(1), stamp(1)));
        publish(&hub, 2, "");
        assert!(watching.has_changed().expect("the hub is there"));
    }

    #[test]
    fn projections_are_found_by_name_and_counted() {
        let hub = ample_hub();
        assert_eq!(
            (hub.find("keyed"), hub.find("bag"), hub.find("none")),
            (Some(ProjectionId(0)), Some(ProjectionId(1)), None)
        );
        publish(&hub, 1, "+keyed(1,ann) +keyed(2,bob) +2bag(5,x)");
        assert_eq!(hub.row_counts(), [2, 1]);
    }

    /// A projection that fails keeps its last rows, says why, and heals with its next diff, its
    /// neighbours untouched.
    #[test]
    fn a_failure_is_told_until_the_next_diff() {
        let hub = ample_hub();
        let failed = || {
            hub.since(hub.stamp().epoch, &[])
                .failed
                .into_iter()
                .map(|(id, why)| (id.0, why.to_string()))
                .collect::<Vec<_>>()
        };
        publish(&hub, 1, "+keyed(1,ann) +bag(5,x)");
        fail(&hub, 2, "keyed", "two rows have the key id = 1");
        assert_eq!(failed(), [(0, "two rows have the key id = 1".to_owned())]);
        publish(&hub, 3, "+bag(6,y)");
        assert_eq!(failed().len(), 1);
        publish(&hub, 4, "+keyed(2,bob)");
        assert_eq!((failed(), hub.row_counts()), (Vec::new(), vec![2, 2]));
    }

    /// Before its first diff a projection has no rows to show, which is not the same as having none.
    /// That it fails does not make it ready, nor does it take back that it is.
    #[test]
    fn a_projection_is_ready_from_its_first_diff_on() {
        let hub = not_ready(1 << 20);
        let shown = || {
            hub.since(hub.stamp().epoch, &[ProjectionId(0), ProjectionId(1)])
                .images
                .into_iter()
                .map(|rows| rows.map(|rows| rows.len()))
        };
        let check = |expected: [Option<usize>; 2]| {
            assert_eq!(shown().collect::<Vec<_>>(), expected);
            assert_eq!(hub.are_ready(), expected.map(|rows| rows.is_some()));
        };
        check([None, None]);
        publish(&hub, 1, "+bag(5,x)");
        check([None, Some(1)]);
        fail(&hub, 2, "keyed", "two rows have the key id = 1");
        check([None, Some(1)]);
        ready(&hub, 3, "keyed");
        check([Some(0), Some(1)]);
        fail(&hub, 4, "bag", "two rows have the key id = 5");
        check([Some(0), Some(1)]);
    }

    /// What these epochs are together, for a client that missed all but the first.
    #[track_caller]
    fn check_merged(epochs: &[&str], expected: &str) {
        let hub = ample_hub();
        (1..).zip(epochs).for_each(|(epoch, changes)| publish(&hub, epoch, changes));
        let records = hub.since(Epoch(1), &[]).records.expect("all of the log");
        let merged = merge(records.iter().flat_map(|record| &record.changes).map(|(_, changes)| &**changes));
        assert_eq!(text(&diff_members(merged.iter())), expected);
    }

    #[test]
    fn several_epochs_merge_to_their_net() {
        check_merged(&[""], "");
        check_merged(
            &["+keyed(1,ann)", "-keyed(1,ann) +keyed(1,eve)", "-keyed(1,eve) +keyed(1,joe)"],
            r#""upsert":[[1,"joe"]]"#,
        );
        check_merged(&["+keyed(1,ann)", "-keyed(1,ann) +keyed(1,eve)", "-keyed(1,eve)"], r#""delete":[[1]]"#);
        check_merged(&["", "+keyed(1,ann)", "-keyed(1,ann) +keyed(1,eve)"], r#""upsert":[[1,"eve"]]"#);
        check_merged(&["+bag(5,x)", "+2bag(5,x) +bag(6,y)", "-bag(5,x)", "-bag(5,x) -bag(6,y)"], "");
        check_merged(&["+bag(5,x)", "+2bag(5,x) +bag(6,y)", "-bag(5,x)"], r#""count":[[1,[5,"x"]],[1,[6,"y"]]]"#);
    }

    /// A client that read slowly was told to delete a key that it never had: the row had come and
    /// gone while it was behind. It is told nothing of it now, however often that happens; a row
    /// that was there before is told as what became of it.
    #[test]
    fn what_came_and_went_again_is_not_told() {
        check_merged(&["", "+keyed(1,ann)", "-keyed(1,ann)"], "");
        check_merged(&["", "+keyed(1,ann)", "-keyed(1,ann) +keyed(1,eve)", "-keyed(1,eve)"], "");
        check_merged(&["", "+keyed(1,ann)", "-keyed(1,ann)", "+keyed(1,eve)", "-keyed(1,eve)"], "");
        check_merged(&["", "+keyed(1,ann)", "-keyed(1,ann)", "+keyed(1,eve)"], r#""upsert":[[1,"eve"]]"#);
        check_merged(&["+keyed(1,ann)", "-keyed(1,ann)", "+keyed(1,eve)"], r#""upsert":[[1,"eve"]]"#);
        check_merged(&["+keyed(1,ann)", "-keyed(1,ann)", "+keyed(1,eve)", "-keyed(1,eve)"], r#""delete":[[1]]"#);
    }

    /// Rows outlive the epoch that brought them: what they are sliced from must not, or one row
    /// would keep the buffer of a first copy.
    #[test]
    fn a_row_does_not_keep_the_buffer_of_its_epoch() {
        let hub = ample_hub();
        publish(&hub, 1, "+keyed(1,ann) +keyed(2,bob) +bag(5,x)");
        let since = hub.since(Epoch(0), &[ProjectionId(0), ProjectionId(1)]);
        let records = since.records.expect("all of the log");
        let logged: Vec<&[u8]> = records[0]
            .changes
            .iter()
            .flat_map(|(_, changes)| &changes.rows)
            .map(|change| match change {
                Change::Insert { row, .. } | Change::Update { row, .. } | Change::Count { row, .. } => &**row,
                Change::Delete { key } => &**key,
            })
            .collect();
        let served: Vec<&[u8]> = since.images.iter().flatten().flat_map(OrdMap::values).map(|row| &*row.json).collect();
        assert_eq!(served, logged);
        assert!(served.iter().zip(&logged).all(|(served, logged)| served.as_ptr() != logged.as_ptr()));
    }
}
