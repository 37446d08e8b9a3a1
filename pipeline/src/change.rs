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
