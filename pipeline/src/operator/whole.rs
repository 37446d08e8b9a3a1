//! Everything else: recompute the subplan over the whole of its inputs and compare, once an epoch.
//!
//! The cost is that of the subplan, whatever the size of the change; `explain` says so. What it
//! buys is that any SELECT works from the first day. Rows come in the order of their bytes, so an
//! answer that depends on the order of rows (LIMIT without ORDER BY, `array_agg`) does not change
//! unless the rows do.
//!
//! Which row is at fault can't be told of a subplan that fails, nor what a row that is not known
//! would change in its answer: then nothing of the answer is known, and one row in doubt stands for
//! all of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::arrangement::Arrangement;
use crate::delta::{Delta, pieces, repeated, take_rows};
use crate::expr::{ExprError, Recompute, caught};
use crate::fault::{Cause, Fault};
use crate::operator::{Failure, Operator, View, When};
use crate::program::Step;
use crate::row::{RowCodec, batch_of};
use crate::state::{Handle, Keyed, State};

/// A subplan of the class *whole*.
pub struct Whole {
    inputs: Vec<(Handle<Arrangement>, View)>,
    schema: SchemaRef,
    codec: RowCodec,
    /// The answer of before: rows, with counts.
    answer: Handle<Keyed<i64>>,
    subplan: Box<dyn Recompute>,
    changes: BTreeMap<Vec<u8>, i64>,
}

impl Whole {
    /// A subplan over some columns of rows that are kept.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn new(
        inputs: Vec<(Handle<Arrangement>, View)>,
        schema: SchemaRef,
        subplan: Box<dyn Recompute>,
        answer: Handle<Keyed<i64>>,
    ) -> Result<Whole, ArrowError> {
        Ok(Whole { inputs, codec: RowCodec::whole(&schema)?, schema, answer, subplan, changes: BTreeMap::new() })
    }

    fn input(state: &State, rows: Handle<Arrangement>, view: &View) -> Result<RecordBatch, ExprError> {
        let rows = state.get(rows);
        let columns: Vec<usize> = (0..view.schema.fields().len()).map(|column| view.place(column)).collect();
        // By the bytes of the columns that the subplan sees: the others may not decide its order.
        let mut sorted: Vec<(Vec<u8>, i64)> = Vec::with_capacity(rows.len());
        let codec = RowCodec::whole(&view.schema)?;
        for (row, count) in rows.rows() {
            let mut bytes = Vec::new();
            rows.codec().project(row, &columns, &codec, &mut bytes);
            sorted.push((bytes, count));
        }
        sorted.sort_unstable();
        let bytes: Vec<&[u8]> = sorted.iter().map(|(row, _)| &row[..]).collect();
        let batch = batch_of(&view.schema, codec.decode(&bytes)?, bytes.len())?;
        Ok(match repeated(sorted.iter().map(|(_, count)| count))? {
            None => batch,
            Some(copies) => take_rows(&batch, &copies)?,
        })
    }

    /// The answer over the inputs as they are: bytes of rows, with counts.
    fn recompute(&mut self, state: &State) -> Result<BTreeMap<Vec<u8>, i64>, ArrowError> {
        let causes = self.causes(state);
        let mut answer = BTreeMap::new();
        let failed = if causes.is_empty() {
            let of_input = |(rows, view): &(Handle<Arrangement>, View)| Whole::input(state, *rows, view);
            // More rows or text than a batch can hold is no mistake of ours, but more than can be answered for.
            let inputs = self.inputs.iter().map(of_input).collect::<Result<Vec<_>, _>>();
            let answered = inputs.and_then(|inputs| caught(|| self.subplan.recompute(&inputs)));
            match answered {
                Ok(batch) => {
                    let rows = self.codec.encode(&batch)?;
                    rows.iter().for_each(|row| *answer.entry(row.to_vec()).or_default() += 1);
                    None
                }
                Err(error) => Some(vec![Cause { reason: error.0.into(), at: "".into() }]),
            }
        } else {
            Some(causes)
        };
        if let Some(causes) = failed {
            let fault = Fault::anything(self.schema.fields().len(), causes);
            let nothing = self.codec.decode_batch(&self.schema, &[&*self.codec.null_row()])?;
            let row = self.codec.encode_faulty(&nothing, Some(&vec![Some(Arc::new(fault))]))?;
            answer.insert(row.row(0).to_vec(), 1);
        }
        Ok(answer)
    }

    /// Why the inputs are not known, where they are not.
    fn causes(&self, state: &State) -> Vec<Cause> {
        let mut causes = Vec::new();
        for (rows, view) in &self.inputs {
            let rows = state.get(*rows);
            if !rows.has_faults() {
                continue;
            }
            let columns: Vec<usize> = (0..view.schema.fields().len()).map(|column| view.place(column)).collect();
            for (row, _) in rows.rows() {
                if let Some(fault) = rows.codec().fault(row).and_then(|fault| fault.of_view(columns.iter().copied())) {
                    causes.extend(fault.causes);
                }
            }
        }
        causes.sort_unstable();
        causes.dedup();
        causes
    }

    fn emit<'a>(&self, rows: impl Iterator<Item = (&'a [u8], i64)>, step: &mut Step<'_>) -> Result<(), Failure> {
        let rows: Vec<(&[u8], i64)> = rows.collect();
        for piece in pieces(rows.iter().map(|(row, _)| row.len())) {
            let rows = &rows[piece];
            let bytes: Vec<&[u8]> = rows.iter().map(|(row, _)| *row).collect();
            let batch = self.codec.decode_batch(&self.schema, &bytes)?;
            let weights = rows.iter().map(|(_, weight)| *weight).collect();
            step.emit(Delta::new(batch, weights).with_faults(self.codec.faults(&bytes)).net())?;
        }
        Ok(())
    }
}

