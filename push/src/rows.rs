//! The rows of a projection, by key, in the order of the key.
//!
//! A map is persistent: a version of it is had by cloning a pointer, shares what did not change with
//! the one before, and is read at leisure while the next one is made. A row is one allocation:
//!
//! ```text
//!  ┌───────────┬────────────────────────────┬──────────────────────────────┐
//!  │ length of │ the key, as bytes that     │ the row, any column readable │
//!  │ the key   │ sort (`OrderCodec`)        │ by itself (`RowCodec`)       │
//!  └───────────┴────────────────────────────┴──────────────────────────────┘
//! ```
//!
//! Where the whole row is the identity the row's bytes are the key, and stand there once.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use imbl::OrdMap;
use pipeline::row::{EncodedRows, OrderCodec, RowCodec};

/// Bytes that say where a row's key ends.
const HEAD_BYTES: usize = size_of::<u32>();

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
    pub fn keys(&self, batch: &RecordBatch, rows: &EncodedRows) -> Result<EncodedRows, ArrowError> {
        let Some(codec) = &self.key else { return Ok(rows.clone()) };
        let mut keys = EncodedRows::default();
        codec.encode(batch)?.iter().for_each(|key| keys.push(key.data()));
        Ok(keys)
    }

    /// The bytes of each row of a batch.
    ///
    /// # Errors
    /// When the batch is not of this schema.
    pub fn encode(&self, batch: &RecordBatch) -> Result<EncodedRows, ArrowError> {
        self.codec.encode(batch)
    }

    /// Rows as a batch again.
    ///
    /// # Errors
    /// When they are not of this form, which would be a mistake of ours.
    pub fn decode<'a>(&self, rows: impl Iterator<Item = &'a HeldRow>) -> Result<RecordBatch, ArrowError> {
        let rows: Vec<&[u8]> = rows.map(HeldRow::row).collect();
        self.codec.decode_batch(&self.schema, &rows)
    }

    /// A row to hold.
    #[must_use]
    pub fn hold(&self, key: &[u8], row: &[u8]) -> HeldRow {
        if self.key.is_some() { HeldRow::new(key, row) } else { HeldRow::new(row, &[]) }
    }
}

/// A row, and the key by which it is found. Rows are equal, and sort, by their key.
#[derive(Clone, Debug)]
pub struct HeldRow(Arc<[u8]>);

impl HeldRow {
    fn new(key: &[u8], row: &[u8]) -> HeldRow {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + key.len() + row.len());
        // A row is smaller than 4 GiB: its codec says so.
        bytes.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(row);
        HeldRow(bytes.into())
    }

    fn key_end(&self) -> usize {
        let (head, _) = self.0.split_first_chunk::<HEAD_BYTES>().expect("a row has a head");
        HEAD_BYTES + usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX)
    }

    /// Bytes that sort as the key does.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.0[HEAD_BYTES..self.key_end()]
    }

    /// The row's bytes.
    #[must_use]
    pub fn row(&self) -> &[u8] {
        let end = self.key_end();
        if end == self.0.len() { &self.0[HEAD_BYTES..] } else { &self.0[end..] }
    }
}

impl Borrow<[u8]> for HeldRow {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl PartialEq for HeldRow {
    fn eq(&self, other: &HeldRow) -> bool {
        self.key() == other.key()
    }
}

impl Eq for HeldRow {}

impl PartialOrd for HeldRow {
    fn partial_cmp(&self, other: &HeldRow) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeldRow {
    fn cmp(&self, other: &HeldRow) -> Ordering {
        self.key().cmp(other.key())
    }
}

/// The rows of a projection at an epoch.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// With a key: the epoch since which the row is as it is, by which two versions of the map are
    /// compared. Without: how often it stands there.
    map: OrdMap<HeldRow, i64>,
    count: i64,
}

impl Rows {
    /// How many, those that stand there several times as often.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.count
    }

    /// Puts a row in place of that which has its key, if any.
    pub fn put(&mut self, row: HeldRow, epoch: u64) {
        if self.map.insert(row, i64::try_from(epoch).unwrap_or(i64::MAX)).is_none() {
            self.count += 1;
        }
    }

    /// Takes the row of a key away.
    pub fn remove(&mut self, key: &[u8]) {
        if self.map.remove(key).is_some() {
            self.count -= 1;
        }
    }

    /// Counts a row so many times more, or fewer. Answers whether that can be: a row can't stand
    /// there less than never.
    #[must_use]
    pub fn add(&mut self, row: HeldRow, by: i64) -> bool {
        let Some(count) = self.map.get(row.key()).copied().unwrap_or(0).checked_add(by).filter(|count| *count >= 0)
        else {
            return false;
        };
        if count == 0 {
            self.map.remove(row.key());
        } else {
            self.map.insert(row, count);
        }
        self.count = self.count.saturating_add(by);
        true
    }

    /// The row of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<(&HeldRow, i64)> {
        self.map.get_key_value(key).map(|(row, count)| (row, *count))
    }

    /// Rows from a key on, with the number by which they are held.
    pub fn range(&self, from: Bound<&[u8]>) -> impl Iterator<Item = (&HeldRow, i64)> {
        self.map.range::<_, [u8]>((from, Bound::Unbounded)).map(|(row, count)| (row, *count))
    }

    /// What is different in `other`: for each key the row here and the row there, with their
    /// numbers. Costs what differs, when one version was made from the other.
    pub fn diff<'a>(&'a self, other: &'a Rows) -> impl Iterator<Item = [Option<(&'a HeldRow, i64)>; 2]> {
        use imbl::ordmap::DiffItem;
        self.map.diff(&other.map).map(|item| match item {
            DiffItem::Add(row, count) => [None, Some((row, *count))],
            DiffItem::Remove(row, count) => [Some((row, *count)), None],
            DiffItem::Update { old, new } => [Some((old.0, *old.1)), Some((new.0, *new.1))],
        })
    }
}
