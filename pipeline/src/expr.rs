//! What the engine needs from a planner, as traits: `sql` implements them over DataFusion.

use std::ops::Range;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::delta::{Delta, index};

/// Why an expression has no value: `1/0`, a bad cast, an overflow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExprError(pub String);

impl From<ArrowError> for ExprError {
    fn from(error: ArrowError) -> ExprError {
        ExprError(error.to_string())
    }
}

/// A planned expression over the columns of one batch.
///
/// The value of a row is a function of that row alone: evaluated in another batch it is the same.
pub trait Expr: Send {
    /// Returns one value per row of `batch`.
    ///
    /// # Errors
    /// When any row has no value. The engine then finds out which.
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExprError>;

    /// The column of the input that this expression merely repeats, if it does only that.
    fn as_column(&self) -> Option<usize> {
        None
    }
}

/// An aggregate that the engine can't maintain by itself, computed anew over a group's rows.
pub trait Aggregate: Send {
    /// Returns one value, of [`Aggregate::data_type`], for the rows of a group.
    ///
    /// `arguments` has the aggregate's arguments as columns. Rows come in the order of their
    /// bytes, so that the value is a function of the multiset and of nothing else.
    ///
    /// # Errors
    /// When the group has no value, such as when it overflows.
    fn evaluate(&self, arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef, ExprError>;

    /// The type of the value.
    fn data_type(&self) -> &DataType;
}

/// A whole subplan, recomputed over the whole of its inputs.
pub trait Recompute: Send {
    /// Returns the answer over `inputs`, one batch for each input, rows in the order of their
    /// bytes.
    ///
    /// # Errors
    /// When the subplan has no answer for these inputs.
    fn recompute(&mut self, inputs: &[RecordBatch]) -> Result<RecordBatch, ExprError>;
}

/// Rows withheld because an expression failed for them, as a signed count: a row that goes takes
/// its error with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withheld {
    /// Rows withheld now.
    pub rows: i64,
    /// Why, for the row that failed last.
    pub reason: Option<ExprError>,
}

impl Withheld {
    /// `weight` more rows fail, or fewer where it is negative.
    pub fn add(&mut self, weight: i64, reason: ExprError) {
        self.rows += weight;
        if weight > 0 {
            self.reason = Some(reason);
        }
        if self.rows == 0 {
            self.reason = None;
        }
    }
}

/// Values, and where rows were left out the indices of those that stayed.
pub(crate) type Evaluated = (Vec<ArrayRef>, Option<Vec<u32>>);

/// Evaluates `exprs` over `input`, leaving out rows for which one of them fails; `None` when that
/// is all of them.
///
/// A batch that fails is halved until the rows at fault stand alone.
pub(crate) fn evaluate(exprs: &[Box<dyn Expr>], input: &Delta, withheld: &mut Withheld) -> Result<Option<Evaluated>, ArrowError> {
    let all = |batch: &RecordBatch| exprs.iter().map(|expr| expr.evaluate(batch)).collect::<Result<Vec<_>, _>>();
    if let Ok(values) = all(&input.batch) {
        return Ok(Some((values, None)));
    }
    let mut parts: Vec<Vec<ArrayRef>> = Vec::new();
    let mut kept = Vec::new();
    let all_rows: Range<usize> = 0..input.len();
    let mut ranges = vec![all_rows];
    while let Some(range) = ranges.pop() {
        match all(&input.batch.slice(range.start, range.len())) {
            Ok(values) => {
                kept.extend(range.map(index));
                parts.push(values);
            }
            Err(error) if range.len() <= 1 => {
                range.for_each(|row| withheld.add(input.weights[row], error.clone()));
            }
            Err(_) => {
                let middle = range.start + range.len() / 2;
                ranges.push(middle..range.end);
                ranges.push(range.start..middle);
            }
        }
    }
    if parts.is_empty() {
        return Ok(None);
    }
    let values =
        (0..exprs.len()).map(|i| concat(&parts.iter().map(|part| part[i].as_ref()).collect::<Vec<_>>())).collect::<Result<_, _>>()?;
    Ok(Some((values, Some(kept))))
}
