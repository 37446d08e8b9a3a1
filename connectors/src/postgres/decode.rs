//! Messages into changes of our tables.
//!
//! Rows go from the frame into Arrow builders, one set a table, and come out as [`Changes`] when
//! their transaction commits. Nothing of a transaction is seen before.
//!
//! A *relation* is what the stream has rows of; a *table* is what the project reads. They differ
//! where a table stands in the project several times, and where rows of partitions are told under
//! the partitions' names (see [`super::publication`]): then a row is one of several tables.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use pipeline::{Changes, Lsn, Op};

use super::catalog::{DiscoveredTable, type_name};
use super::error::SourceError;
use super::message::{BadMessage, Message, RelationColumn, Tuple, Value};
use super::publication::{Lineage, Naming};
use super::text::{ColumnBuilder, POSTGRES_EPOCH_DAYS};

/// Characters of a value that an error repeats.
const SHOWN_VALUE_CHARS: usize = 60;

/// Bytes of text of one table at which its changes go on in a batch of their own: what Arrow counts
/// with 32 bits never comes near its end, however large the transaction.
const BATCH_BYTES_MAX: usize = 32 << 20;

/// A transaction as committed.
#[derive(Debug)]
pub struct Transaction {
    /// What changed, by the table's place in the list that the decoder was made with. Of one table
    /// in order.
    pub changes: Vec<(usize, Changes)>,
    /// Where the log goes on after it.
    pub end: Lsn,
    /// When it was committed, in microseconds since 1970-01-01 UTC.
    pub commit_time: i64,
}

/// What a message came to.
#[derive(Debug)]
pub enum Decoded {
    /// It is taken in, and nothing is to be done yet.
    Nothing,
    /// It ended a transaction.
    Transaction(Transaction),
    /// It describes a relation that may be a new partition of one of our tables: look it up, tell
    /// [`Decoder::learn`], and decode the message again.
    UnknownRelation(u32),
}

/// Decodes the stream of one source.
pub struct Decoder {
    tables: Vec<TableDecoder>,
    /// By oid. One that is known and has no readers is passed over.
    relations: HashMap<u32, Relation>,
    naming: Naming,
    /// Changes of the open transaction that were cut off.
    cut: Vec<(usize, Changes)>,
    last_end: Lsn,
}

/// What the stream has rows of.
#[derive(Default)]
struct Relation {
    readers: Vec<Reader>,
}

/// A table that a relation's rows are rows of.
struct Reader {
    table: usize,
    /// For each column of the relation as published, our column. Set by the relation's message.
    columns: Option<Vec<Option<usize>>>,
}

struct TableDecoder {
    table: DiscoveredTable,
    rows: RowBuilder,
    ops: Vec<Op>,
    unchanged: Vec<(u32, u32)>,
}

/// Builders for the rows of a table.
pub struct RowBuilder {
    builders: Vec<ColumnBuilder>,
    rows: usize,
    text_bytes: usize,
}

impl RowBuilder {
    /// Builders for a table's columns.
    ///
    /// # Errors
    /// When a column is declared with a type that no text can be read into.
    pub fn new(table: &DiscoveredTable) -> Result<RowBuilder, SourceError> {
        let builder = |field: &arrow::datatypes::FieldRef| {
            ColumnBuilder::new(field.data_type()).ok_or_else(|| SourceError::NotReady {
                what: format!("column {} of {} can't be read as {}", field.name(), table.name, field.data_type()),
                remedy: "declare it as TEXT, or leave the columns out to have them read from the database".to_owned(),
            })
        };
        Ok(RowBuilder {
            builders: table.schema.fields().iter().map(builder).collect::<Result<_, _>>()?,
            rows: 0,
            text_bytes: 0,
        })
    }

    /// Rows so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no row yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes of the texts that the rows were made from.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// Adds a value to a column; each column once a row.
    ///
    /// # Errors
    /// When the text is no value of the column's type.
    pub fn push(&mut self, table: &DiscoveredTable, column: usize, text: Option<&[u8]>) -> Result<(), SourceError> {
        let Some(text) = text else {
            self.builders[column].push_null();
            return Ok(());
        };
        self.text_bytes += text.len();
        self.builders[column].push(text).map_err(|_| {
            let value = String::from_utf8_lossy(text);
            let field = table.schema.field(column);
            SourceError::BadValue {
                table: format!("{}.{}", table.pg_schema, table.pg_table),
                column: field.name().clone(),
                value: value.chars().take(SHOWN_VALUE_CHARS).collect(),
                wanted: type_name(field.data_type()),
            }
        })
    }

