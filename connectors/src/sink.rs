//! The words that all sinks share: what they are told, and what waits for them.
//!
//! ```text
//!  engine ──► SinkEvent ──► Pending ──► a writer (a thread)
//!             an epoch        merged by key while the writer is busy or its server is away
//! ```
//!
//! A sink is a client of the engine like any other: it is never waited for, and what waits for it is
//! bounded by its rows, since a key that changes twice is written once.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures_util::future::BoxFuture;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use pipeline::{DiffPart, Epoch, Position};
use tokio::sync::{mpsc, watch};

use crate::source::{Counters, Problem, SourceState, TableRequest};
use crate::topic::thread::on_thread;

pub mod shape; // what a message says of its key

/// A table that rows are written to.
#[derive(Clone, Debug)]
pub struct SinkRequest {
    /// As the project has it.
    pub table: TableRequest,
    /// The project's name, fit for an identifier.
    pub project: String,
    /// The columns of what is written, by the names that the table has for them.
    pub schema: SchemaRef,
    /// Its key, if it has one.
    pub key: Option<Vec<usize>>,
}

/// A place that rows are written to.
pub trait Sink: Send {
    /// What it is called in metrics and the log.
    fn name(&self) -> &str;

    /// Looks whether it can be written to.
    fn check(&mut self) -> BoxFuture<'_, Result<(), Problem>>;

    /// Writes all that it is told, until nobody tells anything any more or an operator is needed.
    /// What can be tried again is, for ever.
    fn run(self: Box<Self>, link: SinkLink) -> BoxFuture<'static, ()>;
}

/// What ties a running sink to the rest of the program.
pub struct SinkLink {
    /// Its name in metrics and the log.
    pub name: Arc<str>,
    /// What it is told. The first event has all rows that there are.
    pub events: mpsc::UnboundedReceiver<SinkEvent>,
    /// What it is doing now.
    pub state: watch::Sender<SourceState>,
    /// What it counts.
    pub counters: Arc<Counters>,
}

/// What an epoch changes in the rows of a sink.
#[derive(Clone, Debug)]
pub struct SinkEvent {
    /// The epoch.
    pub epoch: Epoch,
    /// How far the sources have been read.
    pub position: Position,
    /// When the last of its transactions was committed, in microseconds since 1970-01-01 UTC.
    pub commit_time: i64,
    /// What changes; `Err` when the rows are not known, and why.
    pub change: Result<Vec<DiffPart>, String>,
}

/// A row as it is written: its key, and what it was and is. No value is no row.
pub type Encoded = Box<[u8]>;

/// What happens to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// What it was when the writer last had it.
    pub old: Option<Encoded>,
    /// What it is.
    pub new: Option<Encoded>,
}

/// Makes the bytes of keys and values.
pub trait RowEncoder: Send {
    /// The key of each row.
    ///
    /// # Errors
    /// With a mistake of ours: what it can't encode was refused when it was made.
    fn keys(&mut self, rows: &RecordBatch) -> Result<Vec<Encoded>, String>;

    /// The value of each row.
    ///
    /// # Errors
    /// As [`RowEncoder::keys`].
    fn values(&mut self, rows: &RecordBatch) -> Result<Vec<Encoded>, String>;
}

/// What is to be written, as one.
#[derive(Debug, Default)]
pub struct Pending {
    /// By key, each once.
    pub changes: HashMap<Encoded, KeyChange>,
    /// The newest epoch in it.
    pub epoch: Epoch,
    /// How far the sources had been read then.
    pub position: Position,
    /// When the last of its transactions was committed, in microseconds since 1970-01-01 UTC.
    pub commit_time: i64,
    /// Whether these are all rows that there are, and not what changed.
    pub is_first: bool,
}

