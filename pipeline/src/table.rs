//! Source tables by key: from changes to deltas.
//!
//! A log says what a row is now, seldom what it was. The table remembers, so that each batch of
//! changes becomes its *net* effect: for each key touched, `-1` the row before and `+1` the row
//! after. What comes out is consolidated whatever went in, and a source that repeats itself after
//! a lost connection changes nothing.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use crate::change::{Changes, Op};
use crate::delta::Delta;
use crate::row::{RowBytes, RowCodec};

/// Rows handed on in one delta when a whole table is compared, so that a large first copy passes
/// through the operators in pieces of bounded size.
const COPY_DELTA_ROWS_MAX: usize = 65_536;

/// How a table tells its rows apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// These columns are unique and never NULL.
    Key(Vec<usize>),
    /// Nothing is unique: a row is its values, and may stand in the table several times.
    WholeRow,
}

/// The rows of a source table.
#[derive(Debug)]
pub struct Table {
    schema: SchemaRef,
    identity: Identity,
    key_codec: RowCodec,
    row_codec: RowCodec,
    rows: HashMap<RowBytes, Row>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    bytes: RowBytes,
    /// More than 1 only where the identity is the whole row.
    count: i64,
}

/// A table read anew beside the old one; see [`Table::finish_copy`].
#[derive(Debug, Default)]
pub struct TableCopy {
    rows: HashMap<RowBytes, Row>,
}

