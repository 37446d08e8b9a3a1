//! DataFusion's expressions, aggregates and executor behind `pipeline`'s traits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::Session;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::common::{DFSchemaRef, Result, plan_err};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Expr as LogicalExpr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use pipeline::{Aggregate, Expr, ExprError, Recompute};

/// DataFusion wraps a failure in the names of its layers; who reads it wants the last one.
fn expr_error(error: &DataFusionError) -> ExprError {
    ExprError(in_words_of_sql(&match error.find_root() {
        DataFusionError::ArrowError(error, _) => error.to_string(),
        other => other.strip_backtrace(),
    }))
}

/// Arrow names types as Rust or it does: `to value of Int32 type`, `arrow_array::types::Date32Type`.
fn in_words_of_sql(text: &str) -> String {
    const RUST: &str = "arrow_array::types::";
    const WANTED: &str = " to value of ";
    let named = |name: &str| name.parse::<DataType>().ok().map(|data_type| filter::type_name(&data_type));
    let mut text = text.to_owned();
    // What comes before may be a value: the last is Arrow's.
    if let Some(at) = text.rfind(WANTED).map(|at| at + WANTED.len())
        && let Some(name) = text[at..].strip_suffix(" type").and_then(named)
    {
        text.replace_range(at.., &name);
    }
    if let Some(at) = text.rfind(RUST) {
        let rest = &text[at + RUST.len()..];
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let kind = rest[..length].trim_end_matches("Type");
        let families = [("Timestamp", "timestamp"), ("Date", "date"), ("Time", "time"), ("Interval", "interval")];
        let family = families.iter().find(|(begin, _)| kind.starts_with(begin)).map(|(_, name)| (*name).to_owned());
        let name = family.or_else(|| named(kind)).unwrap_or_else(|| kind.to_lowercase());
        text.replace_range(at..at + RUST.len() + length, &name);
    }
    text
}

/// A physical expression.
pub struct PlannedExpr {
    expr: Arc<dyn PhysicalExpr>,
    data_type: DataType,
}

impl PlannedExpr {
    /// `data_type` is what the plan says it gives; a kernel that gives a sister type is cast.
    pub fn new(expr: Arc<dyn PhysicalExpr>, data_type: DataType) -> PlannedExpr {
        PlannedExpr { expr, data_type }
    }
}

impl Expr for PlannedExpr {
    fn evaluate(&self, batch: &RecordBatch) -> std::result::Result<ArrayRef, ExprError> {
        let value = self.expr.evaluate(batch).map_err(|error| expr_error(&error))?;
        let array = value.into_array(batch.num_rows()).map_err(|error| expr_error(&error))?;
        if *array.data_type() == self.data_type { Ok(array) } else { Ok(cast(&array, &self.data_type)?) }
    }

    fn columns(&self) -> Vec<usize> {
        collect_columns(&self.expr).iter().map(Column::index).collect()
    }

    fn as_column(&self) -> Option<usize> {
        self.expr.downcast_ref::<Column>().map(Column::index)
    }
}

/// An aggregate function by DataFusion's accumulator.
pub struct PlannedAggregate {
    function: Arc<AggregateFunctionExpr>,
    data_type: DataType,
}

impl PlannedAggregate {
    pub fn new(function: Arc<AggregateFunctionExpr>, data_type: DataType) -> PlannedAggregate {
        PlannedAggregate { function, data_type }
    }
}

impl Aggregate for PlannedAggregate {
    fn evaluate(&self, arguments: &[ArrayRef], rows: usize) -> std::result::Result<ArrayRef, ExprError> {
        let evaluate = || {
            let mut accumulator = self.function.create_accumulator()?;
            if rows > 0 {
                accumulator.update_batch(arguments)?;
            }
            accumulator.evaluate()?.to_array()
        };
        let array = evaluate().map_err(|error| expr_error(&error))?;
        if *array.data_type() == self.data_type { Ok(array) } else { Ok(cast(&array, &self.data_type)?) }
    }

    fn data_type(&self) -> &DataType {
        &self.data_type
    }
}

/// Stands in a subplan where an input of the pipeline comes in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SubplanInput {
    /// Which input.
    pub index: usize,
    /// Its columns, with the qualifiers that the subplan's expressions use.
    pub schema: DFSchemaRef,
}

impl SubplanInput {
    /// As a leaf of a logical plan.
    pub fn leaf(index: usize, schema: DFSchemaRef) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(SubplanInput { index, schema }) })
    }
}

impl PartialOrd for SubplanInput {
    fn partial_cmp(&self, other: &SubplanInput) -> Option<std::cmp::Ordering> {
        self.index.partial_cmp(&other.index)
    }
}

impl UserDefinedLogicalNodeCore for SubplanInput {
    fn name(&self) -> &str {
        "Input"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<LogicalExpr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input: {}", self.index)
    }

