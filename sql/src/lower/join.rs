//! Joins.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::{JoinType, NullEquality, Result};
use datafusion::logical_expr::{Expr, Join};
use pipeline::arrangement::NullKeys;
use pipeline::{JoinKind, JoinSide, NodeId};

use super::keys::join_key;
use super::{Lowered, Lowering};

impl Lowering {
    /// `None` when only DataFusion's executor can.
    pub(super) fn join(&mut self, join: &Join) -> Result<Option<Lowered>> {
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Inner,
            _ if join.filter.is_some() || join.on.is_empty() || join.null_aware => return Ok(None),
            JoinType::Left | JoinType::Right => JoinKind::Left,
            JoinType::Full => JoinKind::Full,
            JoinType::LeftSemi | JoinType::RightSemi => JoinKind::Semi,
            JoinType::LeftAnti | JoinType::RightAnti => JoinKind::Anti,
            _ => return Ok(None),
        };
        let (left_keys, right_keys): (Vec<Expr>, Vec<Expr>) = join.on.iter().cloned().unzip();
        let left = self.lower(&join.left)?;
        let right = self.lower(&join.right)?;
        let (left_width, right_width) = (left.width(), right.width());
        let (left, left_columns) = self.columns_for(&left, &left_keys, join.left.schema())?;
        let (right, right_columns) = self.columns_for(&right, &right_keys, join.right.schema())?;
        let nulls = match join.null_equality {
            NullEquality::NullEqualsNothing => NullKeys::NeverMatch,
            NullEquality::NullEqualsNull => NullKeys::Match,
        };
        let (left_node, right_node) =
            (self.arrange(&left, &left_columns, nulls), self.arrange(&right, &right_columns, nulls));
        if self.dataflow.key_types(left_node) != self.dataflow.key_types(right_node) {
            return Ok(None);
        }
        let on: Vec<String> = join.on.iter().map(|(left, right)| format!("{left} = {right}")).collect();
        let name = match join.join_type {
            JoinType::Inner if join.on.is_empty() => "cross join".to_owned(),
            other => format!("{} join", other.to_string().to_lowercase()),
        };
        let label = if on.is_empty() { name } else { format!("{name} on {}", on.join(" and ")) };
        // A right join is a left join seen from the other side.
        let is_swapped = matches!(join.join_type, JoinType::Right | JoinType::RightSemi | JoinType::RightAnti);
        let (of_left, of_right, nodes) = if is_swapped {
            (JoinSide::Right, JoinSide::Left, (right_node, left_node))
        } else {
            (JoinSide::Left, JoinSide::Right, (left_node, right_node))
        };
        let (shows_left, shows_right) = match kind {
            JoinKind::Semi | JoinKind::Anti => (!is_swapped, is_swapped),
            _ => (true, true),
        };
        // Only the columns of the two inputs: those computed for the key go no further.
        let shown = [(shows_left, &left, left_width, of_left), (shows_right, &right, right_width, of_right)];
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for (_, input, width, side) in shown.into_iter().filter(|(shows, ..)| *shows) {
            fields.extend(input.input.schema.fields().iter().take(width).cloned());
            columns.extend(input.input.columns.iter().take(width).map(|&column| (side, column)));
        }
        let schema = Arc::new(Schema::new(fields));
        let node = self.dataflow.join(label, kind, nodes, columns, schema);
        let key = join_key(kind, (&left, &left_columns), (&right, &right_columns), left_width, is_swapped);
        let mut lowered = self.all_of(node, key);
        if kind == JoinKind::Inner {
            let shifted = |pairs: &[(usize, usize)]| {
                pairs.iter().map(|&(a, b)| (a + left_width, b + left_width)).collect::<Vec<_>>()
            };
            // A computed key column is not part of the output.
            let on = left_columns.iter().zip(&right_columns).filter(|&(&l, &r)| l < left_width && r < right_width);
            lowered.equal =
                [left.equal.clone(), shifted(&right.equal), on.map(|(&l, &r)| (l, r + left_width)).collect()].concat();
        }
        if let Some(filter) = &join.filter {
            lowered = self.filter_by(filter, &join.schema, &lowered)?;
        }
        Ok(Some(lowered))
    }

    fn arrange(&mut self, input: &Lowered, columns: &[usize], nulls: NullKeys) -> NodeId {
        let columns = columns.iter().map(|&column| input.input.columns[column]).collect();
        self.dataflow.arrange(input.input.node, columns, nulls)
    }
}
