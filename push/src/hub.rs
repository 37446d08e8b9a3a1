//! What is served now, and how it came to be.
//!
//! The hub holds the rows of each projection, typed and by key, and of each a log of what the last
//! epochs changed. The log is bounded by bytes; when all together are too large, the largest gives,
//! so that a burst in one projection costs the clients of no other.
//!
//! ```text
//!  publish ─┬─► records, the next version of the rows      (nobody waits for this)
//!           ├─► the router: which views does it concern
//!           ├─► the new version becomes visible, all of the epoch at once      (a short lock)
//!           └─► those who watch the views are told
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use filter::{Access, Predicate};
use hashbrown::HashMap;
use pipeline::{DiffPart, Epoch, Position};
use tokio::runtime::Handle;

use crate::index::{self, Index, Indexes, Lookup, Terms};
use crate::random;
use crate::record::{Record, pairs_between};
use crate::route::Router;
use crate::rows::{RowForm, Rows};
use crate::view::{Due, Missing, View, ViewSpec};
use crate::wire::{Frames, write_stamp};

/// Bytes of changes that the logs keep, all together. A client that is further behind is sent its
/// images anew: at that distance they are mostly smaller than the diffs.
pub const LOG_BYTES_MAX: usize = 64 << 20;
/// Bytes of rows in one message; a larger image, or diff, is sent in several, so that a slow client
/// costs no more than one of them.
pub const PART_BYTES: usize = 256 * 1024;
/// Epochs that the log of a projection keeps, whatever their size.
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
    /// Who sees what of it. Nobody anything, unless something is said.
    pub access: Access,
    /// How its rows are held.
    pub form: RowForm,
}

