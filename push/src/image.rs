//! The rows of a view, all of them, in pieces.
//!
//! Clients that come at the same moment and ask the same share what was read and written for the
//! first of them. The rest of a large image each reads for itself: what is kept is bounded.

use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use bytes::Bytes;
use pipeline::Epoch;

use crate::held::{self, counted};
use crate::hub::{FellOff, Hub, Moment};
use crate::index::{Lookup, Place};
use crate::json::write_row;
use crate::record::{Pair, Record};
use crate::rows::{HeldRow, RowRef, Rows};
use crate::view::{Due, Hits, View};
use crate::window::WindowState;
use crate::wire::{Changes, Members};

/// Rows that are read at a time, at most, at least, and first. Few in tests, so that images are read in
/// several pieces there too.
const READ_ROWS: [usize; 3] = if cfg!(test) { [5, 5, 5] } else { [1024, 16, 128] };

/// What reading them should take at most: no client is kept waiting while another one's rows are looked
/// through, whatever its filter is.
const READ_TIME: Duration = Duration::from_millis(1);

/// Bytes of an image that are kept for others,
const KEPT_BYTES: usize = 1 << 20;
/// as long as all together hold no more than this.
const HELD_BYTES_MAX: usize = 64 << 20;

/// Changes that a client takes over an image that was made for somebody else a moment ago.
const SHARED_BEHIND_MAX: usize = 1000;

/// The rows of a view at an epoch, as far as they have been read.
#[derive(Debug)]
pub struct SharedImage {
    /// When.
    pub stamp: Arc<Moment>,
    rows: Rows,
    /// Where those of the view are, if that was known.
    lookup: Option<Lookup>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: Vec<(Bytes, Reached)>,
    bytes: usize,
}

/// How far an image has been read.
#[derive(Clone, Debug)]
enum Reached {
    Nothing,
    /// All rows up to this key.
    Key(Arc<[u8]>),
    /// So much of what is looked up.
    Place(Place),
    End,
}

/// One reader of an image.
#[derive(Debug)]
pub struct Image {
    view: Arc<View>,
    shared: Arc<SharedImage>,
    piece: usize,
    reached: Reached,
    switched: Option<Switched>,
    /// Rows of a window, which are few and not read from the projection.
    window: Option<WindowImage>,
    patch: Option<Patch>,
    /// Of a window that the client has as it was then: only what differs is told.
    since: Option<Epoch>,
    /// What the client saw before: only what differs from that is told.
    before: Option<Arc<View>>,
    active: Active,
    /// As many as can be read in [`READ_TIME`].
    rows_at_once: usize,
    /// Bytes of rows that are read at a time.
    part_bytes: usize,
}

/// One of the images that are being read, unless its client takes nothing for the moment.
#[derive(Debug)]
struct Active {
    count: Arc<AtomicUsize>,
    is_counted: bool,
}

impl Active {
    fn new(hub: &Hub) -> Active {
        let mut active = Active { count: Arc::clone(&hub.images), is_counted: false };
        active.set(true);
        active
    }

