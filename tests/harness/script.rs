//! A source that says what a test tells it to.
//!
//! It stands where another connector would: the server knows it by a line in its list, and what is
//! written here is all that a connector must have. A table `WITH (connector = 'script', script =
//! 'NAME')` reads from the script of this name.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use connectors::source::{Opened, Problem, SourceTable, TableOption, TableRequest};
use connectors::{Connector, Link, Source, SourceEvent, SourceState};
use futures_util::future::BoxFuture;
use pipeline::position::Offsets;
use pipeline::table::Identity;
use pipeline::{Changes, Mark, Op};
use tokio::sync::mpsc;

/// What a server knows that reads scripts too.
pub const CONNECTORS: &[Connector] = &[connectors::postgres::CONNECTOR, CONNECTOR];

/// `WITH (connector = 'script')`.
pub const CONNECTOR: Connector = Connector {
    name: "script",
    of_tables: "a scripted table",
    options: &[TableOption::required("script", "add script = 'NAME'")],
    open,
    ..Connector::NONE
};

/// What scripts have to say, by their names.
static SCRIPTS: LazyLock<Mutex<HashMap<String, mpsc::UnboundedReceiver<Line>>>> = LazyLock::new(Mutex::default);

/// One thing that a source does.
enum Line {
    Tell(SourceEvent),
    State(SourceState),
    Panic,
}

/// The hand that writes a script.
pub struct Script(mpsc::UnboundedSender<Line>);

impl Script {
    /// A script of this name, to be made before the server that reads it. Names are the process's.
    #[must_use]
    pub fn new(name: &str) -> Script {
        let (sender, receiver) = mpsc::unbounded_channel();
        SCRIPTS.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), receiver);
        Script(sender)
    }

    /// Tells an event.
    ///
    /// # Panics
    /// When the source has ended.
    pub fn tell(&self, event: SourceEvent) {
        self.say(Line::Tell(event));
    }

    /// Is in this state.
    ///
    /// # Panics
    /// When the source has ended.
    pub fn state(&self, state: SourceState) {
        self.say(Line::State(state));
    }

    /// Copies these ids into its first table, and streams.
    ///
    /// # Panics
    /// When the source has ended.
    pub fn copy(&self, ids: &[i64]) {
        self.tell(SourceEvent::CopyBegun);
        self.tell(SourceEvent::RowsCopied { table: 0, rows: rows(ids) });
        self.tell(SourceEvent::CopyDone { position: offset(0) });
        self.state(SourceState::Streaming);
    }

    /// A transaction that inserts these ids into its first table, and ends at an offset.
    ///
    /// # Panics
    /// When the source has ended.
    pub fn insert(&self, ids: &[i64], end: i64) {
        let changes = Changes { rows: rows(ids), ops: vec![Op::Insert; ids.len()], unchanged: Vec::new() };
        self.tell(SourceEvent::Transaction { changes: vec![(0, changes)], position: offset(end), commit_time: 0 });
    }

    /// Panics.
    ///
    /// # Panics
    /// When the source has ended.
    pub fn panic(&self) {
        self.say(Line::Panic);
    }

    fn say(&self, line: Line) {
        assert!(self.0.send(line).is_ok(), "the source has ended");
    }
}

/// An offset of a log's only partition.
#[must_use]
pub fn offset(at: i64) -> Mark {
    Mark::Offsets(Offsets::from_iter([("script", 0, at)]))
}

fn rows(ids: &[i64]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true)]).expect("a column")
}

fn open(_project: &str, tables: Vec<TableRequest>) -> Opened {
    let mut opened = Opened::default();
    let mut by_script: HashMap<String, usize> = HashMap::new();
    let mut sources: Vec<Scripted> = Vec::new();
    for table in tables {
        let name = table.options["script"].clone();
        let place = *by_script.entry(name.clone()).or_insert(sources.len());
        if place == sources.len() {
            sources.push(Scripted { name, tables: Vec::new() });
        }
        sources[place].tables.push(table);
    }
    opened.sources.extend(sources.into_iter().map(|source| Box::new(source) as Box<dyn Source>));
    opened
}

struct Scripted {
    name: String,
    tables: Vec<TableRequest>,
}

impl Source for Scripted {
    fn name(&self) -> &str {
        &self.name
    }

    fn table_names(&self) -> Vec<&str> {
        self.tables.iter().map(|table| table.name.as_str()).collect()
    }

    fn discover(&mut self) -> BoxFuture<'_, Result<Vec<SourceTable>, Vec<Problem>>> {
        let table = |table: &TableRequest| SourceTable {
            name: table.name.clone(),
            schema: rows(&[]).schema(),
            identity: Identity::Key(vec![0]),
        };
        let tables = self.tables.iter().map(table).collect();
        Box::pin(async move { Ok(tables) })
    }

    fn run(self: Box<Self>, link: Link) -> BoxFuture<'static, ()> {
        let script = SCRIPTS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        let mut script = script.expect("a script of this name");
        Box::pin(async move {
            while let Some(line) = script.recv().await {
                match line {
                    Line::Tell(event) => {
                        if link.events.send(event).await.is_err() {
                            return;
                        }
                    }
                    Line::State(state) => drop(link.state.send_replace(state)),
                    Line::Panic => panic!("as the script has it"),
                }
            }
        })
    }
}
