//! What a source says happened, in its own words.
//!
//! A log speaks of inserts, of updates that may leave out what did not change, and of deletes by
//! key. [`crate::table`] knows the rows that are there and turns this into deltas.

use arrow::array::RecordBatch;

/// One thing that happened to a table. Each has one row in [`Changes::rows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The row came. If the table holds a row of that key it is replaced, so that a source may
    /// repeat itself.
    Insert,
    /// The row of this key became this row. Columns in [`Changes::unchanged`] keep their value.
    Update,
    /// The [`Op::Update`] that follows moves the row from this key; only the key columns count
    /// (all of them where the table is keyed by its whole row).
    OldKey,
    /// The row of this key went; only the key columns count.
    Delete,
    /// All rows went. The row itself counts for nothing.
    Truncate,
}

/// Changes of one table, in the order in which they happened.
///
/// ```
/// use std::sync::Arc;
/// use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
/// use pipeline::{Changes, Op};
///
/// // UPDATE docs SET id = 2 WHERE id = 1, of which Postgres sent neither the old row but its key
/// // nor the large text that did not change.
/// let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
/// let texts: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>, None]));
/// let rows = RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("body", texts, true)])?;
/// let changes = Changes { rows, ops: vec![Op::OldKey, Op::Update], unchanged: vec![(1, 1)] };
/// assert_eq!(changes.rows.num_rows(), changes.ops.len());
/// # Ok::<(), arrow::error::ArrowError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Changes {
    /// A row for each op, with the table's columns.
    pub rows: RecordBatch,
    /// What each row means.
    pub ops: Vec<Op>,
    /// `(row, column)` pairs, ascending, of updates whose value was not sent because it did not
    /// change (Postgres leaves out large values that way).
    pub unchanged: Vec<(u32, u32)>,
}