impl TableCopy {
    /// Rows copied so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing was copied yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Table {
    /// A table with no rows yet.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn new(schema: SchemaRef, identity: Identity) -> Result<Table, ArrowError> {
        let row_codec = RowCodec::whole(&schema)?;
        let key_codec = match &identity {
            Identity::Key(columns) => RowCodec::new(&schema, columns)?,
            Identity::WholeRow => RowCodec::whole(&schema)?,
        };
        Ok(Table { schema, identity, key_codec, row_codec, rows: HashMap::new() })
    }

    /// The table's columns.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no row is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Applies changes in order and returns their net effect.
    ///
    /// # Errors
    /// When the changes do not have the table's columns.
    pub fn apply(&mut self, changes: &Changes) -> Result<Delta, ArrowError> {
        let filled;
        let batch = if changes.unchanged.is_empty() {
            &changes.rows
        } else {
            filled = self.fill_unchanged(changes)?;
            &filled
        };
        let keys = self.key_codec.encode(batch)?;
        let rows = self.row_codec.encode(batch)?;
        // The row before this batch, for each key that the batch touches.
        let mut before: HashMap<&[u8], Option<Row>> = HashMap::with_capacity(changes.ops.len());
        let mut truncated: Vec<Row> = Vec::new();
        for (i, op) in changes.ops.iter().enumerate() {
            let key = keys.row(i).data();
            match op {
                Op::Truncate => {
                    for (key, row) in self.rows.drain() {
                        // Of a key touched earlier in this batch, `before` holds the truth already.
                        if !before.contains_key(&*key) {
                            truncated.push(row);
                        }
                    }
                    continue;
                }
                Op::Insert | Op::Update => {
                    let bytes = rows.row(i).data();
                    match self.rows.entry_ref(key) {
                        EntryRef::Occupied(mut entry) => {
                            before.entry(key).or_insert_with(|| Some(entry.get().clone()));
                            if self.identity == Identity::WholeRow {
                                entry.get_mut().count += 1;
                            } else {
                                entry.get_mut().bytes = bytes.into();
                            }
                        }
                        EntryRef::Vacant(entry) => {
                            before.entry(key).or_insert(None);
                            entry.insert_with_key(key.into(), Row { bytes: bytes.into(), count: 1 });
                        }
                    }
                }
                Op::OldKey | Op::Delete => {
                    if let EntryRef::Occupied(mut entry) = self.rows.entry_ref(key) {
                        before.entry(key).or_insert_with(|| Some(entry.get().clone()));
                        entry.get_mut().count -= 1;
                        if entry.get().count == 0 {
                            entry.remove();
                        }
                    }
                }
            }
        }
        let mut out = NetRows::default();
        for row in &truncated {
            out.push(&row.bytes, -row.count);
        }
        for (key, old) in &before {
            let new = self.rows.get(*key);
            if old.as_ref() == new {
                continue;
            }
            match (old, new) {
                (Some(old), Some(new)) if old.bytes == new.bytes => out.push(&new.bytes, new.count - old.count),
                (old, new) => {
                    if let Some(old) = old {
                        out.push(&old.bytes, -old.count);
                    }
                    if let Some(new) = new {
                        out.push(&new.bytes, new.count);
                    }
                }
            }
        }
        if !truncated.is_empty() {
            // A row that was truncated and came back as it was is no change.
            out.consolidate();
        }
        out.decode(&self.row_codec, &self.schema)
    }

    /// Fills in what an update left out from the row as it is at that moment.
    ///
    /// Rare (large values only), so it walks the batch an op at a time: an earlier op of the same
    /// batch may have written the value that a later one leaves out.
    fn fill_unchanged(&self, changes: &Changes) -> Result<RecordBatch, ArrowError> {
        let keys = self.key_codec.encode(&changes.rows)?;
        let columns = self.schema.fields().len();
        // For each key touched so far, the batch row that holds its values now (`None`: deleted).
        let mut latest: HashMap<&[u8], Option<usize>> = HashMap::new();
        let mut sources: Vec<ArrayRef> = Vec::new();
        // Per column: the values to interleave, as (array, row); array 0 is the batch's own.
        let mut picks: Vec<Vec<(usize, usize)>> = vec![(0..changes.ops.len()).map(|i| (0, i)).collect(); columns];
        let mut old_rows: Vec<Vec<ArrayRef>> = Vec::new();
        let mut moved_from: Option<&[u8]> = None;
        let mut told_old: Option<usize> = None;
        let mut truncated = false;
        let mut unchanged = changes.unchanged.iter().peekable();
        for (i, op) in changes.ops.iter().enumerate() {
            let key = keys.row(i).data();
            match op {
                Op::Truncate => {
                    truncated = true;
                    latest.clear();
                }
                Op::Delete => {
                    latest.insert(key, None);
                }
                Op::OldKey => {
                    moved_from = Some(key);
                    told_old = Some(i);
                }
                Op::Insert | Op::Update => {
                    let from = moved_from.take().unwrap_or(key);
                    let mut old_row: Option<usize> = None;
                    while let Some(&&(row, column)) = unchanged.peek() {
                        if row as usize != i {
                            break;
                        }
                        unchanged.next();
                        let column = column as usize;
                        // Where the whole row is the identity the log tells all of the old row.
                        if let (Identity::WholeRow, Some(old)) = (&self.identity, told_old) {
                            picks[column][i] = (0, old);
                            continue;
                        }
                        match latest.get(from) {
                            Some(Some(earlier)) => picks[column][i] = picks[column][*earlier],
                            Some(None) => {}
                            None if truncated => {}
                            None => {
                                if old_row.is_none()
                                    && let Some(row) = self.rows.get(from)
                                {
                                    old_rows.push(self.row_codec.decode([&*row.bytes])?);
                                    old_row = Some(old_rows.len());
                                }
                                if let Some(array) = old_row {
                                    picks[column][i] = (array, 0);
                                }
                            }
                        }
                    }
                    if from != key {
                        latest.insert(from, None);
                    }
                    latest.insert(key, Some(i));
                    told_old = None;
                }
            }
        }
        let mut filled = Vec::with_capacity(columns);
        for (column, picks) in picks.iter().enumerate() {
            sources.clear();
            sources.push(changes.rows.column(column).clone());
            sources.extend(old_rows.iter().map(|row| row[column].clone()));
            filled.push(interleave(&sources.iter().map(AsRef::as_ref).collect::<Vec<_>>(), picks)?);
        }
        RecordBatch::try_new(self.schema.clone(), filled)
    }

    /// Adds rows to a copy of this table.
    ///
    /// # Errors
    /// When the rows do not have the table's columns.
    pub fn copy(&self, copy: &mut TableCopy, batch: &RecordBatch) -> Result<(), ArrowError> {
        let keys = self.key_codec.encode(batch)?;
        let rows = self.row_codec.encode(batch)?;
        copy.rows.reserve(batch.num_rows());
        for i in 0..batch.num_rows() {
            let key = keys.row(i).data();
            match copy.rows.entry_ref(key) {
                EntryRef::Occupied(mut entry) if self.identity == Identity::WholeRow => entry.get_mut().count += 1,
                EntryRef::Occupied(mut entry) => entry.get_mut().bytes = rows.row(i).data().into(),
                EntryRef::Vacant(entry) => {
                    entry.insert_with_key(key.into(), Row { bytes: rows.row(i).data().into(), count: 1 });
                }
            }
        }
        Ok(())
    }

    /// Puts the copy in the place of the rows held, and returns only what differs, in deltas of
    /// bounded size. The first copy of a table differs in all its rows.
    ///
    /// # Errors
    /// When the rows held can't be decoded, which would be a mistake of ours.
    pub fn finish_copy(&mut self, copy: TableCopy) -> Result<Vec<Delta>, ArrowError> {
        let old = std::mem::replace(&mut self.rows, copy.rows);
        let mut deltas = Vec::new();
        let mut out = NetRows::default();
        for (key, old_row) in &old {
            match self.rows.get(key) {
                Some(new) if new == old_row => {}
                Some(new) if new.bytes == old_row.bytes => out.push(&new.bytes, new.count - old_row.count),
                Some(new) => {
                    out.push(&old_row.bytes, -old_row.count);
                    out.push(&new.bytes, new.count);
                }
                None => out.push(&old_row.bytes, -old_row.count),
            }
            out.spill(COPY_DELTA_ROWS_MAX, &self.row_codec, &self.schema, &mut deltas)?;
        }
        for (key, new) in &self.rows {
            if !old.contains_key(key) {
                out.push(&new.bytes, new.count);
                out.spill(COPY_DELTA_ROWS_MAX, &self.row_codec, &self.schema, &mut deltas)?;
            }
        }
        out.spill(1, &self.row_codec, &self.schema, &mut deltas)?;
        Ok(deltas)
    }
}

