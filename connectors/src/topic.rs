//! Messages of a topic into changes of tables: what Kafka and Fluvio have in common.
//!
//! ```text
//!  Message ──► TopicReader ──► TopicTable (one or several) ──► Changes, in one transaction
//!   (a batch)    offsets          format, columns of metadata
//!                    └───────────► DeadLetter: what could not be read
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, Int32Array, Int64Array, ListBuilder, RecordBatch, StringBuilder, StructBuilder,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, SchemaRef, TimeUnit};
use pipeline::position::Offsets;
use pipeline::table::Identity;
use pipeline::{Changes, Mark};

use crate::dead_letters::DeadLetter;
use crate::format::{Bad, Events, FormatError, MessageDecoder, Payload};
use crate::source::{SourceEvent, SourceTable};

pub mod options; // what a project says of a topic
pub mod pump; // what a thread that reads a topic does with what it has read
pub mod thread; // a source on a thread of its own
pub mod hold; // where messages wait for others
pub mod in_time; // messages of several partitions in the order in which they were written
pub mod transactions; // messages held back until what a database committed at once is whole

/// A partition of one of the topics that a source reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic, by its place among those of the source.
    pub topic: usize,
    /// Its number in the topic.
    pub number: i32,
}

impl TopicPartition {
    /// Of a source that reads one topic.
    #[must_use]
    pub fn of_only_topic(number: i32) -> TopicPartition {
        TopicPartition { topic: 0, number }
    }
}

/// A message as a log has it. What it holds is in the memory of whoever read it.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// The partition.
    pub partition: TopicPartition,
    /// Its number in the partition.
    pub offset: i64,
    /// When it was written, in milliseconds since 1970-01-01 UTC, as the log says.
    pub timestamp: Option<i64>,
    /// Key and value.
    pub payload: Payload<'a>,
    /// What else was sent along.
    pub headers: &'a dyn Headers,
}

impl Message<'_> {
    /// Bytes of its key and value.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len) as u64;
        length(self.payload.key) + length(self.payload.value)
    }
}

/// What was sent along with a message: names, not always different, with bytes or nothing.
pub trait Headers {
    /// All of them, in their order.
    fn each(&self, take: &mut dyn FnMut(&str, Option<&[u8]>));
}

impl Headers for () {
    fn each(&self, _: &mut dyn FnMut(&str, Option<&[u8]>)) {}
}

/// What is known of a message besides what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metadata {
    /// Its partition: INT.
    Partition,
    /// Its offset: BIGINT.
    Offset,
    /// Its time: TIMESTAMPTZ.
    Timestamp,
    /// Its key, as it is: BYTEA, or TEXT where the column is declared so; then a message whose key is not UTF-8 can't be
    /// read.
    Key,
    /// Its headers: a list of `name` and `value`.
    Headers,
}

impl Metadata {
    /// All of them, each with the option that names its column.
    pub const OPTIONS: [(&'static str, Metadata); 5] = [
        ("partition_column", Metadata::Partition),
        ("offset_column", Metadata::Offset),
        ("timestamp_column", Metadata::Timestamp),
        ("key_column", Metadata::Key),
        ("headers_column", Metadata::Headers),
    ];

    /// The type of its column, where none is declared.
    #[must_use]
    pub fn data_type(self) -> DataType {
        match self {
            Metadata::Partition => DataType::Int32,
            Metadata::Offset => DataType::Int64,
            Metadata::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Metadata::Key => DataType::Binary,
            Metadata::Headers => {
                DataType::List(Arc::new(Field::new_list_field(DataType::Struct(header_fields()), true)))
            }
        }
    }

    /// Its type in SQL.
    #[must_use]
    pub fn sql(self) -> &'static str {
        match self {
            Metadata::Partition => "INT",
            Metadata::Offset => "BIGINT",
            Metadata::Timestamp => "TIMESTAMPTZ",
            Metadata::Key => "BYTEA",
            Metadata::Headers => "STRUCT<name TEXT, value BYTEA>[]",
        }
    }

    /// Whether its column may be declared with this type.
    #[must_use]
    pub fn fits(self, declared: &DataType) -> bool {
        let own = self.data_type();
        match self {
            Metadata::Partition | Metadata::Offset => {
                declared.is_integer() && declared.primitive_width() >= own.primitive_width()
            }
            Metadata::Timestamp => matches!(declared, DataType::Timestamp(TimeUnit::Microsecond, _)),
            Metadata::Key => matches!(declared, DataType::Binary | DataType::Utf8),
            Metadata::Headers => *declared == own,
        }
    }

