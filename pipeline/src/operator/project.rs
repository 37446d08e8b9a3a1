//! Computed columns: linear, row by row.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::delta::Delta;
use crate::expr::{Expr, evaluate};
use crate::operator::{Context, Operator};
use crate::row::batch_of;

/// `SELECT exprs`.
pub struct Project {
    schema: SchemaRef,
    exprs: Vec<Box<dyn Expr>>,
    /// Set when every expression only repeats a column: nothing is evaluated, nothing can fail.
    columns: Option<Vec<usize>>,
}

impl Project {
    /// One output column of `schema` per expression.
    #[must_use]
    pub fn new(schema: SchemaRef, exprs: Vec<Box<dyn Expr>>) -> Project {
        let columns = exprs.iter().map(|expr| expr.as_column()).collect();
        Project { schema, exprs, columns }
    }
}

impl Operator for Project {
    fn step(&mut self, inputs: &[Option<&Delta>], context: &mut Context<'_>) -> Result<Option<Delta>, ArrowError> {
        let Some(input) = inputs[0] else { return Ok(None) };
        if let Some(columns) = &self.columns {
            let values = columns.iter().map(|&column| Arc::clone(input.batch.column(column))).collect();
            let batch = batch_of(&self.schema, values, input.len())?;
            return Ok(Some(Delta::new(batch, input.weights.clone())));
        }
        let Some((values, kept)) = evaluate(&self.exprs, input, context.withheld)? else { return Ok(None) };
        let weights: Vec<i64> = match kept {
            None => input.weights.clone(),
            Some(kept) => kept.iter().map(|&row| input.weights[row as usize]).collect(),
        };
        let batch = batch_of(&self.schema, values, weights.len())?;
        Ok(Some(Delta::new(batch, weights)))
    }
}
