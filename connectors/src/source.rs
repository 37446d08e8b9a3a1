//! The words that all sources share: what they tell, how they are started, what they are told.
//!
//! ```text
//!  Connector::open ──► Source::discover ──► Source::run ──► SourceEvent ──► (room in bytes)
//!   tables as a         what they look       until nobody    copies, whole transactions,
//!   project names them  like                 listens         each with its position
//! ```
//!
//! A new kind of source is a module beside [`crate::postgres`] that makes a [`Connector`], and a
//! line in the list of them that the server has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use futures_util::future::BoxFuture;
use pipeline::table::Identity;
use pipeline::{Changes, Mark, Op};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::dead_letters::DeadLetterSender;
use crate::sink::{Sink, SinkRequest};

/// A kind of source.
#[derive(Clone, Copy)]
pub struct Connector {
    /// What `WITH (connector = '…')` says.
    pub name: &'static str,
    /// What a table of it is called in messages: `a Postgres table`.
    pub of_tables: &'static str,
    /// What else `WITH (…)` may say.
    pub options: &'static [TableOption],
    /// Whether options with a dot in their names are passed on to a client library.
    pub passes_dotted: bool,
    /// Whether its tables are made of messages, of which some may not be readable.
    pub reads_messages: bool,
    /// Sorts the tables of this kind that a project reads by the place where they are: one source a
    /// place. The text is the project's name in lower case, fit for an identifier.
    pub open: fn(&str, Vec<TableRequest>) -> Opened,
    /// Opens a table that rows are written to; `None` where none can be.
    pub open_sink: Option<fn(SinkRequest) -> OpenedSink>,
}

impl Connector {
    /// One of which nothing is said: what others leave out.
    pub const NONE: Connector = Connector {
        name: "",
        of_tables: "a table",
        options: &[],
        passes_dotted: false,
        reads_messages: false,
        open: |_, _| Opened { sources: Vec::new(), problems: Vec::new() },
        open_sink: None,
    };
}

/// Something that `WITH (…)` may say of a table.
#[derive(Clone, Copy, Debug)]
pub struct TableOption {
    /// Its name, in lower case.
    pub name: &'static str,
    /// What to write, where a table can't be without it.
    pub required: Option<&'static str>,
}

impl TableOption {
    /// One that may be left out.
    #[must_use]
    pub const fn optional(name: &'static str) -> TableOption {
        TableOption { name, required: None }
    }

    /// One that a table can't be without, with what to write.
    #[must_use]
    pub const fn required(name: &'static str, remedy: &'static str) -> TableOption {
        TableOption { name, required: Some(remedy) }
    }
}

/// What became of a table that rows are written to.
pub type OpenedSink = Result<Box<dyn Sink>, Problem>;

/// What became of a project's tables: all of them are in a source or in a problem.
#[derive(Default)]
pub struct Opened {
    /// The places to read from.
    pub sources: Vec<Box<dyn Source>>,
    /// What is wrong with tables that are in no source.
    pub problems: Vec<Problem>,
}

/// A table that a project wants.
#[derive(Clone, Debug)]
pub struct TableRequest {
    /// Its name in the project.
    pub name: String,
    /// What `WITH (…)` says, besides `connector`: only of what [`Connector::options`] lists, and all
    /// of it that is required.
    pub options: BTreeMap<String, String>,
    /// The columns that the project declares, with their types; `None` for all columns as they are.
    pub columns: Option<Vec<(String, DataType)>>,
    /// The columns of the primary key that the project declares; empty when it declares none.
    pub key: Vec<String>,
}

/// A table as its source has it.
#[derive(Clone, Debug)]
pub struct SourceTable {
    /// Its name in the project.
    pub name: String,
    /// The columns.
    pub schema: SchemaRef,
    /// What tells its rows apart.
    pub identity: Identity,
}

/// Something that keeps a table, or the whole source, from being read.
#[derive(Debug)]
pub struct Problem {
    /// The table's name in the project; `None` when it is about all of the source.
    pub table: Option<String>,
    /// What stands in the way.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// A place that rows come from (a database, a cluster), and the tables that a project reads there.
pub trait Source: Send {
    /// What it would be called in positions and metrics; whoever runs several tells equal names
    /// apart.
    fn name(&self) -> &str;

    /// The tables' names in the project. The place in this list is how events name a table.
    fn table_names(&self) -> Vec<&str>;

    /// The tables as far as the project tells and nobody need be asked, in the order of
    /// [`Source::table_names`]; `None` for one whose declaration says all that is known.
    fn declared(&self) -> Vec<Option<SourceTable>> {
        self.table_names().iter().map(|_| None).collect()
    }

