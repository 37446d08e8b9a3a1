//! Rows for which a predicate is true: linear, so the filter of the changes is the change.
//!
//! Where the predicate has no value, whether the row is there is not known: it goes on in doubt.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::error::ArrowError;

use crate::delta::{Delta, index};
use crate::expr::{Evaluator, Expr, Origin};
use crate::fault::Fault;
use crate::operator::{Failure, Operator, View, When};
use crate::program::Step;

/// `WHERE predicate`. NULL is not true.
pub struct Filter {
    view: View,
    predicate: Evaluator,
    origin: Origin,
}

impl Filter {
    /// A filter of some of a node's columns by a Boolean expression over them.
    #[must_use]
    pub fn new(view: View, predicate: Box<dyn Expr>, origin: Origin) -> Filter {
        Filter { view, predicate: Evaluator::new(predicate), origin }
    }

    fn apply(&self, delta: &Delta) -> Result<Option<Delta>, ArrowError> {
        let input = self.view.of(delta)?;
        let values = self.predicate.evaluate(&input, &self.origin)?;
        let mask = values
            .array
            .as_boolean_opt()
            .ok_or_else(|| ArrowError::ComputeError("a predicate is Boolean".to_owned()))?;
        let Some(failed) = &values.failed else {
            if mask.null_count() == 0 && mask.true_count() == mask.len() {
                return Ok(Some(input));
            }
            let kept: Vec<u32> =
                (0..mask.len()).filter(|&row| mask.is_valid(row) && mask.value(row)).map(index).collect();
            return if kept.is_empty() { Ok(None) } else { input.take(&kept).map(Some) };
        };
        let kept: Vec<u32> = (0..mask.len())
            .filter(|&row| failed[row].is_some() || (mask.is_valid(row) && mask.value(row)))
            .map(index)
            .collect();
        let mut out = input.take(&kept)?;
        let faults = kept.iter().map(|&row| {
            let held = input.fault(row as usize);
            let Some(causes) = &failed[row as usize] else { return held.cloned() };
            let mut fault = Fault { doubt: true, failed: Vec::new(), causes: causes.clone() };
            held.into_iter().for_each(|held| fault.add(held));
            Some(Arc::new(fault))
        });
        out = out.with_faults(Some(faults.collect()));
        Ok((!out.is_empty()).then_some(out))
    }
}

impl Operator for Filter {
    fn when(&self) -> When {
        When::AtOnce
    }

    fn accept(&mut self, _: usize, delta: &Delta, step: &mut Step<'_>) -> Result<(), Failure> {
        match self.apply(delta)? {
            Some(out) => step.emit(out),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{RowFn, check};
    use expect_test::expect;

    #[test]
    fn rows_come_and_go_as_the_predicate_turns() {
        let positive = || RowFn::new(&[2], |row| Ok(row[0].map(|n| i64::from(n > 0)))).boolean();
        check(
            |kit| {
                let node = kit.dataflow.filter(
                    "n > 0".to_owned(),
                    &kit.dataflow.all_of(kit.o),
                    Box::new(positive()),
                    "n > 0",
                    &[0],
                );
                kit.all(node)
            },
            "+o(1, 1, 5) +o(2, 1, 0) +o(3, 1, _); ~o(1, 1, -5) ~o(2, 1, 7); ~o(2, 2, 7); -o(2) -o(3)",
            &expect![[r#"
                1: +(1, 1, 5)
                2: -(1, 1, 5) +(2, 1, 7)
                3: -(2, 1, 7) +(2, 2, 7)
                4: -(2, 2, 7)
            "#]],
        );
    }

    /// A predicate without a value leaves its row in doubt; the row heals with the value.
    #[test]
    fn a_row_whose_predicate_fails_is_in_doubt() {
        check(
            |kit| {
                let node = kit.where_quotient();
                kit.all(node)
            },
            "+o(1, 1, 5) +o(2, 1, 0) +o(3, 1, 50) +o(4, 1, _); ~o(1, 1, 0); ~o(2, 1, 2) -o(1)",
            &expect![[r#"
                1: +(1, 1, 5)
                   ? in doubt: id = 2, c = 1, n = 0 [division by zero (id = 2)]
                2: -(1, 1, 5)
                   ? in doubt: id = 1, c = 1, n = 0 [division by zero (id = 1)]
                   ? in doubt: id = 2, c = 1, n = 0 [division by zero (id = 2)]
                3: +(2, 1, 2)
            "#]],
        );
    }
}