impl Projection {
    /// A projection of these columns, and of defaults.
    ///
    /// # Errors
    /// When a column's type can't be held.
    pub fn new(name: impl Into<String>, schema: SchemaRef, key: Option<Vec<usize>>) -> Result<Projection, ArrowError> {
        let form = RowForm::new(&schema, key.as_deref())?;
        let (name, order) = (name.into(), Vec::new());
        let (batch, access) = (Duration::ZERO, Access::default());
        Ok(Projection { name, description: None, schema, key, order, batch, access, form })
    }
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

/// Where an epoch stands, and the same as clients are told it: written once for all messages.
#[derive(Debug)]
pub struct Moment {
    stamp: Stamp,
    json: Vec<u8>,
    /// Where the cursor begins in it.
    cursor: usize,
}

impl Moment {
    fn new(stamp: Stamp, boot: &str) -> Moment {
        let mut json = Vec::new();
        write_stamp(&mut json, &stamp);
        let cursor = json.len();
        json.extend_from_slice(format!(r#","cursor":"{boot}-{}""#, stamp.epoch).as_bytes());
        Moment { stamp, json, cursor }
    }

    /// `"epoch":…,"position":{…},"commit_time":"…","cursor":"…"`
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The same without the cursor: for a message that leaves a client halfway.
    #[must_use]
    pub fn json_halfway(&self) -> &[u8] {
        &self.json[..self.cursor]
    }
}

impl Deref for Moment {
    type Target = Stamp;

    fn deref(&self) -> &Stamp {
        &self.stamp
    }
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
    visible: Mutex<Visible>,
    logs: Vec<Mutex<Log>>,
    log_bytes_max: usize,
    part_bytes: usize,
    indexes: Vec<Mutex<Indexes>>,
    /// Whether one is being made: a thread at a time.
    is_indexing: AtomicBool,
    /// Projections of fewer rows are looked through.
    indexed_from: AtomicI64,
    /// Tells this run of the server from others: epochs begin anew with each.
    boot: String,
    /// Rows that windows may have.
    window_rows: AtomicUsize,
    /// How many images are being read.
    pub(crate) images: Arc<AtomicUsize>,
    /// Messages that several clients are sent.
    pub(crate) frames: Frames,
    /// Where sessions run: a thread of it wakes many of them for less than the publisher's does.
    runtime: OnceLock<Handle>,
    publisher: Mutex<Publisher>,
    views: Mutex<Views>,
    view_ids: AtomicU64,
    /// Who asks for an index makes it, and has it when it asks again.
    #[cfg(test)]
    indexes_at_once: AtomicBool,
    /// What a test lets happen after each look: who looks twice is to see two moments.
    #[cfg(test)]
    after_look: Mutex<Option<AfterLook>>,
}

#[cfg(test)]
type AfterLook = Box<dyn Fn(&Hub) + Send>;

/// What there is to see at one moment.
struct Visible {
    now: Arc<Now>,
    rows: Vec<Rows>,
    /// Whether a projection's rows are there. Until then it has none to show, which is not the same
    /// as having none.
    is_ready: Vec<bool>,
}

/// Projections, each with why.
pub type Reasons = BTreeMap<ProjectionId, Arc<str>>;

/// What holds at one moment.
#[derive(Clone)]
pub struct Now {
    /// The moment.
    pub moment: Arc<Moment>,
    /// Projections that can't be served.
    pub failed: Arc<Reasons>,
    /// Projections whose source is not being read.
    pub stale: Arc<Reasons>,
}

/// The last epochs that changed a projection.
#[derive(Default)]
struct Log {
    records: VecDeque<Arc<Record>>,
    bytes: usize,
    /// The last epoch that is not there any more.
    dropped: Epoch,
}

/// What only publishing needs.
struct Publisher {
    routers: Vec<Router>,
    /// Projections whose last word was that they fail.
    failed: BTreeMap<ProjectionId, Arc<str>>,
    /// What all logs weigh together.
    log_bytes: usize,
}

impl Log {
    fn drop_oldest(&mut self) -> Option<Arc<Record>> {
        let oldest = self.records.pop_front()?;
        self.dropped = oldest.stamp.epoch;
        self.bytes -= oldest.bytes;
        Some(oldest)
    }
}

#[derive(Default)]
struct Views {
    by_spec: HashMap<ViewSpec, Weak<View>>,
    /// Those that the publisher does not know yet.
    new: Vec<Weak<View>>,
    /// Those that are gone and that the publisher knows still.
    gone: Vec<(u64, ViewSpec)>,
}

/// A projection's rows at one moment.
#[derive(Clone)]
pub struct Snapshot {
    /// When.
    pub stamp: Arc<Moment>,
    /// The rows; `None` while they are not ready.
    pub rows: Option<Rows>,
    /// Why the projection can't be served, if it can't.
    pub failed: Option<Arc<str>>,
}

/// What happened is not to be had any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FellOff;

impl Hub {
    /// A hub with no rows, at epoch 0.
    #[must_use]
    pub fn new(projections: Vec<Projection>) -> Hub {
        Hub::with_log(projections, LOG_BYTES_MAX)
    }

    /// With messages of about so many bytes.
    #[must_use]
    pub fn with_parts(mut self, bytes: usize) -> Hub {
        self.part_bytes = bytes;
        self
    }

    /// Bytes of rows in one message; a larger image, or diff, is sent in several.
    #[must_use]
    pub fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    /// As [`Hub::new`], keeping so many bytes of changes.
    #[must_use]
    pub fn with_log(projections: Vec<Projection>, log_bytes_max: usize) -> Hub {
        let count = projections.len();
        let boot = boot_id();
        let moment = Arc::new(Moment::new(Stamp::default(), &boot));
        let visible = Visible {
            now: Arc::new(Now { moment, failed: Arc::default(), stale: Arc::default() }),
            rows: projections.iter().map(|projection| Rows::new(projection.key.is_some())).collect(),
            is_ready: vec![false; count],
        };
        Hub {
            projections: projections.into_iter().map(Arc::new).collect(),
            visible: Mutex::new(visible),
            logs: (0..count).map(|_| Mutex::default()).collect(),
            log_bytes_max,
            part_bytes: PART_BYTES,
            indexes: (0..count).map(|_| Mutex::default()).collect(),
            is_indexing: AtomicBool::new(false),
            indexed_from: AtomicI64::new(index::ROWS_MIN),
            boot,
            window_rows: AtomicUsize::new(0),
            images: Arc::default(),
            frames: Frames::default(),
            runtime: OnceLock::new(),
            publisher: Mutex::new(Publisher {
                routers: (0..count).map(|_| Router::default()).collect(),
                failed: BTreeMap::new(),
                log_bytes: 0,
            }),
            views: Mutex::default(),
            view_ids: AtomicU64::new(1),
            #[cfg(test)]
            indexes_at_once: AtomicBool::new(false),
            #[cfg(test)]
            after_look: Mutex::default(),
        }
    }

    /// The projections, in the order of their ids.
    #[must_use]
    pub fn projections(&self) -> &[Arc<Projection>] {
        &self.projections
    }

    /// What a client gives back to go on from an epoch.
    #[must_use]
    pub fn cursor(&self, epoch: Epoch) -> String {
        format!("{}-{epoch}", self.boot)
    }

    /// Where a client is that gives this cursor back; `None` when it is of another run of the server.
    #[must_use]
    pub fn at_cursor(&self, cursor: &str) -> Option<Epoch> {
        let (boot, epoch) = cursor.split_once('-')?;
        let epoch = Epoch(epoch.parse().ok()?);
        (boot == self.boot && epoch <= self.stamp().epoch).then_some(epoch)
    }

    /// Looks a projection up.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<ProjectionId> {
        self.projections.iter().position(|projection| projection.name == name).map(ProjectionId)
    }

    /// Makes an epoch visible: all of it at once. A projection is ready from its first diff on, which
    /// may be empty. Only one epoch is published at a time.
    ///
    /// # Errors
    /// When a diff is not of its projection, which would be a mistake of ours: nothing of the epoch
    /// is visible then.
    ///
    /// # Panics
    /// When epochs do not ascend, which would be a mistake of ours.
    pub fn publish(&self, stamp: Stamp, publications: Vec<(ProjectionId, Publication)>) -> Result<(), ArrowError> {
        let mut publisher = lock(&self.publisher);
        let epoch = stamp.epoch;
        let stamp = Arc::new(Moment::new(stamp, &self.boot));
        self.register(&mut publisher, epoch)?;
        let before = self.stamp().epoch;
        assert!(before < epoch, "epoch {epoch} behind {before}");
        let mut concerned: Vec<Arc<View>> = Vec::new();
        let mut changed: Vec<(ProjectionId, Rows)> = Vec::new();
        for (id, publication) in publications {
            let (info, was_failed) = (&self.projections[id.0], publisher.failed.contains_key(&id));
            let is_failed = match publication {
                Publication::Failed(reason) => {
                    publisher.failed.insert(id, reason.into());
                    true
                }
                Publication::Diff(parts) => {
                    publisher.failed.remove(&id);
                    let (mut rows, was_ready) = {
                        let visible = lock(&self.visible);
                        (visible.rows[id.0].clone(), visible.is_ready[id.0])
                    };
                    let record = Arc::new(Record::new(&stamp, parts, info, &mut rows)?);
                    let routed = publisher.routers[id.0].route(&record)?;
                    let log_dropped = if was_ready {
                        self.log(id, &record, &mut publisher.log_bytes)
                    } else {
                        // Nobody has rows that its first ones could be told as changes of.
                        lock(&self.logs[id.0]).dropped = epoch;
                        epoch
                    };
                    for (view, hits) in routed {
                        match view.spec.window {
                            None => view.push(&record, hits, log_dropped),
                            Some(_) => view.push_window(&record, hits, log_dropped)?,
                        }
                        concerned.push(view);
                    }
                    changed.push((id, rows));
                    if !was_ready {
                        concerned.extend(self.views_of(id));
                    }
                    false
                }
            };
            if was_failed != is_failed {
                concerned.extend(self.views_of(id));
            }
        }
        let shown = changed.clone();
        let replaced = {
            let mut visible = lock(&self.visible);
            let mut now = Now { moment: Arc::clone(&stamp), ..(*visible.now).clone() };
            if *now.failed != publisher.failed {
                now.failed = Arc::new(publisher.failed.clone());
            }
            visible.now = Arc::new(now);
            let replace = |(id, rows): (ProjectionId, Rows)| {
                visible.is_ready[id.0] = true;
                std::mem::replace(&mut visible.rows[id.0], rows)
            };
            changed.into_iter().map(replace).collect::<Vec<_>>()
        };
        drop(replaced); // after the lock: freeing what a large epoch replaced takes a while
        self.shorten_logs(&mut publisher.log_bytes);
        self.wake(concerned);
        // A view that came while this epoch was under way was not among those that are routed to, and
        // its image may be of the epoch before: its clients look for themselves.
        let late: Vec<Arc<View>> = lock(&self.views).new.iter().filter_map(Weak::upgrade).collect();
        late.iter().for_each(|view| view.wake());
        // Nobody waits for these.
        shown.iter().for_each(|(id, rows)| self.keep_indexes(*id, rows));
        Ok(())
    }

    /// Sessions are woken by this runtime, which is the one that they run on.
    pub(crate) fn wake_on(&self, runtime: Handle) {
        let _ = self.runtime.set(runtime);
    }

    fn wake(&self, views: Vec<Arc<View>>) {
        if views.is_empty() {
            return;
        }
        let wake = move || views.iter().for_each(|view| view.wake());
        match self.runtime.get() {
            Some(runtime) => drop(runtime.spawn(async move { wake() })),
            None => wake(),
        }
    }

    fn keep_indexes(&self, id: ProjectionId, rows: &Rows) {
        let wanted = lock(&self.indexes[id.0]).wanted();
        for index in wanted {
            let kept = index.brought_to(rows, &self.projections[id.0].form, index::UPKEEP_MAX);
            lock(&self.indexes[id.0]).replace(index.columns(), kept);
        }
    }

    /// Where the rows of a view's projection are that these predicates can match, if that is known. If
    /// it can be, it will be later.
    pub(crate) fn lookup(&self, view: &View, rows: &Rows, predicates: &[&Predicate]) -> Option<Lookup> {
        if rows.count() < self.indexed_from.load(Ordering::Relaxed) {
            return None;
        }
        // All rows looked through give the same answer.
        let warn = |error: &ArrowError| tracing::error!(%error, "rows can't be looked up");
        self.find_lookup(view, rows, predicates).inspect_err(warn).ok()?
    }

    fn find_lookup(&self, view: &View, rows: &Rows, predicates: &[&Predicate]) -> Result<Option<Lookup>, ArrowError> {
        let (Some(terms), info) = (Terms::of(predicates), &view.info) else { return Ok(None) };
        if let Some(key) = &info.key
            && let Some(lookup) = Lookup::by_key(&terms, key, &info.form)?
        {
            return Ok(Some(lookup));
        }
        let found = lock(&self.indexes[view.spec.projection.0]).find(&terms.columns);
        let Some(index) = found else {
            self.make_index(view, &terms.columns);
            return Ok(None);
        };
        let Some(index) = index.brought_to(rows, &info.form, index::CATCH_UP_MAX) else { return Ok(None) };
        Lookup::by_index(&terms, index, &info.schema).map(Some)
    }

    /// Has an index made of these columns, by a thread of its own, unless one is being made.
    fn make_index(&self, view: &View, columns: &[usize]) {
        let (id, columns) = (view.spec.projection, columns.to_vec());
        if !lock(&self.indexes[id.0]).has_room() || self.is_indexing.swap(true, Ordering::AcqRel) {
            return;
        }
        let hub = Weak::clone(&view.hub);
        let make = move || {
            let Some(hub) = hub.upgrade() else { return };
            if let Some(index) = hub.new_index(id, &columns) {
                lock(&hub.indexes[id.0]).add(index);
            }
            hub.is_indexing.store(false, Ordering::Release);
        };
        #[cfg(test)]
        if self.indexes_at_once.load(Ordering::Relaxed) {
            return make();
        }
        if let Err(error) = std::thread::Builder::new().name("index".to_owned()).spawn(make) {
            tracing::warn!(%error, "no thread for an index");
            self.is_indexing.store(false, Ordering::Release);
        }
    }

    fn new_index(&self, id: ProjectionId, columns: &[usize]) -> Option<Index> {
        let info = &self.projections[id.0];
        let rows = || lock(&self.visible).rows[id.0].clone();
        let empty = Index::new(&info.schema, columns, info.key.is_some()).ok()?;
        let index = empty.brought_to(&rows(), &info.form, usize::MAX)?;
        // What changed meanwhile, for the most part.
        index.brought_to(&rows(), &info.form, usize::MAX)
    }

    /// What of a view's window is different from what it was at `from`, and the epoch that this leads to;
    /// `None` when that is not to be had any more.
    ///
    /// # Errors
    /// For mistakes of ours only.
    pub(crate) fn window_changes(&self, view: &View, from: Epoch) -> Result<Option<(Record, Epoch)>, ArrowError> {
        let Some(mut window) = view.window_now() else { return Ok(None) };
        let (now, shown) = (self.stamp(), window.shown());
        let epoch = window.epoch.max(from);
        let Ok(due) = self.records_of(view, from, window.epoch) else { return Ok(None) };
        for due in due.iter().rev() {
            if !window.undo(&due.record, due.hits(), &view.info)? {
                return Ok(None);
            }
        }
        let changes = Record::of_pairs(&now, &pairs_between(&window.shown(), &shown), &view.info)?;
        Ok(Some((changes, epoch)))
    }

    /// Has the publisher know the views that came, and forget those that went.
    fn register(&self, publisher: &mut Publisher, next: Epoch) -> Result<(), ArrowError> {
        let (new, gone) = {
            let mut views = lock(&self.views);
            (std::mem::take(&mut views.new), std::mem::take(&mut views.gone))
        };
        for view in new.iter().filter_map(Weak::upgrade) {
            publisher.routers[view.spec.projection.0].add(&view)?;
            view.told_from(next);
        }
        for (id, spec) in gone {
            let schema = &self.projections[spec.projection.0].schema;
            publisher.routers[spec.projection.0].remove(id, schema, &spec.predicate);
        }
        Ok(())
    }

    /// Adds to a projection's log. Answers the last epoch that the log has dropped.
    fn log(&self, id: ProjectionId, record: &Arc<Record>, log_bytes: &mut usize) -> Epoch {
        let mut log = lock(&self.logs[id.0]);
        if record.changes() > 0 {
            log.bytes += record.bytes;
            *log_bytes += record.bytes;
            log.records.push_back(Arc::clone(record));
        }
        let oldest = if log.records.len() > LOG_EPOCHS_MAX { log.drop_oldest() } else { None };
        *log_bytes -= oldest.as_ref().map_or(0, |oldest| oldest.bytes);
        let dropped = log.dropped;
        drop(log);
        drop(oldest); // after the lock: freeing a large epoch takes a while
        dropped
    }

    /// Drops what is too much, from the largest log first.
    fn shorten_logs(&self, log_bytes: &mut usize) {
        while *log_bytes > self.log_bytes_max {
            let Some(mut log) = self.logs.iter().map(lock).max_by_key(|log| log.bytes) else { return };
            let Some(oldest) = log.drop_oldest() else { return };
            *log_bytes -= oldest.bytes;
            drop(log);
            drop(oldest);
        }
    }

    fn views_of(&self, id: ProjectionId) -> Vec<Arc<View>> {
        let views = lock(&self.views);
        views.by_spec.iter().filter(|(spec, _)| spec.projection == id).filter_map(|(_, view)| view.upgrade()).collect()
    }

    /// The view of this kind: there is one of each.
    #[must_use]
    pub fn view(self: &Arc<Self>, spec: ViewSpec) -> Arc<View> {
        let mut views = lock(&self.views);
        if let Some(view) = views.by_spec.get(&spec).and_then(Weak::upgrade) {
            return view;
        }
        let id = self.view_ids.fetch_add(1, Ordering::Relaxed);
        let info = Arc::clone(&self.projections[spec.projection.0]);
        self.window_rows.fetch_add(spec.window.as_ref().map_or(0, |window| window.limit), Ordering::Relaxed);
        let view = Arc::new(View::new(id, spec.clone(), info, Arc::downgrade(self)));
        views.by_spec.insert(spec, Arc::downgrade(&view));
        views.new.push(Arc::downgrade(&view));
        if views.new.len() + views.gone.len() > UNKNOWN_VIEWS_MAX {
            drop(views);
            // Clients come and go, and nothing is published: nobody else would do it.
            self.introduce();
        }
        view
    }

    /// Whether somebody watches this view.
    #[must_use]
    pub fn has_view(&self, spec: &ViewSpec) -> bool {
        lock(&self.views).by_spec.get(spec).is_some_and(|view| view.strong_count() > 0)
    }

    /// Rows that the windows of all clients may have.
    #[must_use]
    pub fn window_rows(&self) -> usize {
        self.window_rows.load(Ordering::Relaxed)
    }

    /// A view is gone.
    pub(crate) fn forget(&self, view: &View) {
        self.window_rows.fetch_sub(view.spec.window.as_ref().map_or(0, |window| window.limit), Ordering::Relaxed);
        let mut views = lock(&self.views);
        // Another of its kind may have come already.
        if views.by_spec.get(&view.spec).is_some_and(|held| held.strong_count() == 0) {
            views.by_spec.remove(&view.spec);
        }
        views.gone.push((view.id, view.spec.clone()));
    }

    /// Says which projections show what may be old, since a source of theirs is not being read; those
    /// who see them are told, and told when it is over.
    pub fn set_stale(&self, stale: Reasons) {
        let changed: Vec<ProjectionId> = {
            let mut visible = lock(&self.visible);
            let was = Arc::clone(&visible.now.stale);
            let all = was.keys().chain(stale.keys());
            let changed = all.filter(|id| was.get(id) != stale.get(id)).copied().collect();
            visible.now = Arc::new(Now { stale: Arc::new(stale), ..(*visible.now).clone() });
            changed
        };
        changed.into_iter().flat_map(|id| self.views_of(id)).for_each(|view| view.wake());
    }

    /// A projection's rows, and when that is.
    #[must_use]
    pub fn snapshot(&self, id: ProjectionId) -> Snapshot {
        let snapshot = {
            let visible = lock(&self.visible);
            Snapshot {
                stamp: Arc::clone(&visible.now.moment),
                rows: visible.is_ready[id.0].then(|| visible.rows[id.0].clone()),
                failed: visible.now.failed.get(&id).cloned(),
            }
        };
        #[cfg(test)]
        self.looked();
        snapshot
    }

    /// Where the hub is, and what is wrong there.
    #[must_use]
    pub fn now(&self) -> Arc<Now> {
        let now = Arc::clone(&lock(&self.visible).now);
        #[cfg(test)]
        self.looked();
        now
    }

    /// What concerns a view after `from` and up to `to`, in order.
    ///
    /// # Errors
    /// When that is not to be had any more.
    pub fn due(&self, view: &View, from: Epoch, to: Epoch) -> Result<Vec<Due>, FellOff> {
        match view.since(from, to) {
            Ok(due) => Ok(due),
            Err(Missing::Dropped) => Err(FellOff),
            // What a window was is not in the log.
            Err(Missing::Before(_)) if view.spec.window.is_some() => Err(FellOff),
            Err(Missing::Before(until)) => {
                let told_from = Epoch(until.0.saturating_sub(1));
                let mut found = self.records_of(view, from, told_from)?;
                view.fill_in(from, until, &found);
                found.retain(|due| due.record.stamp.epoch <= to);
                if until <= to {
                    found.extend(view.since(told_from, to).map_err(|_| FellOff)?);
                }
                Ok(found)
            }
        }
    }

    /// The logged changes that concern a view without its window, after `from` and up to `to`.
    ///
    /// # Errors
    /// When they are not to be had any more.
    pub(crate) fn records_of(&self, view: &View, from: Epoch, to: Epoch) -> Result<Vec<Due>, FellOff> {
        let mut found = Vec::new();
        for record in self.logged(view.spec.projection, from, to.next()).ok_or(FellOff)? {
            // A predicate that was right for one epoch is for all.
            if let Some(hits) = view.spec.hits(&record).map_err(|_| FellOff)? {
                found.push(Due { record, hits });
            }
        }
        Ok(found)
    }

    /// Has the publisher know the views that came, unless it is at work.
    pub(crate) fn introduce(&self) {
        if let Ok(mut publisher) = self.publisher.try_lock() {
            let next = self.stamp().epoch.next();
            drop(self.register(&mut publisher, next));
        }
    }

    /// The epochs after `from` that changed a projection; `None` when its log does not reach back.
    #[must_use]
    pub fn changed_since(&self, id: ProjectionId, from: Epoch) -> Option<Vec<Epoch>> {
        let records = self.logged(id, from, Epoch(u64::MAX))?;
        Some(records.iter().map(|record| record.stamp.epoch).collect())
    }

    /// The logged epochs after `from` and before `until`; `None` when the log does not reach back.
    fn logged(&self, id: ProjectionId, from: Epoch, until: Epoch) -> Option<Vec<Arc<Record>>> {
        let log = lock(&self.logs[id.0]);
        (log.dropped <= from).then(|| {
            let epochs = log.records.iter().filter(|record| record.stamp.epoch > from && record.stamp.epoch < until);
            epochs.cloned().collect()
        })
    }

    #[cfg(test)]
    fn looked(&self) {
        if let Some(happens) = &*lock(&self.after_look) {
            happens(self);
        }
    }

    /// From now on, something happens after each look.
    #[cfg(test)]
    pub(crate) fn after_each_look(&self, happens: impl Fn(&Hub) + Send + 'static) {
        *lock(&self.after_look) = Some(Box::new(happens));
    }

    /// Rows of each projection now.
    #[must_use]
    pub fn row_counts(&self) -> Vec<i64> {
        lock(&self.visible).rows.iter().map(Rows::count).collect()
    }

    /// Whether each projection is ready.
    #[must_use]
    pub fn are_ready(&self) -> Vec<bool> {
        lock(&self.visible).is_ready.clone()
    }

    /// Where the hub is now.
    #[must_use]
    pub fn stamp(&self) -> Arc<Moment> {
        Arc::clone(&lock(&self.visible).now.moment)
    }

    /// From now on, indexes are made of projections of so many rows, by who asks for one.
    #[cfg(test)]
    pub(crate) fn index_at_once(&self, rows_min: i64) {
        self.indexed_from.store(rows_min, Ordering::Relaxed);
        self.indexes_at_once.store(true, Ordering::Relaxed);
    }

    /// For tests that begin with empty projections.
    #[cfg(test)]
    pub(crate) fn make_ready(&self) {
        lock(&self.visible).is_ready.fill(true);
    }
}

/// A name for this run of the server that no other has.
fn boot_id() -> String {
    if cfg!(test) {
        return "boot".to_owned();
    }
    format!("{:012x}", random::number() & 0xFFFF_FFFF_FFFF)
}

/// Views that came and went which the publisher is told of only when it publishes.
const UNKNOWN_VIEWS_MAX: usize = 1024;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::testing::{hub, publish, stamp};

