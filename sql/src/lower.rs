//! A logical plan to a dataflow.
//!
//! Each node that the engine can maintain becomes one of the dataflow's; any other is recomputed
//! over what its inputs became, so that only that node is recomputed and not what lies below it.
//! Columns that are only picked or renamed cost nothing: they are a view of the node that has them,
//! so that whoever needs its rows by a key shares them, whatever columns each shows.

mod aggregate; // GROUP BY and its aggregate calls
mod join; // joins
mod keys; // what tells the rows of a plan apart
mod meaning; // equal expressions, equal texts
mod whole; // what only DataFusion's executor can answer

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::{
    Expr, ExprSchemable, FetchType, Filter as FilterPlan, Limit, LogicalPlan, Projection, SkipType, Union as UnionPlan,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, cast};
use pipeline::table::Identity;
use pipeline::{Dataflow, Input, NodeId};

pub use keys::SortedBy;

use crate::expr::PlannedExpr;
use keys::{below_projections, shown_order};
use meaning::{meaning_of, meaning_on};

/// What a plan became.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// Where its rows come out, and which columns there are its own.
    pub input: Input,
    /// Columns that tell its rows apart, when some are known to.
    pub key: Option<Vec<usize>>,
    /// The order at its top.
    pub order: Vec<SortedBy>,
    /// Pairs of columns that are equal in every row, since an inner join made them so: either may
    /// stand for the other in the key.
    equal: Vec<(usize, usize)>,
}

impl Lowered {
    fn width(&self) -> usize {
        self.input.columns.len()
    }

    /// The same rows by other columns: `place` tells where a column went, if it is still there.
    fn moved(&self, input: Input, place: impl Fn(usize) -> Option<usize>) -> Lowered {
        let of_key = |&column: &usize| {
            let twins =
                self.equal.iter().filter_map(|&(a, b)| if a == column { Some(b) } else { (b == column).then_some(a) });
            place(column).or_else(|| twins.into_iter().find_map(&place))
        };
        Lowered {
            input,
            key: self.key.as_ref().and_then(|key| key.iter().map(of_key).collect()),
            order: self
                .order
                .iter()
                .map_while(|by| Some(SortedBy { column: place(by.column)?, ..by.clone() }))
                .collect(),
            equal: self.equal.iter().filter_map(|&(a, b)| Some((place(a)?, place(b)?))).collect(),
        }
    }

    /// Columns by which people tell which row something failed at.
    fn shown_by(&self) -> Vec<usize> {
        self.key.clone().unwrap_or_else(|| (0..self.width()).collect())
    }
}

/// A dataflow in the making.
pub struct Lowering {
    pub dataflow: Dataflow,
    state: SessionState,
    tables: HashMap<String, Lowered>,
    /// Columns of a node by which people tell which row something failed at, where they are known.
    keys: HashMap<NodeId, Vec<usize>>,
    done: HashMap<LogicalPlan, Lowered>,
}

impl Lowering {
    pub fn new(state: SessionState) -> Lowering {
        Lowering {
            dataflow: Dataflow::default(),
            state,
            tables: HashMap::new(),
            keys: HashMap::new(),
            done: HashMap::new(),
        }
    }

    pub fn add_table(&mut self, name: &str, schema: SchemaRef, identity: Identity) {
        let key = identity.key().map(<[usize]>::to_vec);
        let node = self.dataflow.table(name, schema, identity);
        self.keys.extend(key.clone().map(|key| (node, key)));
        let table = self.all_of(node, key);
        self.tables.insert(name.to_owned(), table);
    }

    fn shown_by(&self, node: NodeId) -> Vec<usize> {
        self.keys.get(&node).cloned().unwrap_or_else(|| (0..self.dataflow.schema(node).fields().len()).collect())
    }

    fn all_of(&self, node: NodeId, key: Option<Vec<usize>>) -> Lowered {
        Lowered { input: self.dataflow.all_of(node), key, order: Vec::new(), equal: Vec::new() }
    }