    /// Ends a row.
    pub fn end_row(&mut self) {
        self.rows += 1;
    }

    /// The rows so far, leaving the builders empty.
    ///
    /// # Errors
    /// Only for a mistake of ours: columns of different lengths.
    pub fn finish(&mut self, table: &DiscoveredTable) -> Result<RecordBatch, SourceError> {
        (self.rows, self.text_bytes) = (0, 0);
        let columns = self.builders.iter_mut().map(ColumnBuilder::finish).collect();
        RecordBatch::try_new(table.schema.clone(), columns)
            .map_err(|error| SourceError::PeerMisbehaved { message: error.to_string(), stage: "building rows" })
    }
}

impl Decoder {
    /// A decoder for these tables; others in the stream are passed over.
    ///
    /// # Errors
    /// As [`RowBuilder::new`].
    pub fn new(tables: &[DiscoveredTable], naming: Naming, start: Lsn) -> Result<Decoder, SourceError> {
        let mut relations: HashMap<u32, Relation> = HashMap::new();
        let mut read = |relation: u32, table: usize| {
            relations.entry(relation).or_default().readers.push(Reader { table, columns: None });
        };
        for (i, table) in tables.iter().enumerate() {
            read(table.oid, i);
        }
        if let Naming::Partition(lineages) = &naming {
            for (i, lineage) in lineages.iter().enumerate() {
                lineage.leaves.iter().for_each(|&leaf| read(leaf, i));
            }
        }
        let decoder = |table: &DiscoveredTable| {
            Ok(TableDecoder {
                rows: RowBuilder::new(table)?,
                table: table.clone(),
                ops: Vec::new(),
                unchanged: Vec::new(),
            })
        };
        let tables = tables.iter().map(decoder).collect::<Result<_, SourceError>>()?;
        Ok(Decoder { tables, relations, naming, cut: Vec::new(), last_end: start })
    }

    /// Says which tables a relation is a partition of; none of ours, and it is passed over from here
    /// on.
    pub fn learn(&mut self, relation: u32, ancestors: &[u32]) {
        let Naming::Partition(lineages) = &mut self.naming else { return };
        let relation_entry = self.relations.entry(relation).or_default();
        for (i, (table, lineage)) in self.tables.iter().zip(lineages).enumerate() {
            if ancestors.contains(&table.table.oid) {
                lineage.leaves.push(relation);
                relation_entry.readers.push(Reader { table: i, columns: None });
            }
        }
    }

