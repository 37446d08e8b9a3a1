//! A batch of rows, each row with a weight.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use hashbrown::HashMap;

use crate::expr::ExprError;
use crate::fault::{Fault, Faults};
use crate::row::{EncodedRows, batch_of};

/// Rows that one delta holds at most, where it is ours to cut: enough that a batch's fixed costs
/// vanish, few enough to stay in the caches.
pub const PIECE_ROWS_MAX: usize = 8192;

/// Bytes of rows that one delta holds at most, far below Arrow's 32-bit offsets. A row that is
/// larger stands alone.
pub const PIECE_BYTES_MAX: usize = 8 << 20;

/// Rows and how many of each came (`> 0`) or went (`< 0`). An update is `-1 old, +1 new`.
///
/// A delta is a multiset: the order of its rows means nothing, and a row may stand in it several
/// times until it is consolidated.
///
/// ```
/// use std::sync::Arc;
/// use arrow::array::{ArrayRef, RecordBatch, StringArray};
/// use pipeline::Delta;
///
/// // UPDATE customers SET name = 'eve' WHERE name = 'ann'
/// let names: ArrayRef = Arc::new(StringArray::from(vec!["ann", "eve"]));
/// let update = Delta::new(RecordBatch::try_from_iter([("name", names)])?, vec![-1, 1]);
/// assert_eq!(update.take(&[1])?.weights, [1]);
/// # Ok::<(), arrow::error::ArrowError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Delta {
    /// The rows.
    pub batch: RecordBatch,
    /// One weight per row, none of them zero.
    pub weights: Vec<i64>,
    /// What is not known of the rows; `None`, which is nearly always, when all is known of all.
    pub faults: Option<Faults>,
    /// Whether no row stands in it twice, for sure: then nobody needs to look.
    pub is_net: bool,
}

impl Delta {
    /// Rows with their weights.
    ///
    /// # Panics
    /// When there are not as many weights as rows.
    #[must_use]
    pub fn new(batch: RecordBatch, weights: Vec<i64>) -> Delta {
        assert_eq!(batch.num_rows(), weights.len(), "a weight per row");
        Delta { is_net: weights.len() < 2, batch, weights, faults: None }
    }

    /// Rows that all came once.
    #[must_use]
    pub fn inserts(batch: RecordBatch) -> Delta {
        let weights = vec![1; batch.num_rows()];
        Delta::new(batch, weights)
    }

    /// The same with faults, if any row has one.
    ///
    /// # Panics
    /// When there are not as many as rows.
    #[must_use]
    pub fn with_faults(mut self, faults: Option<Faults>) -> Delta {
        self.faults = faults.filter(|faults| faults.iter().any(Option::is_some));
        assert!(
            self.faults.as_ref().is_none_or(|faults| faults.len() == self.weights.len()),
            "a fault or none per row"
        );
        self
    }