/// Rows of bytes on their way to becoming a delta.
#[derive(Default)]
struct NetRows<'a> {
    rows: Vec<&'a [u8]>,
    weights: Vec<i64>,
}

impl<'a> NetRows<'a> {
    fn push(&mut self, row: &'a [u8], weight: i64) {
        self.rows.push(row);
        self.weights.push(weight);
    }

    fn consolidate(&mut self) {
        let mut net: HashMap<&[u8], i64> = HashMap::new();
        for (row, weight) in self.rows.drain(..).zip(self.weights.drain(..)) {
            *net.entry(row).or_default() += weight;
        }
        (self.rows, self.weights) = net.into_iter().filter(|&(_, weight)| weight != 0).unzip();
    }

    fn decode(&self, codec: &RowCodec, schema: &SchemaRef) -> Result<Delta, ArrowError> {
        if self.rows.is_empty() {
            return Ok(Delta::empty(schema.clone()));
        }
        let batch = codec.decode_batch(schema, self.rows.iter().copied(), self.rows.len())?;
        Ok(Delta::new(batch, self.weights.clone()))
    }

    fn spill(&mut self, at: usize, codec: &RowCodec, schema: &SchemaRef, out: &mut Vec<Delta>) -> Result<(), ArrowError> {
        if self.rows.len() >= at {
            out.push(self.decode(codec, schema)?);
            self.rows.clear();
            self.weights.clear();
        }
        Ok(())
    }
}