    fn set(&mut self, is_counted: bool) {
        match (std::mem::replace(&mut self.is_counted, is_counted), is_counted) {
            (false, true) => self.count.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.count.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// A reader that had looked through rows up to a key, if any, when it became known where the others
/// are.
#[derive(Debug)]
struct Switched {
    scanned: Option<Arc<[u8]>>,
    lookup: Lookup,
}

/// How the rows of a window come to be.
#[derive(Debug)]
enum WindowImage {
    /// The window is being made.
    Making(Box<WindowState>),
    /// They are these.
    Made(Epoch),
}

/// What a reader has next.
#[derive(Debug)]
pub enum Piece {
    /// Rows, separated by commas; there may be none. More is to come.
    Rows(Bytes),
    /// All rows of a window, though the client has it as it was: that is not to be had any more.
    Anew(Bytes),
    /// What became since of rows that were sent. More is to come.
    Changes(Members),
    /// There are no more.
    End,
}

/// An image that is brought from one epoch to a later one without a log: by what is different
/// between the rows of then and of now.
#[derive(Debug)]
struct Patch {
    old: Arc<SharedImage>,
}

impl SharedImage {
    fn new(stamp: Arc<Moment>, rows: Rows, lookup: Option<Lookup>) -> Arc<SharedImage> {
        Arc::new(SharedImage { stamp, rows, lookup, kept: Mutex::default() })
    }
}

impl Image {
    fn new(hub: &Hub, view: &Arc<View>, shared: Arc<SharedImage>) -> Image {
        Image {
            view: Arc::clone(view),
            shared,
            piece: 0,
            reached: Reached::Nothing,
            switched: None,
            window: None,
            patch: None,
            since: None,
            before: None,
            active: Active::new(hub),
            rows_at_once: READ_ROWS[2],
            part_bytes: hub.part_bytes(),
        }
    }

    /// The image of a window, for a client that has what it was at an epoch.
    #[must_use]
    pub fn since(mut self, epoch: Epoch) -> Image {
        self.since = Some(epoch);
        self
    }

    /// While its client takes nothing, an image does not count as one that is being read.
    pub fn pause(&mut self, is_paused: bool) {
        self.active.set(!is_paused);
    }

    /// An image of a view. `None` while its projection has no rows to show.
    #[must_use]
    pub fn of(hub: &Hub, view: &Arc<View>) -> Option<Image> {
        let mut held = view.image.lock().unwrap_or_else(PoisonError::into_inner);
        if view.spec.window.is_none()
            && let Some(shared) = held.upgrade()
            && let Ok(due) = hub.due(view, shared.stamp.epoch, hub.stamp().epoch)
            && due.iter().map(Due::len).sum::<usize>() <= SHARED_BEHIND_MAX
        {
            return Some(Image::new(hub, view, shared));
        }
        let snapshot = hub.snapshot(view.spec.projection);
        let rows = snapshot.rows?;
        let lookup = hub.lookup(view, &rows, &[&view.spec.predicate]);
        let shared = SharedImage::new(snapshot.stamp, rows, lookup);
        *held = Arc::downgrade(&shared);
        drop(held);
        Some(Image::new(hub, view, shared))
    }

    /// What one view has and another has not, at a moment: for a client that has all of the old one
    /// at that moment. The views differ by nothing but their predicates.
    #[must_use]
    pub fn between(hub: &Hub, old: &Arc<View>, new: &Arc<View>) -> Option<(Image, Arc<Moment>)> {
        let snapshot = hub.snapshot(new.spec.projection);
        let rows = snapshot.rows?;
        let lookup = hub.lookup(new, &rows, &[&old.spec.predicate, &new.spec.predicate]);
        let shared = SharedImage::new(Arc::clone(&snapshot.stamp), rows, lookup);
        let image = Image { before: Some(Arc::clone(old)), ..Image::new(hub, new, shared) };
        Some((image, snapshot.stamp))
    }

    /// The next rows that may be wanted, and how far that is.
    fn batch(&self) -> (Vec<RowRef<'_>>, Reached) {
        let rows = &self.shared.rows;
        let (lookup, scanned) = match &self.switched {
            Some(switched) => (Some(&switched.lookup), switched.scanned.as_deref()),
            None => (self.shared.lookup.as_ref(), None),
        };
        let mut batch = Batch::new(self.rows_at_once, self.part_bytes);
        match (lookup, &self.reached) {
            (_, Reached::End) => {}
            (Some(lookup), reached) => {
                let start = Place::default();
                let from = if let Reached::Place(place) = reached { place } else { &start };
                let mut last = (0, None);
                for (row, list) in lookup.rows(rows, from) {
                    if batch.is_full() {
                        let place = Place { list: last.0, after: last.1.map(Arc::from) };
                        return (batch.rows, Reached::Place(place));
                    }
                    last = (list, Some(row.key));
                    batch.look_at(row, scanned.is_none_or(|scanned| row.key > scanned));
                }
            }
            (None, reached) => {
                for row in rows.range(reached.bound()) {
                    if batch.is_full() {
                        let reached = Reached::after(batch.rows.last().copied());
                        return (batch.rows, reached);
                    }
                    batch.look_at(row, true);
                }
            }
        }
        (batch.rows, Reached::End)
    }

    /// A reader that looks through all rows finds them by an index from the moment that there is one.
    fn switch(&mut self, hub: &Hub) {
        if self.shared.lookup.is_some() || self.switched.is_some() {
            return;
        }
        let predicates = [self.before.as_ref().map(|before| &before.spec.predicate), Some(&self.view.spec.predicate)];
        let predicates: Vec<_> = predicates.into_iter().flatten().collect();
        if let Some(lookup) = hub.lookup(&self.view, &self.shared.rows, &predicates) {
            let scanned = if let Reached::Key(key) = &self.reached { Some(Arc::clone(key)) } else { None };
            self.switched = Some(Switched { scanned, lookup });
        }
    }

    /// The next rows that come into sight or go out of it.
    fn next_between(&mut self, before: &View) -> Result<Piece, ArrowError> {
        let (spec, info) = (&self.view.spec, &self.view.info);
        let (held, reached) = self.batch();
        let batch = info.form.decode(held.iter().copied())?;
        let (was, is) = (before.spec.predicate.matches(&batch)?, spec.predicate.matches(&batch)?);
        let (mut members, mut text) = (Members::default(), Vec::new());
        for (i, row) in held.iter().enumerate().filter(|(i, _)| was.value(*i) != is.value(*i)) {
            let columns = match &info.key {
                Some(key) if was.value(i) => key,
                _ => &spec.columns[..],
            };
            text.clear();
            write_row(&mut text, columns.iter().map(|&column| batch.column(column)), i);
            match (&info.key, is.value(i)) {
                (Some(_), true) => members.upsert(&text),
                (Some(_), false) => members.delete(&text),
                (None, is) => members.count(if is { row.count } else { -row.count }, &text),
            }
        }
        self.reached = reached;
        Ok(Piece::Changes(members))
    }

    /// The epoch that the rows are of. Of a window that is known only at the end.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match &self.window {
            Some(WindowImage::Made(epoch)) => *epoch,
            _ => self.shared.stamp.epoch,
        }
    }

    /// The moment that the rows are of; of a window, from which they were taken.
    #[must_use]
    pub fn stamp(&self) -> &Moment {
        &self.shared.stamp
    }

    /// Whether there is no more to come.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        match &self.view.spec.window {
            Some(_) => matches!(self.window, Some(WindowImage::Made(_))),
            None => self.patch.is_none() && matches!(self.reached, Reached::End),
        }
    }

    /// The log does not reach back to this image's epoch any more. What is sent from here on brings
    /// it to now.
    pub fn bring_up(&mut self, hub: &Hub) {
        let snapshot = hub.snapshot(self.view.spec.projection);
        // What was ready once stays so.
        let Some(rows) = snapshot.rows else { return };
        if self.view.spec.window.is_some() {
            self.window = None;
            return;
        }
        // What differs is read, and nothing else.
        let new = SharedImage::new(snapshot.stamp, rows, None);
        self.patch = Some(Patch { old: std::mem::replace(&mut self.shared, new) });
        self.reached = Reached::Nothing;
    }

    /// The next differences between the rows of then and of now.
    fn next_of_patch(&mut self) -> Result<Piece, ArrowError> {
        let Some(patch) = &self.patch else { return Ok(Piece::End) };
        let (spec, info) = (&self.view.spec, &self.view.info);
        let from = self.reached.bound();
        let mut pairs: Vec<Pair<'_>> = Vec::new();
        let (mut bytes, mut reached) = (0, Reached::End);
        for pair in patch.old.rows.diff(&self.shared.rows, from) {
            if pairs.len() == self.rows_at_once || bytes >= self.part_bytes {
                reached = Reached::after(pairs.last().and_then(|[old, new]| new.or(*old)));
                break;
            }
            bytes += pair.iter().flatten().map(|row| row.row.len()).sum::<usize>();
            pairs.push(pair);
        }
        let record = Record::of_pairs(&self.shared.stamp, &pairs, info)?;
        let mut members = Members::default();
        if let Some(hits) = spec.hits(&record)? {
            let due = vec![Due { record: Arc::new(record), hits }];
            let _ = Changes::new(&self.view, due).write(&mut members, usize::MAX, usize::MAX);
        }
        if matches!(reached, Reached::End) {
            self.patch = None;
        }
        self.reached = reached;
        Ok(Piece::Changes(members))
    }

    /// What comes next.
    ///
    /// # Errors
    /// For mistakes of ours only.
    pub fn next(&mut self, hub: &Hub) -> Result<Piece, ArrowError> {
        let start = Instant::now();
        let piece = self.next_piece(hub);
        let (took, [most, least, _]) = (start.elapsed(), READ_ROWS);
        if took > READ_TIME {
            self.rows_at_once = (self.rows_at_once / 2).max(least);
        } else if took < READ_TIME / 4 {
            self.rows_at_once = (self.rows_at_once * 2).min(most);
        }
        piece
    }

    fn next_piece(&mut self, hub: &Hub) -> Result<Piece, ArrowError> {
        if self.view.spec.window.is_some() {
            return self.next_of_window(hub);
        }
        if self.patch.is_some() {
            return self.next_of_patch();
        }
        if matches!(self.reached, Reached::End) {
            return Ok(Piece::End);
        }
        self.switch(hub);
        if let Some(before) = self.before.clone() {
            return self.next_between(&before);
        }
        if self.switched.is_none() {
            let mut kept = self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if self.piece == kept.pieces.len() && kept.bytes < KEPT_BYTES && held::bytes() < HELD_BYTES_MAX {
                let (rows, reached) = self.read()?;
                kept.bytes += rows.len();
                kept.pieces.push((rows, reached));
            }
            if let Some((rows, reached)) = kept.pieces.get(self.piece) {
                self.reached = reached.clone();
                self.piece += 1;
                return Ok(Piece::Rows(rows.clone()));
            }
        }
        let (rows, reached) = self.read()?;
        self.reached = reached;
        self.piece += 1;
        Ok(Piece::Rows(rows))
    }

    /// Reads on from where the reader is.
    fn read(&self) -> Result<(Bytes, Reached), ArrowError> {
        let (held, reached) = self.batch();
        let batch = self.view.info.form.decode(held.iter().copied())?;
        let spec = &self.view.spec;
        let matches = if spec.predicate.is_all() { None } else { Some(spec.predicate.matches(&batch)?) };
        let is_shown = |i| matches.as_ref().is_none_or(|matches| matches.value(i));
        Ok((self.write(&batch, &held, is_shown), reached))
    }

    /// Those of these rows that are shown, as often as they stand there; the batch has them in the same
    /// order.
    fn write(&self, batch: &RecordBatch, rows: &[RowRef<'_>], is_shown: impl Fn(usize) -> bool) -> Bytes {
        let mut out = Vec::new();
        for (i, row) in rows.iter().enumerate().filter(|(i, _)| is_shown(*i)) {
            for _ in 0..row.count {
                if !out.is_empty() {
                    out.push(b',');
                }
                write_row(&mut out, self.view.spec.columns.iter().map(|&column| batch.column(column)), i);
            }
        }
        counted(out)
    }

    /// Makes the window, unless there is one, and then has its rows.
    fn next_of_window(&mut self, hub: &Hub) -> Result<Piece, ArrowError> {
        let Some(window) = &self.view.spec.window else { return Ok(Piece::End) };
        if matches!(self.window, Some(WindowImage::Made(_))) {
            return Ok(Piece::End);
        }
        let since = self.since.filter(|_| self.view.has_window());
        if let Some(since) = since
            && let Some((changes, epoch)) = hub.window_changes(&self.view, since)?
        {
            self.window = Some(WindowImage::Made(epoch));
            let mut members = Members::default();
            if changes.changes() > 0 {
                let due = vec![Due { record: Arc::new(changes), hits: Hits::All }];
                let _ = Changes::new(&self.view, due).write(&mut members, usize::MAX, usize::MAX);
            }
            return Ok(Piece::Changes(members));
        }
        if let Some((rows, epoch)) = self.view.window_shown() {
            self.window = Some(WindowImage::Made(epoch));
            let rows = self.write_window(&rows)?;
            return Ok(if since.is_some() { Piece::Anew(rows) } else { Piece::Rows(rows) });
        }
        let epoch = self.shared.stamp.epoch;
        let mut state = match self.window.take() {
            Some(WindowImage::Making(state)) => state,
            _ => Box::new(WindowState::new(window, &self.view.info, epoch)?),
        };
        if !matches!(self.reached, Reached::End) {
            let (held, reached) = self.batch();
            let batch = self.view.info.form.decode(held.iter().copied())?;
            let matches = self.view.spec.predicate.matches(&batch)?;
            state.add(&batch, &held, |i| matches.value(i))?;
            self.reached = reached;
            self.window = Some(WindowImage::Making(state));
            return Ok(Piece::Rows(Bytes::new()));
        }
        // What happened meanwhile, of the view without its window.
        let to = hub.stamp().epoch;
        match hub.records_of(&self.view, state.epoch, to) {
            Ok(due) => {
                for due in due {
                    if state.apply(&due.record.stamp, &due.record, due.hits(), &self.view.info)?.is_none() {
                        return self.begin_again(hub);
                    }
                }
                state.epoch = to;
            }
            Err(FellOff) => return self.begin_again(hub),
        }
        if let Err(state) = self.view.keep_window(state) {
            // The publisher has told more, or does not know the view yet.
            hub.introduce();
            self.window = Some(WindowImage::Making(state));
        }
        Ok(Piece::Rows(Bytes::new()))
    }

    fn begin_again(&mut self, hub: &Hub) -> Result<Piece, ArrowError> {
        let snapshot = hub.snapshot(self.view.spec.projection);
        if let Some(rows) = snapshot.rows {
            let lookup = hub.lookup(&self.view, &rows, &[&self.view.spec.predicate]);
            self.shared = SharedImage::new(snapshot.stamp, rows, lookup);
        }
        (self.reached, self.switched, self.window) = (Reached::Nothing, None, None);
        Ok(Piece::Rows(Bytes::new()))
    }

    fn write_window(&self, rows: &[(HeldRow, i64)]) -> Result<Bytes, ArrowError> {
        let rows: Vec<RowRef<'_>> = rows.iter().map(|(row, count)| row.times(*count)).collect();
        let batch = self.view.info.form.decode(rows.iter().copied())?;
        Ok(self.write(&batch, &rows, |_| true))
    }
}