    fn column(self, messages: &[Message<'_>], from: &[usize], data_type: &DataType) -> Result<ArrayRef, FormatError> {
        let of = from.iter().map(|&place| &messages[place]);
        let column: ArrayRef = match self {
            Metadata::Partition => Arc::new(Int32Array::from_iter_values(of.map(|message| message.partition.number))),
            Metadata::Offset => Arc::new(Int64Array::from_iter_values(of.map(|message| message.offset))),
            Metadata::Timestamp => {
                let micros = of.map(|message| message.timestamp?.checked_mul(1000));
                Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
            }
            Metadata::Key if *data_type == DataType::Utf8 => {
                let mut keys = StringBuilder::new();
                // Messages with other keys are none of these.
                of.for_each(|message| {
                    keys.append_option(message.payload.key.and_then(|key| std::str::from_utf8(key).ok()));
                });
                Arc::new(keys.finish())
            }
            Metadata::Key => {
                let mut keys = BinaryBuilder::new();
                of.for_each(|message| keys.append_option(message.payload.key));
                Arc::new(keys.finish())
            }
            Metadata::Headers => headers_column(of),
        };
        Ok(if column.data_type() == data_type { column } else { cast(&column, data_type)? })
    }
}

fn header_fields() -> Fields {
    Fields::from(vec![Field::new("name", DataType::Utf8, true), Field::new("value", DataType::Binary, true)])
}

fn headers_column<'a>(messages: impl Iterator<Item = &'a Message<'a>>) -> ArrayRef {
    let mut lists = ListBuilder::new(StructBuilder::from_fields(header_fields(), 0));
    for message in messages {
        let pairs = lists.values();
        message.headers.each(&mut |name, value| {
            if let Some(names) = pairs.field_builder::<StringBuilder>(0) {
                names.append_value(name);
            }
            if let Some(values) = pairs.field_builder::<BinaryBuilder>(1) {
                values.append_option(value);
            }
            pairs.append(true);
        });
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// What to do about a message that can't be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Go on without it, and keep it as a dead letter.
    #[default]
    DeadLetter,
    /// Stop before it, until an operator has seen to it.
    Stop,
}

/// A table that a topic's messages are read into.
pub struct TopicTable {
    /// As its source tells it.
    pub table: SourceTable,
    /// Reads messages into the columns that they fill.
    pub decoder: Box<dyn MessageDecoder>,
    /// The columns of metadata, by their place; the decoder fills the others, in their order.
    pub metadata: BTreeMap<usize, Metadata>,
    /// What to do about a message that can't be read.
    pub on_error: OnError,
}

impl TopicTable {
    /// What messages tell. One whose key a column of text can't show is left out, and is bad.
    fn events(&mut self, payloads: &[Payload<'_>]) -> Result<Events, FormatError> {
        let is_text = |place: &usize| *self.table.schema.field(*place).data_type() == DataType::Utf8;
        if !self.metadata.iter().any(|(place, of)| *of == Metadata::Key && is_text(place)) {
            return self.decoder.decode(payloads);
        }
        let can_show = |payload: &Payload<'_>| payload.key.is_none_or(|key| std::str::from_utf8(key).is_ok());
        let (places, shown): (Vec<usize>, Vec<Payload<'_>>) =
            payloads.iter().copied().enumerate().filter(|(_, payload)| can_show(payload)).unzip();
        let mut events = self.decoder.decode(&shown)?;
        if places.len() < payloads.len() {
            events.from.iter_mut().for_each(|from| *from = places[*from]);
            events.bad.iter_mut().for_each(|bad| bad.message = places[bad.message]);
            let left_out = payloads.iter().enumerate().filter(|(_, payload)| !can_show(payload));
            events.bad.extend(left_out.map(|(message, _)| Bad { message, reason: NO_TEXT.to_owned() }));
            events.bad.sort_by_key(|bad| bad.message);
        }
        Ok(events)
    }

    fn read(
        &mut self,
        topic: &Arc<str>,
        messages: &[Message<'_>],
        payloads: &[Payload<'_>],
    ) -> Result<TableBatch, ReadError> {
        let events = self.events(payloads)?;
        if self.on_error == OnError::Stop
            && let Some(bad) = events.bad.first()
        {
            let Message { partition: TopicPartition { number, .. }, offset, .. } = messages[bad.message];
            let (topic, reason) = (Arc::clone(topic), bad.reason.clone());
            return Err(ReadError::Unreadable { topic, partition: number, offset, reason });
        }
        let schema: &SchemaRef = &self.table.schema;
        let mut decoded = events.columns.into_iter();
        let columns = schema.fields().iter().enumerate().map(|(place, field)| match self.metadata.get(&place) {
            Some(metadata) => metadata.column(messages, &events.from, field.data_type()),
            None => Ok(decoded.next().unwrap_or_else(|| new_null_array(field.data_type(), events.from.len()))),
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>, FormatError>>()?;
        let changes = if events.ops.is_empty() {
            None
        } else {
            let rows = RecordBatch::try_new(Arc::clone(schema), columns).map_err(FormatError::from)?;
            Some(Changes { rows, ops: events.ops, unchanged: events.unchanged })
        };
        let bad = events.bad.into_iter().map(|bad| (bad.message, bad.reason)).collect();
        Ok(TableBatch { changes, bad, commit_time: events.commit_time })
    }
}

const NO_TEXT: &str = "its key is not UTF-8: declare the column as BYTEA";

struct TableBatch {
    changes: Option<Changes>,
    bad: Vec<(usize, String)>,
    commit_time: Option<i64>,
}

/// Why a batch of messages was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing can be read now.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A message that can't be read, of a table that says `on_error = 'stop'`.
    #[error("message {offset} of partition {partition} of {topic} can't be read: {reason}")]
    Unreadable {
        /// Its topic.
        topic: Arc<str>,
        /// Its partition.
        partition: i32,
        /// Its number in the partition.
        offset: i64,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a batch of messages came to.
#[derive(Debug)]
pub struct Batch {
    /// All of it, as one transaction.
    pub event: SourceEvent,
    /// What could not be read, each with the place of its table.
    pub dead_letters: Vec<(usize, DeadLetter)>,
}

/// A topic, and the tables that it is read into.
pub struct TopicTables {
    /// The topic.
    pub topic: Arc<str>,
    /// The tables, each with its place among those of the source.
    pub tables: Vec<(usize, TopicTable)>,
}

/// Reads the messages of a source's topics into its tables, and knows how far it is.
pub struct TopicReader {
    topics: Vec<TopicTables>,
    next: BTreeMap<TopicPartition, i64>,
}

impl TopicReader {
    /// Of topics whose messages are read into these tables.
    #[must_use]
    pub fn new(topics: Vec<TopicTables>) -> TopicReader {
        TopicReader { topics, next: BTreeMap::new() }
    }

    /// The topics.
    #[must_use]
    pub fn topics(&self) -> &[TopicTables] {
        &self.topics
    }

    /// The topic at this place.
    #[must_use]
    pub fn topic(&self, place: usize) -> &Arc<str> {
        &self.topics[place].topic
    }

    /// The offset of the next message of each partition that is read.
    #[must_use]
    pub fn next(&self) -> &BTreeMap<TopicPartition, i64> {
        &self.next
    }

    /// A partition is read from here on.
    pub fn start_at(&mut self, partition: TopicPartition, offset: i64) {
        self.next.insert(partition, offset);
    }

    /// No partition of this topic is read any more.
    pub fn forget(&mut self, topic: usize) {
        self.next.retain(|partition, _| partition.topic != topic);
    }

    /// Whether any partition of this topic is read.
    #[must_use]
    pub fn reads(&self, topic: usize) -> bool {
        self.next.keys().any(|partition| partition.topic == topic)
    }

    /// How far it is, as positions have it.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let mut offsets: BTreeMap<Arc<str>, BTreeMap<i32, i64>> =
            self.topics.iter().map(|of| (Arc::clone(&of.topic), BTreeMap::new())).collect();
        for (partition, next) in &self.next {
            offsets.entry(Arc::clone(self.topic(partition.topic))).or_default().insert(partition.number, *next);
        }
        Mark::Offsets(Offsets(offsets))
    }

    /// Reads messages, of each partition in order. Nothing is read of a batch that fails: it may be
    /// tried again.
    ///
    /// # Errors
    /// When they can't be read now, or one of them can't be and nothing is to be read without it.
    pub fn read(&mut self, messages: &[Message<'_>]) -> Result<Batch, ReadError> {
        let mut changes = Vec::new();
        let mut dead_letters = Vec::new();
        let mut commit_time = None;
        let several = self.topics.len() > 1;
        for (place, TopicTables { topic, tables }) in self.topics.iter_mut().enumerate() {
            let of_topic: Vec<Message<'_>>;
            let messages = if several {
                of_topic = messages.iter().copied().filter(|message| message.partition.topic == place).collect();
                &of_topic
            } else {
                messages
            };
            if messages.is_empty() {
                continue;
            }
            let payloads: Vec<Payload<'_>> = messages.iter().map(|message| message.payload).collect();
            for (place, table) in tables {
                let batch = table.read(topic, messages, &payloads)?;
                changes.extend(batch.changes.map(|changes| (*place, changes)));
                commit_time = commit_time.max(batch.commit_time);
                let letters = batch.bad.into_iter().map(|(message, reason)| {
                    (*place, DeadLetter::new(&table.table.name, topic, &messages[message], reason))
                });
                dead_letters.extend(letters);
            }
        }
        for message in messages {
            self.next.insert(message.partition, message.offset + 1);
        }
        let written =
            messages.iter().filter_map(|message| message.timestamp).max().map(|millis| millis.saturating_mul(1000));
        let event = SourceEvent::Transaction {
            changes,
            position: self.mark(),
            commit_time: commit_time.or(written).unwrap_or_default(),
        };
        Ok(Batch { event, dead_letters })
    }
}

/// How a table tells its rows apart, by what its messages mean.
#[must_use]
pub fn identity(mode: options::Mode, key: Vec<usize>) -> Identity {
    match mode {
        options::Mode::Append => Identity::AppendOnly,
        options::Mode::Upsert => Identity::Key(key),
        options::Mode::Debezium if key.is_empty() => Identity::WholeRow,
        options::Mode::Debezium => Identity::Key(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::append::Append;
    use crate::format::json::JsonRows;
    use arrow::array::AsArray;
    use arrow::datatypes::{Int32Type, Int64Type, Schema, TimestampMicrosecondType};

    struct One;

    impl Headers for One {
        fn each(&self, take: &mut dyn FnMut(&str, Option<&[u8]>)) {
            take("a", Some(b"\xff"));
            take("b", None);
        }
    }

    fn message(partition: i32, offset: i64, value: &str) -> Message<'_> {
        let payload = Payload { key: Some(b"k\xff"), value: Some(value.as_bytes()) };
        Message { partition: of(partition), offset, timestamp: Some(offset), payload, headers: &One }
    }

    fn of(partition: i32) -> TopicPartition {
        TopicPartition::of_only_topic(partition)
    }

    fn reader(tables: Vec<TopicTable>) -> TopicReader {
        TopicReader::new(vec![TopicTables { topic: "t".into(), tables: tables.into_iter().enumerate().collect() }])
    }

    #[test]
    fn columns_of_metadata_hold_what_is_known_of_a_message() {
        let messages = [message(1, 10, ""), message(2, 20, ""), message(3, 30, "")];
        let column = |metadata: Metadata, declared: &DataType| {
            let column = metadata.column(&messages, &[0, 2], declared).expect("a column");
            assert_eq!(column.data_type(), declared);
            column
        };
        let own = |metadata: Metadata| column(metadata, &metadata.data_type());
        assert_eq!(own(Metadata::Partition).as_primitive::<Int32Type>().values(), &[1, 3]);
        assert_eq!(own(Metadata::Offset).as_primitive::<Int64Type>().values(), &[10, 30]);
        assert_eq!(column(Metadata::Partition, &DataType::Int64).as_primitive::<Int64Type>().values(), &[1, 3]);
        assert_eq!(own(Metadata::Timestamp).as_primitive::<TimestampMicrosecondType>().values(), &[10_000, 30_000]);
        assert_eq!(own(Metadata::Key).as_binary::<i32>().value(1), b"k\xff");
        let headers = own(Metadata::Headers).as_list::<i32>().value(1);
        let (names, values) = (headers.as_struct().column(0), headers.as_struct().column(1));
        assert_eq!(names.as_string::<i32>().iter().collect::<Vec<_>>(), [Some("a"), Some("b")]);
        assert_eq!(values.as_binary::<i32>().iter().collect::<Vec<_>>(), [Some(&b"\xff"[..]), None]);
    }

    #[test]
    fn a_column_of_metadata_is_declared_wide_enough() {
        let local = DataType::Timestamp(TimeUnit::Microsecond, None);
        let fit = [
            (Metadata::Partition, DataType::Int64, true),
            (Metadata::Partition, DataType::Int16, false),
            (Metadata::Offset, DataType::Int64, true),
            (Metadata::Offset, DataType::Int32, false),
            (Metadata::Offset, DataType::Float64, false),
            (Metadata::Timestamp, local.clone(), true),
            (Metadata::Timestamp, DataType::Date32, false),
            (Metadata::Key, DataType::Utf8, true),
            (Metadata::Key, DataType::Int64, false),
            (Metadata::Headers, DataType::Utf8, false),
        ];
        for (metadata, declared, fits) in fit {
            assert_eq!(metadata.fits(&declared), fits, "{metadata:?} {declared}");
        }
        for (_, metadata) in Metadata::OPTIONS {
            assert!(metadata.fits(&metadata.data_type()) && !metadata.sql().is_empty(), "{metadata:?}");
        }
        assert_eq!((Metadata::Timestamp.sql(), Metadata::Key.sql()), ("TIMESTAMPTZ", "BYTEA"));
    }

    fn table(name: &str, on_error: OnError) -> TopicTable {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let rows = JsonRows::new(schema.fields()).expect("a type that JSON is read into");
        let table = SourceTable { name: name.to_owned(), schema, identity: Identity::AppendOnly };
        TopicTable { table, decoder: Box::new(Append::new(Box::new(rows))), metadata: BTreeMap::new(), on_error }
    }

    #[test]
    fn a_batch_is_one_transaction_of_all_tables_and_one_that_fails_is_none() {
        let tables = vec![table("a", OnError::DeadLetter), table("b", OnError::DeadLetter)];
        let mut reader = reader(tables);
        assert_eq!((&**reader.topic(0), reader.topics()[0].tables.len(), reader.reads(0)), ("t", 2, false));
        reader.start_at(of(7), 70);
        let messages = [message(0, 1, r#"{"n":1}"#), message(1, 5, "x"), message(0, 2, r#"{"n":2}"#)];
        assert_eq!(messages[0].bytes(), 2 + 7, "its key and its value");
        let batch = reader.read(&messages).expect("reads");
        let SourceEvent::Transaction { changes, position, commit_time } = batch.event else { panic!("no transaction") };
        let rows: Vec<(usize, usize)> = changes.iter().map(|(place, changes)| (*place, changes.ops.len())).collect();
        assert_eq!((rows, position.to_string()), (vec![(0, 2), (1, 2)], "t/0:3,1:6,7:70".to_owned()));
        assert_eq!(commit_time, 5000, "when the newest was written");
        let letters: Vec<_> = batch.dead_letters.iter().map(|(place, it)| (*place, &*it.table, it.offset)).collect();
        assert_eq!(letters, [(0, "a", 5), (1, "b", 5)]);
        assert!(reader.reads(0) && !reader.reads(1));
        reader.forget(0);
        assert!(reader.next().is_empty());

        let mut strict = self::reader(vec![table("a", OnError::Stop)]);
        let error = strict.read(&messages).expect_err("a message can't be read").to_string();
        assert!(error.starts_with("message 5 of partition 1 of t can't be read: "), "{error}");
        assert!(strict.next().is_empty(), "nothing is read of it");
        assert!(strict.read(&messages[..1]).is_ok());
    }

    #[test]
    fn topics_that_are_read_together_have_tables_and_places_of_their_own() {
        let tables = |place, name| vec![(place, table(name, OnError::DeadLetter))];
        let mut reader = TopicReader::new(vec![
            TopicTables { topic: "one".into(), tables: tables(1, "a") },
            TopicTables { topic: "two".into(), tables: tables(0, "b") },
        ]);
        let of_second =
            |offset, value| Message { partition: TopicPartition { topic: 1, number: 0 }, ..message(0, offset, value) };
        let messages = [message(0, 4, r#"{"n":1}"#), of_second(7, "x"), of_second(8, r#"{"n":2}"#)];
        let batch = reader.read(&messages).expect("reads");
        let SourceEvent::Transaction { changes, position, .. } = batch.event else { panic!("no transaction") };
        let rows: Vec<(usize, usize)> = changes.iter().map(|(place, changes)| (*place, changes.ops.len())).collect();
        assert_eq!((rows, position.to_string()), (vec![(1, 1), (0, 1)], "one/0:5;two/0:9".to_owned()));
        let letters: Vec<_> = batch.dead_letters.iter().map(|(place, it)| (*place, &*it.topic, it.offset)).collect();
        assert_eq!(letters, [(0, "two", 7)]);
        reader.forget(0);
        assert_eq!(reader.mark().to_string(), "one/;two/0:9");
    }

    #[test]
    fn rows_are_told_apart_by_what_messages_mean() {
        use options::Mode;
        assert_eq!(identity(Mode::Append, Vec::new()), Identity::AppendOnly);
        assert_eq!(identity(Mode::Upsert, vec![1]), Identity::Key(vec![1]));
        assert_eq!(identity(Mode::Debezium, vec![1]), Identity::Key(vec![1]));
        assert_eq!(identity(Mode::Debezium, Vec::new()), Identity::WholeRow);
    }
}