    fn with_exprs_and_inputs(&self, _: Vec<LogicalExpr>, _: Vec<LogicalPlan>) -> Result<SubplanInput> {
        Ok(self.clone())
    }
}

/// Rows of the inputs, while a subplan is being recomputed.
type Cells = Arc<Mutex<BTreeMap<usize, RecordBatch>>>;

struct InputPlanner(Cells);

#[async_trait::async_trait]
impl ExtensionPlanner for InputPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        _: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(input) = node.as_any().downcast_ref::<SubplanInput>() else { return Ok(None) };
        let schema: SchemaRef = Arc::clone(input.schema.inner());
        let cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(batch) = cells.get(&input.index) else { return plan_err!("input {} has no rows", input.index) };
        // The pipeline's columns are all nullable and have plain names; the plan's are as planned.
        let batch = pipeline::row::batch_of(&schema, batch.columns().to_vec(), batch.num_rows())?;
        let source: Arc<dyn ExecutionPlan> = MemorySourceConfig::try_new_exec(&[vec![batch]], schema, None)?;
        Ok(Some(source))
    }
}

/// A subplan by DataFusion's planner and executor.
///
/// It is planned again each time: a physical plan keeps the state of its last run.
pub struct PlannedSubplan {
    plan: LogicalPlan,
    schema: SchemaRef,
    state: SessionState,
    /// Made by the first run, on the engine's thread: a program is planned (and, when a project is
    /// only checked, dropped) by async code, where a runtime may neither block nor be dropped.
    runtime: Option<tokio::runtime::Runtime>,
}

impl PlannedSubplan {
    /// `plan` has an [`SubplanInput`] wherever rows of the pipeline come in; `schema` is the output's.
    pub fn new(plan: LogicalPlan, schema: SchemaRef, state: SessionState) -> PlannedSubplan {
        PlannedSubplan { plan, schema, state, runtime: None }
    }

    async fn run(&self, cells: Cells) -> Result<RecordBatch> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(InputPlanner(cells))]);
        let physical = planner.create_physical_plan(&self.plan, &self.state).await?;
        let produced = physical.schema();
        let batches = collect(physical, self.state.task_ctx()).await?;
        let batch = concat_batches(&produced, &batches)?;
        let columns = batch
            .columns()
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| {
                if column.data_type() == field.data_type() {
                    Ok(Arc::clone(column))
                } else {
                    cast(column, field.data_type())
                }
            })
            .collect::<std::result::Result<_, _>>()?;
        Ok(pipeline::row::batch_of(&self.schema, columns, batch.num_rows())?)
    }
}

impl Recompute for PlannedSubplan {
    fn recompute(&mut self, inputs: &[RecordBatch]) -> std::result::Result<RecordBatch, ExprError> {
        let cells: Cells = Arc::new(Mutex::new(inputs.iter().cloned().enumerate().collect()));
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => {
                tokio::runtime::Builder::new_current_thread().build().map_err(|error| ExprError(error.to_string()))?
            }
        };
        let answer = runtime.block_on(self.run(cells)).map_err(|error| expr_error(&error));
        self.runtime = Some(runtime);
        answer
    }
}

/// Plans the subplan over empty inputs, so that what DataFusion can't execute is known when a
/// project is checked and not when its first row comes.
pub fn try_subplan(subplan: &PlannedSubplan, inputs: &[SchemaRef]) -> Result<()> {
    let cells: Cells = Arc::new(Mutex::new(
        inputs.iter().map(|schema| RecordBatch::new_empty(Arc::clone(schema))).enumerate().collect(),
    ));
    let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(InputPlanner(cells))]);
    // Planning is async in name only: nothing in it waits.
    futures::executor::block_on(planner.create_physical_plan(&subplan.plan, &subplan.state)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reasons are for people who have written SQL.
    #[test]
    fn reasons_name_types_as_sql_does() {
        for (told, expected) in [
            (
                "Cast error: Cannot cast string 'x' to value of Int32 type",
                "Cast error: Cannot cast string 'x' to value of integer",
            ),
            (
                "Cast error: Cannot cast string ' to value of Int64 type' to value of Boolean type",
                "Cast error: Cannot cast string ' to value of Int64 type' to value of boolean",
            ),
            (
                "Cast error: Failed to convert -9223372036854775808 to temporal for arrow_array::types::TimestampMicrosecondType",
                "Cast error: Failed to convert -9223372036854775808 to temporal for timestamp",
            ),
            ("Cannot convert arrow_array::types::Date32Type 7 to datetime", "Cannot convert date 7 to datetime"),
            ("Overflow in arrow_array::types::Int64Type", "Overflow in bigint"),
            ("Divide by zero error", "Divide by zero error"),
            ("Cannot cast to value of Nothing type", "Cannot cast to value of Nothing type"),
        ] {
            assert_eq!(in_words_of_sql(told), expected);
        }
    }
}
