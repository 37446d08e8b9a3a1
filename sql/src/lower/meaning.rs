//! Equal expressions, equal texts; different ones, different texts: what a fingerprint is made of.
//!
//! The text names columns by their place, so that aliases do not matter, and gives each literal its
//! length, so that no text inside one can be taken for what surrounds it.

use std::fmt::Write;

use arrow::array::RecordBatch;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan};
use pipeline::row::RowCodec;

/// The meaning of expressions over the columns of `schema`.
pub fn meaning_of(exprs: &[Expr], schema: &DFSchema) -> Result<String> {
    let places: Vec<usize> = (0..schema.fields().len()).collect();
    meaning_on(exprs, schema, &places)
}

/// The same where each column of `schema` is at another place.
pub fn meaning_on(exprs: &[Expr], schema: &DFSchema, places: &[usize]) -> Result<String> {
    let mut out = String::new();
    for expr in exprs {
        write_expr(expr, Some((schema, places)), &mut out)?;
        out.push(';');
    }
    Ok(out)
}

/// The meaning of a plan: what it prints, and every expression in it.
pub fn meaning_of_plan(plan: &LogicalPlan) -> Result<String> {
    let mut out = plan.display_indent_schema().to_string();
    plan.apply_with_subqueries(|node| {
        // What a join prints does not say whether NULL equals NULL.
        if let LogicalPlan::Join(join) = node {
            // Writing to a String does not fail.
            let _ = write!(out, "{:?} {:?} {} ", join.join_type, join.null_equality, join.null_aware);
        }
        node.apply_expressions(|expr| {
            write_expr(expr, None, &mut out)?;
            out.push(';');
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(out)
}

/// The tree in the order of reading: for each node its kind, what is its own, and how many children
/// follow.
fn write_expr(expr: &Expr, columns: Option<(&DFSchema, &[usize])>, out: &mut String) -> Result<()> {
    expr.apply(|node| {
        let own = match node {
            Expr::Alias(_) => return Ok(TreeNodeRecursion::Continue),
            Expr::Column(column) => match columns {
                Some((schema, places)) => places[schema.index_of_column(column)?].to_string(),
                None => column.flat_name(),
            },
            Expr::Literal(value, _) if value.data_type().is_nested() => nested(value)?,
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

/// A list or a struct by its bytes: what it prints does not tell `['a', 'b']` from `['a, b']`.
fn nested(value: &ScalarValue) -> Result<String> {
    let array = value.to_array()?;
    let batch = RecordBatch::try_from_iter_with_nullable([("value", array, true)])?;
    let Ok(codec) = RowCodec::whole(&batch.schema()) else { return Ok(format!("{} {value:?}", value.data_type())) };
    let rows = codec.encode(&batch)?;
    let mut out = format!("{} ", value.data_type());
    for byte in rows.row(0) {
        let _ = write!(out, "{byte:02x}");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::common::NullEquality;
    use datafusion::logical_expr::{JoinType, LogicalPlanBuilder, lit};
    use datafusion::prelude::col;

    /// Two queries that differ only in these had one fingerprint: the second was served the first's rows.
    #[test]
    fn what_is_printed_alike_differs_all_the_same() -> Result<()> {
        let list = |texts: &[&str]| {
            let values: Vec<ScalarValue> = texts.iter().map(|text| ScalarValue::from(*text)).collect();
            Expr::Literal(
                ScalarValue::List(ScalarValue::new_list_nullable(&values, &arrow::datatypes::DataType::Utf8)),
                None,
            )
        };
        let schema = DFSchema::empty();
        let of = |expr: Expr| meaning_of(&[expr], &schema);
        assert_ne!(of(list(&["a", "b"]))?, of(list(&["a, b"]))?);
        assert_eq!(of(list(&["a", "b"]))?, of(list(&["a", "b"]))?);
        let join = |equality| {
            let side = |name: &str| LogicalPlanBuilder::values(vec![vec![lit(1)]])?.alias(name);
            let right = side("b")?.build()?;
            let keys = (vec![col("a.column1")], vec![col("b.column1")]);
            let plan = side("a")?.join_detailed(right, JoinType::Left, keys_of(keys), None, equality)?.build()?;
            meaning_of_plan(&plan)
        };
        assert_ne!(join(NullEquality::NullEqualsNothing)?, join(NullEquality::NullEqualsNull)?);
        Ok(())
    }

    fn keys_of(
        (left, right): (Vec<Expr>, Vec<Expr>),
    ) -> (Vec<datafusion::common::Column>, Vec<datafusion::common::Column>) {
        let columns = |exprs: Vec<Expr>| exprs.iter().filter_map(|expr| expr.try_as_col().cloned()).collect();
        (columns(left), columns(right))
    }
}
