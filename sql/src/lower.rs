//! A logical plan to operators.
//!
//! Each node that the engine can maintain becomes an operator; any other becomes [`Whole`] over
//! what its inputs became, so that only that node is recomputed and not what lies below it.
//! Equal subplans become one operator.

use std::any::Any;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinType, NullEquality, Result, internal_err};
use datafusion::datasource::source_as_provider;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::{AggregateFunction, Sort as SortExpr};
use datafusion::logical_expr::when;
use datafusion::logical_expr::{
    Aggregate, Expr, FetchType, Filter as FilterPlan, Join as JoinPlan, Limit, LogicalPlan, Projection, SkipType, Sort, Union as UnionPlan,
};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use pipeline::arrangement::NullKeys;
use pipeline::operator::{AggregateCall, AggregateKind, Filter, GroupBy, Join, JoinKind, Project, Top, Union, Whole};
use pipeline::program::NodeId;
use pipeline::table::Identity;
use pipeline::{Cost, Program, TableId};

use crate::expr::{Input, PlannedAggregate, PlannedExpr, PlannedSubplan, try_subplan};
use crate::session::SourceTable;

/// A column by which people expect to see rows sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedBy {
    /// The output column.
    pub column: usize,
    /// Largest first.
    pub descending: bool,
}

/// What a plan became.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// Where its rows come out.
    pub node: NodeId,
    /// Its columns.
    pub schema: SchemaRef,
    /// Columns that tell its rows apart, when some are known to.
    pub key: Option<Vec<usize>>,
    /// The order at its top.
    pub order: Vec<SortedBy>,
    /// Pairs of columns that are equal in every row, since an inner join made them so: either may
    /// stand for the other in the key.
    equal: Vec<(usize, usize)>,
}

impl Lowered {
    fn new(node: NodeId, schema: SchemaRef, key: Option<Vec<usize>>) -> Lowered {
        Lowered { node, schema, key, order: Vec::new(), equal: Vec::new() }
    }

    /// The same rows by other columns: `place` tells where a column went, if it is still there.
    fn moved(&self, node: NodeId, schema: SchemaRef, place: impl Fn(usize) -> Option<usize>) -> Lowered {
        let of_key = |&column: &usize| {
            let twins = self.equal.iter().filter_map(|&(a, b)| if a == column { Some(b) } else { (b == column).then_some(a) });
            place(column).or_else(|| twins.into_iter().find_map(&place))
        };
        Lowered {
            node,
            schema,
            key: self.key.as_ref().and_then(|key| key.iter().map(of_key).collect()),
            order: self.order.iter().map_while(|by| Some(SortedBy { column: place(by.column)?, ..by.clone() })).collect(),
            equal: self.equal.iter().filter_map(|&(a, b)| Some((place(a)?, place(b)?))).collect(),
        }
    }
}

/// A program in the making.
pub struct Lowering {
    pub program: Program,
    state: SessionState,
    tables: HashMap<String, Lowered>,
    done: HashMap<LogicalPlan, Lowered>,
}

impl Lowering {
    pub fn new(state: SessionState) -> Lowering {
        Lowering { program: Program::default(), state, tables: HashMap::new(), done: HashMap::new() }
    }

    pub fn add_table(&mut self, name: &str, schema: SchemaRef, identity: Identity) -> Result<TableId> {
        let key = match &identity {
            Identity::Key(columns) => Some(columns.clone()),
            Identity::WholeRow => None,
        };
        let (id, node) = self.program.add_table(format!("table {name}"), Arc::clone(&schema), identity)?;
        self.tables.insert(name.to_owned(), Lowered::new(node, schema, key));
        Ok(id)
    }