    /// Lowers the plan of a projection. Its columns keep their names, without qualifiers, and must
    /// then be distinct.
    pub fn lower_projection(&mut self, name: &str, plan: &LogicalPlan) -> Result<Lowered> {
        let mut lowered = self.lower(plan)?;
        // A view further down may have been shared by one that calls its columns otherwise.
        lowered.input.schema = plain(plan.schema());
        let mut seen = BTreeSet::new();
        for field in lowered.input.schema.fields() {
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
            _ if whole::has_subquery(plan)? => self.whole_with_tables(plan)?,
            LogicalPlan::TableScan(scan) if scan.filters.is_empty() && scan.fetch.is_none() => {
                let Some(table) = self.tables.get(scan.table_name.table()).cloned() else {
                    return internal_err!("table {} was planned but never added", scan.table_name);
                };
                match &scan.projection {
                    None => table,
                    Some(columns) => pick(&table, columns)?,
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

    /// Computed columns over a node. Those that only repeat a column of it carry its key along.
    fn project(
        &mut self,
        label: String,
        input: &Lowered,
        schema: SchemaRef,
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        meaning: &str,
    ) -> Result<Lowered> {
        let columns: Vec<Option<usize>> = exprs.iter().map(as_column).collect();
        if let Some(picked) = columns.iter().copied().collect::<Option<Vec<_>>>() {
            let picked = pick(input, &picked)?;
            return Ok(Lowered { input: Input { schema, ..picked.input }, ..picked });
        }
        let exprs: Vec<Box<dyn pipeline::Expr>> = exprs
            .into_iter()
            .zip(schema.fields())
            .map(|(expr, field)| boxed(expr, field.data_type().clone()))
            .collect();
        try_exprs(&exprs, &input.input.schema)?;
        let node = self.dataflow.project(label, &input.input, Arc::clone(&schema), exprs, meaning, &input.shown_by());
        let all = Input { schema, ..self.dataflow.all_of(node) };
        Ok(input.moved(all, |column| columns.iter().position(|picked| *picked == Some(column))))
    }

    fn filter(&mut self, filter: &FilterPlan) -> Result<Lowered> {
        let input = self.lower(&filter.input)?;
        self.filter_by(&filter.predicate, filter.input.schema(), &input)
    }

    /// Over all columns of the input's node, whichever of them the input shows: who filters the same
    /// rows for other columns shares the filter, and whatever is kept of it.
    fn filter_by(&mut self, predicate: &Expr, schema: &DFSchema, input: &Lowered) -> Result<Lowered> {
        let on = self.dataflow.all_of(input.input.node);
        let expr = boxed(on_node(self.physical(predicate, schema)?, input)?, DataType::Boolean);
        try_exprs(std::slice::from_ref(&expr), &on.schema)?;
        let meaning = meaning_on(std::slice::from_ref(predicate), schema, &input.input.columns)?;
        let key = self.shown_by(input.input.node);
        let node = self.dataflow.filter(format!("filter {predicate}"), &on, expr, &meaning, &key);
        self.keys.insert(node, key);
        Ok(Lowered { input: Input { node, ..input.input.clone() }, ..input.clone() })
    }

    fn projection(&mut self, projection: &Projection) -> Result<Lowered> {
        let input = self.lower(&projection.input)?;
        self.projection_over(projection, &input)
    }

    fn projection_over(&mut self, projection: &Projection, input: &Lowered) -> Result<Lowered> {
        let schema = projection.input.schema();
        let exprs = projection.expr.iter().map(|expr| self.physical(expr, schema)).collect::<Result<Vec<_>>>()?;
        let meaning = meaning_of(&projection.expr, schema)?;
        self.project(format!("project {}", listed(&projection.expr)), input, plain(&projection.schema), exprs, &meaning)
    }

    fn union(&mut self, union: &UnionPlan) -> Result<Lowered> {
        let schema = plain(&union.schema);
        let mut inputs = Vec::new();
        for input in &union.inputs {
            let lowered = self.lower(input)?;
            let same =
                lowered.input.schema.fields().iter().zip(schema.fields()).all(|(a, b)| a.data_type() == b.data_type());
            inputs.push(if same { lowered.input } else { self.cast_to(&lowered, &schema)?.input });
        }
        let node = self.dataflow.union(&inputs, Arc::clone(&schema));
        let mut lowered = self.all_of(node, None);
        lowered.input.schema = schema;
        Ok(lowered)
    }

    fn cast_to(&mut self, input: &Lowered, schema: &SchemaRef) -> Result<Lowered> {
        let from = &input.input.schema;
        let exprs = from
            .fields()
            .iter()
            .zip(schema.fields())
            .enumerate()
            .map(|(column, (field, to))| cast(column_of(field, column), from, to.data_type().clone()))
            .collect::<Result<_>>()?;
        let types: Vec<String> = schema.fields().iter().map(|field| field.data_type().to_string()).collect();
        self.project("cast".to_owned(), input, Arc::clone(schema), exprs, &format!("cast {}", types.join(", ")))
    }

    /// Columns for these expressions: the input's own where they only repeat it, otherwise
    /// computed ones behind all of the input's. They are computed beside all columns of the node, so
    /// that who needs the same of other columns shares them.
    fn columns_for(&mut self, input: &Lowered, exprs: &[Expr], schema: &DFSchema) -> Result<(Lowered, Vec<usize>)> {
        let planned = exprs.iter().map(|expr| self.physical(expr, schema)).collect::<Result<Vec<_>>>()?;
        if let Some(columns) = planned.iter().map(as_column).collect::<Option<Vec<_>>>() {
            return Ok((input.clone(), columns));
        }
        let on = self.dataflow.all_of(input.input.node);
        let own: Vec<Field> = on.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut all: Vec<Arc<dyn PhysicalExpr>> =
            own.iter().enumerate().map(|(i, field)| column_of(field, i)).collect();
        let (mut columns, mut computed, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for (expr, logical) in planned.iter().zip(exprs) {
            if let Some(column) = as_column(expr) {
                columns.push(column);
                continue;
            }
            columns.push(input.width() + added.len());
            added.push(Field::new(logical.schema_name().to_string(), expr.data_type(&input.input.schema)?, true));
            all.push(on_node(Arc::clone(expr), input)?);
            computed.push(logical.clone());
        }
        let with = Arc::new(Schema::new([own.clone(), added.clone()].concat()));
        let exprs: Vec<Box<dyn pipeline::Expr>> =
            all.into_iter().zip(with.fields()).map(|(expr, field)| boxed(expr, field.data_type().clone())).collect();
        try_exprs(&exprs, &on.schema)?;
        let meaning = format!("all and {}", meaning_on(&computed, schema, &input.input.columns)?);
        let key = self.shown_by(input.input.node);
        let node = self.dataflow.project(format!("compute {}", listed(&computed)), &on, with, exprs, &meaning, &key);
        self.keys.insert(node, key);
        let view = Input {
            node,
            columns: input.input.columns.iter().copied().chain(own.len()..own.len() + added.len()).collect(),
            schema: Arc::new(Schema::new(
                input.input.schema.fields().iter().map(|field| field.as_ref().clone()).chain(added).collect::<Vec<_>>(),
            )),
        };
        Ok((Lowered { input: view, ..input.clone() }, columns))
    }

    fn limit(&mut self, limit: &Limit) -> Result<Option<Lowered>> {
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
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
        let exprs: Vec<Expr> = order.iter().map(|sort| sort.expr.clone()).collect();
        let (sorted, columns) = self.columns_for(&input, &exprs, plan.schema())?;
        let by: Vec<(usize, SortOptions)> = columns
            .iter()
            .zip(order)
            .map(|(&column, sort)| (column, SortOptions::new(!sort.asc, sort.nulls_first)))
            .collect();
        let mut label = if order.is_empty() { "top".to_owned() } else { format!("top by {}", listed(order)) };
        if let Some(fetch) = fetch {
            label += &format!(" limit {fetch}");
        }
        if skip > 0 {
            label += &format!(" offset {skip}");
        }
        let node = self.dataflow.top(label, &sorted.input, by, skip, fetch);
        let all = Input { schema: Arc::clone(&sorted.input.schema), ..self.dataflow.all_of(node) };
        let mut lowered = pick(&Lowered { input: all, ..sorted }, &(0..input.width()).collect::<Vec<_>>())?;
        lowered.key = input.key;
        lowered.order = shown_order(order, plan.schema());
        Ok(lowered)
    }

    fn physical(&self, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        let physical = datafusion::physical_expr::create_physical_expr(
            expr,
            schema,
            self.state.execution_props(),
            &Default::default(),
        )?;
        // A plan may promise a type that a kernel gives only by a cast.
        let (promised, given) = (expr.get_type(schema)?, physical.data_type(schema.as_arrow())?);
        if promised == given { Ok(physical) } else { cast(physical, schema.as_arrow(), promised) }
    }
}

/// As people write them.
fn listed<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Some columns of a node, in another order: a view, nothing that is computed.
fn pick(input: &Lowered, columns: &[usize]) -> Result<Lowered> {
    let view = Input {
        node: input.input.node,
        columns: columns.iter().map(|&column| input.input.columns[column]).collect(),
        schema: Arc::new(input.input.schema.project(columns)?),
    };
    Ok(input.moved(view, |column| columns.iter().position(|picked| *picked == column)))
}

/// An expression over the input's columns as one over those of its node.
fn on_node(expr: Arc<dyn PhysicalExpr>, input: &Lowered) -> Result<Arc<dyn PhysicalExpr>> {
    let moved = expr.transform(|part| {
        Ok(match as_column(&part) {
            Some(column) => {
                let place = input.input.columns[column];
                Transformed::yes(
                    Arc::new(Column::new(input.input.schema.field(column).name(), place)) as Arc<dyn PhysicalExpr>
                )
            }
            None => Transformed::no(part),
        })
    });
    Ok(moved?.data)
}

fn column_of(field: &Field, column: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(field.name(), column))
}

fn as_column(expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expr.downcast_ref::<Column>().map(Column::index)
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

fn boxed(expr: Arc<dyn PhysicalExpr>, data_type: DataType) -> Box<dyn pipeline::Expr> {
    Box::new(PlannedExpr::new(expr, data_type))
}

/// The plan's columns by their plain names, all nullable.
fn plain(schema: &DFSchema) -> SchemaRef {
    Arc::new(plain_arrow(schema))
}

fn plain_arrow(schema: &DFSchema) -> Schema {
    Schema::new(
        schema
            .fields()
            .iter()
            .map(|field| Field::new(field.name(), field.data_type().clone(), true))
            .collect::<Vec<_>>(),
    )
}