    /// The same, known to hold no row twice.
    #[must_use]
    pub fn net(mut self) -> Delta {
        self.is_net = true;
        self
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

    /// What is not known of row `i`.
    #[must_use]
    pub fn fault(&self, i: usize) -> Option<&Arc<Fault>> {
        self.faults.as_ref().and_then(|faults| faults[i].as_ref())
    }

    /// The rows at `indices`, in that order.
    ///
    /// # Errors
    /// When an index is out of range.
    pub fn take(&self, indices: &[u32]) -> Result<Delta, ArrowError> {
        let batch = take_rows(&self.batch, &UInt32Array::from(indices.to_vec()))?;
        let weights = indices.iter().map(|&i| self.weights[i as usize]).collect();
        let faults = self.faults.as_ref().map(|faults| indices.iter().map(|&i| faults[i as usize].clone()).collect());
        Ok(Delta { is_net: self.is_net, ..Delta::new(batch, weights) }.with_faults(faults))
    }

    /// Some of the columns, under other names: nothing is copied.
    ///
    /// # Errors
    /// When `schema` does not have their types.
    pub fn view(&self, schema: &SchemaRef, columns: &[usize]) -> Result<Delta, ArrowError> {
        let arrays = columns.iter().map(|&column| Arc::clone(self.batch.column(column))).collect();
        let batch = batch_of(schema, arrays, self.len())?;
        // With fewer columns two rows may have become one.
        let is_net = self.is_net && (0..self.batch.num_columns()).all(|column| columns.contains(&column));
        Ok(Delta { is_net: is_net || self.len() < 2, ..Delta::new(batch, self.weights.clone()) }
            .with_faults(faults_of_view(self.faults.as_ref(), columns)))
    }
}

/// The faults of rows of which only some columns are kept.
pub(crate) fn faults_of_view(faults: Option<&Faults>, columns: &[usize]) -> Option<Faults> {
    let of_row = |fault: &Option<Arc<Fault>>| fault.as_ref()?.of_view(columns.iter().copied()).map(Arc::new);
    faults.map(|faults| faults.iter().map(of_row).collect())
}

/// Cuts rows of these sizes in bytes into pieces of bounded rows and bytes.
pub fn pieces(sizes: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let (mut start, mut bytes, mut end) = (0, 0, 0);
    for size in sizes {
        if end > start && (end - start == PIECE_ROWS_MAX || bytes + size > PIECE_BYTES_MAX) {
            pieces.push(start..end);
            (start, bytes) = (end, 0);
        }
        bytes += size;
        end += 1;
    }
    if end > start {
        pieces.push(start..end);
    }
    pieces
}

/// The rows of a batch at `indices`; of a batch without columns too, which Arrow's own kernel
/// refuses.
pub(crate) fn take_rows(batch: &RecordBatch, indices: &UInt32Array) -> Result<RecordBatch, ArrowError> {
    if batch.num_columns() == 0 {
        return batch_of(batch.schema_ref(), Vec::new(), indices.len());
    }
    take_record_batch(batch, indices)
}

/// Copies of rows that are written out for a recomputation, beside the first of each.
const COPIES_MAX: i64 = 1 << 25;

/// The index of each row as often as the row counts, for `take`: `None` where each counts once. What
/// is recomputed knows nothing of counts, so it needs every copy; a row may count a million million
/// times, and memory would be gone long before.
pub(crate) fn repeated<'a>(
    counts: impl ExactSizeIterator<Item = &'a i64> + Clone,
) -> Result<Option<UInt32Array>, ExprError> {
    if copies(counts.clone())? == 0 {
        return Ok(None);
    }
    let each = counts.enumerate();
    let all = each.flat_map(|(i, &count)| std::iter::repeat_n(index(i), usize::try_from(count).unwrap_or(0)));
    Ok(Some(all.collect()))
}

/// How many copies there are of rows that count so often, beside the first of each.
fn copies<'a>(counts: impl ExactSizeIterator<Item = &'a i64>) -> Result<i64, ExprError> {
    let rows = i64::try_from(counts.len()).unwrap_or(i64::MAX);
    let all = counts.fold(0_i64, |all, count| all.saturating_add(*count));
    let copies = all - rows;
    if copies > COPIES_MAX {
        return Err(ExprError(format!(
            "{rows} rows that can be told apart stand {all} times, and only {COPIES_MAX} copies are written out to \
             recompute an answer: use DISTINCT or GROUP BY before it, or join on a key"
        )));
    }
    Ok(copies)
}

/// Adds to a count of rows: of equal ones, of those under a key, of those in order.
///
/// Rows that are told apart are fewer than 2^32, so only a join of rows that stand very often makes
/// counts of which some no longer fit; it refuses a pair that does not. Of those that do the sum may
/// not. A sum that has wrapped would be an answer like any other, so the program stops. (What an
/// operator only looks at while a step runs, held and changed together, it adds once more when the
/// step is over: that is before anything of the step is published, and soon enough to stop.)
///
/// # Panics
/// When the count is more than an `i64` holds.
pub(crate) fn add_count(count: &mut i64, by: i64) {
    #[cold]
    fn too_many(count: i64, by: i64) -> ! {
        panic!("{TOO_MANY}: {count} and {by} more ({TOO_MANY_HINT})")
    }
    *count = count.checked_add(by).unwrap_or_else(|| too_many(*count, by));
}

/// The sum of counts of rows, as [`add_count`].
pub(crate) fn total<'a>(counts: impl IntoIterator<Item = &'a i64>) -> i64 {
    let mut total = 0;
    counts.into_iter().for_each(|count| add_count(&mut total, *count));
    total
}

/// What is wrong where a count does not fit, and what to write.
pub(crate) const TOO_MANY: &str = "rows stand more often than can be counted";
pub(crate) const TOO_MANY_HINT: &str =
    "a join of rows that stand very often multiplies them: join on a key, or GROUP BY before the join";

