//! Messages into changes of our tables.
//!
//! Rows go from the frame into Arrow builders, one set a table, and come out as [`Changes`] when
//! their transaction commits. Nothing of a transaction is seen before.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use pipeline::table::Identity;
use pipeline::{Changes, Lsn, Op};

use super::catalog::DiscoveredTable;
use super::error::SourceError;
use super::message::{BadMessage, Message, Tuple, Value};
use super::text::{ColumnBuilder, POSTGRES_EPOCH_DAYS};

/// Characters of a value that an error repeats.
const SHOWN_VALUE_CHARS: usize = 60;

/// A transaction as committed.
#[derive(Debug)]
pub struct Transaction {
    /// What changed, by the table's place in the list that the decoder was made with.
    pub changes: Vec<(usize, Changes)>,
    /// Where the log goes on after it.
    pub end: Lsn,
    /// When it was committed, in microseconds since 1970-01-01 UTC.
    pub commit_time: i64,
}

/// Decodes the stream of one source.
pub struct Decoder {
    tables: Vec<TableDecoder>,
    by_oid: HashMap<u32, usize>,
    last_end: Lsn,
}

struct TableDecoder {
    table: DiscoveredTable,
    rows: RowBuilder,
    ops: Vec<Op>,
    unchanged: Vec<(u32, u32)>,
    /// For each column of the relation as published, our column. Set by the relation's message.
    columns: Option<Vec<Option<usize>>>,
}

/// Builders for the rows of a table.
pub struct RowBuilder {
    builders: Vec<ColumnBuilder>,
    rows: usize,
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
        Ok(RowBuilder { builders: table.schema.fields().iter().map(builder).collect::<Result<_, _>>()?, rows: 0 })
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

    /// Adds a value to a column; each column once a row.
    ///
    /// # Errors
    /// When the text is no value of the column's type.
    pub fn push(&mut self, table: &DiscoveredTable, column: usize, text: Option<&[u8]>) -> Result<(), SourceError> {
        let Some(text) = text else {
            self.builders[column].push_null();
            return Ok(());
        };
        self.builders[column].push(text).map_err(|_| {
            let value = String::from_utf8_lossy(text);
            let field = table.schema.field(column);
            SourceError::BadValue {
                table: format!("{}.{}", table.pg_schema, table.pg_table),
                column: field.name().clone(),
                value: value.chars().take(SHOWN_VALUE_CHARS).collect(),
                wanted: field.data_type().to_string(),
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
        self.rows = 0;
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
    pub fn new(tables: &[DiscoveredTable], start: Lsn) -> Result<Decoder, SourceError> {
        let decoders = tables
            .iter()
            .map(|table| {
                Ok(TableDecoder {
                    rows: RowBuilder::new(table)?,
                    table: table.clone(),
                    ops: Vec::new(),
                    unchanged: Vec::new(),
                    columns: None,
                })
            })
            .collect::<Result<_, SourceError>>()?;
        let by_oid = tables.iter().enumerate().map(|(i, table)| (table.oid, i)).collect();
        Ok(Decoder { tables: decoders, by_oid, last_end: start })
    }

    /// Takes in one message; a transaction comes out with its commit.
    ///
    /// # Errors
    /// When the message is malformed, a value can't be taken, or a table is no longer what it was.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Option<Transaction>, SourceError> {
        let message = Message::decode(bytes)
            .map_err(|BadMessage(what)| SourceError::PeerMisbehaved { message: what.to_owned(), stage: "streaming" })?;
        match message {
            Message::Begin { .. } | Message::Other => {}
            Message::Relation { id, columns, schema, name } => {
                if let Some(&i) = self.by_oid.get(&id) {
                    let columns: Vec<(&str, u32)> = columns.iter().map(|column| (column.name, column.type_id)).collect();
                    self.tables[i].map_columns(&columns)?;
                } else if let Some(table) = self.tables.iter().find(|it| it.table.pg_schema == schema && it.table.pg_table == name) {
                    let what = "it was dropped and made again".to_owned();
                    return Err(SourceError::SchemaChanged { table: table.table.quoted(), what });
                }
            }
            Message::Insert { relation, new } => {
                if let Some(&i) = self.by_oid.get(&relation) {
                    self.tables[i].push(Op::Insert, new)?;
                }
            }
            Message::Update { relation, old, new } => {
                if let Some(&i) = self.by_oid.get(&relation) {
                    if let Some(old) = old {
                        self.tables[i].push(Op::OldKey, old)?;
                    }
                    self.tables[i].push(Op::Update, new)?;
                }
            }
            Message::Delete { relation, old } => {
                if let Some(&i) = self.by_oid.get(&relation) {
                    self.tables[i].push(Op::Delete, old)?;
                }
            }
            Message::Truncate { relations } => {
                for relation in relations {
                    if let Some(&i) = self.by_oid.get(&relation) {
                        self.tables[i].push_truncate()?;
                    }
                }
            }
            Message::Commit { end, time } => {
                if end < self.last_end {
                    return Err(SourceError::WentBack { last: self.last_end, end });
                }
                self.last_end = end;
                let mut changes = Vec::new();
                for (i, table) in self.tables.iter_mut().enumerate() {
                    if !table.ops.is_empty() {
                        changes.push((i, table.finish()?));
                    }
                }
                return Ok(Some(Transaction { changes, end, commit_time: time + POSTGRES_EPOCH_DAYS * 86_400_000_000 }));
            }
        }
        Ok(None)
    }
}

impl TableDecoder {
    /// Compares a table as published with the table as discovered.
    fn map_columns(&mut self, published: &[(&str, u32)]) -> Result<(), SourceError> {
        let changed = |what: String| SourceError::SchemaChanged { table: self.table.quoted(), what };
        let fields = self.table.schema.fields();
        for (field, &type_id) in fields.iter().zip(&self.table.type_ids) {
            match published.iter().find(|(name, _)| name == field.name()) {
                None => return Err(changed(format!("column {} is gone", field.name()))),
                Some((_, now)) if *now != type_id => return Err(changed(format!("column {} has another type", field.name()))),
                Some(_) => {}
            }
        }
        let place = |name: &str| fields.iter().position(|field| field.name() == name);
        self.columns = Some(published.iter().map(|(name, _)| place(name)).collect());
        Ok(())
    }

    fn push(&mut self, op: Op, tuple: Tuple<'_>) -> Result<(), SourceError> {
        let misbehaved = |message: &str| SourceError::PeerMisbehaved { message: message.to_owned(), stage: "streaming" };
        let Some(columns) = &self.columns else { return Err(misbehaved("a row of a table that it did not describe")) };
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
        debug_assert!(matches!(self.table.identity, Identity::Key(_) | Identity::WholeRow));
        Ok(Changes {
            rows: self.rows.finish(&self.table)?,
            ops: std::mem::take(&mut self.ops),
            unchanged: std::mem::take(&mut self.unchanged),
        })
    }
}
