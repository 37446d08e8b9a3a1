//! Equal expressions, equal texts; different ones, different texts: what a fingerprint is made of.
//!
//! The text names columns by their place, so that aliases do not matter, and gives each literal its
//! length, so that no text inside one can be taken for what surrounds it.

use std::fmt::Write;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// The meaning of expressions over the columns of `schema`.
pub fn meaning_of(exprs: &[Expr], schema: &DFSchema) -> Result<String> {
    let places: Vec<usize> = (0..schema.fields().len()).collect();
    meaning_on(exprs, schema, &places)
}

/// The same where each column of `schema` is at another place.
pub fn meaning_on(exprs: &[Expr], schema: &DFSchema, places: &[usize]) -> Result<String> {
    let mut out = String::new();
    for expr in exprs {
        write(expr, Some((schema, places)), &mut out)?;
        out.push(';');
    }
    Ok(out)
}

/// The meaning of a plan: what it prints, and every expression in it.
pub fn meaning_of_plan(plan: &LogicalPlan) -> Result<String> {
    let mut out = plan.display_indent_schema().to_string();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            write(expr, None, &mut out)?;
            out.push(';');
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(out)
}

/// As people write it.
pub fn sort_meaning(order: &[SortExpr]) -> String {
    order.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The tree in the order of reading: for each node its kind, what is its own, and how many children
/// follow.
fn write(expr: &Expr, columns: Option<(&DFSchema, &[usize])>, out: &mut String) -> Result<()> {
    expr.apply(|node| {
        let own = match node {
            Expr::Alias(_) => return Ok(TreeNodeRecursion::Continue),
            Expr::Column(column) => match columns {
                Some((schema, places)) => places[schema.index_of_column(column)?].to_string(),
                None => column.flat_name(),
            },
            Expr::Literal(value, _) => format!("{} {value:?}", value.data_type()),
            Expr::ScalarFunction(function) => function.func.name().to_owned(),
            Expr::BinaryExpr(binary) => binary.op.to_string(),
            Expr::Cast(_) | Expr::TryCast(_) => match columns {
                Some((schema, _)) => datafusion::logical_expr::ExprSchemable::get_type(node, schema)?.to_string(),
                None => node.to_string(),
            },
            // Whatever else they say of themselves: it has no columns by place, but all of it.
            other => other.to_string(),
        };
        let mut children = 0;
        node.apply_children(|_| {
            children += 1;
            Ok(TreeNodeRecursion::Continue)
        })?;
        // Writing to a String does not fail.
        let _ = write!(out, "{}({children}) {}:{own} ", node.variant_name(), own.len());
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}