impl Pending {
    /// Adds what an epoch changes.
    ///
    /// # Errors
    /// As [`RowEncoder::keys`].
    pub fn add(&mut self, parts: &[DiffPart], encoder: &mut dyn RowEncoder) -> Result<(), String> {
        for part in parts {
            let keys = encoder.keys(&part.batch)?;
            let mut values: Vec<Option<Encoded>> = encoder.values(&part.batch)?.into_iter().map(Some).collect();
            let mut keys: Vec<Option<Encoded>> = keys.into_iter().map(Some).collect();
            for pair in &part.pairs {
                let mut take = |row: Option<u32>| {
                    let row = row? as usize;
                    Some((keys.get_mut(row)?.take()?, values.get_mut(row)?.take()?))
                };
                let (old, new) = (take(pair.old), take(pair.new));
                let Some(key) = new.as_ref().or(old.as_ref()).map(|(key, _)| key.clone()) else { continue };
                self.change(key, KeyChange { old: old.map(|(_, value)| value), new: new.map(|(_, value)| value) });
            }
        }
        Ok(())
    }

    /// Adds what happened to a key after all that is there.
    pub fn change(&mut self, key: Encoded, change: KeyChange) {
        match self.changes.entry(key) {
            Entry::Vacant(place) => drop(place.insert(change)),
            Entry::Occupied(mut there) => {
                there.get_mut().new = change.new;
                if there.get().old == there.get().new {
                    there.remove();
                }
            }
        }
    }

    /// What was taken out comes back, before what has come since.
    pub fn put_back(&mut self, mut before: Pending) {
        for (key, change) in std::mem::take(&mut self.changes) {
            before.change(key, change);
        }
        before.epoch = before.epoch.max(self.epoch);
        before.commit_time = before.commit_time.max(self.commit_time);
        if !self.position.marks.is_empty() {
            before.position = std::mem::take(&mut self.position);
        }
        *self = before;
    }
}

/// Where what is pending waits: one puts in, another takes out.
#[derive(Default)]
pub struct Desk {
    state: Mutex<DeskState>,
    changed: Condvar,
}

#[derive(Default)]
struct DeskState {
    pending: Option<Pending>,
    /// Why nothing is to be written now.
    held: Option<String>,
    has_begun: bool,
    is_over: bool,
}

/// What lies on a desk.
#[derive(Debug)]
pub enum Lies {
    /// This is to be written.
    Work(Pending),
    /// Nothing yet.
    Nothing,
    /// Nothing, since the rows are not known.
    Held(String),
    /// There is nobody who puts anything there any more.
    Over,
}

