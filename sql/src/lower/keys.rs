//! What tells the rows of a plan apart, and the order in which people expect them.

use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::{Expr, LogicalPlan, Sort};
use pipeline::JoinKind;

use super::Lowered;

/// A column by which people expect to see rows sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedBy {
    /// The output column.
    pub column: usize,
    /// Largest first.
    pub descending: bool,
}

/// The unique columns of a join's output.
pub(super) fn join_key(
    kind: JoinKind,
    (left, left_on): (&Lowered, &[usize]),
    (right, right_on): (&Lowered, &[usize]),
    left_width: usize,
    is_swapped: bool,
) -> Option<Vec<usize>> {
    let is_unique = |side: &Lowered, on: &[usize]| {
        side.key.as_ref().is_some_and(|key| key.iter().all(|column| on.contains(column)))
    };
    let from_right = |key: &Vec<usize>| key.iter().map(|column| column + left_width).collect::<Vec<_>>();
    match kind {
        JoinKind::Semi | JoinKind::Anti => {
            if is_swapped {
                right.key.clone()
            } else {
                left.key.clone()
            }
        }
        // Rows without a match have NULLs on one side, and a key may hold NULLs of its own.
        JoinKind::Full => None,
        // Each row of one side meets at most one of the other: its own key is enough, as long as
        // it is there in every row of the output.
        JoinKind::Inner if is_unique(right, right_on) => left.key.clone(),
        JoinKind::Inner if is_unique(left, left_on) => right.key.as_ref().map(from_right),
        JoinKind::Left if !is_swapped && is_unique(right, right_on) => left.key.clone(),
        JoinKind::Left if is_swapped && is_unique(left, left_on) => right.key.as_ref().map(from_right),
        JoinKind::Inner | JoinKind::Left => Some([left.key.clone()?, from_right(right.key.as_ref()?)].concat()),
    }
}

/// The Sort below a chain of projections.
pub(super) fn below_projections(plan: &LogicalPlan) -> Option<&Sort> {
    match plan {
        LogicalPlan::Projection(projection) => below_projections(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => below_projections(&alias.input),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => Some(sort),
        _ => None,
    }
}

pub(super) fn shown_order(order: &[SortExpr], schema: &DFSchema) -> Vec<SortedBy> {
    order
        .iter()
        .map_while(|sort| match &sort.expr {
            Expr::Column(column) => {
                let column = schema.maybe_index_of_column(column)?;
                Some(SortedBy { column, descending: !sort.asc })
            }
            _ => None,
        })
        .collect()
}
