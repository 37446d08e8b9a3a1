//! Rows for which a predicate is true: linear, so the filter of the changes is the change.

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::{filter_record_batch, prep_null_mask_filter};
use arrow::error::ArrowError;

use crate::delta::Delta;
use crate::expr::{Expr, evaluate};
use crate::operator::{Context, Operator};

/// `WHERE predicate`. NULL is not true.
pub struct Filter {
    predicate: [Box<dyn Expr>; 1],
}

impl Filter {
    /// A filter by a Boolean expression over the input's columns.
    #[must_use]
    pub fn new(predicate: Box<dyn Expr>) -> Filter {
        Filter { predicate: [predicate] }
    }
}

impl Operator for Filter {
    fn step(&mut self, inputs: &[Option<&Delta>], context: &mut Context<'_>) -> Result<Option<Delta>, ArrowError> {
        let Some(input) = inputs[0] else { return Ok(None) };
        let Some((values, kept)) = evaluate(&self.predicate, input, context.withheld)? else { return Ok(None) };
        let mask = values[0].as_boolean_opt().ok_or_else(|| ArrowError::ComputeError("a predicate is Boolean".to_owned()))?;
        match kept {
            None => select(input, mask),
            Some(kept) => select(&input.take(&kept)?, mask),
        }
    }
}

fn select(input: &Delta, mask: &BooleanArray) -> Result<Option<Delta>, ArrowError> {
    let trues = mask.true_count();
    if trues == 0 {
        return Ok(None);
    }
    if trues == mask.len() {
        return Ok(Some(input.clone()));
    }
    let mask = if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() };
    let weights = mask.values().set_indices().map(|row| input.weights[row]).collect();
    Ok(Some(Delta::new(filter_record_batch(&input.batch, &mask)?, weights)))
}
