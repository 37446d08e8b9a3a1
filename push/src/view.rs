//! A view: what some clients see of a projection.
//!
//! Clients that ask the same see the same view, so what an epoch means to them is worked out once.
//! A view keeps, of each epoch that concerns it, which changes do; the changes themselves are in the
//! projection's log, and when the log drops an epoch nothing of it is left here either.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arrow::buffer::BooleanBuffer;
use arrow::error::ArrowError;
use filter::Predicate;
use pipeline::Epoch;

use crate::hub::{Hub, Projection, ProjectionId};
use crate::image::SharedImage;
use crate::message::{Message, WeakMessage};
use crate::record::{Change, Record};
use crate::rows::HeldRow;
use crate::signal::{Signal, Signals};
use crate::viewer::Sight;
use crate::window::{Window, WindowState};

/// What a view is. Equal ones are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ViewSpec {
    /// Of which projection.
    pub projection: ProjectionId,
    /// Which rows.
    pub predicate: Predicate,
    /// Which columns, ascending; those of the key are among them.
    pub columns: Arc<[usize]>,
    /// Only the first rows in an order.
    pub window: Option<Window>,
}

/// What some clients see of a projection.
#[derive(Debug)]
pub struct View {
    /// What it is.
    pub spec: ViewSpec,
    /// Told to those who want to know whether two views are one, for as long as the server runs.
    pub id: u64,
    /// The projection.
    pub info: Arc<Projection>,
    pub(crate) hub: Weak<Hub>,
    state: Mutex<State>,
    /// An image that somebody is being sent.
    pub(crate) image: Mutex<Weak<SharedImage>>,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    /// The last epoch that concerned this view and is not to be had any more.
    dropped: Epoch,
    /// From this epoch on the publisher tells what concerns the view; earlier ones are looked up in
    /// the log when somebody asks. `None` while the publisher does not know the view.
    told_from: Option<Epoch>,
    /// Who is waiting for something to happen.
    signals: Signals,
    window: Option<Box<WindowState>>,
    told: Option<Told>,
}

/// A diff as one message, for all who have this view alone, and call it so.
#[derive(Debug)]
pub struct Told {
    /// The client's name for its subscription.
    pub id: Arc<str>,
    /// The first epoch in it.
    pub first: Epoch,
    /// Where it leads.
    pub to: Epoch,
    /// Rows that it may have.
    pub rows_max: usize,
    /// The message.
    pub message: WeakMessage,
}

/// An epoch that concerns a view.
#[derive(Clone, Debug)]
struct Entry {
    epoch: Epoch,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    /// Changes of the projection.
    Logged(Weak<Record>, Hits),
    /// Changes of the view alone.
    Own(Arc<Record>),
    /// What happened can't be told as changes: whoever is behind it begins anew.
    Break,
}

/// Which changes of an epoch concern a view.
#[derive(Clone, Debug)]
pub enum Hits {
    /// All of them, as they are.
    All,
    /// These.
    Some(Arc<[Hit]>),
}

/// A change that concerns a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Which part of the record.
    pub part: u32,
    /// Which change of the part.
    pub change: u32,
    /// Whether the row that goes was in the view.
    pub was: bool,
    /// Whether the row that comes is.
    pub is: bool,
}

/// An epoch's changes that a client is owed.
#[derive(Clone, Debug)]
pub struct Due {
    /// The epoch's changes.
    pub record: Arc<Record>,
    /// Those of the view.
    pub hits: Hits,
}

impl Due {
    /// How many changes.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.hits {
            Hits::All => self.record.changes(),
            Hits::Some(hits) => hits.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The changes, one after the other.
    pub fn hits(&self) -> Box<dyn Iterator<Item = Hit> + '_> {
        match &self.hits {
            Hits::All => Box::new((0..).zip(&self.record.parts).flat_map(|(part, held)| {
                (0..).zip(&held.changes).map(move |(change, of)| Hit {
                    part,
                    change,
                    was: of.old.is_some(),
                    is: of.new.is_some(),
                })
            })),
            Hits::Some(hits) => Box::new(hits.iter().copied()),
        }
    }
}

