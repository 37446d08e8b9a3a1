//! Computed columns: linear, row by row. A column that fails is not known; the row stays.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::delta::Delta;
use crate::expr::{Evaluator, Expr, Origin, Values};
use crate::fault::{Fault, Faults};
use crate::operator::{Failure, Operator, View, When};
use crate::program::Step;
use crate::row::batch_of;

/// `SELECT exprs`.
pub struct Project {
    schema: SchemaRef,
    view: View,
    exprs: Vec<Evaluator>,
    /// Set when every expression only repeats a column of the node: nothing is evaluated, nothing
    /// can fail.
    columns: Option<Vec<usize>>,
    /// No two rows can become one: every column of the input is still there.
    keeps_all: bool,
    origin: Origin,
}

impl Project {
    /// One output column of `schema` per expression over the view.
    #[must_use]
    pub fn new(schema: SchemaRef, view: View, exprs: Vec<Box<dyn Expr>>, origin: Origin) -> Project {
        let repeated: BTreeSet<usize> = exprs.iter().filter_map(|expr| expr.as_column()).collect();
        let keeps_all = repeated.len() == view.schema.fields().len() && view.columns.is_none();
        let columns = exprs.iter().map(|expr| expr.as_column().map(|column| view.place(column))).collect();
        Project { schema, view, exprs: exprs.into_iter().map(Evaluator::new).collect(), columns, keeps_all, origin }
    }

    fn apply(&self, delta: &Delta) -> Result<Delta, ArrowError> {
        if let Some(columns) = &self.columns {
            return delta.view(&self.schema, columns);
        }
        let input = self.view.of(delta)?;
        let values =
            self.exprs.iter().map(|expr| expr.evaluate(&input, &self.origin)).collect::<Result<Vec<_>, _>>()?;
        let faults = faults_of(&input, &values);
        let batch = batch_of(&self.schema, values.into_iter().map(|values| values.array).collect(), input.len())?;
        let out = Delta::new(batch, input.weights).with_faults(faults);
        Ok(if self.keeps_all && input.is_net { out.net() } else { out })
    }
}

/// What is not known of the computed rows.
fn faults_of(input: &Delta, values: &[Values]) -> Option<Faults> {
    if input.faults.is_none() && values.iter().all(|values| values.failed.is_none()) {
        return None;
    }
    let of_row = |row: usize| {
        let mut fault = Fault { doubt: false, failed: Vec::new(), causes: Vec::new() };
        for (column, values) in values.iter().enumerate() {
            if let Some(causes) = values.failed.as_ref().and_then(|failed| failed[row].as_ref()) {
                fault.add(&Fault { doubt: false, failed: vec![column], causes: causes.clone() });
            }
        }
        if let Some(held) = input.fault(row).filter(|held| held.doubt) {
            fault.add(&Fault { doubt: true, failed: Vec::new(), causes: held.causes.clone() });
        }
        (fault.doubt || !fault.failed.is_empty()).then(|| Arc::new(fault))
    };
    Some((0..input.len()).map(of_row).collect())
}

impl Operator for Project {
    fn when(&self) -> When {
        When::AtOnce
    }

    fn accept(&mut self, _: usize, delta: &Delta, step: &mut Step<'_>) -> Result<(), Failure> {
        step.emit(self.apply(delta)?)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{INT, RowFn, check};
    use expect_test::expect;

    #[test]
    fn a_column_that_fails_withholds_its_row_until_it_heals() {
        check(
            |kit| {
                let node = kit.with_quotient();
                kit.all(node)
            },
            "+o(1, 1, 5) +o(2, 1, 0) +o(3, 1, 2); ~o(1, 1, 0) ~o(2, 1, 10); -o(1)",
            &expect![[r#"
                1: +(1, 1, 5, 2) +(3, 1, 2, 5)
                   ? id = 2, c = 1, n = 0, q = ? [division by zero (id = 2)]
                2: -(1, 1, 5, 2) +(2, 1, 10, 1)
                   ? id = 1, c = 1, n = 0, q = ? [division by zero (id = 1)]
            "#]],
        );
    }

    /// Who does not look at the column that failed is not harmed.
    #[test]
    fn a_failed_column_that_nobody_shows_is_no_fault() {
        check(
            |kit| {
                let node = kit.with_quotient();
                kit.some(node, &[0, 2])
            },
            "+o(1, 1, 5) +o(2, 1, 0)",
            &expect![[r#"
                1: +(1, 5) +(2, 0)
            "#]],
        );
    }

    #[test]
    fn what_is_computed_of_a_failed_column_has_failed() {
        check(
            |kit| {
                let node = kit.with_quotient();
                let node = kit.with(node, "r", INT, RowFn::new(&[3], |row| Ok(row[0].map(|q| q + 1))));
                kit.some(node, &[0, 4])
            },
            "+o(1, 1, 5) +o(2, 1, 0) +o(3, 1, _)",
            &expect![[r#"
                1: +(1, 3) +(3, _)
                   ? id = 2, r = ? [division by zero (id = 2)]
            "#]],
        );
    }

    /// Rows that differ only in what is not shown become one.
    #[test]
    fn rows_that_become_one_are_counted() {
        check(
            |kit| {
                let tens = RowFn::new(&[2], |row| Ok(row[0].map(|n| n / 10)));
                let input = kit.all(kit.o);
                let exprs: Vec<Box<dyn crate::Expr>> = vec![Box::new(crate::testing::Column(1)), Box::new(tens)];
                let out = crate::testing::schema(&[("c", INT), ("tens", INT)]);
                let node = kit.dataflow.project("tens".to_owned(), &input, out, exprs, "c, n / 10", &[0]);
                kit.all(node)
            },
            "+o(1, 1, 25) +o(2, 1, 29) +o(3, 2, 25); ~o(1, 1, 20) ~o(2, 1, 30)",
            &expect![[r#"
                1: +2(1, 2) +(2, 2)
                2: -(1, 2) +(1, 3)
            "#]],
        );
    }

    /// A panic in an expression is an error of its row.
    #[test]
    fn a_panic_is_a_fault() {
        check(
            |kit| {
                let expr = RowFn::new(&[2], |row| match row[0] {
                    Some(13) => panic!("unlucky"),
                    n => Ok(n),
                });
                let node = kit.with(kit.o, "p", INT, expr);
                kit.some(node, &[0, 3])
            },
            "+o(1, 1, 12) +o(2, 1, 13)",
            &expect![[r#"
                1: +(1, 12)
                   ? id = 2, p = ? [it panicked: unlucky (id = 2)]
            "#]],
        );
    }
}