    /// The epochs of each projection that the log has.
    fn logged(hub: &Hub) -> [Vec<u64>; 2] {
        let of = |id: usize| lock::<Log>(&hub.logs[id]).records.iter().map(|record| record.stamp.epoch.0).collect();
        [of(0), of(1)]
    }

    /// A burst in one projection threw everybody off a log that was one for all.
    #[test]
    fn the_largest_log_gives() {
        let weight = {
            let hub = hub(1 << 20);
            publish(&hub, 1, "+keyed(1,ann)");
            lock(&hub.publisher).log_bytes
        };
        let hub = hub(weight * 3);
        publish(&hub, 1, "+bag(5,x)");
        for epoch in 2..=9 {
            publish(&hub, epoch, &format!("+keyed({epoch},ann)"));
            assert!(lock(&hub.publisher).log_bytes <= weight * 3);
        }
        assert_eq!(logged(&hub), [vec![8, 9], vec![1]]);
        let total: usize = hub.logs.iter().map(|log| lock(log).bytes).sum();
        assert_eq!(lock(&hub.publisher).log_bytes, total);
        assert_eq!(hub.changed_since(ProjectionId(0), Epoch(6)), None, "7 is gone");
        assert_eq!(hub.changed_since(ProjectionId(0), Epoch(7)), Some(vec![Epoch(8), Epoch(9)]));
        assert_eq!(hub.changed_since(ProjectionId(1), Epoch(0)), Some(vec![Epoch(1)]));
    }