    /// Looks the tables up, in the order of [`Source::table_names`]; all problems are found at once.
    fn discover(&mut self) -> BoxFuture<'_, Result<Vec<SourceTable>, Vec<Problem>>>;

    /// Tells everything that happens, until whoever takes the events is gone or an operator is
    /// needed. What can be tried again is, for ever. Called after [`Source::discover`] has answered
    /// without a problem.
    ///
    /// What is lost while a source can't be read is told by copying its tables again: whoever takes
    /// the events compares, and only the difference goes on.
    fn run(self: Box<Self>, link: Link) -> BoxFuture<'static, ()>;
}

/// What ties a running source to the rest of the program.
pub struct Link {
    /// Its name in positions, metrics and the log.
    pub name: Arc<str>,
    /// Takes what it tells.
    pub events: EventSender,
    /// What it is doing now.
    pub state: watch::Sender<SourceState>,
    /// How far what it told is kept whatever happens to us: its server need not keep that for us any
    /// longer. `None` until anything is.
    pub durable: watch::Receiver<Option<Mark>>,
    /// Takes what it could not read to those who look.
    pub dead_letters: DeadLetterSender,
    /// What it counts.
    pub counters: Arc<Counters>,
}

/// What a source counts, for those who watch it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages or transactions read.
    pub messages: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Messages that could not be read.
    pub dead_letters: AtomicU64,
    /// Messages that are there and have not been read, as last seen.
    pub lag: AtomicU64,
}

/// What a source tells.
#[derive(Debug)]
pub enum SourceEvent {
    /// All tables are about to be copied anew.
    CopyBegun,
    /// Rows of a table, by its place in the list of tables.
    RowsCopied {
        /// The table.
        table: usize,
        /// The rows.
        rows: RecordBatch,
    },
    /// What there was to copy has been told, and is the state of the source at this position. A
    /// source that copies nothing, since it reads a log from its beginning, says this when it has
    /// come to where the log ended at its start, without [`SourceEvent::CopyBegun`] before.
    CopyDone {
        /// Where its transactions go on.
        position: Mark,
    },
    /// A transaction, whole: what the source commits as one.
    Transaction {
        /// What changed, by the table's place in the list of tables; of one table in order.
        changes: Vec<(usize, Changes)>,
        /// Where the source goes on after it.
        position: Mark,
        /// When it was committed, in microseconds since 1970-01-01 UTC.
        commit_time: i64,
    },
}

impl SourceEvent {
    /// Bytes that it holds in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        EVENT_BYTES
            + match self {
                SourceEvent::CopyBegun | SourceEvent::CopyDone { .. } => 0,
                SourceEvent::RowsCopied { rows, .. } => rows.get_array_memory_size(),
                SourceEvent::Transaction { changes, .. } => {
                    changes.iter().map(|(_, changes)| changes_bytes(changes)).sum()
                }
            }
    }
}

fn changes_bytes(changes: &Changes) -> usize {
    changes.rows.get_array_memory_size()
        + changes.ops.len() * size_of::<Op>()
        + changes.unchanged.len() * size_of::<(u32, u32)>()
}

/// What an event counts besides its rows, so that many small ones are bounded too.
const EVENT_BYTES: usize = 256;

/// What a source is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// Making its connections.
    Connecting,
    /// Copying tables.
    Copying {
        /// The table, by its name in the project.
        table: String,
        /// Rows of it so far.
        rows: u64,
        /// Rows that the source thinks it has.
        estimated_rows: Option<u64>,
    },
    /// Reading changes as they come.
    Streaming,
    /// Failed, and about to try again.
    Retrying {
        /// Why.
        error: String,
    },
    /// Failed, until an operator does something.
    Stopped {
        /// Why.
        error: String,
        /// What to do.
        remedy: String,
    },
}

/// Whoever takes the events is gone: the program ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes the events any more")]
pub struct ReaderGone;

/// An event on its way, and the room that it takes up.
#[derive(Debug)]
pub struct Delivery {
    /// The source, by the number that its [`EventSender`] has.
    pub source: usize,
    /// What it tells.
    pub event: SourceEvent,
    /// To be kept for as long as the event's rows are.
    pub room: Room,
}