impl ViewSpec {
    /// All of a projection that a client may see.
    #[must_use]
    pub fn seen(projection: ProjectionId, sight: &Sight) -> ViewSpec {
        let columns = sight.columns.iter().copied().collect();
        ViewSpec { projection, predicate: sight.rows.clone(), columns, window: None }
    }

    /// All of a projection.
    #[must_use]
    pub fn whole(projection: ProjectionId, info: &Projection) -> ViewSpec {
        let columns = (0..info.schema.fields().len()).collect();
        ViewSpec { projection, predicate: Predicate::all(), columns, window: None }
    }

    /// Which changes of an epoch concern this view; `None` when none does.
    ///
    /// # Errors
    /// When the predicate is not of the projection's columns, which would be a mistake of ours.
    pub fn hits(&self, record: &Record) -> Result<Option<Hits>, ArrowError> {
        if self.predicate.is_all() {
            return Ok((record.changes() > 0).then_some(Hits::All));
        }
        let mut hits = Vec::new();
        for (part, held) in (0..).zip(&record.parts) {
            let matches = self.predicate.matches(&held.batch)?;
            hits.extend(hits_of(part, &held.changes, &matches));
        }
        Ok((!hits.is_empty()).then(|| Hits::Some(hits.into())))
    }
}

/// The changes of which the old row or the new one matches.
pub fn hits_of(part: u32, changes: &[Change], matches: &BooleanBuffer) -> impl Iterator<Item = Hit> {
    let is_in = |row: Option<u32>| row.is_some_and(|row| matches.value(row as usize));
    (0..).zip(changes).filter_map(move |(change, of)| {
        let (was, is) = (is_in(of.old), is_in(of.new));
        (was || is).then_some(Hit { part, change, was, is })
    })
}

impl View {
    pub(crate) fn new(id: u64, spec: ViewSpec, info: Arc<Projection>, hub: Weak<Hub>) -> View {
        View { spec, id, info, hub, state: Mutex::default(), image: Mutex::default() }
    }

    /// The publisher knows the view: it tells what concerns it from `epoch` on.
    pub(crate) fn told_from(&self, epoch: Epoch) {
        let mut state = self.lock();
        if state.told_from.is_none() {
            state.told_from = Some(epoch);
        }
    }

    /// An epoch concerns the view. Those that the log has dropped are forgotten on this occasion.
    pub(crate) fn push(&self, record: &Arc<Record>, hits: Hits, log_dropped: Epoch) {
        let mut state = self.lock();
        state.trim(log_dropped);
        let (epoch, source) = (record.stamp.epoch, Source::Logged(Arc::downgrade(record), hits));
        state.entries.push_back(Entry { epoch, source });
    }

    /// As [`View::push`], of a view with a window: what changes of the window is worked out, and
    /// that alone concerns the view.
    pub(crate) fn push_window(&self, record: &Arc<Record>, hits: Hits, log_dropped: Epoch) -> Result<(), ArrowError> {
        let due = Due { record: Arc::clone(record), hits };
        let mut state = self.lock();
        state.trim(log_dropped);
        let epoch = record.stamp.epoch;
        let changes = match &mut state.window {
            Some(window) => window.apply(&record.stamp, record, due.hits(), &self.info)?,
            None => None,
        };
        let source = match changes {
            None => {
                state.window = None;
                Source::Break
            }
            Some(changes) if changes.changes() == 0 => return Ok(()),
            Some(changes) => Source::Own(Arc::new(changes)),
        };
        state.entries.push_back(Entry { epoch, source });
        Ok(())
    }

    /// The rows of the window, and the epoch that they are of; `None` while there is no window.
    pub(crate) fn window_shown(&self) -> Option<(Vec<(HeldRow, i64)>, Epoch)> {
        self.lock().window.as_ref().map(|window| (window.shown(), window.epoch))
    }

    /// Whether there is a window.
    pub(crate) fn has_window(&self) -> bool {
        self.lock().window.is_some()
    }

    /// The window as it is now, for who wants to know what it was.
    pub(crate) fn window_now(&self) -> Option<Box<WindowState>> {
        self.lock().window.clone()
    }

