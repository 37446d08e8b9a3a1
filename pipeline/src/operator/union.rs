//! `UNION ALL`: the changes of all inputs.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::delta::Delta;
use crate::operator::{Context, Operator};
use crate::row::batch_of;

/// All rows of all inputs.
pub struct Union {
    schema: SchemaRef,
}

impl Union {
    /// The inputs have the types of `schema`, whatever their columns are called.
    #[must_use]
    pub fn new(schema: SchemaRef) -> Union {
        Union { schema }
    }
}

impl Operator for Union {
    fn step(&mut self, inputs: &[Option<&Delta>], _: &mut Context<'_>) -> Result<Option<Delta>, ArrowError> {
        let parts = inputs
            .iter()
            .flatten()
            .map(|input| {
                let columns = input.batch.columns().iter().map(Arc::clone).collect();
                Ok(Delta::new(batch_of(&self.schema, columns, input.len())?, input.weights.clone()))
            })
            .collect::<Result<_, ArrowError>>()?;
        Delta::concat(parts)
    }
}