/// Bytes under way that an event takes up; given back when this is dropped.
#[derive(Debug)]
pub struct Room(#[expect(dead_code, reason = "its drop is what counts")] OwnedSemaphorePermit);

/// Takes what sources tell, in order.
pub type EventReceiver = mpsc::UnboundedReceiver<Delivery>;

/// A queue in which events of at most so many bytes are under way at a time, all sources together.
/// An event that is larger passes alone: a transaction is whole, however large.
#[must_use]
pub fn event_queue(bytes_max: u32) -> (EventSender, EventReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(usize::try_from(bytes_max).unwrap_or(Semaphore::MAX_PERMITS)));
    (EventSender { source: 0, sender, room, bytes_max }, receiver)
}

/// The end of the queue that a source has.
#[derive(Clone, Debug)]
pub struct EventSender {
    source: usize,
    sender: mpsc::UnboundedSender<Delivery>,
    room: Arc<Semaphore>,
    bytes_max: u32,
}

impl EventSender {
    /// The same queue, for the source of this number.
    #[must_use]
    pub fn of_source(&self, source: usize) -> EventSender {
        EventSender { source, ..self.clone() }
    }

    /// Sends an event if there is room for it now.
    ///
    /// # Errors
    /// With the event, when there is no room or nobody takes events any more: [`EventSender::send`]
    /// tells which.
    pub fn try_send(&self, event: SourceEvent) -> Result<(), SourceEvent> {
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(self.room_for(&event)) else { return Err(event) };
        self.sender.send(self.delivery(event, room)).map_err(|refused| refused.0.event)
    }

    /// Sends an event when there is room for it. Sources that wait are served in turn, so a wait
    /// that was given up and begun anew goes to the end of the line.
    ///
    /// # Errors
    /// When nobody takes events any more.
    pub async fn send(&self, event: SourceEvent) -> Result<(), ReaderGone> {
        let room = tokio::select! {
            room = Arc::clone(&self.room).acquire_many_owned(self.room_for(&event)) => room.map_err(|_| ReaderGone)?,
            () = self.closed() => return Err(ReaderGone),
        };
        self.sender.send(self.delivery(event, room)).map_err(|_| ReaderGone)
    }

    /// Resolves when nobody takes events any more.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }

    fn room_for(&self, event: &SourceEvent) -> u32 {
        u32::try_from(event.bytes()).unwrap_or(u32::MAX).min(self.bytes_max)
    }

    fn delivery(&self, event: SourceEvent, room: OwnedSemaphorePermit) -> Delivery {
        Delivery { source: self.source, event, room: Room(room) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use arrow::array::{ArrayRef, StringArray};
    use futures_util::FutureExt;
    use pipeline::Lsn;

    /// Rows of about so many bytes.
    fn rows(bytes: usize) -> SourceEvent {
        let values: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(bytes)]));
        SourceEvent::RowsCopied { table: 0, rows: RecordBatch::try_from_iter([("a", values)]).expect("a column") }
    }

    #[tokio::test]
    async fn events_under_way_are_bounded_by_bytes_and_a_larger_one_passes_alone() {
        let (events, mut receiver) = event_queue(100_000);
        assert!(events.try_send(rows(40_000)).is_ok());
        assert!(events.of_source(1).try_send(rows(40_000)).is_ok());
        let third = events.try_send(rows(40_000)).expect_err("no room");
        let first = receiver.recv().await.expect("the first");
        // Taken out of the queue it still takes up room, until whoever has it lets go.
        let third = events.try_send(third).expect_err("no room");
        assert_eq!(first.source, 0);
        drop(first);
        assert!(events.try_send(third).is_ok());

        let mut larger = std::pin::pin!(events.send(rows(1_000_000)));
        assert!(larger.as_mut().now_or_never().is_none());
        assert_eq!(receiver.recv().await.expect("the second").source, 1);
        assert!(larger.as_mut().now_or_never().is_none(), "it waits until it is alone");
        drop(receiver.recv().await.expect("the third"));
        assert_eq!(larger.await, Ok(()));
        assert!(events.try_send(SourceEvent::CopyBegun).is_err(), "and nothing passes beside it");
        drop(receiver.recv().await.expect("the larger one"));
        assert!(events.try_send(SourceEvent::CopyBegun).is_ok());
    }

    #[tokio::test]
    async fn many_small_events_are_bounded_too_and_a_wait_ends_with_the_reader() {
        let (events, receiver) = event_queue(10_000);
        let small = || SourceEvent::CopyDone { position: Mark::Lsn(Lsn(1)) };
        let sent = (0..1000).take_while(|_| events.try_send(small()).is_ok()).count();
        assert_eq!(sent, 10_000 / EVENT_BYTES);
        let mut waiting = std::pin::pin!(events.send(small()));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(receiver);
        assert_eq!(waiting.await, Err(ReaderGone));
        assert_eq!(events.send(small()).await, Err(ReaderGone));
    }
}