    /// Takes in one message; a transaction comes out with its commit.
    ///
    /// # Errors
    /// When the message is malformed, a value can't be taken, or a table is no longer what it was.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, SourceError> {
        let message = Message::decode(bytes)
            .map_err(|BadMessage(what)| SourceError::PeerMisbehaved { message: what.to_owned(), stage: "streaming" })?;
        match message {
            Message::Begin { .. } | Message::Other => {}
            Message::Relation { id, columns, schema, name } => return self.describe(id, &columns, schema, name),
            Message::Insert { relation, new } => self.push(relation, &[(Op::Insert, new)])?,
            Message::Update { relation, old: None, new } => self.push(relation, &[(Op::Update, new)])?,
            Message::Update { relation, old: Some(old), new } => {
                self.push(relation, &[(Op::OldKey, old), (Op::Update, new)])?
            }
            Message::Delete { relation, old } => self.push(relation, &[(Op::Delete, old)])?,
            Message::Truncate { relations } => self.truncate(&relations)?,
            Message::Commit { end, time } => {
                if end < self.last_end {
                    return Err(SourceError::WentBack { last: self.last_end, end });
                }
                self.last_end = end;
                let mut changes = std::mem::take(&mut self.cut);
                for (i, table) in self.tables.iter_mut().enumerate() {
                    if !table.ops.is_empty() {
                        changes.push((i, table.finish()?));
                    }
                }
                let commit_time = time + POSTGRES_EPOCH_DAYS * 86_400_000_000;
                return Ok(Decoded::Transaction(Transaction { changes, end, commit_time }));
            }
        }
        Ok(Decoded::Nothing)
    }

    fn describe(
        &mut self,
        id: u32,
        columns: &[RelationColumn<'_>],
        schema: &str,
        name: &str,
    ) -> Result<Decoded, SourceError> {
        if let Some(relation) = self.relations.get_mut(&id) {
            for reader in &mut relation.readers {
                reader.columns = Some(self.tables[reader.table].map_columns(columns)?);
            }
            return Ok(Decoded::Nothing);
        }
        if let Some(table) = self.tables.iter().find(|it| it.table.pg_schema == schema && it.table.pg_table == name) {
            let what = "it was dropped and made again".to_owned();
            return Err(SourceError::SchemaChanged { table: table.table.quoted(), what });
        }
        let may_be_ours = self.naming != Naming::Root && self.tables.iter().any(|it| it.table.is_partitioned);
        Ok(if may_be_ours { Decoded::UnknownRelation(id) } else { Decoded::Nothing })
    }

    /// Rows that belong together: an update's old key is never parted from its new row.
    fn push(&mut self, relation: u32, rows: &[(Op, Tuple<'_>)]) -> Result<(), SourceError> {
        let Some(relation) = self.relations.get(&relation) else { return Ok(()) };
        for reader in &relation.readers {
            let Some(columns) = &reader.columns else {
                return Err(misbehaved("a row of a table that it did not describe"));
            };
            let table = &mut self.tables[reader.table];
            if table.rows.text_bytes() >= BATCH_BYTES_MAX {
                self.cut.push((reader.table, table.finish()?));
            }
            for (op, tuple) in rows {
                table.push(*op, *tuple, columns)?;
            }
        }
        Ok(())
    }

    /// Some of a table's partitions may be emptied and others not. Which of its rows those are we do
    /// not know, so the tables are copied again.
    fn truncate(&mut self, relations: &[u32]) -> Result<(), SourceError> {
        for (i, table) in self.tables.iter_mut().enumerate() {
            let leaves: &[u32] = match &self.naming {
                Naming::Root => &[],
                Naming::Partition(lineages) => lineages.get(i).map_or(&[], |Lineage { leaves, .. }| leaves),
            };
            let is_emptied = |leaf: &u32| relations.contains(leaf);
            if is_emptied(&table.table.oid) || !leaves.is_empty() && leaves.iter().all(is_emptied) {
                table.push_truncate()?;
            } else if leaves.iter().any(is_emptied) {
                return Err(SourceError::PartitionTruncated { table: table.table.quoted() });
            }
        }
        Ok(())
    }
}

fn misbehaved(message: &str) -> SourceError {
    SourceError::PeerMisbehaved { message: message.to_owned(), stage: "streaming" }
}

impl TableDecoder {
    /// Compares a relation as published with the table as discovered.
    fn map_columns(&self, published: &[RelationColumn<'_>]) -> Result<Vec<Option<usize>>, SourceError> {
        let changed = |what: String| SourceError::SchemaChanged { table: self.table.quoted(), what };
        let fields = self.table.schema.fields();
        for (field, &type_id) in fields.iter().zip(&self.table.type_ids) {
            match published.iter().find(|column| column.name == field.name()) {
                None => return Err(changed(format!("column {} is gone", field.name()))),
                Some(now) if now.type_id != type_id => {
                    return Err(changed(format!("column {} has another type", field.name())));
                }
                Some(_) => {}
            }
        }
        Ok(published.iter().map(|column| fields.iter().position(|field| field.name() == column.name)).collect())
    }

    fn push(&mut self, op: Op, tuple: Tuple<'_>, columns: &[Option<usize>]) -> Result<(), SourceError> {
        if usize::from(tuple.columns) != columns.len() {
            return Err(misbehaved("a row with another number of columns than its table"));
        }
        let row = u32::try_from(self.ops.len()).map_err(|_| misbehaved("more rows in a transaction than fit"))?;
        let first_unchanged = self.unchanged.len();
        for (column, value) in columns.iter().zip(tuple.values()) {
            let Some(column) = *column else { continue };
            match value {
                Value::Null => self.rows.push(&self.table, column, None)?,
                Value::Text(text) => self.rows.push(&self.table, column, Some(text))?,
                Value::Unchanged => {
                    self.rows.push(&self.table, column, None)?;
                    if op == Op::Update {
                        self.unchanged.push((row, u32::try_from(column).map_err(|_| misbehaved("too many columns"))?));
                    }
                }
            }
        }
        self.unchanged[first_unchanged..].sort_unstable();
        self.rows.end_row();
        self.ops.push(op);
        Ok(())
    }

    fn push_truncate(&mut self) -> Result<(), SourceError> {
        for column in 0..self.table.schema.fields().len() {
            self.rows.push(&self.table, column, None)?;
        }
        self.rows.end_row();
        self.ops.push(Op::Truncate);
        Ok(())
    }

    fn finish(&mut self) -> Result<Changes, SourceError> {
        Ok(Changes {
            rows: self.rows.finish(&self.table)?,
            ops: std::mem::take(&mut self.ops),
            unchanged: std::mem::take(&mut self.unchanged),
        })
    }
}
