//! `UNION ALL`: the changes of all inputs.

use crate::delta::Delta;
use crate::operator::{Failure, Operator, View, When};
use crate::program::Step;

/// All rows of all inputs.
pub struct Union {
    views: Vec<View>,
}

impl Union {
    /// Each input is seen with the same types, whatever its columns are called.
    #[must_use]
    pub fn new(views: Vec<View>) -> Union {
        Union { views }
    }
}

impl Operator for Union {
    fn when(&self) -> When {
        When::AtOnce
    }

    fn accept(&mut self, port: usize, delta: &Delta, step: &mut Step<'_>) -> Result<(), Failure> {
        let view = &self.views[port];
        let columns: Vec<usize> = (0..view.schema.fields().len()).map(|column| view.place(column)).collect();
        step.emit(delta.view(&view.schema, &columns)?)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::check;
    use expect_test::expect;

    #[test]
    fn all_rows_of_all_inputs_with_their_counts_and_faults() {
        check(
            |kit| {
                let of_orders = kit.with_quotient();
                let inputs = [kit.some(kit.c, &[0]), kit.some(kit.l, &[0]), kit.some(of_orders, &[3])];
                let node = kit.dataflow.union(&inputs, inputs[0].schema.clone());
                kit.all(node)
            },
            "+c(1, ann) +l(1, x) +l(1, y) +o(9, 1, 10); -l(1, x) +o(8, 1, 0); -c(1) -o(8)",
            &expect![[r#"
                1: +4(1)
                2: -(1)
                   ? id = ? [division by zero (id = 8)]
                3: -(1)
            "#]],
        );
    }
    /// Its columns have names of its own, by which rows at fault are shown.
    #[test]
    fn columns_go_by_the_names_of_the_first_input() {
        check(
            |kit| {
                let inputs = [kit.some(kit.c, &[0]), kit.some(kit.l, &[0])];
                let node = kit.dataflow.union(&inputs, inputs[0].schema.clone());
                let node = kit.with(node, "q", crate::testing::INT, crate::testing::divide(10, 0));
                kit.all(node)
            },
            "+c(5, ann) +l(0, x)",
            &expect![[r#"
                1: +(5, 2)
                   ? id = 0, q = ? [division by zero (id = 0)]
            "#]],
        );
    }
}