/// The rows that are left when equal rows are added up: their indices (the first of each) and
/// net weights. `None` when every row stands alone already, which is the common case.
pub(crate) fn net(rows: &EncodedRows, weights: &[i64]) -> Option<(Vec<u32>, Vec<i64>)> {
    match weights.len() {
        0 | 1 => return None,
        2 if rows.row(0) != rows.row(1) => return None,
        _ => {}
    }
    let mut first: HashMap<&[u8], usize> = HashMap::with_capacity(weights.len());
    let mut sums: Vec<(u32, i64)> = Vec::with_capacity(weights.len());
    for (i, &weight) in weights.iter().enumerate() {
        let slot = *first.entry(rows.row(i)).or_insert(sums.len());
        match sums.get_mut(slot) {
            Some((_, sum)) => add_count(sum, weight),
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};

    #[test]
    fn pieces_are_bounded_and_whole() {
        assert!(pieces(std::iter::empty()).is_empty());
        assert_eq!(pieces([1, 2, 3].into_iter()).len(), 1);
        let large = PIECE_BYTES_MAX;
        assert_eq!(large, 8 * 1024 * 1024);
        assert_eq!(pieces([large * 2, 1].into_iter()), [0..1, 1..2]);
        assert_eq!(pieces([1, large, large * 3, 1, 1].into_iter()), [0..1, 1..2, 2..3, 3..5]);
        assert_eq!(pieces([large / 2; 5].into_iter()), [0..2, 2..4, 4..5]);
        assert_eq!(
            pieces([1; PIECE_ROWS_MAX * 2 + 1].into_iter()),
            [0..PIECE_ROWS_MAX, PIECE_ROWS_MAX..PIECE_ROWS_MAX * 2, PIECE_ROWS_MAX * 2..PIECE_ROWS_MAX * 2 + 1]
        );
    }

    #[test]
    fn equal_rows_are_added_up() {
        let net_of = |rows: &[(&str, i64)]| {
            let mut encoded = EncodedRows::default();
            rows.iter().for_each(|(row, _)| encoded.push(row.as_bytes()));
            net(&encoded, &rows.iter().map(|(_, weight)| *weight).collect::<Vec<_>>())
        };
        for stand_alone in [&[][..], &[("a", 1)], &[("a", 1), ("b", -1)], &[("a", 1), ("b", 2), ("c", 1)]] {
            assert_eq!(net_of(stand_alone), None, "{stand_alone:?}");
        }
        assert_eq!(net_of(&[("a", 1), ("a", 2)]), Some((vec![0], vec![3])));
        assert_eq!(net_of(&[("a", 1), ("a", -1)]), Some((vec![], vec![])));
        assert_eq!(net_of(&[("a", 1), ("b", 1), ("a", -1), ("c", 1), ("b", 1)]), Some((vec![1, 3], vec![2, 1])));
    }

    /// Copies are counted over all rows together, without the first of each, which is there anyway.
    #[test]
    fn copies_are_bounded() {
        for (counts, expected) in [
            (&[][..], Some(0)),
            (&[1, 1, 1], Some(0)),
            (&[1, 3, 2], Some(3)),
            (&[COPIES_MAX + 1], Some(COPIES_MAX)),
            (&[COPIES_MAX, 1, 2], Some(COPIES_MAX)),
            (&[COPIES_MAX, 1, 3], None),
            (&[i64::MAX, i64::MAX], None),
        ] {
            assert_eq!(copies(counts.iter()).ok(), expected, "{counts:?}");
        }
        let each = repeated([1, 3, 2].iter()).expect("a few copies").expect("copies");
        assert_eq!(each.values(), &[0, 1, 1, 1, 2, 2]);
        assert!(repeated([1, 1].iter()).expect("none").is_none());
    }

    /// What is known to hold no row twice need not be looked through; with a column fewer it is not
    /// known any more.
    #[test]
    fn a_delta_stays_net_while_its_rows_stay_apart() {
        let (one, two) = (Arc::new(Int64Array::from(vec![1, 2])), Arc::new(Int64Array::from(vec![5, 5])));
        let columns: [(&str, ArrayRef); 2] = [("a", one), ("b", two)];
        let rows = Delta::inserts(RecordBatch::try_from_iter(columns).expect("two rows"));
        let view = |of: &Delta, columns: &[usize]| {
            let schema = Arc::new(of.batch.schema().project(columns).expect("columns"));
            of.view(&schema, columns).expect("a view").is_net
        };
        assert!(!rows.is_net && !view(&rows, &[0, 1]) && !rows.take(&[1, 0]).expect("rows").is_net);
        let rows = rows.net();
        assert!(view(&rows, &[1, 0]) && !view(&rows, &[1]) && rows.take(&[1, 0]).expect("rows").is_net);
        let row = rows.take(&[1]).expect("a row");
        assert!(view(&row, &[1]), "one row stands alone whatever is seen of it");
    }
}