    /// A server that had just copied its tables held the rows a second time, as changes that nobody
    /// could be behind.
    #[test]
    fn first_rows_are_not_logged() {
        let hub = crate::testing::not_ready(1 << 20);
        publish(&hub, 1, "+keyed(1,ann)");
        assert_eq!((lock(&hub.publisher).log_bytes, logged(&hub)), (0, [vec![], vec![]]));
        assert_eq!(hub.changed_since(ProjectionId(0), Epoch(0)), None, "whoever was there before is sent an image");
        publish(&hub, 2, "+keyed(2,eve)");
        assert_eq!(hub.changed_since(ProjectionId(0), Epoch(1)), Some(vec![Epoch(2)]));
    }

    #[test]
    fn a_log_has_a_number_of_epochs() {
        let hub = hub(usize::MAX);
        for epoch in 0..LOG_EPOCHS_MAX as u64 + 2 {
            publish(&hub, epoch + 1, if epoch % 2 == 0 { "+bag(5,x)" } else { "-bag(5,x)" });
        }
        assert_eq!(hub.changed_since(ProjectionId(1), Epoch(1)), None);
        assert_eq!(hub.changed_since(ProjectionId(1), Epoch(2)).map(|epochs| epochs.len()), Some(LOG_EPOCHS_MAX));
    }

    /// A cursor of another run of the server, or of a time to come, is none.
    #[test]
    fn cursors_are_of_this_run() {
        let hub = hub(1 << 20);
        publish(&hub, 7, "+keyed(1,ann)");
        assert_eq!(hub.at_cursor("boot-7"), Some(Epoch(7)));
        assert_eq!(hub.at_cursor("boot-3"), Some(Epoch(3)));
        for wrong in ["boot-8", "other-7", "boot", "boot-", "boot-x", ""] {
            assert_eq!(hub.at_cursor(wrong), None, "{wrong}");
        }
    }

    #[test]
    #[should_panic(expected = "epoch 3 behind 3")]
    fn epochs_ascend() {
        let hub = hub(1 << 20);
        publish(&hub, 3, "+keyed(1,ann)");
        drop(hub.publish(stamp(3), Vec::new()));
    }
}
