//! What the engine needs from a planner, as traits: `sql` implements them over DataFusion.

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{concat, take};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::delta::{Delta, index, take_rows};
use crate::fault::Cause;

/// Columns that tell people which row an expression failed at.
const SHOWN_COLUMNS_MAX: usize = 3;
/// Characters of a value that is shown.
const SHOWN_CHARS_MAX: usize = 60;

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
/// A panic counts as an error of the rows at which it happens.
pub trait Expr: Send {
    /// Returns one value per row of `batch`.
    ///
    /// # Errors
    /// When any row has no value. The engine then finds out which.
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExprError>;

    /// The columns whose values it reads: where one of them has failed, so has this.
    fn columns(&self) -> Vec<usize>;

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

/// Rows that a projection withholds because something of them is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withheld {
    /// Rows withheld now.
    pub rows: i64,
    /// Why, for one of them.
    pub reason: Option<ExprError>,
}

/// Runs code that is not ours; a panic in it is an error like another.
pub(crate) fn caught<T>(run: impl FnOnce() -> Result<T, ExprError>) -> Result<T, ExprError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(ExprError(format!("it panicked: {}", text.unwrap_or("without a word"))))
    })
}

/// How a row at which something failed is shown: by its key, or by its first columns.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    columns: Vec<usize>,
}

impl Origin {
    /// Rows are shown by these columns, the first three of them.
    #[must_use]
    pub fn new(columns: impl IntoIterator<Item = usize>) -> Origin {
        Origin { columns: columns.into_iter().take(SHOWN_COLUMNS_MAX).collect() }
    }

    /// Such as `id = 7`.
    pub(crate) fn show(&self, batch: &RecordBatch, row: usize) -> Arc<str> {
        let schema = batch.schema();
        let options = FormatOptions::default().with_null("NULL");
        let shown = self.columns.iter().filter_map(|&column| {
            let value = ArrayFormatter::try_new(batch.column(column).as_ref(), &options).ok()?.value(row).to_string();
            Some(format!("{} = {}", schema.field(column).name(), shorten(&value)))
        });
        shown.collect::<Vec<_>>().join(", ").into()
    }
}

/// At most so many characters as people read.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// An expression with what is needed to run it over rows that may be faulty.
pub(crate) struct Evaluator {
    expr: Box<dyn Expr>,
    columns: BTreeSet<usize>,
}

/// The values of an expression: NULL where it failed, and why.
pub(crate) struct Values {
    pub(crate) array: ArrayRef,
    /// By row; `None` when it failed nowhere.
    pub(crate) failed: Option<Vec<Option<Vec<Cause>>>>,
}

impl Evaluator {
    pub(crate) fn new(expr: Box<dyn Expr>) -> Evaluator {
        Evaluator { columns: expr.columns().into_iter().collect(), expr }
    }

    fn run(&self, batch: &RecordBatch) -> Result<ArrayRef, ExprError> {
        let array = caught(|| self.expr.evaluate(batch))?;
        if array.len() == batch.num_rows() {
            return Ok(array);
        }
        Err(ExprError(format!("{} values for {} rows", array.len(), batch.num_rows())))
    }

    /// The values over `input`. A batch that fails is halved until the rows at fault stand alone.
    pub(crate) fn evaluate(&self, input: &Delta, origin: &Origin) -> Result<Values, ArrowError> {
        let mut failed: Vec<Option<Vec<Cause>>> = Vec::new();
        if let Some(faults) = &input.faults {
            let inherited = |fault: &crate::fault::Fault| self.columns.iter().any(|&column| fault.has_failed(column));
            failed.extend(
                faults
                    .iter()
                    .map(|fault| fault.as_ref().filter(|fault| inherited(fault)).map(|fault| fault.causes.clone())),
            );
        }
        if failed.iter().all(Option::is_none) {
            if let Ok(array) = self.run(&input.batch) {
                return Ok(Values { array, failed: None });
            }
            failed = vec![None; input.len()];
        }
        let asked: Vec<u32> = (0..input.len()).filter(|&row| failed[row].is_none()).map(index).collect();
        let batch = take_rows(&input.batch, &UInt32Array::from(asked.clone()))?;
        let (mut parts, mut answered): (Vec<ArrayRef>, Vec<u32>) = (Vec::new(), Vec::new());
        let all: Range<usize> = 0..asked.len();
        let mut ranges = vec![all];
        while let Some(range) = ranges.pop() {
            if range.is_empty() {
                continue;
            }
            match self.run(&batch.slice(range.start, range.len())) {
                Ok(values) => {
                    answered.extend_from_slice(&asked[range]);
                    parts.push(values);
                }
                Err(error) if range.len() == 1 => {
                    let row = asked[range.start] as usize;
                    let at = origin.show(&input.batch, row);
                    failed[row] = Some(vec![Cause { reason: shorten_reason(&error.0).into(), at }]);
                }
                Err(_) => {
                    let middle = range.start + range.len() / 2;
                    ranges.push(middle..range.end);
                    ranges.push(range.start..middle);
                }
            }
        }
        let array = if parts.is_empty() {
            new_null_array(&self.data_type(input)?, input.len())
        } else {
            let mut places: Vec<Option<u32>> = vec![None; input.len()];
            answered.iter().enumerate().for_each(|(i, &row)| places[row as usize] = Some(index(i)));
            let values = concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
            take(&values, &UInt32Array::from(places), None)?
        };
        Ok(Values { array, failed: Some(failed) })
    }

    /// The type of its values, which over no rows it has as well.
    fn data_type(&self, input: &Delta) -> Result<DataType, ArrowError> {
        let nothing = RecordBatch::new_empty(input.batch.schema());
        let array = self.run(&nothing).map_err(|error| ArrowError::ComputeError(error.0))?;
        Ok(array.data_type().clone())
    }
}

/// A reason may repeat a value of any length.
fn shorten_reason(reason: &str) -> String {
    match reason.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}
