//! A batch of rows, each row with a weight.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::Rows;
use hashbrown::HashMap;

use crate::row::batch_of;

/// Rows and how many of each came (`> 0`) or went (`< 0`). An update is `-1 old, +1 new`.
///
/// A delta is a multiset: the order of its rows means nothing, and a row may stand in it several
/// times until it is consolidated.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The rows.
    pub batch: RecordBatch,
    /// One weight per row, none of them zero.
    pub weights: Vec<i64>,
}

impl Delta {
    /// Rows with their weights.
    ///
    /// # Panics
    /// When there are not as many weights as rows.
    #[must_use]
    pub fn new(batch: RecordBatch, weights: Vec<i64>) -> Delta {
        assert_eq!(batch.num_rows(), weights.len(), "a weight per row");
        Delta { batch, weights }
    }

    /// Rows that all came once.
    #[must_use]
    pub fn inserts(batch: RecordBatch) -> Delta {
        let weights = vec![1; batch.num_rows()];
        Delta { batch, weights }
    }

    /// No row.
    #[must_use]
    pub fn empty(schema: SchemaRef) -> Delta {
        Delta { batch: RecordBatch::new_empty(schema), weights: Vec::new() }
    }

    /// How many rows, whatever their weights.
    #[must_use]
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// The rows at `indices`, in that order.
    ///
    /// # Errors
    /// When an index is out of range.
    pub fn take(&self, indices: &[u32]) -> Result<Delta, ArrowError> {
        let batch = take_rows(&self.batch, &UInt32Array::from(indices.to_vec()))?;
        let weights = indices.iter().map(|&i| self.weights[i as usize]).collect();
        Ok(Delta { batch, weights })
    }

    /// All the rows of all the parts; `None` when no part has any.
    ///
    /// # Errors
    /// When the parts differ in schema.
    pub fn concat(mut parts: Vec<Delta>) -> Result<Option<Delta>, ArrowError> {
        parts.retain(|part| !part.is_empty());
        if parts.len() < 2 {
            return Ok(parts.pop());
        }
        let schema = parts[0].batch.schema();
        let batch = if schema.fields().is_empty() {
            batch_of(&schema, Vec::new(), parts.iter().map(Delta::len).sum())?
        } else {
            concat_batches(&schema, parts.iter().map(|part| &part.batch))?
        };
        Ok(Some(Delta { batch, weights: parts.into_iter().flat_map(|part| part.weights).collect() }))
    }
}

/// The rows of a batch at `indices`; of a batch without columns too, which Arrow's own kernel
/// refuses.
pub(crate) fn take_rows(batch: &RecordBatch, indices: &UInt32Array) -> Result<RecordBatch, ArrowError> {
    if batch.num_columns() == 0 {
        return batch_of(batch.schema_ref(), Vec::new(), indices.len());
    }
    take_record_batch(batch, indices)
}

/// The index of each row as often as the row counts, for `take`.
pub(crate) fn repeated<'a>(counts: impl Iterator<Item = &'a i64>) -> UInt32Array {
    counts.enumerate().flat_map(|(i, &count)| std::iter::repeat_n(index(i), usize::try_from(count).unwrap_or(0))).collect()
}

/// The rows that are left when equal rows are added up: their indices (the first of each) and
/// net weights. `None` when every row stands alone already, which is the common case.
pub(crate) fn net(rows: &Rows, weights: &[i64]) -> Option<(Vec<u32>, Vec<i64>)> {
    match weights.len() {
        0 | 1 => return None,
        2 if rows.row(0) != rows.row(1) => return None,
        _ => {}
    }
    let mut first: HashMap<&[u8], usize> = HashMap::with_capacity(weights.len());
    let mut sums: Vec<(u32, i64)> = Vec::with_capacity(weights.len());
    for (i, &weight) in weights.iter().enumerate() {
        let slot = *first.entry(rows.row(i).data()).or_insert(sums.len());
        match sums.get_mut(slot) {
            Some((_, sum)) => *sum += weight,
            None => sums.push((index(i), weight)),
        }
    }
    if sums.len() == weights.len() {
        return None;
    }
    Some(sums.into_iter().filter(|&(_, sum)| sum != 0).unzip())
}

/// A row's index as Arrow's `take` wants it. Batches come from sources and operators of ours, and
/// none of them builds four thousand million rows at once.
pub(crate) fn index(i: usize) -> u32 {
    u32::try_from(i).expect("a batch has fewer than 2^32 rows")
}
