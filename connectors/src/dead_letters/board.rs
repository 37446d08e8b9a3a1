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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Counters, EventReceiver, event_queue};
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Int64Type;
    use std::time::Duration;
    use tokio::sync::watch;
    use tokio::time::timeout;

    fn letter(offset: i64) -> DeadLetter {
        DeadLetter {
            table: "t".into(),
            topic: "topic".into(),
            partition: 0,
            offset,
            timestamp: Some(2),
            key: None,
            value: Some(b"abc".to_vec()),
            headers: Vec::new(),
            reason: "why".to_owned(),
            found_at: 100 + offset,
        }
    }

    fn board() -> DeadLetterBoard {
        let table =
            TableRequest { name: TABLE.to_owned(), options: Default::default(), columns: None, key: Vec::new() };
        DeadLetterBoard::new(table)
    }

    /// What happens to which offset, how far the source is then, and when that was.
    fn told(event: SourceEvent) -> (Vec<(Op, i64)>, Changes, String, i64) {
        let SourceEvent::Transaction { mut changes, position, commit_time } = event else { panic!("{event:?}") };
        let (_, changes) = changes.pop().expect("one table");
        let offsets = changes.rows.column(4).as_primitive::<Int64Type>().values().to_vec();
        (changes.ops.iter().copied().zip(offsets).collect(), changes, position.to_string(), commit_time)
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many_and_the_same_one_stands_once() {
        let mut board = board();
        let most = i64::try_from(LETTERS_MAX).expect("few");
        let (rows, ..) = told(board.show((0..most).map(letter).collect()).expect("rows"));
        assert!(rows.iter().map(|(op, _)| *op).eq(std::iter::repeat_n(Op::Insert, LETTERS_MAX)));
        // Read again after a restart: the same message, which is the newest now.
        let (rows, _, position, found) = told(board.show(vec![letter(0)]).expect("rows"));
        assert_eq!(rows, [(Op::Insert, 0)]);
        assert_eq!((position.as_str(), found), ("dead_letters/0:1001", 100));
        let (rows, _, position, found) = told(board.show(vec![letter(most), letter(most + 1)]).expect("rows"));
        assert_eq!(rows, [(Op::Insert, most), (Op::Delete, 1), (Op::Insert, most + 1), (Op::Delete, 2)]);
        assert_eq!((position.as_str(), found), ("dead_letters/0:1003", 101 + most));
    }

    #[test]
    fn letters_differ_by_each_part_of_their_place() {
        let other = |change: fn(&mut DeadLetter)| {
            let mut letter = letter(0);
            change(&mut letter);
            letter
        };
        let mut board = board();
        let letters = vec![
            letter(0),
            other(|it| it.table = "u".into()),
            other(|it| it.topic = "u".into()),
            other(|it| it.partition = 1),
        ];
        board.show(letters).expect("rows");
        assert_eq!(board.shown.len(), 4);
    }

    #[test]
    fn much_is_shown_in_part_and_nothing_as_nothing() {
        let mut long = letter(0);
        long.value = Some(vec![b'x'; SHOWN_BYTES_MAX + 1]);
        let (_, changes, ..) = told(board().show(vec![letter(1), long]).expect("rows"));
        assert!(changes.rows.column(6).is_null(0), "there was no key");
        let values = changes.rows.column(7).as_binary::<i32>();
        assert_eq!((values.value(0), values.value(1).len()), (&b"abc"[..], SHOWN_BYTES_MAX));
        assert_eq!(changes.rows.column(8).as_string::<i32>().value(0), "abc");
        let bytes = changes.rows.column(9).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(bytes, [3, i64::try_from(SHOWN_BYTES_MAX).expect("few") + 1]);
    }

    async fn next(events: &mut EventReceiver) -> SourceEvent {
        timeout(Duration::from_secs(10), events.recv()).await.expect("in time").expect("it runs").event
    }

    #[tokio::test]
    async fn the_newest_letters_come_to_whoever_reads() {
        let letters = DeadLetterSender::default();
        let most = i64::try_from(LETTERS_MAX).expect("few");
        // Nobody reads yet: nobody waits, and the newest are kept.
        (0..=most).for_each(|offset| letters.tell(letter(offset)));
        let (events, mut receiver) = event_queue(1 << 30);
        let (state, states) = watch::channel(SourceState::Connecting);
        let link = Link {
            name: "dead_letters".into(),
            events,
            state,
            durable: watch::channel(None).1,
            dead_letters: letters.clone(),
            counters: Arc::new(Counters::default()),
        };
        let mut board = board();
        assert_eq!((board.name(), board.table_names()), ("dead_letters", vec![TABLE]));
        let tables = board.discover().await.expect("it is always there");
        assert_eq!(tables[0].schema, schema());
        assert_eq!(board.declared()[0].as_ref().map(|table| &table.schema), Some(&schema()));
        let running = tokio::spawn(Box::new(board).run(link));
        assert!(matches!(next(&mut receiver).await, SourceEvent::CopyDone { .. }));
        let (rows, ..) = told(next(&mut receiver).await);
        assert_eq!((rows.len(), rows[0].1, rows[LETTERS_MAX - 1].1), (LETTERS_MAX, 1, most));
        letters.tell(letter(most + 1));
        assert_eq!(told(next(&mut receiver).await).0[0], (Op::Insert, most + 1));
        assert_eq!(*states.borrow(), SourceState::Streaming);
        drop(receiver);
        timeout(Duration::from_secs(10), running).await.expect("it ends with the reader").expect("joins");
    }
}