impl Reached {
    /// Behind a row, if there is one.
    fn after(row: Option<RowRef<'_>>) -> Reached {
        row.map_or(Reached::End, |row| Reached::Key(row.key.into()))
    }

    /// Where to read on.
    fn bound(&self) -> Bound<&[u8]> {
        match self {
            Reached::Key(key) => Bound::Excluded(key),
            _ => Bound::Unbounded,
        }
    }
}

/// Rows that are read together.
struct Batch<'a> {
    rows_max: usize,
    bytes_max: usize,
    rows: Vec<RowRef<'a>>,
    looked_at: usize,
    bytes: usize,
}

impl<'a> Batch<'a> {
    fn new(rows_max: usize, bytes_max: usize) -> Batch<'a> {
        Batch { rows_max, bytes_max, rows: Vec::new(), looked_at: 0, bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.looked_at == self.rows_max || self.bytes >= self.bytes_max
    }

    fn look_at(&mut self, row: RowRef<'a>, is_wanted: bool) {
        self.looked_at += 1;
        if is_wanted {
            let times = usize::try_from(row.count).unwrap_or(usize::MAX);
            self.bytes = self.bytes.saturating_add(row.row.len().saturating_mul(times));
            self.rows.push(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use filter::Predicate;
    use serde_json::json;

    use crate::testing::{ample_hub, publish, text};
    use crate::view::ViewSpec;

    /// A hub whose `bag` has so many rows, of which one in a hundred is called as asked for.
    fn large_hub(rows: usize) -> Arc<Hub> {
        let hub = ample_hub();
        let all: Vec<String> = (0..rows).map(|i| format!("+bag({i},n{})", i % 100)).collect();
        publish(&hub, 1, &all.join(" "));
        hub
    }

    fn image(hub: &Arc<Hub>, name: &str, filter: &serde_json::Value) -> Image {
        let id = hub.find(name).expect("a projection");
        let info = &hub.projections()[id.0];
        let predicate = Predicate::parse(filter, &info.schema, &|_| true).expect("a filter");
        Image::of(hub, &hub.view(ViewSpec { predicate, ..ViewSpec::whole(id, info) })).expect("rows")
    }

    /// The ids of the rows, ascending, and how many pieces they came in.
    fn read(hub: &Hub, image: &mut Image) -> (Vec<i64>, usize) {
        let (mut ids, mut pieces) = (Vec::new(), 0);
        while !image.is_at_end() {
            let Piece::Rows(rows) = image.next(hub).expect("rows") else { panic!("an image that nobody patches") };
            let rows: Vec<(i64, String)> = serde_json::from_str(&format!("[{}]", text(&rows))).expect("rows");
            ids.extend(rows.iter().map(|row| row.0));
            pieces += 1;
        }
        ids.sort_unstable();
        (ids, pieces)
    }

    /// Everybody with a filter of their own read the whole projection, as many times as there were
    /// clients.
    #[test]
    fn an_image_under_an_equality_reads_what_it_matches() {
        let hub = large_hub(1000);
        let expected: Vec<i64> = (0..10).map(|i| i * 100 + 7).collect();
        let scanned = read(&hub, &mut image(&hub, "bag", &json!({"name": {"_eq": "n7"}})));
        assert_eq!(scanned, (expected.clone(), 200));
        hub.index_at_once(1000);
        drop(image(&hub, "bag", &json!({"name": {"_eq": "n3"}}))); // the first to ask has the index made
        let found = read(&hub, &mut image(&hub, "bag", &json!({"name": {"_eq": "n7"}})));
        assert_eq!(found, (expected, 2));
        let (ids, pieces) = read(&hub, &mut image(&hub, "bag", &json!({"name": {"_in": ["n9", "n1", "none"]}})));
        assert_eq!(ids, (0..10).flat_map(|i| [i * 100 + 1, i * 100 + 9]).collect::<Vec<_>>());
        assert_eq!(pieces, 4);
    }

    /// The key is an index that is there already, also when more than the key is asked for.
    #[test]
    fn rows_are_found_by_their_key() {
        let hub = ample_hub();
        let all: Vec<String> = (0..1000).map(|i| format!("+keyed({i},n{i})")).collect();
        publish(&hub, 1, &all.join(" "));
        hub.index_at_once(0);
        for (filter, ids) in [
            (json!({"id": {"_in": [700, 3, 5000]}}), vec![3, 700]),
            (json!({"id": {"_eq": 3}, "name": {"_eq": "n3"}}), vec![3]),
            (json!({"id": {"_eq": 3}, "name": {"_eq": "n4"}}), vec![]),
        ] {
            assert_eq!(read(&hub, &mut image(&hub, "keyed", &filter)), (ids, 1), "{filter}");
        }
    }

    /// Thousands of clients come back to a server that has just started: each looks through the rows
    /// until there is an index, and no further.
    #[test]
    fn a_reader_goes_on_by_an_index_when_there_is_one() {
        let hub = large_hub(1000);
        let filter = json!({"name": {"_eq": "n7"}});
        let mut image = image(&hub, "bag", &filter);
        let mut ids = Vec::new();
        for _ in 0..50 {
            let Ok(Piece::Rows(rows)) = image.next(&hub) else { panic!("rows") };
            let rows: Vec<(i64, String)> = serde_json::from_str(&format!("[{}]", text(&rows))).expect("rows");
            ids.extend(rows.iter().map(|row| row.0));
        }
        assert!((1..10).contains(&ids.len()), "a part of them: {ids:?}");
        // Rows that come later are not of this image, and the index is of a later epoch than it.
        publish(&hub, 2, "-bag(907,n7) +bag(2007,n7)");
        hub.index_at_once(0);
        let (rest, pieces) = read(&hub, &mut image);
        assert!(
            pieces <= 4,
            "{pieces}: one more of the projection, while the index is made, and two or three of the index"
        );
        ids.extend(rest);
        ids.sort_unstable();
        assert_eq!(ids, (0..10).map(|i| i * 100 + 7).collect::<Vec<_>>());
    }

    /// A client whose token changes sees what one view has and the other has not.
    #[test]
    fn what_differs_between_two_views_is_looked_up() {
        let hub = large_hub(1000);
        hub.index_at_once(0);
        let id = hub.find("bag").expect("a projection");
        let info = &hub.projections()[id.0];
        let view = |name: &str| {
            let filter = json!({"name": {"_eq": name}});
            let predicate = Predicate::parse(&filter, &info.schema, &|_| true).expect("a filter");
            hub.view(ViewSpec { predicate, ..ViewSpec::whole(id, info) })
        };
        let (old, new) = (view("n7"), view("n8"));
        drop(Image::of(&hub, &old));
        let (mut image, _) = Image::between(&hub, &old, &new).expect("rows");
        let (mut pieces, mut told) = (0, 0);
        while !image.is_at_end() {
            let Ok(Piece::Changes(members)) = image.next(&hub) else { panic!("changes") };
            told += usize::from(!members.is_empty());
            pieces += 1;
        }
        assert_eq!((pieces, told), (4, 4), "twenty rows, five at a time");
    }

    /// An index is kept up by the publisher: of rows whose values change, of rows that come and go.
    #[test]
    fn an_index_is_kept_up() {
        let hub = large_hub(200);
        hub.index_at_once(0);
        let filter = json!({"name": {"_eq": "n7"}});
        drop(image(&hub, "bag", &filter));
        publish(&hub, 2, "-bag(7,n7) +bag(7,n8) -bag(108,n8) +bag(108,n7) +2bag(300,n7)");
        publish(&hub, 3, "-bag(300,n7)");
        assert_eq!(read(&hub, &mut image(&hub, "bag", &filter)), (vec![107, 108, 300], 1));
    }
}