impl Desk {
    /// Puts down what an epoch changes.
    ///
    /// # Errors
    /// As [`RowEncoder::keys`].
    pub fn put(&self, event: SinkEvent, encoder: &mut dyn RowEncoder) -> Result<(), String> {
        let parts = match event.change {
            Ok(parts) => parts,
            Err(reason) => {
                self.lock().held = Some(reason);
                self.changed.notify_one();
                return Ok(());
            }
        };
        // Encoded before the desk is taken: who writes is not kept waiting.
        let mut new = Pending {
            epoch: event.epoch,
            position: event.position,
            commit_time: event.commit_time,
            ..Pending::default()
        };
        new.add(&parts, encoder)?;
        let mut state = self.lock();
        state.held = None;
        new.is_first = !std::mem::replace(&mut state.has_begun, true);
        match state.pending.take() {
            None => state.pending = Some(new),
            Some(before) => {
                new.put_back(before);
                state.pending = Some(new);
            }
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Takes what is there; waits for as long as this if nothing is.
    pub fn take(&self, patience: Duration) -> Lies {
        let is_empty = |state: &mut DeskState| state.pending.is_none() && !state.is_over;
        let (mut state, _) =
            self.changed.wait_timeout_while(self.lock(), patience, is_empty).unwrap_or_else(PoisonError::into_inner);
        match (state.pending.take(), &state.held) {
            (Some(pending), None) => Lies::Work(pending),
            (pending, Some(reason)) => {
                let reason = reason.clone();
                state.pending = pending;
                Lies::Held(reason)
            }
            (None, None) if state.is_over => Lies::Over,
            (None, None) => Lies::Nothing,
        }
    }

    /// Puts back what could not be written.
    pub fn put_back(&self, pending: Pending) {
        let mut state = self.lock();
        match &mut state.pending {
            Some(now) => now.put_back(pending),
            None => state.pending = Some(pending),
        }
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, DeskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what a sink is told to its desk, on a thread of its own: the rows of a large epoch are a second's
/// work, and whoever else runs on the runtime is not kept waiting for it. Never resolves.
pub fn taking(
    name: &str,
    mut events: mpsc::UnboundedReceiver<SinkEvent>,
    desk: Arc<Desk>,
    mut encoder: Box<dyn RowEncoder>,
) -> BoxFuture<'static, ()> {
    let name = name.to_owned();
    on_thread(format!("take {name}"), move |mut waiting| {
        while let Ok(Some(event)) = waiting.until(events.recv()) {
            if let Err(error) = desk.put(event, &mut *encoder) {
                tracing::error!(sink = name, error, "can't encode rows, which is a mistake of ours");
                break;
            }
        }
        desk.close();
        let _ = waiting.until(std::future::pending::<()>());
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use pipeline::Mark;
    use pipeline::projection::Pair;

    use crate::format::encode::JsonEncoder;

    fn encoded(text: &str) -> Encoded {
        text.as_bytes().into()
    }

    fn change(old: Option<&str>, new: Option<&str>) -> KeyChange {
        KeyChange { old: old.map(encoded), new: new.map(encoded) }
    }

    fn one(key: &str, change: KeyChange) -> Pending {
        Pending { changes: [(encoded(key), change)].into(), ..Pending::default() }
    }

    /// Rows with these ids, which are their keys, and which of them goes and comes with which. A column `v` counts them.
    fn part(ids: &[i64], pairs: &[(Option<u32>, Option<u32>)]) -> (DiffPart, JsonEncoder) {
        let counted: ArrayRef = Arc::new((0..).take(ids.len()).collect::<Int64Array>());
        let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
        let batch = RecordBatch::try_from_iter([("id", ids), ("v", counted)]).expect("rows");
        let encoder = JsonEncoder::new(&batch.schema(), vec![0]).expect("a type that JSON shows");
        let pairs = pairs.iter().map(|&(old, new)| Pair { old, new }).collect();
        (DiffPart { weights: vec![1; batch.num_rows()], batch, pairs }, encoder)
    }

    fn event(epoch: u64, ids: &[i64]) -> (SinkEvent, JsonEncoder) {
        let pairs: Vec<_> = (0..u32::try_from(ids.len()).expect("few")).map(|row| (None, Some(row))).collect();
        let (part, encoder) = part(ids, &pairs);
        let marks = [(Arc::from("s"), Mark::Lsn(pipeline::Lsn(epoch)))].into();
        let commit_time = i64::try_from(epoch).expect("small") * 1000;
        (SinkEvent { epoch: Epoch(epoch), position: Position { marks }, commit_time, change: Ok(vec![part]) }, encoder)
    }

    fn put(desk: &Desk, epoch: u64, ids: &[i64]) {
        let (event, mut encoder) = event(epoch, ids);
        desk.put(event, &mut encoder).expect("rows are encoded");
    }

    fn work(desk: &Desk) -> Pending {
        match desk.take(Duration::from_secs(10)) {
            Lies::Work(pending) => pending,
            other => panic!("{other:?}"),
        }
    }

    fn keys(pending: &Pending) -> Vec<String> {
        let mut keys: Vec<_> = pending.changes.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        keys.sort();
        keys
    }

    #[test]
    fn a_key_is_written_once_and_not_at_all_if_it_is_again_what_it_was() {
        let mut pending = one("k", change(Some("a"), Some("b")));
        pending.change(encoded("k"), change(Some("b"), Some("c")));
        assert_eq!(pending.changes[&encoded("k")], change(Some("a"), Some("c")));
        pending.change(encoded("k"), change(Some("c"), Some("a")));
        assert!(pending.changes.is_empty(), "{pending:?}");
        pending.change(encoded("new"), change(None, Some("a")));
        pending.change(encoded("new"), change(Some("a"), None));
        assert!(pending.changes.is_empty(), "{pending:?}");
    }

    #[test]
    fn rows_of_a_pair_are_one_change_of_their_key() {
        let (part, mut encoder) = part(&[1, 1, 2, 3], &[(Some(0), Some(1)), (Some(2), None), (None, Some(3))]);
        let mut pending = Pending::default();
        pending.add(&[part], &mut encoder).expect("rows are encoded");
        let of = |key: &str| &pending.changes[&encoded(key)];
        assert_eq!(pending.changes.len(), 3);
        assert_eq!(*of(r#"{"id":1}"#), change(Some(r#"{"id":1,"v":0}"#), Some(r#"{"id":1,"v":1}"#)));
        assert_eq!(*of(r#"{"id":2}"#), change(Some(r#"{"id":2,"v":2}"#), None));
        assert_eq!(*of(r#"{"id":3}"#), change(None, Some(r#"{"id":3,"v":3}"#)));
    }

    #[test]
    fn what_is_put_back_lies_under_what_has_come_since() {
        let desk = Desk::default();
        put(&desk, 1, &[1]);
        let first = work(&desk);
        put(&desk, 2, &[2]);
        desk.put_back(first);
        let both = work(&desk);
        assert_eq!(keys(&both), [r#"{"id":1}"#, r#"{"id":2}"#]);
        // The newest of all that tells how far it is, and still all rows that there are.
        assert_eq!((both.epoch, both.commit_time, both.is_first), (Epoch(2), 2000, true));
        assert_eq!(both.position.marks["s"], Mark::Lsn(pipeline::Lsn(2)));
        desk.put_back(both);
        assert_eq!(keys(&work(&desk)).len(), 2, "also where nothing has come since");

        let (mut nothing_new, position) = (Pending::default(), event(7, &[]).0.position);
        nothing_new.put_back(Pending { position: position.clone(), ..one("k", change(None, Some("a"))) });
        assert_eq!(nothing_new.position, position, "nothing known is no position");
    }

    #[test]
    fn a_desk_holds_what_came_as_one_and_only_the_first_is_all() {
        let desk = Desk::default();
        assert!(matches!(desk.take(Duration::ZERO), Lies::Nothing));
        put(&desk, 1, &[1]);
        put(&desk, 2, &[2]);
        let all = work(&desk);
        assert_eq!((keys(&all).len(), all.is_first, all.epoch), (2, true, Epoch(2)));
        put(&desk, 3, &[3]);
        let next = work(&desk);
        assert_eq!((keys(&next), next.is_first), (vec![r#"{"id":3}"#.to_owned()], false));
        assert!(matches!(desk.take(Duration::ZERO), Lies::Nothing));
    }

    #[test]
    fn what_is_not_known_is_not_written_until_it_is() {
        let desk = Desk::default();
        put(&desk, 1, &[1]);
        let (unknown, mut encoder) = event(2, &[]);
        let unknown = SinkEvent { change: Err("a row is withheld".to_owned()), ..unknown };
        desk.put(unknown, &mut encoder).expect("nothing to encode");
        assert!(matches!(desk.take(Duration::ZERO), Lies::Held(reason) if reason == "a row is withheld"));
        put(&desk, 3, &[3]);
        assert_eq!(keys(&work(&desk)).len(), 2, "what lay there is kept");
    }

    #[test]
    fn who_waits_at_a_desk_is_woken_and_what_lies_there_comes_before_the_end() {
        let desk = Arc::new(Desk::default());
        let waiting = Arc::clone(&desk);
        let (answer, answers) = std::sync::mpsc::channel();
        let waits = std::thread::spawn(move || {
            for _ in 0..2 {
                answer.send(waiting.take(Duration::from_secs(60))).expect("somebody listens");
            }
        });
        put(&desk, 1, &[1]);
        let next = || answers.recv_timeout(Duration::from_secs(10)).expect("woken");
        assert!(matches!(next(), Lies::Work(_)));
        desk.close();
        assert!(matches!(next(), Lies::Over));
        waits.join().expect("joins");

        let desk = Desk::default();
        put(&desk, 1, &[1]);
        desk.close();
        assert_eq!(keys(&work(&desk)).len(), 1);
        assert!(matches!(desk.take(Duration::from_secs(60)), Lies::Over));
    }
}
