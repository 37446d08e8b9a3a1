//! The rows of a projection, by key, in the order of the key.
//!
//! Keys are bytes that sort (`OrderCodec`), rows are bytes of which any column is readable by itself
//! (`RowCodec`), and both lie in a persistent tree. Where the whole row is the identity its bytes are
//! the key, and how often it stands there is the value.

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use pipeline::row::{EncodedRows, OrderCodec, RowCodec};

use crate::tree::{Tree, push_varint, read_varint};

/// How a projection's rows are held.
#[derive(Debug)]
pub struct RowForm {
    schema: SchemaRef,
    /// `None` when a row is told apart only by all of it.
    key: Option<OrderCodec>,
    codec: RowCodec,
}

impl RowForm {
    /// The form of rows of `schema` with these key columns.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn new(schema: &SchemaRef, key: Option<&[usize]>) -> Result<RowForm, ArrowError> {
        let sorted = |columns: &[usize]| {
            OrderCodec::new(schema, &columns.iter().map(|&column| (column, SortOptions::default())).collect::<Vec<_>>())
        };
        Ok(RowForm { key: key.map(sorted).transpose()?, codec: RowCodec::whole(schema)?, schema: Arc::clone(schema) })
    }

    /// The key of each row of a batch.
    ///
    /// # Errors
    /// When the batch is not of this schema.
    pub fn keys<'a>(&self, batch: &RecordBatch, rows: &'a EncodedRows) -> Result<Cow<'a, EncodedRows>, ArrowError> {
        let Some(codec) = &self.key else { return Ok(Cow::Borrowed(rows)) };
        let mut keys = EncodedRows::default();
        codec.encode(batch)?.iter().for_each(|key| keys.push(key.data()));
        Ok(Cow::Owned(keys))
    }

    /// The bytes of each row of a batch.
    ///
    /// # Errors
    /// When the batch is not of this schema.
    pub fn encode(&self, batch: &RecordBatch) -> Result<EncodedRows, ArrowError> {
        self.codec.encode(batch)
    }

    /// The projection's columns.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Some columns of a row as `onto`, a codec of just these, would have encoded them.
    pub fn project(&self, row: RowRef<'_>, columns: &[usize], onto: &RowCodec, out: &mut Vec<u8>) {
        self.codec.project(row.row, columns, onto, out);
    }

    /// Rows as a batch again.
    ///
    /// # Errors
    /// When they are not of this form, which would be a mistake of ours.
    pub fn decode<'a>(&self, rows: impl Iterator<Item = RowRef<'a>>) -> Result<RecordBatch, ArrowError> {
        let rows: Vec<&[u8]> = rows.map(|row| row.row).collect();
        self.codec.decode_batch(&self.schema, &rows)
    }
}

/// A row where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRef<'a> {
    /// Bytes that sort as the key does.
    pub key: &'a [u8],
    /// The row's bytes.
    pub row: &'a [u8],
    /// How often it stands there.
    pub count: i64,
}

/// A row that somebody keeps: its key, and the row.
#[derive(Clone, Debug)]
pub struct HeldRow {
    bytes: Arc<[u8]>,
    key_end: usize,
}

impl HeldRow {
    /// Keeps a row that lies elsewhere.
    #[must_use]
    pub fn new(key: &[u8], row: &[u8]) -> HeldRow {
        HeldRow { bytes: [key, row].concat().into(), key_end: key.len() }
    }

    /// Bytes that sort as the key does.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.bytes[..self.key_end]
    }

    /// The row, standing there so many times.
    #[must_use]
    pub fn times(&self, count: i64) -> RowRef<'_> {
        RowRef { key: self.key(), row: &self.bytes[self.key_end..], count }
    }
}

/// The rows of a projection at an epoch.
#[derive(Clone, Debug)]
pub struct Rows {
    tree: Tree,
    has_key: bool,
    count: i64,
}

impl Rows {
    /// No rows, of a projection with a key or without.
    #[must_use]
    pub fn new(has_key: bool) -> Rows {
        Rows { tree: Tree::default(), has_key, count: 0 }
    }

    /// How many, those that stand there several times as often.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.count
    }

    /// With a key: puts a row in place of that which has its key, if any.
    pub fn put(&mut self, key: &[u8], row: &[u8]) {
        if !self.tree.insert(key, row) {
            self.count += 1;
        }
    }

    /// Takes the row of a key away.
    pub fn remove(&mut self, key: &[u8]) {
        if self.tree.remove(key) {
            self.count -= 1;
        }
    }

    /// Without a key: counts a row so many times more, or fewer. Answers whether that can be: a row
    /// can't stand there less than never.
    #[must_use]
    pub fn add(&mut self, row: &[u8], by: i64) -> bool {
        let held = self.get(row).map_or(0, |held| held.count);
        let Some(count) = held.checked_add(by).and_then(|count| usize::try_from(count).ok()) else { return false };
        if count == 0 {
            self.tree.remove(row);
        } else {
            let mut value = Vec::new();
            push_varint(&mut value, count);
            self.tree.insert(row, &value);
        }
        self.count = self.count.saturating_add(by);
        true
    }

    /// The row of a key.
    #[must_use]
    pub fn get<'a>(&'a self, key: &'a [u8]) -> Option<RowRef<'a>> {
        self.tree.get(key).map(|value| self.row(key, value))
    }

    /// Rows from a key on.
    pub fn range<'a>(&'a self, from: Bound<&[u8]>) -> impl Iterator<Item = RowRef<'a>> + use<'a> {
        self.tree.range(from).map(|(key, value)| self.row(key, value))
    }

    /// What is different in `other`, from a key on: for each key the row here and the row there. Costs
    /// what differs, when one version was made from the other.
    pub fn diff<'a>(
        &'a self,
        other: &'a Rows,
        from: Bound<&[u8]>,
    ) -> impl Iterator<Item = [Option<RowRef<'a>>; 2]> + use<'a> {
        self.tree.diff(&other.tree, from).map(|found| found.values.map(|value| Some(self.row(found.key, value?))))
    }

    fn row<'a>(&self, key: &'a [u8], value: &'a [u8]) -> RowRef<'a> {
        if self.has_key {
            return RowRef { key, row: value, count: 1 };
        }
        RowRef { key, row: key, count: i64::try_from(read_varint(value).0).unwrap_or(i64::MAX) }
    }
}
