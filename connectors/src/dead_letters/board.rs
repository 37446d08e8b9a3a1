//! The newest dead letters, as a table of the project.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{
    ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use futures_util::future::BoxFuture;
use pipeline::position::Offsets;
use pipeline::table::Identity;
use pipeline::{Changes, Mark, Op};
use tokio::sync::Notify;

use super::DeadLetter;
use crate::source::{Connector, Link, Opened, Problem, Source, SourceEvent, SourceState, SourceTable, TableRequest};

/// The table that holds the newest dead letters of a project.
pub const TABLE: &str = "deltafront_dead_letters";
/// The projection that shows them.
pub const PROJECTION: &str = "deltafront.dead_letters";
/// Letters that the table holds; an older one goes when a newer one comes.
pub const LETTERS_MAX: usize = 1000;
/// Bytes of a key or a value that the table holds: what was written elsewhere is whole.
pub const SHOWN_BYTES_MAX: usize = 4096;

/// `WITH (connector = 'dead_letters')`, which projects have without writing it.
pub const CONNECTOR: Connector = Connector {
    name: "dead_letters",
    of_tables: "the table of dead letters",
    options: &[],
    open: |_, tables| Opened {
        sources: tables.into_iter().map(|table| Box::new(DeadLetterBoard::new(table)) as _).collect(),
        problems: Vec::new(),
    },
    ..Connector::NONE
};

/// Takes dead letters to the board. Never waits: of more than the board holds the newest are kept.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterSender(Arc<Desk>);

#[derive(Debug, Default)]
struct Desk {
    letters: Mutex<VecDeque<DeadLetter>>,
    came: Notify,
}

impl DeadLetterSender {
    /// Puts a letter up.
    pub fn tell(&self, letter: DeadLetter) {
        let mut letters = self.0.letters.lock().unwrap_or_else(PoisonError::into_inner);
        if letters.len() == LETTERS_MAX {
            letters.pop_front();
        }
        letters.push_back(letter);
        drop(letters);
        self.0.came.notify_one();
    }

    async fn take(&self) -> Vec<DeadLetter> {
        loop {
            let letters: Vec<DeadLetter> =
                self.0.letters.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
            if !letters.is_empty() {
                return letters;
            }
            self.0.came.notified().await;
        }
    }
}

/// The newest dead letters as a source: what it tells came from the other sources.
pub struct DeadLetterBoard {
    table: TableRequest,
    shown: VecDeque<DeadLetter>,
    told: i64,
}

impl DeadLetterBoard {
    fn new(table: TableRequest) -> DeadLetterBoard {
        DeadLetterBoard { table, shown: VecDeque::new(), told: 0 }
    }

    /// The table as it is in every project.
    #[must_use]
    pub fn table(name: &str) -> SourceTable {
        SourceTable { name: name.to_owned(), schema: schema(), identity: Identity::Key(vec![1, 2, 3, 4]) }
    }

    /// What the board shows from here on: the new ones come, the oldest go.
    fn show(&mut self, letters: Vec<DeadLetter>) -> Result<SourceEvent, ArrowError> {
        let mut rows = Vec::new();
        for letter in letters {
            let is_same = |shown: &DeadLetter| {
                (&shown.table, &shown.topic, shown.partition, shown.offset)
                    == (&letter.table, &letter.topic, letter.partition, letter.offset)
            };
            self.shown.retain(|shown| !is_same(shown));
            self.shown.push_back(letter.clone());
            rows.push((Op::Insert, letter));
            self.told += 1;
            if self.shown.len() > LETTERS_MAX
                && let Some(oldest) = self.shown.pop_front()
            {
                rows.push((Op::Delete, oldest));
            }
        }
        let commit_time = rows.iter().map(|(_, letter)| letter.found_at).max().unwrap_or_default();
        let changes = Changes {
            ops: rows.iter().map(|(op, _)| *op).collect(),
            rows: batch(rows.iter().map(|(_, letter)| letter))?,
            unchanged: Vec::new(),
        };
        Ok(SourceEvent::Transaction { changes: vec![(0, changes)], position: self.mark(), commit_time })
    }

    fn mark(&self) -> Mark {
        Mark::Offsets(Offsets::from_iter([("dead_letters", 0, self.told)]))
    }
}

impl Source for DeadLetterBoard {
    fn name(&self) -> &str {
        "dead_letters"
    }

    fn table_names(&self) -> Vec<&str> {
        vec![&self.table.name]
    }

    fn declared(&self) -> Vec<Option<SourceTable>> {
        vec![Some(DeadLetterBoard::table(&self.table.name))]
    }

    fn discover(&mut self) -> BoxFuture<'_, Result<Vec<SourceTable>, Vec<Problem>>> {
        Box::pin(async { Ok(vec![DeadLetterBoard::table(&self.table.name)]) })
    }

    fn run(mut self: Box<Self>, link: Link) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut event: Result<_, ArrowError> = Ok(SourceEvent::CopyDone { position: self.mark() });
            link.state.send_replace(SourceState::Streaming);
            loop {
                match event {
                    Ok(event) => {
                        if link.events.send(event).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        let remedy = "please report this with the log".to_owned();
                        link.state.send_replace(SourceState::Stopped { error: error.to_string(), remedy });
                        return;
                    }
                }
                event = tokio::select! {
                    letters = link.dead_letters.take() => self.show(letters),
                    () = link.events.closed() => return,
                };
            }
        })
    }
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Schema::new(vec![
        Field::new("found_at", time.clone(), true),
        Field::new("table_name", DataType::Utf8, true),
        Field::new("topic", DataType::Utf8, true),
        Field::new("partition", DataType::Int32, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("reason", DataType::Utf8, true),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        Field::new("value_text", DataType::Utf8, true),
        Field::new("value_bytes", DataType::Int64, true),
        Field::new("written_at", time, true),
    ])
    .into()
}

fn batch<'a>(letters: impl Iterator<Item = &'a DeadLetter> + Clone) -> Result<RecordBatch, ArrowError> {
    fn shown(bytes: Option<&Vec<u8>>) -> Option<&[u8]> {
        bytes.map(|bytes| &bytes[..bytes.len().min(SHOWN_BYTES_MAX)])
    }
    let times = |micros: TimestampMicrosecondArray| Arc::new(micros.with_timezone("UTC")) as ArrayRef;
    let texts = |texts: StringArray| Arc::new(texts) as ArrayRef;
    let columns = vec![
        times(letters.clone().map(|letter| Some(letter.found_at)).collect()),
        texts(letters.clone().map(|letter| Some(&letter.table)).collect()),
        texts(letters.clone().map(|letter| Some(&letter.topic)).collect()),
        Arc::new(letters.clone().map(|letter| letter.partition).collect::<Int32Array>()),
        Arc::new(letters.clone().map(|letter| letter.offset).collect::<Int64Array>()),
        texts(letters.clone().map(|letter| Some(&letter.reason)).collect()),
        Arc::new(letters.clone().map(|letter| shown(letter.key.as_ref())).collect::<BinaryArray>()),
        Arc::new(letters.clone().map(|letter| shown(letter.value.as_ref())).collect::<BinaryArray>()),
        texts(letters.clone().map(|letter| shown(letter.value.as_ref()).map(String::from_utf8_lossy)).collect()),
        Arc::new(
            letters
                .clone()
                .map(|letter| letter.value.as_ref().and_then(|value| i64::try_from(value.len()).ok()))
                .collect::<Int64Array>(),
        ),
        times(letters.map(|letter| letter.timestamp.and_then(|millis| millis.checked_mul(1000))).collect()),
    ];
    RecordBatch::try_new(schema(), columns)
}