    /// Lowers the plan of a projection. Its columns keep their names, without qualifiers, and must
    /// then be distinct.
    pub fn lower_projection(&mut self, name: &str, plan: &LogicalPlan) -> Result<Lowered> {
        let lowered = self.lower(plan)?;
        let mut seen = BTreeSet::new();
        for field in lowered.schema.fields() {
            if !seen.insert(field.name()) {
                return Err(DataFusionError::Plan(format!(
                    "projection `{name}` has two columns named `{}`: rename one with AS",
                    field.name()
                )));
            }
        }
        Ok(lowered)
    }

    fn lower(&mut self, plan: &LogicalPlan) -> Result<Lowered> {
        if let Some(done) = self.done.get(plan) {
            return Ok(done.clone());
        }
        let lowered = match plan {
            _ if has_subquery(plan)? => self.whole_with_tables(plan)?,
            LogicalPlan::TableScan(scan) if scan.filters.is_empty() && scan.fetch.is_none() => {
                let Some(table) = self.tables.get(scan.table_name.table()).cloned() else {
                    return internal_err!("table {} was planned but never added", scan.table_name);
                };
                match &scan.projection {
                    None => table,
                    Some(columns) => self.pick(&table, columns)?,
                }
            }
            LogicalPlan::SubqueryAlias(alias) => self.lower(&alias.input)?,
            LogicalPlan::Filter(filter) => self.filter(filter)?,
            LogicalPlan::Projection(projection) => self.projection(projection)?,
            LogicalPlan::Union(union) => self.union(union)?,
            LogicalPlan::Aggregate(aggregate) => match self.aggregate(aggregate)? {
                Some(lowered) => lowered,
                None => self.whole(plan)?,
            },
            LogicalPlan::Join(join) => match self.join(join)? {
                Some(lowered) => lowered,
                None => self.whole(plan)?,
            },
            // A set of rows has no order; it is kept for who shows them.
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
                let mut lowered = self.lower(&sort.input)?;
                lowered.order = shown_order(&sort.expr, sort.input.schema());
                lowered
            }
            LogicalPlan::Sort(sort) => self.top(&sort.input, &sort.expr, 0, sort.fetch)?,
            LogicalPlan::Limit(limit) => match self.limit(limit)? {
                Some(lowered) => lowered,
                None => self.whole(plan)?,
            },
            _ => self.whole(plan)?,
        };
        self.done.insert(plan.clone(), lowered.clone());
        Ok(lowered)
    }

    /// Some columns of a node, in another order.
    fn pick(&mut self, input: &Lowered, columns: &[usize]) -> Result<Lowered> {
        if columns.iter().copied().eq(0..input.schema.fields().len()) {
            return Ok(input.clone());
        }
        let schema = Arc::new(input.schema.project(columns)?);
        let exprs = columns
            .iter()
            .map(|&column| {
                let field = input.schema.field(column);
                let expr = datafusion::physical_expr::expressions::Column::new(field.name(), column);
                boxed(Arc::new(expr), field.data_type().clone())
            })
            .collect();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        self.project(format!("columns {}", names.join(", ")), input, Arc::clone(&schema), exprs)
    }

    /// Computed columns over a node. Those that only repeat a column of it carry its key along.
    fn project(&mut self, label: String, input: &Lowered, schema: SchemaRef, exprs: Vec<Box<dyn pipeline::Expr>>) -> Result<Lowered> {
        try_exprs(&exprs, &input.schema)?;
        let columns: Vec<Option<usize>> = exprs.iter().map(|expr| expr.as_column()).collect();
        let operator = Box::new(Project::new(Arc::clone(&schema), exprs));
        let node = self.program.add_operator(label, Cost::Delta, Arc::clone(&schema), vec![input.node], operator);
        Ok(input.moved(node, schema, |column| columns.iter().position(|picked| *picked == Some(column))))
    }

    fn filter(&mut self, filter: &FilterPlan) -> Result<Lowered> {
        let input = self.lower(&filter.input)?;
        self.filter_by(&filter.predicate, filter.input.schema(), input)
    }

    fn filter_by(&mut self, predicate: &Expr, schema: &DFSchema, input: Lowered) -> Result<Lowered> {
        let expr = self.expr(predicate, schema)?;
        try_exprs(std::slice::from_ref(&expr), &input.schema)?;
        let label = format!("filter {predicate}");
        let node = self.program.add_operator(label, Cost::Delta, Arc::clone(&input.schema), vec![input.node], Box::new(Filter::new(expr)));
        Ok(Lowered { node, ..input })
    }

    fn projection(&mut self, projection: &Projection) -> Result<Lowered> {
        let input = self.lower(&projection.input)?;
        self.projection_over(projection, &input)
    }

    fn projection_over(&mut self, projection: &Projection, input: &Lowered) -> Result<Lowered> {
        let exprs = projection.expr.iter().map(|expr| self.expr(expr, projection.input.schema())).collect::<Result<Vec<_>>>()?;
        let shown: Vec<String> = projection.expr.iter().map(ToString::to_string).collect();
        self.project(format!("project {}", shown.join(", ")), input, plain(&projection.schema), exprs)
    }

    fn union(&mut self, union: &UnionPlan) -> Result<Lowered> {
        let schema = plain(&union.schema);
        let mut inputs = Vec::new();
        for input in &union.inputs {
            let lowered = self.lower(input)?;
            let same = lowered.schema.fields().iter().zip(schema.fields()).all(|(a, b)| a.data_type() == b.data_type());
            inputs.push(if same { lowered.node } else { self.cast_to(&lowered, &schema)?.node });
        }
        let node = self.program.add_operator(
            "union all".to_owned(),
            Cost::Delta,
            Arc::clone(&schema),
            inputs,
            Box::new(Union::new(Arc::clone(&schema))),
        );
        Ok(Lowered::new(node, schema, None))
    }

    fn cast_to(&mut self, input: &Lowered, schema: &SchemaRef) -> Result<Lowered> {
        let exprs = input
            .schema
            .fields()
            .iter()
            .zip(schema.fields())
            .enumerate()
            .map(|(column, (from, to))| {
                let expr: Arc<dyn datafusion::physical_expr::PhysicalExpr> =
                    Arc::new(datafusion::physical_expr::expressions::Column::new(from.name(), column));
                let cast = datafusion::physical_expr::expressions::cast(expr, &input.schema, to.data_type().clone())?;
                Ok(boxed(cast, to.data_type().clone()))
            })
            .collect::<Result<_>>()?;
        self.project("cast".to_owned(), input, Arc::clone(schema), exprs)
    }

    /// Columns for these expressions: the input's own where they only repeat it, otherwise
    /// computed ones.
    fn columns_for(&mut self, input: &Lowered, exprs: &[Expr], schema: &DFSchema) -> Result<(Lowered, Vec<usize>)> {
        let planned = exprs.iter().map(|expr| self.physical(expr, schema)).collect::<Result<Vec<_>>>()?;
        let as_column = |expr: &Arc<dyn datafusion::physical_expr::PhysicalExpr>| {
            expr.downcast_ref::<datafusion::physical_expr::expressions::Column>().map(|column| column.index())
        };
        if let Some(columns) = planned.iter().map(as_column).collect::<Option<Vec<_>>>() {
            return Ok((input.clone(), columns));
        }
        let mut fields: Vec<Field> = input.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut all: Vec<Box<dyn pipeline::Expr>> = Vec::new();
        for (i, field) in fields.iter().enumerate() {
            let column = datafusion::physical_expr::expressions::Column::new(field.name(), i);
            all.push(boxed(Arc::new(column), field.data_type().clone()));
        }
        let mut columns = Vec::new();
        for (expr, logical) in planned.iter().zip(exprs) {
            if let Some(column) = as_column(expr) {
                columns.push(column);
                continue;
            }
            let data_type = expr.data_type(&input.schema)?;
            columns.push(fields.len());
            fields.push(Field::new(logical.schema_name().to_string(), data_type.clone(), true));
            all.push(boxed(Arc::clone(expr), data_type));
        }
        let schema = Arc::new(Schema::new(fields));
        let shown: Vec<String> = exprs.iter().map(ToString::to_string).collect();
        Ok((self.project(format!("compute {}", shown.join(", ")), input, schema, all)?, columns))
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Option<Lowered>> {
        if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
            return Ok(None);
        }
        let input_schema = aggregate.input.schema();
        let output = plain(&aggregate.schema);
        let groups = aggregate.group_expr.len();
        let mut needed: Vec<Expr> = aggregate.group_expr.clone();
        let mut calls = Vec::new();
        for (i, expr) in aggregate.aggr_expr.iter().enumerate() {
            let data_type = output.field(groups + i).data_type();
            let Some(call) = self.call(expr, input_schema, data_type)? else { return Ok(None) };
            // CASE is lazy: where the filter is not true the argument is not computed, so that it
            // can't fail there and take its row out of the other aggregates.
            let arguments = match &call.filter {
                None => call.arguments,
                Some(filter) => call.arguments.into_iter().map(|argument| when(filter.clone(), argument).end()).collect::<Result<_>>()?,
            };
            let filter = call.filter.map(|filter| {
                needed.push(filter);
                needed.len() - 1
            });
            let first = needed.len();
            needed.extend(arguments);
            calls.push((call.kind, first..needed.len(), filter));
        }
        let input = self.lower(&aggregate.input)?;
        let (input, columns) = self.columns_for(&input, &needed, input_schema)?;
        let calls: Vec<AggregateCall> = calls
            .into_iter()
            .map(|(kind, arguments, filter)| AggregateCall {
                kind,
                arguments: columns[arguments].to_vec(),
                filter: filter.map(|filter| columns[filter]),
            })
            .collect();
        let cost = if GroupBy::is_incremental(&calls) { Cost::Delta } else { Cost::Group };
        let show = |exprs: &[Expr]| exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let label = match (groups, aggregate.aggr_expr.len()) {
            (_, 0) => format!("distinct {}", show(&aggregate.group_expr)),
            (0, _) => format!("aggregate {}", show(&aggregate.aggr_expr)),
            _ => format!("group by {}: {}", show(&aggregate.group_expr), show(&aggregate.aggr_expr)),
        };
        let operator = GroupBy::new(&input.schema, &columns[..groups], calls, Arc::clone(&output))?;
        let node = self.program.add_operator(label, cost, Arc::clone(&output), vec![input.node], Box::new(operator));
        Ok(Some(Lowered::new(node, output, Some((0..groups).collect()))))
    }

    /// How an aggregate call is maintained; `None` when only DataFusion's executor can.
    fn call(&self, expr: &Expr, schema: &DFSchema, data_type: &DataType) -> Result<Option<Call>> {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = expr.clone().unalias() else { return Ok(None) };
        if !params.order_by.is_empty() {
            return Ok(None);
        }
        let filter = params.filter.as_ref().map(|filter| filter.as_ref().clone());
        let argument_types =
            params.args.iter().map(|arg| datafusion::logical_expr::ExprSchemable::get_type(arg, schema)).collect::<Result<Vec<_>>>()?;
        let built_in = match (func.name(), &argument_types[..]) {
            _ if params.distinct => None,
            ("count", []) => Some((AggregateKind::Count, Vec::new())),
            ("count", [_]) => Some((
                AggregateKind::Count,
                match &params.args[0] {
                    Expr::Literal(value, _) if !value.is_null() => Vec::new(),
                    argument => vec![argument.clone()],
                },
            )),
            ("sum", [argument]) if is_summable(argument, data_type) => Some((AggregateKind::Sum, params.args.clone())),
            ("avg", [argument]) if is_averageable(argument, data_type) => Some((AggregateKind::Avg, params.args.clone())),
            ("min", [argument]) if argument == data_type => Some((AggregateKind::Min, params.args.clone())),
            ("max", [argument]) if argument == data_type => Some((AggregateKind::Max, params.args.clone())),
            _ => None,
        };
        if let Some((kind, arguments)) = built_in {
            return Ok(Some(Call { kind, arguments, filter }));
        }
        if params.args.is_empty() {
            return Ok(None);
        }
        let arrow = plain_arrow(schema);
        let function =
            LoweredAggregateBuilder::new(expr, schema, &arrow, self.state.execution_props(), &Default::default()).build()?.aggregate;
        let kind = AggregateKind::Other(Box::new(PlannedAggregate::new(function, data_type.clone())));
        Ok(Some(Call { kind, arguments: params.args, filter }))
    }

    fn join(&mut self, join: &JoinPlan) -> Result<Option<Lowered>> {
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
        let (left_width, right_width) = (left.schema.fields().len(), right.schema.fields().len());
        let (left, left_columns) = self.columns_for(&left, &left_keys, join.left.schema())?;
        let (right, right_columns) = self.columns_for(&right, &right_keys, join.right.schema())?;
        let nulls = match join.null_equality {
            NullEquality::NullEqualsNothing => NullKeys::NeverMatch,
            NullEquality::NullEqualsNull => NullKeys::Match,
        };
        let (left_id, left_node) = self.program.arrange(left.node, left_columns.clone(), nulls)?;
        let (right_id, right_node) = self.program.arrange(right.node, right_columns.clone(), nulls)?;
        if !self.program.arrangement(left_id).has_key_types_of(self.program.arrangement(right_id)) {
            return Ok(None);
        }
        let on: Vec<String> = join.on.iter().map(|(left, right)| format!("{left} = {right}")).collect();
        let name = match join.join_type {
            JoinType::Inner if join.on.is_empty() => "cross join".to_owned(),
            other => format!("{} join", other.to_string().to_lowercase()),
        };
        let label = if on.is_empty() { name } else { format!("{name} on {}", on.join(" and ")) };
        // A right join is a left join seen from the other side; its columns are put back below.
        let is_swapped = matches!(join.join_type, JoinType::Right | JoinType::RightSemi | JoinType::RightAnti);
        let (first, second) = if is_swapped {
            ((right_id, right_node, &right), (left_id, left_node, &left))
        } else {
            ((left_id, left_node, &left), (right_id, right_node, &right))
        };
        let fields = match kind {
            JoinKind::Semi | JoinKind::Anti => first.2.schema.fields().to_vec(),
            _ => [first.2.schema.fields().to_vec(), second.2.schema.fields().to_vec()].concat(),
        };
        let schema = Arc::new(Schema::new(fields));
        let operator = Join::new(Arc::clone(&schema), kind, first.0, second.0);
        let node = self.program.add_operator(label, Cost::Delta, Arc::clone(&schema), vec![first.1, second.1], Box::new(operator));
        let joined = Lowered::new(node, schema, None);
        let (first_width, second_width) = (first.2.schema.fields().len(), second.2.schema.fields().len());
        let key = join_key(kind, (&left, &left_columns), (&right, &right_columns), left_width, is_swapped);
        let columns: Vec<usize> = match (kind, is_swapped) {
            (JoinKind::Semi | JoinKind::Anti, false) => (0..left_width).collect(),
            (JoinKind::Semi | JoinKind::Anti, true) => (0..right_width).collect(),
            (_, false) => (0..left_width).chain(first_width..first_width + right_width).collect(),
            (_, true) => (first_width..first_width + left_width).chain(0..right_width).collect(),
        };
        debug_assert!(columns.iter().all(|&column| column < first_width + second_width));
        let mut lowered = self.pick(&joined, &columns)?;
        lowered.key = key;
        lowered.equal = match kind {
            JoinKind::Inner => {
                let shifted = |pairs: &[(usize, usize)]| pairs.iter().map(|&(a, b)| (a + left_width, b + left_width)).collect::<Vec<_>>();
                // A computed key column is not part of the output.
                let on = left_columns.iter().zip(&right_columns).filter(|&(&l, &r)| l < left_width && r < right_width);
                [left.equal.clone(), shifted(&right.equal), on.map(|(&l, &r)| (l, r + left_width)).collect()].concat()
            }
            _ => Vec::new(),
        };
        if let Some(filter) = &join.filter {
            lowered = self.filter_by(filter, &join.schema, lowered)?;
        }
        Ok(Some(lowered))
    }

    fn limit(&mut self, limit: &Limit) -> Result<Option<Lowered>> {
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?) else {
            return Ok(None);
        };
        self.top_of(&limit.input, skip, fetch).map(Some)
    }

    /// A LIMIT over a plan: finds the ORDER BY that gives it meaning, through projections.
    fn top_of(&mut self, plan: &LogicalPlan, skip: usize, fetch: Option<usize>) -> Result<Lowered> {
        match plan {
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.top(&sort.input, &sort.expr, skip, fetch),
            LogicalPlan::Projection(projection) if below_projections(plan).is_some() => {
                let top = self.top_of(&projection.input, skip, fetch)?;
                // Over the window in place of over all rows.
                self.projection_over(projection, &top)
            }
            LogicalPlan::SubqueryAlias(alias) => self.top_of(&alias.input, skip, fetch),
            _ => self.top(plan, &[], skip, fetch),
        }
    }

    fn top(&mut self, plan: &LogicalPlan, order: &[SortExpr], skip: usize, fetch: Option<usize>) -> Result<Lowered> {
        let input = self.lower(plan)?;
        let width = input.schema.fields().len();
        let exprs: Vec<Expr> = order.iter().map(|sort| sort.expr.clone()).collect();
        let (sorted, columns) = self.columns_for(&input, &exprs, plan.schema())?;
        let by: Vec<(usize, SortOptions)> =
            columns.iter().zip(order).map(|(&column, sort)| (column, SortOptions::new(!sort.asc, sort.nulls_first))).collect();
        let shown: Vec<String> = order.iter().map(ToString::to_string).collect();
        let mut label = if shown.is_empty() { "top".to_owned() } else { format!("top by {}", shown.join(", ")) };
        if let Some(fetch) = fetch {
            label += &format!(" limit {fetch}");
        }
        if skip > 0 {
            label += &format!(" offset {skip}");
        }
        let operator = Top::new(Arc::clone(&sorted.schema), &by, skip, fetch)?;
        let node = self.program.add_operator(label, Cost::Delta, Arc::clone(&sorted.schema), vec![sorted.node], Box::new(operator));
        let top = Lowered { node, ..sorted };
        let mut lowered = self.pick(&top, &(0..width).collect::<Vec<_>>())?;
        lowered.key = input.key;
        lowered.order = shown_order(order, plan.schema());
        Ok(lowered)
    }

    /// One node recomputed by DataFusion over what its inputs became.
    fn whole(&mut self, plan: &LogicalPlan) -> Result<Lowered> {
        if matches!(plan, LogicalPlan::RecursiveQuery(_)) {
            return self.whole_with_tables(plan);
        }
        let inputs = plan.inputs().into_iter().map(|input| self.lower(input)).collect::<Result<Vec<_>>>()?;
        let leaves = plan.inputs().iter().enumerate().map(|(i, input)| Input::leaf(i, Arc::clone(input.schema()))).collect();
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
    fn whole_with_tables(&mut self, plan: &LogicalPlan) -> Result<Lowered> {
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
                Ok(Transformed::yes(Input::leaf(index, Arc::clone(node.schema()))))
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
        let planned = PlannedSubplan::new(subplan, Arc::clone(&schema), self.state.clone());
        let input_schemas: Vec<SchemaRef> = inputs.iter().map(|input| Arc::clone(&input.schema)).collect();
        try_subplan(&planned, &input_schemas)?;
        let operator = Whole::new(&input_schemas, Arc::clone(&schema), Box::new(planned))?;
        let nodes = inputs.iter().map(|input| input.node).collect();
        let node = self.program.add_operator(label, Cost::Whole, Arc::clone(&schema), nodes, Box::new(operator));
        Ok(Lowered::new(node, schema, key))
    }

    fn physical(&self, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn datafusion::physical_expr::PhysicalExpr>> {
        datafusion::physical_expr::create_physical_expr(expr, schema, self.state.execution_props(), &Default::default())
    }

    fn expr(&self, expr: &Expr, schema: &DFSchema) -> Result<Box<dyn pipeline::Expr>> {
        let data_type = datafusion::logical_expr::ExprSchemable::get_type(expr, schema)?;
        Ok(boxed(self.physical(expr, schema)?, data_type))
    }
}

struct Call {
    kind: AggregateKind,
    arguments: Vec<Expr>,
    filter: Option<Expr>,
}

/// An expression that fails over no rows at all fails for every row: that is a mistake in the query,
/// to be told when it is checked (`date_trunc('fortnight', at)`).
fn try_exprs(exprs: &[Box<dyn pipeline::Expr>], input: &SchemaRef) -> Result<()> {
    let nothing = arrow::array::RecordBatch::new_empty(Arc::clone(input));
    match exprs.iter().find_map(|expr| expr.evaluate(&nothing).err()) {
        Some(error) => Err(DataFusionError::Plan(error.0)),
        None => Ok(()),
    }
}

fn boxed(expr: Arc<dyn datafusion::physical_expr::PhysicalExpr>, data_type: DataType) -> Box<dyn pipeline::Expr> {
    Box::new(PlannedExpr::new(expr, data_type))
}

/// The unique columns of a join's output.
fn join_key(
    kind: JoinKind,
    (left, left_on): (&Lowered, &[usize]),
    (right, right_on): (&Lowered, &[usize]),
    left_width: usize,
    is_swapped: bool,
) -> Option<Vec<usize>> {
    let is_unique = |side: &Lowered, on: &[usize]| side.key.as_ref().is_some_and(|key| key.iter().all(|column| on.contains(column)));
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
fn below_projections(plan: &LogicalPlan) -> Option<&Sort> {
    match plan {
        LogicalPlan::Projection(projection) => below_projections(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => below_projections(&alias.input),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => Some(sort),
        _ => None,
    }
}

fn shown_order(order: &[SortExpr], schema: &DFSchema) -> Vec<SortedBy> {
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

fn is_summable(argument: &DataType, result: &DataType) -> bool {
    match result {
        DataType::Int64 | DataType::UInt64 => argument.is_integer(),
        DataType::Float64 => matches!(argument, DataType::Float32 | DataType::Float64),
        DataType::Decimal128(_, to) => matches!(argument, DataType::Decimal128(_, from) if from == to),
        _ => false,
    }
}

fn is_averageable(argument: &DataType, result: &DataType) -> bool {
    match result {
        DataType::Float64 => argument.is_integer() || matches!(argument, DataType::Float32 | DataType::Float64),
        DataType::Decimal128(_, to) => matches!(argument, DataType::Decimal128(_, from) if from <= to),
        _ => false,
    }
}

fn has_subquery(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_expressions(|expr| {
        expr.apply(|expr| {
            found |= matches!(
                expr,
                Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_) | Expr::OuterReferenceColumn(..)
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
    source_as_provider(&scan.source).map_or(true, |provider| (provider.as_ref() as &dyn Any).downcast_ref::<SourceTable>().is_none())
}

/// The plan's columns by their plain names, all nullable.
fn plain(schema: &DFSchema) -> SchemaRef {
    Arc::new(plain_arrow(schema))
}

fn plain_arrow(schema: &DFSchema) -> Schema {
    Schema::new(schema.fields().iter().map(|field| Field::new(field.name(), field.data_type().clone(), true)).collect::<Vec<_>>())
}