    /// Has the publisher keep this window from now on; gives it back when it does not have all that
    /// the publisher told meanwhile, or the publisher does not know the view.
    pub(crate) fn keep_window(&self, window: Box<WindowState>) -> Result<(), Box<WindowState>> {
        let mut state = self.lock();
        let is_known = state.told_from.is_some_and(|told_from| told_from <= window.epoch.next());
        if !is_known || state.entries.back().is_some_and(|last| last.epoch > window.epoch) {
            return Err(window);
        }
        state.window = Some(window);
        Ok(())
    }

    /// Everything that concerns the view after `from` and up to `to`, as far as it is known here.
    /// `Err` tells what is missing.
    pub(crate) fn since(&self, from: Epoch, to: Epoch) -> Result<Vec<Due>, Missing> {
        let state = self.lock();
        if from < state.dropped {
            return Err(Missing::Dropped);
        }
        if state.told_from.is_none_or(|told_from| told_from > from.next()) {
            if from == to {
                return Ok(Vec::new());
            }
            return Err(Missing::Before(state.told_from.unwrap_or(to.next())));
        }
        let first = state.entries.partition_point(|entry| entry.epoch <= from);
        let mut due = Vec::new();
        for entry in state.entries.range(first..).take_while(|entry| entry.epoch <= to) {
            due.push(match &entry.source {
                Source::Logged(record, hits) => {
                    Due { record: record.upgrade().ok_or(Missing::Dropped)?, hits: hits.clone() }
                }
                Source::Own(record) => Due { record: Arc::clone(record), hits: Hits::All },
                Source::Break => return Err(Missing::Dropped),
            });
        }
        Ok(due)
    }

    /// Keeps a message for others.
    pub(crate) fn tell(&self, told: Told) {
        self.lock().told = Some(told);
    }

    /// The message that was made for somebody else who was at `from`, or where that makes no difference, if that
    /// is what this one needs too.
    pub(crate) fn told(&self, id: &Arc<str>, from: Epoch, to: Epoch, rows_max: usize) -> Option<Message> {
        let state = self.lock();
        let told = state.told.as_ref().filter(|told| told.to == to && told.rows_max == rows_max && told.id == *id)?;
        let is_known = from >= state.dropped && state.told_from.is_some_and(|told_from| told_from <= from.next());
        let first = state.entries.partition_point(|entry| entry.epoch <= from);
        let is_same = is_known && state.entries.get(first).is_some_and(|entry| entry.epoch == told.first);
        if is_same { told.message.upgrade() } else { None }
    }

    /// What concerned the view after `from` and before `until`, when the publisher came to know it,
    /// looked up in the log.
    pub(crate) fn fill_in(&self, from: Epoch, until: Epoch, found: &[Due]) {
        let mut state = self.lock();
        // Somebody may have been quicker.
        if state.told_from != Some(until) {
            return;
        }
        for due in found.iter().rev() {
            let source = Source::Logged(Arc::downgrade(&due.record), due.hits.clone());
            state.entries.push_front(Entry { epoch: due.record.stamp.epoch, source });
        }
        state.told_from = Some(from.next());
    }

    /// Has `signal` told whenever something concerns the view, until it is taken back.
    pub(crate) fn watch(&self, signal: &Arc<Signal>) -> usize {
        self.lock().signals.add(signal)
    }

    /// Takes a signal back.
    pub(crate) fn unwatch(&self, place: usize) {
        self.lock().signals.remove(place);
    }

    /// Tells all who watch.
    pub(crate) fn wake(&self) {
        self.lock().signals.iter().for_each(|signal| signal.tell());
    }

    /// Watchers now.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.lock().signals.count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.forget(self);
        }
    }
}

/// Why a view can't say what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is not to be had any more.
    Dropped,
    /// What happened before this epoch must be looked up in the log.
    Before(Epoch),
}

impl State {
    fn trim(&mut self, log_dropped: Epoch) {
        while self.entries.front().is_some_and(|entry| entry.epoch <= log_dropped) {
            if let Some(entry) = self.entries.pop_front() {
                self.dropped = entry.epoch;
            }
        }
        if self.entries.is_empty() && self.entries.capacity() > ENTRIES_KEPT {
            self.entries.shrink_to(ENTRIES_KEPT);
        }
    }
}

/// Room for entries that a quiet view keeps.
const ENTRIES_KEPT: usize = 8;