impl Operator for Whole {
    fn when(&self) -> When {
        When::EndOfEpoch
    }

    fn accept(&mut self, _: usize, _: &Delta, _: &mut Step<'_>) -> Result<(), Failure> {
        Ok(()) // it reads the rows that its inputs keep
    }

    fn finish(&mut self, step: &mut Step<'_>) -> Result<(), Failure> {
        let mut changes = self.recompute(step.state())?;
        let held = step.state().get(self.answer);
        for id in held.ids() {
            *changes.entry(held.key(id).to_vec()).or_default() -= held.value(id);
        }
        changes.retain(|_, weight| *weight != 0);
        let emitted = self.emit(changes.iter().map(|(row, weight)| (&row[..], *weight)), step);
        self.changes = changes;
        emitted
    }

    fn fold(&mut self, state: &mut State) {
        let held = state.get_mut(self.answer);
        for (row, weight) in std::mem::take(&mut self.changes) {
            held.add(&row, weight);
        }
    }

    fn image(&mut self, step: &mut Step<'_>) -> Result<(), Failure> {
        let held = step.state().get(self.answer);
        let rows: Vec<(Vec<u8>, i64)> = held.ids().map(|id| (held.key(id).to_vec(), *held.value(id))).collect();
        self.emit(rows.iter().map(|(row, weight)| (&row[..], *weight)), step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Input;
    use crate::testing::{INT, Kit, check, schema};
    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use expect_test::expect;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// How many rows there are, and the sum of a column of theirs; it counts how often it is asked.
    #[derive(Default)]
    struct Count(Arc<AtomicUsize>);

    impl Recompute for Count {
        fn recompute(&mut self, inputs: &[RecordBatch]) -> Result<RecordBatch, ExprError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let column = inputs[0].column(0).as_primitive::<Int64Type>();
            if column.iter().flatten().any(|n| n == 13) {
                return Err(ExprError("unlucky".to_owned()));
            }
            let sum: i64 = column.iter().flatten().sum();
            let one = |n: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![n])) };
            let rows = i64::try_from(column.len()).unwrap_or_default();
            RecordBatch::try_new(schema(&[("n", INT), ("sum", INT)]), vec![one(rows), one(sum)])
                .map_err(ExprError::from)
        }
    }

    fn counted(kit: &mut Kit, inputs: &[Input], count: Count) -> Input {
        let schema = schema(&[("n", INT), ("sum", INT)]);
        let node = kit.dataflow.whole("count".to_owned(), inputs, schema, Box::new(count), "count");
        kit.all(node)
    }

    #[test]
    fn the_answer_follows_its_inputs() {
        check(
            |kit| {
                let inputs = [kit.some(kit.o, &[2])];
                counted(kit, &inputs, Count::default())
            },
            "+o(1, 1, 5) | +o(2, 1, 5) | +o(3, 1, 1); ~o(1, 2, 5); ~o(1, 2, 13); ~o(1, 2, 6); +c(1, ann)",
            &expect![[r#"
                0: +(0, 0)
                1: -(0, 0) +(3, 11)
                3: -(3, 11)
                   ? in doubt: n = ?, sum = ? [unlucky]
                4: +(3, 12)
            "#]],
        );
    }

    #[test]
    fn it_is_recomputed_once_an_epoch() {
        let asked = Arc::new(AtomicUsize::new(0));
        let mut kit = Kit::new();
        let inputs = [kit.some(kit.o, &[2])];
        let input = counted(&mut kit, &inputs, Count(Arc::clone(&asked)));
        kit.dataflow.serve("p", &input, crate::projection::ProjectionKey::WholeRow);
        let mut program = crate::Program::new(kit.dataflow).expect("a program");
        assert_eq!(asked.load(Ordering::Relaxed), 0, "not before an epoch ends");
        let mut epoch = |text: &str| {
            for step in text.split('|') {
                program.apply(&crate::testing::changes(&program, step)).expect("a step");
            }
            program.publish().expect("an epoch");
            asked.swap(0, Ordering::Relaxed)
        };
        assert_eq!(epoch(""), 1, "over nothing");
        assert_eq!(epoch("+o(1, 1, 5) | +o(2, 1, 5) | +o(3, 1, 1)"), 1, "three steps");
        assert_eq!(epoch("~o(1, 2, 5)"), 1, "its input keeps the whole row");
        assert_eq!(epoch("+c(1, ann)"), 0, "it reads no customer");
    }

    /// Rows that stand several times are counted as often.
    #[test]
    fn rows_that_stand_several_times() {
        check(
            |kit| {
                let inputs = [kit.some(kit.l, &[0])];
                counted(kit, &inputs, Count::default())
            },
            "+l(5, x) +l(5, x); +l(5, y) +l(6, x); -l(5, x)",
            &expect![[r#"
                0: +(0, 0)
                1: -(0, 0) +(2, 10)
                2: -(2, 10) +(4, 21)
                3: +(3, 16) -(4, 21)
            "#]],
        );
    }

    /// What lies below it and is not known leaves the whole answer in doubt.
    #[test]
    fn a_fault_below_it() {
        check(
            |kit| {
                let node = kit.with_quotient();
                let inputs = [kit.some(node, &[3])];
                counted(kit, &inputs, Count::default())
            },
            "+o(1, 1, 5); +o(2, 1, 0); -o(2)",
            &expect![[r#"
                0: +(0, 0)
                1: -(0, 0) +(1, 2)
                2: -(1, 2)
                   ? in doubt: n = ?, sum = ? [division by zero (id = 2)]
                3: +(1, 2)
            "#]],
        );
    }

    /// A row that stands 8,100,000,000 times was written out as often: memory was gone before the
    /// subplan was asked. Its answer is not known, with the reason, until the rows are fewer.
    #[test]
    fn a_row_that_stands_too_often_to_be_written_out() {
        check(
            |kit| {
                let mut node = kit.l;
                for _ in 0..2 {
                    let side = kit.dataflow.arrange(node, vec![0], crate::arrangement::NullKeys::NeverMatch);
                    let (columns, schema) = (vec![(crate::JoinSide::Left, 0)], schema(&[("a", INT)]));
                    let kind = crate::JoinKind::Inner;
                    node = kit.dataflow.join("with itself".to_owned(), kind, (side, side), columns, schema);
                }
                let inputs = [kit.all(node)];
                counted(kit, &inputs, Count::default())
            },
            &format!("{}; {}", "+l(1, x)".repeat(300), "-l(1, x)".repeat(295)),
            &expect![[r#"
                0: +(0, 0)
                1: -(0, 0)
                   ? in doubt: n = ?, sum = ? [1 rows that can be told apart stand 8100000000 times, and only 33554432 copies are written out to recompute an answer: use DISTINCT or GROUP BY before it, or join on a key]
                2: +(625, 625)
            "#]],
        );
    }
}
