//! What only DataFusion's executor can answer.

use std::any::Any;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Expr, LogicalPlan};
use pipeline::Input;

use super::meaning::meaning_of_plan;
use super::{Lowered, Lowering, plain};
use crate::expr::{PlannedSubplan, SubplanInput, try_subplan};
use crate::session::SourceTable;

impl Lowering {
    /// One node recomputed by DataFusion over what its inputs became.
    pub(super) fn whole(&mut self, plan: &LogicalPlan) -> Result<Lowered> {
        if matches!(plan, LogicalPlan::RecursiveQuery(_)) {
            return self.whole_with_tables(plan);
        }
        let inputs = plan.inputs().into_iter().map(|input| self.lower(input)).collect::<Result<Vec<_>>>()?;
        let leaves = plan
            .inputs()
            .iter()
            .enumerate()
            .map(|(i, input)| SubplanInput::leaf(i, Arc::clone(input.schema())))
            .collect();
        let subplan = plan.with_new_exprs(plan.expressions(), leaves)?;
        // A window keeps the rows of its input; other nodes may not.
        let key = match plan {
            LogicalPlan::Window(_) => inputs[0].key.clone(),
            _ => None,
        };
        let label = format!("recompute {}", plan.display());
        self.add_whole(label, subplan, &inputs, plan.schema(), key)
    }

    /// A subplan whose expressions hold queries of their own is recomputed from its tables.
    pub(super) fn whole_with_tables(&mut self, plan: &LogicalPlan) -> Result<Lowered> {
        let mut scans: Vec<LogicalPlan> = Vec::new();
        let subplan = plan
            .clone()
            .transform_down_with_subqueries(|node| {
                if !matches!(node, LogicalPlan::TableScan(_)) || is_work_table(&node) {
                    return Ok(Transformed::no(node));
                }
                let index = scans.iter().position(|scan| *scan == node).unwrap_or_else(|| {
                    scans.push(node.clone());
                    scans.len() - 1
                });
                Ok(Transformed::yes(SubplanInput::leaf(index, Arc::clone(node.schema()))))
            })?
            .data;
        let inputs = scans.iter().map(|scan| self.lower(scan)).collect::<Result<Vec<_>>>()?;
        let label = format!("recompute {}", plan.display());
        self.add_whole(label, subplan, &inputs, plan.schema(), None)
    }

    fn add_whole(
        &mut self,
        label: String,
        subplan: LogicalPlan,
        inputs: &[Lowered],
        schema: &DFSchema,
        key: Option<Vec<usize>>,
    ) -> Result<Lowered> {
        let schema = plain(schema);
        let meaning = meaning_of_plan(&subplan)?;
        let planned = PlannedSubplan::new(subplan, Arc::clone(&schema), self.state.clone());
        let input_schemas: Vec<SchemaRef> = inputs.iter().map(|input| Arc::clone(&input.input.schema)).collect();
        try_subplan(&planned, &input_schemas)?;
        let inputs: Vec<Input> = inputs.iter().map(|input| input.input.clone()).collect();
        let node = self.dataflow.whole(label, &inputs, schema, Box::new(planned), &meaning);
        Ok(self.all_of(node, key))
    }
}

pub(super) fn has_subquery(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_expressions(|expr| {
        expr.apply(|expr| {
            found |= matches!(
                expr,
                Expr::Exists(_)
                    | Expr::InSubquery(_)
                    | Expr::ScalarSubquery(_)
                    | Expr::SetComparison(_)
                    | Expr::OuterReferenceColumn(..)
            );
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    })?;
    Ok(found)
}

/// The table that a recursive query reads itself by.
fn is_work_table(plan: &LogicalPlan) -> bool {
    // By what is behind the name: the query may call itself like one of our tables.
    let LogicalPlan::TableScan(scan) = plan else { return false };
    source_as_provider(&scan.source)
        .map_or(true, |provider| (provider.as_ref() as &dyn Any).downcast_ref::<SourceTable>().is_none())
}
