//! Everything else: recompute the subplan over the whole of its inputs and compare.
//!
//! The cost is that of the subplan, whatever the size of the change; `explain` says so. What it
//! buys is that any SELECT works from the first day. Inputs are held in the order of their bytes,
//! so an answer that depends on the order of rows (LIMIT without ORDER BY, `array_agg`) does not
//! change unless the rows do.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::delta::{Delta, repeated, take_rows};
use crate::expr::Recompute;
use crate::operator::{Context, Operator};
use crate::row::{RowBytes, RowCodec};

/// Rows in the order of their bytes, with counts.
struct Ordered {
    schema: SchemaRef,
    codec: RowCodec,
    rows: BTreeMap<RowBytes, i64>,
}

impl Ordered {
    fn new(schema: SchemaRef) -> Result<Ordered, ArrowError> {
        Ok(Ordered { codec: RowCodec::whole(&schema)?, schema, rows: BTreeMap::new() })
    }

    fn apply(&mut self, delta: &Delta) -> Result<(), ArrowError> {
        let rows = self.codec.encode(&delta.batch)?;
        for (i, &weight) in delta.weights.iter().enumerate() {
            add(&mut self.rows, rows.row(i).data(), weight);
        }
        Ok(())
    }

    /// All rows, each as often as it counts.
    fn batch(&self) -> Result<RecordBatch, ArrowError> {
        let batch = self.codec.decode_batch(&self.schema, self.rows.keys().map(|row| &**row), self.rows.len())?;
        if self.rows.values().all(|&count| count == 1) {
            return Ok(batch);
        }
        take_rows(&batch, &repeated(self.rows.values()))
    }
}

fn add(rows: &mut BTreeMap<RowBytes, i64>, row: &[u8], weight: i64) {
    let count = rows.entry(row.into()).or_default();
    *count += weight;
    if *count == 0 {
        rows.remove(row);
    }
}

/// A subplan of the class *whole*.
pub struct Whole {
    inputs: Vec<Ordered>,
    output: Ordered,
    subplan: Box<dyn Recompute>,
    failing: bool,
}

impl Whole {
    /// A subplan over inputs of these schemas.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn new(inputs: &[SchemaRef], output: SchemaRef, subplan: Box<dyn Recompute>) -> Result<Whole, ArrowError> {
        let inputs = inputs.iter().map(|schema| Ordered::new(schema.clone())).collect::<Result<_, _>>()?;
        Ok(Whole { inputs, output: Ordered::new(output)?, subplan, failing: false })
    }
}

impl Operator for Whole {
    fn step(&mut self, inputs: &[Option<&Delta>], context: &mut Context<'_>) -> Result<Option<Delta>, ArrowError> {
        for (held, delta) in self.inputs.iter_mut().zip(inputs) {
            if let Some(delta) = delta {
                held.apply(delta)?;
            }
        }
        let batches = self.inputs.iter().map(Ordered::batch).collect::<Result<Vec<_>, _>>()?;
        let mut answer: BTreeMap<RowBytes, i64> = BTreeMap::new();
        if std::mem::take(&mut self.failing) {
            context.withheld.rows -= 1;
            context.withheld.reason = None;
        }
        match self.subplan.recompute(&batches) {
            Ok(batch) => {
                let rows = self.output.codec.encode(&batch)?;
                (0..batch.num_rows()).for_each(|i| add(&mut answer, rows.row(i).data(), 1));
            }
            // Which row is at fault can't be told here, so the whole answer is withheld until the
            // inputs change to something that has one.
            Err(error) => {
                context.withheld.add(1, error);
                self.failing = true;
            }
        }
        let mut changes = std::mem::take(&mut self.output.rows);
        changes.values_mut().for_each(|count| *count = -*count);
        answer.iter().for_each(|(row, &count)| add(&mut changes, row, count));
        self.output.rows = answer;
        if changes.is_empty() {
            return Ok(None);
        }
        let batch = self.output.codec.decode_batch(&self.output.schema, changes.keys().map(|row| &**row), changes.len())?;
        Ok(Some(Delta::new(batch, changes.into_values().collect())))
    }
}
