//! The rows of a view, all of them, in pieces.
//!
//! Clients that come at the same moment and ask the same share what was read and written for the
//! first of them. The rest of a large image each reads for itself: what is kept is bounded.

use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use bytes::Bytes;
use pipeline::Epoch;

use crate::hub::{FellOff, Hub, Moment};
use crate::json::write_row;
use crate::record::{Pair, Record};
use crate::rows::{HeldRow, RowRef, Rows};
use crate::view::{Due, View};
use crate::window::WindowState;
use crate::wire::{Changes, Members};

/// Bytes of rows in one message; a larger image, or diff, is sent in several, so that a slow client
/// costs no more than one of them.
pub const PART_BYTES: usize = 256 * 1024;

/// Rows that are read at a time: no client is kept waiting while another one's rows are looked
/// through.
const READ_ROWS: usize = 1024;

/// Bytes of an image that are kept for others.
const KEPT_BYTES: usize = 1 << 20;

/// Changes that a client takes over an image that was made for somebody else a moment ago.
const SHARED_BEHIND_MAX: usize = 1000;

/// The rows of a view at an epoch, as far as they have been read.
#[derive(Debug)]
pub struct SharedImage {
    /// When.
    pub stamp: Arc<Moment>,
    rows: Rows,
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
    Key(Arc<[u8]>),
    End,
}

/// One reader of an image.
#[derive(Debug)]
pub struct Image {
    view: Arc<View>,
    shared: Arc<SharedImage>,
    piece: usize,
    reached: Reached,
    /// Rows of a window, which are few and not read from the projection.
    window: Option<WindowImage>,
    patch: Option<Patch>,
    /// What the client saw before: only what differs from that is told.
    before: Option<Arc<View>>,
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
    fn new(stamp: Arc<Moment>, rows: Rows) -> Arc<SharedImage> {
        Arc::new(SharedImage { stamp, rows, kept: Mutex::default() })
    }
}

impl Image {
    /// An image of a view. `None` while its projection has no rows to show.
    #[must_use]
    pub fn of(hub: &Hub, view: &Arc<View>) -> Option<Image> {
        let reader = |shared| Image {
            view: Arc::clone(view),
            shared,
            piece: 0,
            reached: Reached::Nothing,
            window: None,
            patch: None,
            before: None,
        };
        let mut held = view.image.lock().unwrap_or_else(PoisonError::into_inner);
        if view.spec.window.is_none()
            && let Some(shared) = held.upgrade()
            && let Ok(due) = hub.due(view, shared.stamp.epoch, hub.stamp().epoch)
            && due.iter().map(Due::len).sum::<usize>() <= SHARED_BEHIND_MAX
        {
            return Some(reader(shared));
        }
        let snapshot = hub.snapshot(view.spec.projection);
        let shared = SharedImage::new(snapshot.stamp, snapshot.rows?);
        *held = Arc::downgrade(&shared);
        drop(held);
        Some(reader(shared))
    }

    /// What one view has and another has not, at a moment: for a client that has all of the old one
    /// at that moment. The views differ by nothing but their predicates.
    #[must_use]
    pub fn between(hub: &Hub, old: &Arc<View>, new: &Arc<View>) -> Option<(Image, Arc<Moment>)> {
        let snapshot = hub.snapshot(new.spec.projection);
        let shared = SharedImage::new(Arc::clone(&snapshot.stamp), snapshot.rows?);
        let image = Image {
            view: Arc::clone(new),
            shared,
            piece: 0,
            reached: Reached::Nothing,
            window: None,
            patch: None,
            before: Some(Arc::clone(old)),
        };
        Some((image, snapshot.stamp))
    }

    /// The next rows that come into sight or go out of it.
    fn next_between(&mut self, before: &View) -> Result<Piece, ArrowError> {
        let (spec, info) = (&self.view.spec, &self.view.info);
        let (held, reached) = batch(&self.shared.rows, &self.reached);
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
        let new = SharedImage::new(snapshot.stamp, rows);
        self.patch = Some(Patch { old: std::mem::replace(&mut self.shared, new) });
        self.reached = Reached::Nothing;
    }

    /// The next differences between the rows of then and of now.
    fn next_of_patch(&mut self) -> Result<Piece, ArrowError> {
        let Some(patch) = &self.patch else { return Ok(Piece::End) };
        let (spec, info) = (&self.view.spec, &self.view.info);
        let Some(from) = self.reached.bound() else { return Ok(Piece::End) };
        let mut pairs: Vec<Pair<'_>> = Vec::new();
        let (mut bytes, mut reached) = (0, Reached::End);
        for pair in patch.old.rows.diff(&self.shared.rows, from) {
            if pairs.len() == READ_ROWS || bytes >= PART_BYTES {
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
        if self.view.spec.window.is_some() {
            return self.next_of_window(hub);
        }
        if self.patch.is_some() {
            return self.next_of_patch();
        }
        if let Some(before) = self.before.clone().filter(|_| !matches!(self.reached, Reached::End)) {
            return self.next_between(&before);
        }
        if matches!(self.reached, Reached::End) {
            return Ok(Piece::End);
        }
        {
            let mut kept = self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if self.piece == kept.pieces.len() && kept.bytes < KEPT_BYTES {
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
        let (held, reached) = batch(&self.shared.rows, &self.reached);
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
        out.into()
    }

    /// Makes the window, unless there is one, and then has its rows.
    fn next_of_window(&mut self, hub: &Hub) -> Result<Piece, ArrowError> {
        let Some(window) = &self.view.spec.window else { return Ok(Piece::End) };
        if matches!(self.window, Some(WindowImage::Made(_))) {
            return Ok(Piece::End);
        }
        if let Some((rows, epoch)) = self.view.window_shown() {
            self.window = Some(WindowImage::Made(epoch));
            return self.write_window(&rows).map(Piece::Rows);
        }
        let epoch = self.shared.stamp.epoch;
        let mut state = match self.window.take() {
            Some(WindowImage::Making(state)) => state,
            _ => Box::new(WindowState::new(window, &self.view.info, epoch)?),
        };
        if !matches!(self.reached, Reached::End) {
            let (held, reached) = batch(&self.shared.rows, &self.reached);
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
            self.shared = SharedImage::new(snapshot.stamp, rows);
        }
        (self.reached, self.window) = (Reached::Nothing, None);
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

    /// Where to read on; `None` at the end.
    fn bound(&self) -> Option<Bound<&[u8]>> {
        match self {
            Reached::Nothing => Some(Bound::Unbounded),
            Reached::Key(key) => Some(Bound::Excluded(key)),
            Reached::End => None,
        }
    }
}

/// The next rows of a projection, matching or not.
fn batch<'a>(rows: &'a Rows, reached: &Reached) -> (Vec<RowRef<'a>>, Reached) {
    let Some(from) = reached.bound() else { return (Vec::new(), Reached::End) };
    let (mut held, mut bytes) = (Vec::new(), 0_usize);
    for row in rows.range(from) {
        if held.len() == READ_ROWS || bytes >= PART_BYTES {
            let reached = Reached::after(held.last().copied());
            return (held, reached);
        }
        bytes = bytes.saturating_add(row.row.len().saturating_mul(usize::try_from(row.count).unwrap_or(usize::MAX)));
        held.push(row);
    }
    (held, Reached::End)
}
